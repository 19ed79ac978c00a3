"""Derivatives by coordinates, and losses without solutions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxarch.operators import (
    coordinate_derivatives,
    deeponet_apply,
    deeponet_init,
)

from .deeponets import examples, random_params


def test_coordinate_derivatives_of_a_closed_form():
    with jax.enable_x64(True):
        y = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))

        def field(y):
            x, t, z = y.T
            return jnp.stack([jnp.sin(2 * x) * t**3, jnp.exp(x * z)], 1)

        values, first, second = jax.jit(
            functools.partial(coordinate_derivatives, field)
        )(y)
    x, t, z = np.asarray(y).T
    zero, e = 0 * x, np.exp(x * z)
    s, c = np.sin(2 * x), np.cos(2 * x)
    np.testing.assert_allclose(values, np.stack([s * t**3, e], 1), rtol=1e-13)
    wanted = [[2 * c * t**3, 3 * s * t**2, zero], [z * e, zero, x * e]]
    np.testing.assert_allclose(first, np.moveaxis(wanted, -1, 0), rtol=1e-12)
    wanted = [[-4 * s * t**3, 6 * s * t, zero], [z * z * e, zero, x * x * e]]
    np.testing.assert_allclose(second, np.moveaxis(wanted, -1, 0), rtol=1e-12)


def test_coordinate_derivatives_of_a_deeponet():
    """Forward mode at all points at once, and reverse mode at one, agree."""
    with jax.enable_x64(True):
        params = random_params(
            deeponet_init, (5, 6, 4), (2, 6, 4), num_outputs=2, dtype=float
        )
        u, y = map(jnp.asarray, examples())
        f = functools.partial(deeponet_apply, params, u, activation=jnp.tanh)
        values, first, second = jax.jit(lambda y: coordinate_derivatives(f, y))(y)
        np.testing.assert_allclose(values, f(y), rtol=1e-13)
        one = jax.jacrev(lambda y: f(y[None])[0])
        slopes, hessians = jax.jit(jax.vmap(lambda y: (one(y), jax.jacrev(one)(y))))(y)
        np.testing.assert_allclose(first, slopes, atol=1e-12)
        diagonals = np.diagonal(hessians, axis1=-2, axis2=-1)
        np.testing.assert_allclose(second, diagonals, atol=1e-12)


@pytest.mark.slow
def test_an_antiderivative_is_learnt_from_its_equation():
    """s' = u with s(0) = 0 by a factor y: no solution is seen in training."""
    sensors = jnp.linspace(0, 1, 10)
    y = sensors[:, None]

    def fields(key, samples):
        """Sines with random amplitudes: sensor values, coefficients."""
        c = jax.random.normal(key, (samples, 2))
        return c @ jnp.stack([jnp.cos(2 * sensors), jnp.sin(3 * sensors)]), c

    params = random_params(deeponet_init, (10, 32, 32), (1, 32, 32))
    apply = functools.partial(
        deeponet_apply,
        activation=jnp.tanh,
        output_transform=lambda u, y, s: y[:, 0] * s,
    )

    def loss(params, u):
        def residual(u):
            field = functools.partial(apply, params, u)
            _, slope, _ = coordinate_derivatives(field, y)
            return slope[:, 0] - u

        return jnp.mean(jax.vmap(residual)(u) ** 2)

    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, 1000))

    @jax.jit
    def train(params, key):
        def step(carry, key):
            params, state = carry
            u, _ = fields(key, 32)
            value, gradient = jax.value_and_grad(loss)(params, u)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        with jax.numpy_dtype_promotion("standard"):  # optax's Adam wants it
            (params, _), losses = jax.lax.scan(
                step, (params, optimizer.init(params)), jax.random.split(key, 1000)
            )
        return params, losses

    u, c = fields(jax.random.key(2), 100)
    basis = jnp.stack([jnp.sin(2 * sensors) / 2, (1 - jnp.cos(3 * sensors)) / 3])
    wanted = c @ basis

    def error(params):
        found = jax.vmap(apply, (None, 0, None))(params, u, y)
        return jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted)

    assert error(params) > 0.5
    params, losses = train(params, jax.random.key(1))
    assert losses[-1] < 0.01
    assert error(params) < 0.05
