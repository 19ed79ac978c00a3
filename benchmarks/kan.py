"""Kolmogorov-Arnold networks of B-splines: jaxarch beside those that people use.

pykan, efficient-kan, inkan, flashkan and FastKAN's formula on PyTorch, jaxKAN on JAX,
and dense layers. All have the same sizes, the same inputs and, where they compute the
same function (all but FastKAN and the dense layers), the same parameters: degree 3,
float32, batch 1024. Each runs in a process of its own; they take turns.

- `main`: 5 intervals; forward, and forward with the gradient of the mean square of the
  output in all parameters and the input.
- `large_grids`: 20 and 50 intervals.
- `compile`: seconds to trace and compile, against depth and intervals.
- `memory`: a batch of 36,864: temporary memory, and the peak of a fresh process.

`README.md` in this folder says how to read the output. The exit status is 1 if a gate
fails: an error of ours against NumPy in float64 above 4e-7 of the largest value for
each interval, or a goal of `main` that is missed.
"""

import functools
import statistics
import sys
from typing import NamedTuple

import _harness
import _kan
import _script
from _kan import BY_HAND, DENSE, OURS, WIDE

TOLERANCE = 4e-7  # for each interval: slopes grow with their number
DEGREE, BATCH, LARGE_BATCH = 3, 1024, 36_864
GRIDS = (20, 50)
SIZES = {"64-64": (64, 64), "2-5-1": (2, 5, 1), "784-64-10": (784, 64, 10)}
LARGE = ("64-64", "784-64-10")
PASSES = {"forward": False, "both": True}
CASES = ("main", "large_grids", "compile", "memory")
DEPTHS = ((1, 5), (4, 5), (8, 5), (1, 20), (1, 50))  # layers, intervals
REMAT = f"{OURS}-remat"
UNASKED = ("efficient-kan-compiled",)  # sides that only `--sides` starts
SLOW = {"pykan": 3}  # repetitions at most, of a side that takes seconds a call

ENVIRONMENTS = {
    "pykan": "kan_pykan",
    "efficient-kan": "kan_efficient",
    "efficient-kan-compiled": "kan_efficient",
    "fast-kan": "kan_efficient",
    "inkan": "kan_inkan",
    "flashkan": "kan_inkan",
    "jaxkan": "kan_jaxkan",
}


class Goal(NamedTuple):
    """How many times as fast as a side we want to be: geometric mean over `LARGE`."""

    side: str
    kind: str
    times: float


GOALS = (
    Goal("efficient-kan", "forward", 9),
    Goal("efficient-kan", "both", 9),
    Goal("jaxkan", "forward", 5),
    Goal("jaxkan", "both", 10),
    Goal("pykan", "forward", 25),
    Goal("pykan", "both", 25),
    Goal(WIDE, "forward", 1 / 1.25),
    Goal(WIDE, "both", 1 / 1.25),
)


# --- the sides --------------------------------------------------------------------


def commands(args):
    """How each side is started."""
    sides = {
        side: [sys.executable, __file__, "--serve", side]
        for side in (OURS, BY_HAND, DENSE, WIDE)
    }
    pythons = {
        environment: _script.peer_python(args, environment)
        for environment in dict.fromkeys(ENVIRONMENTS.values())
    }
    for side, environment in ENVIRONMENTS.items():
        name = "kan_jaxkan.py" if side == "jaxkan" else "kan_torch.py"
        if pythons[environment].exists():
            script = _script.HERE / "peers" / name
            sides[side] = [pythons[environment], script, side]
    default = [side for side in sides if side not in UNASKED]
    wanted = args.sides.split(",") if args.sides else default
    if unknown := [side for side in wanted if side not in sides]:
        raise SystemExit(f"{unknown} not among {list(sides)}")
    return {side: sides[side] for side in dict.fromkeys([OURS, *wanted])}


