"""Data sets of a function and the solution, at points (x, t), of an evolution from it.

L. Lu, P. Jin, G. E. Karniadakis, "DeepONet: Learning nonlinear operators for
identifying differential equations based on the universal approximation theorem of
operators", arXiv:1910.03193, section 4.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_positive
from .._dtypes import at_least_float32
from ._burgers_dataset import NUM_MODES, initial_function
from ._in_batches import in_batches
from ._ode_datasets import DataSet, evaluate, import_diffrax, rbf_series


def advection_dataset(
    key: PRNGKeyArray,
    num_samples: int,
    *,
    num_sensors: int = 100,
    num_points: int | None = None,
    grid: tuple[int, int] = (100, 100),
    velocity: float = 1.0,
    batch_size: int = 64,
    progress: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> DataSet:
    r"""Draws periodic functions and their translations.

    $$s_t + c \, s_x = 0, \quad s(x, 0) = u(x), \qquad s(x, t) = u(x - c t)$$

    $u$ is as in `burgers_dataset`, a finite Fourier series, which is evaluated: there
    is no error of discretisation.

    Args:
        key: A random key.
        num_samples: The number of functions.
        num_sensors: $m$; the sensors are at $i / m$.
        num_points: How many points of the grid each function has, drawn without
            replacement; by default all functions share all of them.
        grid: The numbers $n_x$ of positions, at $i / n_x$, and $n_t$ of times, at
            $j / (n_t - 1)$.
        velocity: $c$.
        batch_size: The number of samples that are computed at once.
        progress: Whether to show a progress bar, if tqdm is installed.
        dtype: The dtype of the data; 16-bit data are rounded from float32.

    Returns:
        Sensor values, shape `(samples, sensors)`; points $(x, t)$, shape `(points, 2)`
        with times in the inner order, or, with `num_points`, `(samples, points, 2)`;
        and the values of $s$ there, shape `(samples, points)`. Rows are what
        `deeponet_apply` takes.

    Raises:
        ValueError: If a number is below 1 (`grid`: 3), there are not `num_points` on
            the grid, `velocity` is not finite or `dtype` is not a real floating dtype.
        TypeError: If a number is not an int.

    Examples:
        >>> u, y, s = advection_dataset(jax.random.key(0), 3, grid=(8, 5))
        >>> u.shape, y.shape, s.shape
        ((3, 100), (40, 2), (3, 40))
    """
    where = "advection_dataset"
    _check(where, num_samples, num_sensors, num_points, grid, batch_size, dtype)
    if not math.isfinite(velocity):
        raise ValueError(f"{where}: `velocity` must be finite, got {velocity}.")
    real = at_least_float32(dtype)
    x = jnp.arange(grid[0], dtype=real) / grid[0]
    points = _product(x, jnp.linspace(0, 1, grid[1], dtype=real))

    def sample(key: PRNGKeyArray) -> tuple[Array, ...]:
        series_key, point_key = jax.random.split(key)
        # As many points as there are terms: what is interpolated is the function.
        terms = 2 * NUM_MODES - 1
        u = initial_function(series_key, terms, dtype=real)[:, 0]
        sensors = jnp.arange(num_sensors, dtype=real) / num_sensors
        chosen = _choose(point_key, points, num_points)
        s = translate(u, points[chosen, 0] - velocity * points[chosen, 1])
        return translate(u, sensors), points[chosen], s

    return _collect(
        sample,
        points,
        key,
        num_samples,
        num_points,
        batch_size,
        "advection",
        progress,
        dtype,
    )


def translate(
    u: Float[Array, " n"], x: Float[Array, " points"]
) -> Float[Array, " points"]:
    """The Fourier series through u at i / n, n odd, evaluated at x."""
    coefficients = jnp.fft.rfft(u, norm="forward")
    k = jnp.arange(len(coefficients), dtype=x.dtype)
    phase = 2 * math.pi * (jnp.multiply.outer(x, k) % 1)
    weights = jnp.where(k == 0, 1, 2).astype(x.dtype)
    cosines, sines = weights * coefficients.real, weights * coefficients.imag
    return jnp.cos(phase) @ cosines - jnp.sin(phase) @ sines


def diffusion_reaction_dataset(
    key: PRNGKeyArray,
    num_samples: int,
    *,
    num_sensors: int = 100,
    num_points: int | None = None,
    grid: tuple[int, int] = (100, 100),
    diffusivity: float = 0.01,
    reaction: float = 0.01,
    length_scale: float = 0.2,
    refinement: int = 1,
    batch_size: int = 64,
    progress: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> DataSet:
    r"""Draws random sources and the solutions of diffusion with a reaction.

    $$s_t = D s_{xx} + k s^2 + u(x), \quad s(x, 0) = s(0, t) = s(1, t) = 0, \qquad
        u \sim \mathcal N\big(0, e^{-(x - x')^2 / 2 l^2}\big)$$

    for $x$ and $t$ in $[0, 1]$. Central differences of order 2 in $x$, and in $t$
    Tsitouras' method by `diffrax` with fixed steps that are small enough to be stable.
    Needs `pip install "jaxarch[data]"`.

    Args:
        key: A random key.
        num_samples: The number of functions.
        num_sensors: $m$; the sensors are at $i / (m - 1)$.
        num_points: As in `advection_dataset`; the paper draws 100 of the grid's 10,000.
        grid: The numbers $n_x$ of positions, at $i / (n_x - 1)$, the boundary included,
            and $n_t$ of times, at $j / (n_t - 1)$.
        diffusivity: $D$.
        reaction: $k$.
        length_scale: $l$.
        refinement: Intervals of the grid of the solver in one of the result.
        batch_size: The number of samples that are computed at once.
        progress: Whether to show a progress bar, if tqdm is installed.
        dtype: The dtype of the data; 16-bit data are rounded from float32.

    Returns:
        As `advection_dataset`.

    Raises:
        ValueError: If a number is below 1 (`num_sensors`: 2, `grid`: 3), there are not
            `num_points` on the grid, `diffusivity` or `length_scale` is not positive,
            `reaction` is not finite or `dtype` is not a real floating dtype.
        TypeError: If a number is not an int.
        ImportError: diffrax is not installed.
    """
    where = "diffusion_reaction_dataset"
    _check(where, num_samples, num_sensors, num_points, grid, batch_size, dtype)
    check_positive(where, refinement=refinement)
    if num_sensors < 2:
        raise ValueError(
            f"{where}: `num_sensors` must be at least 2, got {num_sensors}."
        )
    positive = {"diffusivity": diffusivity, "length_scale": length_scale}
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{where}: `{name}` must be positive, got {value}.")
    if not math.isfinite(reaction):
        raise ValueError(f"{where}: `reaction` must be finite, got {reaction}.")
    import_diffrax(where)
    real = at_least_float32(dtype)
    x = jnp.linspace(0, 1, (grid[0] - 1) * refinement + 1, dtype=real)
    times = jnp.linspace(0, 1, grid[1], dtype=real)
    points = _product(x[::refinement], times)

    def sample(key: PRNGKeyArray) -> tuple[Array, ...]:
        series_key, point_key = jax.random.split(key)
        (series,) = rbf_series(series_key, length_scale, num_samples=1, dtype=real)
        source = evaluate(series, x)
        s = solve_diffusion_reaction(
            lambda t: source, times, len(x), diffusivity=diffusivity, reaction=reaction
        )
        chosen = _choose(point_key, points, num_points)
        sensors = evaluate(series, jnp.linspace(0, 1, num_sensors, dtype=real))
        return sensors, points[chosen], s.T[::refinement].reshape(-1)[chosen]

    return _collect(
        sample,
        points,
        key,
        num_samples,
        num_points,
        batch_size,
        "diffusion-reaction",
        progress,
        dtype,
    )


def solve_diffusion_reaction(
    source: Callable[[Any], Float[Array, " x"]],
    times: Float[Array, " times"],
    num_positions: int,
    *,
    diffusivity: float,
    reaction: ArrayLike,
) -> Float[Array, "times x"]:
    """The solution at `times` within [0, 1], for a source that may depend on time."""
    diffrax = import_diffrax("diffusion_reaction_dataset")
    stiffness = 4 * diffusivity * (num_positions - 1) ** 2

    def field(t: Any, s: Array, _: None) -> Array:
        laplacian = (num_positions - 1) ** 2 * jnp.diff(jnp.pad(s, 1), 2)
        return diffusivity * laplacian + reaction * s**2 + source(t)[1:-1]

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=0.0,
        t1=1.0,
        dt0=1 / max(50, math.ceil(stiffness / 2)),  # stable up to 3.3
        y0=jnp.zeros(num_positions - 2, times.dtype),
        saveat=diffrax.SaveAt(ts=times),
        max_steps=None,
    )
    return jnp.pad(solution.ys, ((0, 0), (1, 1)))


def _check(
    where: str,
    num_samples: int,
    num_sensors: int,
    num_points: int | None,
    grid: tuple[int, int],
    batch_size: int,
    dtype: DTypeLike,
) -> None:
    check_float_dtype(where, dtype)
    check_positive(
        where,
        num_samples=num_samples,
        num_sensors=num_sensors,
        num_points=1 if num_points is None else num_points,
        batch_size=batch_size,
        **{f"grid[{i}]": n for i, n in enumerate(grid)},
    )
    if len(grid) != 2 or min(grid) < 3:
        raise ValueError(
            f"{where}: `grid` must be two numbers (positions, times) of at least 3, "
            f"got {grid}."
        )
    if num_points is not None and num_points > math.prod(grid):
        raise ValueError(
            f"{where}: `num_points` must be at most the {math.prod(grid)} points of "
            f"the grid, got {num_points}."
        )


def _product(x: Array, t: Array) -> Array:
    return jnp.stack(jnp.meshgrid(x, t, indexing="ij"), -1).reshape(-1, 2)


def _choose(key: PRNGKeyArray, points: Array, num_points: int | None) -> Array:
    if num_points is None:
        return jnp.arange(len(points))
    return jax.random.choice(key, len(points), (num_points,), replace=False)


def _collect(
    sample: Callable[[PRNGKeyArray], tuple[Array, ...]],
    points: Array,
    key: PRNGKeyArray,
    num_samples: int,
    num_points: int | None,
    batch_size: int,
    what: str,
    shown: bool,
    dtype: DTypeLike,
) -> DataSet:
    def row(key: PRNGKeyArray) -> tuple[Array, ...]:
        u, y, s = sample(key)
        return (u, s) if num_points is None else (u, y, s)

    u, *y, s = in_batches(
        row,
        key,
        num_samples,
        batch_size=batch_size,
        what=what,
        shown=shown,
        dtype=dtype,
    )
    return u, y[0] if y else points.astype(dtype), s
