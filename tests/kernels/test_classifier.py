"""Sampling classifiers: simulation-based calibration, quadrature, closed forms."""

import dataclasses
import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy import stats

from jaxarch import kernels as ker
from jaxarch.kernels import Delta, HalfCauchy, InverseGamma, ScalePrior

from .binary_reference import PRIORS, binary_posterior


def covariance(n):
    x = np.linspace(-1, 1, n)
    return np.exp(-((x[:, None] - x) ** 2)) + 0.1 * np.eye(n)


N, CLASSES, REPLICATIONS, DRAWS = 4, 2, 400, 19
K = covariance(N).astype(np.float32)


@functools.partial(jax.jit, static_argnames="update")
def _calibrate(key, truth, believed, update):
    """Ranks of the true scale and of one true latent value among those sampled."""
    cholesky = jnp.asarray(np.linalg.cholesky(K))

    def one(key):
        key_s, key_f, key_y, key_chain = jax.random.split(key, 4)
        s = truth.sample(key_s, shape=(), dtype=jnp.float32)
        f = jnp.sqrt(s) * cholesky @ jax.random.normal(key_f, (N, CLASSES))
        samples = ker.sample_classifier(
            key_chain,
            K,
            jax.random.categorical(key_y, f),
            num_classes=CLASSES,
            prior=believed,
            update=update,
            num_samples=DRAWS,
            num_warmup=150,
            thin=20,
        )
        latent = jnp.einsum("j,sj->s", cholesky[1], samples.whitened[:, :, 0])
        return (samples.scale < s).sum(), (latent < f[1, 0]).sum()

    return jax.vmap(one)(jax.random.split(key, REPLICATIONS))


def p_value(ranks):
    """Of the chi-square test that ranks from 0 to DRAWS are uniform, in 10 bins."""
    counts = np.bincount(np.asarray(ranks), minlength=DRAWS + 1)
    return stats.chisquare(counts.reshape(10, -1).sum(1)).pvalue


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior", "update"),
    [
        (InverseGamma(3.0, 2.0), "exact"),
        (InverseGamma(3.0, 2.0), "slice"),
        (HalfCauchy(1.0), "slice"),
    ],
)
def test_simulation_based_calibration(prior, update):
    scale, latent = _calibrate(jax.random.key(1), prior, prior, update)
    assert p_value(scale) > 0.01
    assert p_value(latent) > 0.01


@pytest.mark.slow
def test_calibration_finds_a_wrong_conditional():
    # The exact update adds nC/2 to the shape. Given a prior whose shape is less by
    # n(C - 1)/2 it does what an update would that adds n/2.
    prior = InverseGamma(3.0, 2.0)
    wrong = InverseGamma(3.0 - N * (CLASSES - 1) / 2, 2.0)
    scale, _ = _calibrate(jax.random.key(1), prior, wrong, "exact")
    assert p_value(scale) < 1e-4


@functools.partial(jax.jit, static_argnames="update")
def _moments(keys, k, labels, prior, update):
    """Means of log s and of P(class 0) at all points, from each of several chains."""
    n = len(labels)

    def one(key):
        key_chain, key_draw = jax.random.split(key)
        samples = ker.sample_classifier(
            key_chain,
            k[:n, :n],
            labels,
            num_classes=2,
            prior=prior,
            update=update,
            num_samples=100,
            num_warmup=50,
            thin=4,
        )
        p = ker.predict_classes(samples, k[:, :n], jnp.diagonal(k), key=key_draw)
        return jnp.append(p[:, 0], jnp.log(samples.scale).mean())

    return jax.vmap(one)(keys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "update"),
    [("InverseGamma", "exact"), ("BurrXII", "slice")],
)
def test_moments_match_quadrature(name, update):
    # Two training points with different labels, and one test point.
    k = covariance(3)
    prior, density = PRIORS[name]
    _, log_scale, probabilities = binary_posterior(k, [0, 1], density)
    keys = jax.random.split(jax.random.key(0), 100)
    with jax.enable_x64(True):
        got = np.asarray(_moments(keys, k, jnp.array([0, 1]), prior, update))
    error = got.std(0, ddof=1) / 10
    want = np.append(probabilities, log_scale)
    assert (error < 0.02).all()
    np.testing.assert_array_less(np.abs(got.mean(0) - want), 4 * error)


