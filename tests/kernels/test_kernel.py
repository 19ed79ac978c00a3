"""The kernel as an object: transformations, states, tiles, dtypes, errors."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker
from jaxarch.kernels import _infinite

X = np.random.default_rng(3).normal(size=(7, 4)).astype(np.float32)


def lower(h, w_std=1.4):
    h = ker.dense(h, 8, w_std=w_std, b_std=0.3)
    return ker.relu(h) + ker.dense(ker.erf(ker.dense(h, 8)), 8, b_std=0.1)


def upper(h):
    return ker.dense(ker.gelu(ker.dense(h, 8, w_std=1.2)), 1, b_std=0.2)


def whole(h, w_std=1.4):
    return upper(lower(h, w_std))


def test_new_numbers_do_not_compile_again():
    traces = []

    @jax.jit
    def evaluate(kernel, x):
        traces.append(1)
        return kernel(x).ntk

    for w_std in (1.0, 2, jnp.float32(0.5)):
        evaluate(ker.infinite(lambda h, w=w_std: whole(h, w)), X)
    assert len(traces) <= 2  # a Python number and an array differ in weak type

    before = _infinite._matrix._cache_size()
    for w_std in (1.0, 1.5, 2.0):
        ker.infinite(lambda h, w=w_std: lower(h, w))(X)
    assert _infinite._matrix._cache_size() == before + 1


def test_hyper_parameters_have_gradients():
    with jax.enable_x64(True):
        x = jnp.asarray(X, jnp.float64)

        def total(w_std):
            gram = ker.infinite(lambda h: whole(h, w_std))(x)
            return jnp.sin(gram.ntk).sum() + jnp.cos(gram.nngp).sum()

        total = jax.jit(total)
        got = jax.grad(total)(1.3)
        want = (total(1.3 + 1e-5) - total(1.3 - 1e-5)) / 2e-5
        np.testing.assert_allclose(got, want, rtol=1e-7)


def test_pickle():
    kernel = pickle.loads(pickle.dumps(ker.infinite(whole)))
    assert kernel.graph == ker.infinite(whole).graph
    np.testing.assert_array_equal(kernel(X).ntk, ker.infinite(whole)(X).ntk)


def test_clustered_points_are_positive_definite():
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        x = np.repeat(rng.normal(size=(100, 8)), 8, 0)
        x = jnp.asarray(x + 1e-3 * rng.normal(size=x.shape))

        def network(h):
            for _ in range(3):
                h = ker.relu(ker.dense(h, 8, w_std=1.4, b_std=0.1))
            return ker.dense(h, 1)

        gram = ker.infinite(network)(x)
        for k in (gram.nngp, gram.ntk):
            assert np.isfinite(np.linalg.cholesky(np.asarray(k))).all()


@pytest.mark.parametrize("tile", [2, 3, 5])
def test_tiles_change_nothing(tile, monkeypatch):
    kernel = ker.infinite(whole)
    matrix, own = kernel(X, X[:5] + 0.1), kernel(X)
    monkeypatch.setattr(_infinite, "_TILE", {jax.default_backend(): tile})
    evaluate = jax.jit(lambda x, y: (kernel(x, y), kernel(x)))
    with jax.disable_jit(False):
        jax.clear_caches()
        got = evaluate(X, X[:5] + 0.1)
    jax.clear_caches()
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves((matrix, own)), strict=True):
        np.testing.assert_allclose(g, w, rtol=2e-6, atol=2e-6)
    for k in (got[1].nngp, got[1].ntk):
        np.testing.assert_array_equal(k, k.T)


def test_a_symmetric_gram_is_symmetric_and_has_the_exact_diagonal():
    kernel = ker.infinite(whole)
    gram, diagonal, full = kernel(X), kernel(X, diagonal=True), kernel(X, X)
    for name in ("nngp", "ntk"):
        k = np.asarray(getattr(gram, name))
        np.testing.assert_array_equal(k, k.T)
        np.testing.assert_allclose(np.diagonal(k), getattr(diagonal, name), rtol=1e-5)
        np.testing.assert_allclose(k, getattr(full, name), rtol=1e-5, atol=1e-6)


def test_ntk_can_be_left_out():
    kernel = ker.infinite(whole)
    assert kernel(X, ntk=False).ntk is None
    np.testing.assert_allclose(
        kernel(X, ntk=False).nngp, kernel(X).nngp, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_kernels_compose_by_states(diagonal, same):
    with jax.enable_x64(True):
        x1, x2 = jnp.asarray(X, float), None if same else jnp.asarray(X[::-1], float)
        state = ker.infinite(lower).state(x1, x2, diagonal=diagonal)
        got = ker.infinite(upper)(state)
        want = ker.infinite(whole)(x1, x2, diagonal=diagonal)
        np.testing.assert_allclose(got.nngp, want.nngp, rtol=1e-12)
        np.testing.assert_allclose(got.ntk, want.ntk, rtol=1e-12)


def test_a_state_of_another_kernel():
    """A network on top of a squared-exponential process."""
    with jax.enable_x64(True):
        x = jnp.asarray(X, float)
        k = jnp.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / 8)
        state = ker.State.from_covariances(k, jnp.ones(len(x)))
        got = ker.infinite(lambda h: ker.dense(ker.relu(h), 1))(state).nngp
        theta = np.arccos(np.clip(k, -1, 1))
        want = (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_printed_graph():
    text = str(ker.infinite(whole).graph).splitlines()
    assert text[0].startswith("h0 = input()")
    assert text[1].startswith("h1 = dense(h0, features=8, w_std, b_std, learning_rate)")
    assert "# Gaussian; depends on dense#1" in text[1]
    assert text[2].startswith("h2 = relu(h1)")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_follow_the_inputs(dtype):
    with jax.enable_x64(True):
        gram = ker.infinite(whole)(jnp.asarray(X, dtype))
        assert gram.nngp.dtype == gram.ntk.dtype == dtype


def test_integers_and_empty_inputs():
    kernel = ker.infinite(whole)
    assert kernel(jnp.ones((2, 3), jnp.int32)).nngp.dtype == jnp.float32
    assert kernel(jnp.ones((0, 3)), jnp.ones((2, 3))).ntk.shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda k: k(X[0]),
            ValueError,
            r"kernel: `x1` must have shape \(n, features\)",
        ),
        (lambda k: k(X, X[0]), ValueError, r"kernel: `x2` must have shape \(n, feat"),
        (lambda k: k(X, X[:, :2]), ValueError, "`x2` must have the 4 features of `x1`"),
        (
            lambda k: k(X, X[:2], diagonal=True),
            ValueError,
            "with `diagonal` `x2` must have the 7 examples of `x1`, got 2",
        ),
        (lambda k: k(X[:, :0]), ValueError, "`x1` must have at least one feature"),
        (
            lambda k: k(k.state(X), X),
            ValueError,
            "`x2` and `diagonal` must be left out",
        ),
    ],
)
def test_bad_inputs(call, error, message):
    with pytest.raises(error, match=message):
        call(ker.infinite(whole))


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (lambda h: ker.dense(h, 0), ValueError, "dense: `features` must be at least 1"),
        (lambda h: ker.dense(h, 2.0), TypeError, "dense: `features` must be an int"),
        (
            lambda h: ker.dense(h, 2, parameterization="mup"),
            ValueError,
            "`parameterization` must be one of 'ntk', 'standard', got 'mup'",
        ),
        (lambda h: ker.dense(h, 2, s=(1, 2)), ValueError, "`s` belongs to"),
        (lambda h: ker.dense(h, 2, w_std="1"), TypeError, "dense: wanted a number"),
        (lambda h: ker.dense(X, 2), TypeError, "dense: `h` must be a value"),
        (lambda h: ker.dropout(h, rate=1.0), ValueError, r"`rate` must be in \[0, 1\)"),
        (
            lambda h: ker.polynomial(h, []),
            ValueError,
            "`coefficients` must not be empty",
        ),
        (lambda h: ker.concatenate([]), ValueError, "`branches` must not be empty"),
        (lambda h: X, TypeError, "infinite: `network` must return a value"),
    ],
)
def test_bad_networks(network, error, message):
    with pytest.raises(error, match=message):
        ker.infinite(network)


def test_data_is_not_gaussian():
    kernel = ker.infinite(lambda h: ker.dense(ker.relu(h), 1))
    with pytest.raises(ValueError, match="the input of `relu` must be Gaussian"):
        kernel(X)
