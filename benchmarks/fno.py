"""Fourier neural operators beside neuralop 2.0.0 in PyTorch.

Four layers with 16 modes an axis on grids of 64 x 64, batch 4, with 32 and 64 channels:
the forward pass, and the gradient of the sum of squares with respect to all parameters.
Both sides have the same weights and one thread; processor time is compared. Then the
cost of a grid point of ours, from 32 to 512 points a side.

`README.md` in this folder says how to read the output.
"""

import os
import sys
from typing import Any, NamedTuple

import _harness
import _script
import numpy as np

OURS, PEER = _script.OURS, "neuralop"
MODES, LAYERS, BATCH, POINTS = 16, 4, 4, 64
CHANNELS = (32, 64)
SIDES = (32, 64, 128, 256, 512)
AGREEMENT = {"output": 1e-5, "gradient": 1e-4}  # relative
# Keep freed memory: what the C library returns costs page faults at the next call.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4294967296"
    ":glibc.malloc.trim_threshold=17179869184:glibc.malloc.arena_max=1"
}


class Result(NamedTuple):
    """The outputs, and the gradient of a matrix that all layers are behind."""

    output: Any
    gradient: Any


def random_weights(width, seed=0):
    """Weights of a model of neuralop by their names, with its variances."""
    rng = np.random.default_rng(seed)

    def dense(n_in, n_out):
        limit = 1 / np.sqrt(n_in)
        weight = rng.uniform(-limit, limit, (n_out, n_in, 1))
        return {"weight": weight, "bias": rng.uniform(-limit, limit, n_out)}

    found = {}
    mlps = {"lifting": (3, 2 * width, width), "projection": (width, 2 * width, 1)}
    for i in range(LAYERS):
        shape = (2, width, width, MODES, MODES // 2 + 1)
        real, imag = rng.normal(0, np.sqrt(0.5 / width), shape)
        blocks = "fno_blocks"
        found[f"{blocks}.convs.{i}.weight.tensor"] = real + 1j * imag
        found[f"{blocks}.convs.{i}.bias"] = rng.normal(size=(width, 1, 1))
        skip = dense(width, width)["weight"]
        found[f"{blocks}.fno_skips.{i}.conv.weight"] = skip
        found[f"{blocks}.channel_mlp_skips.{i}.weight"] = np.ones((1, width, 1, 1))
        mlps[f"{blocks}.channel_mlp.{i}"] = width, width // 2, width
    for name, (n_in, hidden, n_out) in mlps.items():
        for j, sizes in enumerate([(n_in, hidden), (hidden, n_out)]):
            for part, array in dense(*sizes).items():
                found[f"{name}.fcs.{j}.{part}"] = array
    return {
        name: a.astype(np.complex64 if np.iscomplexobj(a) else np.float32)
        for name, a in found.items()
    }


def build_ours(spec):
    """Returns the function of `(params, u)` and the parameters."""
    import jax
    import jax.numpy as jnp

    from jaxarch import operators as op

    with np.load(spec["weights"]) as file:
        params = op.fno_from_torch(dict(file))
    apply = jax.vmap(op.fno_apply, (None, 0))

    def forward(params, u):
        return Result(apply(params, u), jnp.zeros(()))

    def backward(params, u):
        def loss(params):
            out = apply(params, u)
            return jnp.sum(out**2), out

        gradient, out = jax.grad(loss, has_aux=True)(params)
        # All gradients are results, so that none is left out.
        rest = sum(jnp.sum(a) for a in jax.tree.leaves(gradient))
        return Result(out, gradient.lifting.weights[1] + 0 * rest)

    return backward if spec["backward"] else forward, (params,)


def compare(sides, repeats):
    """Times of both sides and how far they agree, for each width and pass."""
    cases = {}
    for width in CHANNELS:
        weights = sides.path(f"weights{width}.npz")
        np.savez(weights, **random_weights(width))
        u = np.random.default_rng(1).normal(size=(BATCH, POINTS, POINTS, 1))
        inputs = sides.save(f"u{width} ", [u.astype(np.float32)])
        for backward in (False, True):
            name = f"{width} channels, {'gradient' if backward else 'forward'}"
            spec = {"weights": weights, "width": width, "backward": backward}
            cases[name] = run_case(sides, name, spec, inputs, repeats)
    return cases


def run_case(sides, name, spec, inputs, repeats):
    entry = {"sides": {}, "gates": {}, "ratios": {}}
    for side in sides.workers:
        entry["sides"][side] = sides.setup(side, name, spec=spec, inputs=inputs)
    runs = [(name, s) for s, e in entry["sides"].items() if "error" not in e]
    samples = sides.repeat(runs, repeats)
    for run in runs:
        entry["sides"][run[1]].update(_harness.summaries(samples[run]))
    if len(runs) == 2:
        for clock in ("cpu_s", "wall_s"):
            ours, theirs = ([s[clock] for s in samples[name, k]] for k in (OURS, PEER))
            entry["ratios"][clock] = _harness.paired_ratio(ours, theirs)
        ours, theirs = (sides.values(k, name, inputs) for k in (OURS, PEER))
        for k in AGREEMENT if spec["backward"] else ("output",):
            gap = np.linalg.norm(ours[k] - theirs[k]) / np.linalg.norm(theirs[k])
            entry["sides"][PEER][f"{k} differs by"] = float(gap)
            entry["gates"][f"agrees in {k}"] = bool(gap <= AGREEMENT[k])
    sides.drop([s for _, s in runs])
    return entry


def scaling(sides, repeats):
    """Seconds a grid point of the forward pass, one example of 32 channels."""
    weights = sides.path(f"weights{CHANNELS[0]}.npz")
    found = {}
    for n in SIDES:
        u = np.random.default_rng(1).normal(size=(1, n, n, 1)).astype(np.float32)
        inputs, name = sides.save(f"scaling{n} ", [u]), f"{n} x {n}"
        spec = {"weights": weights, "width": CHANNELS[0], "backward": False}
        entry = sides.setup(OURS, name, spec=spec, inputs=inputs)
        samples = sides.repeat([(name, OURS)], repeats)[name, OURS]
        cpu = [s["cpu_s"] / n**2 for s in samples]
        found[name] = entry | {"cpu_s_per_point": _harness.summary(cpu)}
        sides.drop([OURS])
    return found


def print_report(report):
    """Prints the report as Markdown tables."""
    _script.print_machine(report["machine"])
    spread = _script.spread
    rows = [
        [name, side, spread(e["cpu_s"], 1e3), spread(e["wall_s"], 1e3)]
        + [_script.compile_seconds(e), _script.temp_megabytes(e)]
        for name, entry in report["cases"].items()
        for side, e in entry["sides"].items()
    ]
    header = ["case", "side", "CPU ms", "wall ms", "compile s", "temp MB"]
    _script.print_table(header, rows)
    for name, entry in report["cases"].items():
        if entry["ratios"]:
            ratio = spread(entry["ratios"]["cpu_s"], digits=2)
            print(f"\n{name}: ours over {PEER}, CPU time: {ratio}")
    print()
    rows = [
        [name, spread(e["cpu_s_per_point"], 1e9)]
        for name, e in report["scaling"].items()
    ]
    _script.print_table(["grid", "CPU ns a point"], rows)


def main():
    parser = _script.parser(__doc__, repeats=9)
    _script.add_sides(parser, ours=[OURS])
    args = parser.parse_args()
    if args.serve:
        _harness.serve(build_ours, packages=("jaxarch",), fields=Result._fields)
        return 0
    machine = _script.machine()
    os.environ.update(ALLOCATOR)  # of the processes that are started from here
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    started = {OURS: [sys.executable, __file__, "--serve", OURS]}
    python = args.peer_python or args.peers / "fno_neuralop" / "bin" / "python"
    if python.exists():
        started[PEER] = [python, _script.HERE / "peers" / "fno_neuralop.py"]
    else:
        _harness.progress(f"no peer: {python} is missing")
    report = _script.make_report("fno", machine, environment=ALLOCATOR)
    with _harness.Sides(started) as sides:
        report["sides"] = sides.info
        report["cases"] = compare(sides, args.repeats)
        report["scaling"] = scaling(sides, args.repeats)
    print_report(report)
    failed = _script.failed_gates(report["cases"])
    return _script.finish(report, args.output, failed)


if __name__ == "__main__":
    sys.exit(main())
