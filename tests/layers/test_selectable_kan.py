"""S-KAN layers: one-hot gates, the penalties in closed form, and pruning."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxarch.layers import (
    SelectableKANParams,
    kan_layer_apply,
    selectable_kan_apply,
    selectable_kan_entropy,
    selectable_kan_init,
    selectable_kan_prune,
    selectable_kan_select,
    selectable_kan_spread,
)

POOL = ("bspline", {"basis": "chebyshev", "degree": 5}, "fourier", "mexican_hat")
X = jnp.asarray([0.5, -0.8, 0.1])
CHOICE = (2, 0, 1, 0, 2)  # nobody takes the wavelets


@functools.cache
def first_stage(dtype="float32", **options):
    """Params of three inputs and five nodes, of the shapes of `selectable_kan_init`."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        shapes = jax.eval_shape(
            lambda key: selectable_kan_init(
                key, 3, 5, pool=POOL, dtype=dtype, **options
            ),
            jax.random.key(3),
        )
        return jax.tree.map(
            lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape), a.dtype), shapes
        )


def gated(gates, dtype="float32", **options):
    params = first_stage(dtype, **options)
    return dataclasses.replace(params, gates=jnp.asarray(gates, dtype))


def one_hot(choice, on=0.0, off=-np.inf):
    return np.where(np.arange(4) == np.asarray(choice)[:, None], on, off)


GATES = np.random.default_rng(1).normal(size=(5, 4))


def softmax(a):
    return np.exp(a) / np.exp(a).sum(1, keepdims=True)


def outputs(params, x=X):
    return np.stack([kan_layer_apply(layer, x) for layer in params.pool])


@pytest.mark.parametrize("member", range(4))
@pytest.mark.parametrize("off", [-np.inf, -1e4])
def test_one_hot_gates_are_the_layer_of_one_basis(member, off):
    params = gated(one_hot([member] * 5, off=off))
    want = kan_layer_apply(params.pool[member], X)
    np.testing.assert_array_equal(selectable_kan_apply(params, X), want)


def test_each_node_has_its_own_gates():
    params = gated(one_hot(CHOICE))
    want = outputs(params)[np.asarray(CHOICE), np.arange(5)]
    np.testing.assert_array_equal(selectable_kan_apply(params, X), want)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_reference(temperature):
    with jax.enable_x64(True):
        params = gated(GATES, "float64")
        x = X.astype(jnp.float64)
        y = outputs(params, x)
        weights = softmax(GATES / temperature)
        want = (weights * y.T).sum(1)
        got = selectable_kan_apply(params, x, temperature=temperature)
        np.testing.assert_allclose(got, want, rtol=1e-13)
        # The squared loss and the spread are the mean loss of the layers.
        t = np.linspace(-1, 1, 5)
        spread = selectable_kan_spread(params, x, temperature=temperature)
        losses = (weights * (y.T - t[:, None]) ** 2).sum()
        np.testing.assert_allclose(spread, losses - ((want - t) ** 2).sum(), rtol=1e-13)
        entropy = selectable_kan_entropy(params, temperature=temperature)
        want = -(weights * np.log(weights)).sum()
        np.testing.assert_allclose(entropy, want, rtol=1e-13)


