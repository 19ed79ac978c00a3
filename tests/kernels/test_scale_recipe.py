"""The recipes of docs/scale-mixtures.md, which shows them word for word."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_diabetes, load_digits

from jaxarch import kernels as ker


@pytest.fixture(autouse=True)
def _settings_of_a_user():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.slow
def test_regression():
    x, y = load_diabetes(return_X_y=True)
    x, y = (x / x.std(0)).astype(np.float32), ((y - y.mean()) / y.std()).astype("f4")
    x_train, y_train, x_test, y_test = x[:100], y[:100], x[400:], y[400:]

    # --8<-- [start:regression]
    def network(h):
        return ker.dense(ker.relu(ker.dense(h, 512, b_std=0.5)), 1, b_std=0.5)

    k = ker.infinite(network)(jnp.concatenate([x_train, x_test]), ntk=False).nngp
    n = len(x_train)

    def fit(log_params):
        noise, a, b = jnp.exp(log_params)
        prior = ker.InverseGamma(a, b)
        return ker.condition(k[:n, :n], y_train, noise=noise, prior=prior)

    optimizer = optax.adam(0.1)
    log_params = jnp.zeros(3)
    state = optimizer.init(log_params)
    slope = jax.jit(jax.grad(lambda p: -ker.log_evidence(fit(p))))
    for _ in range(100):
        updates, state = optimizer.update(slope(log_params), state)
        log_params = optax.apply_updates(log_params, updates)

    mixture = ker.predict(fit(log_params), k[n:, :n], jnp.diagonal(k)[n:], noisy=True)
    low, high = mixture.quantile(jnp.asarray([0.05, 0.95]))
    score = mixture.log_prob(y_test).mean()
    # --8<-- [end:regression]
    assert 0.8 < np.mean((low < y_test) & (y_test < high)) < 1
    assert -1.3 < score < -0.9


@pytest.mark.slow
def test_classification():
    digits = load_digits()
    x = (digits.images / 16).astype(np.float32)[..., None]
    x_train, labels, x_test, test_labels = (
        x[:1000],
        jnp.asarray(digits.target[:1000]),
        x[1000:1200],
        digits.target[1000:1200],
    )

    # --8<-- [start:variational]
    def network(h):
        h = ker.relu(ker.conv(h, 64, (3, 3), w_std=1.4, b_std=0.1))
        h = ker.relu(ker.conv(h, 64, (3, 3), w_std=1.4, b_std=0.1))
        return ker.dense(ker.flatten(h), 10)

    kernel = ker.infinite(network)
    prior = ker.InverseGamma(2.0, 2.0)
    inducing = x_train[:100]
    k_inducing = kernel(inducing, ntk=False).nngp
    k_cross = kernel(x_train, inducing, ntk=False).nngp
    k_train = kernel(x_train, diagonal=True, ntk=False).nngp

    def loss(params, key, rows):
        return -ker.variational_bound(
            params,
            k_inducing,
            k_cross[rows],
            k_train[rows],
            labels[rows],
            key=key,
            num_data=len(x_train),
            prior=prior,
        )

    optimizer = optax.adam(0.03)
    params = ker.variational_init(k_inducing, 10, prior=prior, covariance="full")
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, key):
        key_rows, key = jax.random.split(key)
        rows = jax.random.randint(key_rows, (128,), 0, len(x_train))
        updates, state = optimizer.update(jax.grad(loss)(params, key, rows), state)
        return optax.apply_updates(params, updates), state

    for key in jax.random.split(jax.random.key(0), 300):
        params, state = step(params, state, key)

    probabilities = ker.variational_predict(
        params,
        k_inducing,
        kernel(x_test, inducing, ntk=False).nngp,
        kernel(x_test, diagonal=True, ntk=False).nngp,
        key=jax.random.key(1),
    )
    # --8<-- [end:variational]
    assert np.mean(probabilities.argmax(1) == test_labels) > 0.9

    # --8<-- [start:sampler]
    few = slice(0, 60)
    samples = ker.sample_classifier(
        jax.random.key(2),
        kernel(x_train[few], ntk=False),
        labels[few],
        num_classes=10,
        prior=prior,
        update="slice",
        num_samples=300,
        num_warmup=300,
    )
    probabilities = ker.predict_classes(
        samples,
        kernel(x_test, x_train[few], ntk=False),
        kernel(x_test, diagonal=True, ntk=False),
        key=jax.random.key(3),
    )
    # --8<-- [end:sampler]
    assert np.mean(probabilities.argmax(1) == test_labels) > 0.45  # of 60 images


def test_finite_networks():
    x_train = np.ones((4, 3), np.float32)

    # --8<-- [start:finite]
    model = ker.finite(lambda h: ker.dense(ker.relu(ker.dense(h, 512)), 1))
    prior = ker.InverseGamma(2.0, 2.0)

    def one(key):
        params, s = ker.scale_mixture_init(key, model, x_train[0], prior=prior)
        return jax.vmap(model.apply, (None, 0))(params, x_train), s

    outputs, scales = jax.vmap(one)(jax.random.split(jax.random.key(0), 100))
    # --8<-- [end:finite]
    assert outputs.shape == (100, 4, 1)
    assert (scales > 0).all()
