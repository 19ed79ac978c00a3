r"""Gram matrices tile by tile: in memory, over the devices of a mesh, or on disk.

A matrix of $n$ examples has $n^2$ entries, but only $n (n + 1) / 2$ to compute, in
tiles that need nothing of each other. How many fit in memory at a time, where the tiles
are computed and where they go is decided here.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from .._checks import check_positive, is_concrete
from ._gram import Gram
from ._infinite import Kernel
from ._progress import bar, bytes_text, device_free_memory, free_memory
from ._ring import ring_program
from ._tiles import Tiles, Tiling, even_tile, outputs

_SIDE = {"cpu": 1024}  # of a tile where nothing else decides
_ACCELERATOR_SIDE = 4096


def gram(
    kernel: Kernel | Callable[[Array, Array], Gram],
    x1: Float[Array, "n1 ..."],
    x2: Float[Array, "n2 ..."] | None = None,
    *,
    tile: int | None = None,
    mesh: Mesh | None = None,
    store: str | Path | None = None,
    memory_limit: int | None = None,
    progress: bool = True,
    ntk: bool = True,
    digest: str | None = None,
) -> Gram:
    """Evaluates a kernel on all pairs, in tiles, however many there are.

    With `x2=None` only tiles on and above the diagonal are computed, and mirrored
    exactly. The result is

    - without `mesh` and `store`: NumPy arrays in the memory of the host, filled by the
      first local device;
    - with `mesh`: arrays of JAX whose rows are sharded over all its devices, of every
      process under `jax.distributed`. The number of examples in `x1` must be a multiple
      of that of devices;
    - with `store`: a `StoredMatrix` for each matrix, which reads what it is asked for.
      The tiles are computed by the devices of `mesh`, each process computing and
      writing its own, or by the first local device. Needs TensorStore (the extra
      `big`).

    A store is a directory with a zarr version 3 array for each matrix, one chunk a tile
    (of a symmetric matrix only the upper triangle), a file `gram.json` that says what
    is computed, and logs. A line with the checksums of a tile is added to a log, and
    forced to disk, after the tile is on disk. If the process dies at any moment, the
    same call goes on: it recomputes the tiles without a line, at most four a device,
    and those whose checksum is wrong (truncated, damaged or deleted). On the same
    machine with the same tiling and devices the result is identical in every bit. A
    store that was made from another graph, other numbers, data, dtype or tiling is
    refused. The digest does not hold the versions of the packages; `gram.json` does.

    Memory beyond the result does not grow with the number of examples. What is needed
    comes from XLA's analysis of the compiled tile.

    Args:
        kernel: A kernel, or a function `(x1, x2) -> Gram` that JAX can compile, which
            is then called on tiles.
        x1: Examples along the first axis, in any shape that `kernel` takes.
        x2: Other examples; `None` means `x1`.
        tile: Number of examples along a side of a tile. `None` chooses about 1024 on a
            CPU and 4096 elsewhere, less where memory demands, and for a store that
            exists what it was made with.
        mesh: Devices to use. Without a store the kernel's own tiles are used, and
            `tile` must be `None`.
        store: A directory; it is made if it does not exist.
        memory_limit: Bytes that the result in memory and the tiles being computed may
            take in this process; `None` means half of the memory that is free, on the
            host and, for the tiles, on each accelerator.
        progress: Shows a bar with rate and remaining time, if tqdm is installed.
        ntk: Whether to compute the NTK too; a plain function decides for itself.
        digest: With a store and a plain function: a text that stands for the function
            and all its hyper-parameters, which cannot be known otherwise.

    Returns:
        The matrices, `(n1, n2)`, in the dtype that `kernel` gives.

    Raises:
        TypeError: an argument is of the wrong kind, or this is being traced.
        ValueError: a shape is wrong; the work does not fit in `memory_limit`, which the
            message compares with the need; `store` holds another computation, whose
            digest the message compares with this one; or `kernel` has no digest.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> kernel = ker.infinite(lambda h: ker.dense(ker.relu(ker.dense(h, 64)), 1))
        >>> ker.gram(kernel, jnp.ones((5, 3)), tile=2, progress=False).ntk.shape
        (5, 5)
    """
    x1, x2 = check_inputs("gram", kernel, x1, x2)
    limit, device_limit = memory_limits("gram", memory_limit, mesh)
    if tile is not None:
        check_positive("gram", tile=tile)
    if store is not None:
        from ._store_gram import gram_in_store

        return gram_in_store(
            kernel,
            x1,
            x2,
            tile=tile,
            mesh=mesh,
            store=Path(store),
            limits=(limit, device_limit),
            progress=progress,
            ntk=ntk,
            digest=digest,
        )
    if digest is not None:
        raise ValueError("gram: `digest` must be None without `store`, got a text.")
    if mesh is not None:
        return _gram_on_mesh(kernel, x1, x2, tile, mesh, limit, device_limit, ntk)
    kinds, dtype = outputs(kernel, x1, x1 if x2 is None else x2, ntk=ntk)
    shape = len(x1), len(x1 if x2 is None else x2)
    result = len(kinds) * math.prod(shape) * dtype.itemsize
    tiles = fit_tiles(
        kernel,
        x1,
        x2,
        tile,
        jax.local_devices()[:1],
        ntk=ntk,
        fixed=result,
        limits=(limit, device_limit),
    )
    matrices = [np.empty(shape, dtype) for _ in kinds]
    indices = tiles.tiling.indices
    shown = bar(progress, len(indices), what="Gram", unit="tile")
    for batch in tiles.compute(indices):
        for index, blocks in batch:
            rows, columns = tiles.tiling.slices(index)
            for matrix, block in zip(matrices, blocks, strict=True):
                matrix[rows, columns] = block
                if tiles.tiling.symmetric and index[0] != index[1]:
                    matrix[columns, rows] = block.T
            shown.update()
    shown.close()
    return Gram(**dict(zip(kinds, matrices, strict=True)))  # pyright: ignore


def check_inputs(where: str, kernel: Any, x1: Any, x2: Any) -> tuple[Any, Any]:
    """Returns the examples as arrays on the host, in the dtype that JAX gives them."""
    if not callable(kernel):
        raise TypeError(
            f"{where}: `kernel` must be a Kernel or a function of two arrays, "
            f"got {type(kernel).__name__}."
        )
    numbers = kernel.numbers if isinstance(kernel, Kernel) else ()
    arrays = [x for x in (x1, x2, *jax.tree.leaves(numbers)) if x is not None]
    if not is_concrete(*arrays):
        raise TypeError(
            f"{where}: `kernel` and the examples must hold numbers, got values that "
            "are being traced; call it outside of jit, grad and vmap."
        )
    found = []
    for name, x in (("x1", x1), ("x2", x2)):
        if x is None:
            found.append(None)
            continue
        x = np.asarray(x)
        if x.ndim < 1 or not len(x):
            raise ValueError(
                f"{where}: `{name}` must have shape (n, ...) with n >= 1, "
                f"got {x.shape}."
            )
        found.append(x.astype(jnp.result_type(x), copy=False))
    if x2 is not None and found[0].shape[1:] != found[1].shape[1:]:
        raise ValueError(
            f"{where}: `x2` must hold examples of shape {found[0].shape[1:]} like "
            f"`x1`, got {found[1].shape[1:]}."
        )
    return found[0], found[1]


def memory_limits(where: str, memory_limit: int | None, mesh: Mesh | None):
    """Bytes for the host and for each accelerator; infinite where unknown."""
    if memory_limit is not None:
        check_positive(where, memory_limit=memory_limit)
        return memory_limit, memory_limit
    free = free_memory()
    devices = jax.local_devices()[:1] if mesh is None else mesh.local_devices
    found = [f for f in map(device_free_memory, devices) if f is not None]
    return (
        math.inf if free is None else free // 2,
        min(found) // 2 if found else math.inf,
    )


def fit_tiles(
    kernel, x1, x2, tile, devices, *, ntk: bool, fixed: int, limits, writing: int = 0
) -> Tiles:
    """Tiles that fit in memory beside `fixed` bytes; smaller ones if `tile` is None.

    `writing` is how many times the results of a batch are held while they are written.
    """
    host_limit, device_limit = limits
    n2 = len(x1) if x2 is None else len(x2)
    side = tile
    if side is None:
        side = _SIDE.get(devices[0].platform, _ACCELERATOR_SIDE)
        side = even_tile(max(len(x1), n2), side)
    while True:
        if fixed > host_limit:
            break
        tiling = Tiling((len(x1), n2), side, x2 is None)
        tiles = Tiles.build(kernel, x1, x2, tiling, devices, ntk=ntk)
        # Two batches are computed at a time, of which the host may hold the results.
        work, results = tiles.memory
        on_device, on_host = work + 2 * results, (2 + writing) * results
        if devices[0].platform == "cpu":
            on_host, on_device = on_device + writing * results, 0
        on_device //= len(devices)
        if fixed + on_host <= host_limit and on_device <= device_limit:
            return tiles
        if tile is not None or side == 1:
            if on_device > device_limit:
                raise _too_large(on_device, device_limit, "on each device", side)
            fixed += on_host
            break
        spare = min((host_limit - fixed) / on_host, device_limit / max(on_device, 1))
        side = max(1, min(side // 2, int(0.9 * side * math.sqrt(max(spare, 0)))))
    raise _too_large(fixed, host_limit, "in memory", side)


def _too_large(need, limit, place, side) -> ValueError:
    return ValueError(
        f"gram: `memory_limit` must be at least the {bytes_text(need)} needed {place} "
        f"with tiles of {side} x {side}, got {bytes_text(limit)}; a smaller `tile` "
        "needs less to work with, and `store=` keeps the result on disk."
    )


def _gram_on_mesh(kernel, x1, x2, tile, mesh, limit, device_limit, ntk) -> Gram:
    if tile is not None:
        raise ValueError(
            "gram: `tile` must be None with a `mesh` and no `store` (each device takes "
            f"equal rows), got {tile}."
        )
    if len(x1) % mesh.size:
        raise ValueError(
            "gram: `x1` must have a multiple of the mesh's "
            f"{mesh.size} devices in examples, got {len(x1)}; leave some out, repeat "
            "some, or give a `store`."
        )
    program, args = ring_program(kernel, mesh, x1, x2, ntk=ntk)
    found = program.memory_analysis()
    if found is not None:
        need = (
            found.argument_size_in_bytes
            + found.output_size_in_bytes
            + found.temp_size_in_bytes
        )
        on_host = mesh.devices.flat[0].platform == "cpu"
        need *= len(mesh.local_devices) if on_host else 1
        allowed = limit if on_host else device_limit
        if need > allowed:
            place = "in memory" if on_host else "on each device"
            raise _too_large(need, allowed, place, len(x1) // mesh.size)
    return Gram(**dict(zip(("nngp", "ntk"), program(*args), strict=False)))
