"""NNGP and NTK of dense networks: jaxarch beside neural-tangents 0.6.5.

Every case runs on both sides in one go, in processes of their own that take turns, on
the same float32 arrays. Reported: seconds to build, trace and compile; steady seconds a
call and their paired ratio; temporary memory; errors against the textbook recursion in
extended precision; and the least time this machine needs for the matrix product and the
writes alone. `README.md` in this folder says how to read the output.

The exit status is 1 if a gate fails: an error of ours above its tolerance, temporary
memory of 64 MB or more, or a disagreement of the two sides. A speed is not a gate.
"""

import dataclasses
import importlib.util
import math
import sys
from typing import NamedTuple

import _harness
import _script
import numpy as np
from _script import OURS, PEER

PLAIN = "plain"
TEMP_LIMIT = 64e6  # bytes beyond input and output
BLOCK = 100  # rows and columns that are compared with the reference
DISTANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 0.0)  # of planted pairs, over their norm


def _network(activation="relu", depth=10, b_std=0.1):
    """`depth` times dense and activation, then a dense layer of scale 1."""
    return {
        "activation": activation,
        "depth": depth,
        "w_std": math.sqrt(2),
        "b_std": b_std,
        "last_w_std": 1.0,
    }


@dataclasses.dataclass(frozen=True)
class Case:
    """One program on one kind of data; those of one group take turns in time."""

    name: str
    group: str
    network: dict
    data: str = "normal"
    symmetric: bool = False

    @property
    def tolerance(self):
        """Largest error of ours, relative to the geometric mean of self-kernels."""
        if self.network["activation"] != "relu":
            return 1e-5
        return 3e-6 if self.network["depth"] <= 10 else 2e-5

    @property
    def agreement(self):
        """Largest difference of the two sides for pairs that are not near."""
        return 1e-5 if self.network["depth"] <= 10 else 1e-4


CASES = (
    Case("main", "main", _network()),
    Case("symmetric", "symmetric", _network(), symmetric=True),
    Case("clustered", "clustered", _network(), "clustered"),
    Case("clustered-symmetric", "clustered", _network(), "clustered", True),
    Case("sorted", "clustered", _network(), "sorted"),
    Case("sorted-symmetric", "clustered", _network(), "sorted", True),
    Case("digits", "digits", _network(), "digits", True),
    Case("uneven", "uneven", _network(), "uneven"),
    Case("uneven-symmetric", "uneven", _network(), "uneven", True),
    *(
        Case(f"{group}-{depth}", group, _network(depth=depth, b_std=b_std))
        for group, b_std in (("nobias", None), ("bias", 0.1))
        for depth in (3, 10, 50)
    ),
    Case("erf", "erf", _network("erf")),
)


# --- the sides that run on the JAX of this interpreter ---------------------


def build_ours(network):
    """Jaxarch's kernel of `network` as `(function, leading arguments)`."""
    from jaxarch import kernels as ker

    activation = {"relu": ker.relu, "erf": ker.erf}[network["activation"]]

    def symbolic(h):
        for _ in range(network["depth"]):
            h = ker.dense(h, 512, w_std=network["w_std"], b_std=network["b_std"])
            h = activation(h)
        return ker.dense(h, 1, w_std=network["last_w_std"], b_std=network["b_std"])

    return lambda kernel, *x: kernel(*x), (ker.infinite(symbolic),)


class Kernels(NamedTuple):
    """What the plain version returns: the fields of a `Gram`."""

    nngp: object
    ntk: object


def build_plain(network):
    """The textbook recursion on whole arrays: no tiles, `arccos` or `arcsin`."""
    import jax.numpy as jnp

    def relu(c, q1, q2):
        scale = jnp.sqrt(q1 * q2)
        cos = jnp.clip(c / scale, -1, 1)
        angle = jnp.arccos(cos)
        sin = jnp.sqrt(1 - cos * cos)
        k = scale * (sin + (jnp.pi - angle) * cos) / (2 * jnp.pi)
        return k, (jnp.pi - angle) / (2 * jnp.pi), q1 / 2, q2 / 2

    def erf(c, q1, q2):
        product = (1 + 2 * q1) * (1 + 2 * q2)
        k = 2 / jnp.pi * jnp.arcsin(2 * c / jnp.sqrt(product))
        slope = 4 / jnp.pi / jnp.sqrt(product - 4 * c * c)
        own = [2 / jnp.pi * jnp.arcsin(2 * q / (1 + 2 * q)) for q in (q1, q2)]
        return k, slope, *own

    activation = {"relu": relu, "erf": erf}[network["activation"]]
    w2, last_w2 = network["w_std"] ** 2, network["last_w_std"] ** 2
    b2 = (network["b_std"] or 0.0) ** 2

    def kernel(x1, x2=None):
        x2 = x1 if x2 is None else x2
        features = x1.shape[1]
        c = x1 @ x2.T / features
        q1 = jnp.sum(x1 * x1, 1, keepdims=True) / features
        q2 = jnp.sum(x2 * x2, 1)[None] / features
        t = jnp.zeros_like(c)
        for _ in range(network["depth"]):
            c, q1, q2 = (w2 * k + b2 for k in (c, q1, q2))
            t = c + w2 * t
            c, slope, q1, q2 = activation(c, q1, q2)
            t = t * slope
        c = last_w2 * c + b2
        return Kernels(nngp=c, ntk=c + last_w2 * t)

    return kernel, ()


