r"""What the edges of a KAN contribute: norms, a regulariser, and pruning.

Sources: Z. Liu et al., "KAN: Kolmogorov-Arnold Networks", arXiv:2404.19756, section
2.5.1 (sparsification and pruning); Z. Liu et al., "KAN 2.0: Kolmogorov-Arnold Networks
Meet Science", arXiv:2408.10205 (product nodes), and the authors' code, pykan 0.2.8, for
what the papers leave open.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._checks import check_option, check_shape
from .._dtypes import at_least_float32
from ._kan import Grid, KANParams, layers_and_knots, multiply
from ._kan_layer import KANLayerParams, check_sample, kan_layer_edges

STATISTICS = ("std", "mean_abs", "relative_std")
INPUT_FLOOR = 0.1  # what pykan adds to the standard deviation of an input


def kan_edge_norms(
    params: KANParams,
    x: Float[Array, "samples n_in"],
    *,
    grid: Grid = None,
    squash: Callable[[Array], Array] | None = None,
    statistic: str = "std",
) -> tuple[Array, ...]:
    r"""Measures how much the function on every edge varies over a sample.

    With $\phi_{nio}$ the value of an edge for sample $n$ and $h_{ni}$ its input:

    | `statistic` | |
    | --- | --- |
    | `"std"` | $\operatorname{std}_n \phi_{nio}$, as pykan's code draws and prunes by |
    | `"mean_abs"` | $\frac1N \sum_n \lvert\phi_{nio}\rvert$, as in the paper |
    | `"relative_std"` | $\operatorname{std}_n \phi_{nio} / (\operatorname{std}_n h_{ni} + 0.1)$, pykan's `acts_scale` |

    Standard deviations have $N - 1$ below the sum. A constant function has no `"std"`,
    which is why it is the default: what is constant belongs into a bias. Gradients are
    finite there too.

    Args:
        params: Parameters of a network.
        x: A sample of inputs, shape `(samples, n_in)`.
        grid: As in `kan_apply`.
        squash: As in `kan_apply`.
        statistic: The norm.

    Returns:
        For each layer, the norms of its edges, shape `(in, out)`, where `out` counts
        every factor of a product.

    Raises:
        ValueError: If `x` or `grid` does not fit `params`, or `statistic` is unknown.

    Examples:
        >>> from jaxarch.layers import kan_init
        >>> params = kan_init(jax.random.key(0), (2, 5, 1))
        >>> [norms.shape for norms in kan_edge_norms(params, jnp.ones((7, 2)))]
        [(2, 5), (5, 1)]
    """  # noqa: E501
    where = "kan_edge_norms"
    check_option(where, "statistic", statistic, STATISTICS)
    check_inputs(where, params, x, grid)
    return _measured(params, x, grid, squash, statistic)[0]


def kan_regularizer(
    norms: Sequence[Float[Array, "n_in n_out"]],
    *,
    l1: float = 1.0,
    entropy: float = 2.0,
) -> Float[Array, ""]:
    r"""Computes the penalty that makes a network sparse, from the norms of its edges.

    $$\sum_l \lambda_1 \sum_{io} N_{io} + \lambda_S \Bigl(
    \frac1{n_{out}} \sum_{o} H\Bigl(\frac{N_{\cdot o}}{1 + \sum_i N_{io}}\Bigr) +
    \frac1{n_{in}} \sum_{i} H\Bigl(\frac{N_{i \cdot}}{1 + \sum_o N_{io}}\Bigr)\Bigr),
    \qquad H(p) = -\sum p \log_2(p + 10^{-4})$$

    The paper's entropy is over all edges of a layer at once; this is that of its code,
    over the edges into and out of each node, which is finite for a layer of zeros.

    Args:
        norms: From `kan_edge_norms`, for each layer.
        l1: $\lambda_1$.
        entropy: $\lambda_S$.

    Returns:
        The penalty, a scalar.

    Raises:
        ValueError: If `norms` is empty.
    """
    if not norms:
        raise ValueError("kan_regularizer: `norms` must have an entry for each layer.")

    def entropies(shares: Array) -> Array:
        return -jnp.sum(shares * jnp.log2(shares + 1e-4))

    dtype = jnp.result_type(*norms)
    total = jnp.zeros((), at_least_float32(dtype))
    for norm in norms:
        norm = norm.astype(total.dtype)
        n_in, n_out = norm.shape
        into = entropies(norm / (1 + norm.sum(0, keepdims=True))) / n_out
        out_of = entropies(norm / (1 + norm.sum(1, keepdims=True))) / n_in
        total = total + l1 * norm.sum() + entropy * (into + out_of)
    return total.astype(dtype)


def kan_mask(
    params: KANParams, edges: Sequence[Bool[Array, "n_in n_out"]]
) -> KANParams:
    """Sets the functions of some edges to zero, and with it their gradients.

    To train a pruned network, minimise a loss of `kan_mask(params, report["edges"])`:
    an edge that was removed stays so.

    Args:
        params: Parameters of a network.
        edges: For each layer, which edges to keep, shape `(in, out)`.

    Returns:
        Parameters of the same shapes.

    Raises:
        ValueError: If `edges` does not fit `params`.
    """
    where = "kan_mask"
    if len(edges) != len(params.layers):
        raise ValueError(
            f"{where}: `edges` must have one entry for each of {len(params.layers)} "
            f"layers, got {len(edges)}."
        )
    layers = []
    for index, (layer, keep) in enumerate(zip(params.layers, edges, strict=True)):
        check_shape(where, f"edges[{index}]", keep, layer.coefficients.shape[1:])
        keep = jnp.asarray(keep, bool)
        residual = layer.residual
        layers.append(
            dataclasses.replace(
                layer,
                coefficients=jnp.where(keep[None], layer.coefficients, 0),
                residual=None if residual is None else jnp.where(keep, residual, 0),
            )
        )
    return dataclasses.replace(params, layers=tuple(layers))


def kan_prune(
    params: KANParams,
    x: Float[Array, "samples n_in"],
    *,
    edge_threshold: float = 3e-2,
    node_threshold: float = 1e-2,
    grid: Grid = None,
    squash: Callable[[Array], Array] | None = None,
    statistic: str = "std",
) -> tuple[KANParams, Grid, dict[str, Any]]:
    r"""Removes the edges and hidden nodes that contribute little.

    An edge goes if its norm is at most `edge_threshold`. A hidden node goes if
    $\min(\max_i N_{i\cdot}, \max_o N_{\cdot o})$, over the edges into it (into any of
    its factors, if it is a product) and out of it, is at most `node_threshold`; its
    edges go with it, and so on until nothing changes.

    Whatever goes is replaced by its mean over the sample, which enters the bias of its
    target. So edges that are zero or constant, and nodes that only such ones enter or
    leave, can be removed without a change of the output. A layer without a bias gets
    one where the means are not zero.

    Inputs and outputs stay, and one node of every hidden layer, so that no layer is
    ever empty; the output of a network all of whose edges went is its mean. Removed
    edges between remaining nodes are zeros in the parameters: see `kan_mask` to keep
    them so.

    This reads values, on the host: it cannot be traced. An edge whose values are not
    finite counts as zero.

    Args:
        params: Parameters of a network.
        x: A sample of inputs, shape `(samples, n_in)`.
        edge_threshold: For edges. The default is that of the authors' code.
        node_threshold: For nodes, likewise.
        grid: As in `kan_apply`.
        squash: As in `kan_apply`.
        statistic: The norm, as in `kan_edge_norms`.

    Returns:
        The parameters of the smaller network, its grid (None if `grid` is None), and a
        report with an entry for each layer: `"nodes"`, the indices of the remaining
        nodes after it; `"edges"`, which edges between these remain, for `kan_mask`;
        `"norms"`, those of all edges before, as NumPy arrays.

    Raises:
        ValueError: If `x` or `grid` does not fit `params`, or `statistic` is unknown.

    Examples:
        >>> from jaxarch.layers import kan_init
        >>> params = kan_init(jax.random.key(0), (2, 5, 1))
        >>> x = jax.random.uniform(jax.random.key(1), (50, 2))
        >>> smaller, _, report = kan_prune(params, x, node_threshold=0.05)
        >>> len(report["nodes"][0]) == smaller.layers[1].coefficients.shape[1]
        True
    """
    where = "kan_prune"
    check_option(where, "statistic", statistic, STATISTICS)
    check_inputs(where, params, x, grid)
    measured = _measured(params, x, grid, squash, statistic)
    norms, means = ([_finite(a) for a in arrays] for arrays in measured)
    groups = [_groups(params, index) for index in range(len(norms))]
    alive = [norm > edge_threshold for norm in norms]
    kept = _remove_nodes(norms, alive, groups, node_threshold)

    inputs = np.arange(norms[0].shape[0])
    layers, grids, products, edges, nodes = [], [], [], [], []
    pairs = layers_and_knots(where, params, grid)
    for index, (layer, knots) in enumerate(pairs):
        outputs = np.concatenate([groups[index][node] for node in kept[index]])
        constant = np.where(alive[index], 0, means[index]).sum(0)
        layers.append(_selected(layer, alive[index], constant, inputs, outputs))
        grids.append(None if knots is None else jnp.asarray(knots)[inputs])
        edges.append(alive[index][np.ix_(inputs, outputs)])
        nodes.append(tuple(int(node) for node in kept[index]))
        products.append(sum(len(groups[index][node]) > 1 for node in kept[index]))
        inputs = kept[index]
    smaller = dataclasses.replace(
        params, layers=tuple(layers), num_products=tuple(products)
    )
    report = {"nodes": tuple(nodes), "edges": tuple(edges), "norms": tuple(norms)}
    return smaller, None if grid is None else tuple(grids), report


def check_inputs(where: str, params: KANParams, x: Array, grid: Grid) -> None:
    """Raises `ValueError` unless `x` is a sample of inputs and `grid` fits."""
    check_sample(where, x, params.layers[0].coefficients.shape[1])
    layers_and_knots(where, params, grid)


@functools.partial(jax.jit, static_argnums=3)
def activations(
    params: KANParams,
    x: Array,
    grid: Grid,
    squash: Callable[[Array], Array] | None,
) -> list[tuple[Array, Array]]:
    """The nodes before each layer, and the values of its edges, over a sample."""

    def one(x: Array) -> list[tuple[Array, Array]]:
        found = []
        for index, (layer, knots) in enumerate(layers_and_knots("", params, grid)):
            h = x if squash is None else squash(x)
            edges = kan_layer_edges(layer, h, grid=knots)
            found.append((x, edges))
            y = edges.sum(0) if layer.bias is None else edges.sum(0) + layer.bias
            x = multiply(y, params.num_products[index], params.arity)
        return found

    return jax.vmap(one)(x)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _measured(
    params: KANParams,
    x: Array,
    grid: Grid,
    squash: Callable[[Array], Array] | None,
    statistic: str,
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """The norms and the means of the edges of each layer."""
    norms, means = [], []
    for sample in activations(params, x, grid, squash):
        dtype = sample[1].dtype
        inputs, edges = (a.astype(at_least_float32(dtype)) for a in sample)
        norm = jnp.mean(jnp.abs(edges), 0) if statistic == "mean_abs" else _std(edges)
        if statistic == "relative_std":
            norm = norm / (_std(inputs)[:, None] + INPUT_FLOOR)
        norms.append(norm.astype(dtype))
        means.append(edges.mean(0).astype(dtype))
    return tuple(norms), tuple(means)


def _std(values: Array) -> Array:
    """Standard deviation over the sample; its gradient is 0 where it is 0."""
    count = max(len(values) - 1, 1)
    variance = jnp.sum((values - values.mean(0, keepdims=True)) ** 2, 0) / count
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)


def _finite(values: Array) -> np.ndarray:
    wide = np.asarray(values, np.float64)
    return np.where(np.isfinite(wide), wide, 0)


def _groups(params: KANParams, index: int) -> list[np.ndarray]:
    """For each node after a layer, the outputs that are its factors."""
    n_out, products = params.layers[index].coefficients.shape[2], params.num_products
    first = n_out - params.arity * products[index]
    factors = np.arange(first, n_out).reshape(products[index], params.arity)
    return [*np.arange(first)[:, None], *factors]


def _remove_nodes(
    norms: list[np.ndarray],
    alive: list[np.ndarray],
    groups: list[list[np.ndarray]],
    threshold: float,
) -> list[np.ndarray]:
    """The nodes that stay after each layer; edges of the others die in `alive`."""
    hidden = range(len(norms) - 1)
    removed = True
    while removed:
        removed = False
        live = [np.where(a, n, 0) for a, n in zip(alive, norms, strict=True)]
        kept = []
        for layer in hidden:
            incoming = np.array([live[layer][:, g].max() for g in groups[layer]])
            score = np.minimum(incoming, live[layer + 1].max(1))
            stays = score > threshold
            for node in np.flatnonzero(~stays):
                factors = alive[layer][:, groups[layer][node]]
                removed |= bool(factors.any() or alive[layer + 1][node].any())
                alive[layer][:, groups[layer][node]] = False
                alive[layer + 1][node] = False
            kept.append(np.flatnonzero(stays) if stays.any() else np.array([0]))
    return [*kept, np.arange(len(groups[-1]))]


def _selected(
    layer: KANLayerParams,
    alive: np.ndarray,
    constant: np.ndarray,
    inputs: np.ndarray,
    outputs: np.ndarray,
) -> KANLayerParams:
    """Some inputs and outputs of a layer, dead edges as zeros, constants as bias."""
    keep = jnp.asarray(alive[np.ix_(inputs, outputs)])
    dtype = layer.coefficients.dtype
    coefficients = layer.coefficients[:, inputs][:, :, outputs]
    residual, bias = layer.residual, layer.bias
    if residual is not None:
        residual = jnp.where(keep, residual[inputs][:, outputs], 0)
    shift = jnp.asarray(constant[outputs], dtype)
    if bias is not None:
        bias = bias[outputs] + shift
    elif constant[outputs].any():
        bias = shift
    return dataclasses.replace(
        layer,
        coefficients=jnp.where(keep[None], coefficients, 0),
        residual=residual,
        bias=bias,
    )
