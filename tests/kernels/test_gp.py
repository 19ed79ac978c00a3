"""Gaussian-process prediction against SciPy, dense formulas and the golden file."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from jax.test_util import check_grads
from scipy.special import log_ndtr, ndtr
from scipy.stats import multivariate_normal

from jaxarch import kernels as ker

from .relu_reference import absolute, golden_problem, load_golden


def close(got, want, tolerance):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def problem(n=7, n_test=4, outputs=3, seed=0):
    """A positive definite kernel over train and test points, cut up, and targets."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + n_test, n + n_test))
    k = x @ x.T / n
    y = rng.normal(size=(n, outputs) if outputs else n)
    return k[:n, :n], k[n:, :n], k[n:, n:], y


def evidence(k, y, noise):
    return ker.log_evidence(ker.condition(k, y, noise=noise))


@pytest.mark.parametrize("kind", ["nngp", "ntkgp"])
def test_golden(kind):
    arrays, entries = load_golden()
    field = {"nngp": "nngp", "ntkgp": "ntk"}[kind]
    k, k_star, k_test, y = golden_problem()
    k, k_star, k_test = (getattr(gram, field) for gram in (k, k_star, k_test))
    name = "predict/gp_inference"
    noise = absolute(entries[name]["diag_reg"], k)
    with jax.enable_x64(True):
        got = ker.predict(ker.condition(k, y, noise=noise), k_star, k_test)
    close(got.mean, arrays[f"{name}/{kind}_mean"], 1e-12)
    close(got.covariance, arrays[f"{name}/{kind}_cov"], 1e-12)


@pytest.mark.parametrize("outputs", [None, 1, 3])
def test_predict_matches_the_inverse(outputs):
    k, k_star, k_test, y = problem(outputs=outputs)
    inverse = np.linalg.inv(k + 0.3 * np.eye(len(k)))
    with jax.enable_x64(True):
        posterior = ker.condition(k, y, noise=0.3)
        full = ker.predict(posterior, k_star, k_test)
        diagonal = ker.predict(posterior, k_star, np.diagonal(k_test))
        mean = ker.predict(posterior, k_star)
    assert float(posterior.jitter) == 0
    covariance = k_test - k_star @ inverse @ k_star.T
    assert full.mean.shape == (4, *y.shape[1:])
    close(full.mean, k_star @ inverse @ y, 1e-12)
    close(full.covariance, covariance, 1e-12)
    close(full.variance, np.diagonal(covariance), 1e-12)
    close(diagonal.variance, np.diagonal(covariance), 1e-12)
    np.testing.assert_array_equal(mean.mean, full.mean)
    assert diagonal.covariance is None
    assert mean.variance is None


def test_vmap_over_targets_alone():
    k, _, _, y = problem(outputs=3)
    with jax.enable_x64(True):
        got = jax.vmap(lambda y: ker.condition(k, y, noise=0.3).weights, 1, 1)(y)
        close(got, ker.condition(k, y, noise=0.3).weights, 1e-13)


@pytest.mark.parametrize("outputs", [None, 3])
def test_log_evidence_matches_scipy(outputs):
    k, _, _, y = problem(outputs=outputs)
    want = multivariate_normal(cov=k + 0.3 * np.eye(len(k))).logpdf(y.T).sum()
    with jax.enable_x64(True):
        got = evidence(k, y, 0.3)
    np.testing.assert_allclose(got, want, rtol=1e-13)


def test_gram_means_its_nngp():
    k, k_star, k_test, y = problem()
    want = ker.predict(ker.condition(k, y, noise=0.3), k_star, k_test)
    grams = [ker.Gram(nngp=a, ntk=np.full_like(a, np.nan)) for a in (k, k_star, k_test)]
    got = ker.predict(ker.condition(grams[0], y, noise=0.3), *grams[1:])
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_interpolates_as_the_noise_vanishes():
    k, _, _, y = problem()
    with jax.enable_x64(True):
        got = ker.predict(ker.condition(k, y, noise=1e-13), k, k)
    close(got.mean, y, 1e-9)
    variance = np.asarray(got.variance)
    assert (variance >= 0).all()
    assert (variance < 1e-10).all()


@given(st.integers(0, 2**32 - 1))
def test_data_reduces_variance_and_covariance_is_psd(seed):
    k, k_star, k_test, y = problem(seed=seed)
    with jax.enable_x64(True):
        got = ker.predict(ker.condition(k, y, noise=0.1), k_star, k_test)
    assert (np.asarray(got.variance) <= np.diagonal(k_test)).all()
    assert np.linalg.eigvalsh(got.covariance).min() > -1e-12 * k_test.max()


