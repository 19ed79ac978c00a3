"""The finite network: its empirical kernels, its parameters, its options."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxarch import kernels as ker

from .monte_carlo import assert_monte_carlo

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
WIDTH = 128


def deep_relu(h):
    for _ in range(3):
        h = ker.relu(ker.dense(h, WIDTH, w_std=1.4, b_std=0.2))
    return ker.dense(h, WIDTH, w_std=1.1)


def layer(nonlinearity, h, **options):
    h = nonlinearity(ker.dense(h, WIDTH, w_std=1.2, b_std=0.3))
    return ker.dense(h, WIDTH, b_std=0.1, **options)


def gelu_norm(h):
    h = ker.layer_norm(layer(ker.gelu, h), eps=0.1)
    return ker.dense(ker.absolute(h), WIDTH, b_std=None)


def standard_erf(h):
    options = {"parameterization": "standard", "w_std": 1.3, "b_std": 0.2}
    h = ker.dense(h, WIDTH // 2, s=(1.0, 2.0), **options)
    h = ker.dense(ker.erf(h), WIDTH // 2, s=(2.0, 2.0), **options)
    return ker.dense(ker.erf(h), WIDTH, s=(2.0, 1.0), **options)


def residual(h):
    h = layer(lambda h: h, h)
    h = h + ker.dense(ker.relu(h), WIDTH, w_std=1.2, b_std=0.1)
    h = h + ker.dense(ker.tanh(h), WIDTH)
    return ker.dense(ker.leaky_relu(h, alpha=0.2), WIDTH)


def with_dropout(h):
    h = ker.dropout(ker.relu(ker.dense(h, WIDTH, b_std=0.2)), rate=0.4)
    return layer(ker.selu, h)


ARCHITECTURES = {
    "deep relu": deep_relu,
    "gelu, layer_norm": gelu_norm,
    "standard erf": standard_erf,
    "residual": residual,
    "dropout": with_dropout,
    "softplus": functools.partial(layer, ker.softplus),
    "sin": functools.partial(layer, functools.partial(ker.sin, a=1.2, b=0.8, c=0.3)),
    "rbf": functools.partial(layer, functools.partial(ker.rbf, gamma=0.4)),
    "gabor": functools.partial(layer, ker.gabor),
    "polynomial": functools.partial(
        layer, functools.partial(ker.polynomial, coefficients=(0.1, 0.7, -0.3))
    ),
    "rectified_monomial": functools.partial(
        layer, functools.partial(ker.rectified_monomial, degree=2)
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.slow
def test_monte_carlo(name, key):
    gram = ker.infinite(ARCHITECTURES[name])(X)
    assert_monte_carlo(
        ARCHITECTURES[name],
        X,
        (gram.nngp, gram.ntk),
        width=WIDTH,
        draws=500,
        key=key,
        dropout=name == "dropout",
    )


def small(h):
    h = ker.relu(ker.dense(h, 8, w_std=1.5, b_std=0.3))
    return ker.dense(h, 2, w_std=0.5, b_std=None)


def test_apply_is_the_network_written_down(key):
    model = ker.finite(small)
    params = model.init(key, X[0])
    first, second = params
    assert [p.weight.shape for p in params] == [(8, 3), (2, 8)]
    assert first.bias.shape == (8,)
    assert second.bias is None
    hidden = 1.5 / np.sqrt(3) * first.weight @ X[0] + 0.3 * first.bias
    want = 0.5 / np.sqrt(8) * second.weight @ np.maximum(hidden, 0)
    np.testing.assert_allclose(model.apply(params, X[0]), want, rtol=1e-5)
    batch = jax.jit(jax.vmap(model.apply, (None, 0)))(params, X)
    np.testing.assert_allclose(batch[0], want, rtol=1e-5)


def test_standard_parameterization(key):
    """Weights carry their scale, and `s` splits it between draw and use."""
    options = {"parameterization": "standard", "w_std": 2.0, "b_std": 3.0}
    network = functools.partial(ker.dense, features=64, s=(16.0, 4.0), **options)
    model = ker.finite(network)
    x = jnp.ones(400)
    (params,) = model.init(key, x)
    assert params.weight.shape == (256, 400)
    np.testing.assert_allclose(params.weight.std(), 2 * 4 / 20, rtol=0.02)
    np.testing.assert_allclose(params.bias.std(), 3, rtol=0.2)
    want = params.weight @ x / 4 + params.bias
    np.testing.assert_allclose(model.apply((params,), x), want, rtol=1e-4)


def test_optax_trains_it(key):
    model = ker.finite(small)
    y = jnp.stack([X[:, 0], X[:, 1] * X[:, 2]], axis=1)

    def loss(params):
        return ((jax.vmap(model.apply, (None, 0))(params, X) - y) ** 2).mean()

    optimizer = optax.adam(3e-2)
    params = model.init(key, X[0])
    start = loss(params)

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam wants it
            updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step, carry, length=200)
    assert loss(params) < start / 2


def test_finite_takes_a_kernel(key):
    calls = []

    def network(h):
        calls.append(h)
        return small(h)

    kernel = ker.infinite(network)
    model = ker.finite(kernel)
    assert len(calls) == 1
    assert model.graph is kernel.graph
    want = ker.finite(small)
    params = model.init(key, X[0])
    np.testing.assert_array_equal(
        model.apply(params, X[0]), want.apply(want.init(key, X[0]), X[0])
    )


def test_layers_of_one_name_share_their_parameter(key):
    def recurrent(h):
        h = ker.dense(h, 6, name="in")
        for _ in range(3):
            h = ker.erf(ker.dense(h, 6, w_std=1.5, name="recurrent"))
        return h + h * h  # dependent branches are right at finite width

    model = ker.finite(recurrent)
    params = model.init(key, X[0])
    assert len(params) == 2
    first, shared = (p.weight for p in params)
    h = first @ X[0] / np.sqrt(3)
    for _ in range(3):
        h = jax.scipy.special.erf(1.5 / np.sqrt(6) * shared @ h)
    np.testing.assert_allclose(model.apply(params, X[0]), h + h * h, rtol=1e-5)


def test_a_shared_parameter_has_one_shape(key):
    def network(h):
        return ker.dense(ker.dense(h, 6, name="a"), 6, name="a")

    match = "dense: parameters named 'a' must have one shape"
    with pytest.raises(ValueError, match=match):
        ker.finite(network).init(key, X[0])


def test_dropout(key):
    model = ker.finite(lambda h: ker.dropout(h, rate=0.25))
    x = jnp.ones(4000)
    np.testing.assert_array_equal(model.apply((), x), x)
    dropped = model.apply((), x, key=key)
    kept = dropped > 0
    np.testing.assert_allclose(dropped[kept], 1 / 0.75, rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    np.testing.assert_array_equal(dropped, model.apply((), x, key=key))
    other = model.apply((), x, key=jax.random.key(1))
    assert (other != dropped).any()


def test_dropout_masks_of_two_layers_differ(key):
    def network(h):
        return ker.dropout(ker.dropout(h, rate=0.5), rate=0.5)

    kept = ker.finite(network).apply((), jnp.ones(4000), key=key) > 0
    assert abs(kept.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)


def test_exp_normalized_has_no_finite_network(key):
    model = ker.finite(ker.exp_normalized)
    with pytest.raises(NotImplementedError, match="exp_normalized: no finite network"):
        model.apply(model.init(key, X[0]), X[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes(key, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = X[0].astype(dtype)
        model = ker.finite(small)
        params = model.init(key, x)
        out = model.apply(params, x)
        assert {p.dtype for p in jax.tree.leaves((params, out))} == {jnp.dtype(dtype)}


def test_pickle(key):
    model = ker.finite(small)
    params = model.init(key, X[0])
    want = model.apply(params, X[0])
    model, params = pickle.loads(pickle.dumps((model, params)))
    np.testing.assert_array_equal(model.apply(params, X[0]), want)


def test_shapes_without_arrays():
    params = jax.eval_shape(
        lambda key: ker.finite(small).init(key, jax.ShapeDtypeStruct((3,), "float32")),
        jax.random.key(0),
    )
    assert [p.weight.shape for p in params] == [(8, 3), (2, 8)]


def test_legacy_keys():
    model = ker.finite(small)
    params = model.init(jax.random.PRNGKey(0), X[0])
    assert jnp.isfinite(model.apply(params, X[0], key=jax.random.PRNGKey(1))).all()


def test_bad_inputs(key):
    model = ker.finite(small)
    params = model.init(key, X[0])
    match = r"`x` must have shape \(features,\) \(one example.*\), got \(4, 3\)"
    with pytest.raises(ValueError, match="init: " + match):
        model.init(key, X)
    with pytest.raises(ValueError, match="apply: " + match):
        model.apply(params, X)
    with pytest.raises(TypeError, match="finite: `network` must be a function of one"):
        ker.finite(3)
    with pytest.raises(TypeError, match="finite: `network` must return a value"):
        ker.finite(lambda h: X)
