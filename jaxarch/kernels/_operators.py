"""Three ways to multiply a kernel matrix with a vector: held, read, or computed anew.

Each has `diagonal()` and `row(i)` on the host, and `mv(arrays, v)`, which JAX traces;
`arrays` are the operands that the compiled program takes beside `v`.
"""

import functools
import itertools
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._dtypes import at_least_float32, float_dtype
from ._infinite import Kernel
from ._store import StoredMatrix
from ._tiles import Index, as_argument, call, even_tile, outputs

contract = functools.partial(jnp.einsum, precision="highest")
_SIDE = 1024


class Dense:
    """A matrix in memory."""

    stabilise: int | None = 10  # steps after which the residual is computed afresh

    def __init__(self, k: Any):
        k = jnp.asarray(k)
        self.dtype = at_least_float32(float_dtype(k))
        self.arrays = k.astype(self.dtype)
        self.mv = _multiply

    def __len__(self) -> int:
        return len(self.arrays)

    def diagonal(self) -> np.ndarray:
        """`(n,)`."""
        return np.asarray(jnp.diagonal(self.arrays))

    def row(self, i: int) -> np.ndarray:
        """`(n,)`."""
        return np.asarray(self.arrays[i])


def _multiply(k: Array, v: Array) -> Array:
    return contract("ij,j->i", k, v)


