"""Two classes under a scale mixture by quadrature, in NumPy and SciPy.

For two classes only the difference of the latent values counts, `N(0, 2 s K)`, and the
softmax is its logistic function.
"""

import itertools

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import expit, log_expit, logsumexp
from scipy.stats import burr12, halfcauchy, invgamma, lognorm

from jaxarch.kernels import BurrXII, HalfCauchy, InverseGamma, LogNormal

PRIORS = {
    "InverseGamma": (InverseGamma(3.0, 2.0), invgamma(3, scale=2)),
    "BurrXII": (BurrXII(2.0, 1.5), burr12(2, 1.5)),
    "HalfCauchy": (HalfCauchy(1.5), halfcauchy(scale=1.5)),
    "LogNormal": (LogNormal(0.5, 0.7), lognorm(0.7, scale=np.exp(0.5))),
}
LOG_SCALES = np.linspace(-9, 9, 181)


def binary_posterior(k, labels, density, num_nodes=28):
    """Log evidence, E log s, and P(class 0) at every point of `k`, given `labels`.

    The labels are those of the first points of `k`; `density` is that of the scale, a
    SciPy distribution, or a number, at which it is fixed.
    """
    if np.isscalar(density):
        u, log_prior = np.log([density]), np.zeros(1)
    else:
        u = LOG_SCALES
        log_prior = density.logpdf(np.exp(u)) + u + np.log(u[1] - u[0])
    nodes, weights = hermegauss(num_nodes)
    z = np.array(list(itertools.product(nodes, repeat=len(k))))
    log_weight = sum(np.meshgrid(*[np.log(weights)] * len(k), indexing="ij")).ravel()
    log_weight = log_weight - len(k) * np.log(2 * np.pi) / 2
    half = z @ np.linalg.cholesky(k).T
    sign = 1 - 2 * np.asarray(labels)  # class 0 is the positive side
    log_joint, probabilities = [], []
    for value, prior in zip(u, log_prior, strict=True):
        difference = np.exp(value / 2) * np.sqrt(2) * half
        terms = log_expit(sign * difference[:, : len(sign)]).sum(1) + log_weight
        log_joint.append(logsumexp(terms) + prior)
        weight = np.exp(terms - terms.max())
        probabilities.append(weight @ expit(difference) / weight.sum())
    log_evidence = logsumexp(log_joint)
    weight = np.exp(log_joint - log_evidence)
    return log_evidence, weight @ u, weight @ np.array(probabilities)