def chain(k, prior=None, *, labels=(0, 2, 1), **options):
    """A short chain; all of one prior and update run one program, in float64."""
    options = {"num_classes": 3, "num_samples": 20, "num_warmup": 10} | options
    with jax.enable_x64(True):
        return ker.sample_classifier(
            jax.random.key(3), k, jnp.asarray(labels), prior=prior, **options
        )


def softmax(f):
    odds = np.exp(f - f.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def test_delta_is_a_multiple_of_the_kernel():
    k = covariance(3)
    one, two = chain(2.5 * k), chain(k, Delta(2.5))
    np.testing.assert_allclose(
        two.whitened, np.sqrt(2.5) * np.asarray(one.whitened), rtol=1e-9
    )
    np.testing.assert_array_equal(one.scale, np.ones(20))
    np.testing.assert_allclose(two.scale, np.full(20, 2.5))


@pytest.mark.parametrize(
    ("prior", "update"),
    [(InverseGamma(2.0, 1.0), "exact"), (HalfCauchy(1.0), "slice")],
)
def test_log_likelihood_is_that_of_the_latent_values(prior, update):
    got = chain(covariance(3), prior, update=update)
    f = np.asarray(got.cholesky) @ np.asarray(got.whitened)
    want = np.log(softmax(f)[:, np.arange(3), [0, 2, 1]]).sum(1)
    np.testing.assert_allclose(got.log_likelihood, want, rtol=1e-10)


def test_predictions_at_training_points_are_the_samples():
    k = covariance(3)
    with jax.enable_x64(True):
        samples = chain(k, InverseGamma(2.0, 1.0))
        got = ker.predict_classes(samples, k, np.diagonal(k), key=jax.random.key(0))
    f = np.linalg.cholesky(k) @ np.asarray(samples.whitened)
    np.testing.assert_allclose(got, softmax(f).mean(0), rtol=1e-6)


def test_predictions_match_quadrature():
    k = covariance(4)
    samples = chain(k[:3, :3], InverseGamma(2.0, 1.0))
    samples = dataclasses.replace(
        samples, whitened=samples.whitened[-1:], scale=samples.scale[-1:]
    )
    with jax.enable_x64(True):
        got = ker.predict_classes(
            samples, k[3:, :3], k[3:, 3], key=jax.random.key(0), num_draws=100_000
        )
    f = np.linalg.cholesky(k[:3, :3]) @ np.asarray(samples.whitened[0], float)
    weights = np.linalg.solve(k[:3, :3], k[:3, 3])
    variance = float(samples.scale[0]) * (k[3, 3] - k[3, :3] @ weights)
    nodes, mass = hermegauss(40)
    z = np.stack(np.meshgrid(nodes, nodes, nodes), -1)
    mass = np.einsum("i,j,k->ijk", mass, mass, mass) / (2 * np.pi) ** 1.5
    p = softmax(weights @ f + np.sqrt(variance) * z)
    want = np.einsum("ijk,ijkc->c", mass, p)
    # A probability has a standard deviation of at most 1/2.
    np.testing.assert_allclose(got[0], want, rtol=0, atol=4 * 0.5 / 100_000**0.5)


def test_a_gram_means_its_nngp():
    k = covariance(3)
    want, got = chain(k), chain(ker.Gram(nngp=k, ntk=np.full_like(k, np.nan)))
    np.testing.assert_array_equal(got.whitened, want.whitened)
    grams = (ker.Gram(nngp=a) for a in (k, np.diagonal(k)))
    with jax.enable_x64(True):
        got = ker.predict_classes(got, *grams, key=jax.random.key(0))
        want = ker.predict_classes(want, k, np.diagonal(k), key=jax.random.key(0))
    np.testing.assert_array_equal(got, want)


def _exponential(s, rate):
    return jnp.log(rate) - rate * s


def test_any_density_inside_its_support():
    prior = ScalePrior(_exponential, (0.5, 2.0), (1.0,))
    scale = np.asarray(chain(covariance(3), prior, update="slice").scale)
    assert ((scale > 0.5) & (scale < 2)).all()
    assert scale.std() > 0.2


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_results_follow_the_kernel(dtype):
    with jax.enable_x64(True):
        k = jnp.asarray(covariance(3)).astype(dtype)
        samples = chain(k, InverseGamma(2.0, 1.0))
        p = ker.predict_classes(samples, k, jnp.diagonal(k), key=jax.random.key(0))
    wanted = "float64" if dtype == "float64" else "float32"
    assert {str(a.dtype) for a in jax.tree.leaves((samples, p))} == {wanted}
    np.testing.assert_allclose(p.sum(1), np.ones(3), rtol=1e-6)


def test_jitter_for_duplicates():
    k = np.ones((3, 3), np.float32)
    samples = chain(k)
    assert 0 < float(samples.jitter) < 1e-5
    assert np.isfinite(samples.whitened).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": np.ones((2, 3))}, ValueError, "`k_train` must have shape (n, n)"),
        ({"k": -np.eye(3)}, ValueError, "`k_train` must be positive definite"),
        ({"labels": (0, 1)}, ValueError, "`labels` must have shape (3,), got (2,)"),
        ({"labels": (0.0, 1.0, 2.0)}, TypeError, "`labels` must be integers, got flo"),
        ({"labels": (0, 3, 1)}, ValueError, "from 0 to 2, got 0 to 3"),
        ({"labels": (0, -1, 1)}, ValueError, "from 0 to 2, got -1 to 1"),
        ({"num_classes": 1}, ValueError, "`num_classes` must be at least 2, got 1"),
        ({"num_classes": 3.0}, TypeError, "`num_classes` must be an int, got float"),
        ({"num_samples": 0}, ValueError, "`num_samples` must be at least 1, got 0"),
        ({"num_warmup": -1}, ValueError, "`num_warmup` must be at least 1, got -1"),
        ({"thin": 0}, ValueError, "`thin` must be at least 1, got 0"),
        ({"update": "gibbs"}, ValueError, "`update` must be one of 'exact', 'slice'"),
        (
            {"prior": HalfCauchy(1.0)},
            ValueError,
            '`update` must be "slice" for a HalfC',
        ),
        ({"prior": 1.0}, TypeError, "`prior` must be one of InverseGamma"),
        ({"prior": InverseGamma(0.0, 1.0)}, ValueError, "`prior.a` must be finite"),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match="^sample_classifier: .*" + re.escape(message)):
        chain(**{"k": covariance(3)} | options)


def test_predict_refusals():
    k = covariance(3).astype(np.float32)
    samples = chain(k)
    for args, options, error, message in [
        (
            (k, k, k),
            {},
            TypeError,
            "`samples` must be a ClassifierSamples, got ndarray",
        ),
        ((samples, k[:, :2], k), {}, ValueError, "`k_test_train` must have shape"),
        ((samples, k[:0], k), {}, ValueError, "`k_test_train` must have shape"),
        ((samples, k, k), {}, ValueError, "`k_test` must have shape (3,)"),
        ((samples, k, k[0]), {"num_draws": 0}, ValueError, "`num_draws` must be at l"),
    ]:
        with pytest.raises(error, match="^predict_classes: " + re.escape(message)):
            ker.predict_classes(*args, key=jax.random.key(0), **options)


def test_without_blackjax(monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax", None)
    message = r"needs blackjax, which the extra `jaxarch\[bayes\]` installs"
    with pytest.raises(ImportError, match="^sample_classifier: " + message):
        chain(covariance(3))