class Problem:
    """A network with numbers, its inputs, and its values in float64."""

    def __init__(self, sides, name, sizes, num_intervals, batch=BATCH):
        self.name = name
        self._numbers = _kan.draw(sizes, num_intervals, DEGREE, batch)
        layers, x = self._numbers
        self._spec = {
            "sizes": sizes,
            "num_intervals": num_intervals,
            "degree": DEGREE,
            "layers": [
                sides.save(f"{name}-{number}-", arrays)
                for number, arrays in enumerate(layers)
            ],
        }
        self.inputs = sides.save(f"{name}-x", [x])
        self.summary = {k: v for k, v in self._spec.items() if k != "layers"}
        self.summary |= {"batch": batch, "dtype": "float32"}

    def spec(self, kind, *, remat=False):
        """What the sides build their programs from."""
        return self._spec | {"gradient": PASSES[kind], "remat": remat}

    @functools.cached_property
    def exact(self):
        """The values in float64."""
        return _kan.reference(*self._numbers, self._spec["num_intervals"], DEGREE)


# --- times ------------------------------------------------------------------------


def run_problem(problem, sides, repeats):
    """Both passes of one network on all sides: an entry for each."""
    entries, samples = {}, {}
    for kind in PASSES:
        name = f"{problem.name}-{kind}"
        entry = entries[kind] = problem.summary | {"sides": {}}
        for side in sides.workers:
            found = sides.setup(
                side, name, spec=problem.spec(kind), inputs=problem.inputs
            )
            entry["sides"][side] = found
        done = [s for s, found in entry["sides"].items() if "error" not in found]
        taken = _repeat(sides, name, done, repeats)
        for side in done:
            found = entry["sides"][side]
            found.update(_harness.summaries(taken[side]))
            if OURS in done:
                for clock in ("wall", "cpu"):
                    own, ours = (_seconds(taken[s], clock) for s in (side, OURS))
                    ratio = _harness.paired_ratio(own, ours[: len(own)])
                    found[f"{clock}_over_ours"] = ratio
            if side not in (DENSE, WIDE, "fast-kan"):
                values = sides.values(side, name, problem.inputs)
                found["errors"] = _kan.error(values, problem.exact)
        entry["gates"] = {"runs": OURS in done}
        if OURS in done:
            largest = entry["sides"][OURS]["errors"]["largest"]
            limit = TOLERANCE * problem.summary["num_intervals"]
            entry["gates"]["accurate"] = largest <= limit
        samples[kind] = taken
        sides.drop(done)
    return entries, samples


def _repeat(sides, name, done, repeats):
    """The repetitions of each side, in turns; slow sides take part in the first."""
    fast = [side for side in done if side not in SLOW]
    first = min(repeats, *SLOW.values())
    taken = sides.repeat([(name, side) for side in done], first)
    more = sides.repeat([(name, side) for side in fast], repeats - first)
    return {side: taken[name, side] + more.get((name, side), []) for side in done}


def _seconds(repetitions, clock):
    return [repetition[f"{clock}_s"] for repetition in repetitions]


def judge(samples):
    """Each goal with the speed that was found: repetitions of both networks paired."""
    found = []
    for goal in GOALS:
        networks = [samples[name][goal.kind] for name in LARGE]
        if not all(goal.side in taken and OURS in taken for taken in networks):
            continue
        entry = goal._asdict()
        for clock in ("wall", "cpu"):
            ratios = []  # of each network, a list over repetitions
            for taken in networks:
                theirs, ours = (_seconds(taken[s], clock) for s in (goal.side, OURS))
                ratios.append([a / b for a, b in zip(theirs, ours, strict=False)])
            means = [statistics.geometric_mean(r) for r in zip(*ratios, strict=True)]
            entry[f"{clock}_ratio"] = _harness.summary(means)
        found.append(entry | {"met": entry["wall_ratio"]["median"] >= goal.times})
    return found


