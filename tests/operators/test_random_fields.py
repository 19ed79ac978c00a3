"""Gaussian random fields: their modes by hand, and one function at every resolution."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.operators import gaussian_random_field


def eigenfunctions(boundary, x, length, num_modes):
    """Eigenfunctions of norm 1 by their definition, with their eigenvalues."""
    found = []
    for k in range(num_modes):
        if boundary == "periodic":
            waves = [np.cos, np.sin] if k else [np.cos]
            phase, value = 2 * math.pi * k * x / length, (2 * math.pi * k / length) ** 2
        else:
            waves = [np.cos if boundary == "neumann" else np.sin]
            phase, value = math.pi * k * x / length, (math.pi * k / length) ** 2
        for wave in waves:
            if boundary == "dirichlet" and k == 0:
                continue
            norm = math.sqrt((2 if k else 1) / length)
            found.append((norm * wave(phase), value))
    functions, values = zip(*found, strict=True)
    return np.stack(functions), np.array(values)


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
def test_covariance_is_that_of_the_operator(key, boundary):
    shape, lengths, num_modes, draws = (6, 5), (1.0, 2.0), 3, 20_000
    alpha, tau, sigma = 1.5, 2.0, 3.0
    draw = functools.partial(
        gaussian_random_field,
        shape=shape,
        lengths=lengths,
        num_modes=num_modes,
        boundary=boundary,
        sigma=sigma,
    )
    keys = jax.random.split(key, draws)
    fields = jax.jit(jax.vmap(lambda k: draw(k, alpha, tau)))(keys)
    assert fields.shape == (draws, *shape, 1)
    fields = np.asarray(fields, np.float64).reshape(draws, -1)

    last = 0 if boundary == "periodic" else 1
    (f, lf), (g, lg) = (
        eigenfunctions(boundary, np.arange(n) / (n - last) * length, length, num_modes)
        for n, length in zip(shape, lengths, strict=True)
    )
    both = np.einsum("ax,by->abxy", f, g).reshape(len(lf) * len(lg), -1)
    spectrum = sigma**2 * ((lf[:, None] + lg[None]).reshape(-1) + tau**2) ** -alpha
    want = np.einsum("k,kx,ky->xy", spectrum, both, both)
    spread = np.sqrt((want**2 + np.outer(np.diag(want), np.diag(want))) / draws)
    assert np.all(np.abs(fields.T @ fields / draws - want) <= 5 * spread + 1e-6)
    assert np.all(np.abs(fields.mean(0)) <= 5 * np.sqrt(np.diag(want) / draws) + 1e-6)


@pytest.mark.parametrize(
    ("boundary", "sizes"),
    [("periodic", (8, 16)), ("neumann", (9, 17)), ("dirichlet", (9, 17))],
)
def test_a_key_is_one_function(key, boundary, sizes):
    draw = functools.partial(
        gaussian_random_field, key, 2.0, 3.0, boundary=boundary, num_modes=6
    )
    coarse, fine = (draw(shape=(n, n)) for n in sizes)
    np.testing.assert_allclose(fine[::2, ::2], coarse, atol=1e-6)
    # What a finer grid adds without `num_modes` is the tail of the sum alone.
    held = {"periodic": 4}.get(boundary, 9)
    whole = gaussian_random_field(key, 2.0, 3.0, boundary=boundary, shape=(sizes[0],))
    part = functools.partial(gaussian_random_field, key, 2.0, 3.0, boundary=boundary)
    np.testing.assert_allclose(
        whole, part(shape=(sizes[1],), num_modes=held)[::2], atol=1e-6
    )


@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
def test_no_mean(key, boundary):
    draw = functools.partial(
        gaussian_random_field, key, 2.0, boundary=boundary, zero_mean=True
    )
    field = draw(0.0, shape=(17, 9))[..., 0]
    assert np.all(np.isfinite(field))
    if boundary == "neumann":  # the trapezoidal rule is exact on these cosines
        field = np.trapezoid(np.trapezoid(field, axis=0), axis=0)
    assert abs(np.mean(field)) <= 1e-5
    assert jnp.isfinite(jax.grad(lambda t: draw(t, shape=(4,)).sum())(0.0))


def test_dirichlet_fields_vanish_on_the_boundary(key):
    field = gaussian_random_field(key, 2.0, 0.0, shape=(5, 6, 7), boundary="dirichlet")
    for axis in range(3):
        ends = np.take(field, [0, -1], axis)
        np.testing.assert_allclose(ends, 0, atol=1e-6)


def test_dtypes(key):
    draw = functools.partial(gaussian_random_field, key, 2.0, 3.0, shape=(8,))
    narrow = draw(dtype=jnp.bfloat16)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow, draw().astype(jnp.bfloat16))
    with jax.enable_x64(True):
        assert draw(dtype=jnp.float64).dtype == jnp.float64
        assert draw().dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": ()}, r"`shape` must have one to three axes, got \(\)"),
        ({"shape": (2, 2, 2, 2)}, "`shape` must have one to three axes"),
        ({"shape": (3, 0)}, r"`shape\[1\]` must be at least 1, got 0"),
        (
            {"shape": (3, 1), "boundary": "neumann"},
            "`shape` must have two points or more along each axis where "
            "boundary='neumann'",
        ),
        ({"shape": (3,), "boundary": "open"}, "`boundary` must be one of 'dirichlet'"),
        ({"shape": (3,), "lengths": (1.0, 1.0)}, "entry for each of the 1 axes"),
        ({"shape": (3,), "num_modes": 0}, "`num_modes` must be at least 1"),
        ({"shape": (3,), "dtype": jnp.int32}, "`dtype` must be a real floating"),
    ],
)
def test_refusals(key, options, message):
    with pytest.raises(ValueError, match=message):
        gaussian_random_field(key, 2.0, 3.0, **options)


def test_a_size_is_an_int(key):
    with pytest.raises(TypeError, match=r"`shape\[0\]` must be an int, got float"):
        gaussian_random_field(key, 2.0, 3.0, shape=(3.0,))
