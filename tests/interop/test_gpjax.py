"""The GPJax recipe: a kernel of ours in its Gaussian processes."""

import jax.numpy as jnp
import pytest

from jaxarch import kernels as ker

from .regression import check_regression

gpx = pytest.importorskip("gpjax", reason="gpjax 1.0 wants JAX below 0.11")


# --8<-- [start:recipe]
class WholeMatrices(gpx.kernels.computations.AbstractKernelComputation):
    def _cross_covariance(self, kernel, x, y):
        return kernel.kernel(x, y, ntk=False).nngp


WHOLE_MATRICES = WholeMatrices()  # one object: another would compile again


class NNGP(gpx.kernels.AbstractKernel):
    kernel: ker.Kernel

    def __init__(self, kernel):
        super().__init__(compute_engine=WHOLE_MATRICES)
        self.kernel = kernel

    def __call__(self, x, y):  # two points
        return self.kernel(x[None], y[None], ntk=False).nngp[0, 0]


def regress(kernel, x, y, x_test, noise):
    data = gpx.Dataset(X=x, y=y[:, None])
    prior = gpx.gps.Prior(kernel=NNGP(kernel), mean_function=gpx.mean_functions.Zero())
    likelihood = gpx.likelihoods.Gaussian(obs_stddev=jnp.sqrt(noise))
    model = prior * likelihood
    evidence = gpx.objectives.conjugate_mll(model, data)
    predictive = model.predict(x_test, train_data=data)
    return evidence, predictive.mean, predictive.variance


# --8<-- [end:recipe]


def test_recipe():
    # GPJax adds a jitter of 1e-6 to the prior; the noise is 0.1.
    check_regression(regress, 1e-4)
