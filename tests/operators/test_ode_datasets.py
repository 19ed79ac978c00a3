"""Antiderivatives and pendulums against SciPy, closed forms and statistics."""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline

from jaxarch.operators import antiderivative_dataset, pendulum_dataset
from jaxarch.operators._ode_datasets import pendulum, rbf_field

KEY = jax.random.key(0)
DATASETS = antiderivative_dataset, pendulum_dataset


def test_rbf_field_has_its_covariance():
    points = np.asarray([0.0, 0.1, 0.35, 1.0])
    fields = np.asarray(rbf_field(KEY, points, 0.2, num_samples=20_000))
    distances = points[:, None] - points[None]
    wanted = np.exp(-((distances / 0.2) ** 2) / 2)
    # The standard error of a covariance of variables of variance 1 is at most
    # sqrt(2 / 20000) = 0.01.
    np.testing.assert_allclose(fields.T @ fields / 20_000, wanted, atol=0.04)


@pytest.mark.parametrize(("aligned", "length_scale"), [(True, 0.2), (False, 0.05)])
def test_antiderivative_of_the_spline_of_the_sensors(aligned, length_scale):
    """SciPy's spline through many sensors has the same integral."""
    with jax.enable_x64(True):
        u, y, s = antiderivative_dataset(
            KEY,
            4,
            num_sensors=1001,
            num_points=15,
            aligned=aligned,
            length_scale=length_scale,
            dtype=jnp.float64,
        )
    assert u.shape == (4, 1001)
    assert y.shape == ((15, 1) if aligned else (4, 15, 1))
    points = np.broadcast_to(np.asarray(y)[..., 0], (4, 15))
    for i in range(4):
        spline = CubicSpline(np.linspace(0, 1, 1001), u[i])
        wanted = [spline.integrate(0, t) for t in points[i]]
        # The spline's error is of order 4 in the distance of the sensors over l.
        np.testing.assert_allclose(s[i], wanted, atol=3 * (1e-3 / length_scale) ** 4)
    if aligned:
        np.testing.assert_allclose(points[0], np.arange(15) / 14)
    else:
        assert (np.diff(points) > 0).all()
        assert points.min() > 0
        assert points.max() < 1


def test_variance_of_an_antiderivative():
    """Var s(1) is the double integral of the covariance."""
    _, y, s = antiderivative_dataset(KEY, 20_000, num_points=2)
    x = np.linspace(0, 1, 201)
    covariance = np.exp(-((x[:, None] - x[None]) ** 2) / (2 * 0.2**2))
    wanted = np.trapezoid(np.trapezoid(covariance, x), x)
    np.testing.assert_allclose(np.var(s[:, 1]), wanted, rtol=0.04)
    np.testing.assert_array_equal(np.asarray(y), [[0], [1]])
    np.testing.assert_allclose(s[:, 0], 0, atol=1e-6)


def test_pendulum_against_scipy():
    with jax.enable_x64(True):
        u, y, s = pendulum_dataset(
            KEY,
            2,
            num_sensors=1001,
            num_points=8,
            aligned=False,
            gravity=2.0,
            dtype=jnp.float64,
        )
    assert y.shape == (2, 8, 1)
    assert s.shape == (2, 8, 2)
    points = np.asarray(y)[..., 0]
    for i in range(2):
        torque = CubicSpline(np.linspace(0, 1, 1001), u[i])

        def field(t, s, torque=torque):
            return s[1], torque(t) - 2 * np.sin(s[0])

        found = solve_ivp(
            field, (0, 1), (0, 0), t_eval=points[i], rtol=1e-9, atol=1e-10
        )
        np.testing.assert_allclose(s[i], found.y.T, atol=2e-8)


def test_order_of_the_pendulum():
    """A manufactured solution, s = sin^2(3 t), at the steps: order 5 at least."""
    with jax.enable_x64(True):
        times = jnp.linspace(0, 1, 6)

        def angle(t):
            return jnp.sin(3 * t) ** 2

        speed = jax.grad(angle)
        acceleration = jax.grad(speed)

        def torque(t):
            return acceleration(t) + 1.5 * jnp.sin(angle(t))

        wanted = jnp.stack([angle(times), jax.vmap(speed)(times)], 1)
        steps = np.asarray([10, 20, 40])
        solve = jax.jit(functools.partial(pendulum, torque, times, 1.5))
        errors = [jnp.abs(solve(int(n)) - wanted).max() for n in steps]
    order = -np.polyfit(np.log(steps), np.log(np.asarray(errors)), 1)[0]
    assert 4.7 < order < 6.3, (order, errors)


@pytest.mark.parametrize("dataset", DATASETS)
def test_dtypes(dataset):
    options = {"num_sensors": 5, "num_points": 3}
    single = dataset(KEY, 2, **options)
    half = dataset(KEY, 2, dtype=jnp.bfloat16, **options)
    assert single[1].shape == (3, 1)
    assert single[2].shape[:2] == (2, 3)
    for data, narrow in zip(single, half, strict=True):
        assert (data.dtype, narrow.dtype) == (jnp.float32, jnp.bfloat16)
        assert np.isfinite(data).all()
        np.testing.assert_array_equal(narrow, np.asarray(data).astype(jnp.bfloat16))


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_sensors": 1}, "`num_sensors` must be at least 2, got 1."),
        ({"num_points": 1}, "`num_points` must be at least 2, got 1."),
        (
            {"num_points": 0, "aligned": False},
            "`num_points` must be at least 1, got 0.",
        ),
        ({"length_scale": 0.0}, "`length_scale` must be positive, got 0.0."),
        ({"dtype": jnp.int8}, "`dtype` must be a real floating dtype, got int8."),
    ],
)
def test_refusals(dataset, options, message):
    message = f"{dataset.__name__}: {message}"
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        dataset(KEY, 2, **options)


def test_counts_are_positive_ints():
    with pytest.raises(ValueError, match=re.escape("`num_steps` must be at least 1")):
        pendulum_dataset(KEY, 2, num_steps=0)
    with pytest.raises(TypeError, match=re.escape("`num_samples` must be an int")):
        antiderivative_dataset(KEY, 2.0)


def test_diffrax_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ImportError, match=re.escape("needs diffrax, which the extra")):
        pendulum_dataset(KEY, 3, num_points=4)
