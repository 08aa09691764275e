"""Products of a layer: with its weights, and with an adapter's beside them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jaxtyping import Array, DTypeLike, Float


def times(
    x: Float[Array, "*b i"], weight: Float[Array, "o i"], dtype: DTypeLike | None = None
) -> Float[Array, "*b o"]:
    """x W^T, as a product of two matrices; the result in `dtype`, None = that of the factors.

    With more axes it is the same number; but its derivative by the weight would sum over several axes, for which a
    CPU first turns both factors around, which takes as long as the product.
    """
    y = jnp.einsum("ni,oi->no", x.reshape(-1, x.shape[-1]), weight, preferred_element_type=dtype)
    return y.reshape(*x.shape[:-1], -1)


def times_adapted(
    x: Float[Array, "*b i"],
    weights: Sequence[Float[Array, "_ i"]],
    lows: Sequence[Float[Array, "_ i"]],
    ups: Sequence[Float[Array, "_ _"]],
) -> list[Float[Array, "*b _"]]:
    """x W^T + (x A^T) B^T for layers of one input, with A of `lows` and B of `ups`.

    There are as few passes over what is wide as can be. A product with B is narrow work and a wide result, which
    then has to be added: in a large model's update that takes a tenth of the time. So whichever of input and
    outputs is wider is written, or read, by one product. For two layers, A being A_1 above A_2:

        out > in:   y_1 = [x | x A^T] [W_1 | B_1 0]^T, y_2 = [x | x A^T] [W_2 | 0 B_2]^T
        in >= out:  dx = [dy_1 | dy_2 | dy_1 B_1 | dy_2 B_2] [W_1 above W_2 above A], and x A^T comes with x W^T

    Args:
      weights, lows, ups: [out, in], [rank, in] and [out, rank] of each layer; all out > in, or none.
    """
    ys = _times_adapted(x.reshape(-1, x.shape[-1]), tuple(weights), tuple(lows), tuple(ups))
    return [y.reshape(*x.shape[:-1], -1) for y in ys]


@jax.custom_vjp
def _times_adapted(x, weights, lows, ups):
    return _adapted(x, weights, lows, ups)[0]


def _adapted(x, weights, lows, ups):
    """(every y, x A^T)."""
    if _widen(weights):
        narrow = times(x, jnp.concatenate(lows))
        wide = jnp.concatenate([x, narrow], axis=1)
        return [times(wide, joined) for joined in _beside(weights, ups)], narrow
    both = times(x, jnp.concatenate([*weights, *lows]))
    *ys, narrow = _split(both, [len(weight) for weight in weights])
    parts = _split(narrow, [len(low) for low in lows[:-1]])
    return [y + times(part, up) for y, part, up in zip(ys, parts, ups, strict=True)], narrow


def _adapted_forward(x, weights, lows, ups):
    learns_weight = [weight.perturbed for weight in weights]
    x, weights, lows, ups = jax.tree.map(
        lambda leaf: leaf.value, (x, weights, lows, ups), is_leaf=lambda leaf: isinstance(leaf, CustomVJPPrimal)
    )
    ys, narrow = _adapted(x, weights, lows, ups)
    for_weights = [(x,) if learns else () for learns in learns_weight]  # frozen, as a rule
    return ys, (x, weights, lows, ups, narrow, for_weights)


def _adapted_backward(kept, gradients):
    x, weights, lows, ups, narrow, for_weights = kept
    gradients = [jnp.zeros(g.shape, g.dtype) if isinstance(g, SymbolicZero) else g for g in gradients]
    low = jnp.concatenate(lows)
    if _widen(weights):
        both = sum(g @ joined for g, joined in zip(gradients, _beside(weights, ups), strict=True))
        into_x, into_narrow = _split(both, [x.shape[1]])
        into_x = into_x + into_narrow @ low
    else:
        into_narrow = jnp.concatenate([g @ up for g, up in zip(gradients, ups, strict=True)], axis=1)
        into_x = jnp.concatenate([*gradients, into_narrow], axis=1) @ jnp.concatenate([*weights, low])

    def towards(y, x):
        return jnp.einsum("no,ni->oi", y, x)

    ranks = [len(low) for low in lows[:-1]]
    into_weights = tuple(
        towards(g, *kept) if kept else None for g, kept in zip(gradients, for_weights, strict=True)
    )
    into_lows = _split(towards(into_narrow, x), ranks, axis=0)
    into_ups = [towards(g, part) for g, part in zip(gradients, _split(narrow, ranks), strict=True)]
    return into_x, into_weights, tuple(into_lows), tuple(into_ups)


def _widen(weights):
    return all(outputs > inputs for outputs, inputs in (weight.shape for weight in weights))


def _beside(weights, ups):
    """[W_i | B_i] of each layer, B_i in its own of the columns of all ranks.

    Worked example, the second of two layers of rank 1: [W | 0 B].
    """
    ranks = [up.shape[1] for up in ups]
    before = [sum(ranks[:number]) for number in range(len(ranks))]
    return [
        jnp.concatenate([weight, jnp.pad(up, ((0, 0), (at, sum(ranks) - at - rank)))], axis=1)
        for weight, up, at, rank in zip(weights, ups, before, ranks, strict=True)
    ]


def _split(x, sizes, axis=1):
    """Parts of these sizes, and the rest."""
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return jnp.split(x, ends, axis=axis)


_times_adapted.defvjp(_adapted_forward, _adapted_backward, symbolic_zeros=True)
