"""The relational sum of NBFNet beside PyTorch, and its cost in the number of edges.

`message_pass` (distmult, sum) with 8 queries of dimension 32 on the graph of WN18RR v1
(`--data DIR` with its train.txt: head, relation, tail), or without data a random graph
of its sizes; forward, and forward with all gradients. PyTorch has one thread and two
ways to reduce the messages. Processor time is compared, since other work on the machine
disturbs it least, and set against what moving the arrays once would take.
"""

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
WN18RR = ("forward", "backward")
SCALING = {f"edges_1e{n}": 10**n for n in (4, 5, 6, 7)}
PEER_LIMIT = 10**6  # the edges that fit in memory there too
AGREEMENT = 1e-5


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


def random_edges(num_nodes, num_relations, num_edges):
    rng = np.random.default_rng(0)
    ends = rng.integers(0, num_nodes, (2, num_edges), np.int32)
    return (*ends, rng.integers(0, num_relations, num_edges, np.int32))


def case_of(name, data):
    """Sizes, edges and the number of queries of a case."""
    if name in SCALING:
        sizes = dict(SIZES, num_nodes=SCALING[name] // 4, num_edges=SCALING[name])
        return sizes, random_edges(**sizes), 1
    sizes, edges = (SIZES, random_edges(**SIZES)) if data is None else data
    return sizes, edges, QUERIES


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


def run_case(name, sides, repeats, data, rate):
    """Times, agreement and bound of one case."""
    sizes, (senders, receivers, types), queries = case_of(name, data)
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
    backward = name != "forward"
    spec = {**sizes, "edges": edges, "backward": backward}
    programs = [(name, OURS, spec)]
    if PEER in sides.workers and sizes["num_edges"] <= PEER_LIMIT:
        for operation in OPERATIONS:
            made = f"{name} {operation}"
            programs.append((made, PEER, {**spec, "operation": operation}))
    entry = {"sizes": sizes, "width": width, "backward": backward, "sides": {}}
    done = []
    for program, side, own in programs:
        label = own.get("operation", OURS)
        found = sides.setup(side, program, spec=own, inputs=inputs)
        entry["sides"][label] = found
        if "error" not in found:
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
    """Prints the report as a Markdown table."""
    _script.print_machine(report["machine"])
    spread, rows = _script.spread, []
    for name, entry in report["cases"].items():
        for label, found in entry["sides"].items():
            edges = str(entry["sizes"]["num_edges"])
            if "cpu_s" not in found:
                rows.append([name, edges, label, "failed", "", "", "", "", ""])
                continue
            ratio = entry["ratios"].get(label)
            ours = label == OURS
            row = [name, edges, label, spread(found["cpu_s"], 1e3, 1)]
            row += [spread(found["wall_s"], 1e3, 1)]
            row += [spread(ratio, digits=2) if ratio else ""]
            row += [f"{entry['share_of_bound']:.2f}" if ours else ""]
            row += [_script.compile_seconds(found) if ours else ""]
            row += [_script.temp_megabytes(found)]
            rows.append(row)
    header = "case, edges, side, CPU ms, wall ms, CPU over ours, share of bound"
    _script.print_table([*header.split(", "), "compile s", "temp MB"], rows)


def parse(argv=None):
    parser = _script.parser(__doc__, repeats=9)
    _script.add_cases(parser, [*WN18RR, *SCALING])
    _script.add_sides(parser, ours=[OURS])
    parser.add_argument("--data", type=Path, help="a directory with train.txt")
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
    with _harness.Sides(commands(args)) as sides:
        cases = {
            name: run_case(name, sides, args.repeats, data, rate["median"])
            for name in args.cases
        }
    report = _script.make_report(
        "nbfnet",
        machine,
        data=None if args.data is None else args.data.name,
        copy_bytes_per_cpu_s=rate,
        sides=sides.info,
        cases=cases,
    )
    print_report(report)
    return _script.finish(report, args.output, _script.failed_gates(cases))


if __name__ == "__main__":
    sys.exit(main())
