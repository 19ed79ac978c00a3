"""Batches of an entry's example, and the three ways to run one on several devices."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

NUM_DEVICES = 4


def is_float(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def batch(tree, num_examples=NUM_DEVICES):
    """Stacks examples of `tree`; each has smaller floats than the one before."""

    def stack(leaf):
        scales = [1 - i / 8 if is_float(leaf) else 1 for i in range(num_examples)]
        return jnp.stack([leaf * s if s != 1 else jnp.asarray(leaf) for s in scales])

    return jax.tree.map(stack, tree)


def batched_args(args, in_axes):
    return tuple(
        arg if axis is None else batch(arg)
        for arg, axis in zip(args, in_axes, strict=True)
    )


def run_shard_map(function, args, in_axes):
    mesh = jax.make_mesh((NUM_DEVICES,), ("batch",), axis_types=(AxisType.Auto,))
    specs = tuple(PartitionSpec(*([] if a is None else ["batch"])) for a in in_axes)
    mapped = jax.shard_map(
        jax.vmap(function, in_axes),
        mesh=mesh,
        in_specs=specs,
        out_specs=PartitionSpec("batch"),
    )
    return jax.jit(mapped)(*args)


def run_pmap(function, args, in_axes):
    return jax.pmap(function, in_axes=in_axes)(*args)
