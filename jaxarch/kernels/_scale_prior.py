r"""Priors on the scale of a Gaussian process: $f \mid s \sim GP(0, s K)$, $s \sim H$.

Lee, Yun, Yang and Lee, *Scale Mixtures of Neural Network Gaussian Processes*
(arXiv:2107.01408), section 3: the scale is the variance of the last layer of a network.
Densities are with respect to $s > 0$.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlogy
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from .._params import positional, static
from ._gp import check_scalar


def _on_positive(log_prob: Callable) -> Callable:
    @functools.wraps(log_prob)
    def wrapped(self, s):
        inside = s > 0
        return jnp.where(inside, log_prob(self, jnp.where(inside, s, 1)), -jnp.inf)

    return wrapped


@positional
class InverseGamma:
    r"""$H(s) = b^a s^{-a-1} e^{-b/s} / \Gamma(a)$; the process is a Student-t process.

    Its degrees of freedom are $2a$, and its scale matrix is $(b / a) K$.
    """

    a: ArrayLike  # (), positive
    b: ArrayLike  # (), positive

    support, positive = (0.0, math.inf), ("a", "b")

    @_on_positive
    def log_prob(self, s: Array) -> Array:
        """Log density at each of `s`, minus infinity where `s` is not positive."""
        return (
            xlogy(self.a, self.b) - gammaln(self.a) - (self.a + 1) * jnp.log(s)
        ) - self.b / s

    def sample(self, key, *, shape=(), dtype=jnp.float32) -> Array:
        """Independent draws."""
        log_gamma = jax.random.loggamma(key, jnp.asarray(self.a, dtype), shape, dtype)
        return jnp.asarray(self.b, dtype) * jnp.exp(-log_gamma)


@positional
class BurrXII:
    r"""$H(s) = c k s^{c - 1} (1 + s^c)^{-k - 1}$; its tail is $s^{-ck}$."""

    c: ArrayLike  # (), positive
    k: ArrayLike  # (), positive

    support, positive = (0.0, math.inf), ("c", "k")

    @_on_positive
    def log_prob(self, s: Array) -> Array:
        """Log density at each of `s`, minus infinity where `s` is not positive."""
        log_s = jnp.log(s)
        growth = jnp.logaddexp(0.0, self.c * log_s)  # log(1 + s^c)
        return (
            jnp.log(self.c)
            + jnp.log(self.k)
            + (self.c - 1) * log_s
            - (self.k + 1) * growth
        )

    def sample(self, key, *, shape=(), dtype=jnp.float32) -> Array:
        """Independent draws."""
        # 1 + s^c = u^(-1/k), and -log u is exponential.
        e = jax.random.exponential(key, shape, dtype)
        k, c = jnp.asarray(self.k, dtype), jnp.asarray(self.c, dtype)
        return jnp.expm1(e / k) ** (1 / c)


@positional
class HalfCauchy:
    r"""$H(s) = 2 / (\pi t (1 + s^2 / t^2))$, $t$ the scale."""

    scale: ArrayLike  # (), positive

    support, positive = (0.0, math.inf), ("scale",)

    @_on_positive
    def log_prob(self, s: Array) -> Array:
        """Log density at each of `s`, minus infinity where `s` is not positive."""
        z = s / self.scale
        return math.log(2 / math.pi) - jnp.log(self.scale) - jnp.log1p(z * z)

    def sample(self, key, *, shape=(), dtype=jnp.float32) -> Array:
        """Independent draws."""
        draws = jax.random.cauchy(key, shape, dtype)
        return jnp.asarray(self.scale, dtype) * jnp.abs(draws)


@positional
class LogNormal:
    r"""$\log s \sim N(\mu, \sigma^2)$."""

    mu: ArrayLike  # ()
    sigma: ArrayLike  # (), positive

    support, positive = (0.0, math.inf), ("sigma",)

    @_on_positive
    def log_prob(self, s: Array) -> Array:
        """Log density at each of `s`, minus infinity where `s` is not positive."""
        log_s = jnp.log(s)
        z = (log_s - self.mu) / self.sigma
        return -z * z / 2 - log_s - jnp.log(self.sigma) - math.log(2 * math.pi) / 2

    def sample(self, key, *, shape=(), dtype=jnp.float32) -> Array:
        """Independent draws."""
        z = jax.random.normal(key, shape, dtype)
        mu, sigma = jnp.asarray(self.mu, dtype), jnp.asarray(self.sigma, dtype)
        return jnp.exp(mu + sigma * z)


@positional
class Delta:
    """All mass at one scale: a Gaussian process."""

    s: ArrayLike  # (), positive

    support, positive = (0.0, math.inf), ("s",)

    def log_prob(self, s: Array) -> Array:
        """0 at the scale, and minus infinity elsewhere: a probability, no density."""
        return jnp.where(s == self.s, jnp.zeros_like(s), -math.inf)

    def sample(self, key, *, shape=(), dtype=jnp.float32) -> Array:
        """The scale."""
        return jnp.full(shape, self.s, dtype)


@positional
class ScalePrior:
    """Any density of the scale.

    `log_density(s, *args)` is its logarithm at an array of scales inside `support`,
    smooth there; it need not be normalised, but then the evidence is not either.
    `args` are leaves, so that they may be learnt; `log_density` should be a
    module-level function, so that what uses it compiles once.
    """

    log_density: Callable = static()
    support: tuple[float, float] = static(default=(0.0, math.inf))
    args: tuple[Any, ...] = ()

    def log_prob(self, s: Array) -> Array:
        """Log density at each of `s`, minus infinity outside the support."""
        low, high = self.support
        inside = (s > low) & (s < high)
        middle = (
            1.0 if low == 0 and math.isinf(high) else (low + min(high, low + 2)) / 2
        )
        value = self.log_density(jnp.where(inside, s, middle), *self.args)
        return jnp.where(inside, value, -math.inf)

    def sample(self, key, *, shape=(), dtype=jnp.float32) -> Array:
        """Independent draws, by inverting the integral over a grid in log s."""
        log_s, log_weight = scale_rule(self, jnp.zeros_like, dtype, num_nodes=4096)
        total = jnp.cumsum(jnp.exp(log_weight - log_weight.max()))
        u = jax.random.uniform(key, shape, dtype)
        return jnp.exp(jnp.interp(u * total[-1], total, log_s))


Prior = InverseGamma | BurrXII | HalfCauchy | LogNormal | Delta | ScalePrior


def check_prior(where: str, prior: Any) -> None:
    """Raises unless `prior` is one of these, its numbers in range as far as known."""
    if not isinstance(prior, Prior):
        names = ", ".join(kind.__name__ for kind in get_args(Prior))
        raise TypeError(
            f"{where}: `prior` must be one of {names}, got {type(prior).__name__}."
        )
    if isinstance(prior, ScalePrior):
        low, high = prior.support
        if not 0 <= low < high:
            raise ValueError(
                f"{where}: `prior.support` must be an interval of positive scales "
                f"(low, high), got {prior.support}."
            )
        return
    for field in dataclasses.fields(prior):
        value, name = getattr(prior, field.name), f"prior.{field.name}"
        positive = True if field.name in prior.positive else None
        check_scalar(where, name, value, positive=positive)


_PANEL = 16
# Priors alone: 5e-13 for an inverse gamma with a = 0.5, but 2e-3 for a Burr XII with
# c = 10 and k = 0.05, whose tail is long and whose poles are near.
_NODES = 256


def scale_rule(
    prior: Any,
    log_likelihood: Callable[[Array], Array],
    dtype: DTypeLike,
    *,
    num_nodes: int = _NODES,
) -> tuple[Array, Array]:
    r"""Nodes $u_k = \log s_k$ and log weights of $\int H(s)\, p(y \mid s)\, ds$.

    The trapezoid rule in $\log s$, which converges geometrically, over the interval in
    which the integrand matters; panels of Gauss-Legendre's where the support has edges.

    Args:
        prior: The density $H$.
        log_likelihood: $\log p(y \mid e^u)$ at an array of $u$.
        dtype: To compute in.
        num_nodes: Nodes of the rule.

    Returns:
        Nodes and log weights, `(num_nodes,)`, or `(1,)` for a `Delta`; the log weights
        include the integrand.
    """
    prior = jax.tree.map(lambda a: jnp.asarray(a, dtype), prior)
    if isinstance(prior, Delta):
        u = jnp.log(prior.s)[None]
        return u, log_likelihood(u)

    def integrand(u):
        return prior.log_prob(jnp.exp(u)) + u + log_likelihood(u)

    low, high = _bounds(prior.support, dtype)
    low, high = _extent(integrand, low, high, dtype)
    if prior.support == (0.0, math.inf):
        x = np.linspace(0, 1, num_nodes)
        weight = np.full(num_nodes, 1 / (num_nodes - 1))
    else:
        x, weight = np.polynomial.legendre.leggauss(_PANEL)
        panels = num_nodes // _PANEL
        x = ((np.arange(panels)[:, None] + (1 + x) / 2) / panels).ravel()
        weight = np.tile(weight / 2 / panels, panels)
    u = low + (high - low) * jnp.asarray(x, dtype)
    step = jnp.log(high - low) + jnp.asarray(np.log(weight), dtype)
    return u, integrand(u) + step


def _bounds(support: tuple[float, float], dtype: DTypeLike) -> tuple[float, float]:
    """The support in log s, or as much of it as the dtype holds."""
    most = 80.0 if jnp.finfo(dtype).bits < 64 else 250.0
    low, high = (math.log(s) if s > 0 else -math.inf for s in support)
    return max(low, -most), min(high, most)


def _extent(integrand, low, high, dtype) -> tuple[Array, Array]:
    """Narrows `(low, high)` to where the integrand is no less than its top e^-40."""
    negligible = 25.0 if jnp.finfo(dtype).bits < 64 else 40.0
    points = jnp.asarray(np.linspace(0, 1, 512), dtype)

    def narrow(bounds, _):
        low, high = bounds
        u = low + (high - low) * points
        value = jax.lax.stop_gradient(integrand(u))
        top = jnp.max(value, where=~jnp.isnan(value), initial=-jnp.inf)
        matters = value >= top - negligible
        first, last = jnp.argmax(matters), len(u) - 1 - jnp.argmax(matters[::-1])
        step = u[1] - u[0]
        return (
            jnp.maximum(low, u[first] - step),
            jnp.minimum(high, u[last] + step),
        ), None

    # In a shard_map the bounds vary where the integrand does.
    value = integrand(jnp.asarray([(low + high) / 2], dtype))[0]
    bounds = tuple(jnp.where(False, value, jnp.asarray(e, dtype)) for e in (low, high))
    bounds, _ = jax.lax.scan(narrow, bounds, None, length=4)
    return jax.tree.map(jax.lax.stop_gradient, bounds)
