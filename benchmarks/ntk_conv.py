"""NNGP and NTK of convolutional networks: jaxarch beside neural-tangents 0.6.5.

Four 3 x 3 convolutions with ReLU on images of 32 x 32 x 3, float32; then a global
average pool (4 x 4 images: all pairs of positions) or `flatten` (32 x 32 images: each
position with itself). The two sides run in processes of their own and take turns.
`README.md` in this folder says how to read the output.

The exit status is 1 if a gate fails: an error of ours against the textbook recursion in
float64 above 2e-6, or a disagreement of the two sides of more than 1e-3 (the peer's own
error is 6e-5). A speed is not a gate.
"""

import math
import sys

import _harness
import _script
import numpy as np
from _script import OURS, PEER

TOLERANCE, AGREEMENT = 2e-6, 1e-3
NETWORK = {"depth": 4, "w_std": math.sqrt(2), "b_std": 0.1}
CASES = {
    "pool": {**NETWORK, "pool": True, "images": 4},
    "flatten": {**NETWORK, "pool": False, "images": 32},
}
COMPARED = 3  # images a side that are compared with the reference


def build_ours(network):
    """Jaxarch's kernel of `network` as `(function, leading arguments)`."""
    from jaxarch import kernels as ker

    def symbolic(h):
        for _ in range(network["depth"]):
            scales = {"w_std": network["w_std"], "b_std": network["b_std"]}
            h = ker.relu(ker.conv(h, 64, (3, 3), **scales))
        h = ker.global_avg_pool(h) if network["pool"] else ker.flatten(h)
        return ker.dense(h, 1, b_std=None)

    return lambda kernel, *x: kernel(*x), (ker.infinite(symbolic),)


# --- the reference ---------------------------------------------------------


def _box(c, axes):
    """Sums of windows of three along the given axes together, zeros outside."""
    pad = [(1, 1) if i in axes else (0, 0) for i in range(c.ndim)]
    c = np.pad(c, pad)
    total = 0
    for k in range(3):
        cut = [
            slice(k, k + n - 2) if i in axes else slice(None)
            for i, n in enumerate(c.shape)
        ]
        total = total + c[tuple(cut)]
    return total


def reference(network, a, b):
    """NNGP and NTK of two images in float64, on `(h, w, h', w')` arrays."""
    channels = a.shape[-1]
    c = np.einsum("hwc,uvc->hwuv", a, b) / channels
    qa, qb = ((x**2).sum(-1) / channels for x in (a, b))
    t = np.zeros_like(c)
    w2, b2 = network["w_std"] ** 2, network["b_std"] ** 2
    for _ in range(network["depth"]):
        c, t = (_box(_box(x, (0, 2)), (1, 3)) / 9 for x in (c, t))
        qa, qb = (w2 * _box(_box(q, (0,)), (1,)) / 9 + b2 for q in (qa, qb))
        c = w2 * c + b2
        t = c + w2 * t
        scale = np.sqrt(qa[:, :, None, None] * qb)
        sine = np.sqrt(np.maximum((scale - c) * (scale + c), 0))
        slope = (np.pi - np.arctan2(sine, c)) / (2 * np.pi)
        c, t = sine / (2 * np.pi) + slope * c, t * slope
        qa, qb = qa / 2, qb / 2
    if network["pool"]:
        return {"nngp": c.mean(), "ntk": c.mean() + t.mean()}
    c, t = (np.einsum("hwhw->hw", x).mean() for x in (c, t))
    return {"nngp": c, "ntk": c + t}


