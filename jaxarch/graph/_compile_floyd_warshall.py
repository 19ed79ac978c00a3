"""Floyd-Warshall's shortest paths as the parameters of a FloydNet.

Sources: R. W. Floyd, "Algorithm 97: Shortest Path", Communications of the ACM 5 (1962);
FloydNet, arXiv:2601.19094, whose attention is a soft form of its inner step. The
parameters are ours.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from .._checks import check_float_dtype, check_positive
from .._dtypes import at_least_float32
from ..layers import MLPParams
from ._floyd_block import FloydBlockParams
from ._floydnet import FloydNetParams

_DISTANCE, _ONE, _SELF = range(3)
_CHANNELS, _HEADS = 4, 2


def compile_floyd_warshall(
    num_nodes: int, *, scale: ArrayLike, dtype: DTypeLike = jnp.float32
) -> FloydNetParams:
    r"""Makes a FloydNet that computes the lengths of all shortest paths.

    Its pairs have three features: $(w_{ik}, 1, \delta_{ik})$, with $w_{ik}$ the length
    of the edge from $i$ to $k$, $w_{ii} = 0$, and a number larger than any path where
    there is no edge. Each block is a soft min-plus square of the lengths,

    $$d_{ik} \leftarrow \sum_j \operatorname{softmax}_j(-\beta (d_{ij} + d_{jk}))
    \, (d_{ij} + d_{jk}),$$

    which allows twice as many edges: $T = \lceil \log_2(n - 1) \rceil$ blocks are
    enough, where Floyd-Warshall takes the $n$ pivots one after the other. One head
    computes this; another, whose pivot is $k$ itself, gives $-d_{ik}$, which cancels
    the residual.

    **Error.** A softmax average is above the minimum by at most $\log(n) / \beta$, and
    a block doubles the error before it, so in exact arithmetic

    $$0 \le \hat d_{ik} - d_{ik} \le (2^T - 1) \log(n) / \beta .$$

    Where all lengths are multiples of $\delta$ the error falls as $n \delta e^{-\beta
    \delta}$. Rounding adds a few units in the last place of the largest length.
    Edges may be directed or negative; a negative cycle has no shortest paths. Without
    negative edges a pair that no path joins keeps the number of a missing edge, up to
    the error above.

    Args:
        num_nodes: The number of nodes $n$; graphs with fewer may be padded by
            `node_mask`, or run as they are.
        scale: $\beta$, the inverse temperature, in units of one over a length.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `floydnet_apply`, which gives $\hat d$ as `(n, n, 1)`.

    Raises:
        ValueError: If `num_nodes` is below 1 or `dtype` is not a floating dtype.
        TypeError: If `num_nodes` is not an int.

    Examples:
        >>> from jaxarch.graph import floydnet_apply
        >>> w = jnp.asarray([[0.0, 1.0, 9.0], [9.0, 0.0, 2.0], [9.0, 9.0, 0.0]])
        >>> x = jnp.stack([w, jnp.ones_like(w), jnp.eye(3)], -1)
        >>> params = compile_floyd_warshall(3, scale=50.0)
        >>> round(float(floydnet_apply(params, x)[0, 2, 0]), 4)
        3.0
    """
    check_positive("compile_floyd_warshall", num_nodes=num_nodes)
    check_float_dtype("compile_floyd_warshall", dtype)
    num_blocks = max(1, (num_nodes - 2).bit_length())
    dim = _CHANNELS // _HEADS
    minimum, copy = range(_HEADS)
    query, key_jk, key_ij, value_jk, value_ij = range(5)

    qkv = np.zeros((5, _HEADS, dim, _CHANNELS))
    qkv[key_jk, minimum, 0, _DISTANCE] = qkv[key_ij, minimum, 0, _DISTANCE] = -1
    qkv[value_jk, minimum, 0, _DISTANCE] = qkv[value_ij, minimum, 0, _DISTANCE] = 1
    qkv[key_jk, copy, 0, _SELF] = 1
    qkv[value_ij, copy, 0, _DISTANCE] = -1
    # The attention divides by sqrt(2 dim). A score of `certain` for the pivot k leaves
    # the others a weight that underflows to zero.
    wide = at_least_float32(dtype)
    certain = -2 * math.log(jnp.finfo(wide).tiny)
    qkv[query, copy, 0, _ONE] = math.sqrt(2 * dim) * certain
    qkv = jnp.asarray(qkv, wide)
    beta = jnp.asarray(scale, wide) * math.sqrt(2 * dim)
    qkv = qkv.at[query, minimum, 0, _ONE].set(beta).astype(dtype)

    project = np.zeros((_CHANNELS, _HEADS, dim))
    project[_DISTANCE, :, 0] = 1

    def stack(a: ArrayLike):
        a = jnp.asarray(a, dtype)
        return jnp.broadcast_to(a, (num_blocks, *a.shape))

    blocks = FloydBlockParams(
        mix=None,
        mix_bias=None,
        qkv=stack(qkv),
        qkv_bias=None,
        project=stack(project),
        project_bias=None,
        expand=None,
        expand_bias=None,
        contract=None,
        contract_bias=None,
        contract_scale=None,
        norm_scales=(None, None),
        norm_biases=(None, None),
        norm="none",
        norm_position="pre",
    )
    head = jnp.zeros((1, _CHANNELS), dtype).at[0, _DISTANCE].set(1)
    return FloydNetParams(
        embed=jnp.eye(_CHANNELS, 3, dtype=dtype),
        blocks=blocks,
        head=MLPParams(weights=(head,), biases=(None,)),
        readout="edge",
    )
