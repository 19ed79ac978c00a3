"""Advection and diffusion-reaction against closed forms."""

import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.operators import (
    advection_dataset,
    diffusion_reaction_dataset,
    gaussian_random_field,
)
from jaxarch.operators._pde_datasets import solve_diffusion_reaction

DATASETS = advection_dataset, diffusion_reaction_dataset
SMALL = {"num_sensors": 12, "grid": (6, 5)}


def test_advection_translates_the_field(key):
    """The sum of the draws' waves at x - c t, from the field on a finer grid."""
    with jax.enable_x64(True):
        options = {"velocity": 0.5, "dtype": jnp.float64}
        u, y, s = advection_dataset(key, 2, num_sensors=10, grid=(20, 11), **options)
        fine = gaussian_random_field(
            jax.random.split(jax.random.fold_in(key, 1))[0],
            2.0,
            5.0,
            shape=(800,),
            sigma=25.0,
            num_modes=128,
            dtype=jnp.float64,
        )[:, 0]
    x, t = np.asarray(y).T.reshape(2, 20, 11)
    np.testing.assert_allclose(x, np.broadcast_to(np.arange(20)[:, None] / 20, x.shape))
    np.testing.assert_allclose(t, np.broadcast_to(np.arange(11) / 10, x.shape))
    np.testing.assert_allclose(u[1], fine[::80], atol=1e-12)
    at = np.rint((x - 0.5 * t) * 800).astype(int) % 800
    np.testing.assert_allclose(s[1].reshape(20, 11), fine[at], atol=1e-12)


def errors_of(solution, source, sizes, **options):
    """Largest errors at t = 0.4 and 1 on grids with so many intervals."""
    errors = []
    with jax.enable_x64(True):
        times = jnp.asarray([0.4, 1.0])
        for n in sizes:
            x = np.linspace(0, 1, n + 1)
            got = solve_diffusion_reaction(
                lambda t, x=x: source(x, t), times, n + 1, **options
            )
            want = [solution(x, t) for t in (0.4, 1.0)]
            errors.append(np.abs(np.asarray(got) - want).max())
    return errors


def test_order_2_for_a_manufactured_solution():
    d, k = 0.1, 2.0

    def solution(x, t):
        return np.sin(t) * np.sin(2 * np.pi * x)

    def source(x, t):
        wave = np.sin(2 * np.pi * x)
        s = jnp.sin(t) * wave
        return jnp.cos(t) * wave + d * 4 * np.pi**2 * s - k * s**2

    errors = errors_of(solution, source, (16, 32), diffusivity=d, reaction=k)
    order = math.log2(errors[0] / errors[1])
    assert 1.9 < order < 2.1, (order, errors)


def test_diffusion_against_its_fourier_series():
    def solution(x, t):
        rates = {j: 0.1 * (np.pi * j) ** 2 for j in (1, 3)}
        return sum(
            np.sin(j * np.pi * x) * (1 - np.exp(-rate * t)) / rate
            for j, rate in rates.items()
        )

    def source(x, t):
        return jnp.asarray(np.sin(np.pi * x) + np.sin(3 * np.pi * x))

    (error,) = errors_of(solution, source, (64,), diffusivity=0.1, reaction=0.0)
    # The eigenvalue of the grid is less by (3 pi h)^2 / 12 of itself: 1.8e-3.
    assert error < 3e-4, error