def test_gradients():
    k, k_star, k_test, y = problem(n=4, n_test=2, outputs=2)

    @jax.jit
    def everything(k, y, noise, k_star):
        posterior = ker.condition(k, y, noise=noise)
        return ker.log_evidence(posterior), ker.predict(posterior, k_star, k_test)

    with jax.enable_x64(True):
        args = jax.tree.map(jnp.asarray, (k, y, 0.3, k_star))
        check_grads(everything, args, order=1, modes=["fwd", "rev"])
        got = jax.grad(evidence, (0, 2))(*args[:3])
    # Rasmussen and Williams, equation 5.9, summed over the two outputs.
    inverse = np.linalg.inv(k + 0.3 * np.eye(4))
    want = (inverse @ y @ y.T @ inverse - 2 * inverse) / 2
    close(got[0], want, 1e-12)
    np.testing.assert_allclose(got[1], np.trace(want), rtol=1e-12)


def test_second_derivative():
    k, _, _, y = problem(n=4)
    direction = np.diag([1.0, 2.0, 0.0, -1.0])
    slope = jax.jit(jax.grad(lambda s: evidence(k + s * direction, y, jnp.exp(s))))
    with jax.enable_x64(True):
        got = jax.jit(jax.grad(slope))(0.1)
        want = (slope(0.1 + 1e-5) - slope(0.1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(got, want, rtol=1e-7)


def test_jit_and_vmap():
    problems = [problem(seed=seed) for seed in range(3)]
    stacked = [np.stack(arrays) for arrays in zip(*problems, strict=True)]
    noises = np.array([0.1, 0.2, 0.3])

    def run(k, k_star, k_test, y, noise):
        posterior = ker.condition(k, y, noise=noise)
        return ker.predict(posterior, k_star, k_test), ker.log_evidence(posterior)

    with jax.enable_x64(True):
        got = jax.jit(jax.vmap(run))(*stacked, noises)
        wants = [run(*p, noise) for p, noise in zip(problems, noises, strict=True)]
    for i, want in enumerate(wants):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=0, atol=1e-12),
            got,
            want,
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_narrow_dtypes_are_factored_in_float32(dtype):
    arrays = [np.asarray(jnp.asarray(a, dtype), np.float64) for a in problem()]
    k, k_star, k_test, y = arrays
    inverse = np.linalg.inv(k + 0.5 * np.eye(len(k)))
    k, k_star, k_test, y = (jnp.asarray(a, dtype) for a in arrays)
    posterior = ker.condition(k, y, noise=0.5)
    got = ker.predict(posterior, k_star, k_test)
    assert {a.dtype for a in jax.tree.leaves((posterior, got))} == {np.dtype("float32")}
    close(got.mean, arrays[1] @ inverse @ arrays[3], 1e-5)
    close(got.covariance, arrays[2] - arrays[1] @ inverse @ arrays[1].T, 1e-5)


def test_integers_are_taken_as_floats():
    got = ker.condition(np.eye(3, dtype=int), np.arange(3), noise=1)
    np.testing.assert_allclose(got.weights, np.arange(3) / 2)


# The jitter ladder.


@pytest.mark.parametrize(("x64", "smallest"), [(False, 1e-6), (True, 1e-15)])
def test_a_singular_matrix_is_factored_with_jitter(x64, smallest):
    x = np.random.default_rng(0).normal(size=(60, 5))
    k = 3 * x @ x.T
    with jax.enable_x64(x64):
        got = ker.condition(k, x[:, 0], noise=1e-30)
    cholesky, jitter = np.asarray(got.cholesky), float(got.jitter)
    eps = np.finfo(cholesky.dtype).eps
    matrix = k + jitter * np.eye(len(k))
    jitter /= np.trace(k) / len(k)
    # A power of ten times the mean diagonal, and as small as rounding admits.
    np.testing.assert_allclose(np.log10(jitter), np.round(np.log10(jitter)), atol=1e-5)
    assert smallest * 0.99 < jitter < 100 * smallest
    close(cholesky @ cholesky.T, matrix, 20 * eps)


def test_the_smallest_sufficient_jitter_is_used_under_vmap():
    singular, regular = np.ones((8, 8)), np.eye(8)
    # The lowest eigenvalue is -1e-5 of the mean diagonal, 1e-4 is the next power.
    indefinite = np.eye(8) - (1 + 1e-5) / 8 * np.ones((8, 8))
    indefinite /= np.trace(indefinite) / 8
    k = np.stack([regular, singular, indefinite])
    with jax.enable_x64(True):
        got = jax.vmap(lambda k: ker.condition(k, np.ones(8), noise=1e-20).jitter)(k)
        got = np.asarray(got)
        one = ker.condition(indefinite, np.ones(8), noise=1e-20)
    assert got[0] == 0
    assert got[1] < 1e-13
    np.testing.assert_allclose(got[2], 1e-4, rtol=1e-12)
    np.testing.assert_allclose(one.jitter, 1e-4, rtol=1e-12)


def test_gradients_with_jitter_hold_it_fixed():
    k, y = np.ones((4, 4)), np.arange(4.0)
    direction = np.diag([1.0, 2.0, 3.0, 4.0])
    with jax.enable_x64(True):
        jitter = ker.condition(k, y, noise=1e-20).jitter
        assert jitter > 0
        fixed = functools.partial(evidence, y=y, noise=jitter)
        value, got = jax.jvp(lambda k: evidence(k, y, 1e-20), (k,), (direction,))
        want = jax.jvp(fixed, (k,), (direction,))
    np.testing.assert_allclose((value, got), want, rtol=1e-6)


def test_an_indefinite_matrix_raises_and_is_nan_under_jit():
    k, y = np.diag([1.0, 2.0, -1.0]), np.ones(3)
    message = r"condition: `k_train \+ noise I` must be positive definite.*float64"
    with pytest.raises(ValueError, match=message):
        ker.condition(k, y, noise=0.1)
    with pytest.raises(ValueError, match="with NaN"):
        ker.condition(np.full((2, 2), np.nan), y[:2], noise=0.1)
    posterior = jax.jit(functools.partial(ker.condition, noise=0.1))(k, y)
    assert np.isnan(posterior.jitter)
    assert np.isnan(posterior.weights).all()
    assert np.isnan(ker.log_evidence(posterior))


# Class probabilities.


def dense_probabilities(mean, sigma, step=1 / 128):
    """The same integral on sixteen times as many nodes, over twice the range."""
    nodes = step * np.arange(-40 / step, 12 / step + 1)
    z = (mean.max() - mean[:, None]) / sigma + nodes
    log_cdf = log_ndtr(z)
    log_pdf = -(z * z + np.log(2 * np.pi)) / 2
    return step * np.exp(log_pdf - log_cdf + log_cdf.sum(0)).sum(1)


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 1000])
def test_class_probabilities_match_a_dense_rule(classes, x64):
    rng = np.random.default_rng(0)
    scale = np.array([0, 0.1, 1, 3, 10, 30])
    mean = (scale[:, None] * rng.normal(size=(6, classes))).astype(np.float32)
    variance = np.array([1, 2, 0.5, 1, 1, 4], np.float32)
    with jax.enable_x64(x64):
        dtype = np.float64 if x64 else np.float32
        got = ker.class_probabilities(mean.astype(dtype), variance.astype(dtype))
        got = np.asarray(got)
    assert got.dtype == dtype
    sigma = np.sqrt(variance.astype(np.float64))
    want = [
        dense_probabilities(m, s)
        for m, s in zip(mean.astype(np.float64), sigma, strict=True)
    ]
    want = np.stack(want)
    likely = want > (1e-60 if x64 else 1e-30)
    tolerance = 1e-12 if x64 else 1e-5
    np.testing.assert_allclose(got[likely], want[likely], rtol=tolerance)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    np.testing.assert_allclose(got.sum(1), 1, rtol=tolerance)


