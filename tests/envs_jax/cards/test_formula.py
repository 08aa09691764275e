"""Formulas on the device against Python's own reading of them."""

import ast
import functools
import itertools
import operator
import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.cards import formula
from envs_jax.cards.formula import BLANK, CLOSE, MINUS, OPEN, OVER, PLUS, TIMES, TOKENS

SIZES = (6, 20)  # slots for tokens: what enumerations need, and what the worlds have
TARGETS = (2, 3, 12, 24, 55)

_PLAIN = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def python_faithful(tokens):
    """What gym-cards does: `eval` of the text; None where it raises."""
    text = "".join(TOKENS[token] for token in tokens)
    if text.count("**") > 1 or ("**" in text and len(text) > 14):
        return python_tower(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return eval(text, {"__builtins__": {}})
    except Exception:
        return None


def python_tower(text):
    """`eval` without waiting for whole numbers of a million digits: those count as None."""

    def value(node):
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.UnaryOp):
            return +value(node.operand) if isinstance(node.op, ast.UAdd) else -value(node.operand)
        if isinstance(node, ast.BinOp):
            a, b = value(node.left), value(node.right)
            if isinstance(node.op, ast.Pow):
                if abs(a) > 1 and abs(b) > 2000:
                    raise OverflowError
                return a**b
            return {**_PLAIN, ast.FloorDiv: operator.floordiv}[type(node.op)](a, b)
        raise TypeError(node)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return value(ast.parse(text.strip(), mode="eval").body)
    except Exception:
        return None


