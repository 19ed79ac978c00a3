r"""Kolmogorov-Arnold networks, with the product nodes of MultKAN.

Sources: Z. Liu et al., "KAN: Kolmogorov-Arnold Networks", arXiv:2404.19756, section
2.2; Z. Liu et al., "KAN 2.0: Kolmogorov-Arnold Networks Meet Science",
arXiv:2408.10205, section 2 (product nodes).
"""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_natural, check_positive, check_shape
from .._params import params, static
from ._kan_layer import KANLayerParams, kan_layer_apply, kan_layer_init

Grid = Sequence[Array | None] | None  # knots of each layer


@params
class KANParams:
    """The layers of a network, and which of their outputs are multiplied.

    Of the outputs of layer l the last `arity * num_products[l]` are multiplied in
    groups of `arity` neighbours; the others are nodes as they are.
    """

    layers: tuple[KANLayerParams, ...]
    num_products: tuple[int, ...] = static()
    arity: int = static()


def kan_init(
    key: PRNGKeyArray,
    sizes: Sequence[int | tuple[int, int]],
    *,
    basis: str = "bspline",
    num_intervals: int = 5,
    degree: int = 3,
    domain: tuple[float, float] = (-1, 1),
    residual: str | None = "silu",
    init: str = "default",
    bias: bool = True,
    arity: int = 2,
    dtype: DTypeLike = jnp.float32,
) -> KANParams:
    """Draws the parameters of a network.

    Args:
        key: A random key.
        sizes: The numbers of inputs, of nodes in each hidden layer and of outputs. In
            place of a number of nodes, a pair `(num_sums, num_products)` makes some of
            them products, as in MultKAN: `(2, (0, 1), 1)` can be `f(g(x) h(y))`. All
            `num_sums + num_products` nodes are inputs of the next layer.
        basis: As in `kan_layer_init`, like all options but the next.
        num_intervals: The number of intervals (or functions) of the basis.
        degree: The degree of the basis.
        domain: Where the bases of all layers live.
        residual: The function that a multiple of is added on every edge.
        init: The scheme of initial values.
        bias: Whether the layers have biases.
        arity: The number of factors of a product node.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `kan_apply`.

    Raises:
        ValueError: If `sizes` has fewer than two entries or one without nodes, its
            first entry is a pair, `arity` is below 2, or an option is refused by
            `kan_layer_init`.
        TypeError: If a number of nodes or `arity` is not an int.

    Examples:
        >>> params = kan_init(jax.random.key(0), (2, (3, 2), 1))
        >>> [layer.coefficients.shape for layer in params.layers]
        [(8, 2, 7), (8, 5, 1)]
    """
    where = "kan_init"
    if len(sizes) < 2:
        raise ValueError(
            f"{where}: `sizes` must have at least two entries (input and output), got "
            f"{tuple(sizes)}."
        )
    check_positive(where, arity=arity)
    if arity < 2:
        raise ValueError(f"{where}: `arity` must be at least 2, got {arity}.")
    nodes = [_nodes(where, f"sizes[{i}]", size) for i, size in enumerate(sizes)]
    if nodes[0][1]:
        raise ValueError(
            f"{where}: `sizes[0]` must be a number of inputs, got {sizes[0]}."
        )
    keys = jax.random.split(key, len(nodes) - 1)
    layers = [
        kan_layer_init(
            key,
            sum(before),
            sums + arity * products,
            basis=basis,
            num_intervals=num_intervals,
            degree=degree,
            domain=domain,
            residual=residual,
            init=init,
            bias=bias,
            dtype=dtype,
        )
        for key, (before, (sums, products)) in zip(
            keys, itertools.pairwise(nodes), strict=True
        )
    ]
    return KANParams(
        layers=tuple(layers),
        num_products=tuple(products for _, products in nodes[1:]),
        arity=arity,
    )


def kan_apply(
    params: KANParams,
    x: Float[Array, " n_in"],
    *,
    grid: Grid = None,
    squash: Callable[[Array], Array] | None = None,
    remat: bool = False,
) -> Float[Array, " n_out"]:
    r"""Applies a network to one example.

    $$h_0 = x, \qquad h_{l+1} = \Pi_l\Bigl(\beta_l + \sum_i \phi^l_{i\,\cdot}(h_{l,i})\Bigr)$$

    where $\Pi_l$ multiplies the outputs that belong to product nodes.

    Args:
        params: Parameters from `kan_init`.
        x: One example, shape `(n_in,)`.
        grid: One entry for each layer, its knots or None; from `kan_adapt`.
        squash: A function of the input of every layer that brings it into the domain,
            such as `jnp.tanh` for polynomials, or a layer normalisation.
        remat: Whether the backward pass evaluates the bases again, to save memory.

    Returns:
        The output, shape `(n_out,)`, in the promoted dtype of `x` and `params`.

    Raises:
        ValueError: If `x` or a part of `grid` has the wrong shape, or `grid` another
            number of entries than there are layers.

    Examples:
        >>> params = kan_init(jax.random.key(0), (2, 5, 1))
        >>> jax.vmap(kan_apply, (None, 0))(params, jnp.ones((7, 2))).shape
        (7, 1)
    """  # noqa: E501
    where = "kan_apply"
    check_shape(where, "x", x, params.layers[0].coefficients.shape[1:2])
    for index, (layer, knots) in enumerate(layers_and_knots(where, params, grid)):
        h = x if squash is None else squash(x)
        h = kan_layer_apply(layer, h, grid=knots, remat=remat)
        x = multiply(h, params.num_products[index], params.arity)
    return x


def layers_and_knots(
    where: str, params: KANParams, grid: Grid
) -> list[tuple[KANLayerParams, Array | None]]:
    """Each layer with its knots; raises `ValueError` where their numbers differ."""
    knots = [None] * len(params.layers) if grid is None else list(grid)
    if len(knots) != len(params.layers):
        raise ValueError(
            f"{where}: `grid` must have one entry for each of {len(params.layers)} "
            f"layers, got {len(knots)}."
        )
    return list(zip(params.layers, knots, strict=True))


def multiply(h: Array, num_products: int, arity: int) -> Array:
    """The nodes after a layer: sums as they are, then the products."""
    if not num_products:
        return h
    sums, factors = jnp.split(h, [len(h) - num_products * arity])
    groups = factors.reshape(num_products, arity)
    # Products of columns: the derivative of `jnp.prod` scans.
    product = math.prod(groups[:, j] for j in range(arity))
    return jnp.concatenate([sums, product])


def _nodes(where: str, name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, int):
        check_positive(where, **{name: size})
        return size, 0
    try:
        sums, products = size
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{where}: `{name}` must be an int or a pair of ints (sums, products), "
            f"got {size!r}."
        ) from error
    check_natural(where, **{f"{name}[0]": sums, f"{name}[1]": products})
    if sums + products == 0:
        raise ValueError(f"{where}: `{name}` must have a node, got {size}.")
    return sums, products
