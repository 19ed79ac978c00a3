"""Scale mixtures against SciPy's Student-t, adaptive quadrature and brute force."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats
from scipy.stats import multivariate_normal, multivariate_t

from jaxarch import kernels as ker

from .test_gp import close, problem

NOISE = 0.3


def inverse_gamma(s, a, b):
    return a * jnp.log(b) - math.lgamma(1.3) - (a + 1) * jnp.log(s) - b / s


def flat(s, height):
    return jnp.zeros_like(s) + height


SAME = ker.ScalePrior(inverse_gamma, (0.0, math.inf), (1.3, 0.7))
PRIORS = {
    "InverseGamma": (ker.InverseGamma(1.3, 0.7), stats.invgamma(1.3, scale=0.7)),
    "BurrXII": (ker.BurrXII(2.0, 0.8), stats.burr12(2.0, 0.8)),
    "HalfCauchy": (ker.HalfCauchy(0.6), stats.halfcauchy(scale=0.6)),
    "LogNormal": (ker.LogNormal(-0.3, 0.8), stats.lognorm(0.8, scale=math.exp(-0.3))),
    "ScalePrior": (SAME, stats.invgamma(1.3, scale=0.7)),
    "edges": (
        ker.ScalePrior(flat, (0.5, 2.0), (math.log(1 / 1.5),)),
        stats.uniform(0.5, 1.5),
    ),
}
each_prior = pytest.mark.parametrize("name", list(PRIORS))


def stacked(k, outputs):
    """The covariance of several outputs, which are the last axis."""
    return np.kron(k, np.eye(outputs))


def scales(density):
    """Scales and weights of an integral over `density`, to 1e-12: panels in log s."""
    low, high = (math.log(np.clip(e, 1e-12, 1e12)) for e in density.support())
    x, weight = np.polynomial.legendre.leggauss(20)
    ends = np.linspace(low, high, 51)
    half = np.diff(ends)[:, None] / 2
    s = np.exp((ends[:-1, None] + half * (1 + x)).ravel())
    return s, (half * weight).ravel() * density.pdf(s) * s


@each_prior
def test_densities_and_draws(name):
    prior, want = PRIORS[name]
    s = np.geomspace(0.51, 1.99, 7)
    with jax.enable_x64(True):
        close(prior.log_prob(jnp.asarray(s)), want.logpdf(s), 1e-14)
        outside = prior.log_prob(jnp.asarray([-1.0, 0.0]))
        np.testing.assert_array_equal(outside, [-math.inf, -math.inf])
        draws = prior.sample(jax.random.key(1), shape=(4000,), dtype=jnp.float64)
    assert stats.kstest(np.asarray(draws), want.cdf).pvalue > 0.01
    assert prior.sample(jax.random.key(0), shape=(), dtype=jnp.float32).shape == ()


def student(k, k_star, k_test, y, a=1.3, b=0.7):
    """The posterior of the Student-t process, by dense formulas."""
    inverse = np.linalg.inv(k + NOISE * np.eye(len(k)))
    square = (y * (inverse @ y)).sum()
    degrees = 2 * a + y.size
    covariance = k_test - k_star @ inverse @ k_star.T
    return degrees, k_star @ inverse @ y, (2 * b + square) / degrees * covariance


@pytest.mark.parametrize("prior", ["InverseGamma", "ScalePrior"])
@pytest.mark.parametrize("outputs", [None, 3])
def test_student_t(prior, outputs):
    k, k_star, k_test, y = problem(outputs=outputs)
    rng = np.random.default_rng(1)
    degrees, mean, covariance = student(k, k_star, k_test, y)
    target = mean + rng.normal(size=mean.shape)
    count = outputs or 1
    shape = (-1,) + (1,) * (mean.ndim - 1)
    scale = np.sqrt(np.diagonal(covariance)).reshape(shape)
    marginal = stats.t(degrees, mean, scale)
    probabilities = np.array([1e-6, 0.1, 0.5, 0.99])
    with jax.enable_x64(True):
        posterior = ker.condition(k, y, noise=NOISE, prior=PRIORS[prior][0])
        mixture = ker.predict(posterior, k_star, k_test)
        assert isinstance(mixture, ker.Mixture)
        evidence = ker.log_evidence(posterior)
        joint = mixture.log_prob(target, joint=True)
        each, far = mixture.log_prob(target), mixture.log_prob(1e4 * target)
        below, quantiles = mixture.cdf(target), mixture.quantile(probabilities)
    prior_scale = 0.7 / 1.3 * stacked(k + NOISE * np.eye(len(k)), count)
    want = multivariate_t(shape=prior_scale, df=2.6).logpdf(y.ravel())
    np.testing.assert_allclose(evidence, want, rtol=1e-12)
    want = multivariate_t(mean.ravel(), stacked(covariance, count), degrees)
    np.testing.assert_allclose(joint, want.logpdf(target.ravel()), rtol=1e-11)
    close(mixture.mean, mean, 1e-12)
    close(mixture.variance, np.broadcast_to(marginal.var(), mean.shape), 1e-11)
    close(each, marginal.logpdf(target), 1e-11)
    close(far, marginal.logpdf(1e4 * target), 1e-11)
    close(below, marginal.cdf(target), 1e-11)
    want = np.stack([marginal.ppf(p) for p in probabilities])
    close(quantiles, want, 1e-10)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "BurrXII" else pytest.mark.slow)
        for name in PRIORS
    ],
)
@pytest.mark.parametrize("noise_scaled", [True, False])
def test_against_adaptive_quadrature(name, noise_scaled):
    prior, density = PRIORS[name]
    k, k_star, k_test, y = problem(n=5, n_test=2, outputs=None)
    with jax.enable_x64(True):
        posterior = ker.condition(
            k, y, noise=NOISE, prior=prior, noise_scaled=noise_scaled
        )
        mixture = ker.predict(posterior, k_star, k_test, noisy=True)
        evidence = ker.log_evidence(posterior)
        target = np.array([0.4, -0.7])
        each = mixture.log_prob(target)
        joint = mixture.log_prob(target, joint=True)
        below = mixture.cdf(target)

    def given(s):
        """Evidence, and the Gaussian prediction of new observations, at a scale."""
        v = NOISE * s if noise_scaled else NOISE
        a = s * k + v * np.eye(len(k))
        mean = s * k_star @ np.linalg.solve(a, y)
        covariance = s * k_test - s**2 * k_star @ np.linalg.solve(a, k_star.T)
        normal = multivariate_normal(mean, covariance + v * np.eye(2))
        return multivariate_normal(cov=a).pdf(y), normal

    s, weight = scales(density)
    evidences, normals = zip(*map(given, s), strict=True)
    weight = weight * evidences
    total = weight.sum()
    np.testing.assert_allclose(evidence, math.log(total), rtol=1e-10)
    means = np.stack([n.mean for n in normals])
    variances = np.stack([np.diagonal(n.cov) for n in normals])
    mean = weight @ means / total
    close(mixture.mean, mean, 1e-9)
    variance = weight @ (variances + means**2) / total - mean**2
    close(mixture.variance, variance, 1e-7)  # cut where p(s | y) is e^-40
    marginal = stats.norm(means, np.sqrt(variances))
    close(np.exp(each), weight @ marginal.pdf(target) / total, 1e-9)
    close(below, weight @ marginal.cdf(target) / total, 1e-9)
    want = weight @ [n.pdf(target) for n in normals] / total
    np.testing.assert_allclose(joint, math.log(want), rtol=1e-9)


@pytest.mark.parametrize("noise_scaled", [True, False])
def test_delta_is_a_gaussian_process(noise_scaled):
    k, k_star, k_test, y = problem()
    s, noise = 1.7, NOISE * (1.7 if noise_scaled else 1)
    with jax.enable_x64(True):
        posterior = ker.condition(
            k, y, noise=NOISE, prior=ker.Delta(s), noise_scaled=noise_scaled
        )
        got = ker.predict(posterior, k_star, k_test)
        plain = ker.condition(s * k, y, noise=noise)
        want = ker.predict(plain, s * k_star, s * k_test)
        evidence = ker.log_evidence(posterior)
        np.testing.assert_allclose(evidence, ker.log_evidence(plain), rtol=1e-12)
        close(got.mean, want.mean, 1e-12)
        variance = np.broadcast_to(want.variance[:, None], got.mean.shape)
        close(got.variance, variance, 1e-11)
        quantile = want.mean + np.sqrt(variance) * stats.norm.ppf(0.9)
        close(got.quantile(0.9), quantile, 1e-12)
        normal = stats.norm(want.mean, np.sqrt(variance))
        close(got.log_prob(0.1 + got.mean), normal.logpdf(0.1 + got.mean), 1e-12)


def test_sampling_the_prior_is_no_substitute():
    """The authors' estimator: 1000 draws of the prior, weighted by the likelihood."""
    rng = np.random.default_rng(0)
    a = b = 2.0
    prior = ker.ScalePrior(two_two, (0.0, math.inf))
    for n, worst in ((20, 0.01), (200, 0.05), (1000, 0.05)):
        y = 1.5 * rng.normal(size=n)
        want = multivariate_t(shape=b / a * np.eye(n), df=2 * a).logpdf(y)
        with jax.enable_x64(True):
            k, noise = 0.75 * np.eye(n), 0.25
            posterior = ker.condition(k, y, noise=noise, prior=prior)
            got = float(ker.log_evidence(posterior))
        assert abs(got - want) < 1e-10 * abs(want)
        s = stats.invgamma(a, scale=b).rvs((50, 1000), random_state=1)
        log_p = -n / 2 * np.log(2 * np.pi * s) - y @ y / (2 * s)
        estimates = np.logaddexp.reduce(log_p, 1) - math.log(1000)
        assert np.sqrt(np.mean((estimates - want) ** 2)) > worst