class Stored:
    """A matrix on disk, of which as many tiles stay in memory as `limit` allows.

    JAX multiplies: NumPy's BLAS threads would compete with its own.
    """

    stabilise: int | None = 10

    def __init__(self, matrix: StoredMatrix, limit: float):
        self.matrix = matrix
        self.dtype = at_least_float32(matrix.dtype)
        tiling, side = matrix.tiling, min(matrix.tiling.tile, len(matrix))
        self._slot = {index: s for s, index in enumerate(tiling.indices)}
        room = int(min(len(self._slot), limit // (side * side * self.dtype.itemsize)))
        self._kept = _aligned((room, side, side), self.dtype)
        kept, self._read = tiling.indices[:room], tiling.indices[room:]
        for index, block in matrix.tiles(kept):
            height, width = block.shape
            self._kept[self._slot[index], :height, :width] = block
        # Compiled programs outlive this object, so they hold its number only.
        handle = next(_NUMBERS)
        _OPEN[handle] = self
        self._ahead: Any = None
        self.arrays = (
            jax.device_put(self._kept, may_alias=True),
            np.asarray(kept, int).reshape(-1, 2),
            np.asarray(self._read, int).reshape(-1, 2),
            np.asarray(handle),
        )
        self.mv = _stored_product

    def __len__(self) -> int:
        return len(self.matrix)

    def _tiles(self, indices: list[Index]):
        there = [i for i in indices if self._slot[i] < len(self._kept)]
        for index in there:
            rows, columns = self.matrix.tiling.slices(index)
            block = self._kept[self._slot[index]]
            yield index, block[: rows.stop - rows.start, : columns.stop - columns.start]
        absent = [i for i in indices if self._slot[i] >= len(self._kept)]
        yield from self.matrix.tiles(absent)

    def diagonal(self) -> np.ndarray:
        """`(n,)`."""
        out = np.empty(len(self), self.dtype)
        for index, block in self._tiles(
            [(i, i) for i in range(self.matrix.tiling.counts[0])]
        ):
            out[self.matrix.tiling.slices(index)[0]] = np.diagonal(block)
        return out

    def row(self, i: int) -> np.ndarray:
        """`(n,)`."""
        tiling = self.matrix.tiling
        mine, out = i // tiling.tile, np.empty(len(self), self.dtype)
        homes = [(min(mine, j), max(mine, j)) for j in range(tiling.counts[1])]
        for (a, b), block in self._tiles(homes):
            rows, columns = tiling.slices((a, b))
            if a == mine:
                out[columns] = block[i - rows.start]
            else:
                out[rows] = block[:, i - columns.start]
        return out

    def load(self, number: int) -> np.ndarray:
        """A tile that has no room in memory; the reading of the next is started."""
        if self._ahead is None or self._ahead[0] != number:
            self._ahead = number, self.matrix.start(self._read[number])
        future = self._ahead[1]
        following = (number + 1) % len(self._read)
        self._ahead = following, self.matrix.start(self._read[following])
        block = self.matrix.finish(self._read[number], future)
        tile = np.zeros(self._kept.shape[1:], self.dtype)
        tile[: block.shape[0], : block.shape[1]] = block
        return tile


def _aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Zeros where JAX on a CPU can use them without a copy."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


_NUMBERS = itertools.count()
_OPEN: weakref.WeakValueDictionary[int, Stored] = weakref.WeakValueDictionary()


def _load(handle, number) -> np.ndarray:
    # As 32-bit words: the thread of a callback may be one in which `jax.enable_x64` is
    # not in force, and JAX would round float64 there.
    return _OPEN[int(handle)].load(int(number)).view(np.uint32)


def _both_ways(total: Array, parts: Array, index: Array, k: Array) -> Array:
    """Adds what one tile on or above the diagonal does to a product."""
    i, j = index[0], index[1]
    total = total.at[i].add(contract("ij,j->i", k, parts[j]))
    back = contract("ij,i->j", k, parts[i])
    return total.at[j].add(jnp.where(i == j, 0, back))


def _stored_product(arrays, v: Array) -> Array:
    kept, indices, others, handle = arrays
    side = kept.shape[1]
    parts = _split(v, side)
    words = kept.dtype.itemsize // 4
    raw = jax.ShapeDtypeStruct((side, side * words), jnp.uint32)

    def held(total, xs):
        return _both_ways(total, parts, *xs), None

    def read(total, xs):
        number, index = xs
        k = jax.pure_callback(_load, raw, handle, number, vmap_method="sequential")
        k = k if words == 1 else k.reshape(side, side, words)
        k = jax.lax.bitcast_convert_type(k, kept.dtype)
        return _both_ways(total, parts, index, k), None

    total = jnp.zeros_like(parts)
    if len(indices):
        total, _ = jax.lax.scan(held, total, (indices, kept))
    if len(others):
        xs = jnp.arange(len(others)), others
        total, _ = jax.lax.scan(read, total, xs)
    return total.reshape(-1)[: v.shape[0]]


def _split(v: Array, side: int) -> Array:
    count = -(-v.shape[0] // side)
    return jnp.pad(v, (0, count * side - v.shape[0])).reshape(count, side)


class Recomputed:
    """A matrix of which no tile outlives its use."""

    stabilise: int | None = None  # it would compile the kernel, and run it, once more

    def __init__(self, kernel: Any, x: Any, kind: str, tile: int | None):
        kinds, dtype = outputs(kernel, x, x, ntk=kind == "ntk")
        if kind not in kinds:
            raise ValueError(
                f"solve: `k` must give an `{kind}`, got {', '.join(kinds)}."
            )
        self.dtype = at_least_float32(dtype)
        self._n, self._which = len(x), kinds.index(kind)
        side = even_tile(len(x), min(tile or _SIDE, len(x)))
        # Copies of the last example fill the last tile; their weights are 0.
        blocks = np.minimum(np.arange(-(-len(x) // side) * side), len(x) - 1)
        blocks = x[blocks].reshape(-1, side, *x.shape[1:])
        self._diagonal = _diagonal(self._which, kernel, jnp.asarray(blocks))
        self._diagonal = self._diagonal.astype(self.dtype)
        arrays = as_argument(kernel), jnp.asarray(blocks), jnp.asarray(x)
        self.arrays = *arrays, self._diagonal
        self.mv = _recompute_of(self._which)

    def __len__(self) -> int:
        return self._n

    def diagonal(self) -> np.ndarray:
        """`(n,)`."""
        return np.asarray(self._diagonal).ravel()[: self._n]

    def row(self, i: int) -> np.ndarray:
        """`(n,)`."""
        kernel, _, x, _ = self.arrays
        return np.asarray(_row(self._which, kernel, x, i)).astype(self.dtype)


def _tile(which: int, kernel, x1, x2, *, same: bool = False) -> Array:
    return call(kernel, x1, x2, same=same, ntk=which == 1)[which]


@functools.partial(jax.jit, static_argnums=0)
def _row(which, kernel, x, i):
    one = jax.lax.dynamic_slice_in_dim(x, i, 1)
    return _tile(which, kernel, one, x)[0]


def _diagonal(which: int, kernel, blocks: Array) -> Array:
    """Pairs of an example with itself, `(tiles, side)`."""
    if isinstance(kernel, Kernel):
        x = blocks.reshape(-1, *blocks.shape[2:])
        gram = kernel(x, diagonal=True, ntk=which == 1)
        found = gram.ntk if which else gram.nngp
        return jnp.reshape(found, blocks.shape[:2])  # pyright: ignore

    @jax.jit
    def own(blocks):
        return jax.lax.map(
            lambda x: jnp.diagonal(_tile(which, kernel, x, x, same=True)), blocks
        )

    return own(blocks)


@functools.cache  # one object for each kind, so that equal solves compile once
def _recompute_of(which: int):
    return functools.partial(_recompute, which)


def _recompute(which: int, arrays, v: Array) -> Array:
    """Sums over the tiles on and above the diagonal, those above it both ways."""
    kernel, blocks, _, diagonal = arrays
    parts = _split(v, blocks.shape[1])

    def pair(total, index):
        i, j = index[0], index[1]
        k = _tile(which, kernel, blocks[i], blocks[j]).astype(v.dtype)
        # One program for all tiles, that of two sets: the diagonal is put in.
        own = jnp.fill_diagonal(k, diagonal[i], inplace=False)
        return _both_ways(total, parts, index, jnp.where(i == j, own, k)), None

    indices = jnp.asarray(np.stack(np.triu_indices(len(blocks)), 1))
    total, _ = jax.lax.scan(pair, jnp.zeros_like(parts), indices)
    return total.reshape(-1)[: v.shape[0]]
