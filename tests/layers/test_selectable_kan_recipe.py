"""Selection finds the basis that represents its target: the recipe of the docs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxarch.layers import (
    bspline_basis,
    chebyshev_basis,
    kan_layer_apply,
    kan_layer_init,
    rbf_basis,
    selectable_kan_apply,
    selectable_kan_entropy,
    selectable_kan_init,
    selectable_kan_prune,
    selectable_kan_select,
    selectable_kan_spread,
)


@pytest.fixture(autouse=True)
def _standard_promotion():
    """Optax's Adam wants it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


X = jnp.linspace(-1, 1, 50)[:, None]
POOL = (
    {"basis": "bspline", "num_intervals": 3},
    {"basis": "chebyshev", "degree": 5},
    {"basis": "fourier", "num_intervals": 3},
    {"basis": "rbf", "num_intervals": 5},
)


def targets():
    """One target in the span of each basis, of variance 1: (points, 4)."""
    x = X[:, 0]

    def signs(n):
        return (-1.0) ** jnp.arange(n)

    columns = [
        bspline_basis(x, num_intervals=3, degree=3, domain=(-1, 1)) @ signs(6),
        chebyshev_basis(x, degree=5)[:, 5],
        jnp.sin(3 * jnp.pi * x),
        rbf_basis(x, num_centers=5, domain=(-1, 1)) @ signs(5),
    ]
    return jnp.stack([c / c.std() for c in columns], 1)


# --8<-- [start:recipe]
def loss(params, x, y, entropy, spread=1.0):
    outputs = jax.vmap(selectable_kan_apply, (None, 0))(params, x)
    spreads = jax.vmap(selectable_kan_spread, (None, 0))(params, x)
    error = jnp.mean(jnp.sum((outputs - y) ** 2, 1)) + spread * jnp.mean(spreads)
    return error + entropy * selectable_kan_entropy(params)


def train(params, x, y, *, entropy=0.0, num_steps=1000, **options):
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, num_steps))

    def step(carry, i):
        params, state = carry
        weight = entropy * i / num_steps  # decide late, when every layer has learnt
        gradient = jax.grad(loss)(params, x, y, weight, **options)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    return jax.lax.scan(step, carry, jnp.arange(num_steps))[0][0]


def select(key, x, y, **options):
    params = selectable_kan_init(key, x.shape[1], y.shape[1], pool=POOL)
    params = train(params, x, y, **options)  # 1: all of the pool
    params = selectable_kan_select(params)
    return train(params, x, y, entropy=0.02, **options)  # 2: the gates too


def fit(key, x, y):
    params, report = selectable_kan_prune(jax.jit(select)(key, x, y))
    return jax.jit(train)(params, x, y), report  # 3: the chosen ones, once more


# --8<-- [end:recipe]


BASES = [member["basis"] for member in POOL]
NUM_SEEDS = 4


@functools.cache
def chosen(spread):
    """Params after the second stage, for each seed."""
    keys = jax.random.split(jax.random.key(1), NUM_SEEDS)
    return jax.jit(jax.vmap(lambda key: select(key, X, targets(), spread=spread)))(keys)


def test_targets_are_in_the_span_of_one_basis_only():
    x, y = np.asarray(X, np.float64), np.asarray(targets(), np.float64)
    errors = np.empty((4, 4))
    for i, member in enumerate(POOL):
        layer = kan_layer_init(jax.random.key(0), 1, 1, residual=None, **member)
        count = layer.coefficients.shape[0]
        every = dataclasses.replace(
            layer, coefficients=jnp.eye(count)[:, None], bias=jnp.zeros(count)
        )
        basis = jax.vmap(kan_layer_apply, (None, 0))(every, X)
        matrix = np.concatenate([np.ones_like(x), jax.nn.silu(X), basis], 1)
        matrix = matrix.astype(np.float64)
        rest = y - matrix @ np.linalg.lstsq(matrix, y)[0]
        errors[i] = np.sqrt(np.mean(rest**2, 0))
    assert np.diagonal(errors).max() < 1e-6
    assert (errors + np.eye(4)).min() > 0.02


@pytest.mark.slow
def test_selection_finds_the_basis_of_each_target():
    params = chosen(1.0)
    assert (np.asarray(params.gates).argmax(-1) == np.arange(4)).all()
    assert jax.nn.softmax(params.gates).max(-1).min() > 0.95
    hot = dataclasses.replace(
        params, gates=jnp.broadcast_to(1e4 * jnp.eye(4), (NUM_SEEDS, 4, 4))
    )
    y = jax.vmap(jax.vmap(selectable_kan_apply, (None, 0)), (0, None))(hot, X)
    error = jnp.sqrt(jnp.mean((y - targets()[None]) ** 2, 1))
    assert error.max() < 0.02


@pytest.mark.slow
def test_the_loss_and_the_entropy_alone_do_not_find_it():
    right = np.asarray(chosen(0.0).gates).argmax(-1) == np.arange(4)
    assert right.mean() <= 0.5


@pytest.mark.slow
def test_recipe(key):
    params, report = fit(key, X, targets())
    assert report["basis"] == BASES
    assert params.nodes == ((0,), (1,), (2,), (3,))
    y = jax.vmap(selectable_kan_apply, (None, 0))(params, X)
    error = jnp.sqrt(jnp.mean((y - targets()) ** 2, 0))
    assert error.max() < 5e-3
