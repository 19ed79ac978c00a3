"""Pivotal attention: each pair (or triple) of nodes attends over a pivot node.

Source: the paper "FloydNet: A Learning Paradigm for Global Relational Reasoning",
arXiv:2601.19094, and its authors' code, ocx-lab/FloydNet, commit e8b1088
(`pivotal_attention`, `pivotal_attention3`). The blocks of pivots use the running
maximum of M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax",
arXiv:1805.02867.
"""

import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from .._checks import check_positive, check_shape
from .._dtypes import at_least_float32

_AXES = "ijklmn"


def pivotal_attention(
    q: Float[Array, "*nodes heads dim"],
    keys: Sequence[Float[Array, "*nodes heads dim"]],
    values: Sequence[Float[Array, "*nodes heads dim"]],
    *,
    mask: Bool[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    scale: ArrayLike | None = None,
    softmax_cap: float | None = None,
    block_size: int | None = None,
) -> Float[Array, "*nodes heads dim"]:
    r"""Attends from each tuple of nodes over a pivot that replaces its nodes in turn.

    For pairs, with `keys = (k_jk, k_ij)` and `values = (v_jk, v_ij)`,

    $$s_{ikj} = \frac{q_{ik} \cdot k_{ij} + q_{ik} \cdot k_{jk}}{\sqrt{2 d}}, \qquad
    y_{ik} = \sum_j \operatorname{softmax}_j(s_{ikj}) \, (v_{ij} + v_{jk}),$$

    and so on: `keys[m]` and `values[m]` hold the tuples whose entry `m` is the pivot.
    For triples they are `(k_pjk, k_ipk, k_ijp)`, with $\sqrt{3 d}$; one node and one
    key array are ordinary attention. As the scale grows and $q \cdot k$ is minus a
    length, a layer is a min-plus product: see `compile_floyd_warshall`.

    Pairs of $n$ nodes cost time $O(n^3 h d)$ and, without `block_size`, memory
    $O(n^3 h)$ for the scores. With it the pivots are taken in blocks: the scores,
    whose blocks the backward pass computes again, take $O(n^2 h b)$, and it keeps one
    maximum a block, $O(n^3 h / b)$.

    The authors order the arrays `k_ij, k_jk`, have the heads in front, and a mask is
    True where a pivot is left out. There is no dropout of attention weights.

    Args:
        q: Queries of $r$-tuples, shape `(n_1, ..., n_r, heads, dim)`.
        keys: $r$ arrays; `keys[m]` has the shape of `q` with `pivots` in place of
            $n_m$.
        values: $r$ arrays of the shapes of `keys`.
        mask: True where a pivot takes part, of shape `(heads, n_1, ..., n_r, pivots)`
            or 1 in place of any of these. Where no pivot takes part, all have the same
            weight, as in the authors' code.
        bias: Is added to the scores after the cap; a shape as for `mask`. A pivot
            whose bias is -inf is masked.
        scale: The factor of the scores, $1 / \sqrt{r d}$ where not given.
        softmax_cap: $c$ in $s \leftarrow c \tanh(s / c)$, applied before mask and bias.
        block_size: $b$, the number of pivots that are scored at a time; all of them
            where not given. The first block has what is left over.

    Returns:
        The output, the shape of `q`, in the promoted dtype of `q`, `keys` and `values`.
        Scores, weights and sums are in float32 at least.

    Raises:
        ValueError: If a shape is not as above, or `block_size` is below 1, or
            `softmax_cap` is not above 0.
        TypeError: If `mask` is not boolean.

    Examples:
        >>> q = k_jk = k_ij = v_jk = v_ij = jnp.ones((5, 5, 2, 8))
        >>> pivotal_attention(q, (k_jk, k_ij), (v_jk, v_ij), block_size=2).shape
        (5, 5, 2, 8)
    """
    pivots = _check(q, keys, values, mask, bias, softmax_cap, block_size)
    order = len(keys)
    dtype = jnp.result_type(q, *keys, *values)
    if scale is None:
        scale = 1 / math.sqrt(order * q.shape[-1])
    wide = at_least_float32(dtype)
    q = (q.astype(wide) * jnp.asarray(scale, wide)).astype(dtype)
    # Heads in front are 1.2 to 1.5 times faster on a CPU: the products are batched.
    q, *arrays = (jnp.moveaxis(a, -2, 0) for a in (q, *keys, *values))
    arrays = (*arrays, mask, bias)
    axes = (*range(1, order + 1), *range(1, order + 1), order + 1, order + 1)
    attend = functools.partial(_attend, q, softmax_cap)

    if block_size is None or block_size >= pivots:
        _, total, out = attend(arrays, None)
    else:
        first = pivots % block_size or block_size
        on_axes = list(zip(arrays, axes, strict=True))
        head = [_first(a, axis, pivots, first) for a, axis in on_axes]
        tail = [_blocks(a, axis, pivots, first, block_size) for a, axis in on_axes]

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def step(carry, block):
            top, total, out = carry
            new_top, new_total, new_out = attend(block, top)
            shrink = jnp.exp(top - new_top)
            out = out * shrink[..., None] + new_out
            return (new_top, total * shrink + new_total, out), None

        carry = jax.checkpoint(attend)(head, None)
        (_, total, out), _ = jax.lax.scan(step, carry, tail)
    return jnp.moveaxis(out / total[..., None], 0, -2).astype(dtype)


def _attend(
    q: Array, softmax_cap: float | None, block: Sequence, top: Array | None
) -> tuple[Array, Array, Array]:
    r"""Sums over a block of pivots, relative to the largest score so far.

    Returns `(top, total, out)`: the largest of `top` and the scores, $\sum_p e^{s_p -
    top}$, both `(heads, *nodes)`, and $\sum_p e^{s_p - top} v_p$, `(heads, *nodes,
    dim)`. Their ratio does not depend on `top`, so no gradient goes through it.
    """
    *keys_and_values, mask, bias = block
    order = len(keys_and_values) // 2
    keys, values = keys_and_values[:order], keys_and_values[order:]
    x = _AXES[:order]
    pivoted = [x[:m] + "p" + x[m + 1 :] for m in range(order)]
    wide = at_least_float32(q.dtype)

    def sums(spec: str, a: Array, arrays: Sequence[Array]) -> Array:
        terms = [
            jnp.einsum(spec.replace("y", y), a, b, preferred_element_type=wide)
            for y, b in zip(pivoted, arrays, strict=True)
        ]
        return functools.reduce(operator.add, terms)

    s = sums(f"h{x}d,hyd->h{x}p", q, keys)
    if softmax_cap is not None:
        s = softmax_cap * jnp.tanh(s / softmax_cap)
    lowest = 0.5 * float(jnp.finfo(wide).min)  # finite: a row may have no pivot
    if bias is not None:
        s = jnp.maximum(s + bias.astype(wide), lowest)
    if mask is not None:
        s = jnp.where(mask, s, lowest)
    largest = s.max(-1)
    top = jax.lax.stop_gradient(largest if top is None else jnp.maximum(top, largest))
    weights = jnp.exp(s - top[..., None])
    total = weights.sum(-1)
    weights = weights.astype(q.dtype)
    out = sums(f"h{x}p,hyd->h{x}d", weights, values)
    return top, total, out


def _first(a: Array | None, axis: int, pivots: int, first: int) -> Array | None:
    """The first pivots of `a`."""
    if a is None or a.shape[axis] != pivots:
        return a
    return jax.lax.slice_in_dim(a, 0, first, axis=axis)


def _blocks(
    a: Array | None, axis: int, pivots: int, first: int, block_size: int
) -> Array | None:
    """The other pivots of `a` in blocks, along a new leading axis."""
    if a is None:
        return None
    num_blocks = (pivots - first) // block_size
    if a.shape[axis] != pivots:
        return jnp.broadcast_to(a[None], (num_blocks, *a.shape))
    a = jax.lax.slice_in_dim(a, first, pivots, axis=axis)
    shape = (*a.shape[:axis], num_blocks, block_size, *a.shape[axis + 1 :])
    return jnp.moveaxis(a.reshape(shape), axis, 0)


def _check(q, keys, values, mask, bias, softmax_cap, block_size) -> int:
    """Checks the arguments and returns the number of pivots."""
    name, order = "pivotal_attention", jnp.ndim(q) - 2
    if not 1 <= order <= len(_AXES):
        raise ValueError(
            f"{name}: `q` must have shape (n_1, ..., n_r, heads, dim) with r from 1 to "
            f"{len(_AXES)}, got {jnp.shape(q)}."
        )
    for what, arrays in (("keys", keys), ("values", values)):
        if len(arrays) != order:
            raise ValueError(
                f"{name}: `{what}` must have {order} arrays, one for each node of a "
                f"tuple of `q`, got {len(arrays)}."
            )
    pivots = jnp.shape(keys[0])[0] if jnp.ndim(keys[0]) else 0
    for what, arrays in (("keys", keys), ("values", values)):
        for m, array in enumerate(arrays):
            shape = (*q.shape[:m], pivots, *q.shape[m + 1 :])
            check_shape(name, f"{what}[{m}]", array, shape)
    full = (q.shape[-2], *q.shape[:order], pivots)
    for what, array in (("mask", mask), ("bias", bias)):
        if array is None:
            continue
        shape = jnp.shape(array)
        if len(shape) != len(full) or any(
            n not in (1, m) for n, m in zip(shape, full, strict=True)
        ):
            raise ValueError(
                f"{name}: `{what}` must have shape {full}, or 1 in place of any of "
                f"these, got {shape}."
            )
    if mask is not None and mask.dtype != bool:
        raise TypeError(
            f"{name}: `mask` must be boolean, got {mask.dtype}; numbers to add to the "
            "scores are `bias`."
        )
    if softmax_cap is not None and not softmax_cap > 0:
        raise ValueError(f"{name}: `softmax_cap` must be above 0, got {softmax_cap}.")
    if block_size is not None:
        check_positive(name, block_size=block_size)
    return pivots
