"""The relational sum of NBFNet beside PyTorch, and its cost in the number of edges.

- `sum`: `message_pass` (distmult, sum) with 8 queries of dimension 32 on the graph of
  WN18RR v1 (`--data DIR` with its train.txt: head, relation, tail), or without data on
  a random graph of its sizes; forward, and forward with all gradients. PyTorch has one
  thread and two ways to reduce the messages. Processor time is compared, since other
  work on the machine disturbs it least, and set against what moving the arrays once
  would take.
- `edges`: random graphs of 10^4 to 10^7 edges with as many edges a node, one query;
  each in a fresh process, with the memory that it took.
- `local`: the same where an edge comes from one of the nodes next to its receiver in
  memory, so that caches serve all sizes alike.

`README.md` in this folder says how to read the output.
"""

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import _harness
import _script
import numpy as np

OURS, PEER = _script.OURS, "torch"
DIM, QUERIES = 32, 8
SIZES = {"num_nodes": 2746, "num_relations": 18, "num_edges": 10820}
OPERATIONS = ("index_add", "segment_reduce")
CASES = ("sum", "edges", "local")
PASSES = {"forward": False, "backward": True}
NEAR = 1000  # nodes, in `local`
EDGES = (10**4, 10**5, 10**6, 10**7)
PEER_LIMIT = 10**6  # the edges whose messages fit in memory there too
# Keep freed memory: what the C library returns costs page faults at the next call.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4294967296"
    ":glibc.malloc.trim_threshold=17179869184"
}
AGREEMENT = 1e-5


class Problem(NamedTuple):
    """A graph, how many queries there are, and what the peer reduces messages by."""

    sizes: dict
    edges: tuple
    queries: int
    operations: tuple


class Result(NamedTuple):
    """What a run gives."""

    out: Any
    of_x: Any = 0
    of_relations: Any = 0


def build_ours(spec):
    """Returns the function of `(graph, x, relations, cotangent)` and the graph."""
    import jax

    from jaxarch.graph import Graph, message_pass

    edges = {name: np.load(path) for name, path in spec["edges"].items()}
    graph = Graph.from_edges(
        edges["senders"],
        edges["receivers"],
        num_nodes=spec["num_nodes"],
        edge_types=edges["types"],
        num_relations=spec["num_relations"],
    )

    def forward(graph, x, relations):
        nothing = jax.numpy.zeros_like(x)
        return message_pass(
            graph, x, relations, nothing, message="distmult", aggregate="sum"
        )

    def run(graph, x, relations, cotangent):
        if not spec["backward"]:
            return Result(forward(graph, x, relations))
        out, pull = jax.vjp(lambda x, r: forward(graph, x, r), x, relations)
        return Result(out, *pull(cotangent))

    return run, (graph,)


# --- the graphs -------------------------------------------------------------------


def read_triples(directory):
    """The facts of train.txt and their inverses, as sizes and edges."""
    nodes, relations, rows = {}, {}, []
    for line in (directory / "train.txt").read_text().splitlines():
        head, relation, tail = line.split("\t")
        h, t = (nodes.setdefault(name, len(nodes)) for name in (head, tail))
        rows.append((h, t, relations.setdefault(relation, len(relations))))
    h, t, r = np.array(rows, np.int32).T
    edges = np.append(h, t), np.append(t, h), np.append(r, r + len(relations))
    sizes = (len(nodes), 2 * len(relations), 2 * len(rows))
    return dict(zip(SIZES, sizes, strict=True)), edges


def random_edges(num_nodes, num_relations, num_edges, *, near=None):
    rng = np.random.default_rng(0)
    ends = rng.integers(0, num_nodes, (2, num_edges), np.int32)
    if near is not None:
        ends[0] = (ends[1] + ends[0] % near) % num_nodes
    return (*ends, rng.integers(0, num_relations, num_edges, np.int32))


# --- running ----------------------------------------------------------------------


def copy_rate(repeats=9):
    """Bytes read and written in a processor second by a copy in one thread."""
    source, target = np.ones(2**26, np.uint8), np.empty(2**26, np.uint8)
    np.copyto(target, source)
    rates = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(4):
            np.copyto(target, source)
        rates.append(8 * source.nbytes / (time.process_time() - start))
    return _harness.summary(rates)


