"""Empirical NTK of finite networks: jaxarch beside neural-tangents 0.6.5.

Every method of both sides runs on the same function, parameters and float32 inputs, in
processes that take turns. Reported: seconds to trace and compile, steady seconds a
call, temporary memory, the error against gradients in float64 on some pairs, the ratio
of each program to our `auto`, and how near `auto` comes to the best of our methods.
`README.md` in this folder says how to read the output.

The exit status is 1 if a gate fails: an error above 1e-5 of the geometric mean of the
diagonal, or an `auto` slower than 1.5 times the fastest method. A speed is not a gate.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path

import _harness
import _networks
import numpy as np

HERE = Path(__file__).resolve().parent
OURS, PEER = "jaxarch", "neural-tangents"
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
    sys.path.insert(0, str(HERE.parent))  # the checkout that is reported runs
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


def run_case(case, sides, repeats, directory):
    """Sets all programs of a case up, times them in turns, then checks the values."""
    x = _networks.inputs(case.network, case.points)
    paths = []
    for i, array in enumerate(x):
        paths.append(str(Path(directory) / f"{case.name}{i}.npy"))
        np.save(paths[-1], array)
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
        found["wall_s"] = _harness.summary(wall[side, method])
        found["cpu_s"] = _harness.summary([s["cpu_s"] for s in taken])
        output = str(Path(directory) / "values.npz")
        sides.workers[side].ask("values", name=name, inputs=paths, output=output)
        with np.load(output) as file:
            got = file["ntk"][:CHECKED, :CHECKED]
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
    for side in sides.workers.values():
        side.ask("drop")
    return entry


def print_report(report):
    """Prints the report as Markdown tables."""
    machine, spread = report["machine"], _harness.spread
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}\n")
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
            row += [f"{found['build_s'] + found['lower_s'] + found['compile_s']:.2f}"]
            row += [f"{(found['temp_bytes'] or 0) / 1e6:.1f}", f"{found['error']:.1e}"]
            rows.append(row)
    print()
    header = "case, program, ms a call, CPU ms, over auto, compile s, temp MB, error"
    _harness.print_table(header.split(", "), rows)
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("--cases", default="", help=f"of: {names}")
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions")
    parser.add_argument("--output", type=Path, help="write the report here, as JSON")
    parser.add_argument(
        "--peers", type=Path, default=HERE / ".venv-peers", metavar="DIR"
    )
    parser.add_argument("--setup-peers", action="store_true", help="first build it")
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has it")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    wanted = [n for n in args.cases.split(",") if n]
    if unknown := set(wanted) - {c.name for c in CASES}:
        parser.error(f"--cases: {sorted(unknown)} not among {names}")
    args.chosen = [c for c in CASES if not wanted or c.name in wanted]
    return args


def commands(args):
    """How each side is started, ours first."""
    sides = {OURS: [sys.executable, __file__, "--serve"]}
    requirements = HERE / "peers" / "neural_tangents.txt"
    python = args.peer_python
    if python is None:
        directory = args.peers / requirements.stem
        if args.setup_peers:
            _harness.make_environment(directory, requirements)
        python = directory / "bin" / "python"
    if python.exists():
        sides[PEER] = [python, HERE / "peers" / "neural_tangents_empirical.py"]
    else:
        _harness.progress(f"no peer: {python} is missing (--setup-peers builds it)")
    return sides


def main():
    args = parse()
    if args.serve:
        _harness.serve(build_ours, packages=("jaxarch",), fields=("ntk",))
        return 0
    machine, cases = _harness.machine(), {}
    with (
        tempfile.TemporaryDirectory() as directory,
        _harness.Sides(commands(args)) as sides,
    ):
        for case in args.chosen:
            cases[case.name] = run_case(case, sides, args.repeats, directory)
        sides.limits()
    report = {
        "benchmark": "empirical_ntk",
        "commit": _harness.commit(),
        "machine": machine,
        "sides": sides.info,
        "cases": cases,
        "mlp_10_over_1": ten_over_one(cases),
    }
    print_report(report)
    if args.output:
        _harness.write_json(args.output, report)
    failed = [
        f"{name}: NOT {gate}"
        for name, entry in cases.items()
        for gate, passed in entry["gates"].items()
        if not passed
    ]
    for line in failed:
        _harness.progress(line)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
