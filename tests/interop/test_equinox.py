"""The Equinox recipe: params are a field of a module."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from jaxarch.layers import MLPParams, mlp_apply, mlp_init

from ..registry import PRIMITIVES
from .conformance import check, check_training


# --8<-- [start:recipe]
class Model(eqx.Module):
    mlp: MLPParams

    def __init__(self, key):
        self.mlp = mlp_init(key, (3, 16, 2))

    def __call__(self, x):
        return mlp_apply(self.mlp, x)


# --8<-- [end:recipe]


class AnyModel(eqx.Module):
    foo: Any
    foo_apply: Callable = eqx.field(static=True)

    def __call__(self, *inputs):
        return self.foo_apply(self.foo, *inputs)


def pure(model):
    """Gives the model as a function of its arrays, and the arrays."""
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    return lambda arrays, *inputs: eqx.combine(arrays, static)(*inputs), arrays


def test_recipe(key, tmp_path):
    x = jnp.asarray([0.5, -1.0, 2.0])
    model = Model(key)
    check(*pure(model), (x,), mlp_apply(model.mlp, x), tmp_path)


@pytest.mark.parametrize("entry", PRIMITIVES, ids=str)
def test_primitive(entry, tmp_path):
    apply, (params, *inputs), _ = entry.call()
    model = AnyModel(foo=params, foo_apply=apply)
    want = jax.jit(apply)(params, *inputs)
    check_training(*pure(model), inputs, want, tmp_path)