def test_class_probabilities_of_two_classes_in_closed_form():
    gap = np.linspace(0, 28, 29)
    with jax.enable_x64(True):
        mean = np.stack([gap, 0 * gap], 1)
        got = ker.class_probabilities(mean, np.full(29, 2.0))[:, 1]
    np.testing.assert_allclose(got, ndtr(-gap / 2), rtol=1e-12)


def test_class_probabilities_match_monte_carlo():
    mean, num = np.array([0.3, -0.2, 0.5, 0.4]), 200_000
    draws = mean + 0.7 * np.random.default_rng(0).normal(size=(num, 4))
    want = np.bincount(draws.argmax(1), minlength=4) / num
    got = ker.class_probabilities(mean[None], np.array([0.49]))[0]
    assert (np.abs(got - want) < 4 * np.sqrt(want * (1 - want) / num)).all()


@pytest.mark.parametrize("variance", [0, 1e-40, 1e-300])
@pytest.mark.parametrize("x64", [True, False])
def test_vanishing_variance_gives_the_largest_mean_and_ties_share(variance, x64):
    mean = np.array([[0, 1, -3, 0.5], [1, 2, 2, 0], [5, 5, 5, 5]], float)
    want = np.array([[0, 1, 0, 0], [0, 0.5, 0.5, 0], [0.25, 0.25, 0.25, 0.25]])
    with jax.enable_x64(x64):
        args = jnp.asarray(mean), jnp.full(3, variance, float)
        got = ker.class_probabilities(*args)
        slopes = jax.jacrev(ker.class_probabilities, (0, 1))(*args)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 if x64 else 1e-6)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_class_probabilities_transform():
    mean = np.random.default_rng(0).normal(size=(3, 5))
    variance = np.array([0.1, 1.0, 10.0])
    mean[1, 0] = mean[1].max()  # a tie

    def log_probabilities(mean, variance):
        return jnp.log(ker.class_probabilities(mean, variance))

    with jax.enable_x64(True):
        args = jnp.asarray(mean), jnp.asarray(variance)
        check_grads(log_probabilities, args, order=1, modes=["fwd", "rev"])
        want = log_probabilities(*args)
        got = jax.jit(jax.vmap(lambda m, v: log_probabilities(m[None], v[None])[0]))(
            *args
        )
    np.testing.assert_allclose(got, want, rtol=1e-13)


