"""Empirical NTK of finite networks: jaxarch beside neural-tangents 0.6.5.

Every method of both sides runs on the same function, parameters and float32 inputs, in
processes that take turns. Reported: seconds to trace and compile, steady seconds a
call, temporary memory, the error against gradients in float64 on some pairs, the ratio
of each program to our `auto`, and how near `auto` comes to the best of our methods.
`README.md` in this folder says how to read the output.

The exit status is 1 if a gate fails: an error above 1e-5 of the geometric mean of the
diagonal, or an `auto` slower than 1.5 times the fastest method. A speed is not a gate.
"""

import dataclasses
import statistics
import sys

import _harness
import _networks
import _script
import numpy as np
from _script import OURS, PEER

METHODS = ("auto", "structured", "jacobian", "vector_products")
TOLERANCE, SLACK = 1e-5, 1.5
CHECKED = 6  # examples a side that are compared with float64 gradients


@dataclasses.dataclass(frozen=True)
class Case:
    """One network, and the methods that take no minutes on it."""

    name: str
    network: dict
    points: int = 128
    trace_outputs: bool = True
    methods: tuple = METHODS
    peer_methods: tuple = ("jacobian_contraction", "ntk_vector_products")


def _mlp(outputs):
    return {"kind": "mlp", "input": [784], "hidden": [512, 512], "outputs": outputs}


_LIGHT = ("auto", "structured")
_CONV = {"kind": "conv", "input": [16, 16, 3], "hidden": [16, 32, 32], "outputs": 4}
_TABLE = {"kind": "embedding", "input": [16], "rows": 2000, "hidden": [32]}
_RNN = {"kind": "rnn", "input": [12, 8], "hidden": [32], "outputs": 3}

CASES = (
    Case("mlp-1", _mlp(1)),
    Case("mlp-10", _mlp(10), methods=_LIGHT, peer_methods=()),
    Case("mlp-10-full", _mlp(10), 128, False, _LIGHT, ()),
    Case("conv", _CONV, 48),
    Case("embedding", _TABLE | {"outputs": 2}, 48),
    Case("rnn", _RNN, 48),
)


def build_ours(spec):
    """Our empirical NTK as `(function, leading arguments)`."""
    from jaxarch import kernels as ker

    f, params = _networks.build(spec["network"])

    def kernel(params, x1, x2):
        options = {k: spec[k] for k in ("method", "trace_outputs")}
        return _networks.Result(ker.empirical_ntk(f, params, x1, x2, **options))

    return kernel, (params,)


