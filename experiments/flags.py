"""A command's flags, read by tyro from a dataclass: each field is one, and its docstring the flag's help.

* tyro keeps a docstring's line breaks where the next line is indented, as those of fields are, and breaks lines
  anew where the terminal ends. Here a paragraph is one line to begin with.
* What stands above the flags tyro does not break at all: see `description`.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

Kind = TypeVar("Kind")
LEAST_COLUMNS = 40  # of a terminal, as tyro has it
REGISTRY = ConstructorRegistry()
_asked: list[StructTypeInfo] = []


def read(
    kind: type[Kind],
    program: str,
    arguments: Sequence[str],
    description: str | None = None,
    default: Kind = tyro.MISSING_NONPROP,
) -> Kind:
    """What the command line says.

    Args:
      kind: a dataclass.
      program: as it was called, for messages.
      arguments: of the command line.
      description: what stands above the flags in `--help`; None = the dataclass's docstring.
      default: what the flags change; fields without a default have to be given where there is none.

    Raises:
      SystemExit: `--help` (code 0), or a flag that is wrong by itself (code 2, told on standard error).
    """
    return tyro.cli(
        kind, prog=program, description=description, args=arguments, default=default, registry=REGISTRY
    )


def description(*lines: str) -> str:
    """Lines that stand above the flags: what is too long for the terminal goes on in the next, further in."""
    width = max(LEAST_COLUMNS, shutil.get_terminal_size().columns)
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False) for line in lines
    )


@REGISTRY.struct_rule
def _flowing(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A dataclass as tyro has it, but for the line breaks in the help of its fields."""
    if not dataclasses.is_dataclass(info.type) or any(asked is info for asked in _asked):
        return None
    _asked.append(info)  # by this rule, which asks all others
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _asked.pop()
    fields = (dataclasses.replace(field, helptext=_joined(field.helptext)) for field in spec.fields)
    return dataclasses.replace(spec, fields=tuple(fields))


def _joined(told: str | Callable[[], str | None] | None) -> Callable[[], str | None]:
    """Help, or what will give it, with a paragraph on a line."""

    def text() -> str | None:
        found = told() if callable(told) else told
        return found and "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", found))

    return text
