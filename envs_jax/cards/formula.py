"""Formulas of the points games, worked out on the device: is this row of tokens a formula, and is it 24?

A token is an index into TOKENS: the numbers 1 to 10, six signs, and the blank that stands for a refused number.
Two readings of a row:

* plain: every number is a number of its own; the four basic operations, brackets, signs before a number. Values
  are fractions, so that 8 / (3 - 8 / 3) is 24. Blanks mean nothing.
* faithful: what Python's `eval` makes of the tokens written without spaces, as RL4VLM's gym-cards does
  (gym_cards/envs/points.py): "5" "5" is 55, "*" "*" a power, "/" "/" a floor division, blanks keep such
  neighbours apart, values are ints and float64, and 8 / (3 - 8 / 3) is 23.99999999999999.

The faithful reading is computed in float64 whatever `jax_enable_x64` says (CPUs and GPUs have it; a TPU only
something near it). Its limits:

* A value beyond 2**53 and a complex number are a failure at once. Three cards can make them, but no fourth one can
  bring them back to a target from 2 to 99, which is what the worlds accept.
* Numbers below 1e-307 may be 0; four cards have no use for the difference.
* The last bit of a power whose base or exponent is not whole is that of the device's `pow`: the same as Python's
  on a CPU as far as tests have gone, not proven elsewhere.

The parser is an operator-precedence machine ("shunting yard") with one action, shift or reduce, a turn.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

TOKENS = (*map(str, range(1, 11)), "+", "-", "*", "/", "(", ")", " ")
PLUS, MINUS, TIMES, OVER, OPEN, CLOSE, BLANK = range(10, 17)
# What the stack of operators holds: tokens, and what has no token of its own.
_POWER, _FLOOR, _PLUS_SIGN, _MINUS_SIGN = range(17, 21)
#               0..9      + - * / ( ) blank ** // signs
_PRECEDENCE = (*([0] * 10), 1, 1, 2, 2, 0, 0, 0, 4, 2, 3, 3)
_GREATEST = 2.0**53  # up to here every whole number is a float64


def equals(
    tokens: Int[Array, " n"], length: Int[Array, ""], target: int | Int[Array, ""], faithful: bool = False
) -> Bool[Array, ""]:
    """Whether a formula is one, and its value is the target.

    Worked example: ids of 8 / ( 3 - 8 / 3 ), length 9, target 24 -> True; faithful -> False.

    Args:
      tokens: int32[n], indices into TOKENS; with at most four numbers no fraction overflows int32.
      length: int32[], how many of them there are; 0 costs nothing. What follows is not read.
      target: a whole number.
      faithful: how the row is read, see the module.
    """
    if not faithful:
        return _run(tokens, length, target, _Fractions)
    with jax.enable_x64(True):
        return _run(tokens, length, target, _PythonNumbers)


class _Fractions:
    """Values as int32[2], numerator and denominator, not reduced: four numbers stay far below 2**31."""

    glues = False

    @staticmethod
    def number(token):
        return jnp.stack([token + 1, jnp.ones_like(token)]).astype(jnp.int32)

    @staticmethod
    def negative(a):
        return jnp.stack([-a[0], a[1]])

    @staticmethod
    def binary(sign, a, b):
        (p, q), (r, s) = a, b
        results = (
            (sign == PLUS, p * s + r * q, q * s),
            (sign == MINUS, p * s - r * q, q * s),
            (sign == TIMES, p * r, q * s),
        )
        over, under = p * s, q * r
        for chosen, above, below in results:
            over, under = jnp.where(chosen, above, over), jnp.where(chosen, below, under)
        return jnp.stack([over, under]), under != 0

    @staticmethod
    def equal(a, target):
        return a[0] == target * a[1]


class _PythonNumbers:
    """Values as float64[2]: the number, and 1 where Python has an int, 0 where it has a float."""

    glues = True

    @staticmethod
    def number(token):
        return jnp.stack([token + 1, jnp.ones_like(token)]).astype(jnp.float64)

    @staticmethod
    def glue(a, token):
        return a.at[0].set(a[0] * jnp.where(token == 9, 100, 10) + (token + 1))

    @staticmethod
    def negative(a):
        return jnp.stack([-a[0], a[1]])

    @staticmethod
    def binary(sign, a, b):
        x, y = a[0], b[0]
        ints = (a[1] != 0) & (b[1] != 0)
        whole_power = ints & (y >= 0)
        power = jnp.power(x, y)
        power = jnp.where(whole_power, jnp.round(power), power)
        value = power
        for other, result in (
            (PLUS, x + y),
            (MINUS, x - y),
            (TIMES, x * y),
            (OVER, x / y),
            (_FLOOR, _floor_division(x, y)),
        ):
            value = jnp.where(sign == other, result, value)
        stays_int = jnp.where(sign == _POWER, whole_power, ints & (sign != OVER))
        by_zero = ((sign == OVER) | (sign == _FLOOR)) & (y == 0) | (sign == _POWER) & (x == 0) & (y < 0)
        good = jnp.abs(value) < _GREATEST  # not NaN (a complex number), not infinite
        return jnp.stack([value, stays_int.astype(jnp.float64)]), good & ~by_zero

    @staticmethod
    def equal(a, target):
        return a[0] == target


def _floor_division(x, y):
    """Python's `//` of floats, which is exact for ints below 2**53, too: the remainder is exact, then rounding."""
    rest = lax.rem(x, y)
    quotient = (x - rest) / y
    quotient = quotient - ((rest != 0) & ((y < 0) != (rest < 0)))
    floor = jnp.floor(quotient)
    return floor + (quotient - floor > 0.5)


