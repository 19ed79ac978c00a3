"""Pivotal attention and the FloydNet block: jaxarch beside PyTorch, on the CPU.

Attention on the pairs of n nodes, and one block, forward and forward with backward, in
float32: all pivots at once (`direct`), 32 at a time (`blocks`), and the authors'
einsums in PyTorch. The sides run in processes of their own and take turns.

The exit status is 1 if a gate fails: an attention error of ours above 1e-5 of the
largest output, against NumPy in float64; or a disagreement with PyTorch, in outputs or
in the gradient of the first input, of more than 1e-4 of the largest entry. A speed is
not a gate, and memory is reported: ours is XLA's figure of temporaries, PyTorch's the
growth of its peak resident memory in a call, too small where it uses memory again that
an earlier call has freed.
"""

import math
import sys
from typing import Any, NamedTuple

import _harness
import _script
import numpy as np
from _script import OURS

TORCH = "torch"
TOLERANCE, AGREEMENT = 1e-5, 1e-4
BLOCK_SIZE = 32
SIZES = {
    "attention-64": {"kind": "attention", "n": 64, "channels": 384, "heads": 6},
    "attention-128": {"kind": "attention", "n": 128, "channels": 384, "heads": 6},
    "attention-128-narrow": {"kind": "attention", "n": 128, "channels": 64, "heads": 8},
    "block-64": {"kind": "block", "n": 64, "channels": 384, "heads": 6},
}
CASES = {
    f"{name}-{'both' if backward else 'forward'}": size | {"backward": backward}
    for name, size in SIZES.items()
    for backward in (False, True)
}


class Result(NamedTuple):
    """The output, the gradient of the first input, and those of the others."""

    y: Any
    gradient: Any
    others: Any = ()


def build_ours(spec):
    """Jaxarch's program of `spec` as `(function, leading arguments)`."""
    import jax

    from jaxarch import graph

    size = spec["block_size"]

    def attention(q, k_jk, k_ij, v_jk, v_ij):
        return graph.pivotal_attention(q, (k_jk, k_ij), (v_jk, v_ij), block_size=size)

    def block(x, mix, qkv, project, expand, contract):
        params = graph.FloydBlockParams(
            mix=mix,
            mix_bias=None,
            qkv=qkv,
            qkv_bias=None,
            project=project,
            project_bias=None,
            expand=expand,
            expand_bias=None,
            contract=contract,
            contract_bias=None,
            contract_scale=jax.numpy.ones(()),
            norm_scales=(None, None),
            norm_biases=(None, None),
            norm="none",
            norm_position="pre",
        )
        return graph.floyd_block_apply(params, x, block_size=size)

    function = {"attention": attention, "block": block}[spec["kind"]]

    def run(*arrays):
        *arrays, cotangent = arrays
        if not spec["backward"]:
            return Result(function(*arrays), jax.numpy.zeros(0))
        y, back = jax.vjp(function, *arrays)
        gradient, *others = back(cotangent)
        return Result(y, gradient, others)

    return run, ()


