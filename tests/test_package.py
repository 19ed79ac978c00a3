"""What the package promises as a whole: cheap import, params that go anywhere."""

import dataclasses
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxarch._dtypes import at_least_float32, float_dtype
from jaxarch._params import params, static


def test_import_is_cheap():
    # JAX refuses to change the number of devices once a backend runs.
    script = """
import sys
import jax
before = dict(jax.config.values)
import jaxarch
assert before == dict(jax.config.values)
jax.config.update("jax_num_cpu_devices", 3)
extras = {"chex", "diffrax", "equinox", "flax", "gpjax", "lineax", "matplotlib"}
extras |= {"networkx", "optax", "scipy.sparse", "sklearn", "tensorstore"}
extras |= {"tinygp", "tqdm"}
assert not extras & set(sys.modules), extras & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@params
class Inner:
    weight: jax.Array  # (n,)


@params
class Outer:
    inner: Inner
    scale: jax.Array | None = None  # ()
    orders: tuple = static(default=(1, (2, 3)))


def apply(outer: Outer, x):
    return outer.inner.weight * sum(x**n for n in (1, *outer.orders[1]))


def test_params_are_frozen_keyword_only_trees():
    outer = Outer(inner=Inner(weight=jnp.ones(2)))
    assert len(jax.tree.leaves(outer)) == 1
    assert outer != Outer(inner=outer.inner)
    assert jax.tree.structure(outer) == jax.tree.structure(Outer(inner=outer.inner))
    with pytest.raises(dataclasses.FrozenInstanceError):
        outer.scale = jnp.ones(())
    with pytest.raises(TypeError):
        Outer(outer.inner)


def test_static_fields_survive_export():
    outer = Outer(inner=Inner(weight=jnp.ones(2)))
    x = jnp.asarray([2.0, 3.0])
    exported = jax.export.export(jax.jit(lambda o, x: (o, apply(o, x))))(outer, x)
    loaded = jax.export.deserialize(exported.serialize())
    restored, y = loaded.call(outer, x)
    assert restored.orders == (1, (2, 3))
    chex.assert_trees_all_close(y, apply(outer, x))


def test_dtype_rule():
    assert at_least_float32("bfloat16") == at_least_float32("float16") == "float32"
    with jax.enable_x64(True):
        assert at_least_float32("float64") == "float64"
        assert float_dtype(jnp.ones(1, "float64")) == "float64"
    assert float_dtype(jnp.ones(1, "bfloat16")) == "bfloat16"
    assert float_dtype(jnp.ones(1, "int32")) == "float32"
