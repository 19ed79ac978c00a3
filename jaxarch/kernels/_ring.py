"""A Gram matrix in the memory of the devices of a mesh, its rows sharded.

With one set of examples the devices form a ring. In step $s$ device $r$ computes the
block of its own examples and those of device $r + s$; half of a turn gives every block
on or above the diagonal once, in equal shares, and its transpose goes to the other
device. No device holds more than its rows, and XLA moves the blocks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from ._tiles import as_argument, call


def ring_program(kernel: Any, mesh: Mesh, x1: np.ndarray, x2: Any, *, ntk: bool):
    """Compiles the whole matrix; returns the program and its arguments."""
    axes = mesh.axis_names
    rows = NamedSharding(mesh, PartitionSpec(axes))
    whole = NamedSharding(mesh, PartitionSpec())
    kernel = jax.tree.map(lambda n: _place(n, whole), as_argument(kernel))
    args = [kernel, _place(x1, rows)]
    specs = [PartitionSpec(), PartitionSpec(axes)]
    if x2 is None:
        function = functools.partial(_symmetric, size=mesh.size, axes=axes, ntk=ntk)
    else:
        function = functools.partial(call, same=False, ntk=ntk)
        args.append(_place(x2, whole))
        specs.append(PartitionSpec())
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(specs),
        out_specs=PartitionSpec(axes),
        check_vma=False,
    )
    return jax.jit(mapped).lower(*args).compile(), args


def _place(x: Any, sharding: NamedSharding) -> Array:
    """Puts `x` on a mesh of which other processes may own a part."""
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _symmetric(kernel, x, *, size: int, axes, ntk: bool) -> tuple[Array, ...]:
    """The rows of one device."""
    n, half = len(x), size // 2
    me = jax.lax.axis_index(axes)

    def send(value, distance):
        pairs = [(r, (r + distance) % size) for r in range(size)]
        return jax.tree.map(lambda a: jax.lax.ppermute(a, axes, pairs), value)

    def step(other, _):
        other = send(other, -1)
        return other, call(kernel, x, other, same=False, ntk=ntk)

    own = call(kernel, x, None, same=True, ntk=ntk)
    rows = [jnp.zeros((n, n * size), k.dtype) for k in own]

    def put(rows, blocks, owner):
        column = (owner % size) * n
        return [
            jax.lax.dynamic_update_slice(a, b, (jnp.zeros_like(column), column))
            for a, b in zip(rows, blocks, strict=True)
        ]

    rows = put(rows, own, me)
    if half:
        _, blocks = jax.lax.scan(step, x, length=half)
    for s in range(1, half + 1):
        mine = [b[s - 1] for b in blocks]
        sent = [b.T for b in send(mine, s)]
        if 2 * s == size:  # both ends computed it: the first of the two decides
            mine = [jnp.where(me < half, a, b) for a, b in zip(mine, sent, strict=True)]
            rows = put(rows, mine, me + s)
            continue
        rows = put(put(rows, mine, me + s), sent, me - s)
    return tuple(rows)
