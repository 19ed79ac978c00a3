"""`mlp_init` and `mlp_apply` against a looped NumPy version."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from jax.test_util import check_grads

from jaxarch.layers import mlp_apply, mlp_init

# No hidden layer; a stacked run first; single layers and stacked runs in turn.
SIZES = [(3, 2), (4, 4, 4, 2), (3, 5, 5, 5, 4, 4, 4, 4)]


def one_layer_at_a_time(params):
    """Unstacks params into float64 NumPy pairs (weight, bias)."""
    for weight, bias in zip(params.weights, params.biases, strict=True):
        weight = np.asarray(weight, np.float64)
        bias = np.zeros(weight.shape[:-1]) if bias is None else np.asarray(bias)
        yield from zip(
            weight.reshape(-1, *weight.shape[-2:]),
            bias.astype(np.float64).reshape(-1, bias.shape[-1]),
            strict=True,
        )


def reference(params, x, activation):
    *hidden, (weight, bias) = one_layer_at_a_time(params)
    h = np.asarray(x, np.float64)
    for w, b in hidden:
        h = activation(np.array([sum(w_i * h) for w_i in w]) + b)
    return weight @ h + bias


def random_params(*args, **options):
    """Params of the shapes of `mlp_init`, without its compile time or zero biases."""
    shapes = jax.eval_shape(lambda k: mlp_init(k, *args, **options), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape) / a.shape[-1] ** 0.5, a.dtype),
        shapes,
    )


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_reference(sizes, bias):
    with jax.enable_x64(True):
        params = random_params(sizes, bias=bias, dtype=jnp.float64)
        x = jnp.linspace(-1, 2, sizes[0], dtype=jnp.float64)
        got = mlp_apply(params, x, activation=jnp.tanh)
    assert len(list(one_layer_at_a_time(params))) == len(sizes) - 1
    np.testing.assert_allclose(got, reference(params, x, np.tanh), rtol=1e-13)


def test_layout(key):
    params = mlp_init(key, (3, 5, 5, 5, 2))
    assert [w.shape for w in params.weights] == [(5, 3), (2, 5, 5), (2, 5)]
    assert [b.shape for b in params.biases] == [(5,), (2, 5), (2,)]
    without = jax.eval_shape(lambda k: mlp_init(k, (3, 5, 2), bias=False), key)
    assert without.biases == (None, None)


def test_typed_and_legacy_keys_agree():
    new = mlp_init(jax.random.key(7), (3, 5, 5, 5, 2))
    old = mlp_init(jax.random.PRNGKey(7), (3, 5, 5, 5, 2))
    chex.assert_trees_all_equal(new, old)


def test_initial_scale(key):
    # Over draws of the parameters E[y^2] = 2 |x|^2 / n_0, at any depth and width.
    sizes, num_draws = (4, 16, 16, 16, 6), 500
    x = jnp.asarray([1.0, -2.0, 0.5, 3.0])
    keys = jax.random.split(key, num_draws)
    outputs = jax.jit(jax.vmap(lambda k: mlp_apply(mlp_init(k, sizes), x)))(keys)
    squares = np.asarray(outputs, np.float64) ** 2
    mean, error = squares.mean(1).mean(), squares.mean(1).std() / num_draws**0.5
    assert abs(mean - 2 * float(x @ x) / 4) < 4 * error


def test_positively_homogeneous_without_biases():
    params = random_params((3, 5, 5, 5, 2), bias=False)
    x = jnp.linspace(-1, 2, 3)
    np.testing.assert_allclose(
        mlp_apply(params, 3 * x), 3 * mlp_apply(params, x), rtol=1e-5
    )


def test_program_does_not_grow_with_depth(key):
    def size(depth):
        sizes = (3, *[8] * depth, 2)
        drawn, params = jax.make_jaxpr(lambda k: mlp_init(k, sizes), return_shape=True)(
            key
        )
        applied = jax.make_jaxpr(mlp_apply)(params, jnp.ones(3))
        return len(applied.eqns), len(drawn.eqns)

    assert size(4) == size(40)


def test_transformations():
    with jax.enable_x64(True):
        params = random_params((3, 5, 5, 5, 2), dtype=jnp.float64)
        x = jnp.linspace(-1, 2, 12, dtype=jnp.float64).reshape(4, 3)
        batched = jax.jit(jax.vmap(mlp_apply, (None, 0)))(params, x)
        looped = [reference(params, row, lambda h: np.maximum(h, 0)) for row in x]
        np.testing.assert_allclose(batched, looped, rtol=1e-12)
        smooth = jax.jit(functools.partial(mlp_apply, activation=jnp.tanh))
        check_grads(smooth, (params, x[0]), order=1)


@pytest.mark.parametrize(
    ("dtype", "rtol"),
    # Four roundings of 16-bit activations: 4 ulp of 2^-8 and of 2^-11.
    [("bfloat16", 4 * 2**-8), ("float16", 4 * 2**-11), ("float32", 1e-6)],
)
def test_dtypes(dtype, rtol):
    params = random_params((64, 128, 128, 128, 4), dtype=dtype)
    x = jnp.linspace(-1, 2, 64, dtype=dtype)
    got = mlp_apply(params, x)
    assert {a.dtype for a in jax.tree.leaves((params, got))} == {jnp.dtype(dtype)}
    want = reference(params, x, lambda h: np.maximum(h, 0))
    error = np.abs(np.asarray(got, np.float64) - want).max()
    assert error < rtol * np.abs(want).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_parameters_are_rounded_float32_ones(key, dtype):
    want = jax.tree.map(lambda a: a.astype(dtype), mlp_init(key, (3, 5, 5, 5, 2)))
    chex.assert_trees_all_equal(mlp_init(key, (3, 5, 5, 5, 2), dtype=dtype), want)


def test_promotes_the_input():
    params = random_params((4, 4, 4, 2))
    with jax.numpy_dtype_promotion("standard"):
        for x in (jnp.ones(4, jnp.bfloat16), jnp.ones(4, jnp.int32)):
            got = mlp_apply(params, x)
            np.testing.assert_array_equal(got, mlp_apply(params, jnp.ones(4)))


@given(st.lists(st.integers(1, 3), min_size=2, max_size=5), st.booleans())
def test_any_sizes(sizes, bias):
    params = random_params(sizes, bias=bias)
    x = jnp.ones(sizes[0])
    want = reference(params, x, lambda h: np.maximum(h, 0))
    got = jax.jit(mlp_apply)(params, x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "options", "error", "message"),
    [
        (
            (3,),
            {},
            ValueError,
            "mlp_init: `sizes` must have at least two entries (input and output), "
            "got (3,).",
        ),
        (
            (3, 0, 2),
            {},
            ValueError,
            "mlp_init: `sizes[1]` must be at least 1, got 0.",
        ),
        (
            (3, 2.0),
            {},
            TypeError,
            "mlp_init: `sizes[1]` must be an int, got float.",
        ),
        (
            (3, 2),
            {"dtype": jnp.int32},
            ValueError,
            "mlp_init: `dtype` must be a real floating dtype, got int32.",
        ),
    ],
)
def test_init_errors(key, sizes, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        mlp_init(key, sizes, **options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2,), "mlp_apply: `x` must have shape (3,), got (2,)."),
        (
            (7, 3),
            "mlp_apply: `x` must have shape (3,) (one example; use jax.vmap for a "
            "batch), got (7, 3).",
        ),
    ],
)
def test_apply_errors(shape, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mlp_apply(random_params((3, 5, 2)), jnp.ones(shape))
