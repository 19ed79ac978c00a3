"""Gradients where the angle has none: equal, opposite and zero inputs.

There the NTK of a kinked map has a cone, whose derivative is taken to be the mean of
its one-sided ones. Central differences measure just that.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker

_RNG = np.random.default_rng(0)
A, B, C = _RNG.normal(size=(3, 3))
# generic, equal to it, opposite, parallel, another, a near duplicate of that, zero
POINTS = np.stack([A, A, -A, 2 * A, B, B + 1e-4 * C, 0 * A])
WEIGHTS = _RNG.normal(size=(2, len(POINTS), len(POINTS)))


def layers(nonlinearity, depth, b_std):
    def network(h, w_std, scale):
        b = None if b_std is None else scale * b_std
        for _ in range(depth):
            h = nonlinearity(ker.dense(h, 8, w_std=w_std, b_std=b))
        return ker.dense(h, 1, w_std=w_std, b_std=b)

    return network


def residual(h, w_std, scale):
    h = ker.dense(h, 8, w_std=w_std, b_std=scale * 0.2)
    u = ker.relu(h)
    return ker.dense(ker.relu(u + ker.dense(u, 8, w_std=w_std)), 1) if False else u


def same(h):
    return h


CASES = {
    "linear": (layers(same, 1, None), True),
    "tanh": (layers(ker.tanh, 1, None), True),
    "erf": (layers(ker.erf, 2, None), True),
    "relu with bias": (layers(ker.relu, 2, 0.3), True),
    "relu": (layers(ker.relu, 2, None), False),
    "deep relu": (layers(ker.relu, 7, None), False),
    "deep relu with bias": (layers(ker.relu, 7, 0.3), True),
    "absolute": (layers(ker.absolute, 2, None), False),
    "leaky_relu": (layers(ker.leaky_relu, 1, None), False),
    "elu": (layers(ker.elu, 1, 0.3), True),
    "rectified_monomial": (
        layers(functools.partial(ker.rectified_monomial, degree=2), 1, None),
        True,
    ),
}


def weigh(gram, weights):
    return (gram.nngp * weights[0]).sum() + (gram.ntk * weights[1]).sum()


def gradients(network, x, weights, hyper):
    """Gradients of weighted sums of K(x, y), K(x) and diag K(x), in the dtype of x."""
    x, weights = jnp.asarray(x), jnp.asarray(weights)

    def kernel(hyper):
        return ker.infinite(lambda h: network(h, *hyper))

    def cross(x, y, hyper):
        return weigh(kernel(hyper)(x, y), weights)

    def symmetric(x, hyper):
        return weigh(kernel(hyper)(x), weights)

    def diagonal(x, hyper):
        return weigh(kernel(hyper)(x, diagonal=True), weights[:, 0])

    return (
        jax.grad(cross, (0, 1, 2))(x, x, hyper),
        jax.grad(symmetric, (0, 1))(x, hyper),
        jax.grad(diagonal, (0, 1))(x, hyper),
    )