def two_two(s):
    return math.log(4.0) - 3 * jnp.log(s) - 2 / s


@pytest.mark.parametrize("noise_scaled", [True, False])
def test_draws_share_one_scale(noise_scaled):
    k, k_star, k_test, y = problem(n=2, n_test=3, outputs=2)
    prior = ker.InverseGamma(1.5, 0.5)
    with jax.enable_x64(True):
        posterior = ker.condition(
            k, 0.3 * y, noise=1e-3, prior=prior, noise_scaled=noise_scaled
        )
        mixture = ker.predict(posterior, k_star, k_test)
        draws = np.asarray(mixture.sample(jax.random.key(0), 4000))
    rest = draws - np.asarray(mixture.mean)
    with jax.enable_x64(True):
        grid = np.broadcast_to(np.linspace(-3, 3, 2001)[:, None, None], (2001, 3, 2))
        below = np.asarray(jax.lax.map(mixture.cdf, jnp.asarray(grid)))
    for i in range(3):
        for c in range(2):
            cdf = functools.partial(np.interp, xp=grid[:, i, c], fp=below[:, i, c])
            assert stats.kstest(draws[:, i, c], cdf).pvalue > 0.01
    # Squares of independent outputs go together, since their scale is the same.
    squares = rest[:, 0, 0] ** 2, rest[:, 0, 1] ** 2
    assert stats.spearmanr(*squares).pvalue < 1e-6
    other = np.random.default_rng(0).permutation(squares[1])
    assert stats.spearmanr(squares[0], other).pvalue > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("noise_scaled", [True, False])