def python_plain(tokens):
    """Fractions over Python's own syntax tree, every number alone; None where it is no formula."""
    text = " ".join(TOKENS[token] for token in tokens if token != BLANK)

    def value(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        if isinstance(node, ast.UnaryOp):
            return +value(node.operand) if isinstance(node.op, ast.UAdd) else -value(node.operand)
        if isinstance(node, ast.BinOp):
            return _PLAIN[type(node.op)](value(node.left), value(node.right))
        raise TypeError(node)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return value(ast.parse(text, mode="eval").body)
    except (SyntaxError, TypeError, KeyError, ZeroDivisionError):
        return None


def on_the_device(formulas, targets, faithful):
    """bool[n], whether formula i equals targets[i]."""
    longest = max(map(len, formulas))
    rows = np.full((len(formulas), min(size for size in SIZES if size >= longest)), -1, np.int32)
    for row, tokens in zip(rows, formulas, strict=True):
        row[: len(tokens)] = tokens
    lengths = jnp.array([len(tokens) for tokens in formulas], jnp.int32)
    return np.asarray(compiled(faithful)(jnp.asarray(rows), lengths, jnp.asarray(targets, jnp.int32)))


@functools.cache
def compiled(faithful):
    return jax.jit(jax.vmap(lambda tokens, length, target: formula.equals(tokens, length, target, faithful)))


def compare(formulas, faithful, least=-1000):
    """Every formula is asked for its own value where that is a small whole number, and for another one."""
    reference = python_faithful if faithful else python_plain
    values = [reference(tokens) for tokens in formulas]
    near = []
    for i, value in enumerate(values):
        real = isinstance(value, int | float | Fraction) and abs(value) < 1000
        near.append(round(value) if real and round(value) >= least else TARGETS[i % len(TARGETS)])
    met = 0
    for shift in (0, 1):
        targets = [target + shift for target in near]
        got = on_the_device(formulas, targets, faithful)
        expected = np.array([value is not None and value == t for value, t in zip(values, targets, strict=True)])
        wrong = np.flatnonzero(got != expected)
        assert not wrong.size, [
            ("".join(TOKENS[token] for token in formulas[i]), values[i], targets[i]) for i in wrong[:10]
        ]
        met += expected.sum()
    return met


def ids(text):
    """ "8 / ( 3" -> token ids; "_" is the blank."""
    return tuple(TOKENS.index(" " if item == "_" else item) for item in text.split())


SIGNS = (PLUS, MINUS, TIMES, OVER, OPEN, CLOSE, BLANK)


EVERY_TOKEN = range(len(TOKENS))


@pytest.mark.parametrize("faithful", [False, True])
def test_every_formula_of_up_to_four_tokens_is_read_as_python_reads_it(faithful):
    """All 88,741 of them: ten numbers, six signs and the blank in every order."""
    formulas = [row for n in range(5) for row in itertools.product(EVERY_TOKEN, repeat=n)]
    assert len(formulas) == sum(17**n for n in range(5))
    assert compare(formulas, faithful) > 3_000


@pytest.mark.slow
@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("first", EVERY_TOKEN)
def test_every_formula_of_five_tokens_is_read_as_python_reads_it(first, faithful):
    """All 17**5, in parts by their first token, so that a part is held at once."""
    compare([(first, *row) for row in itertools.product(EVERY_TOKEN, repeat=4)], faithful)


@pytest.mark.slow
@pytest.mark.parametrize("faithful", [False, True])
def test_every_formula_of_six_tokens_with_one_number_is_read_as_python_reads_it(faithful):
    """Brackets in brackets, signs before brackets, powers of powers: the shapes that five tokens have no room for.

    The number is 2: of a 1 no power, of a larger one no tower of powers tells one order of them from another.
    """
    assert compare(list(itertools.product((1, *SIGNS), repeat=6)), faithful) > 300


def random_formula(random, faithful):
    """A formula with up to four numbers, often right, sometimes with one token changed."""

    def grow(numbers):
        if numbers == 1:
            text = [int(random.integers(10))]
        else:
            left = int(random.integers(1, numbers))
            signs = [[PLUS], [MINUS], [TIMES], [OVER]]
            if faithful:
                signs += [[TIMES, TIMES], [OVER, OVER], []]
            text = grow(left) + signs[random.integers(len(signs))] + grow(numbers - left)
        if random.random() < 0.3:
            text = [OPEN, *text, CLOSE]
        if random.random() < 0.15:
            text = [int(random.choice([PLUS, MINUS])), *text]
        return text

    text = grow(int(random.integers(1, 5)))
    if random.random() < 0.1:
        text[random.integers(len(text))] = int(random.integers(10, 17))
    if random.random() < 0.1:
        text.insert(int(random.integers(len(text) + 1)), BLANK)
    return tuple(text[: SIZES[-1]])


@pytest.mark.parametrize("faithful", [False, True])
def test_random_formulas_of_four_numbers_are_read_as_python_reads_them(faithful):
    # Targets from 2 on: to 0 and 1 there are ways through powers beyond 2**53, see the module's limits.
    random = np.random.default_rng(0)
    assert compare([random_formula(random, faithful) for _ in range(6000)], faithful, least=2) > 300


CASES = (  # formula, target, whether it comes to it: plain, faithful
    ("8 / ( 3 - 8 / 3 )", 24, True, False),
    ("5 5", 55, False, True),
    ("10 1", 101, False, True),
    ("2 * * 5 - 8", 24, False, True),
    ("- 2 * * 2", -4, False, True),
    ("2 * * - 1 * 4", 2, False, True),
    ("2 * * 3 * * 2", 512, False, True),
    ("7 / / 2", 3, False, True),
    ("- 7 / / 2", -4, False, True),
    ("5 _ 5", 55, False, False),
    ("2 * _ * 5", 32, False, False),
    ("_ 5 _ + 3", 8, True, True),
    ("5 ( 3 )", 15, False, False),
    ("( )", 0, False, False),
    ("3 - - 3", 6, True, True),
    ("3 / ( 2 - 2 )", 0, False, False),
    ("( 2 - 2 ) / 3 + 2", 2, True, True),
    ("( 3 + 2", 5, False, False),
    ("3 + 2 )", 5, False, False),
    ("1 / 3 * 3", 1, True, True),
    ("9 * * 9 * * 9 * * 9", 24, False, False),
    ("( - 8 ) * * ( 1 / 3 )", 2, False, False),
    ("", 0, False, False),
)


@pytest.mark.parametrize("faithful", [False, True])
def test_what_the_two_readings_make_of_a_formula(faithful):
    got = on_the_device([ids(case[0]) for case in CASES], [case[1] for case in CASES], faithful)
    assert got.tolist() == [case[3 if faithful else 2] for case in CASES]