def make_inputs(spec, rng):
    """Arrays that both sides take, the cotangent of the output last."""
    n, c, heads = spec["n"], spec["channels"], spec["heads"]
    dim = c // heads
    if spec["kind"] == "attention":
        shapes, scales = [(n, n, heads, dim)] * 6, [1.0] * 6
    else:
        shapes = [(n, n, c), (c, c), (5, heads, dim, c), (c, heads, dim)]
        shapes += [(4 * c, c), (c, 4 * c), (n, n, c)]
        scales = [1.0, *[1 / math.sqrt(c)] * 4, 1 / math.sqrt(4 * c), 1.0]
    return [
        (scale * rng.standard_normal(shape)).astype(np.float32)
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def reference(q, k_jk, k_ij, v_jk, v_ij, rows):
    """Rows of pivotal attention in float64."""
    q, k_ij, v_ij = (a[:rows].astype(np.float64) for a in (q, k_ij, v_ij))
    k_jk, v_jk = (a.astype(np.float64) for a in (k_jk, v_jk))
    s = np.einsum("ikhd,ijhd->hikj", q, k_ij, optimize=True)
    s += np.einsum("ikhd,jkhd->hikj", q, k_jk, optimize=True)
    s /= math.sqrt(2 * q.shape[-1])
    a = np.exp(s - s.max(-1, keepdims=True))
    a /= a.sum(-1, keepdims=True)
    y = np.einsum("hikj,ijhd->ikhd", a, v_ij, optimize=True)
    return y + np.einsum("hikj,jkhd->ikhd", a, v_jk, optimize=True)


def gap(a, b):
    """Largest difference relative to the largest entry."""
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def run_case(name, sides, repeats):
    """Times, memory, errors and gates of one case."""
    spec = CASES[name]
    inputs = make_inputs(spec, np.random.default_rng(0))
    paths = sides.save(name, inputs)
    programs = {"direct": (OURS, None), "blocks": (OURS, BLOCK_SIZE)}
    if TORCH in sides.workers:
        programs[TORCH] = TORCH, None
    entry = {"spec": spec, "dtype": "float32", "sides": {}}
    for program, (side, size) in programs.items():
        request = {"spec": spec | {"block_size": size}, "inputs": paths}
        entry["sides"][program] = sides.setup(side, program, **request)
    done = [p for p in programs if "error" not in entry["sides"][p]]
    samples = sides.repeat([(p, programs[p][0]) for p in done], repeats)
    values, taken = {}, {}
    for program in done:
        side = programs[program][0]
        taken[program] = samples[program, side]
        entry["sides"][program].update(_harness.summaries(taken[program]))
        values[program] = sides.values(side, program, paths)
    sides.drop(list(sides.workers))
    gates = {"runs": {"direct", "blocks"} <= set(done)}
    if spec["kind"] == "attention":
        rows = 4
        want = reference(*inputs[:5], rows)
        for program in done:
            error = gap(values[program]["y"][:rows], want)
            entry["sides"][program]["error"] = error
            if program != TORCH:
                gates[f"{program} is accurate"] = error <= TOLERANCE
    if TORCH in done:
        fields = ("y", "gradient") if spec["backward"] else ("y",)
        for program in set(done) - {TORCH}:
            found = entry["sides"][program]
            for kind in ("wall_s", "cpu_s"):
                theirs, ours = ([s[kind] for s in taken[p]] for p in (TORCH, program))
                found[f"ratio_{kind}"] = _harness.paired_ratio(theirs, ours)
            gaps = [gap(values[program][f], values[TORCH][f]) for f in fields]
            found["difference"] = max(gaps)
            gates[f"{program} agrees"] = max(gaps) <= AGREEMENT
    entry["gates"] = gates
    return entry


def print_report(report):
    """Prints the report as a Markdown table."""
    rows = []
    _script.print_machine(report["machine"])
    for name, entry in report["cases"].items():
        for program, found in entry["sides"].items():
            if "wall_s" not in found:
                rows.append([name, program, "failed", *[""] * 5])
                continue
            row = [name, program]
            row += [_script.spread(found[kind], 1e3) for kind in ("wall_s", "cpu_s")]
            for kind in ("ratio_wall_s", "ratio_cpu_s"):
                row += [_script.spread(found[kind], digits=2) if kind in found else ""]
            row += [_script.temp_megabytes(found)]
            error = found.get("error", found.get("difference"))
            rows.append([*row, "" if error is None else f"{error:.1e}"])
    header = "case, side, wall ms, cpu ms, torch / ours wall, torch / ours cpu, "
    _script.print_table((header + "memory MB, error").split(", "), rows)


def parse(argv=None):
    parser = _script.parser(__doc__, repeats=7)
    _script.add_cases(parser, CASES)
    _script.add_sides(parser, ours=[OURS])
    return parser.parse_args(argv)


def commands(args):
    """How the sides are started."""
    sides = {OURS: [sys.executable, __file__, "--serve", OURS]}
    requirements = _script.HERE / "peers" / "torch_cpu.txt"
    python = args.peer_python
    if python is None:
        directory = args.peers / requirements.stem
        if args.setup_peers:
            _harness.progress(f"the peer's environment: {directory}")
            _script.make_environment(directory, requirements)
        python = directory / "bin" / "python"
    if python.exists():
        sides[TORCH] = [python, _script.HERE / "peers" / "torch_floydnet.py"]
    else:
        _harness.progress(f"no peer: {python} is missing (--setup-peers builds it)")
    return sides


def main():
    args = parse()
    if args.serve:
        _harness.serve(build_ours, packages=("jaxarch",), fields=("y", "gradient"))
        return 0
    machine = _script.machine()
    with _harness.Sides(commands(args)) as sides:
        cases = {name: run_case(name, sides, args.repeats) for name in args.cases}
    report = _script.make_report("floydnet", machine, sides=sides.info, cases=cases)
    print_report(report)
    return _script.finish(report, args.output, _script.failed_gates(cases))


if __name__ == "__main__":
    sys.exit(main())
