"""Grids, weights, interpolation, padding and what acts at points, by closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.signal

from jaxarch.operators import (
    domain_mean,
    domain_pad,
    domain_unpad,
    fourier_positions,
    grid_points,
    grid_weights,
    instance_norm,
    integrate,
    pointwise,
    resample,
    trapezoid_weights,
)

U = np.random.default_rng(0).normal(size=(6, 5, 2))


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def test_points_of_both_kinds_of_grids():
    periodic = grid_points((4, 2), lengths=(2.0, 3.0))
    assert periodic.shape == (4, 2, 2)
    np.testing.assert_allclose(periodic[:, 1, 0], [0, 0.5, 1, 1.5])
    np.testing.assert_allclose(periodic[0, :, 1], [0, 1.5])
    for boundary in ("dirichlet", "neumann"):
        ends = grid_points((5,), boundary=boundary, lengths=2, dtype=jnp.float64)
        np.testing.assert_allclose(ends[:, 0], [0, 0.5, 1, 1.5, 2])


def test_weights_are_those_of_scipy():
    x = np.sort(np.random.default_rng(1).uniform(size=9))
    f = np.exp(x)
    weights = trapezoid_weights(jnp.asarray(x))
    np.testing.assert_allclose(weights @ f, scipy.integrate.trapezoid(f, x))
    around = trapezoid_weights(jnp.asarray(x), period=1.5)
    closed = scipy.integrate.trapezoid([*f, f[0]], [*x, x[0] + 1.5])
    np.testing.assert_allclose(around @ f, closed)

    weights = grid_weights((6, 5), boundary="neumann", lengths=(1, 2), dtype=float)
    axes = [np.linspace(0, 1, 6), np.linspace(0, 2, 5)]
    inner = scipy.integrate.trapezoid(U, axes[1], axis=1)
    want = scipy.integrate.trapezoid(inner, axes[0], axis=0)
    np.testing.assert_allclose(integrate(jnp.asarray(U), weights), want)
    np.testing.assert_allclose(domain_mean(jnp.asarray(U), weights), want / 2)
    np.testing.assert_allclose(domain_mean(jnp.asarray(U)), U.mean((0, 1)))


@pytest.mark.parametrize(("n", "m"), [(6, 15), (7, 12), (8, 8), (12, 5)])
def test_spectral_resampling_is_that_of_scipy(n, m):
    u = np.random.default_rng(0).normal(size=(n, 2))
    # A finer grid that holds the coarse one, then the points that are asked for.
    fine = scipy.signal.resample(u, n * m)[::n]
    np.testing.assert_allclose(resample(jnp.asarray(u), (m,)), fine, atol=1e-12)


def test_cubic_resampling_is_exact_for_cubics_and_keeps_shared_points():
    x = [np.asarray(grid_points((n,), boundary="neumann", dtype=float)) for n in (6, 9)]
    cubic = [(a - 0.3) ** 3 - a for a in x]
    got = resample(jnp.asarray(cubic[0]), (9,), boundary="neumann")
    np.testing.assert_allclose(got, cubic[1], atol=1e-13)
    for options in ({}, {"method": "cubic"}):
        finer = resample(jnp.asarray(U), (12, 5), **options)
        np.testing.assert_allclose(finer[::2], U, atol=1e-12)
    few = resample(jnp.asarray(U[:2]), (3, 5), boundary="dirichlet")
    np.testing.assert_allclose(few[1], (U[0] + U[1]) / 2)


def test_padding_makes_a_periodic_grid_of_the_same_length():
    for n in (9, 17, 33):
        u = jnp.ones((n, 1))
        padded = domain_pad(u, 0.25)
        assert padded.shape == (
            (n - 1) * 5 // 4,
            1,
        )  # a period of 1.25 with h = 1/(n-1)
        assert float(padded.sum()) == n
        np.testing.assert_array_equal(domain_unpad(padded, (n,)), u)
    assert domain_pad(jnp.ones((8, 8, 1)), (0.5, 0), boundary="periodic").shape == (
        12,
        8,
        1,
    )


def test_pointwise_commutes_with_the_choice_of_points():
    def f(x):
        return jnp.stack([x.sum(), jnp.sin(x[0]), x[1] ** 2])

    u = jnp.asarray(U)
    got = pointwise(f, u)
    want = [[[a + b, np.sin(a), b**2] for a, b in row] for row in U]
    np.testing.assert_allclose(got, want)
    np.testing.assert_array_equal(pointwise(f, u[::2, 1:]), got[::2, 1:])


def test_instance_norm_has_the_means_of_the_weights():
    weights = np.random.default_rng(1).uniform(size=(6, 5))
    scale, bias = np.asarray([2.0, 0.5]), np.asarray([-1.0, 3.0])
    want = np.empty_like(U)
    for c in range(2):
        mean = (weights * U[..., c]).sum() / weights.sum()
        variance = (weights * (U[..., c] - mean) ** 2).sum() / weights.sum()
        normed = (U[..., c] - mean) / np.sqrt(variance + 1e-5)
        want[..., c] = scale[c] * normed + bias[c]
    got = instance_norm(*map(jnp.asarray, (U, weights)), scale=scale, bias=bias)
    np.testing.assert_allclose(got, want, atol=1e-12)
    constant = jax.grad(lambda u: instance_norm(u).sum())(jnp.ones((4, 1)))
    assert np.isfinite(constant).all()


def test_positions_are_functions_of_coordinates():
    x = np.asarray([[0.1, 0.7], [0.4, 0.2]])
    got = fourier_positions(jnp.asarray(x), 2, lengths=(1, 2))
    turns = np.stack([x[:, 0], 2 * x[:, 0], x[:, 1] / 2, x[:, 1]], -1)
    want = np.concatenate([np.sin(2 * np.pi * turns), np.cos(2 * np.pi * turns)], -1)
    np.testing.assert_allclose(got, want, atol=1e-14)
    ends = fourier_positions(jnp.asarray([[0.0], [1.0]]), 1, boundary="dirichlet")
    np.testing.assert_allclose(ends, [[0, 1], [0, -1]], atol=1e-14)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: grid_points((4,), boundary="open"), ValueError, "`boundary` must be"),
        (lambda: grid_points((4.0,)), TypeError, r"`shape\[0\]` must be an int"),
        (lambda: grid_points((0,)), ValueError, r"`shape\[0\]` must be at least 1"),
        (
            lambda: grid_weights((4, 1), boundary="neumann"),
            ValueError,
            r"`shape\[1\]` must be at least 2 with boundary='neumann', got 1",
        ),
        (lambda: grid_points((4,), dtype=int), ValueError, "`dtype` must be"),
        (lambda: grid_weights((4,), dtype=int), ValueError, "`dtype` must be"),
        (
            lambda: grid_points((4, 4), lengths=(1, 0)),
            ValueError,
            r"`lengths` must be a positive number, or 2 of them, got \(1, 0\)",
        ),
        (lambda: trapezoid_weights(jnp.ones((3, 1))), ValueError, "`x` must have sh"),
        (lambda: trapezoid_weights(jnp.ones(1)), ValueError, "at least two points"),
        (
            lambda: integrate(jnp.ones((4, 1)), jnp.ones(3)),
            ValueError,
            r"integrate: `weights` must have shape \(4,\), got \(3,\)",
        ),
        (
            lambda: domain_mean(jnp.ones((4, 1)), jnp.ones(3)),
            ValueError,
            "domain_mean: `weights` must",
        ),
        (lambda: resample(jnp.ones((4, 1)), (4, 4)), ValueError, "`u` must have shape"),
        (
            lambda: resample(jnp.ones((4, 1)), (4,), method="linear"),
            ValueError,
            "`method` must be one of",
        ),
        (
            lambda: resample(
                jnp.ones((4, 1)), (4,), method="spectral", boundary="neumann"
            ),
            ValueError,
            '`boundary` must be "periodic" with method="spectral"',
        ),
        (
            lambda: pointwise(jnp.sum, jnp.ones(3)),
            ValueError,
            r"`u` must have shape \(\*space, channels\)",
        ),
        (
            lambda: pointwise(jnp.sum, jnp.ones((4, 3))),
            ValueError,
            r"`f` must give a vector at a point, got shape \(\)",
        ),
        (
            lambda: instance_norm(jnp.ones((4, 3)), scale=jnp.ones(2)),
            ValueError,
            "`scale` must have shape",
        ),
        (
            lambda: instance_norm(jnp.ones((4, 3)), jnp.ones(3)),
            ValueError,
            "instance_norm: `weights` must have shape",
        ),
        (
            lambda: fourier_positions(jnp.ones((4, 1)), 0),
            ValueError,
            "`num_frequencies` must be at least 1",
        ),
        (lambda: fourier_positions(jnp.ones(()), 1), ValueError, "`x` must have shape"),
        (lambda: domain_pad(jnp.ones(3), 0.5), ValueError, "`u` must have shape"),
        (
            lambda: domain_pad(jnp.ones((9, 1)), 0.01),
            ValueError,
            "`fraction` must be at least 0.125 with 9 points, got 0.01",
        ),
        (
            lambda: domain_pad(jnp.ones((9, 1)), -0.5, boundary="periodic"),
            ValueError,
            "`fraction` must be at least 0 with 9 points",
        ),
        (
            lambda: domain_unpad(jnp.ones((9, 1)), (10,)),
            ValueError,
            r"`shape` must be at most \(9,\), got \(10,\)",
        ),
        (lambda: domain_unpad(jnp.ones((9, 1)), (9, 9)), ValueError, "`u` must have"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