def run_compile(sides, repeats):
    """Seconds to trace and to compile, for sides that do."""
    found = []
    for depth, num_intervals in DEPTHS:
        name = f"depth-{depth}-{num_intervals}"
        problem = Problem(sides, name, (64,) * (depth + 1), num_intervals)
        entry = {"depth": depth, "num_intervals": num_intervals, "sides": {}}
        wanted = [side for side in (OURS, "jaxkan") if side in sides.workers]
        seconds = {side: {"lower_s": [], "compile_s": []} for side in wanted}
        for number in range(repeats):
            for side in wanted:
                spec, label = problem.spec("both"), f"{name}-{number}"
                one = sides.setup(side, label, spec=spec, inputs=problem.inputs)
                for part, taken in seconds[side].items():
                    taken.append(one[part])
        for side, parts in seconds.items():
            entry["sides"][side] = {k: _harness.summary(v) for k, v in parts.items()}
        sides.drop(wanted)
        found.append(entry)
    return found


# --- memory -----------------------------------------------------------------------


def run_memory(started, sides, limit):
    """Memory of forward with gradient at a large batch, each in a fresh process."""
    found = {}
    for network in LARGE:
        name = f"{network}-memory"
        problem = Problem(sides, name, SIZES[network], 5, LARGE_BATCH)
        entry = found[network] = problem.summary | {"limit_bytes": limit, "sides": {}}
        for side in (OURS, REMAT, *(s for s in started if s not in (OURS, BY_HAND))):
            _harness.progress(f"{name}: {side}")
            spec = problem.spec("both", remat=side == REMAT)
            command = started[OURS if side == REMAT else side]
            entry["sides"][side] = _memory(command, spec, problem.inputs, limit)
    return found


def _memory(command, spec, inputs, limit):
    worker = _harness.Worker(command)
    try:
        worker.ask("limit", bytes=limit)
        before = worker.ask("peak")["peak_bytes"]
        setup = worker.ask("setup", name="memory", spec=spec, inputs=inputs)
        taken = worker.ask("peak")["peak_bytes"] - before
        seconds = worker.ask("time", name="memory")["wall_s"]
    except _harness.WorkerError as error:
        _harness.progress(str(error)[-300:])
        return {"error": str(error)[-300:]}
    finally:
        worker.close()
    return {
        "temp_bytes": setup["temp_bytes"],
        "peak_bytes": taken,
        "before_bytes": before,
        "seconds": seconds,
    }


# --- the report -------------------------------------------------------------------


def print_times(entries):
    spread, rows = _script.spread, []
    for network, kinds in entries.items():
        for kind, entry in kinds.items():
            for side, found in entry["sides"].items():
                row = [network, kind, side]
                if "wall_s" not in found:
                    rows.append([*row, "failed", *[""] * 7])
                    continue
                digits = 1 if found["wall_s"]["median"] > 0.1 else 2
                row += [spread(found["wall_s"], 1e3, digits)]
                for clock in ("wall", "cpu"):
                    ratio = found.get(f"{clock}_over_ours")
                    row += ["" if side == OURS else spread(ratio, digits=2)]
                start = sum(
                    found[part] for part in ("lower_s", "compile_s", "first_run_s")
                )
                row += [f"{start:.2f}", _script.temp_megabytes(found)]
                flops = found["flops"]
                row += ["" if flops is None else f"{flops / 1e6:.0f}"]
                errors = found.get("errors")
                row += [f"{errors['largest']:.1e}" if errors else ""]
                gates = entry["gates"] if side == OURS else {}
                rows.append([*row, _script.judged(gates)])
    header = "sizes, pass, side, ms a call, over ours, CPU over ours, first s, temp MB"
    _script.print_table([*header.split(", "), "MFLOP", "largest error", "gates"], rows)
    print()


