"""What a Gaussian process must give with the NNGP of a network, in any package."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import multivariate_normal

from jaxarch import kernels as ker

from ..kernels.relu_reference import relu_gram


def relu_kernel(last_w_std=1.1):
    """The network of `relu_gram`."""

    def network(h):
        for _ in range(2):
            h = ker.relu(ker.dense(h, 1, w_std=1.4, b_std=0.2))
        return ker.dense(h, 1, w_std=last_w_std)

    return ker.infinite(network)


def check_regression(regress, tolerance):
    """Compares evidence, mean and variance with SciPy and the textbook's inverse.

    Args:
        regress: `regress(kernel, x, y, x_test, noise)` in the package's own way.
        tolerance: Allowed error, absolute; the values are about 1.
    """
    rng = np.random.default_rng(0)
    x, x_test = rng.normal(size=(8, 3)), rng.normal(size=(4, 3))
    y, noise = np.sin(x.sum(1)), 0.1
    k = relu_gram(x, x).nngp + noise * np.eye(8)
    k_star, k_test = relu_gram(x_test, x).nngp, relu_gram(x_test, x_test).nngp
    weights = np.linalg.solve(k, k_star.T).T
    want = (
        multivariate_normal(cov=k).logpdf(y),
        weights @ y,
        np.diagonal(k_test) - (weights * k_star).sum(1),
    )
    # The kernel is proportional to the square of the last layer's scale; Rasmussen and
    # Williams, equation 5.9.
    alpha, change = np.linalg.solve(k, y), 2 / 1.1 * (k - noise * np.eye(8))
    want_slope = (alpha @ change @ alpha - np.trace(np.linalg.solve(k, change))) / 2

    # The packages leave promotion to JAX.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        arrays = [jnp.asarray(a) for a in (x, y, x_test, noise)]

        def run(last_w_std):
            evidence, *moments = regress(relu_kernel(last_w_std), *arrays)
            return evidence, moments

        run = jax.jit(jax.value_and_grad(run, has_aux=True))
        (evidence, moments), slope = run(1.1)
    for a, b in zip((evidence, *moments), want, strict=True):
        np.testing.assert_allclose(np.ravel(a), np.ravel(b), rtol=0, atol=tolerance)
    np.testing.assert_allclose(slope, want_slope, rtol=0, atol=10 * tolerance)