def _run(tokens, length, target, algebra) -> Bool[Array, ""]:
    size = len(tokens)
    tokens = tokens.astype(jnp.int32)
    slots = jnp.arange(size + 1, dtype=jnp.int32)
    precedence = jnp.asarray(_PRECEDENCE, jnp.int32)
    one = jnp.int32(1)

    def token_at(place):
        inside = (place >= 0) & (place < jnp.minimum(length, size))
        return jnp.where(inside, tokens[jnp.clip(place, 0, size - 1)], -1)

    def push(stack, count, item):
        at = (slots == count).reshape(-1, *[1] * (stack.ndim - 1))
        return jnp.where(at, item, stack)

    def turn(carry):
        at, signs, sign_count, values, count, operand, good, _ = carry
        token, after = token_at(at), token_at(at + 1)
        end = token < 0
        blank = token == BLANK
        number = (token >= 0) & (token < 10)
        binary = (token >= PLUS) & (token <= OVER)
        twice = (
            binary & (after == token) & ((token == TIMES) | (token == OVER)) if algebra.glues else binary & False
        )
        sign = jnp.where(twice, jnp.where(token == TIMES, _POWER, _FLOOR), token)

        # Reduce? Signs and powers wait for what is on their right, all others bind to the left.
        top = jnp.where(sign_count > 0, signs[jnp.maximum(sign_count - 1, 0)], OPEN)
        mine, rank = precedence[jnp.clip(sign, 0)], precedence[top]
        tighter = (rank > mine) | (rank == mine) & (sign != _POWER)
        reduce = (top != OPEN) & ~operand & ((token == CLOSE) | end | binary & tighter)
        second, first = values[jnp.maximum(count - 1, 0)], values[jnp.maximum(count - 2, 0)]
        prefix = (top == _PLUS_SIGN) | (top == _MINUS_SIGN)
        both, fine = algebra.binary(top, first, second)
        one_sided = jnp.where(top == _MINUS_SIGN, algebra.negative(second), second)
        reduced_count = jnp.where(prefix, count, count - 1)
        reduced = push(values, reduced_count - 1, jnp.where(prefix, one_sided, both))

        # Shift: what may stand here?
        glued = number & (token_at(at - 1) >= 0) & (token_at(at - 1) < 10) if algebra.glues else number & False
        closes = (token == CLOSE) & ~operand & (sign_count > 0)
        prefixes = operand & ((token == PLUS) | (token == MINUS))
        legal = jnp.where(operand, number | prefixes | (token == OPEN), glued | binary | closes)
        pushed_sign = jnp.where(prefixes, jnp.where(token == PLUS, _PLUS_SIGN, _MINUS_SIGN), sign)
        pushes = legal & ((token == OPEN) | binary)
        shifted_values = jnp.where(legal & number & ~glued, push(values, count, algebra.number(token)), values)
        if algebra.glues:
            shifted_values = jnp.where(
                legal & glued, push(values, count - 1, algebra.glue(second, token)), shifted_values
            )
        shift = ~reduce & ~blank
        finished = shift & end
        good = good & jnp.where(reduce, prefix | fine, blank | legal | (end & ~operand & (sign_count == 0)))
        next_operand = jnp.where(number | closes, False, True)
        return (
            jnp.where(reduce, at, at + jnp.where(twice & ~operand, 2, 1)).astype(jnp.int32),
            jnp.where(shift & pushes, push(signs, sign_count, pushed_sign), signs),
            (sign_count + jnp.where(shift & pushes, one, 0) - jnp.where(reduce | shift & closes, one, 0)),
            jnp.where(reduce, reduced, jnp.where(shift, shifted_values, values)),
            jnp.where(reduce, reduced_count, count + jnp.where(shift & legal & number & ~glued, one, 0)),
            jnp.where(reduce | blank, operand, next_operand),
            good,
            finished | ~good,
        )

    none = jnp.zeros_like(algebra.number(jnp.int32(0)))
    start = (
        jnp.int32(0),
        jnp.zeros(size + 1, jnp.int32),
        jnp.int32(0),
        jnp.broadcast_to(none, (size + 1, 2)),
        jnp.int32(0),
        jnp.bool_(True),
        length > 0,
        length <= 0,
    )
    # Every turn takes a token or an operator away, so there are at most 2 n + 1 of them.
    *_, values, _, _, good, _ = lax.while_loop(lambda carry: ~carry[-1], turn, start)
    return good & algebra.equal(values[0], target)
