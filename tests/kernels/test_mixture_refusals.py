"""What scale mixtures refuse, by name."""

import functools
import math
import re

import jax
import numpy as np
import pytest

from jaxarch import kernels as ker

from .test_gp import problem
from .test_mixture import NOISE, flat


def refuse(error, message, function, *args, **options):
    with pytest.raises(error, match=re.escape(message)):
        function(*args, **options)


def test_refusals():
    k, k_star, k_test, y = problem(outputs=None)
    condition = functools.partial(ker.condition, noise=NOISE)
    prior = ker.InverseGamma(1.0, 2.0)
    refuse(
        TypeError,
        "condition: `prior` must be one of InverseGamma",
        condition,
        k,
        y,
        prior=1.0,
    )
    refuse(
        ValueError,
        "condition: `prior.b` must be finite and positive, got -1.0",
        condition,
        k,
        y,
        prior=ker.InverseGamma(1.0, -1.0),
    )
    refuse(
        ValueError,
        "condition: `prior.mu` must be finite, got nan",
        condition,
        k,
        y,
        prior=ker.LogNormal(math.nan, 1.0),
    )
    refuse(
        TypeError,
        "condition: `prior.a` must be a number, got None",
        condition,
        k,
        y,
        prior=ker.InverseGamma(None, 1.0),
    )
    refuse(
        ValueError,
        "condition: `prior.sigma` must have shape ()",
        condition,
        k,
        y,
        prior=ker.LogNormal(0.0, np.ones(2)),
    )
    refuse(
        ValueError,
        "condition: `prior.support` must be an interval",
        condition,
        k,
        y,
        prior=ker.ScalePrior(flat, (-1.0, 1.0), (0.0,)),
    )
    refuse(
        ValueError,
        "condition: `y` must have shape (7,) or (7, outputs)",
        condition,
        k,
        y[:3],
        prior=prior,
    )
    refuse(
        ValueError,
        "condition: `noise` must be finite and positive",
        ker.condition,
        k,
        y,
        noise=0.0,
        prior=prior,
    )
    refuse(
        ValueError,
        "condition: `k_train + noise I` must be positive definite",
        condition,
        -k,
        y,
        prior=prior,
    )
    refuse(
        ValueError,
        "condition: `k_train` must be positive semi-definite",
        condition,
        -k,
        y,
        prior=prior,
        noise_scaled=False,
    )
    posterior = condition(k, y, prior=prior)
    refuse(
        ValueError,
        "predict: `k_test` must be variances",
        ker.predict,
        posterior,
        k_star,
    )
    refuse(
        ValueError,
        "predict: `f0` must be None for a ScalePosterior",
        ker.predict,
        posterior,
        k_star,
        k_test,
        f0=y[:4],
    )
    mixture = ker.predict(posterior, k_star, np.diagonal(k_test))
    refuse(
        ValueError,
        "log_prob: `y` must have shape (4,), got (3,)",
        mixture.log_prob,
        y[:3],
    )
    refuse(
        ValueError,
        "log_prob: the covariance of the test points",
        mixture.log_prob,
        y[:4],
        joint=True,
    )
    refuse(
        ValueError,
        "sample: the covariance of the test points",
        mixture.sample,
        jax.random.key(0),
        3,
    )
    refuse(
        ValueError,
        "class_probabilities: `mean` must have shape (n_test, classes)",
        mixture.class_probabilities,
    )
    refuse(TypeError, "log_evidence: `posterior` must be", ker.log_evidence, mixture)
    trained = ker.train(ker.Gram(nngp=k, ntk=k), y, t=1.0)
    refuse(
        ValueError,
        "predict: `noisy` must be False",
        ker.predict,
        trained,
        ker.Gram(nngp=k_star, ntk=k_star),
        noisy=True,
    )
