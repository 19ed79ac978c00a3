"""MgNO beside the authors' PyTorch code, and the cost by the size of the grid.

The case "darcy" is the paper's network for Darcy flow (four layers of width 24, six
grids, 572,661 parameters) on 64 by 64 points, four examples: forward, and the gradient
of the mean square by all parameters. PyTorch runs in both of its layouts, NCHW and
channels last, with the authors' own modules: `--official DIR` is a checkout of
https://github.com/xlliu2017/MgNO with its models.py. Both sides have the same weights
and one thread. The case "grid" is ours alone, 32 to 512 points a side, one example.

`README.md` in this folder says how to read the output.
"""

import os
import sys
from pathlib import Path

import _harness
import _script
import numpy as np
from nbfnet import ALLOCATOR

OURS, PEER = _script.OURS, "MgNO"
LAYOUTS = ("nchw", "channels_last")
TASKS = ("forward", "gradient")
LEVELS = ((1, 0),) * 5 + ((2, 0),)
WIDTH, LAYERS, SIZE, BATCH = 24, 4, 64, 4
GRID = (32, 64, 128, 256, 512)
AGREEMENT = 1e-4  # relative, of outputs and of the norms of gradients


def build_ours(spec):
    """Returns the function of `(params, u)` and the parameters."""
    import jax
    import jax.numpy as jnp

    from jaxarch import operators as op

    if spec.get("weights"):
        with np.load(spec["weights"]) as file:
            params = op.mgno_from_torch(dict(file))
    else:
        params = op.mgno_init(
            jax.random.key(0), 1, 1, width=WIDTH, num_layers=LAYERS, levels=LEVELS
        )
    apply = jax.vmap(op.mgno_apply, (None, 0))

    def loss(params, u):
        return jnp.mean(apply(params, u) ** 2)

    run = apply if spec["task"] == "forward" else jax.value_and_grad(loss)
    return run, (params,)


def fields(spec, result):
    """What the sides are compared by: the output, or the norms of all gradients."""
    if spec["task"] == "forward":
        return {"output": np.asarray(result)}
    import jax

    value, gradient = result
    others = [
        jax.tree.map(lambda a, i=i: a[i], gradient.others) for i in range(LAYERS - 1)
    ]
    leaves = jax.tree.leaves((gradient.first, others, gradient.projection))
    norms = sorted(float(np.linalg.norm(leaf)) for leaf in leaves)
    return {"output": np.asarray([float(value), *norms])}


