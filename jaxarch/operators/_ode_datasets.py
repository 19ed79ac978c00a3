"""Data sets of ordinary differential equations that a random function drives.

L. Lu, P. Jin, G. E. Karniadakis, "DeepONet: Learning nonlinear operators for
identifying differential equations based on the universal approximation theorem of
operators", arXiv:1910.03193, sections 3 and 4.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.polynomial import chebyshev

from .._checks import check_float_dtype, check_positive
from .._dtypes import at_least_float32

DataSet = tuple[
    Float[Array, "samples sensors"], Float[Array, "..."], Float[Array, "..."]
]
# Samples, sensors, points, and whether the points are shared.
Sizes = tuple[int, int, int, bool]


def antiderivative_dataset(
    key: PRNGKeyArray,
    num_samples: int,
    *,
    num_sensors: int = 100,
    num_points: int = 100,
    aligned: bool = True,
    length_scale: float = 0.2,
    dtype: DTypeLike = jnp.float32,
) -> DataSet:
    r"""Draws random functions and their antiderivatives.

    $$s'(y) = u(y), \quad s(0) = 0, \qquad
        u \sim \mathcal N\big(0, e^{-(x - x')^2 / 2 l^2}\big) \text{ on } [0, 1]$$

    A function is drawn at so many Chebyshev points that the polynomial through them has
    this covariance to the rounding of float64, and it is the polynomial that is
    evaluated and integrated: there is no error of discretisation.

    Args:
        key: A random key.
        num_samples: The number of functions.
        num_sensors: $m$; the sensors are at $i / (m - 1)$.
        num_points: The number of points of each function.
        aligned: Whether all functions share their points, $i / (n - 1)$, or each has
            points of its own, uniform on $[0, 1]$ in increasing order. The paper's data
            have `aligned=False` and one point a function.
        length_scale: $l$.
        dtype: The dtype of the data; 16-bit data are rounded from float32.

    Returns:
        Sensor values, shape `(samples, sensors)`; the points, shape `(points, 1)` or,
        not aligned, `(samples, points, 1)`; and the values of $s$ there, shape
        `(samples, points)`. Rows are what `deeponet_apply` takes.

    Raises:
        ValueError: If a number is below 1, there are fewer than two sensors or shared
            points, `length_scale` is not positive, or `dtype` is not a real floating
            dtype.
        TypeError: If a number is not an int.

    Examples:
        >>> u, y, s = antiderivative_dataset(jax.random.key(0), 5, num_points=20)
        >>> u.shape, y.shape, s.shape
        ((5, 100), (20, 1), (5, 20))
    """
    where = "antiderivative_dataset"
    sizes = _check(where, num_samples, num_sensors, num_points, aligned, length_scale)
    check_float_dtype(where, dtype)
    u, y, s = _antiderivatives(key, sizes, length_scale, at_least_float32(dtype))
    return u.astype(dtype), y[..., None].astype(dtype), s.astype(dtype)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _antiderivatives(
    key: PRNGKeyArray, sizes: Sizes, length_scale: float, dtype: DTypeLike
) -> tuple[Array, Array, Array]:
    series, u, y = _inputs(key, sizes, length_scale, dtype)
    integral = chebyshev.chebint(np.eye(series.shape[1]), lbnd=-1, axis=0) / 2
    integrals = series @ jnp.asarray(integral.T, dtype)
    s = jax.vmap(evaluate, (0, 0 if y.ndim == 2 else None))(integrals, y)
    return u, y, s


def pendulum_dataset(
    key: PRNGKeyArray,
    num_samples: int,
    *,
    num_sensors: int = 100,
    num_points: int = 100,
    aligned: bool = True,
    length_scale: float = 0.2,
    gravity: float = 1.0,
    num_steps: int = 100,
    dtype: DTypeLike = jnp.float32,
) -> DataSet:
    r"""Draws random torques and the motions of a pendulum that they drive from rest.

    $$s_1' = s_2, \quad s_2' = -k \sin s_1 + u(y), \quad s_1(0) = s_2(0) = 0$$

    The equations are solved by `diffrax`, by Tsitouras' method of order 5 with fixed
    steps; points between the steps are interpolated to order 4. Needs
    `pip install "jaxarch[data]"`.

    Args:
        key: A random key.
        num_samples: As in `antiderivative_dataset`.
        num_sensors: As there.
        num_points: As there.
        aligned: As there.
        length_scale: As there.
        gravity: $k$.
        num_steps: The number of steps. At the default, float64 has errors of about
            2e-10.
        dtype: As there.

    Returns:
        Sensor values and points as in `antiderivative_dataset`, and the angle $s_1$ and
        the velocity $s_2$, shape `(samples, points, 2)`.

    Raises:
        ValueError: As in `antiderivative_dataset`.
        TypeError: As there.
        ImportError: If diffrax is not installed.
    """
    where = "pendulum_dataset"
    check_positive(where, num_steps=num_steps)
    sizes = _check(where, num_samples, num_sensors, num_points, aligned, length_scale)
    check_float_dtype(where, dtype)
    wide = at_least_float32(dtype)
    u, y, s = _pendulums(key, sizes, length_scale, wide, gravity, num_steps)
    return u.astype(dtype), y[..., None].astype(dtype), s.astype(dtype)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _pendulums(
    key: PRNGKeyArray,
    sizes: Sizes,
    length_scale: float,
    dtype: DTypeLike,
    gravity: float,
    num_steps: int,
) -> tuple[Array, Array, Array]:
    series, u, y = _inputs(key, sizes, length_scale, dtype)

    def solve(series: Array, y: Array) -> Array:
        return pendulum(lambda t: evaluate(series, t), y, gravity, num_steps)

    return u, y, jax.vmap(solve, (0, 0 if y.ndim == 2 else None))(series, y)


def pendulum(
    torque: Callable[[Array], Array], times: Array, gravity: float, num_steps: int
) -> Array:
    """Angle and velocity at `times` within [0, 1], shape `(times, 2)`."""
    diffrax = import_diffrax("pendulum_dataset")

    def field(t: Any, s: Array, _: None) -> Array:
        return jnp.stack([s[1], torque(t) - gravity * jnp.sin(s[0])])

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=0.0,
        t1=1.0,
        dt0=1 / num_steps,
        y0=jnp.zeros(2, times.dtype),
        saveat=diffrax.SaveAt(ts=times),
        max_steps=None,
    )
    assert solution.ys is not None
    return solution.ys


def import_diffrax(where: str) -> Any:
    """The module diffrax; raises `ImportError` that says where it comes from."""
    try:
        import diffrax
    except ImportError as error:
        raise ImportError(
            f"{where}: needs diffrax, which the extra `jaxarch[data]` installs."
        ) from error
    return diffrax


def rbf_field(
    key: PRNGKeyArray,
    points: Float[np.ndarray, " points"],
    length_scale: float,
    *,
    num_samples: int,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "samples points"]:
    r"""Draws Gaussian fields of covariance $e^{-(x - x')^2 / 2 l^2}$ at `points`.

    The root of the covariance is computed in float64: in float32 the rounding of its
    many tiny eigenvalues would be noise of 3e-5 in high frequencies.
    """
    distances = points[:, None] - points[None]
    variances, modes = np.linalg.eigh(np.exp(-((distances / length_scale) ** 2) / 2))
    root = modes * np.sqrt(np.maximum(variances, 0))
    noise = jax.random.normal(key, (num_samples, len(points)), dtype)
    return noise @ jnp.asarray(root.T, dtype)


def rbf_series(
    key: PRNGKeyArray, length_scale: float, *, num_samples: int, dtype: DTypeLike
) -> Float[Array, "samples terms"]:
    """Chebyshev series of `rbf_field`s on [0, 1], for `evaluate`."""
    # Frequencies above 12 / l have less than 1e-15 of the amplitude, and a polynomial
    # of degree 6 / l and a few more resolves them.
    nodes = chebyshev.chebpts2(math.ceil(6 / length_scale) + 20)
    fields = rbf_field(
        key, (nodes + 1) / 2, length_scale, num_samples=num_samples, dtype=dtype
    )
    to_series = np.linalg.inv(chebyshev.chebvander(nodes, len(nodes) - 1))
    return fields @ jnp.asarray(to_series.T, dtype)


def _check(
    where: str,
    num_samples: int,
    num_sensors: int,
    num_points: int,
    aligned: bool,
    length_scale: float,
) -> Sizes:
    check_positive(
        where, num_samples=num_samples, num_sensors=num_sensors, num_points=num_points
    )
    grids = {"num_sensors": num_sensors} | (
        {"num_points": num_points} if aligned else {}
    )
    for name, number in grids.items():
        if number < 2:
            raise ValueError(f"{where}: `{name}` must be at least 2, got {number}.")
    if not 0 < length_scale < math.inf:
        raise ValueError(
            f"{where}: `length_scale` must be positive, got {length_scale}."
        )
    return num_samples, num_sensors, num_points, aligned


def _inputs(
    key: PRNGKeyArray, sizes: Sizes, length_scale: float, dtype: DTypeLike
) -> tuple[Array, Array, Array]:
    """Chebyshev series of fields, their values at the sensors, and the points."""
    num_samples, num_sensors, num_points, aligned = sizes
    field_key, point_key = jax.random.split(key)
    series = rbf_series(field_key, length_scale, num_samples=num_samples, dtype=dtype)
    sensors = jnp.linspace(0, 1, num_sensors, dtype=dtype)
    u = jax.vmap(evaluate, (0, None))(series, sensors)
    if aligned:
        return series, u, jnp.linspace(0, 1, num_points, dtype=dtype)
    y = jax.random.uniform(point_key, (num_samples, num_points), dtype)
    return series, u, y.sort(-1)


def evaluate(series: Array, x: Array) -> Array:
    r"""Evaluates $\sum_k c_k T_k(2 x - 1)$ at each $x$ in [0, 1]."""
    angles = jnp.arccos(jnp.clip(2 * x - 1, -1, 1))
    orders = jnp.arange(len(series), dtype=x.dtype)
    return jnp.cos(jnp.multiply.outer(angles, orders)) @ series