def reference(case, x1, x2):
    """Full kernel of a few examples: one gradient after another, float64."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        f, params = _networks.build(case.network)
        params = [p.astype(jnp.float64) for p in params]
        gradients = jax.jit(jax.jacrev(lambda p, x: f(p, x)))

        def rows(x):
            x = x.astype(np.float64) if x.dtype.kind == "f" else x
            return np.stack(
                [
                    np.concatenate(
                        [g.reshape(g.shape[0], -1) for g in gradients(params, one)], 1
                    )
                    for one in x
                ]
            )

        one, two = rows(x1[:CHECKED]), rows(x2[:CHECKED])
    full = np.einsum("iok,jpk->ijop", one, two)
    scale = (
        np.sqrt(
            np.einsum("iok,iok->i", one, one)[:, None]
            * np.einsum("jok,jok->j", two, two)[None]
        )
        / one.shape[1]
    )
    if case.trace_outputs:
        return np.einsum("ijoo->ij", full) / one.shape[1], scale
    return full, scale[:, :, None, None]


def run_case(case, sides, repeats):
    """Sets all programs of a case up, times them in turns, then checks the values."""
    x = _networks.inputs(case.network, case.points)
    paths = sides.save(case.name, x)
    entry = {
        "network": case.network,
        "points": case.points,
        "trace_outputs": case.trace_outputs,
        "dtype": "float32",
        "programs": {},
    }
    wanted = [(OURS, m) for m in case.methods]
    wanted += [(PEER, m) for m in case.peer_methods if PEER in sides.workers]
    programs = []
    for side, method in wanted:
        name = f"{case.name}/{method}"
        spec = {
            "network": case.network,
            "method": method,
            "trace_outputs": case.trace_outputs,
        }
        found = sides.setup(side, name, spec=spec, inputs=paths)
        entry["programs"][f"{side} {method}"] = found
        if "error" not in found:
            programs.append((name, side))
    samples = sides.repeat(programs, repeats)
    want, scale = reference(case, *x)
    wall = {}
    for name, side in programs:
        method = name.split("/")[1]
        found = entry["programs"][f"{side} {method}"]
        taken = samples[name, side]
        wall[side, method] = [s["wall_s"] for s in taken]
        found |= _harness.summaries(taken)
        got = sides.values(side, name, paths)["ntk"][:CHECKED, :CHECKED]
        error = float(np.max(np.abs(got - want) / scale))
        found["error"] = error if np.isfinite(error) else None
    auto = wall.get((OURS, "auto"))
    gates = {"runs": auto is not None}
    if auto is not None:
        for (side, method), seconds in wall.items():
            ratio = _harness.paired_ratio(seconds, auto)
            entry["programs"][f"{side} {method}"]["over_auto"] = ratio
        ours = [statistics.median(w) for (s, _), w in wall.items() if s == OURS]
        entry["auto_over_best"] = statistics.median(auto) / min(ours)
        gates["auto_is_right"] = entry["auto_over_best"] <= SLACK
        found = [entry["programs"][f"{OURS} {m}"] for m in case.methods]
        gates["accurate"] = all(
            f.get("error") is not None and f["error"] <= TOLERANCE for f in found
        )
    entry["gates"] = gates
    sides.drop(sides.workers)
    return entry


def print_report(report):
    """Prints the report as Markdown tables."""
    spread = _script.spread
    _script.print_machine(report["machine"])
    for side, info in report["sides"].items():
        rates = spread(info["limits"]["matmul_gflops"])
        print(f"{side}: jax {info['versions']['jax']}, {info['backend']}, {rates} GF/s")
    rows = []
    for name, entry in report["cases"].items():
        for program, found in entry["programs"].items():
            if "error" in found and "wall_s" not in found:
                rows.append([name, program, "failed", *[""] * 5])
                continue
            row = [name, program, spread(found["wall_s"], 1e3, 1)]
            row += [spread(found["cpu_s"], 1e3, 1)]
            row += [spread(found["over_auto"], 1, 2)]
            row += [_script.compile_seconds(found), _script.temp_megabytes(found)]
            rows.append([*row, f"{found['error']:.1e}"])
    print()
    header = "case, program, ms a call, CPU ms, over auto, compile s, temp MB, error"
    _script.print_table(header.split(", "), rows)
    if ratio := report["mlp_10_over_1"]:
        print(f"\nMLP, 10 outputs over 1, auto: {spread(ratio, 1, 2)}")


def ten_over_one(cases):
    """Seconds of ten outputs over those of one, both by `auto`."""
    found = [cases.get(n, {}).get("programs", {}) for n in ("mlp-10", "mlp-1")]
    walls = [f.get(f"{OURS} auto", {}).get("wall_s") for f in found]
    if not all(walls):
        return None
    ten, one = walls
    return {
        "median": ten["median"] / one["median"],
        "min": ten["min"] / one["max"],
        "max": ten["max"] / one["min"],
        "repeats": ten["repeats"],
    }


def parse(argv=None):
    parser = _script.parser(__doc__, repeats=7)
    _script.add_cases(parser, [case.name for case in CASES])
    _script.add_sides(parser, ours=[OURS])
    return parser.parse_args(argv)


def main():
    args = parse()
    if args.serve:
        _harness.serve(build_ours, packages=("jaxarch",), fields=("ntk",))
        return 0
    machine, chosen = _script.machine(), [c for c in CASES if c.name in args.cases]
    started = _script.commands(args, __file__, [OURS], "neural_tangents_empirical.py")
    with _harness.Sides(started) as sides:
        cases = {case.name: run_case(case, sides, args.repeats) for case in chosen}
        sides.limits()
    report = _script.make_report(
        "empirical_ntk",
        machine,
        sides=sides.info,
        cases=cases,
        mlp_10_over_1=ten_over_one(cases),
    )
    print_report(report)
    return _script.finish(report, args.output, _script.failed_gates(cases))


if __name__ == "__main__":
    sys.exit(main())