# Bad input.


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 3), (0, 0)])
def test_bad_k_train(shape):
    message = rf"condition: `k_train` must have shape \(n, n\).*{re.escape(str(shape))}"
    with pytest.raises(ValueError, match=message):
        ker.condition(np.ones(shape), np.ones(3), noise=1.0)


@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (3, 2, 2)])
def test_bad_y(shape):
    message = r"condition: `y` must have shape \(3,\) or \(3, outputs\), got "
    with pytest.raises(ValueError, match=message + re.escape(str(shape))):
        ker.condition(np.eye(3), np.ones(shape), noise=1.0)


@pytest.mark.parametrize("noise", [0.0, -0.5, np.nan, np.inf, jnp.float32(-2)])
def test_bad_noise(noise):
    message = rf"condition: `noise` must be finite and positive, got {float(noise)}"
    with pytest.raises(ValueError, match=re.escape(message)):
        ker.condition(np.eye(3), np.ones(3), noise=noise)


def test_bad_noise_shape():
    message = r"condition: `noise` must have shape \(\).*vmap.*got \(3,\)"
    with pytest.raises(ValueError, match=message):
        ker.condition(np.eye(3), np.ones(3), noise=np.ones(3))


def test_bad_arguments_of_predict():
    posterior = ker.condition(np.eye(3), np.ones(3), noise=1.0)
    message = r"predict: `k_test_train` must have shape \(n_test, 3\).*got \(3, 2\)"
    with pytest.raises(ValueError, match=message):
        ker.predict(posterior, np.ones((3, 2)))
    message = r"predict: `k_test` must have shape \(2,\) .* or \(2, 2\) .*got \(3,\)"
    with pytest.raises(ValueError, match=message):
        ker.predict(posterior, np.ones((2, 3)), np.ones(3))
    with pytest.raises(ValueError, match=r"`f0` must be None for a Posterior.*\(2,\)"):
        ker.predict(posterior, np.ones((2, 3)), f0=np.ones(2))
    message = "predict: `posterior` must be a Posterior, a Trained or a .*got dict"
    with pytest.raises(TypeError, match=message):
        ker.predict({}, np.ones((2, 3)))


def test_bad_argument_of_log_evidence():
    message = "log_evidence: `posterior` must be a Posterior or a Scale"
    with pytest.raises(TypeError, match=message):
        ker.log_evidence(np.eye(3))


def test_bad_arguments_of_class_probabilities():
    message = r"class_probabilities: `mean` must have shape \(n, classes\), got \(3,\)"
    with pytest.raises(ValueError, match=message):
        ker.class_probabilities(np.ones(3), np.ones(3))
    message = r"class_probabilities: `variance` must have shape \(3,\), got \(4,\)"
    with pytest.raises(ValueError, match=message):
        ker.class_probabilities(np.ones((3, 2)), np.ones(4))
