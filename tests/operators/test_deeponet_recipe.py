"""The recipes for DeepONet of the page on operators in the documentation."""

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.slow
def test_recipes():
    # --8<-- [start:deeponet]
    import functools

    import jax

    from jaxarch import operators as ops

    u, y, s = ops.antiderivative_dataset(jax.random.key(0), 16, num_points=50)
    params = ops.deeponet_init(jax.random.key(1), (100, 40, 40), (1, 40, 40))
    apply = functools.partial(
        ops.deeponet_apply,
        activation=jax.nn.gelu,
        output_transform=lambda u, y, s: y[:, 0] * s,  # s(0) = 0 holds exactly
    )

    def loss(params):  # u (16, 100), y (50, 1), s (16, 50)
        found = jax.vmap(apply, (None, 0, None))(params, u, y)
        return jnp.mean((found - s) ** 2)

    gradient = jax.jit(jax.grad(loss))(params)
    # --8<-- [end:deeponet]
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))

    # --8<-- [start:equation]
    def residual(params, u):  # of s' = u, at the sensors
        points = jnp.linspace(0, 1, 100)[:, None]
        field = functools.partial(apply, params, u)
        values, first, second = ops.coordinate_derivatives(field, points)
        return jnp.mean((first[:, 0] - u) ** 2)

    slope = jax.jit(jax.grad(residual))(params, u[0])
    # --8<-- [end:equation]
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(slope))

    # --8<-- [start:pod]
    mean, basis = ops.pod_basis(s, 8)
    pod = ops.pod_deeponet_init(jax.random.key(2), (100, 40, 8))
    predict = functools.partial(ops.pod_deeponet_apply, mean=mean)
    found = jax.jit(jax.vmap(predict, (None, None, 0)))(pod, basis, u)  # (16, 50)
    # --8<-- [end:pod]
    assert found.shape == s.shape