def print_goals(goals):
    rows = []
    for goal in goals:
        ratios = (goal[f"{clock}_ratio"] for clock in ("wall", "cpu"))
        row = [goal["side"], goal["kind"], f"{goal['times']:.3g}"]
        row += [_script.spread(ratio, digits=2) for ratio in ratios]
        rows.append([*row, "met" if goal["met"] else "MISSED"])
    header = "side, pass, wanted, its time over ours, its CPU time over ours, goal"
    _script.print_table(header.split(", "), rows)
    print()


def print_compile(entries):
    rows = []
    for entry in entries:
        for side, parts in entry["sides"].items():
            row = [str(entry["depth"]), str(entry["num_intervals"]), side]
            rows.append([*row, *(_script.spread(p, digits=2) for p in parts.values())])
    header = "layers, intervals, side, trace and lower s, compile s"
    _script.print_table(header.split(", "), rows)
    print()


def print_memory(entries):
    rows = []
    for network, entry in entries.items():
        for side, found in entry["sides"].items():
            if "error" in found:
                more = f"over {entry['limit_bytes'] / 1e9:.0f} GB, or failed"
                rows.append([network, side, "", more, ""])
                continue
            row = [network, side, _script.temp_megabytes(found)]
            peak, seconds = found["peak_bytes"] / 1e6, found["seconds"]
            rows.append([*row, f"{peak:.0f}", f"{seconds:.2f}"])
    _script.print_table("sizes, side, temp MB, peak MB, s a call".split(", "), rows)
    print()


def failed_gates(report):
    """A line for each gate that fails and each goal that is missed."""
    failed = []
    for group in ("main", "large_grids"):
        for network, entries in report.get(group, {}).items():
            failed += _script.failed_gates(
                {f"{network} {kind}": entry for kind, entry in entries.items()}
            )
    for goal in report.get("goals", ()):
        if not goal["met"]:
            name = f"{goal['side']}, {goal['kind']}"
            found = f"{goal['wall_ratio']['median']:.2f} of {goal['times']:.3g}"
            failed.append(f"goal missed: {name}: {found}")
    return failed


def parse(argv=None):
    parser = _script.parser(__doc__, repeats=11)
    _script.add_cases(parser, CASES)
    parser.add_argument("--sides", help="only these beside ours, separated by commas")
    parser.add_argument(
        "--memory-limit",
        type=_script.at_least(1),
        default=14,
        metavar="GB",
        help="what a process may take in `memory` (14)",
    )
    _script.add_sides(parser, ours=[OURS, BY_HAND, DENSE, WIDE], one_peer=False)
    return parser.parse_args(argv)


def main():
    args = parse()
    if args.serve:
        build = functools.partial(_kan.build, args.serve)
        _harness.serve(build, packages=("jaxarch",), fields=_kan.read)
        return 0
    machine, started = _script.machine(), commands(args)
    report = _script.make_report("kan", machine)
    _script.print_machine(machine)
    with _harness.Sides(started) as sides:
        report["sides"] = sides.info
        sides.limits([OURS])
        if "main" in args.cases:
            entries, samples = {}, {}
            for name, sizes in SIZES.items():
                problem = Problem(sides, name, sizes, 5)
                entries[name], samples[name] = run_problem(problem, sides, args.repeats)
            report |= {"main": entries, "goals": judge(samples)}
            print_times(entries)
            print_goals(report["goals"])
        if "large_grids" in args.cases:
            entries = report["large_grids"] = {}
            for num_intervals in GRIDS:
                for name in LARGE:
                    label = f"{name}-g{num_intervals}"
                    problem = Problem(sides, label, SIZES[name], num_intervals)
                    entries[label], _ = run_problem(problem, sides, args.repeats)
            print_times(entries)
        if "compile" in args.cases:
            report["compile"] = run_compile(sides, min(3, args.repeats))
            print_compile(report["compile"])
        if "memory" in args.cases:
            limit = args.memory_limit * 10**9
            report["memory"] = run_memory(started, sides, limit)
            print_memory(report["memory"])
    return _script.finish(report, args.output, failed_gates(report))


if __name__ == "__main__":
    sys.exit(main())
