r"""The predictive distributions of scale mixtures of Gaussian processes.

Lee, Yun, Yang and Lee, *Scale Mixtures of Neural Network Gaussian Processes*
(arXiv:2107.01408), section 3: Gaussian given ONE scale, which all test points and
outputs share; with an inverse gamma a multivariate Student-t.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, logsumexp, ndtr, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_positive
from .._params import params
from ._gp import add_diagonal, einsum, factor
from ._largest import class_probabilities
from ._scale_prior import Delta, InverseGamma, scale_rule

_BISECTIONS = 60


@params
class Facts:
    r"""All that is known of a scale: its prior, and $N$ and $D$ of the data.

    The posterior is $H(s) s^{-N/2} e^{-D/2s}$ but for a constant.
    """

    prior: Any
    count: Array  # (): N
    square: Array  # (): D

    def conjugate(self) -> "Facts":
        """The posterior as another inverse gamma, with no data beside it."""
        assert isinstance(self.prior, InverseGamma)
        prior = InverseGamma(
            self.prior.a + self.count / 2, self.prior.b + self.square / 2
        )
        zero = jnp.zeros_like(self.count)
        return Facts(prior=prior, count=zero, square=zero)

    def integral(self) -> tuple[Array, Array, Array]:
        r"""$\log\int H(s) s^{-N/2} e^{-D/2s} ds$, the nodes, normalised log weights."""
        total, log_scale, log_weight = self._relative()
        top = -self.count / 2 * (1 + jnp.log(self._square / self.count))
        return total + top, log_scale, log_weight

    @property
    def _square(self) -> Array:
        # At 0 a scale has no likelihood; 1 / D^2 must not overflow in a derivative.
        return jnp.maximum(self.square, float(jnp.finfo(self.square.dtype).tiny) ** 0.4)

    def _relative(self) -> tuple[Array, Array, Array]:
        """`integral` over the largest value of the likelihood, at s = D / N."""
        centre = jnp.log(self._square / self.count)

        def log_likelihood(u):  # less its largest value, without cancellation
            return -self.count / 2 * (u - centre + jnp.expm1(centre - u))

        log_scale, log_weight = scale_rule(
            self.prior, log_likelihood, self.square.dtype
        )
        total = logsumexp(log_weight)
        return total, log_scale, log_weight - total

    def log_density(self, count: int, square: Array) -> Array:
        r"""Log density of `count` numbers of unit covariance and the given square.

        $\log\int (2\pi s)^{-m/2} e^{-d/2s} p(s \mid y) ds$ with $m$ numbers whose
        squares sum to $d$.
        """
        half, constant = count / 2, -count / 2 * math.log(2 * math.pi)
        if isinstance(self.prior, InverseGamma):  # a Student-t
            a, b = jnp.asarray(self.prior.a), jnp.asarray(self.prior.b)
            ratio = _log_gamma_ratio(a, half) - half * jnp.log(b)
            return constant + ratio - (a + half) * jnp.log1p(square / (2 * b))
        if isinstance(self.prior, Delta):
            s = self.prior.s
            return constant - half * jnp.log(s) - square / (2 * s)
        square = jnp.minimum(square, float(jnp.finfo(square.dtype).max) * 1e-4)
        more = Facts(
            prior=self.prior, count=self.count + count, square=self._square + square
        )
        tops = -half * (1 + jnp.log(more.square / more.count)) - self.count / 2 * (
            jnp.log1p(square / self._square) - jnp.log1p(count / self.count)
        )
        return constant + tops + more._relative()[0] - self._relative()[0]


def _log_gamma_ratio(a: Array, h: float) -> Array:
    """`log(Gamma(a + h) / Gamma(a))`, by Stirling's series where the two are large."""
    x = jnp.maximum(a, 20)

    def rest(x):
        return (1 - (1 / 30 - 2 / (210 * x**2)) / x**2) / (12 * x)

    large = (x + h - 0.5) * jnp.log1p(h / x) + h * jnp.log(x) - h + rest(x + h)
    return jnp.where(a > 20, large - rest(x), gammaln(a + h) - gammaln(a))