def bound_bytes(sizes, width, *, backward):
    """What must move: each edge's row once a pass, each node's state in and out."""
    nodes, edges = sizes["num_nodes"], sizes["num_edges"]
    rows = edges + nodes + backward * (edges + 2 * nodes)
    return 4 * width * rows


def run_sum(sides, repeats, data, rate):
    """Both passes on one graph, beside both operations of the peer."""
    sizes, edges = (SIZES, random_edges(**SIZES)) if data is None else data
    graph = Problem(sizes, edges, QUERIES, OPERATIONS)
    return {k: run_case(k, graph, sides, repeats, rate) for k in PASSES}


def run_edges(started, repeats, rate, near=None):
    """Both passes of random graphs, each in a fresh process of each side."""
    found = {}
    for num_edges in EDGES:
        num_nodes = round(num_edges * SIZES["num_nodes"] / SIZES["num_edges"])
        sizes = {**SIZES, "num_nodes": num_nodes, "num_edges": num_edges}
        edges = random_edges(**sizes, near=near)
        graph = Problem(sizes, edges, 1, OPERATIONS[:1])
        for kind in PASSES:
            with _harness.Sides(wanted_sides(started, num_edges)) as sides:
                entry = run_case(kind, graph, sides, repeats, rate)
            found[f"{num_edges:.0e} {kind}"] = entry
    return found


def wanted_sides(started, num_edges):
    """The sides that have room for the messages."""
    return {s: c for s, c in started.items() if s == OURS or num_edges <= PEER_LIMIT}


def slopes(entries):
    """Of the logarithm of processor time in that of edges, a pass: 1 is linear."""
    found = {}
    for kind in PASSES:
        points = [
            (e["sizes"]["num_edges"], e["sides"][OURS]["cpu_s"]["median"])
            for e in entries.values()
            if e["kind"] == kind and "cpu_s" in e["sides"][OURS]
        ]
        if len(points) > 1:
            x, y = np.log(points).T
            found[kind] = statistics.linear_regression(x, y).slope
    return found


def run_case(kind, graph, sides, repeats, rate):
    """Times, memory, agreement and bound of one pass over one graph."""
    sizes, (senders, receivers, types), queries, operations = graph
    name, backward = f"{sizes['num_edges']} edges, {kind}", PASSES[kind]
    order = np.argsort(receivers, kind="stable")
    columns = {"senders": senders, "receivers": receivers, "types": types}
    paths = sides.save(f"{name} edges ", [a[order] for a in columns.values()])
    edges = dict(zip(columns, paths, strict=True))
    rng = np.random.default_rng(1)
    width = queries * DIM
    rows = (sizes["num_nodes"], sizes["num_relations"], sizes["num_nodes"])
    arrays = [rng.standard_normal((n, width), np.float32) for n in rows]
    inputs = sides.save(name, arrays)
    del arrays
    spec = {**sizes, "edges": edges, "backward": backward}
    programs = [(name, OURS, spec)]
    if PEER in sides.workers:
        for operation in operations:
            made = f"{name} {operation}"
            programs.append((made, PEER, {**spec, "operation": operation}))
    entry = {"kind": kind, "sizes": sizes, "width": width, "sides": {}}
    before = {s: worker.ask("peak") for s, worker in sides.workers.items()}
    done = []
    for program, side, own in programs:
        label = own.get("operation", OURS)
        found = sides.setup(side, program, spec=own, inputs=inputs)
        entry["sides"][label] = found
        if "error" not in found:
            after = sides.workers[side].ask("peak")["peak_bytes"]
            found["peak_bytes"] = after - before[side]["peak_bytes"]
            done.append((program, side, label))
    samples = sides.repeat([(program, side) for program, side, _ in done], repeats)
    fields = ("out", "of_x", "of_relations") if backward else ("out",)
    cpu, values = {}, {}
    for program, side, label in done:
        taken = samples[program, side]
        cpu[label] = [s["cpu_s"] for s in taken]
        entry["sides"][label].update(_harness.summaries(taken))
        if len(done) > 1:
            values[label] = sides.values(side, program, inputs)
    sides.drop(sides.workers)
    entry["gates"] = {"runs": OURS in cpu}
    if OURS in cpu:
        bound = bound_bytes(sizes, width, backward=backward) / rate
        entry["bound_s"] = bound
        entry["share_of_bound"] = bound / entry["sides"][OURS]["cpu_s"]["median"]
    entry["ratios"] = {
        label: _harness.paired_ratio(taken, cpu[OURS])
        for label, taken in cpu.items()
        if label != OURS and OURS in cpu
    }
    for label in entry["ratios"]:
        gap = max(
            float(np.max(np.abs(values[OURS][k] - values[label][k])))
            / float(np.max(np.abs(values[label][k])))
            for k in fields
        )
        entry["sides"][label]["difference"] = gap
        entry["gates"][f"agrees with {label}"] = gap <= AGREEMENT
    return entry


