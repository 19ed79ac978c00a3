"""Spectral convolutions against neuralop and against sums over modes and points."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.operators import (
    SpectralConvParams,
    spectral_conv_apply,
    spectral_conv_init,
)

from . import golden

apply = jax.jit(spectral_conv_apply)


def golden_params(found, weight="w/weight.tensor", bias="w/bias"):
    weight = np.moveaxis(found[weight], (0, 1), (-2, -1))
    return SpectralConvParams(
        real=jnp.asarray(weight.real),
        imag=jnp.asarray(weight.imag),
        bias=jnp.asarray(found[bias].reshape(-1)),
    )


def test_golden_layer_and_gradients():
    found = golden.case("specconv_a")
    params, u = golden_params(found), np.moveaxis(found["in0"], 1, -1)

    @jax.jit
    def loss(params, u):
        out = jax.vmap(spectral_conv_apply, (None, 0))(params, u)
        return jnp.sum(out**2), out

    (_, out), (of_params, of_u) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        params, u
    )
    np.testing.assert_allclose(jnp.moveaxis(out, -1, 1), found["out"], atol=1e-6)
    np.testing.assert_allclose(
        jnp.moveaxis(of_u, -1, 1), found["gin0"], rtol=1e-6, atol=5e-6
    )
    weight = jnp.sqrt(jnp.sum(of_params.real**2) + jnp.sum(of_params.imag**2))
    norms = [jnp.linalg.norm(of_params.bias), weight]
    np.testing.assert_allclose(norms, found["gw_norms"], rtol=1e-6)


def beyond_its_domain(params, u, padding):
    """The formula on a grid with both ends, whose period is longer than the domain."""
    space, period = u.shape[:-1], 1 + 2 * padding
    weight = np.asarray(params.real) + 1j * np.asarray(params.imag)
    x = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in space), indexing="ij"), -1)
    rules = [np.r_[0.5, np.ones(n - 2), 0.5] / (n - 1) / period for n in space]
    rule = functools.reduce(np.multiply.outer, rules)[..., None]
    out = np.zeros((*space, weight.shape[-1]))
    for row in np.ndindex(*weight.shape[:-2]):
        k = np.array([r - m // 2 for r, m in zip(row, weight.shape, strict=False)])
        k[-1] = row[-1]
        wave = np.exp(2j * np.pi * (x @ k) / period)[..., None]
        coefficient = (rule * u * wave.conj()).sum(tuple(range(u.ndim - 1)))
        out += (2 if k[-1] else 1) * (coefficient @ weight[row] * wave).real
    return out + np.asarray(params.bias)


@pytest.mark.parametrize("padding", [0.0, 0.13])
@pytest.mark.parametrize(("num_modes", "space"), [((7,), (12,)), ((5, 4), (9, 8))])
def test_a_domain_with_ends_by_loops(num_modes, space, padding):
    with jax.enable_x64(True):
        params = spectral_conv_init(
            jax.random.key(0), 2, 3, num_modes, dtype=jnp.float64
        )
        u = jax.random.normal(jax.random.key(1), (*space, 2), jnp.float64)
        got = spectral_conv_apply(params, u, boundary="neumann", padding=padding)
    want = beyond_its_domain(params, np.asarray(u), padding)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)


def by_loops(params, u):
    """The formula of the docstring, a mode at a time."""
    space, num_axes = u.shape[:-1], u.ndim - 1
    weight = np.asarray(params.real) + 1j * np.asarray(params.imag)
    x = np.stack(np.meshgrid(*(np.arange(n) / n for n in space), indexing="ij"), -1)
    out = np.zeros((*space, weight.shape[-1]))
    for row in itertools.product(*map(range, weight.shape[:-2])):
        k = np.array([r - m // 2 for r, m in zip(row, weight.shape, strict=False)])
        k[-1] = row[-1]
        # An even grid has one of the two frequencies of n / 2 periods.
        low = [-(n // 2) for n in space]
        high = [(n - 1) // 2 for n in space[:-1]] + [space[-1] // 2]
        if (k < low).any() or (k > high).any():
            continue
        wave = np.exp(2j * np.pi * (x @ k))[..., None]
        coefficient = (u * wave.conj()).mean(tuple(range(num_axes))) @ weight[row]
        both = 1 if k[-1] == 0 or 2 * k[-1] == space[-1] else 2
        out += both * (coefficient * wave).real
    return out if params.bias is None else out + np.asarray(params.bias)


@pytest.mark.parametrize(
    ("num_modes", "space"),
    [
        ((5,), (8,)),
        ((4, 6), (8, 10)),
        ((5, 4), (9, 7)),
        ((3, 4, 3), (4, 6, 5)),
        # More modes than points, even and odd.
        ((12,), (8,)),
        ((9, 12), (6, 8)),
        ((8, 9), (5, 7)),
        ((6, 6), (6, 6)),
        # So many modes that the FFT is used.
        ((70, 3), (72, 4)),
        ((160,), (161,)),
    ],
)
def test_sums_over_modes_and_points(key, num_modes, space):
    with jax.enable_x64(True):
        params = spectral_conv_init(key, 2, 3, num_modes, dtype=jnp.float64)
        u = np.random.default_rng(0).normal(size=(*space, 2))
        np.testing.assert_allclose(apply(params, u), by_loops(params, u), atol=1e-12)


def band_limited(space, num_axes, channels=2, top=3, seed=1):
    """A function of frequencies up to `top`, at points j / n."""
    rng = np.random.default_rng(seed)
    x = np.stack(np.meshgrid(*(np.arange(n) / n for n in space), indexing="ij"), -1)
    out = 0
    for k in itertools.product(range(-top, top + 1), repeat=num_axes):
        amplitude = rng.normal(size=channels) + 1j * rng.normal(size=channels)
        out = out + (amplitude * np.exp(2j * np.pi * (x @ k))[..., None]).real
    return out


def gap(function, n, num_axes):
    """The largest difference at shared points of the outputs at n and 2 n."""
    coarse, fine = (
        np.asarray(function(band_limited((m,) * num_axes, num_axes)))
        for m in (n, 2 * n)
    )
    return abs(fine[(slice(None, None, 2),) * num_axes] - coarse).max()


@pytest.mark.parametrize(("num_axes", "n"), [(1, 8), (1, 9), (2, 8), (2, 7), (3, 8)])
def test_a_band_limited_function_has_one_output(key, num_axes, n):
    with jax.enable_x64(True):
        # Up to 5 modes of 8 would do; the others are there and see nothing.
        params = spectral_conv_init(key, 2, 3, (10,) * num_axes, dtype=jnp.float64)
        assert gap(functools.partial(apply, params), n, num_axes) < 1e-11


@pytest.mark.parametrize("num_axes", [1, 2])
def test_a_plain_convolution_has_not(num_axes):
    kernel = np.random.default_rng(2).normal(size=(3,) * num_axes + (2, 3))
    layout = ("NHC"[:1] + "HW"[:num_axes] + "C", "HW"[:num_axes] + "IO")

    def convolve(u):
        u = np.pad(u, [(1, 1)] * num_axes + [(0, 0)], mode="wrap")
        return jax.lax.conv_general_dilated(
            u[None],
            kernel,
            (1,) * num_axes,
            "VALID",
            dimension_numbers=(*layout, layout[0]),
        )[0]

    with jax.enable_x64(True):
        assert gap(convolve, 8, num_axes) > 1


def test_initial_variances(key):
    params = spectral_conv_init(key, 30, 50, (16, 16))
    assert params.real.shape == (16, 9, 30, 50)
    power = jnp.mean(params.real**2 + params.imag**2)
    np.testing.assert_allclose(power, 2 / 80, rtol=0.02)
    assert params.bias.shape == (50,)
    assert spectral_conv_init(key, 2, 3, (4,), bias=False).bias is None


def test_a_layer_without_bias_is_linear(key):
    params = spectral_conv_init(key, 2, 3, (4, 4), bias=False)
    u = jax.random.normal(key, (2, 6, 6, 2))
    got = apply(params, 2 * u[0] - u[1])
    want = 2 * apply(params, u[0]) - apply(params, u[1])
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((2, 3, ()), ValueError, "`num_modes` must have one entry for each of one to"),
        ((2, 3, (4,) * 4), ValueError, "to three axes of space, got (4, 4, 4, 4)"),
        ((2, 3, (4, 0)), ValueError, "`num_modes[1]` must be at least 1, got 0"),
        ((0, 3, (4,)), ValueError, "`in_channels` must be at least 1, got 0"),
        ((2, 3.0, (4,)), TypeError, "`out_channels` must be an int, got float"),
    ],
)
def test_init_errors(key, args, error, message):
    with pytest.raises(error, match="spectral_conv_init: .*" + re.escape(message)):
        spectral_conv_init(key, *args)


def test_dtype_and_shape_errors(key):
    with pytest.raises(ValueError, match="`dtype` must be a real floating dtype"):
        spectral_conv_init(key, 2, 3, (4,), dtype=jnp.complex64)
    params = spectral_conv_init(key, 2, 3, (4, 4))
    message = r"`u` must have shape \(n, n, 2\) \(one example; use jax.vmap for a batch"
    with pytest.raises(ValueError, match=message):
        spectral_conv_apply(params, jnp.ones((5, 8, 8, 2)))
    with pytest.raises(ValueError, match=r"\(n, n, 2\) .*, got \(8, 8, 3\)"):
        spectral_conv_apply(params, jnp.ones((8, 8, 3)))
