"""Levenberg-Marquardt for small networks: what the scripts on KANs train with."""

import functools

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


@functools.partial(jax.jit, static_argnames="apply")
def least_squares(apply, params, data, x, y, *, num_steps):
    """Fits `apply(params, data, x[i])`, a number, to `y[i]`; `data` is not trained.

    Returns the parameters and the root mean square of what is left.
    """
    start, unravel = ravel_pytree(params)

    def output(theta, x):
        return apply(unravel(theta), data, x)

    def residual(theta):
        return y - jax.vmap(output, (None, 0))(theta, x)

    def step(_, state):
        theta, left, damping = state
        jacobian = jax.vmap(jax.grad(output), (None, 0))(theta, x)
        gram, right = jacobian.T @ jacobian, jacobian.T @ left
        diagonal = jnp.diagonal(gram)
        diagonal = diagonal + 1e-12 * diagonal.max()
        move = jnp.linalg.solve(gram + damping * jnp.diag(diagonal), right)
        new = residual(theta + move)
        better = jnp.sum(new**2) < jnp.sum(left**2)  # no, if it is NaN
        theta = jnp.where(better, theta + move, theta)
        left = jnp.where(better, new, left)
        damping = jnp.clip(jnp.where(better, 0.3, 4.0) * damping, 1e-14, 1e8)
        return theta, left, damping

    state = (start, residual(start), jnp.asarray(1e-2, start.dtype))
    theta, left, _ = jax.lax.fori_loop(0, num_steps, step, state)
    return unravel(theta), jnp.sqrt(jnp.mean(left**2))