def print_report(report):
    """Prints the report as Markdown tables."""
    _script.print_machine(report["machine"])
    for case in CASES:
        if case in report:
            print_entries(report[case], memory=case != "sum")
    for case, slope in report["slopes"].items():
        found = ", ".join(f"{k} {v:.2f}" for k, v in slope.items())
        print(f"{case}: exponent of processor time in the edges: {found}\n")


def print_entries(entries, *, memory):
    spread, rows = _script.spread, []
    for entry in entries.values():
        for label, found in entry["sides"].items():
            edges = entry["sizes"]["num_edges"]
            row = [entry["kind"], str(edges), label]
            if "cpu_s" not in found:
                rows.append([*row, "failed", *[""] * 6])
                continue
            ratio, ours = entry["ratios"].get(label), label == OURS
            digits = 1 if found["cpu_s"]["median"] < 0.1 else 0
            row += [spread(found[clock], 1e3, digits) for clock in ("cpu_s", "wall_s")]
            row += [f"{found['cpu_s']['median'] / edges * 1e9:.0f}"]
            row += [spread(ratio, digits=2) if ratio else ""]
            row += [f"{entry['share_of_bound']:.2f}" if ours else ""]
            row += [_script.temp_megabytes(found)]
            row += [f"{found['peak_bytes'] / 1e6:.0f}" if memory else ""]
            rows.append(row)
    header = "pass, edges, side, CPU ms, wall ms, CPU ns an edge, CPU over ours, "
    header += "share of bound, temp MB, peak MB"
    _script.print_table(header.split(", "), rows)
    print()


def parse(argv=None):
    parser = _script.parser(__doc__, repeats=15)
    _script.add_cases(parser, CASES)
    _script.add_sides(parser, ours=[OURS])
    parser.add_argument("--data", type=Path, help="a directory with train.txt")
    parser.add_argument(
        "--default-allocator",
        action="store_true",
        help="leave it to the C library whether freed memory goes back to the system",
    )
    return parser.parse_args(argv)


def commands(args):
    """How each side is started."""
    sides = {OURS: [sys.executable, __file__, "--serve", OURS]}
    peers = _script.HERE / "peers"
    python = args.peer_python
    if python is None:
        directory = args.peers / "torch_graph"
        if args.setup_peers:
            _script.make_environment(directory, peers / "torch_graph.txt")
        python = directory / "bin" / "python"
    if python.exists():
        sides[PEER] = [python, peers / "nbfnet_torch.py"]
    else:
        _harness.progress(f"no peer: {python} is missing (--setup-peers builds it)")
    return sides


def main():
    args = parse()
    if args.serve:
        _harness.serve(build_ours, packages=("jaxarch",), fields=Result._fields)
        return 0
    machine = _script.machine()
    rate = copy_rate()
    data = None if args.data is None else read_triples(args.data)
    if not args.default_allocator:
        os.environ.update(ALLOCATOR)  # of the processes that are started from here
    report = _script.make_report(
        "nbfnet",
        machine,
        data=None if args.data is None else args.data.name,
        environment={} if args.default_allocator else ALLOCATOR,
        copy_bytes_per_cpu_s=rate,
    )
    started, failed = commands(args), []
    if "sum" in args.cases:
        with _harness.Sides(started) as sides:
            report["sides"] = sides.info
            report["sum"] = run_sum(sides, args.repeats, data, rate["median"])
    report["slopes"] = {}
    for case, near in {"edges": None, "local": NEAR}.items():
        if case in args.cases:
            repeats = min(5, args.repeats)
            report[case] = run_edges(started, repeats, rate["median"], near)
            report["slopes"][case] = slopes(report[case])
    print_report(report)
    for case in CASES:
        failed += _script.failed_gates(report.get(case, {}))
    return _script.finish(report, args.output, failed)


if __name__ == "__main__":
    sys.exit(main())
