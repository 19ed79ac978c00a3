"""A picture of a KAN: its nodes, and on every edge the function that it has.

After the figures of Z. Liu et al., "KAN: Kolmogorov-Arnold Networks", arXiv:2404.19756.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._kan import Grid, KANParams
from ._kan_prune import activations, check_inputs

FAINT = 0.02  # opacity below which an edge is left out
SAMPLES = 300  # points of a curve
LAYER = 2.4  # inches: the height of a layer


def kan_plot(
    params: KANParams,
    x: Float[Array, "samples n_in"],
    *,
    grid: Grid = None,
    squash: Callable[[Array], Array] | None = None,
    names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    contrast: float = 3.0,
    axes: Any = None,
) -> Any:
    r"""Draws a network, inputs at the bottom, with the functions of its edges.

    A curve shows the values of an edge over the sample, each in a scale of its own; its
    opacity is $\tanh(\lambda N / N_{max})$ with the standard deviation $N$ of the edge
    over the sample and the largest in the layer, so that edges that were pruned are not
    seen. Lines lead from a node to the curve and on to the node that it is added to. A
    product is a node with a cross above its factors.

    Needs `matplotlib` (`pip install "jaxarch[symbolic]"`).

    Args:
        params: Parameters of a network.
        x: A sample of inputs, shape `(samples, n_in)`.
        grid: As in `kan_apply`.
        squash: As in `kan_apply`.
        names: The names of the inputs; None for $x_1$, $x_2$ and so on.
        output_names: The names of the outputs; None for $y_1$, or $y$ if it is alone.
        contrast: $\lambda$.
        axes: Axes of matplotlib to draw in; None for those of a new figure, as large as
            the network needs.

    Returns:
        The axes.

    Raises:
        ValueError: If `x` or `grid` does not fit `params`, or `names` or `output_names`
            has the wrong length.
    """
    import matplotlib.pyplot as plt

    where = "kan_plot"
    check_inputs(where, params, x, grid)
    sample = [
        tuple(np.asarray(a, np.float64) for a in pair)
        for pair in activations(params, jnp.asarray(x), grid, squash)
    ]
    widths = [edges.shape[1] for _, edges in sample]
    n_out = sample[-1][1].shape[2] - (params.arity - 1) * params.num_products[-1]
    widths.append(n_out)
    labels = {0: _names(where, "names", names, widths[0], "x")}
    labels[len(sample)] = _names(where, "output_names", output_names, n_out, "y")

    curves = max(edges[0].size for _, edges in sample)
    if axes is None:
        size = (min(max(4.0, 0.62 * curves), 16.0), LAYER * len(sample) + 0.6)
        axes = plt.figure(figsize=size).add_axes((0.02, 0.02, 0.96, 0.96))
    axes.set(xlim=(0, 1), ylim=(-0.15, len(sample) + 0.25))
    axes.axis("off")
    nodes = _spread(widths[0])
    for index, (inputs, edges) in enumerate(sample):
        _layer(axes, params, index, inputs, edges, nodes, contrast)
        nodes = _spread(widths[index + 1])
    for level, texts in labels.items():
        down = level == 0
        for place, text in zip(_spread(len(texts)), texts, strict=True):
            axes.annotate(
                text,
                (place, level),
                (0, -9 if down else 9),
                textcoords="offset points",
                ha="center",
                va="top" if down else "bottom",
            )
    return axes


def _layer(
    axes: Any,
    params: KANParams,
    index: int,
    inputs: np.ndarray,
    edges: np.ndarray,
    nodes: np.ndarray,
    contrast: float,
) -> None:
    """Curves and lines of one layer, and the nodes at both of its ends."""
    _, n_in, n_out = edges.shape
    products, arity = params.num_products[index], params.arity
    sums = n_out - products * arity
    above = _spread(sums + products)
    # Factors stand side by side below their product.
    apart = min(0.03, 0.5 / max(n_out, 1))
    offsets = (np.arange(arity) - (arity - 1) / 2) * apart
    ends = np.concatenate([above[:sums], (above[sums:, None] + offsets).ravel()])
    heights = np.where(np.arange(n_out) < sums, index + 1.0, index + 0.86)

    norms = np.where(np.isfinite(edges).all(0), edges.std(0), 0)
    opacity = np.tanh(contrast * norms / (norms.max() or 1.0))
    places = _spread(n_in * n_out).reshape(n_in, n_out)
    inches = axes.get_window_extent().width / axes.figure.dpi
    width = min(0.8 / (n_in * n_out), 0.9 / inches)
    low, high = index + 0.36, index + 0.60
    for i, o in np.argwhere(opacity > FAINT):
        strength, place = float(opacity[i, o]), places[i, o]
        style = {"color": "k", "alpha": strength, "linewidth": 0.8, "zorder": 1}
        axes.plot([nodes[i], place], [index, low], **style)
        axes.plot([place, ends[o]], [high, heights[o]], **style)
        inset = axes.inset_axes(
            (place - width / 2, low, width, high - low),
            transform=axes.transData,
            zorder=2,
        )
        order = np.argsort(inputs[:, i])
        order = order[np.linspace(0, len(order) - 1, SAMPLES).astype(int)]
        inset.plot(inputs[order, i], edges[order, i, o], "k", lw=1.3, alpha=strength)
        inset.margins(0.08, 0.12)
        inset.set(xticks=[], yticks=[])
        for spine in inset.spines.values():
            spine.set(alpha=max(0.25, strength), linewidth=0.6)
    for level, centers in ((index, nodes), (index + 1, above)):
        axes.plot(centers, np.full(len(centers), level), "ko", ms=5, zorder=3)
    for product in range(products):
        factors = slice(sums + product * arity, sums + (product + 1) * arity)
        center = above[sums + product]
        for end in ends[factors]:
            axes.plot([end, center], [index + 0.86, index + 1], "k", lw=0.8, zorder=1)
        axes.plot(ends[factors], np.full(arity, index + 0.86), "ko", ms=2.5, zorder=3)
        axes.plot(center, index + 1, "o", ms=13, mfc="w", mec="k", zorder=4)
        axes.plot(center, index + 1, "kx", ms=6, zorder=5)


def _spread(count: int) -> np.ndarray:
    """Places of so many things in a row of length 1."""
    return (np.arange(count) + 0.5) / count


def _names(
    where: str, argument: str, names: Sequence[str] | None, count: int, letter: str
) -> list[str]:
    if names is None:
        if letter == "y" and count == 1:
            return ["$y$"]
        return [f"${letter}_{{{i + 1}}}$" for i in range(count)]
    if len(names) != count:
        raise ValueError(
            f"{where}: `{argument}` must have {count} entries, got {len(names)}."
        )
    return list(names)
