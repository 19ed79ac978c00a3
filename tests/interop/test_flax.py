"""The Flax recipes: params are one Linen parameter, or a tree of NNX parameters."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn, nnx

from jaxarch.layers import mlp_apply, mlp_init

from ..registry import PRIMITIVES
from .conformance import check, check_training


# --8<-- [start:linen]
class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x):
        mlp = self.param("mlp", mlp_init, (3, 16, 2))
        return mlp_apply(mlp, x)


# --8<-- [end:linen]


# --8<-- [start:nnx]
class NNXModel(nnx.Module):
    def __init__(self, key):
        self.mlp = nnx.data(jax.tree.map(nnx.Param, mlp_init(key, (3, 16, 2))))

    def __call__(self, x):
        return mlp_apply(nnx.as_pure(self.mlp), x)


# --8<-- [end:nnx]


class AnyLinenModel(nn.Module):
    foo_init: Callable
    foo_apply: Callable
    sizes: tuple

    @nn.compact
    def __call__(self, *inputs):
        foo = self.param("foo", self.foo_init, *self.sizes)
        return self.foo_apply(foo, *inputs)


class AnyNNXModel(nnx.Module):
    def __init__(self, params, apply):
        self.foo = nnx.data(jax.tree.map(nnx.Param, params))
        self.foo_apply = apply

    def __call__(self, *inputs):
        return self.foo_apply(nnx.as_pure(self.foo), *inputs)


X = jnp.asarray([0.5, -1.0, 2.0])


def test_linen_recipe(key, tmp_path):
    model = LinenModel()
    variables = model.init(key, X)
    want = mlp_apply(variables["params"]["mlp"], X)
    check(model.apply, variables, (X,), want, tmp_path)


@pytest.mark.parametrize("entry", PRIMITIVES, ids=str)
def test_linen_primitive(key, entry, tmp_path):
    apply, (_, *inputs), _ = entry.call()
    model = AnyLinenModel(entry.init, apply, entry.sizes)
    variables = jax.jit(model.init)(key, *inputs)
    want = jax.jit(apply)(variables["params"]["foo"], *inputs)
    check_training(model.apply, variables, inputs, want, tmp_path)


def pure(model):
    """Gives the model as a function of its state, and the state."""
    graph, state = nnx.split(model)
    return lambda state, *inputs: nnx.merge(graph, state)(*inputs), state


def test_nnx_recipe(key, tmp_path):
    want = mlp_apply(mlp_init(key, (3, 16, 2)), X)
    check(*pure(NNXModel(key)), (X,), want, tmp_path)


@pytest.mark.parametrize("entry", PRIMITIVES, ids=str)
def test_nnx_primitive(entry, tmp_path):
    apply, (params, *inputs), _ = entry.call()
    want = jax.jit(apply)(params, *inputs)
    check_training(*pure(AnyNNXModel(params, apply)), inputs, want, tmp_path)


def test_nnx_optimizer_trains_every_array(key):
    model = NNXModel(key)
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    before = nnx.as_pure(model.mlp)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda model: jnp.sum(model(X) ** 2))(model)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam wants it
            optimizer.update(model, grads)

    step(model, optimizer)
    after = nnx.as_pure(model.mlp)
    chex.assert_trees_all_equal_shapes(before, after)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert all(jax.tree.leaves(changed))
