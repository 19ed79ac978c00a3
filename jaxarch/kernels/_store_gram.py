"""Filling a store: each process computes and writes its own tiles, and can go on."""

import collections
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import jax

from .. import __version__
from .._dtypes import at_least_float32, float_dtype
from ._big import fit_tiles
from ._digest import digest_array, digest_graph, digest_numbers, sha256
from ._gram import Gram
from ._infinite import Kernel
from ._progress import bar
from ._store import (
    MANIFEST,
    StoredMatrix,
    checksum,
    import_tensorstore,
    open_array,
    read_logs,
)
from ._tiles import Index, Tiles, Tiling, outputs

_BATCHES_WRITTEN = 2  # at a time
_PARTS = ("kernel", "numbers", "data", "dtype", "kinds", "tile")


def gram_in_store(
    kernel, x1, x2, *, tile, mesh, store: Path, limits, progress, ntk, digest
) -> Gram:
    """`gram` with a store."""
    import_tensorstore()
    owners = list(jax.local_devices()[:1] if mesh is None else mesh.devices.flat)
    local = [d for d in owners if d.process_index == jax.process_index()]
    processes = {d.process_index for d in owners}
    if not local or 1 < len(processes) < jax.process_count():
        raise ValueError(
            "gram: `mesh` must hold devices of this process alone or of every process, "
            f"got those of processes {sorted(processes)} of {jax.process_count()}."
        )
    kinds, dtype = outputs(kernel, x1, x1 if x2 is None else x2, ntk=ntk)
    if tile is None and (store / MANIFEST).exists():
        tile = json.loads((store / MANIFEST).read_text())["tile"]
    parts = _parts(kernel, x1, x2, kinds, dtype, digest)
    tiles = fit_tiles(
        kernel,
        x1,
        x2,
        tile,
        local,
        ntk=ntk,
        fixed=0,
        limits=limits,
        writing=_BATCHES_WRITTEN,
    )
    manifest = _claim(store, parts, tiles.tiling, kinds, dtype)
    mine = [
        index
        for number, index in enumerate(tiles.tiling.indices)
        if owners[number % len(owners)].process_index == jax.process_index()
    ]
    arrays = [open_array(store, kind, manifest, create=True) for kind in kinds]
    matrices = [StoredMatrix(str(store), kind) for kind in kinds]
    done = _intact(matrices, mine, read_logs(store), progress)
    with _Log(store) as log:
        _fill(tiles, arrays, log, mine, done, progress)
    if len(processes) > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"gram {manifest['digest']}")
    found = [StoredMatrix.open(store, kind) for kind in kinds]
    return Gram(**dict(zip(kinds, found, strict=True)))  # pyright: ignore


def _fill(tiles: Tiles, arrays, log: "_Log", mine, done: set[Index], progress) -> None:
    shown = bar(progress, len(mine), what="Gram", unit="tile", done=len(done))
    writing: collections.deque = collections.deque()

    def commit():
        batch = writing.popleft()
        for _, _, futures in batch:
            for future in futures:
                future.result()
        log.add([(index, sums) for index, sums, _ in batch])
        shown.update(len(batch))

    for batch in tiles.compute([index for index in mine if index not in done]):
        entries = []
        for index, blocks in batch:
            where = tiles.tiling.slices(index)
            futures = [
                array[where].write(block, can_reference_source_data_indefinitely=True)
                for array, block in zip(arrays, blocks, strict=True)
            ]
            entries.append((index, [checksum(block) for block in blocks], futures))
        writing.append(entries)
        if len(writing) > _BATCHES_WRITTEN:
            commit()
    while writing:
        commit()
    shown.close()


def _intact(matrices, mine, logged, progress) -> set[Index]:
    """The tiles on disk, each read and compared with its checksums."""
    found = [index for index in mine if index in logged]
    shown = bar(progress and bool(found), len(found), what="check", unit="tile")
    done = set()
    for index in found:
        if all(matrix.intact(index) for matrix in matrices):
            done.add(index)
        shown.update()
    shown.close()
    return done


def _parts(kernel, x1, x2, kinds, dtype, digest) -> dict[str, Any]:
    """Digests of all that decides the values."""
    if isinstance(kernel, Kernel):
        if digest is not None:
            raise ValueError(
                "gram: `digest` must be None for a Kernel, which has its own, got a "
                "text."
            )
        work = at_least_float32(float_dtype(x1, *([] if x2 is None else [x2])))
        found = digest_graph(kernel.graph), digest_numbers(kernel.numbers, work)
    elif digest is None:
        name = getattr(kernel, "__name__", type(kernel).__name__)
        raise ValueError(
            f"gram: with `store`, `digest` must be given for a plain function, whose "
            f"code and hyper-parameters cannot be compared, got None for {name}."
        )
    else:
        found = sha256("function", digest), ""
    data = [digest_array(x1), "" if x2 is None else digest_array(x2)]
    values = *found, sha256(*data), dtype.name, ", ".join(kinds)
    return dict(zip(_PARTS, values, strict=False))


def _claim(store: Path, parts, tiling: Tiling, kinds, dtype) -> dict[str, Any]:
    """Makes the store, or compares it with this computation; returns its manifest."""
    parts = parts | {"tile": str(tiling.tile)}
    manifest = {
        "format": 1,
        "digest": sha256(*(f"{name}={parts[name]}" for name in _PARTS)),
        "parts": parts,
        "shape": list(tiling.shape),
        "symmetric": tiling.symmetric,
        "tile": tiling.tile,
        "kinds": list(kinds),
        "dtype": dtype.name,
        "versions": {
            "jaxarch": __version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
    }
    path = store / MANIFEST
    store.mkdir(parents=True, exist_ok=True)
    others = [p.name for p in store.iterdir() if not p.name.startswith(".")]
    if others and not path.exists():
        raise ValueError(
            "gram: `store` must be a new or empty directory or a store, "
            f"got {store}, which holds {sorted(others)[0]!r}."
        )
    if not path.exists():
        _write_new(path, json.dumps(manifest, indent=2) + "\n")
    there = json.loads(path.read_text())
    if there["digest"] != manifest["digest"]:
        different = [n for n in _PARTS if there["parts"].get(n) != parts[n]]
        raise ValueError(
            f"gram: `store` must hold this computation, of digest "
            f"{manifest['digest']}, got {store} of digest {there['digest']}; they "
            f"differ in {', '.join(different)}."
        )
    return there


def _write_new(path: Path, text: str) -> None:
    """Writes a file whole unless it is there; of several writers the first wins."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=".gram-", delete=False
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(file.name, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(file.name)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Log:
    """This process' list of the tiles that are on disk."""

    def __init__(self, store: Path):
        path = store / f"log-{jax.process_index()}.jsonl"
        new = not path.exists()
        torn = not new and path.read_bytes()[-1:] not in (b"", b"\n")
        self._file = path.open("a")
        if torn:  # the last process died in the middle of a line
            self._file.write("\n")
        if new:
            _sync_directory(store)

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def add(self, entries: list[tuple[Index, list[int]]]) -> None:
        """Adds tiles and forces the lines to disk."""
        for index, sums in entries:
            line = {"tile": [int(i) for i in index], "crc32": sums}
            self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