def test_diffusion_reaction_data_satisfy_the_equation(key):
    """Crank-Nicolson's residual of the rows, on the grid of the solver."""
    with jax.enable_x64(True):
        u, y, s = diffusion_reaction_dataset(
            key, 2, num_sensors=21, grid=(21, 201), reaction=0.3, dtype=jnp.float64
        )
        coarse = diffusion_reaction_dataset(
            key, 1, num_sensors=21, grid=(11, 3), refinement=2, reaction=0.3,
            dtype=jnp.float64,
        )  # fmt: skip
    assert y.shape == (21 * 201, 2)
    np.testing.assert_allclose(y[-2], [1, 199 / 200])
    s = np.asarray(s).reshape(2, 21, 201)
    np.testing.assert_array_equal(s[:, [0, -1]], 0)
    np.testing.assert_array_equal(s[:, :, 0], 0)
    inside = s[:, 1:-1]
    right = 0.01 * 400 * np.diff(s, 2, axis=1) + 0.3 * inside**2
    right += np.asarray(u)[:, 1:-1, None]
    trapezoids = (right[..., 1:] + right[..., :-1]) / 2
    np.testing.assert_allclose(np.diff(inside) * 200, trapezoids, atol=5e-3)
    np.testing.assert_allclose(coarse[0][0], u[0])
    np.testing.assert_allclose(coarse[2].reshape(11, 3), s[0, ::2, ::100], atol=1e-7)


@pytest.mark.parametrize("dataset", DATASETS)
def test_points_of_the_grid(dataset, key):
    u, y, s = dataset(key, 3, batch_size=2, progress=True, **SMALL)
    v, z, r = dataset(key, 2, num_points=9, dtype=jnp.bfloat16, **SMALL)
    assert (u.shape, y.shape, s.shape) == ((3, 12), (30, 2), (3, 30))
    assert (v.shape, z.shape, r.shape) == ((2, 12), (2, 9, 2), (2, 9))
    assert {a.dtype for a in (v, z, r)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(np.asarray(v, float), u[:2], rtol=1e-2)
    grid = np.asarray(y)
    places = [
        [int(np.abs(grid - p).sum(1).argmin()) for p in row]
        for row in np.asarray(z, float)
    ]
    assert all(len(set(row)) == 9 for row in places)
    assert places[0] != places[1]
    for i in range(2):
        got = np.asarray(r[i], float)
        np.testing.assert_allclose(got, s[i][np.asarray(places[i])], rtol=1e-2)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_sensors": 0}, "`num_sensors` must be at least 1, got 0."),
        ({"grid": (0, 5)}, "`grid[0]` must be at least 1, got 0."),
        ({"grid": (5, 2)}, "`grid` must be two numbers (positions, times) of at least"),
        ({"grid": (5, 5, 5)}, "`grid` must be two numbers (positions, times) of at"),
        (
            {"grid": (4, 3), "num_points": 13},
            "`num_points` must be at most the 12 points of the grid, got 13.",
        ),
        ({"dtype": jnp.int8}, "`dtype` must be a real floating dtype, got int8."),
    ],
)
def test_refusals(dataset, options, message, key):
    with pytest.raises(ValueError, match=re.escape(f"{dataset.__name__}: {message}")):
        dataset(key, 2, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_sensors": 1}, "`num_sensors` must be at least 2, got 1."),
        ({"refinement": 0}, "`refinement` must be at least 1, got 0."),
        ({"diffusivity": 0.0}, "`diffusivity` must be positive, got 0.0."),
        ({"length_scale": -1.0}, "`length_scale` must be positive, got -1.0."),
        ({"reaction": math.inf}, "`reaction` must be finite, got inf."),
    ],
)
def test_diffusion_reaction_refusals(options, message, key):
    message = f"diffusion_reaction_dataset: {message}"
    with pytest.raises(ValueError, match=re.escape(message)):
        diffusion_reaction_dataset(key, 2, **options)


def test_other_refusals(key, monkeypatch):
    with pytest.raises(ValueError, match="`velocity` must be finite, got nan."):
        advection_dataset(key, 2, velocity=math.nan)
    with pytest.raises(TypeError, match="`num_samples` must be an int, got float"):
        advection_dataset(key, 2.0)
    monkeypatch.setitem(sys.modules, "diffrax", None)
    message = "diffusion_reaction_dataset: needs diffrax, which the extra"
    with pytest.raises(ImportError, match=message):
        diffusion_reaction_dataset(key, 2)
