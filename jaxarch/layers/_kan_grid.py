r"""Grids of KANs: more intervals, and knots that follow the data.

Sources: Z. Liu et al., "KAN: Kolmogorov-Arnold Networks", arXiv:2404.19756, section 2.4
(grid extension) and appendix (grids from samples); S. Rigas et al., "Adaptive Training
of Grid-Dependent Physics-Informed Kolmogorov-Arnold Networks", arXiv:2407.17611.

A spline on old knots becomes one on new knots by least squares over points, which is
linear in the coefficients: with bases $B$ (old) and $\bar B$ (new) at the points,
$\bar C = \bar B^+ B\, C$ for all edges of an input at once. The pseudo-inverse takes
matrices of any rank: a function that no point supports gets the coefficient 0.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_positive
from .._dtypes import at_least_float32
from ._bspline import bspline_basis, uniform_knots
from ._kan import Grid, KANParams, layers_and_knots, multiply
from ._kan_layer import KANLayerParams, check_grid, check_sample, kan_layer_apply


def kan_layer_refine(
    params: KANLayerParams,
    num_intervals: int,
    *,
    grid: Float[Array, "n_in num_knots"] | None = None,
) -> tuple[KANLayerParams, Array | None]:
    r"""Gives the splines of a layer another number of intervals.

    If the new number is a multiple of the old one, the old splines are among the new
    ones and no function changes on the domain, but for rounding. Else they become the
    nearest new ones in the mean square. Outside the domain the knots are new, and so is
    the way in which a spline falls to zero.

    Args:
        params: The parameters of a layer of B-splines.
        num_intervals: The new number of intervals of the domain.
        grid: The knots of each input, or None for uniform ones. New ones divide the
            old intervals evenly.

    Returns:
        The new parameters and the new knots (None for uniform ones).

    Raises:
        ValueError: If the basis is another one, `num_intervals` is below 1, or `grid`
            has the wrong shape.
        TypeError: If `num_intervals` is not an int.
    """
    where = "kan_layer_refine"
    _check_splines(where, params, num_intervals)
    check_grid(where, params, grid)
    return _refined(params, grid, num_intervals)


def kan_layer_adapt(
    params: KANLayerParams,
    x: Float[Array, "samples n_in"],
    *,
    uniform_fraction: float = 0.02,
    margin: float = 0.0,
    num_intervals: int | None = None,
    grid: Float[Array, "n_in num_knots"] | None = None,
) -> tuple[KANLayerParams, Array]:
    r"""Moves the knots of a layer to where its inputs are.

    $$t_j = \eta\, u_j + (1 - \eta)\, x_{(\lfloor n j / G \rfloor)}, \qquad
    t_G = \eta\, u_G + (1 - \eta)\, x_{(n-1)}$$

    with the sorted sample $x_{(\cdot)}$ of each input, and $u$ evenly spaced from its
    smallest less `margin` to its largest plus `margin`. The degree's number of knots is
    added on each side at the mean distance. The functions are fitted again to their old
    values at the sample, in the least squares; what the new knots cannot represent is
    lost. `kan_layer_refine` loses nothing, and can go first.

    Args:
        params: The parameters of a layer of B-splines.
        x: Inputs of the layer, shape `(samples, n_in)`.
        uniform_fraction: $\eta$. The authors' code has 0.02, jaxKAN 0.05.
        margin: Room beyond the sample; jaxKAN has 0.01.
        num_intervals: $G$; None for as many as before.
        grid: The present knots of each input, or None for uniform ones.

    Returns:
        The new parameters and the knots of each input, shape `(n_in, G + 2k + 1)`.

    Raises:
        ValueError: If the basis is another one, `x` or `grid` has the wrong shape, `x`
            has no sample, or an option is out of its range.
        TypeError: If `num_intervals` is not an int.
    """
    where = "kan_layer_adapt"
    num_intervals = params.num_intervals if num_intervals is None else num_intervals
    _check_splines(where, params, num_intervals)
    check_sample(where, x, params.coefficients.shape[1])
    check_grid(where, params, grid)
    if not 0 <= uniform_fraction <= 1:
        raise ValueError(
            f"{where}: `uniform_fraction` must be in [0, 1], got {uniform_fraction}."
        )
    if margin < 0:
        raise ValueError(f"{where}: `margin` must not be negative, got {margin}.")
    return _adapted(params, x, grid, uniform_fraction, margin, num_intervals)


def kan_refine(
    params: KANParams, num_intervals: int, *, grid: Grid = None
) -> tuple[KANParams, Grid]:
    """Gives the splines of a network another number of intervals.

    Args:
        params: The parameters of a network of B-splines.
        num_intervals: The new number of intervals, in all layers. A multiple of the old
            one keeps the function: see `kan_layer_refine`.
        grid: The knots of each layer, or None.

    Returns:
        The new parameters, and the new grid: None if `grid` is None.

    Raises:
        ValueError: As `kan_layer_refine`, or if `grid` has another number of entries
            than there are layers.
        TypeError: If `num_intervals` is not an int.

    Examples:
        >>> from jaxarch.layers import kan_apply, kan_init
        >>> params = kan_init(jax.random.key(0), (2, 5, 1))
        >>> finer, _ = kan_refine(params, 10)
        >>> x = jnp.asarray([0.3, -0.7])
        >>> bool(jnp.allclose(kan_apply(params, x), kan_apply(finer, x), atol=1e-6))
        True
    """
    pairs = layers_and_knots("kan_refine", params, grid)
    refined = [kan_layer_refine(p, num_intervals, grid=t) for p, t in pairs]
    layers, knots = zip(*refined, strict=True)
    return dataclasses.replace(params, layers=layers), None if grid is None else knots


def kan_adapt(
    params: KANParams,
    x: Float[Array, "samples n_in"],
    *,
    uniform_fraction: float = 0.02,
    margin: float = 0.0,
    num_intervals: int | None = None,
    grid: Grid = None,
    squash: Callable[[Array], Array] | None = None,
) -> tuple[KANParams, tuple[Array, ...]]:
    """Moves the knots of a network to where the inputs of its layers are.

    Layer after layer: the sample of a layer is what the adapted layers before it make
    of `x`.

    Args:
        params: The parameters of a network of B-splines.
        x: Inputs of the network, shape `(samples, n_in)`.
        uniform_fraction: See `kan_layer_adapt`, like the next two.
        margin: Room beyond the sample.
        num_intervals: The number of intervals; None for as many as before.
        grid: The present knots of each layer, or None.
        squash: As in `kan_apply`.

    Returns:
        The new parameters, and the knots of each layer.

    Raises:
        ValueError: As `kan_layer_adapt`, or if `grid` has another number of entries
            than there are layers.
        TypeError: If `num_intervals` is not an int.
    """
    where = "kan_adapt"
    check_sample(where, x, params.layers[0].coefficients.shape[1])
    layers, grids = list(params.layers), []
    for index, (layer, knots) in enumerate(layers_and_knots(where, params, grid)):
        x = x if squash is None else jax.vmap(squash)(x)
        layers[index], knots = kan_layer_adapt(
            layer,
            x,
            uniform_fraction=uniform_fraction,
            margin=margin,
            num_intervals=num_intervals,
            grid=knots,
        )
        params = dataclasses.replace(params, layers=tuple(layers))
        grids.append(knots)
        x = _nodes(params, x, index, knots)
    return params, tuple(grids)


# Compiled as a whole: one operation after the other takes seconds to compile.
@functools.partial(jax.jit, static_argnums=2)
def _refined(
    params: KANLayerParams, grid: Array | None, num_intervals: int
) -> tuple[KANLayerParams, Array | None]:
    knots = _knots(params, grid)
    old, degree = params.num_intervals, params.degree
    dtype = knots.dtype
    breaks = knots[:, degree : degree + old + 1]
    ends = jnp.arange(num_intervals + 1, dtype=dtype) * (old / num_intervals)
    positions = jnp.arange(old + 1, dtype=dtype)
    new = jax.vmap(lambda b: jnp.interp(ends, positions, b))(breaks)
    # Inside each new interval a polynomial is known by degree + 1 values.
    inside = (jnp.arange(degree + 2, dtype=dtype) + 0.5) / (degree + 2)
    points = jax.vmap(
        lambda b: (b[:-1, None] + jnp.outer(jnp.diff(b), inside)).ravel()
    )(new)
    if grid is None:
        refined = uniform_knots(num_intervals, degree, params.domain, dtype)
        transfer = _transfer(points[0], knots[0], refined, degree)
        return _transferred(params, transfer[None]), None
    refined = _extend(new, degree)
    refit = functools.partial(_transfer, degree=degree)
    transfer = jax.vmap(refit)(points, knots, refined)
    return _transferred(params, transfer), refined.astype(jnp.result_type(grid))


@functools.partial(jax.jit, static_argnums=5)
def _adapted(
    params: KANLayerParams,
    x: Array,
    grid: Array | None,
    uniform_fraction: float,
    margin: float,
    num_intervals: int,
) -> tuple[KANLayerParams, Array]:
    knots = _knots(params, grid)
    sample = jnp.asarray(x, knots.dtype).T
    ordered = jnp.sort(sample)
    count = sample.shape[1]
    index = [count * j // num_intervals for j in range(num_intervals)] + [count - 1]
    low, high = ordered[:, :1] - margin, ordered[:, -1:] + margin
    # An input that never varies has knots about its value all the same.
    constant = high == low
    reach = jnp.where(constant, jnp.maximum(jnp.abs(low), 1) * 1e-2, 0)
    low, high = low - reach, high + reach
    steps = jnp.arange(num_intervals + 1, dtype=knots.dtype) / num_intervals
    uniform = low + (high - low) * steps[None]
    fraction = jnp.where(constant, 1, jnp.asarray(uniform_fraction, knots.dtype))
    breaks = fraction * uniform + (1 - fraction) * ordered[:, jnp.asarray(index)]
    new = _extend(breaks, params.degree)
    refit = functools.partial(_transfer, degree=params.degree)
    transfer = jax.vmap(refit)(sample, knots, new)
    dtype = params.coefficients.dtype if grid is None else jnp.result_type(grid)
    return _transferred(params, transfer), new.astype(dtype)


@functools.partial(jax.jit, static_argnums=2)
def _nodes(params: KANParams, x: Array, index: int, grid: Array | None) -> Array:
    """The nodes after layer `index`, for a sample of its inputs."""

    def nodes(h: Array) -> Array:
        y = kan_layer_apply(params.layers[index], h, grid=grid)
        return multiply(y, params.num_products[index], params.arity)

    return jax.vmap(nodes)(x)


def _knots(params: KANLayerParams, grid: Array | None) -> Array:
    """The knots of each input, in float32 at least."""
    dtype = at_least_float32(params.coefficients.dtype)
    if grid is not None:
        return jnp.asarray(grid, jnp.promote_types(dtype, jnp.result_type(grid)))
    uniform = uniform_knots(params.num_intervals, params.degree, params.domain, dtype)
    return jnp.broadcast_to(uniform, (params.coefficients.shape[1], len(uniform)))


def _extend(breaks: Array, degree: int) -> Array:
    """Adds the knots beyond the ends, at the mean distance of those between."""
    step = (breaks[:, -1:] - breaks[:, :1]) / (breaks.shape[1] - 1)
    beyond = step * jnp.arange(1, degree + 1, dtype=breaks.dtype)[None]
    return jnp.concatenate(
        [breaks[:, :1] - beyond[:, ::-1], breaks, breaks[:, -1:] + beyond], 1
    )


def _transfer(points: Array, old: Array, new: Array, degree: int) -> Array:
    """The matrix that takes coefficients on old knots to those on new ones."""

    def basis(knots: Array) -> Array:
        return bspline_basis(
            points,
            num_intervals=len(knots) - 2 * degree - 1,
            degree=degree,
            domain=(0, 1),
            knots=knots,
        )

    return jnp.linalg.lstsq(basis(new), basis(old))[0]


def _transferred(params: KANLayerParams, transfer: Array) -> KANLayerParams:
    """The layer with coefficients on new knots; one matrix, or one for each input."""
    n_in = params.coefficients.shape[1]
    transfer = jnp.broadcast_to(transfer, (n_in, *transfer.shape[1:]))
    wide = params.coefficients.astype(transfer.dtype)
    moved = jnp.einsum("inm,mio->nio", transfer, wide)
    return dataclasses.replace(
        params, coefficients=moved.astype(params.coefficients.dtype)
    )


def _check_splines(where: str, params: KANLayerParams, num_intervals: int) -> None:
    if params.basis != "bspline":
        raise ValueError(
            f"{where}: `params` must have the basis 'bspline', got {params.basis!r}."
        )
    check_positive(where, num_intervals=num_intervals)