# --- the reference ---------------------------------------------------------


def reference(network, c, q1, q2):
    """NNGP and NTK by the textbook recursion, in the (extended) precision of `c`.

    Shares nothing with either side. Where `longdouble` has 64 bits it is within 1e-12
    of 40-digit arithmetic, at depth 50 and for points 1e-5 apart too.
    """
    w2, last_w2 = network["w_std"] ** 2, network["last_w_std"] ** 2
    b2 = (network["b_std"] or 0.0) ** 2
    t = np.zeros_like(c)
    for _ in range(network["depth"]):
        c, q1, q2 = (w2 * k + b2 for k in (c, q1, q2))
        t = c + w2 * t
        if network["activation"] == "relu":
            scale = np.sqrt(q1 * q2)
            scaled_sin = np.sqrt(np.maximum((scale - c) * (scale + c), 0))
            rest = (np.pi - np.arctan2(scaled_sin, c)) / (2 * np.pi)
            c, slope = scaled_sin / (2 * np.pi) + rest * c, rest
            q1, q2 = q1 / 2, q2 / 2
        else:
            product = (1 + 2 * q1) * (1 + 2 * q2)
            slope = 4 / np.pi / np.sqrt(product - 4 * c * c)
            c = 2 / np.pi * np.arcsin(2 * c / np.sqrt(product))
            q1, q2 = (2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)) for q in (q1, q2))
        t = t * slope
    c = last_w2 * c + b2
    return {"nngp": c, "ntk": c + last_w2 * t}


def _self_kernels(network, x):
    """The variances of the rows of `x` in extended precision, and both kernels."""
    q = np.sum(np.square(x.astype(np.longdouble)), 1) / x.shape[1]
    return q, reference(network, q, q, q)


class Check:
    """Inputs of the timed shape with near-duplicate pairs planted, and the truth.

    The rows and columns compared are spread over the whole matrix, so that every kind
    of tile is met; half of them hold pairs at `DISTANCES`, far from the diagonal.
    """

    def __init__(self, case, x1, x2):
        rng = np.random.default_rng(1)
        x1 = x1.copy()
        x2 = None if case.symmetric else x2.copy()
        other = x1 if case.symmetric else x2
        rows, columns = (
            np.linspace(0, len(x) - 1, min(BLOCK, len(x))).astype(int)
            for x in (x1, other)
        )
        half = min(len(rows), len(columns)) // 2
        for i in range(half):
            x = x1[rows[i]]
            step = DISTANCES[i % len(DISTANCES)] * np.sqrt(np.mean(x * x))
            other[columns[-1 - i]] = x + step * rng.standard_normal(x.size)
        self.inputs = [x1] if case.symmetric else [x1, x2]

        features = x1.shape[1]
        self._block = np.ix_(rows, columns)
        q1, own1 = _self_kernels(case.network, x1)
        q2, own2 = (q1, own1) if case.symmetric else _self_kernels(case.network, x2)
        c = x1[rows].astype(np.longdouble) @ other[columns].T / features
        self._exact = reference(case.network, c, q1[rows, None], q2[None, columns])
        self._scale = {k: np.sqrt(own1[k][:, None] * own2[k][None]) for k in own1}
        unit1, unit2 = (
            x / np.linalg.norm(x, axis=1, keepdims=True) for x in (x1, other)
        )
        self._far = unit1 @ unit2.T < 0.99

    def errors(self, values):
        """Largest errors over the block, `None` where a value is not finite.

        `*_error` is relative to the geometric mean of the two self-kernels,
        `*_relative_error` to the entry itself.
        """
        report = {}
        for kind, exact in self._exact.items():
            error = np.abs(values[kind][self._block] - exact)
            scaled, relative = (
                error / self._scale[kind][self._block],
                error / abs(exact),
            )
            report[f"{kind}_error"] = _finite_max(scaled)
            report[f"{kind}_relative_error"] = _finite_max(relative)
        return report

    def difference(self, a, b):
        """Largest scaled difference of two sides over all pairs that are not near."""
        gaps = [np.abs(a[k] - b[k]) / self._scale[k] for k in self._exact]
        return _finite_max(np.where(self._far, np.maximum(*gaps), 0))