@params
class Scaled:
    """Gaussian predictions whose covariance is a multiple of one: s S."""

    mean: Array  # (n_test,) or (n_test, outputs)
    variance: Array  # (n_test,)
    covariance: Array | None  # (n_test, n_test)

    def at(self, log_scale: Array) -> tuple[Array, Array]:
        """Mean and variance at one scale."""
        return self.mean, jnp.exp(log_scale) * self.variance

    def covariance_at(self, log_scale: Array) -> Array | None:
        """Covariance at one scale, if that of scale 1 is known."""
        return None if self.covariance is None else jnp.exp(log_scale) * self.covariance

    def observed(self, noise: Array) -> "Scaled":
        """With the noise of new observations, scaled too."""
        covariance = self.covariance
        if covariance is not None:
            covariance = add_diagonal(covariance, noise)
        return dataclasses.replace(
            self, variance=self.variance + noise, covariance=covariance
        )


@params
class Eigen:
    r"""Gaussian predictions from $sK + vI$, in the basis of the eigenvectors of $K$."""

    cross: Array  # (n_test, n): K_* Q
    k_test: Array  # (n_test,) or (n_test, n_test)
    eigenvalues: Array  # (n,)
    targets: Array  # (n,) or (n, outputs): Q' y
    noise: Array  # (): v
    added: Array  # (): 0, or v for new observations

    def _inverse(self, log_scale: Array) -> Array:
        return 1 / (jnp.exp(log_scale) * self.eigenvalues + self.noise)

    def at(self, log_scale: Array) -> tuple[Array, Array]:
        """Mean and variance at one scale."""
        s, inverse = jnp.exp(log_scale), self._inverse(log_scale)
        mean = s * einsum("ti,i,i...->t...", self.cross, inverse, self.targets)
        own = self.k_test if self.k_test.ndim == 1 else jnp.diagonal(self.k_test)
        taken = s * einsum("ti,i->t", self.cross**2, inverse)
        return mean, s * jnp.maximum(own - taken, 0) + self.added

    def covariance_at(self, log_scale: Array) -> Array | None:
        """Covariance at one scale, if `k_test` is a matrix."""
        if self.k_test.ndim == 1:
            return None
        s, inverse = jnp.exp(log_scale), self._inverse(log_scale)
        taken = s * einsum("ti,i,ui->tu", self.cross, inverse, self.cross)
        return add_diagonal(s * (self.k_test - taken), self.added)

    def observed(self, noise: Array) -> "Eigen":
        """With the noise of new observations."""
        return dataclasses.replace(self, added=self.added + noise)

    def moments(self, log_scale: Array, log_weight: Array) -> tuple[Array, Array]:
        """Mean and variance of the mixture."""
        mean, variance = jax.vmap(self.at)(log_scale)
        weight = jnp.exp(log_weight)
        total = einsum("k,k...->...", weight, mean)
        variance = variance.reshape(*variance.shape, *(1,) * (mean.ndim - 2))
        spread = einsum("k,k...->...", weight, variance + (mean - total[None]) ** 2)
        return total, spread


