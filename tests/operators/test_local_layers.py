"""Differential convolutions, local integrals and patches: loops and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate

from jaxarch.operators import (
    DifferentialConvParams,
    LocalIntegralParams,
    PatchEmbedParams,
    PatchExpandParams,
    differential_conv_apply,
    differential_conv_init,
    grid_points,
    local_integral_apply,
    local_integral_init,
    patch_embed_apply,
    patch_embed_init,
    patch_expand_apply,
    patch_expand_init,
)

apply_differential = jax.jit(
    differential_conv_apply, static_argnames=("boundary", "lengths")
)
apply_local = jax.jit(local_integral_apply, static_argnames=("boundary", "lengths"))
apply_embed = jax.jit(patch_embed_apply, static_argnames=("boundary", "lengths"))
apply_expand = jax.jit(
    patch_expand_apply, static_argnames=("shape", "boundary", "lengths")
)

BOUNDARIES = ("dirichlet", "neumann", "periodic")


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def beyond(u, index, boundary):
    """The value of a function on a grid at any indices, by its continuation."""
    sign, shift = 1.0, 0.0
    index = list(index)
    for axis, n in enumerate(u.shape[:-1]):
        i = index[axis]
        if boundary == "periodic":
            index[axis] = i % n
        elif not 0 <= i < n:
            end = 0 if i < 0 else n - 1
            index[axis] = 2 * end - i
            if boundary == "dirichlet":
                at_end = beyond(u, (*index[:axis], end, *index[axis + 1 :]), boundary)
                shift, sign = shift + sign * 2 * at_end, -sign
    if all(0 <= i < n for i, n in zip(index, u.shape[:-1], strict=True)):
        return shift + sign * u[tuple(index)]
    return shift + sign * beyond(u, index, boundary)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("num_dims", [1, 2])
def test_differential_conv_by_loops(key, boundary, num_dims):
    params = differential_conv_init(key, 2, 3, num_dims=num_dims, dtype=jnp.float64)
    shape = (5, 6)[:num_dims]
    u = np.random.default_rng(0).normal(size=(*shape, 2))
    ends = boundary != "periodic"
    spacing = [length / (n - ends) for length, n in zip((2, 3), shape, strict=False)]
    h = np.prod(spacing) ** (1 / num_dims)
    want = np.zeros((*shape, 3))
    for x in np.ndindex(shape):
        for k in itertools.product((-1, 0, 1), repeat=num_dims):
            there = beyond(u, [i + j for i, j in zip(x, k, strict=True)], boundary)
            taps = np.asarray(params.kernel[tuple(j + 1 for j in k)])
            want[x] += (there - u[x]) @ taps / h
    lengths = (2, 3)[:num_dims]
    got = apply_differential(params, jnp.asarray(u), boundary=boundary, lengths=lengths)
    np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_differential_conv_of_a_constant_is_zero(key, boundary):
    params = differential_conv_init(key, 1, 2, num_dims=3, dtype=jnp.float64)
    got = apply_differential(params, jnp.full((4, 4, 4, 1), 7.0), boundary=boundary)
    np.testing.assert_allclose(got, 0, atol=1e-12)


def errors(ns, error):
    found = np.asarray([error(n) for n in ns])
    return found, np.log2(found[:-1] / found[1:])


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_differential_conv_is_the_derivative_in_the_limit(key, boundary):
    def error(kernel, n):
        x = np.arange(n)[:, None] / (n if boundary == "periodic" else n - 1)
        # Any function, one with a slope of 0 at the ends, and a periodic one.
        u, slope = {
            "dirichlet": (np.exp(x), np.exp(x)),
            "periodic": (np.sin(2 * np.pi * x), 2 * np.pi * np.cos(2 * np.pi * x)),
        }.get(boundary, (np.cos(np.pi * x), -np.pi * np.sin(np.pi * x)))
        params = DifferentialConvParams(kernel=jnp.asarray(kernel)[:, None, None])
        got = apply_differential(params, u, boundary=boundary)
        along = kernel[2] - kernel[0]
        return np.abs(got - along * slope).max()

    ends = boundary != "periodic"
    ns = [n + ends for n in (32, 64, 128)]
    found, orders = errors(ns, lambda n: error([-0.3, 2.0, 1.0], n))
    assert (orders > 0.9).all(), orders
    _, orders = errors(ns, lambda n: error([-0.5, 0.0, 0.5], n))
    # At an end the odd continuation makes a one-sided difference of a central one.
    assert (orders > (0.95 if boundary == "dirichlet" else 1.95)).all(), orders


def test_differential_conv_is_a_directional_derivative_on_a_long_domain(key):
    params = differential_conv_init(key, 1, 1, num_dims=2, dtype=jnp.float64)
    kernel = np.asarray(params.kernel[..., 0, 0])
    direction = [(kernel[2] - kernel[0]).sum(), (kernel[:, 2] - kernel[:, 0]).sum()]

    def error(n):
        lengths = (1, 2)
        x, y = np.mgrid[:n, : 2 * n][..., None] / n
        u = np.sin(2 * np.pi * (x + y))
        slope = 2 * np.pi * sum(direction) * np.cos(2 * np.pi * (x + y))
        got = apply_differential(params, u, lengths=lengths)
        return np.abs(got - slope).max() / np.abs(slope).max()

    found, orders = errors((16, 32, 64), error)
    assert found[-1] < 0.1
    assert (orders > 0.9).all(), (found, orders)


def kernel_of(params, s):
    """The kernel of a local integral at `s`, by SciPy's splines."""
    *num_basis, _, _ = params.coefficients.shape
    total = np.asarray(params.coefficients)
    for r, k, at in zip(params.radius, num_basis, s, strict=True):
        gap = 2 * r / (k + params.degree)
        values = []
        for m in range(k):
            knots = -r + gap * (m + np.arange(params.degree + 2))
            spline = scipy.interpolate.BSpline.basis_element(knots, extrapolate=False)
            values.append(np.nan_to_num(spline(at)) / gap)
        total = np.tensordot(values, total, axes=(0, 0))
    return total


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("num_dims", [1, 2])
def test_local_integral_by_loops(key, boundary, num_dims):
    radius = (0.45, 0.9)[:num_dims]
    params = local_integral_init(
        key, 2, 3, radius=radius, num_dims=num_dims, dtype=jnp.float64
    )
    shape, lengths = (7, 6)[:num_dims], (1, 2)[:num_dims]
    u = np.random.default_rng(0).normal(size=(*shape, 2))
    ends = boundary != "periodic"
    h = [length / (n - ends) for length, n in zip(lengths, shape, strict=True)]
    reach = [int(r / step) for r, step in zip(radius, h, strict=True)]
    want = np.zeros((*shape, 3))
    for k in itertools.product(*[range(-m, m + 1) for m in reach]):
        kappa = kernel_of(params, [i * step for i, step in zip(k, h, strict=True)])
        for x in np.ndindex(shape):
            there = beyond(u, [i + j for i, j in zip(x, k, strict=True)], boundary)
            want[x] += np.prod(h) * there @ kappa
    got = apply_local(params, jnp.asarray(u), boundary=boundary, lengths=lengths)
    np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_local_integral_has_the_order_of_its_splines(key, degree):
    params = local_integral_init(
        key, 1, 1, radius=0.31, num_dims=1, degree=degree, dtype=jnp.float64
    )

    def wave(x):
        return np.exp(np.sin(2 * np.pi * x))

    knots = np.linspace(-0.31, 0.31, 3 + degree + 1)
    want = [
        sum(
            scipy.integrate.quad(
                lambda s, x=x: kernel_of(params, [s])[0, 0] * wave(x + s), a, b
            )[0]
            for a, b in itertools.pairwise(knots)
        )
        for x in (0, 0.25, 0.5, 0.75)
    ]

    def error(n):
        u = jnp.asarray(wave(np.arange(n) / n)[:, None])
        return np.abs(np.asarray(apply_local(params, u))[:: n // 4, 0] - want).max()

    # Where knots fall between points varies, and the error with it.
    coarse, fine = (max(map(error, ns)) for ns in ((16, 20, 28), (160, 200, 280)))
    assert fine < 1e-3
    assert np.log10(coarse / fine) > degree + 0.6, (coarse, fine)


def test_moments_of_patches_are_integrals(key):
    params = patch_embed_init(
        key, 1, 2, patch_size=0.5, num_dims=1, num_basis=3, dtype=jnp.float64
    )
    weight = np.asarray(params.weight)

    def tokens(f):
        legendre = [lambda s: 1, lambda s: s, lambda s: (3 * s**2 - 1) / 2]
        return [
            sum(
                scipy.integrate.quad(
                    lambda x, m=m, p=p: (
                        2 * np.sqrt(2 * m + 1) * legendre[m](4 * x - 2 * p - 1) * f(x)
                    ),
                    p / 2,
                    (p + 1) / 2,
                )[0]
                * weight[m, 0]
                for m in range(3)
            )
            for p in (0, 1)
        ]

    def cubic(x):
        return (x - 0.3) ** 3 + x

    # Edges of patches are no points of a grid of 8, and cubics are exact.
    x = np.linspace(0, 1, 8)[:, None]
    got = apply_embed(params, jnp.asarray(cubic(x)), boundary="neumann")
    np.testing.assert_allclose(got, tokens(cubic), atol=1e-12)

    def wave(x):
        return np.exp(np.sin(2 * np.pi * x))

    want = tokens(wave)
    found, orders = errors(
        (15, 30, 60),
        lambda n: np.abs(
            apply_embed(params, jnp.asarray(wave(np.arange(n) / n)[:, None]))
            - jnp.asarray(want)
        ).max(),
    )
    assert (orders > 3.5).all(), (found, orders)


@pytest.mark.parametrize("boundary", ["periodic", "dirichlet"])
def test_expanded_tokens_are_polynomials(key, boundary):
    params = patch_expand_init(
        key, 3, 2, patch_size=(0.5, 1), num_basis=2, dtype=jnp.float64
    )
    tokens = np.random.default_rng(0).normal(size=(2, 2, 3))
    shape, lengths = (5, 4), (1, 2)
    points = np.asarray(
        grid_points(shape, boundary=boundary, lengths=lengths, dtype=jnp.float64)
    )
    want = np.zeros((*shape, 2))
    for i in np.ndindex(shape):
        place = points[i] / [0.5, 1]
        patch = np.minimum(np.floor(place + 1e-12).astype(int), 1)
        s = 2 * (place - patch) - 1
        for m in np.ndindex(2, 2):
            size = np.prod([np.sqrt(3) * s[a] if m[a] else 1 for a in (0, 1)])
            want[i] += size * tokens[tuple(patch)] @ np.asarray(params.weight[m])
    got = apply_expand(
        params, jnp.asarray(tokens), shape=shape, boundary=boundary, lengths=lengths
    )
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_three_dimensions():
    """Of a constant, a patch has its mean, and a local integral that of its kernel."""
    rng = np.random.default_rng(0)
    u = jnp.ones((4, 4, 4, 2))
    weight = jnp.asarray(rng.normal(size=(2, 2, 2, 2, 3)))
    embed = PatchEmbedParams(weight=weight, bias=jnp.ones(3), patch_size=(0.5,) * 3)
    tokens = apply_embed(embed, u)
    want = np.broadcast_to(1 + weight[0, 0, 0].sum(0), (2, 2, 2, 3))
    np.testing.assert_allclose(tokens, want, atol=1e-12)

    # Hats with knots at points: sums of their values are their integrals.
    local = LocalIntegralParams(coefficients=weight, radius=(0.75,) * 3, degree=1)
    want = np.broadcast_to(weight.sum((0, 1, 2, 3)), (4, 4, 4, 3))
    np.testing.assert_allclose(apply_local(local, u), want, atol=1e-12)

    expand = PatchExpandParams(
        weight=jnp.swapaxes(weight, 3, 4), bias=jnp.ones(2), patch_size=(0.5,) * 3
    )
    token = jnp.broadcast_to(jnp.asarray([1.0, 0, 0])[None], (2, 2, 2, 3))
    got = np.asarray(apply_expand(expand, token, shape=(4, 4, 4)))
    x = np.sqrt(3) * np.asarray([-1, 0])
    basis = np.stack([np.ones(2), x], -1)
    want = 1 + np.einsum("ia,jb,kc,abcu->ijku", basis, basis, basis, weight[..., 0])
    np.testing.assert_allclose(got[:2, :2, :2], want, atol=1e-12)
    np.testing.assert_allclose(got[2:, 2:, 2:], want, atol=1e-12)


def _diff(**options):
    params = differential_conv_init(jax.random.key(0), 2, 3, num_dims=1)
    return lambda *shape: differential_conv_apply(params, jnp.ones(shape), **options)


def _init(function, *sizes, **options):
    return lambda: function(jax.random.key(0), *sizes, **options)


_LOCAL = LocalIntegralParams(coefficients=jnp.ones((3, 2, 3)), radius=(0.5,), degree=3)
_EMBED = patch_embed_init(jax.random.key(0), 2, 3, patch_size=0.5, num_dims=1)
_EXPAND = patch_expand_init(jax.random.key(0), 2, 3, patch_size=0.5, num_dims=1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (_init(differential_conv_init, 2, 0), ValueError, "`out_channels` must be at"),
        (_init(differential_conv_init, 2.0, 1), TypeError, "`in_channels` must be an"),
        (_init(differential_conv_init, 1, 1, num_dims=4), ValueError, "at most 3"),
        (_init(differential_conv_init, 1, 1, kernel_size=4), ValueError, "must be odd"),
        (_init(differential_conv_init, 1, 1, kernel_size=1), ValueError, "must be odd"),
        (_init(differential_conv_init, 1, 1, dtype=int), ValueError, "`dtype` must be"),
        (lambda: _diff(boundary="open")(8, 2), ValueError, "`boundary` must be one of"),
        (
            lambda: _diff()(5, 8, 2),
            ValueError,
            r"`u` must have shape \(n, 2\) \(one example; use jax.vmap",
        ),
        (lambda: _diff()(2, 2), ValueError, "`u` must have at least 3 poi"),
        (_init(local_integral_init, 1, 1, radius=-1), ValueError, "`radius` must be a"),
        (_init(local_integral_init, 1, 1, radius=1, num_dims=4), ValueError, "at most"),
        (_init(local_integral_init, 1, 1, radius=1, degree=4), ValueError, "`degree`"),
        (_init(local_integral_init, 1, 0, radius=1), ValueError, "`out_channels` must"),
        (_init(local_integral_init, 1, 1, radius=1, dtype=int), ValueError, "`dtype`"),
        (
            lambda: local_integral_apply(_LOCAL, jnp.ones((8, 2)), lengths=0.4),
            ValueError,
            r"`lengths` must be at least the radius \(0.5,\), got \(0.4,\)",
        ),
        (
            lambda: local_integral_apply(_LOCAL, jnp.ones((8, 3))),
            ValueError,
            "local_integral_apply: `u` must have shape",
        ),
        (_init(patch_embed_init, 1, 1, patch_size=0), ValueError, "`patch_size` must"),
        (_init(patch_embed_init, 1, 0, patch_size=1), ValueError, "`out_channels` mus"),
        (_init(patch_embed_init, 1, 1, patch_size=1, dtype=int), ValueError, "`dtype`"),
        (
            _init(patch_expand_init, 1, 1, patch_size=1, num_dims=4),
            ValueError,
            "patch_expand_init: `num_dims` must be at most 3",
        ),
        (
            lambda: patch_embed_apply(_EMBED, jnp.ones((8, 2)), lengths=1.2),
            ValueError,
            r"must be multiples of the size of a patch \(0.5,\), got \(1.2,\)",
        ),
        (
            lambda: patch_embed_apply(_EMBED, jnp.ones((8, 1))),
            ValueError,
            "patch_embed_apply: `u` must have shape",
        ),
        (
            lambda: patch_expand_apply(_EXPAND, jnp.ones((3, 2)), shape=(8,)),
            ValueError,
            r"`tokens` must have shape \(2, 2\) \(one example; use jax.vmap",
        ),
        (
            lambda: patch_expand_apply(_EXPAND, jnp.ones((2, 2)), shape=(8, 8)),
            ValueError,
            r"`shape` must have 1 entries, got \(8, 8\)",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
