"""What holds for every public thing: it is registered, and its entry runs."""

import functools
import inspect
import pickle
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxarch

from .batches import batched_args, is_float, run_pmap, run_shard_map
from .registry import CHECKS, ENTRIES, KINDS, PRIMITIVES, STATES, SUBPACKAGES, Entry

MADE = [entry for entry in ENTRIES if entry.make is not None]


def for_entries(check):
    """Runs a test for each entry to which `check` applies."""
    entries = [entry for entry in MADE if check not in entry.skip]
    return pytest.mark.parametrize("entry", entries, ids=str)


def public_names(module):
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    ]


@pytest.mark.parametrize("package", SUBPACKAGES)
def test_every_public_name_is_registered_once(package):
    module = getattr(jaxarch, package)
    registered = [n for e in ENTRIES if e.package == package for n in e.names]
    assert sorted(registered) == sorted(public_names(module))
    undocumented = [n for n in registered if not inspect.getdoc(getattr(module, n))]
    assert not undocumented


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_entry_is_well_formed(entry: Entry):
    assert entry.package in SUBPACKAGES
    assert entry.kind in KINDS
    assert entry.state in STATES
    assert entry.skip <= set(CHECKS)
    assert bool(entry.source) == bool(entry.proof)
    if entry.kind == "primitive":
        params, init, apply = entry.names
        assert params.endswith("Params")
        assert init.removesuffix("_init") == apply.removesuffix("_apply")
        assert entry.make is not None
        assert entry.init is not None


def cast(tree, dtype):
    return jax.tree.map(
        lambda a: jnp.asarray(a).astype(dtype) if is_float(a) else a, tree
    )


def assert_close(got, want, rtol):
    """Compares float leaves up to `rtol` of the largest entry, the others exactly."""
    chex.assert_trees_all_equal_shapes(got, want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if not is_float(a):
            np.testing.assert_array_equal(a, b)
            continue
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max(initial=0))


@for_entries("jit")
def test_jit(entry):
    function, args, _ = entry.call()
    assert_close(jax.jit(function)(*args), function(*args), 1e-6)


@functools.cache
def batched(entry):
    """Gives the function, arguments with a batch, their axes and vmap's outputs."""
    function, args, in_axes = entry.call()
    args = batched_args(args, in_axes)
    return function, args, in_axes, jax.jit(jax.vmap(function, in_axes))(*args)


def example(i, batch, axis=0):
    return batch if axis is None else jax.tree.map(lambda a: a[i], batch)


@for_entries("vmap")
def test_vmap(entry):
    function, args, in_axes, got = batched(entry)
    one = jax.jit(function)
    for i in range(2):
        want = one(*map(functools.partial(example, i), args, in_axes))
        assert_close(example(i, got), want, 1e-6)


@for_entries("grad")
def test_grad(entry):
    function, args, _ = entry.call()
    with jax.enable_x64(True):
        leaves, treedef = jax.tree.flatten(cast(args, jnp.float64))
        floats = [a for a in leaves if is_float(a)]

        @jax.jit
        def float_outputs(floats):
            left = iter(floats)
            full = [next(left) if is_float(a) else a for a in leaves]
            outputs = function(*jax.tree.unflatten(treedef, full))
            return [a for a in jax.tree.leaves(outputs) if is_float(a)]

        check_grads(float_outputs, (floats,), order=1)


@pytest.mark.parametrize(
    ("entry", "dtype", "rtol"),
    [
        pytest.param(entry, dtype, rtol, id=f"{entry}-{dtype}")
        for entry in MADE
        for dtype, rtol in (("bfloat16", 5e-2), ("float32", 1e-5), ("float64", 1e-14))
        if dtype not in entry.skip
    ],
)
def test_outputs_follow_the_inputs_dtype(entry, dtype, rtol):
    function, args, _ = entry.call()
    with jax.enable_x64(True):
        narrow = cast(args, dtype)
        got = jax.jit(function)(*narrow)
        want = jax.jit(function)(*cast(narrow, jnp.float64))
        got_dtypes = {str(a.dtype) for a in jax.tree.leaves(got) if is_float(a)}
        assert got_dtypes <= {dtype}
        assert_close(got, want, rtol)


@pytest.mark.parametrize("entry", PRIMITIVES, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_init_makes_the_dtype_asked_for(entry, dtype):
    with jax.enable_x64(True):
        params = jax.eval_shape(lambda: entry.params(dtype=dtype))
    assert {str(a.dtype) for a in jax.tree.leaves(params)} == {dtype}


@for_entries("shard_map")
def test_shard_map(entry):
    function, args, in_axes, want = batched(entry)
    assert_close(run_shard_map(function, args, in_axes), want, 1e-6)


@for_entries("pmap")
def test_pmap(entry):
    function, args, in_axes, want = batched(entry)
    assert_close(run_pmap(function, args, in_axes), want, 1e-6)


@for_entries("pickle")
def test_pickle(entry):
    function, args, _ = entry.call()
    loaded, loaded_args = pickle.loads(pickle.dumps((function, args)))
    chex.assert_trees_all_equal(loaded_args, args)
    assert_close(jax.jit(loaded)(*loaded_args), jax.jit(function)(*args), 1e-6)


@for_entries("export")
def test_export(entry):
    function, args, _ = entry.call()
    exported = jax.export.export(jax.jit(function))(*args)
    loaded = jax.export.deserialize(exported.serialize())
    assert_close(loaded.call(*args), jax.jit(function)(*args), 1e-6)


@pytest.mark.parametrize("entry", MADE, ids=str)
@pytest.mark.parametrize(
    "leaf", [None, True, jax.ShapeDtypeStruct((2,), jnp.float32)], ids=str
)
def test_trees_take_any_leaf(entry, leaf):
    function, args, _ = entry.call()
    for tree in (args, jax.eval_shape(function, *args)):
        leaves, treedef = jax.tree.flatten(tree)
        rebuilt = jax.tree.unflatten(treedef, [leaf] * len(leaves))
        got = treedef.flatten_up_to(rebuilt)
        assert all(value is leaf for value in got)
