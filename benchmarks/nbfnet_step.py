"""A training step of NBFNet beside PyTorch.

Six layers with PNA, layer normalisation and shortcuts, 32 features, 8 queries with 33
candidates each, the self-adversarial loss and Adam, on the graph of WN18RR v1
(`--data DIR` with its train.txt), or without data on a random graph of its sizes: from
parameters to parameters, without the removal of edges. Each side has one thread, and
processor time is compared. PyTorch has the fastest of its public operations and two
ways to apply the matrix of a layer: to all twelve statistics and scales of a feature,
as the authors' code does ("whole"), or to the four statistics, scaled afterwards, as
ours does ("split"). All take the same step: losses and gradients agree.

`README.md` in this folder says how to read the output.
"""

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import _harness
import _script
import numpy as np
from nbfnet import ALLOCATOR, DIM, PEER, QUERIES, SIZES, random_edges, read_triples

OURS = _script.OURS
CANDIDATES, LAYERS, RATE = 33, 6, 5e-3
OPERATIONS = ("split", "whole")
AGREEMENT = {"loss": 1e-5, "gradient": 3e-2}  # relative


class Result(NamedTuple):
    """What a step gives: its loss, and the gradient and new value of a matrix."""

    loss: Any
    gradient: Any
    weight: Any


def build_ours(spec):
    """Returns the function of `(graph, *leaves, heads, asked, tails)` and the graph."""
    import jax
    import optax

    from jaxarch import graph as gr

    edges = {name: np.load(path) for name, path in spec["edges"].items()}
    graph = gr.Graph.from_edges(
        edges["senders"],
        edges["receivers"],
        num_nodes=spec["num_nodes"],
        edge_types=edges["types"],
        num_relations=spec["num_relations"],
    )
    tree = jax.tree.structure(jax.eval_shape(lambda: initial(spec["num_relations"])))
    optimizer = optax.adam(spec["rate"])

    def run(graph, *arrays):
        *leaves, heads, asked, tails = arrays
        params = jax.tree.unflatten(tree, leaves)

        def loss(params):
            scores = gr.nbfnet_apply(params, graph, heads, asked, tails=tails)
            return gr.self_adversarial_loss(scores[:, 0], scores[:, 1:])

        value, gradient = jax.value_and_grad(loss)(params)
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        new = optax.apply_updates(params, updates)
        return Result(value, gradient.weight, new.weight)

    return run, (graph,)


def initial(num_relations):
    """The parameters that both sides start from."""
    import jax

    from jaxarch import graph as gr

    key = jax.random.key(0)
    return gr.nbfnet_init(key, num_relations, DIM, num_layers=LAYERS, dependent=False)


def compare(sides, repeats, data):
    """Times of both sides, and how far their steps agree."""
    import jax

    sizes, columns = (SIZES, random_edges(**SIZES)) if data is None else data
    order = np.argsort(columns[1], kind="stable")
    names = ("senders", "receivers", "types")
    paths = sides.save("edges ", [a[order] for a in columns])
    spec = {**sizes, "edges": dict(zip(names, paths, strict=True)), "rate": RATE}
    rng = np.random.default_rng(1)
    batch = [
        rng.integers(0, n, shape, np.int32)
        for n, shape in (
            (sizes["num_nodes"], QUERIES),
            (sizes["num_relations"], QUERIES),
            (sizes["num_nodes"], (QUERIES, CANDIDATES)),
        )
    ]
    leaves = [np.asarray(a) for a in jax.tree.leaves(initial(sizes["num_relations"]))]
    inputs = sides.save("step", [*leaves, *batch])
    entry = {"sizes": sizes, "sides": {}, "gates": {}, "ratios": {}}
    programs = [("ours", OURS)]
    if PEER in sides.workers:
        programs += [(operation, PEER) for operation in OPERATIONS]
    for name, side in programs:
        own = {**spec, "operation": name}
        entry["sides"][name] = sides.setup(side, name, spec=own, inputs=inputs)
    runs = [(n, side) for n, side in programs if "error" not in entry["sides"][n]]
    samples = sides.repeat(runs, repeats)
    cpu = {name: [s["cpu_s"] for s in samples[name, side]] for name, side in runs}
    for name, side in runs:
        entry["sides"][name].update(_harness.summaries(samples[name, side]))
    entry["gates"]["runs"] = "ours" in cpu
    if "ours" not in cpu:
        return entry
    ours = sides.values(OURS, "ours", inputs)
    for name in set(OPERATIONS) & set(cpu):
        ratio = _harness.paired_ratio(cpu["ours"], cpu[name])
        entry["ratios"][f"ours over {name}"] = ratio
        # Messages of 0 from nodes that no walk has reached tie for the extrema, and
        # PyTorch shares their gradient in another way: the sides differ there.
        theirs = sides.values(PEER, name, inputs)
        gaps = {
            k: float(np.linalg.norm(ours[k] - theirs[k]) / np.linalg.norm(theirs[k]))
            for k in AGREEMENT
        }
        entry["sides"][name]["differences"] = gaps
        agrees = all(gaps[k] <= bound for k, bound in AGREEMENT.items())
        entry["gates"][f"agrees with {name}"] = agrees
    return entry


def print_report(report):
    """Prints the report as a Markdown table."""
    _script.print_machine(report["machine"])
    entry, spread = report["step"], _script.spread
    rows = [
        [
            side,
            *(spread(found[clock], 1e3, 0) for clock in ("cpu_s", "wall_s")),
            _script.compile_seconds(found),
            _script.temp_megabytes(found),
        ]
        for side, found in entry["sides"].items()
        if "cpu_s" in found
    ]
    header = ["step", "CPU ms", "wall ms", "compile s", "temp MB"]
    _script.print_table(header, rows)
    for name, ratio in entry["ratios"].items():
        print(f"\n{name}, CPU time: {spread(ratio, digits=2)}")


def main():
    parser = _script.parser(__doc__, repeats=9)
    _script.add_sides(parser, ours=[OURS])
    parser.add_argument("--data", type=Path, help="a directory with train.txt")
    args = parser.parse_args()
    if args.serve:
        _harness.serve(build_ours, packages=("jaxarch",), fields=Result._fields)
        return 0
    machine = _script.machine()
    data = None if args.data is None else read_triples(args.data)
    os.environ.update(ALLOCATOR)  # of the processes that are started from here
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    started = {OURS: [sys.executable, __file__, "--serve", OURS]}
    python = args.peer_python or args.peers / "torch_graph" / "bin" / "python"
    if python.exists():
        started[PEER] = [python, _script.HERE / "peers" / "nbfnet_step_torch.py"]
    else:
        _harness.progress(f"no peer: {python} is missing (nbfnet.py --setup-peers)")
    report = _script.make_report(
        "nbfnet_step",
        machine,
        data=None if args.data is None else args.data.name,
        environment=ALLOCATOR,
    )
    with _harness.Sides(started) as sides:
        report["sides"] = sides.info
        report["step"] = compare(sides, args.repeats, data)
    print_report(report)
    failed = _script.failed_gates({"step": report["step"]})
    return _script.finish(report, args.output, failed)


if __name__ == "__main__":
    sys.exit(main())
