"""Empirical kernels averaged over draws of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxarch import kernels as ker

from . import networks


def test_monte_carlo_of_a_known_distribution():
    """f = w x, w normal: NTK x x', NNGP of mean x x' and variance 2 (x x')^2."""

    class Linear:
        def init(self, key, x):
            return jax.random.normal(key, x.shape)

        def apply(self, w, x):
            return w * x

    x1, x2 = jnp.asarray([[1.0], [2.0]]), jnp.asarray([[0.5], [-1.0], [3.0]])
    num = 4000
    got = jax.jit(
        lambda key: ker.monte_carlo(Linear(), key, x1, x2, num, method="jacobian")
    )(jax.random.key(0))
    want = x1 @ x2.T
    np.testing.assert_allclose(got.mean.ntk, want, rtol=1e-5)
    np.testing.assert_allclose(got.standard_error.ntk, 0, atol=1e-5)
    error = np.sqrt(2 / num) * np.abs(want)
    np.testing.assert_allclose(got.standard_error.nngp, error, rtol=0.15)
    assert (np.abs(got.mean.nngp - want) < 4 * error).all()
    # The same numbers from the draws themselves.
    draws = jax.vmap(lambda k: jax.random.normal(k, (1,)))(
        jax.random.split(jax.random.key(0), num)
    )
    samples = np.asarray(draws, np.float64)[:, :, None] ** 2 * np.asarray(want)[None]
    np.testing.assert_allclose(got.mean.nngp, samples.mean(0), rtol=1e-4)
    spread = samples.std(0, ddof=1) / np.sqrt(num)
    np.testing.assert_allclose(got.standard_error.nngp, spread, rtol=1e-3)


def test_monte_carlo_of_an_architecture():
    def network(h):
        h = ker.relu(ker.dense(h, 256, w_std=1.4, b_std=0.2))
        return ker.dense(h, 4, w_std=1.1, b_std=0.1)

    x = networks.vectors(3).astype(jnp.float32)
    model = ker.finite(network)
    got = jax.jit(
        lambda key: ker.monte_carlo(model, key, x, None, 64),
        compiler_options=networks.QUICK,
    )(jax.random.key(1))
    want = ker.infinite(network)(x)
    for k in ("nngp", "ntk"):
        mean, error, exact = (
            np.asarray(getattr(g, k)) for g in (got.mean, got.standard_error, want)
        )
        scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
        assert (np.abs(mean - exact) < 4 * error + 5 / 256 * scale).all()
    nngp = jax.eval_shape(
        lambda key: ker.monte_carlo(model, key, x, x, 2, ntk=False, tile=2),
        jax.random.key(1),
    )
    assert nngp.mean.ntk is None
