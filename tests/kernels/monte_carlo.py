"""Empirical kernels of finite networks over independent draws."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxarch import kernels as ker


def empirical_kernels(network, x, *, draws, key, dropout=False, mask=None):
    """Means and standard errors of NNGP (over outputs too) and NTK, `(2, n, n)`."""
    model = ker.finite(network)
    n = len(x)

    def draw(key):
        init_key, mask_key = jax.random.split(key)
        params = model.init(init_key, x[0])
        # Two examples have masks of their own, as in the infinite network.
        keys = jax.random.split(mask_key, n)

        def outputs(params):
            if dropout:
                return jax.vmap(lambda x, key: model.apply(params, x, key=key))(x, keys)
            if mask is not None:
                return jax.vmap(lambda x, m: model.apply(params, x, mask=m))(x, mask)
            return jax.vmap(model.apply, (None, 0))(params, x)

        f = outputs(params)
        jacobian = jax.jacrev(lambda params: outputs(params)[:, 0])(params)
        rows = [j.reshape(n, -1) for j in jax.tree.leaves(jacobian)]
        return jnp.stack([f @ f.T / f.shape[1], sum(j @ j.T for j in rows)])

    sample = jax.jit(lambda keys: jax.lax.map(draw, keys))
    samples = np.asarray(sample(jax.random.split(key, draws)), np.float64)
    return samples.mean(0), samples.std(0, ddof=1) / np.sqrt(draws)


def assert_monte_carlo(network, x, want, *, width, draws, key, **options):
    """Agreement within 4 standard errors + 5 / width, relative to sqrt(k11 k22)."""
    mean, error = empirical_kernels(network, x, draws=draws, key=key, **options)
    for got, k, sigma in zip(mean, want, error, strict=True):
        k = np.asarray(k, np.float64)
        norm = np.sqrt(np.outer(np.diag(k), np.diag(k)))
        assert (np.abs(got - k) <= 4 * sigma + 5 / width * norm).all()
