"""FloydNet: a stack of pivotal attention blocks on the pairs of nodes of a graph.

Source: the paper "FloydNet: A Learning Paradigm for Global Relational Reasoning",
arXiv:2601.19094, and its authors' code, ocx-lab/FloydNet, commit e8b1088
(`example/common/model.py`).
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_option, check_positive, check_shape
from .._dtypes import at_least_float32
from .._params import params, static
from ..layers import MLPParams, mlp_apply, mlp_init
from ._floyd_block import FloydBlockParams, floyd_block_apply, floyd_block_init

READOUTS = ("graph", "node", "edge")


@params
class FloydNetParams:
    """Parameters of a FloydNet: the blocks are one object with a leading block axis."""

    embed: Array  # (channels, in_features)
    blocks: FloydBlockParams  # (num_blocks, ...) each
    head: MLPParams
    readout: str = static()


def floydnet_init(
    key: PRNGKeyArray,
    in_features: int,
    channels: int,
    out_features: int,
    *,
    num_blocks: int,
    num_heads: int,
    readout: str = "graph",
    order: int = 2,
    head_widths: Sequence[int] = (),
    symmetric_mix: bool | None = None,
    expansion: int | None = 4,
    norm: str = "affine",
    norm_position: str = "pre",
    bias: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> FloydNetParams:
    r"""Draws the parameters of a FloydNet.

    The embedding is standard normal, so that of one-hot features it is the authors'
    table of embeddings. Blocks are drawn as `floyd_block_init` says, so that those with
    norms in front are the identity at first. The head is drawn by `mlp_init` (the
    authors' is the identity matrix, or a network whose last layer is 0).

    Args:
        key: A random key.
        in_features: The number of features of a pair of nodes, $f$.
        channels: The number of channels of the state, $c$, a multiple of `num_heads`.
        out_features: The number of outputs.
        num_blocks: The number of blocks.
        num_heads: The number of attention heads.
        readout: What the outputs belong to: `"graph"`, `"node"` or `"edge"`.
        order: 2 for states of pairs of nodes, 3 for triples.
        head_widths: The widths of the hidden layers of the head; the authors' have four
            times `channels`.
        symmetric_mix: As for `floyd_block_init`, and so the other options.
        expansion: The width of the feed-forward networks over `channels`, or None.
        norm: `"affine"`, `"layer"`, `"rms"` or `"none"`.
        norm_position: `"pre"` or `"post"`.
        bias: Whether the linear layers of the blocks have biases.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `floydnet_apply`.

    Raises:
        ValueError: If a number or option is not as above.
        TypeError: If a number is not an int.
    """
    name = "floydnet_init"
    check_positive(
        name, in_features=in_features, out_features=out_features, num_blocks=num_blocks
    )
    check_option(name, "readout", readout, READOUTS)
    check_float_dtype(name, dtype)
    embed_key, blocks_key, head_key = jax.random.split(key, 3)
    init_block = functools.partial(
        floyd_block_init,
        channels=channels,
        num_heads=num_heads,
        order=order,
        symmetric_mix=symmetric_mix,
        expansion=expansion,
        norm=norm,
        norm_position=norm_position,
        bias=bias,
        dtype=dtype,
    )
    embed = jax.random.normal(
        embed_key, (channels, in_features), at_least_float32(dtype)
    )
    return FloydNetParams(
        embed=embed.astype(dtype),
        blocks=jax.vmap(init_block)(jax.random.split(blocks_key, num_blocks)),
        head=mlp_init(head_key, (channels, *head_widths, out_features), dtype=dtype),
        readout=readout,
    )


def floydnet_apply(
    params: FloydNetParams,
    x: Float[Array, "*nodes in_features"],
    *,
    node_mask: Bool[Array, " n"] | None = None,
    activation: Callable[[Array], Array] = jax.nn.silu,
    block_size: int | None = None,
    remat: bool = True,
) -> Float[Array, "*readout out_features"]:
    r"""Applies a FloydNet to one graph.

    $$h^0_{ik} = E x_{ik}, \qquad h^l = \mathrm{block}_l(h^{l-1}), \qquad
    g = \sum_{ik} h^L_{ik}, \quad v_i = \sum_k h^L_{ik} + h^L_{ki}, \quad
    e_{ik} = h^L_{ik}$$

    The head takes $g$, each $v_i$ or each $e_{ik}$, as `params.readout` says. Features
    $x_{ik}$ may be a one-hot code of the pair (no edge, an edge, one node), weights of
    edges, and features of both nodes. With a code that tells $i = k$, outputs
    distinguish the graphs that the two-dimensional folklore Weisfeiler-Leman test does;
    triples (`order=3`, $x_{ijk}$) those of the three-dimensional one.

    Compile time does not grow with the number of blocks. With `remat` the backward pass
    keeps one state a block and computes the rest again.

    The authors' diffusion inputs and dropout are not here. Their supernode is a node
    like any other, with features of its own.

    Args:
        params: Parameters from `floydnet_init`.
        x: Features of all pairs, shape `(n, n, f)`; of all triples, `(n, n, n, f)`.
        node_mask: True for nodes of the graph, False for padding, which changes nothing
            in the outputs of the others. Outputs of padding are those of a zero state.
        activation: The nonlinearity of the feed-forward networks and of the head.
        block_size: The number of pivots that are scored at a time, all by default; see
            `pivotal_attention`.
        remat: Whether each block is a `jax.checkpoint`.

    Returns:
        The outputs, shape `(out,)`, `(n, out)` or `(n, n, out)`, in the promoted dtype
        of `x` and `params`.

    Raises:
        ValueError: If a shape is not as above.
        TypeError: If `node_mask` is not boolean.

    Examples:
        >>> sizes = {"num_blocks": 2, "num_heads": 2}
        >>> params = floydnet_init(jax.random.key(0), 3, 8, 1, **sizes)
        >>> floydnet_apply(params, jnp.ones((5, 5, 3))).shape
        (1,)
    """
    name, features = "floydnet_apply", params.embed.shape[-1]
    order = (params.blocks.qkv.shape[1] - 1) // 2
    n = jnp.shape(x)[0] if jnp.ndim(x) else 0
    check_shape(name, "x", x, (*(n,) * order, features))
    mask = valid = None
    if node_mask is not None:
        check_shape(name, "node_mask", node_mask, (n,))
        if node_mask.dtype != bool:
            raise TypeError(
                f"{name}: `node_mask` must be boolean, got {node_mask.dtype}."
            )
        mask = node_mask.reshape((1,) * (order + 1) + (n,))
        valid = functools.reduce(
            jnp.logical_and, jnp.meshgrid(*[node_mask] * order, indexing="ij")
        )[..., None]

    def masked(h: Array) -> Array:
        return h if valid is None else jnp.where(valid, h, 0)

    def block(h: Array, block_params: FloydBlockParams) -> tuple[Array, None]:
        h = floyd_block_apply(
            block_params, h, mask=mask, activation=activation, block_size=block_size
        )
        return masked(h), None

    # A scan wants the dtype of its result from the start.
    x = jnp.asarray(x, jnp.result_type(x, *jax.tree.leaves(params)))
    h = masked(jnp.einsum("...f,cf->...c", x, params.embed))
    step = jax.checkpoint(block, prevent_cse=False) if remat else block
    h, _ = jax.lax.scan(step, h, params.blocks)

    kept = {"graph": [()], "node": [(m,) for m in range(order)]}.get(params.readout)
    if kept is not None:
        wide = at_least_float32(h.dtype)
        sums = [
            h.sum([m for m in range(order) if m not in axes], dtype=wide)
            for axes in kept
        ]
        h = sum(sums[1:], sums[0]).astype(h.dtype)
    head = functools.partial(mlp_apply, params.head, activation=activation)
    for _ in range(h.ndim - 1):
        head = jax.vmap(head)
    return head(h)
