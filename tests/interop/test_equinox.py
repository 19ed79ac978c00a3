"""The Equinox recipe: params are a field of a module."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import pytest

from jaxarch.layers import MLPParams, mlp_apply, mlp_init

from ..registry import PRIMITIVES
from .conformance import check


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


def check_model(model, inputs, want, path):
    arrays, static = eqx.partition(model, eqx.is_inexact_array)

    def call(arrays, *inputs):
        return eqx.combine(arrays, static)(*inputs)

    check(call, arrays, inputs, want, path)


def test_recipe(key, tmp_path):
    x = jnp.asarray([0.5, -1.0, 2.0])
    model = Model(key)
    check_model(model, (x,), mlp_apply(model.mlp, x), tmp_path)


@pytest.mark.parametrize("entry", PRIMITIVES, ids=str)
def test_primitive(entry, tmp_path):
    apply, (params, *inputs), _ = entry.call()
    model = AnyModel(foo=params, foo_apply=apply)
    check_model(model, inputs, apply(params, *inputs), tmp_path)
