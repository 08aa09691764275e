"""What a command's `--help` looks like: text that ends where the terminal does, and nowhere else."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field

import pytest

from experiments import compare, evaluate, export, fit, flags, run, serve
from experiments.bench import __main__ as bench


@dataclass(frozen=True)
class Inner:
    """Of the inner part."""

    few: int = 1
    """Few words."""
    many: int = 2
    """The first line of a docstring that goes on in
    the next one, which begins with a letter, and then in
    "another", which does not, and
    0 = nothing at all.

    Its second paragraph."""


@dataclass(frozen=True)
class Flags:
    """What is asked for."""

    name: str
    """Who asks."""
    inner: Inner = field(default_factory=Inner)


def shown(capsys, *arguments, **options) -> str:
    with pytest.raises(SystemExit) as caught:
        flags.read(Flags, "program", arguments, **options)
    assert caught.value.code == (0 if "--help" in arguments else 2)
    return "".join(capsys.readouterr())


def test_flags_change_what_there_is(capsys):
    assert flags.read(Flags, "program", ["--name", "x", "--inner.many", "5"]) == Flags("x", Inner(many=5))
    default = Flags("y", Inner(few=7))
    assert flags.read(Flags, "program", ["--inner.many", "5"], default=default) == Flags("y", Inner(7, 5))
    assert flags.read(Flags, "program", [], default=dataclasses.replace(default, name="z")).name == "z"
    assert "--name" in shown(capsys) and "--none" in shown(capsys, "--name", "x", "--none")


@pytest.mark.parametrize("columns", [50, 100])
def test_a_paragraph_of_help_ends_its_lines_where_the_terminal_does(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = shown(capsys, "--help")
    assert "What is asked for." in text
    rows = text.rpartition("--inner.many INT")[2].splitlines()
    rows = [row.strip("│") for row in rows]  # some versions draw boxes where there is no terminal, too
    room = columns - (len(rows[1]) - len(rows[1].lstrip()))
    first, second, *_ = "\n".join(row.strip() for row in rows).split("\n\n")
    lines = first.splitlines()
    assert " ".join(lines) == (
        "The first line of a docstring that goes on in the next one, which begins with a letter, and then in "
        '"another", which does not, and 0 = nothing at all.'
    )
    for line, following in itertools.pairwise(lines):
        assert len(line) + 1 + len(following.split()[0]) > room - 3, line
    assert second.startswith("Its second paragraph.")


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize(
    "main",
    [bench.main, compare.main, evaluate.main, export.main, fit.main, run.main, serve.main],
    ids=lambda main: main.__module__,
)
def test_the_help_of_every_command_fits_the_terminal(capsys, monkeypatch, main, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > columns] == [] and len(lines) > 10
    assert not any(one == two == "" for one, two in itertools.pairwise(lines))