def test_first_stage_is_the_mean_and_gates_start_there():
    params = first_stage()
    y = selectable_kan_apply(params, X)
    np.testing.assert_allclose(y, outputs(params).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(selectable_kan_apply(gated(np.zeros((5, 4))), X), y)
    entropy = selectable_kan_entropy(params)
    np.testing.assert_allclose(entropy, 5 * np.log(4), rtol=1e-6)


def loss(params):
    y = selectable_kan_apply(params, X)
    entropy = selectable_kan_entropy(params)
    return jnp.sum((y - 1) ** 2) + 0.1 * entropy


def steps(params, num_steps):
    """AdamW, whose weight decay moves every array that is a parameter."""
    optimizer = optax.adamw(1e-2, weight_decay=0.1)
    state = optimizer.init(params)
    update, gradients = jax.jit(optimizer.update), jax.jit(jax.grad(loss))
    for _ in range(num_steps):
        gradient = gradients(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_the_first_stage_does_not_train_gates_and_the_second_does():
    before = first_stage()
    after = steps(before, 3)
    chex.assert_trees_all_equal_structs(before, after)
    assert after.gates is None
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert all(jax.tree.leaves(moved))
    second = selectable_kan_select(after)
    np.testing.assert_array_equal(second.gates, np.zeros((5, 4)))
    assert bool((steps(second, 1).gates != 0).all())


def test_gradient_of_the_entropy():
    with jax.enable_x64(True):
        got = jax.grad(selectable_kan_entropy)(gated(GATES, "float64")).gates
    w = softmax(GATES)
    entropies = -(w * np.log(w)).sum(1, keepdims=True)
    np.testing.assert_allclose(got, -w * (np.log(w) + entropies), atol=1e-14)


@pytest.mark.parametrize("off", [-np.inf, -1e4])
def test_penalties_and_gradients_of_decided_gates(off):
    params = gated(one_hot(CHOICE, off=off))

    def penalty(params):
        return selectable_kan_entropy(params) + selectable_kan_spread(params, X)

    value, gradient = jax.jit(jax.value_and_grad(penalty))(params)
    assert value == 0
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("options", [{}, {"residual": None, "bias": False}])
def test_pruned_is_one_hot(options):
    with jax.enable_x64(True):
        params = gated(one_hot(CHOICE, on=2.0, off=0.5), "float64", **options)
        hot = gated(one_hot(CHOICE), "float64", **options)
        x = X.astype(jnp.float64)
        pruned, report = selectable_kan_prune(params)
        want = selectable_kan_apply(hot, x)
        np.testing.assert_allclose(selectable_kan_apply(pruned, x), want, rtol=1e-13)
        assert selectable_kan_spread(pruned, x) == 0
        assert selectable_kan_entropy(pruned) == 0
    assert [layer.basis for layer in pruned.pool] == ["bspline", "chebyshev", "fourier"]
    assert pruned.nodes == ((1, 3), (2,), (0, 4))
    assert pruned.gates is None
    # Bases of 8, 6 and 10 functions for 2, 1 and 2 nodes of 3 inputs; 4 of wavelets.
    own = 0 if options else 1
    small = 3 * (2 * (8 + own) + (6 + own) + 2 * (10 + own)) + 5 * own
    large = 3 * 5 * (8 + 6 + 10 + 5 + 4 * own) + 5 * 4 * own + 2 * 5 + 5 * 4
    assert report.pop("num_parameters") == (large, small)
    weight = np.exp(1.5) / (np.exp(1.5) + 3)
    np.testing.assert_allclose(report.pop("weight"), [weight] * 5, rtol=1e-6)
    names = [("bspline", "chebyshev", "fourier")[s] for s in CHOICE]
    assert report == {"pool": list(CHOICE), "basis": names}


def test_one_basis_for_all_nodes_is_the_layer_itself():
    pruned, _ = selectable_kan_prune(gated(one_hot([1] * 5)))
    chex.assert_trees_all_equal(pruned.pool, first_stage().pool[1:2])
    want = kan_layer_apply(pruned.pool[0], X)
    np.testing.assert_array_equal(selectable_kan_apply(pruned, X), want)


def flops(params, function, num_inputs=32):
    batch = jnp.ones((256, num_inputs))
    compiled = jax.jit(jax.vmap(function, (None, 0))).lower(params, batch).compile()
    return compiled.cost_analysis()["flops"]


def test_pruned_costs_what_one_layer_costs():
    # Eight functions each, so that any choice of bases has the matrix of one layer.
    pool = (
        "bspline",
        {"basis": "legendre", "degree": 7},
        {"basis": "fourier", "num_intervals": 4},
        {"basis": "rbf", "num_intervals": 8},
    )
    params = jax.jit(
        lambda key: selectable_kan_select(selectable_kan_init(key, 32, 32, pool=pool))
    )(jax.random.key(0))
    gates = one_hot(np.arange(32) % 4)
    pruned, _ = selectable_kan_prune(dataclasses.replace(params, gates=gates))
    one = np.mean([flops(layer, kan_layer_apply) for layer in params.pool])
    whole = flops(params, selectable_kan_apply)
    assert whole > 3.9 * one
    # What is more than one layer is the evaluation of four bases in place of one.
    assert flops(pruned, selectable_kan_apply) < 1.5 * one


def test_grids():
    params = gated(GATES)
    steps = np.random.default_rng(2).uniform(0.2, 0.6, size=(3, 12))
    knots = jnp.asarray(np.cumsum(steps, 1) - 2.2, jnp.float32)
    got = selectable_kan_apply(params, X, grid=(knots, None, None, None))
    y = [kan_layer_apply(params.pool[0], X, grid=knots), *outputs(params)[1:]]
    want = (softmax(GATES).T * np.stack(y)).sum(0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_options_of_the_pool():
    shapes = jax.eval_shape(
        lambda key: selectable_kan_init(
            key,
            2,
            3,
            pool=("rbf", {"basis": "chebyshev", "degree": 8, "domain": (-2, 2)}),
            num_intervals=7,
            bias=False,
        ),
        jax.random.key(0),
    )
    rbf, chebyshev = shapes.pool
    assert rbf.coefficients.shape == (7, 2, 3)
    assert chebyshev.coefficients.shape == (9, 2, 3)
    assert chebyshev.domain == (-2, 2)
    assert rbf.bias is None
    assert shapes.in_features == 2


def test_rematerialisation_changes_nothing():
    params = gated(GATES)

    def total(params, remat):
        return jnp.sum(selectable_kan_apply(params, X, remat=remat) ** 2)

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    kept, again = gradient(params, False), gradient(params, True)
    chex.assert_trees_all_close(again, kept, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gates_in_16_bits(dtype):
    params = gated(GATES, dtype)
    y = selectable_kan_apply(params, X.astype(dtype))
    assert y.dtype == dtype
    assert selectable_kan_entropy(params).dtype == dtype
    # The softmax is one of the rounded gates in float32.
    weights = softmax(np.asarray(params.gates, np.float64))
    want = -(weights * np.log(weights)).sum()
    np.testing.assert_allclose(
        np.float64(selectable_kan_entropy(params)), want, rtol=4e-3
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: selectable_kan_init(jax.random.key(0), 3, 5, pool=()),
            ValueError,
            "selectable_kan_init: `pool` must have at least one basis, got none.",
        ),
        (
            lambda: selectable_kan_init(jax.random.key(0), 3, 0),
            ValueError,
            "kan_layer_init: `out_features` must be at least 1, got 0.",
        ),
        (
            lambda: selectable_kan_apply(first_stage(), X[:2]),
            ValueError,
            "selectable_kan_apply: `x` must have shape (3,), got (2,).",
        ),
        (
            lambda: selectable_kan_spread(first_stage(), X[:2]),
            ValueError,
            "selectable_kan_spread: `x` must have shape (3,), got (2,).",
        ),
        (
            lambda: selectable_kan_apply(first_stage(), X, grid=(None,)),
            ValueError,
            "selectable_kan_apply: `grid` must have one entry for each of 4 layers of "
            "the pool, got 1.",
        ),
        (
            lambda: selectable_kan_select(gated(GATES)),
            ValueError,
            "selectable_kan_select: `params` must be of the first stage, got gates.",
        ),
        (
            lambda: selectable_kan_select(
                SelectableKANParams(pool=(), gates=None, nodes=())
            ),
            ValueError,
            "selectable_kan_select: `params` must be of the first stage, got pruned "
            "ones.",
        ),
        (
            lambda: selectable_kan_prune(first_stage()),
            ValueError,
            "selectable_kan_prune: `params` must have gates (selectable_kan_select), "
            "got None.",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


def test_unknown_option_of_the_pool(key):
    with pytest.raises(TypeError, match="'grid_size'"):
        selectable_kan_init(key, 3, 5, pool=({"basis": "rbf", "grid_size": 3},))
