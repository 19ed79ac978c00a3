"""Closed-form prediction of trained networks: jaxarch beside neural-tangents 0.6.5.

Given 1000 training points with 10 outputs and 200 test points, both sides give the mean
and the whole covariance at the test points of networks trained to convergence (NTK) and
of the Bayesian posterior (NNGP), kernels included, in float32. Two times are taken:

- warm: a call for test points after the factorization has been made, in turns;
- first: the first such call of a process, with the training kernel, the factorizations
  and all compiling, but without imports; in fresh processes, in turns.

`jaxarch-given` has the kernels before its time starts: `train`, `condition` and
`predict` alone. Times of the processor are beside those of the wall, since a busy
machine stretches the latter.
`README.md` in this folder says how to read the output. The exit status is 1 if a gate
fails: an error against the textbook formulas in float64 above 2e-4 of the largest
value, or a disagreement of more than 1e-3 (the peer's own error is 4e-4). A speed is
not a gate.
"""

import math
import sys
from typing import NamedTuple

import _harness
import _script
import numpy as np
from _script import OURS, PEER

GIVEN = "jaxarch-given"
TOLERANCE, AGREEMENT = 2e-4, 1e-3
CASES = {"converged": None, "t100": 100.0}


class Predictions(NamedTuple):
    """Mean and covariance of trained networks and of the Bayesian posterior."""

    trained_mean: object
    trained_covariance: object
    posterior_mean: object
    posterior_covariance: object


def spec_of(case):
    """The network and its training, as both sides read it."""
    w_std, b_std = math.sqrt(2), 0.1
    return {"depth": 3, "w_std": w_std, "b_std": b_std, "noise": 1e-2, "t": CASES[case]}


def build_ours(spec, given):
    """Jaxarch's prediction, which trains in its first call."""
    import jax

    from jaxarch import kernels as ker

    def network(h):
        for _ in range(spec["depth"]):
            h = ker.relu(ker.dense(h, 512, w_std=spec["w_std"], b_std=spec["b_std"]))
        return ker.dense(h, 1, w_std=1.0)

    kernel, noise, t = ker.infinite(network), spec["noise"], spec["t"]
    made = []

    def train(gram, y):
        if t is None:
            posterior = ker.condition(gram, y, noise=noise)
        else:  # the peer's "nngp" is the last layer, trained as long
            start = gram.nngp + noise * np.eye(len(y), dtype=np.float32)
            posterior = ker.train(
                ker.Gram(nngp=start, ntk=gram.nngp), y, t=t, noise=noise
            )
        return ker.train(gram, y, t=t, noise=noise), posterior

    @jax.jit
    def at(trained, posterior, star, test):
        network = ker.predict(trained, star, test)
        if t is not None:
            star = ker.Gram(nngp=star.nngp, ntk=star.nngp)
        process = ker.predict(posterior, star, test)
        return Predictions(
            network.mean, network.covariance, process.mean, process.covariance
        )

    def predict(x, y, x_test):
        if not made:
            made.append(train(kernel(x), y))
        return at(*made[0], kernel(x_test, x), kernel(x_test))

    if not given:
        return predict, ()
    x, x_test = (np.load(spec["inputs"][i]) for i in (0, 2))
    grams = kernel(x), kernel(x_test, x), kernel(x_test)
    jax.block_until_ready(grams)

    def predict_given(x, y, x_test):
        if not made:
            made.append(train(grams[0], y))
        return at(*made[0], *grams[1:])

    return predict_given, ()


# --- the reference ----------------------------------------------------------------


def grams(spec, x1, x2):
    """NNGP and NTK by the textbook recursion, in float64."""
    w2, b2 = spec["w_std"] ** 2, spec["b_std"] ** 2
    c = x1 @ x2.T / x1.shape[1]
    q1, q2 = (np.mean(x * x, 1) for x in (x1, x2))
    ntk = np.zeros_like(c)
    for _ in range(spec["depth"]):
        c, q1, q2 = (w2 * k + b2 for k in (c, q1, q2))
        ntk = c + w2 * ntk
        scale = np.sqrt(q1[:, None] * q2)
        angle = np.arccos(np.clip(c / scale, -1, 1))
        slope = (np.pi - angle) / (2 * np.pi)
        c, q1, q2 = scale * np.sin(angle) / (2 * np.pi) + c * slope, q1 / 2, q2 / 2
        ntk = ntk * slope
    return c, c + ntk


def reference(spec, x, y, x_test):
    """The predictions by inverses and eigendecompositions, in float64."""
    x, y, x_test = (a.astype(np.float64) for a in (x, y, x_test))
    k, ntk = grams(spec, x, x)
    k_star, ntk_star = grams(spec, x_test, x)
    k_test = grams(spec, x_test, x_test)[0]
    noise = spec["noise"] * np.eye(len(x))

    def response(matrix, b):  # (1 - exp(-t M / N)) M^-1 b
        values, vectors = np.linalg.eigh(matrix)
        decay = 1.0 if spec["t"] is None else -np.expm1(-spec["t"] * values / y.size)
        return vectors @ ((decay / values)[:, None] * (vectors.T @ b))

    def moments(start, kernel, star):
        a = response(kernel + noise, star.T).T
        cross = a @ k_star.T
        return a @ y, k_test + a @ start @ a.T - cross - cross.T

    return Predictions(*moments(k, ntk, ntk_star), *moments(k + noise, k, k_star))


