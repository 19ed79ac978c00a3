"""Kernel integrals and attention on clouds: loops, SciPy and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.spatial

from jaxarch.layers import mlp_apply
from jaxarch.operators import (
    AttentionIntegralParams,
    KernelIntegralParams,
    RadiusNeighbors,
    attention_integral,
    attention_integral_apply,
    attention_integral_init,
    kernel_integral_apply,
    kernel_integral_init,
    radius_neighbors,
    trapezoid_weights,
)

RNG = np.random.default_rng(0)
Y, X = RNG.uniform(size=(12, 2)), RNG.uniform(size=(5, 2))
U, W = RNG.normal(size=(12, 2)), RNG.uniform(0.5, 1.5, size=12)

apply_kernel = jax.jit(
    kernel_integral_apply, static_argnames=("radius", "window", "kernel")
)
attend = jax.jit(attention_integral, static_argnames="kind")


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def loops(params, x, radius, window):
    """The sum, a pair at a time, with the network in NumPy."""
    weights = [np.asarray(w) for w in params.kernel.weights]
    out = []
    for query in x:
        total = 0
        for y, u, w in zip(Y, U, W, strict=True):
            square = ((y - query) ** 2).sum() / radius**2
            if square > 1:
                continue
            kappa = weights[1] @ np.maximum(weights[0] @ np.concatenate([query, y]), 0)
            omega = (1 - square) ** 2 if window == "smooth" else 1
            value = kappa * u if params.diagonal else kappa.reshape(-1, 2) @ u
            total = total + w * omega * value
        out.append(total)
    return np.stack(out)


@pytest.mark.parametrize("window", ["smooth", "sharp"])
@pytest.mark.parametrize("diagonal", [False, True])
def test_kernel_integral_by_loops(key, window, diagonal):
    params = kernel_integral_init(
        key, 2, 2 if diagonal else 3, hidden=(4,), diagonal=diagonal, dtype=jnp.float64
    )
    arrays = tuple(map(jnp.asarray, (U, Y, W)))
    want = loops(params, X, 0.5, window)
    options = {"radius": 0.5, "window": window}
    got = apply_kernel(params, *arrays, x=jnp.asarray(X), **options)
    np.testing.assert_allclose(got, want, atol=1e-12)
    listed = radius_neighbors(Y, X, radius=0.5, max_neighbors=11)
    got = apply_kernel(params, *arrays, x=jnp.asarray(X), neighbors=listed, **options)
    np.testing.assert_allclose(got, want, atol=1e-12)
    got = apply_kernel(params, *arrays, **options)
    np.testing.assert_allclose(got, loops(params, Y, 0.5, window), atol=1e-12)


@pytest.mark.parametrize("num_dims", [1, 2, 3])
def test_neighbors_are_those_of_a_tree(num_dims):
    y, x = RNG.normal(size=(60, num_dims)), RNG.normal(size=(20, num_dims))
    for queries in (None, x):
        found = radius_neighbors(y, queries, radius=0.7)
        wanted = scipy.spatial.cKDTree(y).query_ball_point(
            y if queries is None else queries, 0.7
        )
        got = [
            i[m].tolist()
            for i, m in zip(*map(np.asarray, (found.indices, found.mask)), strict=True)
        ]
        assert got == [sorted(w) for w in wanted]
        assert found.mask.shape[1] == max(map(len, wanted))


def uneven(n):
    """Points of a circle of length 1 that are up to three times as dense."""
    t = np.arange(n) / n
    return t + 0.08 * np.sin(2 * np.pi * t)


def gaussian(width, pair):
    return jnp.exp(-((pair[:1] - pair[1:]) ** 2) / width**2)


@pytest.mark.parametrize("sampling", [uneven, lambda n: (np.arange(n) + 0.5) / n])
def test_kernel_integral_is_the_integral_at_second_order(sampling):
    params = KernelIntegralParams(kernel=jnp.asarray(0.2), diagonal=False)

    def wave(y):
        return np.exp(np.sin(2 * np.pi * y))

    want = [
        scipy.integrate.quad(
            lambda y, x=x: (
                (1 - ((y - x) / 0.3) ** 2) ** 2
                * np.exp(-(((y - x) / 0.2) ** 2))
                * wave(y)
            ),
            x - 0.3,
            x + 0.3,
        )[0]
        for x in (0.4, 0.5, 0.6)
    ]
    errors = []
    for n in (32, 64, 128):
        y = sampling(n)
        weights = trapezoid_weights(jnp.asarray(y), period=1.0)
        x = jnp.asarray([[0.4], [0.5], [0.6]])
        u = jnp.asarray(wave(y)[:, None])
        got = apply_kernel(
            params, u, y[:, None], weights, x=x, radius=0.3, kernel=gaussian
        )
        errors.append(np.abs(np.asarray(got)[:, 0] - want).max())
    assert errors[-1] < 1e-3
    assert errors[0] / errors[-1] > 2 ** (2 * 1.9), errors


def test_a_point_twice_with_half_its_weight_changes_nothing(key):
    params = kernel_integral_init(key, 2, 3, hidden=(4,), dtype=jnp.float64)
    again = [*range(12), 3]
    halved = W[again] * np.where(np.asarray(again) == 3, 0.5, 1)
    twice = U[again], Y[again], halved
    got, want = (
        apply_kernel(params, *map(jnp.asarray, a), x=jnp.asarray(X), radius=0.6)
        for a in (twice, (U, Y, W))
    )
    np.testing.assert_allclose(got, want, atol=1e-12)

    heads = RNG.normal(size=(3, 12, 2, 4))
    for kind in ("softmax", "galerkin", "fourier"):
        q, k, v = map(jnp.asarray, heads)
        want = attend(q, k, v, jnp.asarray(W), kind=kind)
        index = jnp.asarray(again)
        got = attend(q, k[index], v[index], jnp.asarray(halved), kind=kind)
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("kind", ["softmax", "galerkin", "fourier"])
def test_attention_by_loops(kind):
    q, k, v = RNG.normal(size=(5, 2, 4)), *RNG.normal(size=(2, 12, 2, 4))

    def normed(x):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5)

    want = np.zeros((5, 2, 4))
    for i, h in np.ndindex(5, 2):
        total = 0
        for j in range(12):
            if kind == "softmax":
                factor = W[j] * np.exp(q[i, h] @ k[j, h] / 2)
                total += factor
                want[i, h] += factor * v[j, h]
            elif kind == "galerkin":
                total += W[j]
                want[i, h] += W[j] * (q[i, h] @ normed(k[j, h])) * normed(v[j, h])
            else:
                total += W[j]
                want[i, h] += W[j] * (normed(q[i, h]) @ normed(k[j, h])) * v[j, h]
        want[i, h] /= total
    got = attend(*map(jnp.asarray, (q, k, v, W)), kind=kind)
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_softmax_attention_with_equal_weights_is_that_of_jax():
    q, k, v = map(jnp.asarray, RNG.normal(size=(3, 12, 2, 4)))
    with jax.numpy_dtype_promotion("standard"):  # it takes logits to float32
        want = jax.nn.dot_product_attention(q, k, v)
    got = attend(q, k, v, jnp.full(12, 0.25))
    np.testing.assert_allclose(got, want, atol=1e-6)

    into, out = jnp.asarray(RNG.normal(size=(3, 6, 2, 4))), RNG.normal(size=(2, 4, 5))
    params = AttentionIntegralParams(
        query=into[0],
        key=into[1],
        value=into[2],
        output=jnp.asarray(out),
        kind="softmax",
    )
    u, at = map(jnp.asarray, RNG.normal(size=(2, 12, 6)))
    q, k, v = (
        np.einsum("ic,chd->ihd", a, w)
        for a, w in ((at, params.query), (u, params.key), (u, params.value))
    )
    with jax.numpy_dtype_promotion("standard"):
        want = jax.nn.dot_product_attention(*map(jnp.asarray, (q, k, v)))
    want = np.einsum("ihd,hdo->io", want, params.output)
    got = attention_integral_apply(params, u, jnp.ones(12), at=at)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_a_point_without_weight_does_not_count():
    q, k, v = map(jnp.asarray, RNG.normal(size=(3, 12, 2, 4)))
    weights = jnp.asarray(W).at[5].set(0)
    want = attend(q, k, v, weights)

    def of_hidden(size):
        return attend(q, k.at[5].set(size), v.at[5].set(3.0), weights)

    got, slope = jax.jvp(of_hidden, (jnp.asarray(1e6),), (jnp.ones(()),))
    np.testing.assert_allclose(got, want, atol=1e-12)
    np.testing.assert_array_equal(slope, 0)
    gradient = jax.grad(lambda k: attend(q, k, v, weights).sum())(k.at[5].set(1e6))
    assert np.isfinite(gradient).all()


def _kernel(u=U, y=Y, w=W, **options):
    params = kernel_integral_init(jax.random.key(0), 2, 3, hidden=(4,))
    arrays = [jnp.asarray(a, jnp.float32) for a in (u, y, w)]
    return lambda: kernel_integral_apply(params, *arrays, **{"radius": 0.5, **options})


def _diagonal():
    params = KernelIntegralParams(kernel=None, diagonal=True)
    return kernel_integral_apply(
        params,
        *map(jnp.asarray, (U, Y, W)),
        radius=0.5,
        kernel=lambda _, pair: pair[:3],
    )


def _attention(q=(5, 2, 4), k=(12, 2, 4), v=(12, 2, 4), w=(12,), **options):
    return lambda: attention_integral(*map(jnp.ones, (q, k, v, w)), **options)


_INIT = functools.partial(kernel_integral_init, jax.random.key(0))
_HEADS = functools.partial(attention_integral_init, jax.random.key(0))
_LIST = RadiusNeighbors(indices=jnp.zeros((4, 3), int), mask=jnp.ones((5, 3), bool))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: radius_neighbors(Y[0], radius=1), ValueError, "`y` must have shape"),
        (lambda: radius_neighbors(Y, X[:, :1], radius=1), ValueError, "`x` must have"),
        (lambda: radius_neighbors(Y, radius=0), ValueError, "`radius` must be a posi"),
        (
            lambda: radius_neighbors(Y, radius=2, max_neighbors=3),
            ValueError,
            "`max_neighbors` must be at least 12, the points around one query, got 3",
        ),
        (lambda: _INIT(2, 0), ValueError, "`out_channels` must be at least 1"),
        (lambda: _INIT(2, 2, dtype=int), ValueError, "`dtype` must be"),
        (
            lambda: _INIT(2, 3, diagonal=True),
            ValueError,
            "`out_channels` must be 2, the channels of the input, for a diagonal",
        ),
        (_kernel(y=Y[0]), ValueError, "`y` must have shape"),
        (_kernel(u=U[0]), ValueError, "`u` must have shape"),
        (_kernel(u=U[:5]), ValueError, r"`u` must have shape \(12, 2\)"),
        (_kernel(w=W[:5]), ValueError, r"`weights` must have shape \(12,\)"),
        (_kernel(x=np.ones(3, np.float32)), ValueError, "`x` must have shape"),
        (
            _kernel(x=np.ones((5, 3), np.float32)),
            ValueError,
            r"`x` must have shape \(5, 2\)",
        ),
        (_kernel(radius=-1.0), ValueError, "`radius` must be a positive number"),
        (_kernel(window="hat"), ValueError, "`window` must be one of"),
        (_kernel(neighbors=_LIST), ValueError, "`neighbors.indices` must have shape"),
        (
            _kernel(kernel=lambda p, pair: mlp_apply(p, pair)[:3]),
            ValueError,
            "`kernel` must give a vector of a multiple of 2 numbers for 2 channels, "
            r"got shape \(3,\)",
        ),
        (_diagonal, ValueError, r"a vector of 2 numbers .* got shape \(3,\)"),
        (lambda: _HEADS(6, 0), ValueError, "`out_channels` must be at least 1"),
        (lambda: _HEADS(6, 6, kind="linear"), ValueError, "`kind` must be one of"),
        (lambda: _HEADS(6, 6, head_dim=0), ValueError, "`head_dim` must be at least"),
        (lambda: _HEADS(8, 6, dtype=int), ValueError, "`dtype` must be"),
        (
            lambda: _HEADS(6, 6, num_heads=4),
            ValueError,
            "`num_heads` must divide `in_channels`, 6, without a `head_dim`, got 4",
        ),
        (_attention(kind="linear"), ValueError, "`kind` must be one of"),
        (_attention(k=(12, 4)), ValueError, "`k` must have shape"),
        (_attention(q=(5, 2, 3)), ValueError, "`q` must have shape"),
        (_attention(v=(11, 2, 3)), ValueError, "`v` must have shape"),
        (_attention(w=(11,)), ValueError, "`weights` must have shape"),
        (
            lambda: attention_integral_apply(
                _HEADS(4, 4), jnp.ones((3, 5)), jnp.ones(3)
            ),
            ValueError,
            r"`u` must have shape \(3, 4\)",
        ),
        (
            lambda: attention_integral_apply(
                _HEADS(4, 4), jnp.ones((3, 4)), jnp.ones(3), at=jnp.ones((2, 5))
            ),
            ValueError,
            r"`at` must have shape \(2, 4\)",
        ),
        (
            lambda: attention_integral_apply(
                _HEADS(4, 4), jnp.ones((3, 4)), jnp.ones(4)
            ),
            ValueError,
            "attention_integral_apply: `weights` must have shape",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
