"""The block of FloydNet: pivotal attention and a feed-forward network on pairs.

Source: the paper "FloydNet: A Learning Paradigm for Global Relational Reasoning",
arXiv:2601.19094, and its authors' code, ocx-lab/FloydNet, commit e8b1088
(`PivotalAttentionBlock`).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_option, check_positive
from .._dtypes import at_least_float32
from .._params import params, static
from ._pivotal_attention import pivotal_attention

NORMS = ("affine", "layer", "rms", "none")
NORM_POSITIONS = ("pre", "post")
_EPS = 1e-5


@params
class FloydBlockParams:
    """Parameters of one block on $r$-tuples of nodes with $c$ = `heads * dim` channels.

    The rows of `qkv` are the query, then the keys and then the values, each in the
    order of `pivotal_attention`. What a block does not have is None.
    """

    mix: Array | None  # (c, c)
    mix_bias: Array | None  # (c,)
    qkv: Array  # (2 r + 1, heads, dim, c)
    qkv_bias: Array | None  # (2 r + 1, heads, dim)
    project: Array  # (c, heads, dim)
    project_bias: Array | None  # (c,)
    expand: Array | None  # (expansion * c, c)
    expand_bias: Array | None  # (expansion * c,)
    contract: Array | None  # (c, expansion * c)
    contract_bias: Array | None  # (c,)
    contract_scale: Array | None  # ()
    norm_scales: tuple[Array | None, ...]  # two, (c,) each
    norm_biases: tuple[Array | None, ...]  # two, (c,) each
    norm: str = static()
    norm_position: str = static()


def floyd_block_init(
    key: PRNGKeyArray,
    channels: int,
    *,
    num_heads: int,
    order: int = 2,
    symmetric_mix: bool | None = None,
    expansion: int | None = 4,
    norm: str = "affine",
    norm_position: str = "pre",
    bias: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> FloydBlockParams:
    r"""Draws the parameters of a block.

    The weights of queries, keys, values and of the first feed-forward layer are
    uniform with Xavier's limit $\sqrt{6 / (n_{in} + n_{out})}$, queries, keys and
    values counted as one layer. The last layer of each branch and the symmetric mix
    are 0, so that a block with `norm_position="pre"` is the identity at first.

    Args:
        key: A random key.
        channels: $c$, a multiple of `num_heads`.
        num_heads: The number of attention heads.
        order: $r$: 2 for pairs of nodes, 3 for triples.
        symmetric_mix: Whether the block also sees the transposed pairs; for pairs only,
            and there by default.
        expansion: The width of the feed-forward network over $c$; None for none.
        norm: `"affine"` (a scale and a bias without statistics), `"layer"`, `"rms"` or
            `"none"`.
        norm_position: `"pre"` or `"post"`.
        bias: Whether the linear layers have biases.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `floyd_block_apply`.

    Raises:
        ValueError: If `channels` is not a multiple of `num_heads`, if `symmetric_mix`
            is asked for with another order than 2, or if a number or option is not as
            above.
        TypeError: If a number is not an int.
    """
    name = "floyd_block_init"
    check_positive(name, channels=channels, num_heads=num_heads, order=order)
    check_option(name, "norm", norm, NORMS)
    check_option(name, "norm_position", norm_position, NORM_POSITIONS)
    check_float_dtype(name, dtype)
    if channels % num_heads:
        raise ValueError(
            f"{name}: `channels` must be a multiple of `num_heads` = {num_heads}, got "
            f"{channels}."
        )
    if symmetric_mix and order != 2:
        raise ValueError(
            f"{name}: `symmetric_mix` needs pairs (`order=2`), got `order={order}`."
        )
    symmetric_mix = order == 2 if symmetric_mix is None else symmetric_mix
    if expansion is not None:
        check_positive(name, expansion=expansion)

    qkv_key, expand_key = jax.random.split(key)
    heads = (num_heads, channels // num_heads)

    def xavier(key: PRNGKeyArray, *shape: int) -> Array:
        limit = math.sqrt(6 / (math.prod(shape[:-1]) + shape[-1]))
        wide = at_least_float32(dtype)
        return jax.random.uniform(key, shape, wide, -limit, limit).astype(dtype)

    def zeros(*shape: int, when: bool = True) -> Array | None:
        return jnp.zeros(shape, dtype) if when else None

    ffn, hidden = expansion is not None, (expansion or 0) * channels
    has_norm = (norm != "none", norm != "none" and ffn)
    return FloydBlockParams(
        mix=zeros(channels, channels, when=symmetric_mix),
        mix_bias=zeros(channels, when=symmetric_mix and bias),
        qkv=xavier(qkv_key, 2 * order + 1, *heads, channels),
        qkv_bias=zeros(2 * order + 1, *heads, when=bias),
        project=jnp.zeros((channels, *heads), dtype),
        project_bias=zeros(channels, when=bias),
        expand=xavier(expand_key, hidden, channels) if ffn else None,
        expand_bias=zeros(hidden, when=ffn and bias),
        contract=zeros(channels, hidden, when=ffn),
        contract_bias=zeros(channels, when=ffn and bias),
        contract_scale=jnp.ones((), dtype) if ffn else None,
        norm_scales=tuple(jnp.ones(channels, dtype) if h else None for h in has_norm),
        norm_biases=tuple(zeros(channels, when=h and norm != "rms") for h in has_norm),
        norm=norm,
        norm_position=norm_position,
    )


def floyd_block_apply(
    params: FloydBlockParams,
    x: Float[Array, "*nodes channels"],
    *,
    mask: Bool[Array, "..."] | None = None,
    activation: Callable[[Array], Array] = jax.nn.silu,
    block_size: int | None = None,
) -> Float[Array, "*nodes channels"]:
    r"""Applies a block to the state of one graph.

    With $\tilde x_{ik} = x_{ik} + M x_{ki}$, $A$ `pivotal_attention` between linear
    layers and $F$ a network of two layers, the block with norms in front is

    $$x \leftarrow x + A(N_1(\tilde x)), \qquad x \leftarrow x + \alpha F(N_2(x)),$$

    and with norms behind, where the authors' code scales the norm and not the branch,

    $$x \leftarrow N_1(x + A(\tilde x)), \qquad x \leftarrow \alpha N_2(x + F(x)).$$

    Defaults here and in `floyd_block_init` are those of the authors' model; their block
    alone has layer norms and ReLU.

    Args:
        params: Parameters from `floyd_block_init`.
        x: The state, shape `(n, n, c)` for pairs, `(n, n, n, c)` for triples.
        mask: The mask of `pivotal_attention`, `(heads, n, ..., n, pivots)` or 1 in
            place of any of these.
        activation: The nonlinearity of the feed-forward network.
        block_size: The number of pivots that are scored at a time, all by default.

    Returns:
        The new state, the shape of `x`, in the promoted dtype of `x` and `params`.

    Raises:
        ValueError: If `x` has another shape than above.

    Examples:
        >>> params = floyd_block_init(jax.random.key(0), 8, num_heads=2)
        >>> floyd_block_apply(params, jnp.ones((5, 5, 8))).shape
        (5, 5, 8)
    """
    order, channels = (params.qkv.shape[0] - 1) // 2, params.qkv.shape[-1]
    shape = jnp.shape(x)
    if len(shape) != order + 1 or shape[-1] != channels or len({*shape[:-1]}) != 1:
        nodes = ", ".join("n" * order)
        raise ValueError(
            f"floyd_block_apply: `x` must have shape ({nodes}, {channels}) (one graph; "
            f"use jax.vmap for a batch), got {shape}."
        )
    x = jnp.asarray(x, jnp.result_type(x, *jax.tree.leaves(params)))

    def norm(layer: int, x: Array) -> Array:
        scale, bias = params.norm_scales[layer], params.norm_biases[layer]
        return _norm(params.norm, x, scale, bias)

    def attention(x: Array) -> Array:
        qkv = jnp.einsum("...c,thdc->t...hd", x, params.qkv)
        if params.qkv_bias is not None:
            shape = (-1, *(1,) * order, *params.qkv_bias.shape[1:])
            qkv = qkv + params.qkv_bias.reshape(shape)
        q, keys, values = qkv[0], qkv[1 : order + 1], qkv[order + 1 :]
        y = pivotal_attention(
            q, tuple(keys), tuple(values), mask=mask, block_size=block_size
        )
        return _add(
            jnp.einsum("...hd,chd->...c", y, params.project), params.project_bias
        )

    def feed_forward(x: Array) -> Array:
        h = activation(_linear(params.expand, params.expand_bias, x))
        return _linear(params.contract, params.contract_bias, h)

    mixed = x
    if params.mix is not None:
        mixed = x + _linear(params.mix, params.mix_bias, x.swapaxes(0, 1))
    if params.norm_position == "pre":
        x = x + attention(norm(0, mixed))
        if params.contract_scale is not None:
            x = x + params.contract_scale * feed_forward(norm(1, x))
        return x
    x = norm(0, x + attention(mixed))
    if params.contract_scale is not None:
        x = params.contract_scale * norm(1, x + feed_forward(x))
    return x


def _add(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + jnp.broadcast_to(bias, x.shape)


def _linear(weight: Array | None, bias: Array | None, x: Array) -> Array:
    assert weight is not None
    return _add(jnp.einsum("...c,dc->...d", x, weight), bias)


def _norm(kind: str, x: Array, scale: Array | None, bias: Array | None) -> Array:
    if scale is None:
        return x
    wide = x.astype(at_least_float32(x.dtype))
    if kind == "layer":
        wide = wide - wide.mean(-1, keepdims=True)
    if kind in ("layer", "rms"):
        wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + _EPS)
    return _add(wide.astype(x.dtype) * jnp.broadcast_to(scale, x.shape), bias)