def _finite_max(x):
    largest = float(np.max(x))
    return largest if math.isfinite(largest) else None


# --- data ------------------------------------------------------------------


def make_data(kind, points):
    """Two float32 arrays of `kind`, or one and None."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    if kind == "digits":
        from sklearn.datasets import load_digits

        return (load_digits().data / 16).astype(np.float32), None
    if kind == "uneven":
        return normal(points - 1, 784), normal(points - points // 10 + 1, 784)
    if kind in ("clustered", "sorted"):
        # Clusters of 10, each 1e-3 of its distance from the origin wide, both sets
        # about the same centres; in order (the near pairs lie along the diagonal) or
        # shuffled (every tile of any size holds some).
        centres = np.repeat(normal(-(-points // 10), 784), 10, axis=0)[:points]
        sets = [centres + np.float32(1e-3) * normal(*centres.shape) for _ in range(2)]
        if kind == "clustered":
            sets = [rng.permutation(x) for x in sets]
        return tuple(sets)
    return normal(points, 784), normal(points, 784)


# --- running ----------------------------------------------------------------------


class Run:
    """The sides, their data, and the report that grows."""

    def __init__(self, sides, args):
        self.sides, self.args, self.ours = sides, args, args.ours
        self.report, self._data = {}, {}

    def _sides_of(self, case):
        # The plain version joins the main case only.
        sides = self.sides.workers
        return [s for s in sides if s in (self.ours, PEER) or case.name == "main"]

    def group(self, cases):
        """Sets all cases of a group up, times them in turns, then checks values."""
        programs = []
        for case in cases:
            if case.data not in self._data:
                self._data[case.data] = make_data(case.data, self.args.points)
            x1, x2 = self._data[case.data]
            inputs = [x1] if case.symmetric else [x1, x2]
            entry = {
                "network": case.network,
                "data": case.data,
                "symmetric": case.symmetric,
                "shape": [len(x1), len(inputs[-1]), x1.shape[1]],
                "dtype": "float32",
                "sides": {},
            }
            self.report[case.name] = entry
            paths = self.sides.save("input", inputs)
            for side in self._sides_of(case):
                found = self.sides.setup(
                    side, case.name, spec=case.network, inputs=paths
                )
                entry["sides"][side] = found
                if "error" not in found:
                    programs.append((case.name, side))
        samples = self.sides.repeat(programs, self.args.repeats)
        for case in cases:
            done = [side for name, side in programs if name == case.name]
            self._times(case, {side: samples[case.name, side] for side in done})
            self._values(case, done)
        self.sides.drop({side for _, side in programs})

    def _times(self, case, samples):
        """Steady times of one case, and their ratios where the devices are equal."""
        entry = self.report[case.name]
        wall = {side: [s["wall_s"] for s in taken] for side, taken in samples.items()}
        for side, taken in samples.items():
            times = _harness.summaries(taken)
            entry["sides"][side].update(times, wall_samples_s=wall[side])
        device = {side: info["device"] for side, info in self.sides.info.items()}
        entry["ratio"] = {
            side: _harness.paired_ratio(wall[side], wall[self.ours])
            for side in wall
            if side != self.ours in wall and device[side] == device[self.ours]
        }

    def _values(self, case, done):
        """Errors of one case, what its two sides differ by, and its gates."""
        entry, values = self.report[case.name], {}
        check = Check(case, *self._data[case.data])
        paths = self.sides.save("check", check.inputs)
        for side in done:
            values[side] = self.sides.values(side, case.name, paths)
            entry["sides"][side].update(check.errors(values[side]))
        gates = {"runs": self.ours in done}
        found = entry["sides"][self.ours]
        if self.ours in done and self.ours == OURS:
            errors = found["nngp_error"], found["ntk_error"]
            gates["accurate"] = None not in errors and max(errors) <= case.tolerance
            if found["temp_bytes"] is not None:
                gates["temp_under_64_mb"] = found["temp_bytes"] < TEMP_LIMIT
        if self.ours in done and PEER in done:
            gap = check.difference(values[self.ours], values[PEER])
            entry["difference"] = gap
            gates["agrees"] = gap is not None and gap <= case.agreement
        entry["gates"] = gates

    def floors(self):
        """The least seconds for the product, the reads and the writes of each case."""
        limits = self.sides.info[self.ours]["limits"]
        flops_per_s = limits["matmul_gflops"]["max"] * 1e9
        bytes_per_s = limits["stream_gb_per_s"]["max"] * 1e9
        for entry in self.report.values():
            n, m, features = entry["shape"]
            products = n * (n + 1) / 2 if entry["symmetric"] else n * m
            read = n if entry["symmetric"] else n + m
            moved = 4 * (features * read + 2 * n * m)
            floor = 2 * features * products / flops_per_s + moved / bytes_per_s
            entry["floor_s"] = floor

    def depth_ratios(self):
        """Depth 50 over depth 3, repetition by repetition, with and without biases."""
        ratios = {}
        for group in ("nobias", "bias"):
            entries = [self.report.get(f"{group}-{depth}") for depth in (50, 3)]
            for side in self.sides.workers if all(entries) else ():
                found = [entry["sides"].get(side, {}) for entry in entries]
                walls = [f.get("wall_samples_s") for f in found]
                if all(walls):
                    ratio = _harness.paired_ratio(*walls)
                    ratios.setdefault(group, {})[side] = ratio
        return ratios


# --- the table --------------------------------------------------------------------


def _error(found):
    errors = [found["nngp_error"], found["ntk_error"]]
    return "not finite" if None in errors else f"{max(errors):.1e}"


def print_report(report):
    """Prints the report as Markdown tables."""
    ours, spread = report["ours"], _script.spread
    _script.print_machine(report["machine"])
    rows = []
    for side, info in report["sides"].items():
        first = info.get("first_result")
        row = [side, info["versions"]["jax"], f"{info['backend']} {info['device']}"]
        row += [f"{info['ready_s']:.1f}", f"{first['seconds']:.1f}" if first else ""]
        row += [spread(info["limits"]["matmul_gflops"])]
        rows.append([*row, spread(info["limits"]["stream_gb_per_s"], digits=1)])
    header = "side, JAX, device, ready s, first result s, GFLOP/s, GB/s"
    _script.print_table(header.split(", "), rows)
    rows = []
    for name, entry in report["cases"].items():
        for side, found in entry["sides"].items():
            judged = _script.judged(entry["gates"] if side == ours else {})
            if "error" in found:
                rows.append([name, side, "failed", *[""] * 5, judged])
                continue
            ratio = entry["ratio"].get(side)
            row = [name, side, spread(found["wall_s"], 1e3)]
            row += [f"{entry['floor_s'] * 1e3:.0f}" if side == ours else ""]
            row += [spread(ratio, digits=2) if ratio else ""]
            row += [_script.compile_seconds(found), _script.temp_megabytes(found)]
            rows.append([*row, _error(found), judged])
    header = "case, side, ms a call, floor ms, over ours, compile s, temp MB, error"
    print()
    _script.print_table([*header.split(", "), "gates"], rows)
    for group, sides in report["depth_50_over_3"].items():
        for side, ratio in sides.items():
            print(f"\ndepth 50 over depth 3, {group}, {side}: {spread(ratio, 1, 2)}")


def parse(argv=None):
    parser = _script.parser(__doc__, repeats=15)
    parser.add_argument("--quick", action="store_true", help="three repetitions")
    parser.add_argument(
        "--points", type=_script.at_least(20), default=2000, help="rows a set (2000)"
    )
    parser.add_argument("--ours", choices=(OURS, PLAIN), default=OURS)
    names = [case.name for case in CASES]
    _script.add_cases(parser, names, groups=[case.group for case in CASES])
    _script.add_sides(parser, ours=[OURS, PLAIN])
    args = parser.parse_args(argv)
    args.repeats = 3 if args.quick else args.repeats
    return args


def select(wanted):
    """The cases that are wanted and have their data, by group."""
    groups = {}
    for case in CASES:
        if case.name not in wanted and case.group not in wanted:
            continue
        if case.data == "digits" and not importlib.util.find_spec("sklearn"):
            _harness.progress("no digits: scikit-learn is not installed")
            continue
        groups.setdefault(case.group, []).append(case)
    return groups


def main():
    args = parse()
    if args.serve:
        build = {OURS: build_ours, PLAIN: build_plain}[args.serve]
        _harness.serve(build, packages=("jaxarch",), fields=("nngp", "ntk"))
        return 0
    groups, machine = select(args.cases), _script.machine()
    ours = [args.ours, *([PLAIN] if "main" in groups else [])]
    started = _script.commands(args, __file__, ours, "neural_tangents_dense.py")
    with _harness.Sides(started) as sides:
        run = Run(sides, args)
        for cases in groups.values():
            run.group(cases)
        sides.limits()
    run.floors()
    report = _script.make_report(
        "ntk_dense",
        machine,
        ours=args.ours,
        points=args.points,
        sides=sides.info,
        cases=run.report,
        depth_50_over_3=run.depth_ratios(),
    )
    print_report(report)
    return _script.finish(report, args.output, _script.failed_gates(run.report))


if __name__ == "__main__":
    sys.exit(main())
