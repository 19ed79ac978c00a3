"""Tiles of a Gram matrix: where they lie, one compiled program each, and the loop.

A tile is `kernel(x1[rows], x2[columns])`. Tiles are computed `D` at a time, one on each
of `D` local devices, by one program; the next are under way while the last are used.
All tiles have one shape (the last of a row or column starts earlier and is cut), so two
programs serve: one for the tiles on the diagonal, whose pairs (i, i) are one example,
and one for the others.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from ._gram import Gram
from ._infinite import Kernel

Index = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Square tiles of a matrix; a symmetric one has those on and above its diagonal."""

    shape: tuple[int, int]
    tile: int
    symmetric: bool

    @property
    def counts(self) -> Index:
        """Number of tiles in a column and in a row."""
        n1, n2 = self.shape
        return -(-n1 // self.tile), -(-n2 // self.tile)

    @property
    def indices(self) -> list[Index]:
        """The tiles to compute, row by row."""
        m1, m2 = self.counts
        return [
            (i, j) for i in range(m1) for j in range(i if self.symmetric else 0, m2)
        ]

    def slices(self, index: Index) -> tuple[slice, slice]:
        """Rows and columns that a tile covers."""
        one, two = (
            slice(i * self.tile, min((i + 1) * self.tile, n))
            for i, n in zip(index, self.shape, strict=True)
        )
        return one, two

    def loaded(self, index: Index) -> tuple[slice, slice]:
        """Rows and columns computed for it: all tiles have this one shape."""
        one, two = (
            slice(s.stop - min(self.tile, n), s.stop)
            if s.stop == n
            else slice(s.start, s.start + self.tile)
            for s, n in zip(self.slices(index), self.shape, strict=True)
        )
        return one, two


def even_tile(n: int, side: int) -> int:
    """The least tile that needs no more of them than `side` does."""
    return -(-n // -(-n // side))


def call(kernel: Any, x1: Any, x2: Any, *, same: bool, ntk: bool) -> tuple[Array, ...]:
    """The matrices of `kernel` on one tile; with `same`, of `x1` with itself."""
    if isinstance(kernel, Kernel):
        gram = kernel(x1, None if same else x2, ntk=ntk)
    else:
        gram = kernel(x1, x1 if same else x2)
    if not isinstance(gram, Gram):
        raise TypeError(
            f"gram: `kernel` must return a Gram, got {type(gram).__name__}."
        )
    found = (gram.nngp,) if gram.ntk is None or not ntk else (gram.nngp, gram.ntk)
    wanted = len(x1), len(x1 if same else x2)
    for k in found:
        if jnp.shape(k) != wanted:
            raise ValueError(
                f"gram: `kernel` must return matrices of shape {wanted} for a tile, "
                f"got {jnp.shape(k)}."
            )
    return tuple(_mirrored(jnp.asarray(k)) for k in found) if same else found


def _mirrored(k: Array) -> Array:
    return jnp.triu(k) + jnp.triu(k, 1).T


def outputs(kernel: Any, x1: Any, x2: Any, *, ntk: bool):
    """Names and dtype of the matrices that `kernel` gives, without computing any."""
    args = [jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for x in (x1, x2)]
    one = functools.partial(call, kernel, same=False, ntk=ntk)
    found = jax.eval_shape(one, *args)
    return ("nngp", "ntk")[: len(found)], np.dtype(found[0].dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class _Static:
    """A plain callable as a pytree without leaves, equal to itself only."""

    function: Callable

    def __call__(self, x1, x2):
        return self.function(x1, x2)


jax.tree_util.register_dataclass(_Static, data_fields=[], meta_fields=["function"])


def as_argument(kernel: Any) -> Any:
    """`kernel` as an argument of a compiled program: a pytree of arrays on the host."""
    if isinstance(kernel, Kernel):
        return jax.tree.map(lambda n: np.asarray(jnp.asarray(n)), kernel)
    return _Static(kernel)


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program for tiles of one shape, on several devices at once."""

    compiled: Any
    sharding: NamedSharding

    @property
    def num(self) -> int:
        """How many tiles it computes at a time."""
        return self.sharding.mesh.size

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes that one tile takes while it is computed, and those of its result."""
        found = self.compiled.memory_analysis()
        result = sum(
            np.prod(s.shape[1:], dtype=int) * s.dtype.itemsize
            for s in self.compiled.out_info
        )
        if found is None:
            return int(result), int(result)
        return found.temp_size_in_bytes + found.argument_size_in_bytes, int(result)

    def __call__(self, kernel: Any, *xs: np.ndarray) -> tuple[Array, ...]:
        """Starts the computation of stacked tiles."""
        return self.compiled(kernel, *(jax.device_put(x, self.sharding) for x in xs))


def compile_program(
    kernel: Any,
    devices: Sequence[Any],
    *blocks: tuple[tuple[int, ...], Any],
    ntk: bool,
) -> Program:
    """Compiles tiles of `blocks`, the (shape, dtype) of their rows and columns.

    One block asks for a tile on the diagonal. Equal requests compile once.
    """
    leaves, treedef = jax.tree.flatten(kernel)
    avals = tuple((np.shape(n), np.asarray(n).dtype) for n in leaves)
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    return _compile(treedef, avals, tuple(devices), blocks, ntk, x64)


@functools.lru_cache(maxsize=32)
def _compile(treedef, avals, devices, blocks, ntk, x64) -> Program:
    mesh = Mesh(np.asarray(devices), ("tiles",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("tiles")

    def one(kernel, *xs):
        x1, x2 = xs[0][0], xs[-1][0]
        found = call(kernel, x1, x2, same=len(xs) == 1, ntk=ntk)
        return tuple(k[None] for k in found)

    function = one
    if len(devices) > 1:
        specs = (PartitionSpec(), *[split] * len(blocks))
        function = jax.shard_map(
            one, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False
        )
    sharding = NamedSharding(mesh, split)
    whole = NamedSharding(mesh, PartitionSpec())
    kernel = treedef.unflatten(
        [jax.ShapeDtypeStruct(*a, sharding=whole) for a in avals]
    )
    xs = [
        jax.ShapeDtypeStruct((len(devices), *shape), dtype, sharding=sharding)
        for shape, dtype in blocks
    ]
    lowered = jax.jit(function, out_shardings=sharding).lower(kernel, *xs)
    return Program(lowered.compile(), sharding)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """All that is needed to compute tiles of one matrix on this process' devices."""

    tiling: Tiling
    kernel: Any
    x1: np.ndarray
    x2: np.ndarray
    programs: dict[bool, Program]  # by whether the tile lies on the diagonal

    @classmethod
    def build(cls, kernel, x1, x2, tiling: Tiling, devices, *, ntk: bool) -> "Tiles":
        """Compiles what the matrix needs."""
        kernel, other = as_argument(kernel), x1 if x2 is None else x2
        one, two = (
            ((min(tiling.tile, len(x)), *x.shape[1:]), x.dtype) for x in (x1, other)
        )
        blocks: dict[bool, tuple] = {True: (one,)} if tiling.symmetric else {}
        if not tiling.symmetric or tiling.counts[0] > 1:
            blocks[False] = (one, two)
        programs = {
            same: compile_program(kernel, devices, *b, ntk=ntk)
            for same, b in blocks.items()
        }
        return cls(tiling, kernel, x1, other, programs)

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes for the tiles computed at one time, and those of their results."""
        found = [(p.num, *p.memory) for p in self.programs.values()]
        return max(n * a for n, a, _ in found), max(n * b for n, _, b in found)

    def compute(
        self, indices: Sequence[Index]
    ) -> Iterator[list[tuple[Index, tuple[np.ndarray, ...]]]]:
        """Yields tiles on the host, as many at a time as there are devices."""
        started = collections.deque()
        for batch in self._batches(indices):
            started.append((batch, self._start(batch)))
            if len(started) > 1:
                yield self._finish(*started.popleft())
        while started:
            yield self._finish(*started.popleft())

    def _batches(self, indices):
        waiting: dict[bool, list[Index]] = {True: [], False: []}
        for index in indices:
            same = self.tiling.symmetric and index[0] == index[1]
            waiting[same].append(index)
            if len(waiting[same]) == self.programs[same].num:
                yield waiting[same]
                waiting[same] = []
        yield from filter(None, waiting.values())

    def _start(self, batch):
        same = self.tiling.symmetric and batch[0][0] == batch[0][1]
        program = self.programs[same]
        padded = batch + batch[-1:] * (program.num - len(batch))
        slices = [self.tiling.loaded(index) for index in padded]
        xs = [np.stack([self.x1[rows] for rows, _ in slices])]
        if not same:
            xs.append(np.stack([self.x2[columns] for _, columns in slices]))
        return program(self.kernel, *xs)

    def _finish(self, batch, result):
        found = []
        shards = [
            [
                s.data
                for s in sorted(
                    k.addressable_shards, key=lambda s: s.index[0].start or 0
                )
            ]
            for k in result
        ]
        for d, index in enumerate(batch):
            height, width = (s.stop - s.start for s in self.tiling.slices(index))
            blocks = (np.asarray(kind[d])[0, -height:, -width:] for kind in shards)
            found.append((index, tuple(blocks)))
        return found
