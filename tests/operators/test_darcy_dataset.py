"""Darcy flow: a sparse direct solution, manufactured ones, and the data sets."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from jaxarch.operators import darcy_dataset, gaussian_random_field, solve_darcy

solve = jax.jit(solve_darcy)
PI = math.pi


def direct(a, f):
    """The finite volume equations, cell by cell, and a sparse direct solution."""
    nx, ny = a.shape
    hx, hy = 1 / (nx - 1), 1 / (ny - 1)
    matrix = scipy.sparse.lil_array((nx * ny, nx * ny))
    right = np.zeros(nx * ny)
    for i in range(nx):
        for j in range(ny):
            row = i * ny + j
            if i in (0, nx - 1) or j in (0, ny - 1):
                matrix[row, row] = 1
                continue
            right[row] = f[i, j]
            for k, m, h in (
                (i - 1, j, hx),
                (i + 1, j, hx),
                (i, j - 1, hy),
                (i, j + 1, hy),
            ):
                flux = 2 / (1 / a[i, j] + 1 / a[k, m]) / h**2
                matrix[row, row] += flux
                matrix[row, k * ny + m] -= flux
    return scipy.sparse.linalg.spsolve(matrix.tocsr(), right).reshape(nx, ny)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)]
)
def test_a_direct_solution(dtype, tolerance):
    rng = np.random.default_rng(0)
    a, f = np.exp(rng.standard_normal((13, 10))), rng.standard_normal((13, 10))
    want = direct(a, f)
    with jax.enable_x64(True):
        got = solve(*(jnp.asarray(v[..., None], dtype) for v in (a, f)))
    assert got.dtype == dtype
    assert (
        np.abs(np.asarray(got)[..., 0] - want).max() <= tolerance * np.abs(want).max()
    )


def smooth(x, y):
    """A solution, its coefficient and source by hand."""
    a = 1 + x * y
    u = np.sin(PI * x) * np.sin(2 * PI * y)
    f = 5 * PI**2 * a * u
    f -= y * PI * np.cos(PI * x) * np.sin(2 * PI * y)
    f -= x * 2 * PI * np.sin(PI * x) * np.cos(2 * PI * y)
    return a, u, f


def jump(x, y, left=1.0, right=10.0):
    r"""$a$ jumps at x = 1/2, where $u = v(x) \sin \pi y$ has a kink and $a v'$ none.

    $a v' = \cos \pi x + c$, and c makes v vanish at both ends.
    """
    c = 2 / PI * (1 / right - 1 / left) / (1 / left + 1 / right)
    a = np.where(x < 0.5, left, right)
    primitive = np.sin(PI * x) / PI + c * x
    v = np.where(x < 0.5, primitive, primitive - c) / a
    u = v * np.sin(PI * y)
    return a, u, (PI * np.sin(PI * x) + a * PI**2 * v) * np.sin(PI * y)


@pytest.mark.parametrize(("problem", "sizes"), [(smooth, (17, 33)), (jump, (16, 32))])
def test_second_order(problem, sizes):
    """The jump lies half-way between points, whose number is even."""
    errors = []
    for n in sizes:
        x = np.linspace(0, 1, n)
        a, u, f = problem(*np.meshgrid(x, x, indexing="ij"))
        with jax.enable_x64(True):
            got = solve(jnp.asarray(a[..., None]), jnp.asarray(f[..., None]))
        errors.append(np.abs(np.asarray(got)[..., 0] - u).max())
    ratio = (sizes[1] - 1) / (sizes[0] - 1)
    assert math.log(errors[0] / errors[1], ratio) >= 1.9


def test_maximum_principle(key):
    """The mean, an energy, lies between those for the largest and least coefficient."""
    a, u = darcy_dataset(key, 3, 17, refinement=1)
    assert np.all(u >= 0)
    one = solve(jnp.ones((17, 17, 1))).mean()
    mean = u.mean((1, 2, 3))
    assert np.all((one / 12 <= mean) & (mean <= one / 3))
    # No minimum inside: at every interior point a neighbour is lower.
    v = np.asarray(u)[..., 0]
    ends = v[:, :-2, 1:-1], v[:, 2:, 1:-1], v[:, 1:-1, :-2], v[:, 1:-1, 2:]
    assert np.all(np.min(ends, axis=0) < v[:, 1:-1, 1:-1])
    for end in (0, -1):
        assert np.all(u[:, end] == 0)
        assert np.all(u[:, :, end] == 0)


def test_bfloat16():
    a = jnp.ones((9, 9, 1), jnp.bfloat16)
    got = solve(a)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, solve(a.astype(float)).astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("kind", "values", "tau_squared"),
    [("smooth", (3, 12), 9.0), ("rough", (2, 12), 20.0)],
)
def test_data_are_what_they_say(key, kind, values, tau_squared):
    a, u = darcy_dataset(key, 2, 17, kind=kind, refinement=2)
    assert a.shape == u.shape == (2, 17, 17, 1)
    assert set(np.unique(a)) == set(values)
    field = functools.partial(
        gaussian_random_field,
        jax.random.fold_in(key, 1),
        2.0,
        math.sqrt(tau_squared),
        boundary="neumann",
        num_modes=128,
        zero_mean=True,
    )
    fine = np.where(field(shape=(33, 33)) >= 0, values[1], values[0])
    np.testing.assert_array_equal(a[1], fine[::2, ::2])
    with jax.enable_x64(True):
        want = solve(jnp.asarray(fine, float))[::2, ::2]
    np.testing.assert_allclose(u[1], want, atol=1e-5 * np.abs(want).max())


def test_a_key_is_one_list_of_functions(key):
    a, u = darcy_dataset(key, 3, 9, refinement=4, batch_size=2, progress=True)
    fine, v = darcy_dataset(key, 2, 17, refinement=2)
    np.testing.assert_array_equal(fine[:, ::2, ::2], a[:2])
    np.testing.assert_allclose(v[:, ::2, ::2], u[:2], atol=1e-6)
    assert not np.array_equal(a[0], a[1])
    (b, _) = darcy_dataset(jax.random.key(1), 2, 17, refinement=2, dtype=jnp.bfloat16)
    assert b.dtype == jnp.bfloat16
    assert not np.array_equal(b, fine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "wavy"}, "`kind` must be one of 'smooth', 'rough', got 'wavy'"),
        ({"resolution": 2}, "`resolution` must be at least 3, got 2"),
        ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
        ({"refinement": 0}, "`refinement` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"dtype": jnp.int32}, "`dtype` must be a real floating dtype, got int32"),
    ],
)
def test_data_refusals(key, options, message):
    with pytest.raises(ValueError, match=f"darcy_dataset: {message}"):
        darcy_dataset(key, **{"num_samples": 1, "resolution": 9, **options})


def test_a_number_is_an_int(key):
    with pytest.raises(TypeError, match="`resolution` must be an int, got float"):
        darcy_dataset(key, 1, 9.0)


@pytest.mark.parametrize(
    ("shape", "source", "message"),
    [
        ((9, 9), 1.0, r"`coefficient` must have shape \(nx, ny, 1\), got \(9, 9\)"),
        ((9, 2, 1), 1.0, r"three points or more along each axis, got \(9, 2, 1\)"),
        ((9, 9, 2), 1.0, r"`coefficient` must have shape \(nx, ny, 1\)"),
        ((9, 9, 1), np.ones((9, 9)), r"`source` must be a number or have shape"),
    ],
)
def test_solver_refusals(shape, source, message):
    with pytest.raises(ValueError, match=f"solve_darcy: .*{message}"):
        solve_darcy(jnp.ones(shape), source)
