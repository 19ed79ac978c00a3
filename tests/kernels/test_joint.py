"""Dependent branches and shared parameters: closed forms, recursions, quadrature."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxarch import kernels as ker
from jaxarch.kernels._joint_gram import joint_gram

from .joint_networks import (
    RNG,
    STEPS,
    WIDTH,
    X,
    layer,
    recurrent,
    shared_gate,
    sigmoid,
    twice,
)
from .quadrature import dual
from .spatial_networks import NETWORKS, kernel_of, reference, stacked


def close(got, want, tolerance):
    want = np.asarray(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def grams(network, *args, **options):
    with jax.enable_x64(True):
        gram = ker.infinite(network)(*args, **options)
    return np.stack([gram.nngp, gram.ntk])


# --- functions of one Gaussian, written out ----------------------------------


def softplus(x):
    return jnp.logaddexp(x, 0.0)


WRITTEN_OUT = {
    "relu(u) + u": (
        lambda u: ker.relu(u) + u,
        lambda u: ker.abrelu(u, a=1.0, b=2.0),
        1e-15,
    ),
    "homogeneous, nested": (twice, lambda u: ker.abrelu(u, a=-0.5, b=3.0), 1e-14),
    "u sigmoid(u)": (lambda u: u * sigmoid(u), ker.silu, 1e-12),
    "u tanh(softplus(u))": (
        lambda u: u * ker.tanh(ker.elementwise(u, softplus)),
        ker.mish,
        1e-12,
    ),
    "u relu(u)": (
        lambda u: u * ker.relu(u),
        lambda u: ker.rectified_monomial(u, degree=2),
        1e-12,
    ),
    "relu(u)^3": (
        lambda u: ker.relu(u) * u * ker.relu(u),
        lambda u: ker.rectified_monomial(u, degree=3),
        1e-12,
    ),
    "erf(u)^2": (
        lambda u: ker.erf(u) * ker.erf(u),
        lambda u: ker.elementwise(u, lambda x: jax.lax.erf(x) ** 2),
        1e-12,
    ),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_written_out(name):
    """Against the closed form or the expansion of the same function."""
    written, ready, tolerance = WRITTEN_OUT[name]
    got, want = (
        grams(lambda h, f=f: ker.dense(f(layer(h)), 1, w_std=1.1), X)
        for f in (written, ready)
    )
    close(got, want, tolerance)


def test_written_out_is_one_operation():
    kernel = ker.infinite(lambda h: ker.dense(twice(layer(h)), 1))
    lines = str(kernel.graph).splitlines()
    assert len(lines) == 4
    u = "add(relu(u), scale(u, factor))"
    assert f"composite(h1, add(relu({u}), absolute({u})))" in lines[2]
    params = (layer_params := ker.finite(kernel)).init(jax.random.key(0), jnp.ones(5))
    x = jnp.linspace(-1.0, 1.0, 5)
    u = 1.3 * params[0].weight @ x / math.sqrt(5) + 0.2 * params[0].bias
    f = jnp.where(u < 0, -0.5 * u, 3 * u)
    got = layer_params.apply(params, x)
    np.testing.assert_allclose(got, params[1].weight @ f / 8, rtol=1e-5)


# --- shared parameters -------------------------------------------------------


def recurrence(f, derivative, x, *, kinked, mean):
    """The same in NumPy: all pairs of times, duals by quadrature."""
    n, steps, features = x.shape
    k = np.zeros((steps, steps, n, n))
    t = np.zeros_like(k)
    f_k, f_t = np.zeros_like(k), np.zeros_like(k)
    for s in range(steps):
        for r in range(s + 1):
            inputs = 1.2**2 * x[:, s] @ x[:, r].T / features + 0.3**2
            k[s, r], t[s, r] = inputs, inputs
            if r:
                k[s, r] += 1.4**2 * f_k[s - 1, r - 1]
                t[s, r] += 1.4**2 * (f_k[s - 1, r - 1] + f_t[s - 1, r - 1])
            k[r, s], t[r, s] = k[s, r].T, t[s, r].T
        for r in range(s + 1):
            for a in range(n):
                for b in range(n):
                    q1, q2 = k[s, s, a, a], k[r, r, b, b]
                    rho = np.clip(k[s, r, a, b] / np.sqrt(q1 * q2), -1, 1)
                    f_k[s, r, a, b] = dual(f, q1, q2, rho, kinked=kinked)
                    slope = dual(derivative, q1, q2, rho, kinked=kinked)
                    f_t[s, r, a, b] = slope * t[s, r, a, b]
            f_k[r, s], f_t[r, s] = f_k[s, r].T, f_t[s, r].T
    k, t = (a.sum((0, 1)) if mean else a[-1, -1] for a in (f_k, f_t))
    return np.stack([0.64 * k, 0.64 * (k + t)])


CELLS = {
    "tanh": (ker.tanh, np.tanh, lambda x: 1 - np.tanh(x) ** 2, False),
    "relu": (
        ker.relu,
        lambda x: np.maximum(x, 0),
        lambda x: np.where(x > 0, 1.0, 0.0),
        True,
    ),
}


@pytest.mark.parametrize(("cell", "mean"), [("tanh", False), ("relu", True)])
def test_recurrent_network_of_tied_weights(cell, mean):
    function, f, derivative, kinked = CELLS[cell]
    want = recurrence(f, derivative, STEPS, kinked=kinked, mean=mean)
    network = functools.partial(recurrent, ker, function=function, mean=mean)
    close(grams(network, STEPS), want, 1e-10)
    if mean:
        close(grams(network, STEPS[:2], STEPS[1:]), want[:, :2, 1:], 1e-7)
        single = ker.infinite(network)(STEPS.astype(np.float32))
        close(single.ntk, want[1], 1e-6)
        assert single.ntk.dtype == np.float32


def test_diagonal():
    def network(h):
        u = layer(h, name="V")
        return ker.relu(layer(ker.relu(u), name="V")) + u

    x = RNG.normal(size=(4, WIDTH))  # the matrix is used twice, so it is square
    full = grams(network, x)
    close(grams(network, x, diagonal=True), full[:, range(4), range(4)], 1e-14)
    pairs = grams(network, x[:2], x[2:], diagonal=True)
    close(pairs, full[:, [0, 1], [2, 3]], 1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["overlapping", "local", "regularised", "taken"])
def test_the_general_way_on_independent_branches(name):
    """Against full matrices, where the fast evaluation is right too."""
    network, x = NETWORKS[name]
    kernel, want = kernel_of(network), reference(network, x)
    with jax.enable_x64(True):
        x = jnp.asarray(x)
        own = kernel.graph, kernel.numbers
        gram = joint_gram(*own, x, None, ntk=True, diagonal=False)
        cross = joint_gram(*own, x[:2], x[2:], ntk=True, diagonal=False)
    close(stacked(gram), want, 1e-7)
    close(stacked(cross), want[:, :2, 2:], 1e-7)


# --- several Gaussians -------------------------------------------------------


def gauss_hermite(f, covariance, nodes=40):
    """Expectation over a Gaussian vector, by its eigenvectors."""
    size = len(covariance)
    z, weight = np.polynomial.hermite_e.hermegauss(nodes)
    weight = weight / weight.sum()
    values, vectors = np.linalg.eigh(covariance)
    axes = np.meshgrid(*[z] * size, indexing="ij")
    point = np.stack([a.ravel() for a in axes])
    point = vectors * np.sqrt(np.maximum(values, 0)) @ point
    product = functools.reduce(np.multiply.outer, [weight] * size).ravel()
    return f(*point) @ product


def linear(x):
    return 1.3**2 * x @ x.T / x.shape[1] + 0.2**2


def test_gated_linear_unit():
    """Two independent factors: their kernels multiply."""

    def network(h):
        return ker.dense(layer(h) * sigmoid(layer(h)), 1)

    k = linear(X)

    def gate(u, v):
        return 1 / ((1 + np.exp(-u)) * (1 + np.exp(-v)))

    def slope(u, v):
        a, b = gate(u, 0) * 2, gate(v, 0) * 2
        return a * (1 - a) * b * (1 - b)

    g, gd = np.zeros_like(k), np.zeros_like(k)
    for i, j in np.ndindex(k.shape):
        pair = k[np.ix_([i, j], [i, j])]
        g[i, j] = gauss_hermite(gate, pair, 60)
        gd[i, j] = gauss_hermite(slope, pair, 60)
    nngp = k * g
    ntk = nngp + k * g + k * gd * k
    close(grams(network, X), [nngp, ntk], 1e-9)


def shared_gate_reference(x):
    k = linear(x)
    inputs = x @ x.T / x.shape[1]  # of v, and its tangent kernel
    k_w, t_w = 1.69 * inputs + 0.04, 1.69 * inputs + 0.04 + 1.69 * inputs

    def sigma(x):
        return 1 / (1 + np.exp(-x))

    def f(u, w):
        return np.tanh(u) * sigma(w) + u * w

    def f_u(u, w):
        return (1 - np.tanh(u) ** 2) * sigma(w) + w

    def f_w(u, w):
        return np.tanh(u) * sigma(w) * (1 - sigma(w)) + u

    # u and w share V but their inputs x and v are uncorrelated: only the bias is common
    shared = np.full_like(k, 0.04)
    nngp, tangent = np.zeros_like(k), np.zeros_like(k)
    for i, j in np.ndindex(k.shape):
        table = np.array(
            [
                [k[i, i], shared[i, i], k[i, j], shared[i, j]],
                [shared[i, i], k_w[i, i], shared[i, j], k_w[i, j]],
                [k[i, j], shared[i, j], k[j, j], shared[j, j]],
                [shared[i, j], k_w[i, j], shared[j, j], k_w[j, j]],
            ]
        )

        def expect(f, g, table=table):
            return gauss_hermite(lambda a, b, c, d: f(a, b) * g(c, d), table, 24)

        nngp[i, j] = expect(f, f)
        tangent[i, j] = (
            expect(f_u, f_u) * k[i, j]
            + expect(f_w, f_w) * t_w[i, j]
            + (expect(f_u, f_w) + expect(f_w, f_u)) * shared[i, j]
        )
    return np.stack([nngp, nngp + tangent])


def test_four_dependent_gaussians():
    x = 0.4 * X[:3, :3]
    want = shared_gate_reference(x)

    def network(h):
        return shared_gate(h, 3)

    close(grams(network, x), want, 1e-5)
    with jax.enable_x64(True):
        error = ker.infinite(network).quadrature_error(x)
    assert np.abs(grams(network, x)[0] - want[0]).max() < np.asarray(error.nngp).max()
    assert np.asarray(error.nngp).max() < 1e-3


def test_a_kink_on_a_side_of_one_gaussian():
    """The mean of erf(v) u relu(v') by an integral over v' first."""

    def network(h):
        u = layer(h, name="V")
        v = layer(ker.dense(u, 3), name="V")
        return ker.dense(ker.erf(v) * u + ker.relu(v), 1)

    x = 0.4 * X[:3, :3]
    k, inputs = linear(x), x @ x.T / 3
    k_v = 1.69 * (1.69 * inputs + 0.04) + 0.04
    got = np.zeros_like(k)
    z, weight = np.polynomial.legendre.leggauss(60)
    z, weight = 5 * (z + 1), 5 * weight * np.exp(-((5 * (z + 1)) ** 2) / 2)
    weight = weight / np.sqrt(2 * np.pi)

    def half(i, j):
        """E erf(v_i) u_i relu(v_j): given v_j > 0, (u_i, v_i) are Gaussian."""
        cov = np.array([[k[i, i], 0.04], [0.04, k_v[i, i]]])
        cross = np.array([0.04, k_v[i, j]])
        rest = cov - np.outer(cross, cross) / k_v[j, j]
        mean = np.outer(cross, z) / np.sqrt(k_v[j, j])
        total = np.zeros_like(z)
        for n in range(len(z)):
            total[n] = gauss_hermite(
                lambda u, v, n=n: special.erf(v + mean[1, n]) * (u + mean[0, n]),
                rest,
                60,
            )
        return (np.sqrt(k_v[j, j]) * z * total) @ weight

    for i, j in np.ndindex(k.shape):
        table = np.zeros((4, 4))
        table[:2, :2] = [[k[i, i], 0.04], [0.04, k_v[i, i]]]
        table[2:, 2:] = [[k[j, j], 0.04], [0.04, k_v[j, j]]]
        table[:2, 2:] = [[k[i, j], 0.04], [0.04, k_v[i, j]]]
        table[2:, :2] = table[:2, 2:].T
        both = gauss_hermite(
            lambda u, v, a, b: special.erf(v) * u * special.erf(b) * a, table, 24
        )
        rho = min(k_v[i, j] / np.sqrt(k_v[i, i] * k_v[j, j]), 1.0)
        relu = dual(lambda x: np.maximum(x, 0), k_v[i, i], k_v[j, j], rho, kinked=True)
        got[i, j] = both + relu + half(i, j) + half(j, i)
    close(grams(network, x)[0], got, 1e-6)


def test_gradient_of_a_function_that_jumps():
    """Its slope in a network is not its derivative; its kernel is smooth."""

    def network(h):
        u = layer(h)
        return ker.dense(ker.sign(u) + ker.tanh(u), 1)

    with jax.enable_x64(True):
        x, step = jnp.asarray(X[:2, :3]), 1e-6
        value = jax.jit(lambda x: ker.infinite(network)(x[:1], x[1:]).nngp[0, 0])
        got = jax.grad(value)(x).ravel()
        for i, e in enumerate(np.eye(x.size).reshape(-1, *x.shape)):
            want = (value(x + step * e) - value(x - step * e)) / (2 * step)
            np.testing.assert_allclose(got[i], want, atol=1e-8)


def test_gradients():
    """Against differences, equal examples included."""

    def network(h, w_std):
        u = layer(h, name="V")
        v = ker.dense(ker.relu(u), WIDTH, w_std=w_std)
        f = ker.relu(v) + u * ker.relu(u)
        return ker.dense(f + v, 1)

    def weigh(x, w_std):
        gram = ker.infinite(lambda h: network(h, w_std))(x[:2], x[2:])
        weights = jnp.asarray([[0.7, -0.4], [1.1, 0.3]])
        return (jnp.sin(gram.nngp) * weights).sum() + (gram.ntk * weights).sum()

    with jax.enable_x64(True):
        x, w_std = jnp.asarray(X), jnp.asarray(1.3)
        value = jax.jit(weigh)
        got = jax.jit(jax.grad(weigh, (0, 1)))(x[:, :2], w_std)
        step = 1e-6
        for i, e in enumerate(np.eye(2 * len(X)).reshape(-1, len(X), 2)):
            up, down = (value(x[:, :2] + s * step * e, w_std) for s in (1, -1))
            want = (up - down) / (2 * step)
            assert abs(got[0].ravel()[i] - want) < 2e-5 * abs(got[0]).max(), i
        up, down = (value(x[:, :2], w_std + s * step) for s in (1, -1))
        np.testing.assert_allclose(got[1], (up - down) / (2 * step), rtol=1e-7)
