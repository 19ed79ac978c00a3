"""Depth for free: the series in the angle against the recursion it replaces.

`diagonal=True` always takes the recursion, which other tests prove on its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker
from jaxarch.kernels._angular import num_terms

DEPTH = 6


def plain(h):
    for _ in range(DEPTH):
        h = ker.relu(ker.dense(h, 8, w_std=1.5, b_std=None))
    return ker.dense(h, 1, b_std=None)


def leaky_residual(h):
    h = ker.dense(h, 8, b_std=None)
    for _ in range(DEPTH):
        h = h + 0.7 * ker.dense(ker.leaky_relu(h, alpha=-0.3), 8, b_std=None)
    return h


def kinked_branches(h):
    h = ker.dense(h, 8, b_std=None)
    for _ in range(DEPTH):
        wide = ker.dense(ker.relu(h), 16, w_std=1.3, b_std=None)
        both = ker.concatenate([ker.absolute(h), ker.relu(wide)])
        h = ker.dense(both, 8, b_std=None, parameterization="standard")
    return ker.relu(h) + ker.relu(ker.dense(ker.relu(h), 8, b_std=None))


def points(dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 5))
    near = x[:3] + 1e-4 * rng.normal(size=(3, 5))
    return jnp.asarray(np.concatenate([x, near, -x[:2]]), dtype)


@pytest.mark.parametrize("network", [plain, leaky_residual, kinked_branches])
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-11), ("float32", 5e-6)])
def test_series_agrees_with_the_recursion(network, dtype, rtol):
    with jax.enable_x64(dtype == "float64"):
        x = points(dtype)
        kernel = ker.infinite(network)
        assert num_terms(kernel.graph, x.dtype.itemsize) > 0
        got = kernel(x[:9], x[5:])
        i, j = np.meshgrid(np.arange(9), np.arange(5, 14), indexing="ij")
        want = kernel(x[i.ravel()], x[j.ravel()], diagonal=True)
        own = kernel(x, diagonal=True)
        for name in ("nngp", "ntk"):
            scale = np.sqrt(getattr(own, name))
            error = getattr(got, name).ravel() - getattr(want, name)
            bound = rtol * scale[i.ravel()] * scale[j.ravel()]
            assert np.all(np.abs(error) <= bound)


def biased(h):
    return plain(ker.dense(h, 8, b_std=0.1))


def curved(h):
    return ker.gelu(plain(h))


def data_mean(h):
    return plain(h + ker.relu(ker.dense(h, 5, b_std=None)))


@pytest.mark.parametrize("network", [biased, curved, data_mean])
def test_other_networks_keep_the_recursion(network):
    assert num_terms(ker.infinite(network).graph, 4) == 0


@pytest.mark.slow
def test_gradients_are_those_of_the_recursion():
    with jax.enable_x64(True):
        x = points("float64")
        a, b = x[:4], x[4:8]

        def matrix(a, w_std):
            kernel = ker.infinite(
                lambda h: plain(ker.dense(h, 8, w_std=w_std, b_std=None))
            )
            return jnp.diagonal(kernel(a, b).ntk).sum()

        def pairs(a, w_std):
            kernel = ker.infinite(
                lambda h: plain(ker.dense(h, 8, w_std=w_std, b_std=None))
            )
            return kernel(a, b, diagonal=True).ntk.sum()

        got = jax.grad(matrix, (0, 1))(a, 1.1)
        want = jax.grad(pairs, (0, 1))(a, 1.1)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-9)


def test_a_zero_input_has_finite_gradients():
    kernel = ker.infinite(plain)
    x = points("float32")[:3].at[0].set(0.0)
    value, gradient = jax.value_and_grad(lambda x: kernel(x, x[1:]).ntk.sum())(x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