def compare(sides, repeats):
    """Times of all sides, and how far they agree."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal((BATCH, SIZE, SIZE, 1)).astype(np.float32)
    inputs = sides.save("darcy", [u])
    entry = {"sides": {}, "gates": {}, "ratios": {}}
    spec = {"levels": LEVELS, "width": WIDTH, "layers": LAYERS}
    programs = []
    if PEER in sides.workers:
        spec["weights"] = sides.path("weights.npz")
        programs = [(f"{t} {v}", PEER) for t in TASKS for v in LAYOUTS]
    programs += [(task, OURS) for task in TASKS]
    for name, side in programs:
        task, _, layout = name.partition(" ")
        own = {**spec, "task": task, "layout": layout}
        entry["sides"][name] = sides.setup(side, name, spec=own, inputs=inputs)
    runs = [(n, side) for n, side in programs if "error" not in entry["sides"][n]]
    samples = sides.repeat(runs, repeats)
    for name, side in runs:
        entry["sides"][name].update(_harness.summaries(samples[name, side]))
    for task in TASKS:
        entry["gates"][f"{task} runs"] = (task, OURS) in runs
        found = [(n, s) for n, s in runs if s == PEER and n.startswith(task)]
        if not found or (task, OURS) not in runs:
            continue
        ours = sides.values(OURS, task, inputs)["output"]
        for name, side in found:
            theirs = sides.values(side, name, inputs)["output"]
            gap = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
            entry["sides"][name]["difference"] = gap
            entry["gates"][f"agrees with {name}"] = gap <= AGREEMENT
            entry["ratios"][f"{task} over {name.partition(' ')[2]}"] = {
                clock: _harness.paired_ratio(
                    [s[clock] for s in samples[task, OURS]],
                    [s[clock] for s in samples[name, side]],
                )
                for clock in ("cpu_s", "wall_s")
            }
    return entry


def grow(sides, repeats):
    """Times of ours on growing grids."""
    entry = {"sides": {}, "gates": {}}
    rng = np.random.default_rng(0)
    for n in GRID:
        u = rng.standard_normal((1, n, n, 1)).astype(np.float32)
        inputs = sides.save(f"grid{n}", [u])
        for task in TASKS:
            name = f"{task} {n}"
            spec = {"task": task}
            found = sides.setup(OURS, name, spec=spec, inputs=inputs)
            entry["sides"][name] = found
            if "error" not in found:
                samples = sides.repeat([(name, OURS)], repeats)
                found.update(_harness.summaries(samples[name, OURS]))
        sides.drop([OURS])
    entry["exponents"] = {}
    for task in TASKS:
        rows = [(n, entry["sides"][f"{task} {n}"]) for n in GRID]
        rows = [(n**2, found["cpu_s"]["min"]) for n, found in rows if "cpu_s" in found]
        entry["gates"][f"{task} runs"] = len(rows) == len(GRID)
        if len(rows) > 1:
            points, seconds = np.log(np.asarray(rows)).T
            slope = np.polyfit(points, seconds, 1)[0]
            entry["exponents"][task] = float(slope)
    return entry


def print_report(report):
    """Prints the report as Markdown tables."""
    _script.print_machine(report["machine"])
    spread = _script.spread
    for name, entry in report["cases"].items():
        rows = [
            [
                side,
                *(spread(found[clock], 1e3, 1) for clock in ("cpu_s", "wall_s")),
                _script.compile_seconds(found),
                _script.temp_megabytes(found),
            ]
            for side, found in entry["sides"].items()
            if "cpu_s" in found
        ]
        _script.print_table([name, "CPU ms", "wall ms", "compile s", "temp MB"], rows)
        for ratio, found in entry.get("ratios", {}).items():
            print(f"\nours, {ratio}, CPU time: {spread(found['cpu_s'], digits=2)}")
        for task, slope in entry.get("exponents", {}).items():
            print(f"\n{task}: time grows as points to the power {slope:.2f}")
        print()


def main():
    parser = _script.parser(__doc__, repeats=9)
    _script.add_cases(parser, ("darcy", "grid"))
    _script.add_sides(parser, ours=[OURS])
    parser.add_argument("--official", type=Path, help="the authors' code: a checkout")
    args = parser.parse_args()
    if args.serve:
        _harness.serve(build_ours, packages=("jaxarch",), fields=fields)
        return 0
    machine = _script.machine()
    os.environ.update(ALLOCATOR)  # of the processes that are started from here
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    started = {OURS: [sys.executable, __file__, "--serve", OURS]}
    python = args.peer_python or _script.peer_python(args, "torch_graph")
    if python.exists() and args.official:
        peer = _script.HERE / "peers" / "mgno_torch.py"
        started[PEER] = [python, peer, args.official]
    else:
        _harness.progress("no peer: it needs --official and an interpreter with torch")
    report = _script.make_report("mgno", machine, environment=ALLOCATOR, cases={})
    with _harness.Sides(started) as sides:
        report["sides"] = sides.info
        for case in args.cases or ("darcy", "grid"):
            run = {"darcy": compare, "grid": grow}[case]
            report["cases"][case] = run(sides, args.repeats)
    print_report(report)
    failed = _script.failed_gates(report["cases"])
    return _script.finish(report, args.output, failed)


if __name__ == "__main__":
    sys.exit(main())