def test_gradients(noise_scaled):
    k, k_star, k_test, y = problem(n=4, n_test=2)

    def everything(log_a, log_b, log_noise, k, k_star, y):
        prior = ker.InverseGamma(jnp.exp(log_a), jnp.exp(log_b))
        posterior = ker.condition(
            k, y, noise=jnp.exp(log_noise), prior=prior, noise_scaled=noise_scaled
        )
        mixture = ker.predict(posterior, k_star, jnp.asarray(k_test))
        outputs = mixture.mean, mixture.variance, mixture.log_prob(0.3 * mixture.mean)
        return ker.log_evidence(posterior), outputs, mixture.quantile(0.8)

    with jax.enable_x64(True):
        numbers = [jnp.asarray(a) for a in (0.3, -0.4, -1.0, k, k_star, y)]
        check_grads(jax.jit(everything), numbers, order=1, modes=("rev",), rtol=1e-4)


@pytest.mark.parametrize("name", ["BurrXII", "HalfCauchy", "LogNormal", "ScalePrior"])
def test_the_prior_is_learnt_by_gradient(name):
    prior = PRIORS[name][0]
    k, _, _, y = problem(n=4)

    def evidence(leaves):
        learnt = jax.tree.unflatten(jax.tree.structure(prior), leaves)
        return ker.log_evidence(ker.condition(k, y, noise=NOISE, prior=learnt))

    with jax.enable_x64(True):
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(prior)]
        slopes = jax.jit(jax.grad(evidence))(leaves)
        check_grads(jax.jit(evidence), (leaves,), order=1, modes=("rev",))
        assert all(slope != 0 for slope in slopes)


def test_equal_eigenvalues_have_gradients():
    k, _, _, y = problem(n=3)
    twice = np.tile([0, 1, 2], 2)  # every point twice: three eigenvalues are 0
    k, y = k[np.ix_(twice, twice)], y[twice] + 0.1 * np.arange(6)[:, None]
    moved = np.random.default_rng(0).normal(size=k.shape)
    moved = moved @ moved.T

    def evidence(t):
        posterior = ker.condition(
            k + t * moved, y, noise=NOISE, prior=SAME, noise_scaled=False
        )
        return ker.log_evidence(posterior)

    def normal(t):
        scale, weight = scales(PRIORS["ScalePrior"][1])
        a = [s * (k + t * moved) + NOISE * np.eye(6) for s in scale]
        log_det = np.linalg.slogdet(2 * math.pi * np.stack(a))[1]
        square = (y * np.linalg.solve(np.stack(a), y)).sum((1, 2))
        return math.log(weight @ np.exp(-(y.shape[1] * log_det + square) / 2))

    with jax.enable_x64(True):
        got = jax.grad(evidence)(0.0)
    step = 1e-5
    want = (normal(2 * step) - normal(0.0)) / (2 * step)
    np.testing.assert_allclose(got, want, rtol=1e-2)
    with jax.enable_x64(True):
        got = jax.grad(evidence)(step)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("noise_scaled", [True, False])
