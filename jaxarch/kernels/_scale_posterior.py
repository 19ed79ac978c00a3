r"""Scale mixtures of Gaussian processes given data: $f \mid s \sim GP(0, s K)$.

Lee, Yun, Yang and Lee, *Scale Mixtures of Neural Network Gaussian Processes*
(arXiv:2107.01408), section 3. With $N$ numbers observed (over all outputs, which share
$s$), covariance matrix $A$ of each output at $s = 1$ and $D = \sum_c y_c^\top A^{-1}
y_c$, the data speak of the scale through $N$ and $D$ alone:

$$\log p(y \mid s) = -\tfrac N2 \log 2\pi s - \tfrac{N}{2n} \log |A| - \tfrac D{2s}.$$
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp
from jaxtyping import Array

from .._checks import is_concrete
from .._params import params
from ._gp import (
    Posterior,
    as_cross,
    as_test,
    einsum,
    log_evidence,
    nngp_of,
    observed_from,
    predict,
    predict_from,
)
from ._mixture import Eigen, Facts, Mixture, Scaled
from ._scale_prior import InverseGamma, check_prior as check_prior, scale_rule


@params
class ScalePosterior:
    """A scale mixture of Gaussian processes given training data.

    Made by `condition` with a `prior`. The posterior of the logarithm of the scale has
    the nodes and log weights given here.
    """

    process: "Posterior | Rotated"  # the process whose scale is 1
    log_scale: Array  # (nodes,)
    log_weight: Array  # (nodes,), normalised
    log_evidence: Array  # ()
    # (): E[s | y]; where that is infinite, so for an inverse gamma, else a large number
    mean_scale: Array
    facts: Facts | None  # None where the noise is not scaled


@params
class Rotated:
    """Training data in the basis of the eigenvectors of their covariance."""

    eigenvalues: Array  # (n,), not negative
    eigenvectors: Array  # (n, n), in columns
    targets: Array  # (n,) or (n, outputs): Q' y
    noise: Array  # ()


def mix(posterior: Posterior, prior: Any) -> ScalePosterior:
    """The mixture whose process of scale 1 is `posterior`, its noise scaled with it."""
    square = (posterior.whitened**2).sum()
    prior = jax.tree.map(lambda a: jnp.asarray(a, square.dtype), prior)
    outputs = math.prod(posterior.whitened.shape[1:])
    log_det = 2 * outputs * jnp.log(jnp.diagonal(posterior.cholesky)).sum()
    count = jnp.asarray(posterior.whitened.size, square.dtype)
    facts = Facts(prior=prior, count=count, square=square)
    return ScalePosterior(process=posterior, **_integrate(facts, log_det))


@jax.jit
def _integrate(facts: Facts, log_det: Array) -> dict[str, Any]:
    """The fields of a `ScalePosterior` that depend on the prior."""
    prior, count, square = facts.prior, facts.count, facts.square
    total, log_scale, log_weight = facts.integral()
    mean_scale = jnp.exp(logsumexp(log_weight + log_scale))
    if isinstance(prior, InverseGamma):
        facts = facts.conjugate()
        a, b = facts.prior.a, facts.prior.b
        total = gammaln(a) - gammaln(prior.a) - count / 2 * jnp.log(prior.b)
        total = total - a * jnp.log1p(square / (2 * prior.b))
        mean_scale = jnp.where(a > 1, b / jnp.where(a > 1, a - 1, 1), jnp.inf)
    return {
        "log_scale": log_scale,
        "log_weight": log_weight,
        "log_evidence": total - (count * math.log(2 * math.pi) + log_det) / 2,
        "mean_scale": mean_scale,
        "facts": facts,
    }


# --- noise outside the scale --------------------------------------------------


@jax.custom_jvp
def _rotated_log_prob(k, y, noise, log_scale, eigenvalues, eigenvectors):
    r"""$\log p(y \mid s)$ for $y_c \sim N(0, sK + vI)$ at each $s$, by `eigh` of K."""
    targets = einsum("ni,n...->i...", eigenvectors, y)
    return _spectral(eigenvalues, targets, noise, log_scale)


def _spectral(eigenvalues, targets, noise, log_scale):
    targets = targets.reshape(len(eigenvalues), -1)
    outputs = targets.shape[1]
    a = jnp.exp(log_scale)[:, None] * eigenvalues[None] + noise
    log_det = jnp.log(2 * math.pi * a).sum(1)
    return -outputs / 2 * log_det - ((targets**2).sum(1)[None] / a).sum(1) / 2


@_rotated_log_prob.defjvp
def _rotated_log_prob_jvp(primals, tangents):
    """No division by gaps between eigenvalues, which may be equal.

    With B = Q' dK Q its diagonal moves the eigenvalues, and the rest enters as
    s beta' B beta / 2, where beta = (sK + vI)^-1 y in this basis.
    """
    k, y, noise, log_scale, eigenvalues, q = primals
    dk, dy, dnoise, dlog_scale, _, _ = tangents
    dk = (dk + dk.T) / 2
    inner = einsum("ni,nm,mj->ij", q, dk, q)
    targets = einsum("ni,n...->i...", q, y)
    value, tangent = jax.jvp(
        _spectral,
        (eigenvalues, targets, noise, log_scale),
        (
            jnp.diagonal(inner),
            einsum("ni,n...->i...", q, dy),
            dnoise,
            dlog_scale,
        ),
    )
    s = jnp.exp(log_scale)
    a = s[:, None] * eigenvalues[None] + noise
    beta = targets.reshape(len(k), -1)[None] / a[..., None]
    rest = inner - jnp.diag(jnp.diagonal(inner))
    moved = einsum("kic,ij->kjc", beta, rest)
    return value, tangent + s / 2 * (moved * beta).sum((1, 2))


def mix_noisy(k: Array, y: Array, noise: Array, prior: Any) -> ScalePosterior:
    """The mixture of processes with covariance s K, and noise that is not scaled."""
    prior = jax.tree.map(lambda a: jnp.asarray(a, k.dtype), prior)
    eigenvalues, q = jnp.linalg.eigh(k)
    if is_concrete(eigenvalues):
        low, high = (float(np.asarray(eigenvalues)[i]) for i in (0, -1))
        if not low >= -10 * len(k) * float(jnp.finfo(k.dtype).eps) * high:
            raise ValueError(
                "condition: `k_train` must be positive semi-definite, got eigenvalues "
                f"from {low:.3g} to {high:.3g}; build the Gram in float64 "
                "(jax.enable_x64)."
            )
    return _mix_noisy(k, y, noise, prior, jnp.maximum(eigenvalues, 0), q)


@jax.jit
def _mix_noisy(k, y, noise, prior, eigenvalues, q) -> ScalePosterior:
    def log_prob(u):
        return _rotated_log_prob(k, y, noise, u, eigenvalues, q)

    log_scale, log_weight = scale_rule(prior, log_prob, k.dtype)
    total = logsumexp(log_weight)
    process = Rotated(
        eigenvalues=eigenvalues,
        eigenvectors=q,
        targets=einsum("ni,n...->i...", q, y),
        noise=noise,
    )
    return ScalePosterior(
        process=process,
        log_scale=log_scale,
        log_weight=log_weight - total,
        log_evidence=total,
        mean_scale=jnp.exp(logsumexp(log_weight + log_scale) - total),
        facts=None,
    )


# --- predictions --------------------------------------------------------------


@predict_from.register
def _(posterior: ScalePosterior, k_test_train, k_test, f0) -> Mixture:
    if f0 is not None:
        raise ValueError(
            "predict: `f0` must be None for a ScalePosterior, got shape "
            f"{jnp.shape(f0)}."
        )
    if k_test is None:
        raise ValueError(
            "predict: `k_test` must be variances (n_test,) or a covariance (n_test, "
            "n_test) for a ScalePosterior, whose predictions are distributions; got "
            "None."
        )
    process = posterior.process
    if isinstance(process, Posterior):
        plain = predict(process, k_test_train, k_test)
        assert plain.variance is not None
        given = Scaled(
            mean=plain.mean, variance=plain.variance, covariance=plain.covariance
        )
        known = plain.variance > 0
        scale = jnp.where(known, posterior.mean_scale, 0)
        mean, variance = plain.mean, scale * plain.variance
        variance = variance.reshape(-1, *(1,) * (mean.ndim - 1))
        variance = jnp.broadcast_to(variance, mean.shape)
    else:
        k_star = as_cross("k_test_train", nngp_of(k_test_train), process.eigenvectors)
        given = Eigen(
            cross=einsum("tn,ni->ti", k_star, process.eigenvectors),
            k_test=as_test("k_test", nngp_of(k_test), k_star),
            eigenvalues=process.eigenvalues,
            targets=process.targets,
            noise=process.noise,
            added=jnp.zeros_like(process.noise),
        )
        mean, variance = _moments(given, posterior.log_scale, posterior.log_weight)
    return Mixture(
        mean=mean,
        variance=variance,
        given=given,
        log_scale=posterior.log_scale,
        log_weight=posterior.log_weight,
        facts=posterior.facts,
    )


@jax.jit
def _moments(given: Eigen, log_scale: Array, log_weight: Array) -> tuple[Array, Array]:
    return given.moments(log_scale, log_weight)


@observed_from.register
def _(posterior: ScalePosterior, predictions: Mixture) -> Mixture:
    noise = posterior.process.noise
    given = predictions.given.observed(noise)
    scale = posterior.mean_scale if isinstance(given, Scaled) else 1
    variance = predictions.variance + scale * noise
    return dataclasses.replace(predictions, given=given, variance=variance)


@log_evidence.register
def _(posterior: ScalePosterior) -> Array:
    return posterior.log_evidence
