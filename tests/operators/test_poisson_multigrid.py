"""With classical stencils the V-cycle is a solver: factors, solutions, boundaries."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import operators as op

POINTS = {"dirichlet": -1, "neumann": 1, "periodic": 0}
PAD = {"dirichlet": "constant", "neumann": "reflect", "periodic": "wrap"}


def minus_laplacian(u, h, boundary):
    padded, out = np.pad(u, 1, mode=PAD[boundary]), 2.0 * u.ndim * u
    for axis in range(u.ndim):
        for side in (0, 2):
            index = [slice(1, -1)] * u.ndim
            index[axis] = slice(side, side + u.shape[axis])
            out = out - padded[tuple(index)]
    return out / h**2


def cycles(num_points, num_dims, boundary, f, u, num_cycles):
    """The residuals' norms, and the last iterate."""
    with jax.enable_x64(True):
        params = op.poisson_multigrid_params(
            num_points,
            num_dims=num_dims,
            boundary=boundary,
            length=2.0,
            dtype=jnp.float64,
        )
        cycle = jax.jit(op.multigrid_apply)
        h, norms = 2.0 / (num_points - POINTS[boundary]), []
        for _ in range(num_cycles):
            residual = f - minus_laplacian(u, h, boundary)
            norms.append(np.linalg.norm(residual))
            u = u + np.asarray(cycle(params, jnp.asarray(residual[..., None])))[..., 0]
    return norms, u


@pytest.mark.parametrize("boundary", sorted(POINTS))
@pytest.mark.parametrize(
    "k",
    [
        5,
        pytest.param(7, marks=pytest.mark.slow),
        pytest.param(9, marks=pytest.mark.slow),
    ],
)
def test_a_cycle_converges_like_the_textbook(boundary, k):
    n = 2**k + POINTS[boundary]
    u = np.random.default_rng(0).standard_normal((n, n))
    norms, _ = cycles(n, 2, boundary, 0.0, u, 13)
    assert max(norms[i + 1] / norms[i] for i in range(9, 12)) <= 0.15


@pytest.mark.parametrize("num_dims", [1, 3])
def test_lines_and_volumes_converge_too(num_dims):
    u = np.random.default_rng(0).standard_normal((15,) * num_dims)
    norms, _ = cycles(15, num_dims, "dirichlet", 0.0, u, 9)
    assert norms[8] / norms[7] < {1: 0.1, 3: 0.2}[num_dims]


@pytest.mark.parametrize("boundary", sorted(POINTS))
def test_cycles_solve_the_discrete_equation(boundary):
    n = 16 + POINTS[boundary]
    x = np.arange(n) / 8.0 + (0.125 if boundary == "dirichlet" else 0)
    wave = np.sin if boundary == "dirichlet" else np.cos
    modes = {"dirichlet": (1, 3), "neumann": (1, 3), "periodic": (2, 4)}[boundary]
    # An eigenfunction of the discrete operator, with its exact eigenvalue.
    a, b = (np.pi * m / 2 for m in modes)
    h = 2.0 / 16
    want = np.outer(wave(a * x), wave(b * x))
    eigenvalue = (4 - 2 * np.cos(a * h) - 2 * np.cos(b * h)) / h**2
    _, u = cycles(n, 2, boundary, eigenvalue * want, np.zeros((n, n)), 16)
    if boundary != "dirichlet":
        u = u - u[0, 0] + want[0, 0]
    np.testing.assert_allclose(u, want, rtol=0, atol=1e-11)


def test_zeros_on_the_way_up_spoil_other_boundaries():
    params = op.poisson_multigrid_params(32, boundary="periodic")
    spoilt = dataclasses.replace(params, boundary_up="zero")
    wave = jnp.cos(2 * jnp.pi * jnp.arange(32.0) / 32)
    f = jnp.broadcast_to(wave[:, None, None], (32, 32, 1))
    right, wrong = (jax.jit(op.multigrid_apply)(p, f) for p in (params, spoilt))
    # The data do not change along the second axis, so neither should the solution.
    assert float(jnp.ptp(right, axis=1).max()) < 1e-6
    assert float(jnp.ptp(wrong, axis=1).max()) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": 32}, r"`num_points` must be 2\^k-1 with k >= 1 for dirichlet"),
        ({"num_points": 32, "boundary": "neumann"}, r"2\^k\+1 .* neumann .*, got 32"),
        (
            {"num_points": 33, "boundary": "periodic"},
            r"2\^k with .* periodic .*, got 33",
        ),
        ({"num_points": 31, "boundary": "reflective"}, "`boundary` must be one of"),
        ({"num_points": 31, "num_dims": 4}, "`num_dims` must be one of"),
        ({"num_points": 31, "num_pre": 0}, "`num_pre` must be at least 1"),
        ({"num_points": 31, "num_post": -1}, "`num_post` must be at least 0"),
        ({"num_points": 31, "dtype": int}, "`dtype` must be a real floating"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        op.poisson_multigrid_params(**options)
