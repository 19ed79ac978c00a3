"""DeepONet beside DeepXDE's on PyTorch: the same networks, the same numbers.

`small`: 150 functions at 100 shared points, networks 100-40-40 and 1-40-40. `pairs`:
10,000 pairs of a function and a point, the same networks. `large`: 1,000 functions at
10,000 shared points of the plane, networks 100-128-128-128 and 2-128-128-128. All with
ReLU, in float32; `forward` is the values, `both` adds the gradient of their mean square
in the parameters, as a training step needs it. The sides run in processes of their own
and take turns.

The exit status is 1 if our side fails or the sides disagree, in values or gradients, by
more than 1e-4 of the largest entry. A speed is not a gate.
"""

import itertools
import sys
from typing import Any, NamedTuple

import _harness
import _script
import numpy as np
from _script import OURS

DEEPXDE, AGREEMENT = "deepxde", 1e-4
SIZES = {
    "small": {
        "branch": (100, 40, 40),
        "trunk": (1, 40, 40),
        "functions": 150,
        "points": 100,
    },
    "pairs": {
        "branch": (100, 40, 40),
        "trunk": (1, 40, 40),
        "functions": 10_000,
        "points": None,
    },
    "large": {
        "branch": (100, 128, 128, 128),
        "trunk": (2, 128, 128, 128),
        "functions": 1000,
        "points": 10_000,
    },
}
CASES = {
    f"{name}-{'both' if backward else 'forward'}": size | {"backward": backward}
    for name, size in SIZES.items()
    for backward in (False, True)
}


class Result(NamedTuple):
    """The values, and the gradients in the parameters, in the order of the inputs."""

    values: Any
    gradients: Any


def build_ours(spec):
    """Jaxarch's program of `spec` as `(function, leading arguments)`."""
    import jax
    import jax.numpy as jnp

    from jaxarch import operators as ops

    sizes = spec["branch"], spec["trunk"]
    shapes = jax.eval_shape(
        lambda key: ops.deeponet_init(key, *sizes), jax.random.key(0)
    )
    tree = jax.tree.structure(shapes)
    aligned = spec["points"] is not None
    apply = jax.vmap(ops.deeponet_apply, (None, 0, None if aligned else 0))

    def values(params, u, y):
        if aligned:
            return apply(params, u, y)
        return apply(params, u, y[:, None])[:, 0]

    def loss(params, u, y):
        found = values(params, u, y)
        return jnp.mean(found**2), found

    def run(*arrays):
        *leaves, u, y = arrays
        params = jax.tree.unflatten(tree, leaves)
        if not spec["backward"]:
            return Result(values(params, u, y), [])
        gradient, found = jax.grad(loss, has_aux=True)(params, u, y)
        return Result(found, jax.tree.leaves(gradient))

    return run, ()


def make_inputs(spec, rng):
    """Parameters in our order, each network's weights before its biases; data."""
    arrays = []
    for sizes in (spec["branch"], spec["trunk"]):
        pairs = list(itertools.pairwise(sizes))
        arrays += [rng.normal(size=(n, m)) * np.sqrt(2 / m) for m, n in pairs]
        arrays += [0.1 * rng.normal(size=n) for _, n in pairs]
    points = spec["points"] or spec["functions"]
    arrays += [
        np.asarray(0.1),
        rng.normal(size=(spec["functions"], spec["branch"][0])),
        rng.uniform(size=(points, spec["trunk"][0])),
    ]
    return [a.astype(np.float32) for a in arrays]


def gap(a, b):
    """The largest difference relative to the largest entry."""
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def run_case(name, sides, repeats):
    """Times, ratios and gates of one case."""
    spec = CASES[name]
    paths = sides.save(name, make_inputs(spec, np.random.default_rng(0)))
    entry = {"spec": spec, "dtype": "float32", "sides": {}, "gates": {}}
    for side in sides.workers:
        entry["sides"][side] = sides.setup(side, name, spec=spec, inputs=paths)
    done = [s for s in sides.workers if "error" not in entry["sides"][s]]
    samples = sides.repeat([(name, side) for side in done], repeats)
    for side in done:
        entry["sides"][side].update(_harness.summaries(samples[name, side]))
    entry["gates"]["runs"] = OURS in done
    if len(done) == 2:
        for kind in ("wall_s", "cpu_s"):
            ours, theirs = ([s[kind] for s in samples[name, side]] for side in done)
            entry[f"ratio_{kind}"] = _harness.paired_ratio(ours, theirs)
        ours, theirs = (sides.values(side, name, paths) for side in done)
        gaps = {key: gap(ours[key], theirs[key]) for key in ours}
        entry["differences"] = gaps
        entry["gates"]["agrees"] = max(gaps.values()) <= AGREEMENT
    sides.drop(done)
    return entry


def fields(spec, result):
    """The arrays of a result by name."""
    found = {f"gradient {i}": np.asarray(g) for i, g in enumerate(result.gradients)}
    return found | {"values": np.asarray(result.values)}


def print_report(report):
    """Prints the report as a Markdown table."""
    _script.print_machine(report["machine"])
    rows = []
    for name, entry in report["cases"].items():
        for side, found in entry["sides"].items():
            if "wall_s" not in found:
                rows.append([name, side, "failed", *[""] * 4])
                continue
            row = [name, side]
            row += [_script.spread(found[k], 1e3, 2) for k in ("wall_s", "cpu_s")]
            for kind in ("ratio_wall_s", "ratio_cpu_s"):
                own = side == OURS and kind in entry
                row.append(_script.spread(entry[kind], digits=2) if own else "")
            rows.append([*row, _script.compile_seconds(found)])
    header = "case, side, wall ms, cpu ms, ours / theirs wall, ours / theirs cpu"
    _script.print_table([*header.split(", "), "compile s"], rows)


def main():
    parser = _script.parser(__doc__, repeats=15)
    _script.add_cases(parser, CASES)
    _script.add_sides(parser, ours=[OURS])
    args = parser.parse_args()
    if args.serve:
        _harness.serve(build_ours, packages=("jaxarch",), fields=fields)
        return 0
    machine = _script.machine()
    started = {OURS: [sys.executable, __file__, "--serve", OURS]}
    python = args.peer_python or _script.peer_python(args, "deepxde")
    if python.exists():
        started[DEEPXDE] = [python, _script.HERE / "peers" / "deepxde_torch.py"]
    with _harness.Sides(started) as sides:
        sides.limits([OURS])
        cases = {name: run_case(name, sides, args.repeats) for name in args.cases}
        sides.limits([OURS])
    report = _script.make_report("deeponet", machine, sides=sides.info, cases=cases)
    print_report(report)
    return _script.finish(report, args.output, _script.failed_gates(cases))


if __name__ == "__main__":
    sys.exit(main())
