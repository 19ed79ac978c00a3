"""KANs against efficient-kan, and product nodes against a loop."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.layers import KANParams, kan_apply, kan_init, kan_layer_apply

from .golden import arrays
from .test_kan_layer import spline_layer


def test_golden_efficient_kan():
    golden = arrays("efficient_kan_net_2_5_1")
    with jax.enable_x64(True):
        layers = []
        for name in ("l0", "l1"):
            spline = golden[f"{name}_spline_weight"]
            spline = spline * golden[f"{name}_spline_scaler"][..., None]
            residual = golden[f"{name}_base_weight"].T
            layers.append(
                spline_layer(np.transpose(spline, (2, 1, 0)), residual=residual)
            )
        params = KANParams(layers=tuple(layers), num_products=(0, 0), arity=2)
        y = jax.jit(jax.vmap(kan_apply, (None, 0)))(params, jnp.asarray(golden["x"]))
    np.testing.assert_allclose(y, golden["y"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("arity", [2, 3])
def test_product_nodes(arity, key):
    params = kan_init(key, (2, (1, 2), (0, 1)), arity=arity, init="power")
    assert params.num_products == (2, 1)
    shapes = [layer.coefficients.shape[1:] for layer in params.layers]
    assert shapes == [(2, 1 + 2 * arity), (3, arity)]
    x = jnp.asarray([0.3, -0.8])
    h = np.asarray(kan_layer_apply(params.layers[0], x))
    nodes = [h[0], np.prod(h[1 : 1 + arity]), np.prod(h[1 + arity :])]
    last = np.asarray(kan_layer_apply(params.layers[1], jnp.asarray(nodes)))
    np.testing.assert_allclose(kan_apply(params, x), [np.prod(last)], rtol=1e-5)


def test_the_derivative_of_a_product_of_zeros(key):
    params = kan_init(
        key,
        (1, (0, 1)),
        arity=3,
        basis="legendre",
        degree=0,
        residual="identity",
        bias=False,
    )
    layer = dataclasses.replace(
        params.layers[0],
        coefficients=jnp.zeros((1, 1, 3)),
        residual=jnp.asarray([[1.0, 2.0, 3.0]]),
    )
    params = dataclasses.replace(params, layers=(layer,))
    # 6 x^3 and its derivatives at 0.
    function = lambda x: kan_apply(params, x[None])[0]  # noqa: E731
    values = []
    for _ in range(4):
        values.append(float(function(jnp.float32(0))))
        function = jax.grad(function)
    assert values == [0, 0, 0, 36]


def test_squash_and_remat(key):
    params = kan_init(key, (2, 3, 1), basis="chebyshev", init="power")
    x = jnp.asarray([5.0, -7.0])
    h = jnp.tanh(kan_layer_apply(params.layers[0], jnp.tanh(x)))
    want = kan_layer_apply(params.layers[1], h)
    for remat in (False, True):
        got = kan_apply(params, x, squash=jnp.tanh, remat=remat)
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_layers_are_drawn_apart(key):
    params = kan_init(key, (3, 3, 3), bias=False, residual=None)
    first, second = (layer.coefficients for layer in params.layers)
    assert not np.allclose(first, second)
    legacy = kan_init(jax.random.PRNGKey(0), (3, 3, 3), bias=False, residual=None)
    chex.assert_trees_all_equal(params, legacy)


@pytest.mark.parametrize(
    ("sizes", "options", "error", "message"),
    [
        ((2,), {}, ValueError, "`sizes` must have at least two entries"),
        ((2, 0), {}, ValueError, "`sizes[1]` must be at least 1, got 0"),
        ((2, (0, 0)), {}, ValueError, "`sizes[1]` must have a node, got (0, 0)"),
        ((2, (0, -1)), {}, ValueError, "`sizes[1][1]` must be at least 0, got -1"),
        ((2, 1.5), {}, TypeError, "`sizes[1]` must be an int or a pair of ints"),
        (
            ((2, 1), 1),
            {},
            ValueError,
            "`sizes[0]` must be a number of inputs, got (2, 1)",
        ),
        ((2, 1), {"arity": 1}, ValueError, "`arity` must be at least 2, got 1"),
    ],
)
def test_init_errors(sizes, options, error, message, key):
    with pytest.raises(error, match=re.escape(f"kan_init: {message}")):
        kan_init(key, sizes, **options)


def test_apply_errors(key):
    params = kan_init(key, (2, 3, 1))
    with pytest.raises(
        ValueError, match=re.escape("kan_apply: `x` must have shape (2,)")
    ):
        kan_apply(params, jnp.zeros(3))
    message = "kan_apply: `grid` must have one entry for each of 2 layers, got 1."
    with pytest.raises(ValueError, match=re.escape(message)):
        kan_apply(params, jnp.zeros(2), grid=(None,))