def distance(a, b):
    """The largest difference in each field, over its largest value."""
    return {
        field: float(np.max(np.abs(a[field] - b[field])) / np.max(np.abs(b[field])))
        for field in Predictions._fields
    }


# --- running ----------------------------------------------------------------------


def run_case(name, args, started):
    """Times, errors and gates of one case."""
    rng, spec = np.random.default_rng(0), spec_of(name)
    shapes = (args.points, 784), (args.points, 10), (args.points // 5, 784)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    report = {"spec": spec_of(name), "shapes": shapes, "dtype": "float32", "sides": {}}
    first, cpu, samples, values, errors = {}, {}, {}, {}, {}
    for trial in range(args.processes):
        with _harness.Sides(started) as sides:
            paths = spec["inputs"] = sides.save("input", arrays)
            for side in sides.workers:
                found = sides.setup(side, name, spec=spec, inputs=paths)
                if "error" in found:
                    errors[side] = found["error"]
                    continue
                seconds = found["first_run_s"]
                seconds += 0 if side == GIVEN else found["build_s"]
                cpu.setdefault(side, []).append(found["first_run_cpu_s"])
                first.setdefault(side, []).append(seconds)
            if trial < args.processes - 1:
                continue
            done = [side for side in sides.workers if side in first]
            samples = sides.repeat([(name, side) for side in done], args.repeats)
            for side in done:
                values[side] = sides.values(side, name, paths)
            sides.limits()
            report["info"] = sides.info
    warm = {side: [s["wall_s"] for s in taken] for (_, side), taken in samples.items()}
    exact = reference(spec, *arrays)._asdict()
    for side in first:
        report["sides"][side] = {
            "first_s": _harness.summary(first[side]),
            "first_cpu_s": _harness.summary(cpu[side]),
            "warm_s": _harness.summary(warm[side]),
            "first_samples_s": first[side],
            "warm_samples_s": warm[side],
            "error": distance(values[side], exact),
        }
    report["failed"] = errors
    report["ratio"] = {
        side: {
            "peer_first_over_first": _harness.paired_ratio(first[PEER], first[side]),
            "peer_first_cpu_over_first_cpu": _harness.paired_ratio(
                cpu[PEER], cpu[side]
            ),
            "peer_warm_over_warm": _harness.paired_ratio(warm[PEER], warm[side]),
        }
        for side in first
        if PEER in first and side != PEER
    }
    gates = {"runs": OURS in first}
    for side in first:
        if side != PEER:
            error = max(report["sides"][side]["error"].values())
            gates[f"{side} accurate"] = error <= TOLERANCE
    if OURS in first and PEER in first:
        gap = distance(values[PEER], values[OURS])
        report["difference"] = gap
        gates["agrees"] = max(gap.values()) <= AGREEMENT
    report["gates"] = gates
    return report


def print_report(report):
    """Prints the report as a Markdown table."""
    spread, rows = _script.spread, []
    _script.print_machine(report["machine"])
    for name, case in report["cases"].items():
        for side, found in case["sides"].items():
            ratio = case["ratio"].get(side, {})
            first, cpu = (
                spread(found[k], digits=2) for k in ("first_s", "first_cpu_s")
            )
            ratios = [spread(r, digits=1) for r in ratio.values()] or [""] * 3
            row = [name, side, first, ratios[0], cpu, ratios[1]]
            row += [spread(found["warm_s"], 1e3, 1), ratios[2]]
            rows.append([*row, f"{max(found['error'].values()):.1e}"])
    header = "case, side, first s, peer over it, first cpu s, peer over it"
    header += ", warm ms, peer over it, error"
    _script.print_table(header.split(", "), rows)


def parse(argv=None):
    parser = _script.parser(__doc__, repeats=15, repeats_help="warm repetitions")
    at_least = _script.at_least
    parser.add_argument(
        "--processes", type=at_least(1), default=5, help="fresh processes"
    )
    parser.add_argument(
        "--points", type=at_least(20), default=1000, help="training points"
    )
    _script.add_cases(parser, CASES)
    _script.add_sides(parser, ours=[OURS, GIVEN])
    return parser.parse_args(argv)


def main():
    args = parse()
    if args.serve:
        _harness.serve(
            lambda spec: build_ours(spec, given=args.serve == GIVEN),
            ("jaxarch",),
            Predictions._fields,
            whole=False,
        )
        return 0
    machine, ours = _script.machine(), [OURS, GIVEN]
    started = _script.commands(args, __file__, ours, "neural_tangents_predict.py")
    cases = {name: run_case(name, args, started) for name in args.cases}
    report = _script.make_report("predict", machine, cases=cases)
    print_report(report)
    return _script.finish(report, args.output, _script.failed_gates(cases))


if __name__ == "__main__":
    sys.exit(main())
