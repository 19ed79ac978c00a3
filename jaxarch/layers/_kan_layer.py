r"""One layer of a Kolmogorov-Arnold network: a trained function on every edge.

Source: Z. Liu et al., "KAN: Kolmogorov-Arnold Networks", arXiv:2404.19756, section 2.
Initial values: S. Rigas et al., "Initialization Schemes for Kolmogorov-Arnold Networks:
An Empirical Study", arXiv:2509.03417 (`power`, `lecun`, `glorot`).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    check_float_dtype,
    check_interval,
    check_natural,
    check_option,
    check_positive,
    check_rank,
    check_shape,
)
from .._dtypes import at_least_float32
from .._params import params, static
from . import _bases
from ._bspline import CLOSED_FORMS, bspline, bsplines

BASES = (
    "bspline",
    "chebyshev",
    "legendre",
    "fourier",
    "rbf",
    "relu",
    "sine",
    *_bases.WAVELETS,
)
RESIDUALS = ("silu", "identity", None)
INITS = ("default", "power", "lecun", "glorot")
BLOCK = 256  # features in one matrix product: enough for its speed, little memory


@params
class KANLayerParams:
    r"""The functions on the edges of one layer.

    $$\phi_{io}(x) = R_{io}\, r(x) + \sum_m C_{mio} b_m(x)$$
    """

    coefficients: Array  # C, (num_basis, in, out)
    residual: Array | None  # R, (in, out)
    bias: Array | None  # (out,)
    frequencies: Array | None  # (num_basis,), of sines and wavelets
    phases: Array | None  # (num_basis,), likewise
    basis: str = static()
    degree: int = static()
    domain: tuple[float, float] = static()
    activation: str | None = static()  # r

    @property
    def num_intervals(self) -> int:
        """The number of intervals of a B-spline or ReLU basis."""
        return self.coefficients.shape[0] - self.degree


def kan_layer_init(
    key: PRNGKeyArray,
    in_features: int,
    out_features: int,
    *,
    basis: str = "bspline",
    num_intervals: int = 5,
    degree: int = 3,
    domain: tuple[float, float] = (-1, 1),
    residual: str | None = "silu",
    init: str = "default",
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> KANLayerParams:
    r"""Draws the parameters of one layer.

    All are normal with mean 0 (biases are 0). With $K$ functions on an edge (the
    residual counts), $E[\cdot]$ the mean over the domain and over the functions, and
    $g$ the standard deviation of a uniform variable on the domain:

    | `init` | $\sigma$ of the coefficients | $\sigma$ of the residual |
    | --- | --- | --- |
    | `"default"` | $0.1 / \sqrt{n_{in}}$ | $\sqrt{2 / (n_{in} + n_{out})}$ |
    | `"power"` | $1 / \sqrt{K n_{in}}$ | the same |
    | `"lecun"` | $g / \sqrt{n_{in} K E[b^2]}$ | with $r$ |
    | `"glorot"` | $g \sqrt{2 / (n_{in} K E[b^2] + n_{out} K E[b'^2])}$ | with $r$ |

    The default is the paper's ($\sigma = 0.1$, Xavier), with the factor
    $1/\sqrt{n_{in}}$ that its authors' code puts before the spline.

    Args:
        key: A random key.
        in_features: $n_{in}$.
        out_features: $n_{out}$.
        basis: `"bspline"` or `"relu"` ($G + k$ functions), `"chebyshev"` or
            `"legendre"` ($k + 1$), `"fourier"` ($2G$; the domain is one period),
            `"rbf"`, `"sine"` or a wavelet, `"mexican_hat"`, `"morlet"`,
            `"derivative_of_gaussian"` or `"shannon"` ($G$ each). Frequencies and phases
            of sines and wavelets are parameters that all edges share.
        num_intervals: $G$.
        degree: $k$.
        domain: Where the basis lives. Inputs outside are allowed: splines, bumps and
            wavelets are 0 there, polynomials grow.
        residual: $r$: `"silu"`, `"identity"` or None for no residual.
        init: The scheme.
        bias: Whether there is a bias.
        dtype: The dtype of the parameters. Draws for a 16-bit dtype are made in float32
            and rounded.

    Returns:
        Parameters for `kan_layer_apply`.

    Raises:
        ValueError: If a size is below 1, `degree` is negative, `domain` is no interval,
            an option is unknown, an `"rbf"` or wavelet basis has one function, or
            `dtype` is not a real floating dtype.
        TypeError: If a size or the degree is not an int.

    Examples:
        >>> params = kan_layer_init(jax.random.key(0), 2, 4)
        >>> params.coefficients.shape
        (8, 2, 4)
    """
    where = "kan_layer_init"
    sizes = {"in_features": in_features, "out_features": out_features}
    check_positive(where, **sizes, num_intervals=num_intervals)
    check_natural(where, degree=degree)
    check_interval(where, "domain", domain)
    check_option(where, "basis", basis, BASES)
    check_option(where, "residual", residual, RESIDUALS)
    check_option(where, "init", init, INITS)
    check_float_dtype(where, dtype)
    if num_intervals < 2 and basis in ("rbf", *_bases.WAVELETS):
        raise ValueError(
            f"{where}: `num_intervals` must be at least 2 for {basis!r}, got 1."
        )
    low, high = map(float, domain)
    coefficient_key, residual_key, frequency_key = jax.random.split(key, 3)
    wide = at_least_float32(dtype)
    num_basis = {
        "bspline": num_intervals + degree,
        "relu": num_intervals + degree,
        "chebyshev": degree + 1,
        "legendre": degree + 1,
        "fourier": 2 * num_intervals,
    }.get(basis, num_intervals)
    frequencies = phases = None
    if basis == "sine":
        frequencies = jax.random.normal(frequency_key, (num_basis,), wide)
        phases = jnp.zeros((num_basis,), wide)
    elif basis in _bases.WAVELETS:
        centers = jnp.linspace(low, high, num_basis, dtype=wide)
        frequencies = jnp.full((num_basis,), (num_basis - 1) / (high - low), wide)
        phases = -centers * frequencies
    shape = KANLayerParams(
        coefficients=jnp.zeros((num_basis, in_features, out_features), wide),
        residual=None if residual is None else jnp.zeros(tuple(sizes.values()), wide),
        bias=jnp.zeros((out_features,), wide) if bias else None,
        frequencies=frequencies,
        phases=phases,
        basis=basis,
        degree=degree,
        domain=(low, high),
        activation=residual,
    )
    scale, residual_scale = _scales(shape, init)

    def draw(
        key: PRNGKeyArray, scale: Array | float, like: Array | None
    ) -> Array | None:
        if like is None:
            return None
        return scale * jax.random.normal(key, like.shape, wide)

    drawn = dataclasses.replace(
        shape,
        coefficients=draw(coefficient_key, scale, shape.coefficients),
        residual=draw(residual_key, residual_scale, shape.residual),
    )
    return jax.tree.map(lambda a: a.astype(dtype), drawn)


def kan_layer_apply(
    params: KANLayerParams,
    x: Float[Array, " n_in"],
    *,
    grid: Float[Array, "n_in num_knots"] | None = None,
    remat: bool = False,
) -> Float[Array, " n_out"]:
    r"""Applies one layer to one example.

    $$y_o = \beta_o + \sum_i \phi_{io}(x_i), \qquad
    \phi_{io}(x) = R_{io}\, r(x) + \sum_m C_{mio} b_m(x)$$

    The sum over inputs and functions is a product with a dense matrix, $K$ times as
    tall as that of a dense layer: under `vmap` over a batch the time is that of the
    dense layer of $K n_{in}$ inputs. Selecting the few functions that are not zero at
    $x_i$ costs more than it saves.

    Args:
        params: Parameters from `kan_layer_init`.
        x: One example, shape `(n_in,)`.
        grid: Knots of B-splines for each input, from `kan_layer_adapt`; None for
            uniform ones over the domain. They are data, not parameters.
        remat: Whether the backward pass evaluates the basis again. Functions are then
            taken one at a time (polynomials and Fourier modes are not): under `vmap`
            and `grad` three to six arrays of the shape of a batch are held whatever
            $K$ is; without it 10 to 14 at $K = 9$.

    Returns:
        The output, shape `(n_out,)`, in the promoted dtype of `x` and `params`. Bases
        in 16 bits are evaluated in float32 and rounded.

    Raises:
        ValueError: If `x` or `grid` has the wrong shape, or there is a `grid` for
            another basis than B-splines.

    Examples:
        >>> params = kan_layer_init(jax.random.key(0), 2, 4)
        >>> jax.vmap(kan_layer_apply, (None, 0))(params, jnp.ones((5, 2))).shape
        (5, 4)
    """
    where = "kan_layer_apply"
    check_shape(where, "x", x, params.coefficients.shape[1:2])
    check_grid(where, params, grid)
    x = jnp.asarray(x, jnp.result_type(x, *jax.tree.leaves(params)))
    if remat and params.basis not in ("chebyshev", "legendre", "fourier"):
        return _apply_one_by_one(params, x, grid)
    return (jax.checkpoint(_apply) if remat else _apply)(params, x, grid)


def kan_layer_edges(
    params: KANLayerParams,
    x: Float[Array, " n_in"],
    *,
    grid: Float[Array, "n_in num_knots"] | None = None,
) -> Float[Array, "n_in n_out"]:
    r"""Evaluates the function of every edge, $\phi_{io}(x_i)$.

    Args:
        params: Parameters from `kan_layer_init`.
        x: One example, shape `(n_in,)`.
        grid: As in `kan_layer_apply`.

    Returns:
        The values, shape `(n_in, n_out)`. Their sum over inputs and the bias are the
        output of `kan_layer_apply`.

    Raises:
        ValueError: As `kan_layer_apply`.
    """
    where = "kan_layer_edges"
    check_shape(where, "x", x, params.coefficients.shape[1:2])
    check_grid(where, params, grid)
    x = jnp.asarray(x, jnp.result_type(x, *jax.tree.leaves(params)))
    basis = jnp.stack(features(params, x, grid))
    edges = jnp.einsum("mi,mio->io", basis, params.coefficients)
    if params.residual is None:
        return edges
    return edges + residual(params, x)[:, None] * params.residual


def features(
    params: KANLayerParams, x: Array, grid: Array | None = None
) -> list[Array]:
    """The functions of the basis at `x`, each of the shape and dtype of `x`."""
    num_basis, domain = params.coefficients.shape[0], params.domain
    wide = x.astype(at_least_float32(x.dtype))
    centered = (2 * wide - sum(domain)) / (domain[1] - domain[0])
    closed = grid is None and params.degree in CLOSED_FORMS
    if params.basis == "bspline" and not closed:
        basis = bsplines(wide, params.num_intervals, params.degree, domain, grid)
    elif params.basis == "chebyshev":
        basis = _bases.chebyshev(centered, params.degree)
    elif params.basis == "legendre":
        basis = _bases.legendre(centered, params.degree)
    elif params.basis == "fourier":
        basis = _bases.fourier(math.pi * centered, num_basis // 2)
    else:
        basis = [_member(params, wide, m, grid) for m in range(num_basis)]
    return [b.astype(x.dtype) for b in basis]


def _member(
    params: KANLayerParams, x: Array, m: Array | int, grid: Array | None
) -> Array:
    """Function `m` of a basis in which one can be had without the others."""
    num_basis, domain, degree = len(params.coefficients), params.domain, params.degree
    if params.basis == "bspline":
        return bspline(x, m, params.num_intervals, degree, domain, grid)
    if params.basis == "relu":
        return _bases.relu(x, m, params.num_intervals, degree, domain)
    if params.basis == "rbf":
        return _bases.rbf(x, m, num_basis, domain)
    assert params.frequencies is not None
    assert params.phases is not None
    index = jnp.asarray(m, jnp.int32)
    frequency = params.frequencies.astype(x.dtype)[index]
    phase = params.phases.astype(x.dtype)[index]
    if params.basis == "sine":
        return _bases.sine(x, frequency, phase)
    return _bases.wavelet(x, frequency, phase, params.basis)


def residual(params: KANLayerParams, x: Array) -> Array:
    """The function $r$ that a multiple of is added to every edge."""
    if params.activation != "silu":
        return x
    # The backward pass takes the sigmoid again: one array of a batch less to hold.
    return jax.checkpoint(jax.nn.silu)(x)


def check_grid(where: str, params: KANLayerParams, grid: Array | None) -> None:
    """Raises `ValueError` unless `grid` fits the layer."""
    if grid is None:
        return
    if params.basis != "bspline":
        raise ValueError(
            f"{where}: `grid` must be None for the basis {params.basis!r}: only "
            "B-splines have knots."
        )
    num_basis, n_in, _ = params.coefficients.shape
    check_shape(where, "grid", grid, (n_in, num_basis + params.degree + 1))


def check_sample(where: str, x: Array, n_in: int) -> None:
    """Raises `ValueError` unless `x` is a sample of so many inputs, and not empty."""
    check_rank(where, "x", x, 2, f"(samples, {n_in})")
    if x.shape[0] < 1 or x.shape[1] != n_in:
        raise ValueError(
            f"{where}: `x` must have shape (samples, {n_in}) with at least one sample, "
            f"got {jnp.shape(x)}."
        )


def _apply(params: KANLayerParams, x: Array, grid: Array | None) -> Array:
    _, n_in, n_out = params.coefficients.shape
    y = _straight(params, x)
    basis = features(params, x, grid)
    # One product for several functions where inputs are few, so that its matrix is
    # tall; one for each where they are many, so that its left side stays in cache.
    step = max(1, BLOCK // n_in)
    blocks = [basis[start : start + step] for start in range(0, len(basis), step)]
    # A split, not slices: its transpose is a concatenation, theirs pads and adds.
    matrices = jax.lax.split(params.coefficients, [len(block) for block in blocks])
    for block, matrix in zip(blocks, matrices, strict=True):
        y = y + jnp.concatenate(block) @ matrix.reshape(-1, n_out)
    return y


def _apply_one_by_one(params: KANLayerParams, x: Array, grid: Array | None) -> Array:
    """`_apply` with one function in memory at a time, in both directions."""
    wide = x.astype(at_least_float32(x.dtype))

    @jax.checkpoint
    def add(y: Array, m_and_matrix: tuple[Array, Array]) -> tuple[Array, None]:
        m, matrix = m_and_matrix
        return y + _member(params, wide, m, grid).astype(x.dtype) @ matrix, None

    counter = jnp.arange(len(params.coefficients), dtype=wide.dtype)
    y = _straight(params, x)
    return jax.lax.scan(add, y, (counter, params.coefficients))[0]


def _straight(params: KANLayerParams, x: Array) -> Array:
    """The bias and the residual."""
    n_out = params.coefficients.shape[2]
    y = jnp.zeros((n_out,), x.dtype) if params.bias is None else params.bias
    y = y.astype(x.dtype)
    if params.residual is None:
        return y
    return y + residual(params, x) @ params.residual


def _scales(params: KANLayerParams, init: str) -> tuple[Array | float, Array | float]:
    """Standard deviations of the coefficients and of the residual."""
    num_basis, n_in, n_out = params.coefficients.shape
    count = num_basis + (params.residual is not None)
    if init == "default":
        return 0.1 / math.sqrt(n_in), math.sqrt(2 / (n_in + n_out))
    if init == "power":
        return (count * n_in) ** -0.5, (count * n_in) ** -0.5
    low, high = params.domain
    gain = (high - low) / math.sqrt(12)
    # The middles of many intervals: the mean over the domain to 1e-6.
    x = (
        low
        + (high - low)
        * (jnp.arange(1000, dtype=params.coefficients.dtype) + 0.5)
        / 1000
    )

    def scale(function) -> Array:
        values, slopes = jax.jvp(function, (x,), (jnp.ones_like(x),))
        fan = n_in * jnp.mean(values**2)
        if init == "glorot":
            fan = (fan + n_out * jnp.mean(slopes**2)) / 2
        return gain / jnp.sqrt(count * fan)

    return (
        scale(lambda x: jnp.stack(features(params, x))),
        scale(functools.partial(residual, params)),
    )
