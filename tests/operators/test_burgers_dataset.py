"""Burgers' equation against the solution of Cole and Hopf."""

import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.operators import burgers_dataset, gaussian_random_field
from jaxarch.operators._burgers_dataset import solve_burgers

SMALL = {"solver_points": 64, "steps_per_time": 40, "viscosity": 0.05}


def cole_hopf(x, t, viscosity, mean, waves=256):
    r"""The solution from $c + \sin 2 \pi x$: the heat equation, and a moving frame."""
    points = np.arange(waves) / waves
    # $\phi = e^{-\int u / 2 \nu}$ solves the heat equation, $u = -2 \nu \phi_x / \phi$.
    initial = np.exp(np.cos(2 * np.pi * points) / (4 * np.pi * viscosity))
    k = 2 * np.pi * np.fft.fftfreq(waves, 1 / waves)
    coefficients = np.fft.fft(initial) / waves * np.exp(-viscosity * k**2 * t)
    waves_there = np.exp(1j * np.multiply.outer(x - mean * t, k))
    slope = (waves_there @ (1j * k * coefficients)).real
    return mean - 2 * viscosity * slope / (waves_there @ coefficients).real


def test_order_4_against_cole_and_hopf():
    x = np.arange(128) / 128
    initial, times = 0.5 + np.sin(2 * np.pi * x), np.asarray([0.1, 0.4])
    want = [cole_hopf(x, t, 0.05, 0.5) for t in times]
    errors = []
    with jax.enable_x64(True):
        for steps in (80, 320):
            u = solve_burgers(
                jnp.asarray(initial[:, None]),
                times,
                viscosity=0.05,
                steps_per_time=steps,
            )
            assert u.shape == (2, 128, 1)
            errors.append(np.abs(np.asarray(u)[..., 0] - want).max())
    order = math.log(errors[0] / errors[1], 4)
    assert 3.7 < order < 4.6, (order, errors)
    assert errors[1] < 1e-8, errors


def test_a_key_is_one_list_of_functions(key):
    a, u = burgers_dataset(key, 3, 32, batch_size=2, **SMALL)
    b, v = burgers_dataset(key, 2, 16, times=(0.5, 1.0), progress=True, **SMALL)
    assert a.shape == u.shape == (3, 32, 1)
    assert (b.shape, v.shape) == ((2, 16, 1), (2, 2, 16, 1))
    np.testing.assert_allclose(a[:2, ::2], b, atol=1e-5)
    np.testing.assert_allclose(u[:2, ::2], v[:, 1], atol=1e-5)
    assert not np.allclose(v[:, 0], v[:, 1], atol=1e-2)
    want = gaussian_random_field(
        jax.random.fold_in(key, 1), 2.0, 5.0, shape=(32,), sigma=25.0, num_modes=128
    )
    np.testing.assert_allclose(a[1], want, atol=1e-5)
    # Means over the solver's grid are constant, and 32 points nearly resolve u.
    np.testing.assert_allclose(u.mean(1), a.mean(1), atol=5e-3)


def test_bfloat16(key):
    for data in burgers_dataset(key, 1, 16, dtype=jnp.bfloat16, **SMALL):
        assert data.dtype == jnp.bfloat16
        assert np.isfinite(np.asarray(data, float)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0}, "`resolution` must be at least 1, got 0."),
        ({"steps_per_time": 0}, "`steps_per_time` must be at least 1, got 0."),
        ({"viscosity": 0.0}, "`viscosity` must be positive, got 0.0."),
        ({"times": (0.5, 0.5)}, "`times` must be positive and increasing, got (0.5, "),
        ({"times": ()}, "`times` must be positive and increasing, got ()."),
        ({"times": 0.0}, "`times` must be positive and increasing, got 0.0."),
        ({"dtype": jnp.int8}, "`dtype` must be a real floating dtype, got int8."),
    ],
)
def test_refusals(key, options, message):
    with pytest.raises(ValueError, match=re.escape(f"burgers_dataset: {message}")):
        burgers_dataset(key, **{"num_samples": 1, "resolution": 16} | options)


def test_a_number_is_an_int(key):
    with pytest.raises(TypeError, match="`num_samples` must be an int, got float"):
        burgers_dataset(key, 2.0, 16)


def test_without_exponax(key, monkeypatch):
    monkeypatch.setitem(sys.modules, "exponax", None)
    with pytest.raises(ImportError, match="burgers_dataset: needs exponax, which the"):
        burgers_dataset(key, 1, 16)
