"""The tinygp recipe: a kernel of ours in its Gaussian processes."""

import jax
import jax.numpy as jnp
import numpy as np
import tinygp

from jaxarch import kernels as ker

from .regression import check_regression, relu_kernel


# --8<-- [start:recipe]
class NNGP(tinygp.kernels.Kernel):
    kernel: ker.Kernel

    def evaluate(self, X1, X2):  # two points
        return self.kernel(X1[None], X2[None], ntk=False).nngp[0, 0]

    def __call__(self, X1, X2=None):  # the whole matrix, or its diagonal
        if X2 is None:
            return self.kernel(X1, diagonal=True, ntk=False).nngp
        return self.kernel(X1, X2, ntk=False).nngp


def regress(kernel, x, y, x_test, noise):
    process = tinygp.GaussianProcess(NNGP(kernel), x, diag=noise)
    evidence, posterior = process.condition(y, x_test)
    return evidence, posterior.mean, posterior.variance


# --8<-- [end:recipe]


def test_recipe():
    # tinygp adds a jitter of 1.5e-8 to the variance.
    check_regression(regress, 1e-7)


def test_points_sums_and_products():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    ours, theirs = NNGP(relu_kernel()), tinygp.kernels.ExpSquared(2.0)
    matrix = ours(x, x)
    np.testing.assert_allclose(ours(x), jnp.diagonal(matrix), rtol=1e-6)
    points = jax.vmap(jax.vmap(ours.evaluate, (None, 0)), (0, None))(x, x)
    np.testing.assert_allclose(points, matrix, rtol=1e-6)
    both = ours * theirs + ours
    np.testing.assert_allclose(both(x, x), matrix * theirs(x, x) + matrix, rtol=1e-5)
