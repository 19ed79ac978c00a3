"""Every function-space layer passes one test that the plain layer it replaces fails.

The same function is sampled at n, 2n and 4n points, and outputs are compared where all
have points, relative to the finer: changes fall at the order that the layer states. The
comparison is written out here, on its own.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxarch.layers import mlp_apply, mlp_init
from jaxarch.operators import (
    attention_integral,
    differential_conv_apply,
    differential_conv_init,
    domain_mean,
    domain_pad,
    fourier_positions,
    grid_points,
    grid_weights,
    instance_norm,
    integrate,
    kernel_integral_apply,
    kernel_integral_init,
    local_integral_apply,
    local_integral_init,
    patch_embed_apply,
    patch_embed_init,
    patch_expand_apply,
    patch_expand_init,
    pointwise,
    trapezoid_weights,
)

KEY = jax.random.key(0)
EXACT = np.inf


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def periodic(n):
    """Two smooth functions on a circle."""
    x = np.arange(n) / n
    return np.stack([np.exp(np.sin(2 * np.pi * x)), np.cos(2 * np.pi * x + 0.3)], -1)


def on_interval(n):
    """Two smooth functions on an interval with both ends."""
    x = np.linspace(0, 1, n + 1)
    return np.stack([np.exp(x), np.cos(2 * x + 0.3)], -1)


def changes(layer, field, ns=(32, 64, 128)):
    """How far outputs are apart at shared points, relative to the finer of the two."""
    outputs = [np.asarray(layer(jnp.asarray(field(n)))) for n in ns]
    lengths = [len(v) for v in outputs]
    if len(set(lengths)) > 1:
        ends = lengths[1] - 2 * (lengths[1] - lengths[0])  # 1 where both ends are
        outputs = [
            v[:: (m - ends) // (lengths[0] - ends)]
            for v, m in zip(outputs, lengths, strict=True)
        ]
    pairs = zip(outputs[:-1], outputs[1:], strict=True)
    return [np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]


def agrees(layer, field, order):
    first, second = changes(layer, field)
    if order == EXACT:
        return max(first, second) < 1e-12
    return second < 0.1 and second < first * 2 ** -(order - 0.3)


def conv(kernel, u):
    """A convolution of pixels."""
    u = jnp.concatenate([u[-1:], u, u[:1]])
    return lax.conv_general_dilated(
        u[None], kernel, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
    )[0]


def differential_conv():
    params = differential_conv_init(KEY, 2, 3, num_dims=1, dtype=jnp.float64)
    # The same kernel, its sum taken off in the middle, without the division by h.
    kernel = params.kernel.at[1].add(-params.kernel.sum(0))
    layer = functools.partial(differential_conv_apply, params)
    return layer, functools.partial(conv, kernel), periodic, 1


def local_integral():
    params = local_integral_init(KEY, 2, 3, radius=0.375, num_dims=1, dtype=jnp.float64)
    kernel = differential_conv_init(KEY, 2, 3, num_dims=1, dtype=jnp.float64).kernel
    layer = functools.partial(local_integral_apply, params)
    return layer, functools.partial(conv, kernel), periodic, 4


def uneven_points(n):
    t = np.arange(n) / n
    return t + 0.08 * np.sin(2 * np.pi * t)


def uneven(n):
    """Coordinates and two functions there, which are 0 at the queries.

    Sums over nearest neighbours go to a multiple of the function at the query.
    """
    y = uneven_points(n)
    wave = 2 * np.pi * y
    zeros = np.prod(np.sin(wave - 2 * np.pi * QUERIES), 0)
    return np.stack([y, zeros * np.exp(np.sin(wave)), zeros * np.cos(wave + 0.3)], -1)


QUERIES = np.asarray([[0.35], [0.5], [0.6]])


def kernel_integral(plain):
    params = kernel_integral_init(KEY, 2, 3, num_dims=1, hidden=(8,), dtype=jnp.float64)
    kernel = functools.partial(mlp_apply, activation=jnp.tanh)

    def integral(weights, radius, field):
        y, u, x = field[:, :1], field[:, 1:], jnp.asarray(QUERIES)
        return kernel_integral_apply(
            params, u, y, weights, x=x, radius=radius, kernel=kernel
        )

    def layer(field):
        weights = trapezoid_weights(field[:, 0], period=1.0)
        return integral(weights, 0.3, field)

    def unweighted(field):
        return integral(jnp.ones(len(field)), 0.3, field)

    def nearest(field, k=8):
        y, u = field[:, :1], field[:, 1:]
        out = []
        for x in QUERIES:
            near = jnp.argsort(jnp.abs(y[:, 0] - x[0]))[:k]
            pairs = jnp.concatenate([jnp.full((k, 1), x[0]), y[near]], -1)
            kappa = jax.vmap(lambda p: kernel(params.kernel, p))(pairs)
            out.append(jnp.einsum("joi,ji->o", kappa.reshape(k, 3, 2), u[near]) / k)
        return jnp.stack(out)

    return layer, {"sum": unweighted, "nearest": nearest}[plain], uneven, 2


def instance_normalisation():
    def layer(u):
        weights = grid_weights(u.shape[:1], boundary="neumann", dtype=u.dtype)
        return instance_norm(u, weights)

    def layer_norm(u):
        return (u - u.mean()) / jnp.sqrt(u.var() + 1e-5)

    return layer, layer_norm, on_interval, 2


def positions():
    def layer(u):
        x = grid_points(u.shape[:1], dtype=u.dtype)
        return u + fourier_positions(x, 1)

    def of_indices(u):
        i = jnp.arange(len(u), dtype=u.dtype)[:, None]
        return u + jnp.concatenate([jnp.sin(i / 10), jnp.cos(i / 10)], -1)

    return layer, of_indices, periodic, EXACT


def patches():
    embed = patch_embed_init(KEY, 2, 3, patch_size=0.25, num_dims=1, dtype=jnp.float64)
    expand = patch_expand_init(
        KEY, 3, 2, patch_size=0.25, num_dims=1, dtype=jnp.float64
    )
    weight = jax.random.normal(KEY, (4, 2, 3), jnp.float64)

    def layer(u):
        return patch_expand_apply(expand, patch_embed_apply(embed, u), shape=(len(u),))

    def of_pixels(u):
        return jnp.einsum("pkc,kco->po", u.reshape(-1, 4, 2), weight)

    return layer, of_pixels, periodic, 4


def padding():
    modes = jax.random.normal(KEY, (6, 2), jnp.float64)

    def low_pass(u):
        spectrum = jnp.fft.rfft(u, axis=0, norm="forward")[:6]
        spectrum = spectrum * modes.astype(spectrum.dtype)
        return jnp.fft.irfft(spectrum, len(u), axis=0, norm="forward")

    def layer(u):
        return low_pass(domain_pad(u, 0.5, boundary="neumann"))[: len(u)]

    def of_pixels(u):
        return low_pass(jnp.pad(u, ((0, 8), (0, 0))))[: len(u)]

    def bumps(n):
        x = np.linspace(0, 1, n + 1)
        return np.stack([np.sin(np.pi * x) ** 2, np.sin(2 * np.pi * x)], -1)

    return layer, of_pixels, bumps, 2


def read_out():
    def layer(u):
        return integrate(
            u, grid_weights(u.shape[:1], boundary="neumann", dtype=u.dtype)
        )

    return layer, lambda u: u.mean(0), on_interval, 2


def point_map():
    params = mlp_init(KEY, (2, 8, 3), dtype=jnp.float64)
    kernel = differential_conv_init(KEY, 2, 3, num_dims=1, dtype=jnp.float64).kernel
    layer = functools.partial(pointwise, functools.partial(mlp_apply, params))
    return layer, functools.partial(conv, kernel), periodic, EXACT


LAYERS = {
    "pointwise": point_map,
    "differential_conv": differential_conv,
    "local_integral": local_integral,
    "kernel_integral, sum": functools.partial(kernel_integral, "sum"),
    "kernel_integral, nearest": functools.partial(kernel_integral, "nearest"),
    "instance_norm": instance_normalisation,
    "fourier_positions": positions,
    "patches": patches,
    "domain_pad": padding,
    "integrate": read_out,
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_agrees_with_itself_and_the_plain_one_does_not(name):
    layer, plain, field, order = LAYERS[name]()
    assert agrees(jax.jit(layer), field, order), changes(layer, field)
    assert not agrees(jax.jit(plain), field, order), changes(plain, field)


def test_parameters_of_layer_norm_over_pixels_refuse_another_grid():
    scale = jnp.ones((32, 2))
    with pytest.raises(TypeError, match="incompatible shapes"):
        jnp.asarray(periodic(64)) * scale


@pytest.mark.parametrize("kind", ["softmax", "galerkin", "fourier"])
def test_attention_does_not_see_how_points_are_spread(kind):
    """Even and uneven samplings of one function: equal weights tell them apart."""
    projections = jax.random.normal(KEY, (3, 3, 1, 4), jnp.float64)

    def features(y):
        wave = 2 * np.pi * y
        return np.stack([np.exp(np.sin(wave)), np.cos(wave), np.sin(wave + 1)], -1)

    @jax.jit
    def attend(u, weights):
        q, k, v = jnp.einsum("ic,pchd->pihd", u, projections)
        q = jnp.einsum("ic,chd->ihd", jnp.asarray(features(QUERIES[:, 0])), q_matrix)
        return attention_integral(q, k, v, weights, kind=kind)

    q_matrix = projections[0]

    def gap(n, weighted):
        outputs = []
        for y in (np.arange(n) / n, uneven_points(n)):
            weights = trapezoid_weights(jnp.asarray(y), period=1.0)
            weights = weights if weighted else jnp.full(n, 1 / n)
            outputs.append(attend(jnp.asarray(features(y)), weights))
        return float(jnp.abs(outputs[0] - outputs[1]).max() / jnp.abs(outputs[0]).max())

    assert gap(128, True) < min(1e-3, gap(64, True) / 2**1.7)
    assert gap(128, False) > max(1e-2, gap(64, False) / 1.2)


def test_mean_over_an_uneven_sampling_needs_its_weights():
    y = uneven_points(64)
    weights = trapezoid_weights(jnp.asarray(y), period=1.0)
    u = jnp.asarray(
        np.sin(2 * np.pi * y)[:, None] ** 2 + np.cos(2 * np.pi * y)[:, None]
    )
    assert abs(float(domain_mean(u, weights)[0]) - 0.5) < 1e-3
    assert abs(float(domain_mean(u)[0]) - 0.5) > 0.1
