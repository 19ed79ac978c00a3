"""What a store costs: `gram` into TensorStore beside the same tiles only computed.

Both sides run in one process, in turns, on the same float32 data: the tiles of one set,
on and above the diagonal, computed and dropped; and the same written, logged and forced
to disk. Reported: seconds of each and their paired ratio, a plain write of the same
bytes to the same disk, and the peak memory of fresh processes for growing numbers of
points. `README.md` in this folder says how to read the output.

The exit status is 1 if the peak memory grows by more than 20 % (inputs aside) from the
fewest to the most points. A speed is not a gate.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _harness
import _script
import numpy as np


def make(points, features, depth):
    """A ReLU network of `depth` and its inputs."""
    from jaxarch import kernels as ker

    def network(h):
        for _ in range(depth):
            h = ker.relu(ker.dense(h, 512, w_std=math.sqrt(2), b_std=0.1))
        return ker.dense(h, 1, b_std=0.1)

    x = np.random.default_rng(0).standard_normal((points, features))
    return ker.infinite(network), x.astype(np.float32)


def compute_only(kernel, x, tile):
    """Computes every tile that the store would hold, and drops it."""
    import jax

    from jaxarch.kernels import _tiles

    tiling = _tiles.Tiling((len(x), len(x)), tile, True)
    devices = jax.local_devices()[:1]
    tiles = _tiles.Tiles.build(kernel, x, None, tiling, devices, ntk=True)
    for _ in tiles.compute(tiling.indices):
        pass


def into_store(kernel, x, tile, store):
    """`gram` into a new directory."""
    from jaxarch import kernels as ker

    ker.gram(kernel, x, tile=tile, store=store, progress=False)


def write_only(store, other):
    """Writes the bytes of the store's chunks to one file each, forced to disk."""
    files = [p for p in store.rglob("*") if p.is_file() and p.parent.name.isdigit()]
    size = 0
    other.mkdir()
    for number, path in enumerate(files):
        data = path.read_bytes()
        size += len(data)
        with (other / str(number)).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return size


def clock(call, *args):
    """Seconds of one call."""
    start = time.perf_counter()
    call(*args)
    return time.perf_counter() - start


def overhead(args, directory):
    """Times both sides in turns."""
    kernel, x = make(args.points, args.features, args.depth)
    into_store(kernel, x[: 2 * args.tile], args.tile, directory / "warm")
    plain, stored = [], []
    for number in range(args.repeats):
        _harness.progress(f"repetition {number + 1} of {args.repeats}")
        plain.append(clock(compute_only, kernel, x, args.tile))
        store = directory / f"store{number}"
        stored.append(clock(into_store, kernel, x, args.tile, store))
        if number + 1 < args.repeats:
            shutil.rmtree(store)
    start = time.perf_counter()
    size = write_only(store, directory / "written")
    written = time.perf_counter() - start
    ratio = _harness.paired_ratio(stored, plain)
    return {
        "points": args.points,
        "tile": args.tile,
        "features": args.features,
        "depth": args.depth,
        "stored_bytes": size,
        "compute_s": _harness.summary(plain),
        "store_s": _harness.summary(stored),
        "ratio": ratio,
        "overhead": ratio["median"] - 1,
        "write_alone_s": written,
        "samples_s": {"compute": plain, "store": stored},
    }


def peak(points, args):
    """Runs one `gram` with a store and reports the peak memory of this process."""
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        kernel, x = make(points, args.features, args.depth)
        seconds = clock(into_store, kernel, x, args.tile, Path(directory) / "store")
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scale = 1 if sys.platform == "darwin" else 1024
    found = {
        "points": points,
        "seconds": seconds,
        "peak_bytes": kilobytes * scale,
        "input_bytes": x.nbytes,
        "matrix_bytes": 2 * 4 * points**2,
    }
    print(json.dumps(found))


def print_report(report):
    """Prints the report as Markdown tables."""
    times, spread = report["overhead"], _script.spread
    row = [str(times["points"]), f"{times['stored_bytes'] / 1e6:.0f}"]
    row += [spread(times[k], digits=2) for k in ("compute_s", "store_s", "ratio")]
    header = "points, MB on disk, compute s, with store s, ratio, the write alone s"
    _script.print_table(header.split(", "), [[*row, f"{times['write_alone_s']:.2f}"]])
    print()
    rows = [
        [
            str(m["points"]),
            f"{m['matrix_bytes'] / 1e6:.0f}",
            f"{m['peak_bytes'] / 1e6:.0f}",
        ]
        for m in report["memory"]
    ]
    _script.print_table("points, MB of both matrices, peak MB".split(", "), rows)


def failed_gates(memory):
    """The gate: peak memory, inputs aside, from the fewest to the most points."""
    net = [m["peak_bytes"] - m["input_bytes"] for m in memory]
    if net and net[-1] > 1.2 * net[0]:
        return ["NOT peak memory independent of the number of points"]
    return []


def parse():
    parser = _script.parser(__doc__, repeats=7)
    parser.add_argument("--points", type=int, default=8000, help="for the times")
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--depth", type=int, default=3, help="ReLU layers")
    parser.add_argument("--tile", type=int, default=1000, help="side of a tile")
    parser.add_argument("--memory", default="4000,8000,16000", help="points, or empty")
    parser.add_argument("--directory", help="where the stores are made (temporary)")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse()
    if args.peak:
        peak(args.peak, args)
        return 0
    machine = _script.machine()
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        times = overhead(args, Path(directory))
    memory = []
    for points in filter(None, args.memory.split(",")):
        _harness.progress(f"peak memory of {points} points")
        command = [sys.executable, __file__, *sys.argv[1:], "--peak", points]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        memory.append(json.loads(done.stdout))
    import jax

    report = _script.make_report(
        "gram_store",
        machine,
        device=str(jax.devices()[0]),
        versions={"jax": jax.__version__, "numpy": np.__version__},
        dtype="float32",
        overhead=times,
        memory=memory,
    )
    print_report(report)
    return _script.finish(report, args.output, failed_gates(memory))


if __name__ == "__main__":
    sys.exit(main())
