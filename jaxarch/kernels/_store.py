"""Gram matrices in a directory: what is there, and reading it lazily.

    gram.json       what is computed: a digest and its parts, shapes, tiling, versions
    nngp/, ntk/     zarr version 3 arrays, one chunk a tile; NaN where there is none
    log-*.jsonl     a line for each tile that is on disk: its index and checksums

The upper triangle of a symmetric matrix is stored, with whole tiles on the diagonal.
"""

import dataclasses
import functools
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ._tiles import Index, Tiling

MANIFEST = "gram.json"


def import_tensorstore() -> Any:
    """TensorStore, or an `ImportError` that says how to get it."""
    try:
        import tensorstore
    except ImportError as error:
        raise ImportError(
            "gram: `store` needs TensorStore: pip install 'jaxarch[big]'."
        ) from error
    return tensorstore


def checksum(block: np.ndarray) -> int:
    """CRC-32 of the values of a tile, row by row."""
    return zlib.crc32(np.ascontiguousarray(block).view(np.uint8).data)


def read_logs(store: Path) -> dict[Index, list[int]]:
    """Checksums of the tiles on disk; a line that a dying process cut off is none."""
    found: dict[Index, list[int]] = {}
    for log in sorted(store.glob("log-*.jsonl")):
        for line in log.read_text().splitlines(keepends=True):
            try:
                entry = json.loads(line) if line.endswith("\n") else None
            except ValueError:
                continue
            if entry is not None:
                i, j = entry["tile"]
                found[i, j] = entry["crc32"]
    return found


def open_array(store: Path, kind: str, manifest: dict[str, Any], *, create=False):
    """Opens the zarr array of one matrix."""
    ts = import_tensorstore()
    tile, shape = manifest["tile"], manifest["shape"]
    dtype = ts.dtype(manifest["dtype"])
    options: dict[str, Any] = {}
    if create:
        options = {
            "create": True,
            "dtype": dtype,
            "shape": shape,
            "chunk_layout": ts.ChunkLayout(chunk_shape=[min(tile, n) for n in shape]),
            "fill_value": np.asarray(np.nan, dtype.numpy_dtype),
        }
    path = str((store / kind).resolve())
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
    return ts.open(spec, open=True, **options).result()


@dataclasses.dataclass(frozen=True)
class StoredMatrix:
    """A Gram matrix on disk, made by `gram` or opened by `StoredMatrix.open`.

    Indexing reads the tiles that hold what is asked for, and no others, into a NumPy
    array; `np.asarray` reads all. A tile whose checksum is wrong, or that was never
    finished, raises a `ValueError`; the call of `gram` that made the store repairs it.
    Two index arrays choose rows and columns (`m[[0, 2], [1, 3]]` is 2 x 2).
    """

    store: str
    kind: str  # "nngp" or "ntk"

    @classmethod
    def open(cls, store: str | Path, kind: str) -> "StoredMatrix":
        """Opens a matrix of a store.

        Args:
            store: The directory.
            kind: `"nngp"` or `"ntk"`.

        Returns:
            The matrix, of which nothing is read yet.

        Raises:
            ValueError: there is no store, or it has no such matrix.
        """
        found = cls(str(store), kind)
        if not (found._path / MANIFEST).exists():
            raise ValueError(
                f"StoredMatrix.open: `store` must be a directory that gram made, "
                f"got {store}."
            )
        kinds = found.manifest["kinds"]
        if kind not in kinds:
            raise ValueError(
                f"StoredMatrix.open: `kind` must be one of {kinds}, got {kind!r}."
            )
        return found

    @property
    def _path(self) -> Path:
        return Path(self.store)

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """What `gram.json` says."""
        return json.loads((self._path / MANIFEST).read_text())

    @functools.cached_property
    def tiling(self) -> Tiling:
        """How the matrix is cut."""
        shape, manifest = tuple(self.manifest["shape"]), self.manifest
        return Tiling(shape, manifest["tile"], manifest["symmetric"])

    @functools.cached_property
    def _checksums(self) -> dict[Index, list[int]]:
        return read_logs(self._path)

    @functools.cached_property
    def _array(self) -> Any:
        return open_array(self._path, self.kind, self.manifest)

    def __getstate__(self) -> dict[str, str]:
        return {"store": self.store, "kind": self.kind}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.tiling.shape

    @property
    def ndim(self) -> int:
        """Two."""
        return 2

    @property
    def dtype(self) -> np.dtype:
        """Type of the entries."""
        return import_tensorstore().dtype(self.manifest["dtype"]).numpy_dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the whole matrix in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"StoredMatrix({self.store!r}, {self.kind!r}, shape={self.shape})"

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        whole = self[:, :]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> np.ndarray:
        one, two = index if isinstance(index, tuple) else (index, slice(None))
        rows, columns = (
            np.arange(n)[i] for i, n in zip((one, two), self.shape, strict=True)
        )
        out = np.empty((rows.size, columns.size), self.dtype)
        tile = self.tiling.tile
        wanted = [
            (int(i), int(j))
            for i in np.unique(rows // tile)
            for j in np.unique(columns // tile)
        ]
        flat1, flat2 = rows.ravel(), columns.ravel()
        for (i, j), block in self.tiles(wanted):
            where1, where2 = flat1 // tile == i, flat2 // tile == j
            part = block[np.ix_(flat1[where1] - i * tile, flat2[where2] - j * tile)]
            out[np.ix_(where1, where2)] = part
        return out.reshape(rows.shape + columns.shape)

    def tiles(
        self, indices: list[Index] | None = None
    ) -> Iterator[tuple[Index, np.ndarray]]:
        """Reads tiles one after the other, the next while one is used.

        Args:
            indices: Which; `None` means those that are stored: all, or of a symmetric
                matrix the upper triangle.

        Yields:
            The index of a tile and its values.

        Raises:
            ValueError: a tile is missing or damaged.
        """
        indices = self.tiling.indices if indices is None else indices
        started = [self.start(index) for index in indices[:2]]
        for position, index in enumerate(indices):
            future = started.pop(0)
            if position + 2 < len(indices):
                started.append(self.start(indices[position + 2]))
            block = self.finish(index, future)
            flip = self.tiling.symmetric and index[0] > index[1]
            yield index, block.T if flip else block

    def intact(self, index: Index) -> bool:
        """Reads a stored tile and tells whether its checksum is right."""
        try:
            self.finish(index, self.start(index))
        except ValueError:
            return False
        return True

    def _home(self, index: Index) -> Index:
        i, j = index
        return (j, i) if self.tiling.symmetric and i > j else (i, j)

    def start(self, index: Index) -> Any:
        """Starts to read a tile, from where it is stored."""
        return self._array[self.tiling.slices(self._home(index))].read()

    def finish(self, index: Index, future: Any) -> np.ndarray:
        """The tile as it is stored, if its checksum is right."""
        home = self._home(index)
        problem = "is not finished"
        if home in self._checksums:
            wanted = self._checksums[home][self.manifest["kinds"].index(self.kind)]
            try:
                block = np.asarray(future.result())
                if checksum(block) == wanted:
                    return block
                problem = "is damaged: its checksum is wrong"
            except (ValueError, OSError, RuntimeError) as error:
                problem = f"is damaged: {error}"
        raise ValueError(
            f"StoredMatrix: tile {home} of `{self.kind}` in {self.store} {problem}; "
            "the call of gram that made the store computes what is missing."
        )
