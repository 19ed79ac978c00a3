"""Sums, products, concatenations, normalisation and dropout; what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker

from . import textbook
from .monte_carlo import assert_monte_carlo

# Their features have means that are not zero.
X = np.random.default_rng(1).normal(size=(5, 4)) + 0.7
WIDTH = 128


def sum_of_rectified(ops, h):
    u = ops.relu(ops.dense(h, WIDTH, w_std=1.3, b_std=0.2))
    return u + ops.dense(u, WIDTH, w_std=1.1)


def sum_after_the_input(ops, h):
    u = h + ops.relu(ops.dense(h, 4, w_std=1.2, b_std=0.3))
    return ops.dense(u, WIDTH, b_std=0.1)


def two_means(ops, h):
    u = ops.relu(ops.dense(h, WIDTH, w_std=1.3)) + ops.relu(ops.dense(h, WIDTH))
    v = u + ops.absolute(ops.dense(u, WIDTH, w_std=0.8, b_std=0.2))
    return ops.dense(v, WIDTH)


def difference(ops, h):
    u = ops.relu(ops.dense(h, WIDTH)) - ops.exp(ops.dense(h, WIDTH, w_std=0.4))
    return ops.dense(u, WIDTH)


def multiple(ops, h):
    u = -0.5 * ops.relu(ops.dense(h, WIDTH, w_std=1.3, b_std=0.2))
    return ops.dense(u + ops.relu(ops.dense(u, WIDTH)) / 2.0, WIDTH)


def product(ops, h):
    u = ops.relu(ops.dense(h, WIDTH, w_std=1.3)) * ops.dense(h, WIDTH, b_std=0.5)
    return ops.dense(u, WIDTH)


def product_of_means(ops, h):
    a, b = (ops.dense(h, WIDTH, w_std=w, b_std=0.4) for w in (1.2, 0.9))
    u = ops.relu(a) * ops.absolute(b)
    return u + ops.relu(ops.dense(u, WIDTH))


def product_with_the_input(ops, h):
    u = h * ops.relu(ops.dense(h, 4, b_std=0.2))
    return ops.dense(u, WIDTH)


def joined(ops, h):
    u = ops.relu(ops.dense(h, 3 * WIDTH // 4, w_std=1.3, b_std=0.2))
    v = ops.erf(ops.dense(h, WIDTH // 4, w_std=0.8))
    return ops.dense(ops.concatenate([u, v]), WIDTH)


def joined_dependent(ops, h):
    """Branches of a concatenation may share parameters; the input may be one."""
    u = ops.dense(h, WIDTH, w_std=1.3, b_std=0.2)
    return ops.dense(ops.concatenate([u, ops.relu(u), h]), WIDTH, b_std=0.1)


def joined_plus_centred(ops, h):
    u = ops.relu(ops.dense(h, WIDTH // 2))
    both = ops.concatenate([u, ops.erf(ops.dense(h, WIDTH // 2))])
    return ops.dense(both + ops.dense(both, WIDTH), WIDTH)


def normalised(ops, h):
    u = ops.layer_norm(ops.relu(ops.dense(h, WIDTH, b_std=0.3)), eps=0.05)
    v = ops.relu(ops.dense(ops.layer_norm(h), WIDTH))
    return ops.dense(u + v, WIDTH)


def normalised_sum(ops, h):
    u = ops.relu(ops.dense(h, WIDTH, b_std=0.3))
    return ops.dense(ops.layer_norm(u + ops.relu(ops.dense(u, WIDTH))), WIDTH)


def dropped(ops, h):
    u = ops.dropout(ops.relu(ops.dense(h, WIDTH, b_std=0.3)), rate=0.3)
    v = ops.dropout(ops.dense(u, WIDTH), rate=0.1)
    return ops.dense(u + v, WIDTH)


def standard(ops, h):
    options = {"parameterization": "standard", "w_std": 1.3}
    u = ops.dense(h, WIDTH // 2, b_std=0.2, s=(1.0, 2.0), **options)
    u = ops.dense(ops.relu(u), WIDTH // 4, b_std=0.0, s=(2.0, 4.0), **options)
    return ops.dense(ops.erf(u), WIDTH, b_std=None, s=(4.0, 1.0), **options)


def standard_joined(ops, h):
    options = {"parameterization": "standard"}
    u = ops.relu(ops.dense(h, WIDTH // 2, w_std=1.3, b_std=0.2, **options))
    v = ops.erf(ops.dense(h, WIDTH // 4, b_std=0.1))
    return ops.dense(ops.concatenate([u, v]), WIDTH, b_std=0.3, **options)


NETWORKS = [
    sum_of_rectified,
    sum_after_the_input,
    two_means,
    difference,
    multiple,
    product,
    product_of_means,
    product_with_the_input,
    joined,
    joined_dependent,
    joined_plus_centred,
    normalised,
    normalised_sum,
    dropped,
    standard,
    standard_joined,
]
networks = pytest.mark.parametrize("network", NETWORKS, ids=lambda f: f.__name__)


@networks
def test_textbook(network):
    want = network(textbook, textbook.inputs(X))
    with jax.enable_x64(True):
        kernel = ker.infinite(functools.partial(network, ker))
        gram = kernel(X)
    for got, k in ((gram.nngp, want.k), (gram.ntk, want.t)):
        norm = np.sqrt(np.outer(np.diag(k), np.diag(k)))
        assert (np.abs(got - k) / norm).max() < 1e-12


@networks
@pytest.mark.slow
def test_monte_carlo(network, key):
    assert_monte_carlo(
        functools.partial(network, ker),
        jnp.asarray(X, jnp.float32),
        width=WIDTH,
        draws=1000,
        key=key,
        dropout=network is dropped,
    )