def test_class_probabilities(noise_scaled):
    k, k_star, k_test, y = problem(outputs=3)
    posterior = ker.condition(
        k, y, noise=NOISE, prior=ker.HalfCauchy(1.0), noise_scaled=noise_scaled
    )
    mixture = ker.predict(posterior, k_star, k_test)
    got = mixture.class_probabilities()
    draws = mixture.sample(jax.random.key(0), 20_000)
    counted = np.mean(np.asarray(draws.argmax(-1))[..., None] == np.arange(3), 0)
    np.testing.assert_allclose(got, counted, atol=4 * 0.5 / math.sqrt(20_000))
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("noise_scaled", [True, False])
def test_float32(noise_scaled):
    k, k_star, k_test, y = problem(n=30)

    def run(dtype):
        prior = ker.BurrXII(*jnp.asarray([2.0, 0.8], dtype))
        posterior = ker.condition(
            k.astype(dtype), y, noise=NOISE, prior=prior, noise_scaled=noise_scaled
        )
        mixture = ker.predict(posterior, k_star, np.diagonal(k_test))
        results = ker.log_evidence(posterior), mixture.mean, mixture.variance
        each = mixture.log_prob(0.9 * y[:4]), mixture.quantile(0.05)
        assert all(r.dtype == dtype for r in (*results, *each))
        return *results, *each

    with jax.enable_x64(True):
        want = run(jnp.float64)
    for got, exact in zip(run(jnp.float32), want, strict=True):
        close(got, np.asarray(exact), 3e-5)


@pytest.mark.parametrize("name", ["InverseGamma", "LogNormal"])
def test_awkward_data(name):
    """Targets that are all 0, and a test point without variance."""
    prior, density = PRIORS[name]
    k, _, _, _ = problem(n=3)

    def run(y, variance):
        posterior = ker.condition(k, y, noise=NOISE, prior=prior)
        mixture = ker.predict(posterior, k[:1], variance)
        return ker.log_evidence(posterior), mixture

    with jax.enable_x64(True):
        evidence, mixture = run(np.zeros(3), np.zeros(1))
        s, weight = scales(density)
        log_det = np.linalg.slogdet(k + NOISE * np.eye(3))[1]
        want = math.log(weight @ (2 * np.pi * s) ** -1.5) - log_det / 2
        np.testing.assert_allclose(evidence, want, rtol=1e-9)
        assert mixture.variance == 0
        np.testing.assert_allclose(mixture.quantile(0.9), mixture.mean, atol=1e-12)
        far = mixture.log_prob(mixture.mean + 1)
        assert far == -math.inf or far < -200
        np.testing.assert_allclose(mixture.cdf(mixture.mean + 1), 1, rtol=1e-12)
        slope = jax.grad(lambda y: run(y, np.ones(1))[0])(np.zeros(3))
        np.testing.assert_allclose(slope, 0, atol=1e-12)


def test_second_derivatives_of_the_evidence():
    k, _, _, y = problem(n=4)

    def evidence(t, scaled):
        posterior = ker.condition(
            jnp.exp(t) * k, y, noise=NOISE, prior=SAME, noise_scaled=scaled
        )
        return ker.log_evidence(posterior)

    with jax.enable_x64(True):
        for scaled in (True, False):
            slope = jax.jit(jax.grad(functools.partial(evidence, scaled=scaled)))
            want = (slope(0.2 + 1e-5) - slope(0.2 - 1e-5)) / 2e-5
            np.testing.assert_allclose(jax.grad(slope)(0.2), want, rtol=1e-6)


def test_many_targets_in_float32():
    n = 2000
    y = np.random.default_rng(0).normal(size=n).astype(np.float32)
    given = {}
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            for prior in (ker.InverseGamma(2.0, 2.0), ker.Delta(0.5)):
                k = 0.9 * np.eye(n, dtype=dtype)
                posterior = ker.condition(k, y, noise=0.1, prior=prior)
                mixture = ker.predict(posterior, k[:1], k[0, :1])
                got = float(mixture.log_prob(np.asarray([1.5], dtype))[0])
                given.setdefault(type(prior), []).append(got)
    for single, double in given.values():
        assert abs(single - double) < 1e-6 * abs(double)