@params
class Mixture:
    """Predictions of a scale mixture: Gaussian given one scale for everything.

    Made by `predict` from a `ScalePosterior`.
    """

    mean: Array  # (n_test,) or (n_test, outputs)
    variance: Array  # like `mean`; see `ScalePosterior.mean_scale`
    given: Scaled | Eigen  # the Gaussian predictions at a scale
    log_scale: Array  # (nodes,): nodes of a rule in log s
    log_weight: Array  # (nodes,), normalised
    facts: Facts | None  # what is known of the scale; None if the noise is not scaled

    def _nodes(self, stride: int = 1) -> tuple[Array, Array, Array]:
        """Log weights, means and variances `(nodes, *mean.shape)` or with 1s."""
        log_weight = self.log_weight[::stride]
        log_weight = log_weight - logsumexp(log_weight)
        mean, variance = jax.vmap(self.given.at)(self.log_scale[::stride])
        ones = (1,) * (self.mean.ndim - 1)
        log_weight = log_weight.reshape(-1, *(1,) * self.mean.ndim)
        variance = variance.reshape(*variance.shape, *ones)
        return log_weight, mean, jnp.maximum(variance, jnp.finfo(variance.dtype).tiny)

    def _as_targets(self, where: str, y: ArrayLike) -> Array:
        if jnp.shape(y) != self.mean.shape:
            raise ValueError(
                f"{where}: `y` must have shape {self.mean.shape}, got {jnp.shape(y)}."
            )
        return jnp.asarray(y, self.mean.dtype)

    def _covariances(self, where: str) -> None:
        if self.given.covariance_at(self.log_scale[0]) is None:
            raise ValueError(
                f"{where}: the covariance of the test points must be known; give "
                "`predict` a matrix `k_test`, got variances."
            )

    def cdf(self, y: Float[ArrayLike, "*mean"]) -> Float[Array, "*mean"]:
        """Probability that each coordinate is at most `y`, by the quadrature.

        Args:
            y: Values, shaped like `mean`.

        Returns:
            Probabilities, shaped like `mean`; errors are absolute ones.

        Raises:
            ValueError: `y` has another shape.
        """
        return _below(self, self._as_targets("cdf", y))

    def _cdf(self, y, log_weight, mean, variance) -> Array:
        below = ndtr((y[None] - mean) / jnp.sqrt(variance))
        return (jnp.exp(log_weight) * below).sum(0)

    def quantile(self, p: Float[ArrayLike, "*p"]) -> Float[Array, "..."]:
        """Quantiles of each coordinate.

        Bisection of the distribution function between Gaussian quantiles, then Newton's
        method; differentiable in all that went in.

        Args:
            p: Probabilities, any shape.

        Returns:
            For every probability an array like `mean`; NaN outside of (0, 1).
        """
        return _quantiles(self, jnp.asarray(p, self.mean.dtype))

    def _quantile(self, p: Array, nodes) -> Array:
        log_weight, mean, variance = nodes
        ends = jax.lax.stop_gradient(mean + jnp.sqrt(variance) * ndtri(p))
        fixed = jax.tree.map(jax.lax.stop_gradient, nodes)

        def halve(ends, _):
            low, high = ends
            middle = (low + high) / 2
            below = self._cdf(middle, *fixed) < p
            return (jnp.where(below, middle, low), jnp.where(below, high, middle)), None

        ends = (ends.min(0), ends.max(0))
        (low, high), _ = jax.lax.scan(halve, ends, None, length=_BISECTIONS)
        y = jax.lax.stop_gradient((low + high) / 2)
        for _ in range(2):
            y = jax.lax.stop_gradient(y)
            z = (y[None] - mean) / jnp.sqrt(variance)
            density = jnp.exp(log_weight - z * z / 2) / jnp.sqrt(2 * math.pi * variance)
            slope = jax.lax.stop_gradient(density.sum(0))
            step = (self._cdf(y, *nodes) - p) / jnp.where(slope > 0, slope, 1)
            y = y - jnp.where(slope > 0, step, 0)
        return y

    def log_prob(
        self, y: Float[ArrayLike, "*mean"], *, joint: bool = False
    ) -> Float[Array, "..."]:
        """Log density of each coordinate, or of all of them together.

        Args:
            y: Values, shaped like `mean`.
            joint: Whether to give the density of all test points and outputs at once;
                `predict` must have had a matrix `k_test`.

        Returns:
            An array like `mean`, or `()`. Where the noise is not scaled, values so far
            out that they tell of another scale than the data did are given too small a
            density: the nodes are those of the data.

        Raises:
            ValueError: `y` has another shape, or the covariance is not known.
        """
        y = self._as_targets("log_prob", y)
        if joint:
            self._covariances("log_prob")
        return _log_density(self, y, joint)

    def _marginal(self, y: Array) -> Array:
        if self.facts is not None:
            assert isinstance(self.given, Scaled)
            ones = (1,) * (self.mean.ndim - 1)
            tiny = jnp.finfo(self.mean.dtype).tiny
            variance = jnp.maximum(self.given.variance, tiny).reshape(-1, *ones)
            square = (y - self.mean) ** 2 / variance
            one = jax.vmap(lambda d: self.facts.log_density(1, d))  # pyright: ignore
            return one(square.ravel()).reshape(y.shape) - jnp.log(variance) / 2
        log_weight, mean, variance = self._nodes()
        square = (y[None] - mean) ** 2 / variance
        log_density = -(square + jnp.log(2 * math.pi * variance)) / 2
        return logsumexp(log_weight + log_density, axis=0)

    def _joint(self, y: Array) -> Array:
        outputs = math.prod(y.shape[1:])

        def whiten(covariance, mean):
            cholesky, _ = factor("log_prob", "covariance", covariance)
            rest = jax.scipy.linalg.solve_triangular(cholesky, y - mean, lower=True)
            log_det = outputs * jnp.log(jnp.diagonal(cholesky)).sum()
            return (rest * rest).sum(), log_det

        if self.facts is not None:
            assert isinstance(self.given, Scaled)
            square, log_det = whiten(self.given.covariance, self.mean)
            return self.facts.log_density(y.size, square) - log_det

        def at(log_scale):
            mean, _ = self.given.at(log_scale)
            square, log_det = whiten(self.given.covariance_at(log_scale), mean)
            return -square / 2 - log_det - y.size / 2 * math.log(2 * math.pi)

        return logsumexp(self.log_weight + jax.lax.map(at, self.log_scale))

    def sample(
        self, key: PRNGKeyArray, num_samples: int
    ) -> Float[Array, "num_samples *mean"]:
        """Draws of all test points and outputs together, each with ONE scale.

        Time O(n_test^3) once, or for each draw where the noise is not scaled.

        Args:
            key: A JAX key.
            num_samples: How many.

        Returns:
            Draws, `(num_samples, *mean.shape)`.

        Raises:
            ValueError: `predict` had no matrix `k_test`.
        """
        check_positive("sample", num_samples=num_samples)
        self._covariances("sample")
        return _draws(self, key, num_samples)

    def _sample(self, key: Array, num_samples: int) -> Array:
        scale_key, key = jax.random.split(key)
        log_scale = self._sample_scale(scale_key, num_samples)
        shape = (num_samples, *self.mean.shape)
        z = jax.random.normal(key, shape, self.mean.dtype)
        if isinstance(self.given, Scaled):
            assert self.given.covariance is not None
            cholesky, _ = factor("sample", "covariance", self.given.covariance)
            root = jnp.exp(log_scale / 2).reshape(-1, *(1,) * self.mean.ndim)
            return self.mean[None] + root * einsum("tu,su...->st...", cholesky, z)

        def draw(both):
            u, z = both
            cholesky, _ = factor("sample", "covariance", self.given.covariance_at(u))  # pyright: ignore
            return self.given.at(u)[0] + einsum("tu,u...->t...", cholesky, z)

        return jax.lax.map(draw, (log_scale, z))

    def _sample_scale(self, key: PRNGKeyArray, num_samples: int) -> Array:
        dtype = self.mean.dtype
        if self.facts is not None and isinstance(self.facts.prior, InverseGamma):
            draws = self.facts.prior.sample(key, shape=(num_samples,), dtype=dtype)
            return jnp.log(draws)
        if len(self.log_scale) == 1:
            return jnp.broadcast_to(self.log_scale, (num_samples,))
        total = jnp.cumsum(jnp.exp(self.log_weight))
        u = jax.random.uniform(key, (num_samples,), dtype)
        # The nodes are the middles of their cells.
        ends = (self.log_scale[1:] + self.log_scale[:-1]) / 2
        return jnp.interp(u * total[-1], total[:-1], ends)

    def class_probabilities(self) -> Float[Array, "n_test classes"]:
        """Probability that each output is the largest; see the function of this name.

        Returns:
            Probabilities, `(n_test, classes)`.

        Raises:
            ValueError: `mean` has no axis of outputs.
        """
        if self.mean.ndim != 2:
            raise ValueError(
                "class_probabilities: `mean` must have shape (n_test, classes), got "
                f"{self.mean.shape}."
            )
        return _largest(self)

    def _class_probabilities(self) -> Array:
        stride = 1
        if self.facts is not None and self.facts.prior.support == (0.0, math.inf):
            stride = 4 if len(self.log_scale) > 1 else 1  # still a trapezoid rule
        log_weight, _, _ = self._nodes(stride)

        def add(total, node):
            weight, u = node
            return total + weight * class_probabilities(*self.given.at(u)), None

        nodes = (jnp.exp(log_weight.ravel()), self.log_scale[::stride])
        return jax.lax.scan(add, jnp.zeros_like(self.mean), nodes)[0]


# One program each, where they are not traced into a larger one.


@jax.jit
def _below(mixture: Mixture, y: Array) -> Array:
    return mixture._cdf(y, *mixture._nodes())


@jax.jit
def _quantiles(mixture: Mixture, p: Array) -> Array:
    nodes = mixture._nodes()
    y = jax.lax.map(lambda one: mixture._quantile(one, nodes), p.ravel())
    return y.reshape(*p.shape, *mixture.mean.shape)


@functools.partial(jax.jit, static_argnames="joint")
def _log_density(mixture: Mixture, y: Array, joint: bool) -> Array:
    return mixture._joint(y) if joint else mixture._marginal(y)


@functools.partial(jax.jit, static_argnames="num_samples")
def _draws(mixture: Mixture, key: Array, num_samples: int) -> Array:
    return mixture._sample(key, num_samples)


@jax.jit
def _largest(mixture: Mixture) -> Array:
    return mixture._class_probabilities()
