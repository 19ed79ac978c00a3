"""The recipe of docs/kan.md: train, move the knots, refine, train on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxarch import layers


@pytest.fixture(autouse=True)
def _standard_promotion():
    """Optax's Adam wants it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


# --8<-- [start:recipe]
def train(params, grid, x, y, steps=200):
    """Least squares by Adam; the knots are data, which no optimiser sees."""
    optimizer = optax.adam(0.02)

    def loss(params):
        outputs = jax.vmap(lambda x: layers.kan_apply(params, x, grid=grid))(x)
        return jnp.mean((outputs[:, 0] - y) ** 2)

    @jax.jit
    def step(params, state):
        value, slope = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    for _ in range(steps):
        params, state, value = step(params, state)
    return params, value


def fit(key, x, y):
    params = layers.kan_init(key, (2, 5, 1))
    params, coarse = train(params, None, x, y)
    params, grid = layers.kan_adapt(params, x, uniform_fraction=0.5)
    params, adapted = train(params, grid, x, y)
    params, grid = layers.kan_refine(params, 10, grid=grid)
    params, fine = train(params, grid, x, y)
    return params, grid, (coarse, adapted, fine)


# --8<-- [end:recipe]


@pytest.mark.slow
def test_recipe():
    x = jax.random.uniform(jax.random.key(0), (500, 2), minval=-1)
    y = jnp.exp(jnp.sin(jnp.pi * x[:, 0]) + x[:, 1] ** 2)
    params, grid, (coarse, adapted, fine) = fit(jax.random.key(1), x, y)
    assert params.layers[0].num_intervals == 10
    assert grid[0].shape == (2, 17)
    assert fine < adapted < coarse
    assert np.sqrt(fine) < 0.03 * np.std(y)
