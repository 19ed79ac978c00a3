r"""Attention as an integral: sums over tokens with quadrature weights.

N. Kovachki et al., "Neural Operator: Learning Maps Between Function Spaces",
arXiv:2108.08481, section 5.2 (softmax attention as a kernel integral), and S. Cao,
"Choose a Transformer: Fourier or Galerkin", arXiv:2105.14995, section 3 (Galerkin and
Fourier types), with the weights of J. Berner et al., arXiv:2506.10973, section 3.
Without weights a place counts by how many points happen to lie there.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    check_float_dtype,
    check_option,
    check_positive,
    check_rank,
    check_shape,
)
from .._dtypes import at_least_float32, float_dtype
from .._params import params, static

KINDS = ("softmax", "galerkin", "fourier")


@params
class AttentionIntegralParams:
    """The projections of multi-head attention between functions."""

    query: Array  # (in, heads, dim)
    key: Array  # (in, heads, dim)
    value: Array  # (in, heads, dim)
    output: Array  # (heads, dim, out)
    kind: str = static()


def attention_integral(
    q: Float[Array, "queries heads dim"],
    k: Float[Array, "points heads dim"],
    v: Float[Array, "points heads dim_v"],
    weights: Float[Array, " points"],
    *,
    kind: str = "softmax",
) -> Float[Array, "queries heads dim_v"]:
    r"""Attends from functions at queries to functions at points.

    With the quadrature weights $w_j$ and their sum $|w|$:

    | `kind` | $v(x_i)$ |
    | --- | --- |
    | `"softmax"` | $\sum_j w_j e^{q_i \cdot k_j / \sqrt d} v_j / \sum_j w_j e^{q_i \cdot k_j / \sqrt d}$ |
    | `"galerkin"` | $q_i^\top \sum_j w_j \tilde k_j \tilde v_j^\top / \lvert w \rvert$ |
    | `"fourier"` | $\sum_j w_j (\tilde q_i \cdot \tilde k_j) v_j / \lvert w \rvert$ |

    where a tilde is a normalisation over the features of each head, to mean 0 and
    variance 1. The Galerkin type is linear in the number of points.

    Args:
        q: Queries, shape `(queries, heads, dim)`.
        k: Keys, shape `(points, heads, dim)`.
        v: Values, shape `(points, heads, dim_v)`.
        weights: $w$, shape `(points,)`; a point with weight 0 does not count.
        kind: As above.

    Returns:
        The output, shape `(queries, heads, dim_v)`; 16-bit inputs are taken to float32.

    Raises:
        ValueError: If shapes or options do not fit.

    Examples:
        >>> q = jnp.ones((5, 2, 4))
        >>> attention_integral(q, q, q, jnp.full(5, 0.2)).shape
        (5, 2, 4)
    """  # noqa: E501
    where = "attention_integral"
    check_option(where, "kind", kind, KINDS)
    check_rank(where, "k", k, 3, "(points, heads, dim)")
    for name, array, shape in (
        ("q", q, (*jnp.shape(q)[:1], *k.shape[1:])),
        ("v", v, (*k.shape[:2], *jnp.shape(v)[2:3])),
        ("weights", weights, k.shape[:1]),
    ):
        check_shape(where, name, array, shape)
    dtype = float_dtype(q, k, v, weights)
    q, k, v, w = (jnp.asarray(a, at_least_float32(dtype)) for a in (q, k, v, weights))
    if kind == "softmax":
        scores = jnp.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
        # A point without weight must not set the scale of the others, nor overflow.
        scores = jnp.where((w != 0)[None, None], scores, -jnp.inf)
        scores = scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))
        measure = w[None, None] * jnp.exp(scores)
        measure = measure / measure.sum(-1, keepdims=True)
        return jnp.einsum("hij,jhd->ihd", measure, v).astype(dtype)
    w, k = w / w.sum(), _normalise(k)
    if kind == "galerkin":
        moments = jnp.einsum("j,jhd,jhe->hde", w, k, _normalise(v))
        return jnp.einsum("ihd,hde->ihe", q, moments).astype(dtype)
    scores = jnp.einsum("ihd,jhd->hij", _normalise(q), k)
    return jnp.einsum("hij,j,jhd->ihd", scores, w, v).astype(dtype)


def attention_integral_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    *,
    num_heads: int = 4,
    head_dim: int | None = None,
    kind: str = "softmax",
    dtype: DTypeLike = jnp.float32,
) -> AttentionIntegralParams:
    r"""Draws the projections of multi-head attention, $\mathcal N(0, 1 / n_{in})$ each.

    Args:
        key: A random key.
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        num_heads: The number of heads.
        head_dim: The features of a head; `in_channels / num_heads` if None.
        kind: As in `attention_integral`.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `attention_integral_apply`.

    Raises:
        ValueError: If a number or option is not as above, or `in_channels` is not a
            multiple of `num_heads` without `head_dim`.
        TypeError: If a number is not an int.
    """
    where = "attention_integral_init"
    sizes = {"in_channels": in_channels, "out_channels": out_channels}
    check_positive(where, **sizes, num_heads=num_heads)
    check_option(where, "kind", kind, KINDS)
    check_float_dtype(where, dtype)
    if head_dim is None:
        if in_channels % num_heads:
            raise ValueError(
                f"{where}: `num_heads` must divide `in_channels`, {in_channels}, "
                f"without a `head_dim`, got {num_heads}."
            )
        head_dim = in_channels // num_heads
    check_positive(where, head_dim=head_dim)
    keys = jax.random.split(key, 4)

    def draw(key: PRNGKeyArray, fan_in: int, *shape: int) -> Array:
        a = jax.random.normal(key, shape, at_least_float32(dtype))
        return (a / math.sqrt(fan_in)).astype(dtype)

    into = in_channels, in_channels, num_heads, head_dim
    return AttentionIntegralParams(
        query=draw(keys[0], *into),
        key=draw(keys[1], *into),
        value=draw(keys[2], *into),
        output=draw(keys[3], num_heads * head_dim, num_heads, head_dim, out_channels),
        kind=kind,
    )


def attention_integral_apply(
    params: AttentionIntegralParams,
    u: Float[Array, "points n_in"],
    weights: Float[Array, " points"],
    *,
    at: Float[Array, "queries n_in"] | None = None,
) -> Float[Array, "queries n_out"]:
    r"""Attends from a function to itself, or from another one to it.

    $$q = a\, W_q, \quad k = u\, W_k, \quad v = u\, W_v, \qquad
      \text{attention\_integral}(q, k, v, w)\, W_o$$

    Coordinates of the points, or an encoding of them, belong among the channels.

    Args:
        params: Parameters from `attention_integral_init`.
        u: The function at the points, shape `(points, n_in)`; for a grid
            `u.reshape(-1, n_in)`.
        weights: The quadrature weight of each point, shape `(points,)`.
        at: The function $a$ whose points ask; `u` if None.

    Returns:
        The output, shape `(queries, n_out)`.

    Raises:
        ValueError: If shapes do not fit.

    Examples:
        >>> params = attention_integral_init(jax.random.key(0), 8, 8)
        >>> attention_integral_apply(params, jnp.ones((5, 8)), jnp.full(5, 0.2)).shape
        (5, 8)
    """
    where = "attention_integral_apply"
    channels = params.query.shape[0]
    a = u if at is None else at
    check_shape(where, "u", u, (*jnp.shape(u)[:1], channels))
    check_shape(where, "at", a, (*jnp.shape(a)[:1], channels))
    check_shape(where, "weights", weights, jnp.shape(u)[:1])
    q = jnp.einsum("ic,chd->ihd", a, params.query)
    k = jnp.einsum("jc,chd->jhd", u, params.key)
    v = jnp.einsum("jc,chd->jhd", u, params.value)
    out = attention_integral(q, k, v, weights, kind=params.kind)
    return jnp.einsum("ihd,hdo->io", out, params.output)


def _normalise(x: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5)