class Check:
    """A few images against the reference: normal ones, and a near-duplicate."""

    def __init__(self, network, x1, x2):
        self.inputs = [x1, x2.copy()]
        noise = np.random.default_rng(1).standard_normal(x1[0].shape)
        self.inputs[1][0] = x1[0] + 1e-3 * noise
        x1, x2 = (x[:COMPARED].astype(np.float64) for x in self.inputs)
        pairs = [[reference(network, a, b) for b in x2] for a in x1]
        own1, own2 = ([reference(network, a, a) for a in x] for x in (x1, x2))
        self._exact, self._scale = {}, {}
        for kind in ("nngp", "ntk"):
            self._exact[kind] = np.array([[p[kind] for p in row] for row in pairs])
            first, second = (np.array([p[kind] for p in own]) for own in (own1, own2))
            self._scale[kind] = np.sqrt(np.outer(first, second))

    def error(self, values):
        """Largest error over the compared pairs, relative to sqrt(k11 k22)."""
        return max(
            float(
                np.max(
                    np.abs(values[kind][:COMPARED, :COMPARED] - exact)
                    / self._scale[kind]
                )
            )
            for kind, exact in self._exact.items()
        )


# --- running ----------------------------------------------------------------------


def run_case(name, sides, repeats):
    """Times, errors and gates of one case."""
    network = CASES[name]
    rng = np.random.default_rng(0)
    shape = (network["images"], 32, 32, 3)
    x = [rng.standard_normal(shape).astype(np.float32) for _ in range(2)]
    check = Check(network, *x)
    paths = sides.save(name, check.inputs)
    entry = {"network": network, "shape": shape, "dtype": "float32", "sides": {}}
    for side in sides.workers:
        entry["sides"][side] = sides.setup(side, name, spec=network, inputs=paths)
    done = [side for side, found in entry["sides"].items() if "error" not in found]
    samples = sides.repeat([(name, side) for side in done], repeats)
    wall, values = {}, {}
    for side in done:
        taken = samples[name, side]
        wall[side] = [s["wall_s"] for s in taken]
        values[side] = sides.values(side, name, paths)
        error = check.error(values[side])
        entry["sides"][side].update(_harness.summaries(taken), error=error)
    sides.drop(done)
    gates = {"runs": OURS in done}
    if OURS in done:
        gates["accurate"] = entry["sides"][OURS]["error"] <= TOLERANCE
    if PEER in done and OURS in done:
        entry["ratio"] = _harness.paired_ratio(wall[PEER], wall[OURS])
        gap = max(
            float(np.max(np.abs(values[OURS][k] / values[PEER][k] - 1)))
            for k in ("nngp", "ntk")
        )
        entry["difference"], gates["agrees"] = gap, gap <= AGREEMENT
    entry["gates"] = gates
    return entry


def print_report(report):
    """Prints the report as a Markdown table."""
    spread, rows = _script.spread, []
    _script.print_machine(report["machine"])
    for name, entry in report["cases"].items():
        for side, found in entry["sides"].items():
            if "wall_s" not in found:
                rows.append([name, side, "failed", "", "", "", "", ""])
                continue
            ratio = entry.get("ratio") if side == PEER else None
            row = [name, side, spread(found["wall_s"], 1e3)]
            row += [spread(ratio, digits=2) if ratio else ""]
            row += [_script.compile_seconds(found), _script.temp_megabytes(found)]
            row += [f"{found['error']:.1e}"]
            rows.append([*row, _script.judged(entry["gates"] if side == OURS else {})])
    header = "case, side, ms a call, over ours, compile s, temp MB, error, gates"
    _script.print_table(header.split(", "), rows)


def parse(argv=None):
    parser = _script.parser(__doc__, repeats=7)
    _script.add_cases(parser, CASES)
    _script.add_sides(parser, ours=[OURS])
    return parser.parse_args(argv)


def main():
    args = parse()
    if args.serve:
        _harness.serve(build_ours, packages=("jaxarch",), fields=("nngp", "ntk"))
        return 0
    machine = _script.machine()
    started = _script.commands(args, __file__, [OURS], "neural_tangents_conv.py")
    with _harness.Sides(started) as sides:
        cases = {name: run_case(name, sides, args.repeats) for name in args.cases}
    report = _script.make_report("ntk_conv", machine, sides=sides.info, cases=cases)
    print_report(report)
    return _script.finish(report, args.output, _script.failed_gates(cases))


if __name__ == "__main__":
    sys.exit(main())
