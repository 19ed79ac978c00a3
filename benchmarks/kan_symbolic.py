"""Ten formulas found again by KANs, and the error of the first against its grid.

Each: train on a coarse grid, refine it and train, prune and train, name the edges,
train the named network, write the formula. All by Levenberg-Marquardt in
float64, on 1000 points of a box. A formula counts as recovered if, with the numbers of
the network, it is right to 1e-4 (root mean square error over the standard deviation) on
new points of the box, and to 1e-3 on points of a larger box, of which at least a third
of the range is new.

    python benchmarks/kan_symbolic.py --output FILE --plot FILE.png
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

import _script as script
import jax
import jax.numpy as jnp
import numpy as np
import sympy
from _least_squares import least_squares
from scipy.special import j0

from jaxarch import layers

POINTS, STEPS, INTERVALS = 1000, 40, 5
SCALING = (3, 5, 10, 20, 50)
DOMAIN = (-1.5, 1.5)
DEGREE = 3
WITHIN, BEYOND = 1e-4, 1e-3


@dataclasses.dataclass(frozen=True)
class Case:
    """A formula, the network that can be it, and where it is looked at."""

    function: Callable
    sizes: tuple
    box: tuple[float, float] = (-1, 1)  # of each input
    larger: tuple[float, float] = (-1.5, 1.5)
    arity: int = 2
    intervals: int = 20  # of the refined grid


CASES = {
    "exp(sin(pi x) + y^2)": Case(
        lambda x, y: np.exp(np.sin(np.pi * x) + y**2), (2, 1, 1)
    ),
    "x y": Case(lambda x, y: x * y, (2, (0, 1))),
    "sin(pi x) + y^2": Case(lambda x, y: np.sin(np.pi * x) + y**2, (2, 1)),
    "x / (1 + y^2)": Case(lambda x, y: x / (1 + y**2), (2, (0, 1))),
    "exp(-(x^2 + y^2))": Case(lambda x, y: np.exp(-(x**2) - y**2), (2, 1, 1)),
    "sqrt(x^2 + y^2)": Case(np.hypot, (2, 1, 1)),
    "(x + y) / (1 + x y)": Case(
        lambda x, y: (x + y) / (1 + x * y), (2, 1, 1), (-0.7, 0.7), (-0.95, 0.95)
    ),
    "1 / (1 + exp(-3 x))": Case(lambda x: 1 / (1 + np.exp(-3 * x)), (1, 1)),
    "J0(20 x)": Case(lambda x: j0(20 * x), (1, 1), intervals=40),
    "x exp(-y) z": Case(lambda x, y, z: x * np.exp(-y) * z, (3, (0, 1)), arity=3),
}


def network(params, data, x):
    """A trained network of which some edges stay away; one number."""
    return layers.kan_apply(layers.kan_mask(params, data), x)[0]


def symbolic(params, data, x):
    """A network of named functions; one number."""
    del data
    return layers.symbolic_kan_apply(params, x)[0]


def points(case, rng, box, count=POINTS):
    """Points of a box and the values there."""
    x = rng.uniform(*box, (count, case.sizes[0]))
    return jnp.asarray(x), jnp.asarray(case.function(*x.T))


@functools.partial(jax.jit, static_argnames=("sizes", "arity", "num_intervals"))
def start(key, sizes, arity, num_intervals):
    """Initial parameters."""
    return layers.kan_init(
        key,
        sizes,
        num_intervals=num_intervals,
        degree=DEGREE,
        domain=DOMAIN,
        arity=arity,
        dtype=jnp.float64,
    )


def fit(params, x, y, edges=None, steps=STEPS):
    """Trains a network, all of whose edges are there if none are given."""
    if edges is None:
        edges = [np.ones(p.coefficients.shape[1:], bool) for p in params.layers]
    return least_squares(network, params, edges, x, y, num_steps=steps)


def best_start(case, seeds, x, y, num_intervals):
    """The best of some initial values after training on the first grid."""
    tried = []
    for seed in range(seeds):
        params = start(jax.random.key(seed), case.sizes, case.arity, num_intervals)
        tried.append(fit(params, x, y))
    return min(tried, key=lambda found: found[1])[0]


def relative_error(function, x, y):
    """Root mean square error over the standard deviation."""
    error = np.sqrt(np.mean((np.asarray(function(x)) - np.asarray(y)) ** 2))
    return float(error / np.std(y))


def discover(case, seeds):
    """Runs one case; what it found."""
    began, rng = time.perf_counter(), np.random.default_rng(0)
    x, y = points(case, rng, case.box)
    params = best_start(case, seeds, x, y, INTERVALS)
    params, _ = layers.kan_refine(params, case.intervals)
    params, _ = fit(params, x, y)
    params, _, pruned = layers.kan_prune(params, x)
    params, error = fit(params, x, y, pruned["edges"])
    named, report = layers.kan_symbolic(params, x)
    tuned, tuned_error = least_squares(symbolic, named, (), x, y, num_steps=5 * STEPS)
    names = ("x", "y", "z")[: case.sizes[0]]
    (exact,) = layers.kan_formula(tuned, names=names, digits=None)
    (formula,) = layers.kan_formula(tuned, names=names)
    variables = [sympy.Symbol(name, real=True) for name in names]
    value = sympy.lambdify(variables, exact, ["scipy", "numpy"])

    def evaluate(x):
        return np.broadcast_to(value(*np.asarray(x).T), len(x))

    within = relative_error(evaluate, *points(case, rng, case.box))
    beyond = relative_error(evaluate, *points(case, rng, case.larger))
    return {
        "formula": str(formula),
        "recovered": bool(within < WITHIN and beyond < BEYOND),
        "relative_rmse_new_points": _number(within),
        "relative_rmse_larger_box": _number(beyond),
        "rmse_spline_network": float(error),
        "rmse_named_network_trained": float(tuned_error),
        "sizes": case.sizes,
        "nodes_left": pruned["nodes"],
        "edges": [
            {key: edge[key] for key in ("layer", "edge", "function", "r_squared")}
            | {"runner_up": edge["candidates"][1:2]}
            for edge in report
        ],
        "seconds": time.perf_counter() - began,
    }


def scaling(case, seeds):
    """The error of a network on new points at growing numbers of intervals."""
    rng = np.random.default_rng(1)
    x, y = points(case, rng, case.box, 4000)
    new_x, new_y = points(case, rng, case.box, 4000)
    params = best_start(case, seeds, x, y, SCALING[0])
    found = {}
    for num_intervals in SCALING:
        params, _ = layers.kan_refine(params, num_intervals)
        params, error = fit(params, x, y, steps=2 * STEPS)
        outputs = jax.vmap(layers.kan_apply, (None, 0))(params, new_x)[:, 0]
        found[num_intervals] = {
            "rmse_train": float(error),
            "rmse_new": float(jnp.sqrt(jnp.mean((outputs - new_y) ** 2))),
        }
    sizes = [g for g in found if 10 <= g]
    logs = np.log([[g, found[g]["rmse_new"]] for g in sizes])
    return {"errors": found, "slope": float(np.polyfit(*logs.T, 1)[0])}


def plot(found, path):
    """Error against intervals, and the slope that splines of the degree promise."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sizes = np.array(list(found["errors"]))
    figure, axis = plt.subplots(figsize=(5, 4), layout="constrained")
    for key, label in (("rmse_new", "new points"), ("rmse_train", "training points")):
        errors = [entry[key] for entry in found["errors"].values()]
        axis.loglog(sizes, errors, "o-", label=label)
    rate = DEGREE + 1
    axis.loglog(sizes, errors[2] * (sizes / sizes[2]) ** -rate, "k:", label=f"-{rate}")
    axis.set(xlabel="intervals G", ylabel="RMSE", title="exp(sin(pi x) + y^2), 2-1-1")
    axis.set_xticks(sizes, sizes, minor=False)
    axis.set_xticks([], minor=True)
    axis.legend()
    figure.savefig(path, dpi=120)


def _number(value):
    return value if np.isfinite(value) else None


def main():
    """Prints a table and writes the report."""
    parser = script.parser(__doc__, repeats=3, repeats_help="initial values tried")
    script.add_cases(parser, [*CASES, "scaling"])
    parser.add_argument("--plot", type=Path, help="draw error against intervals here")
    args = parser.parse_args()
    machine = script.machine()
    jax.config.update("jax_enable_x64", True)
    fields, found = {}, {}
    for name in args.cases:
        if name == "scaling":
            continue
        script.progress(name)
        found[name] = discover(CASES[name], args.repeats)
        script.progress(f"  {found[name]['formula']}")
    if "scaling" in args.cases:
        fields["scaling"] = scaling(CASES["exp(sin(pi x) + y^2)"], args.repeats)
        script.progress(str(fields["scaling"]))
        if args.plot:
            plot(fields["scaling"], args.plot)
    script.print_machine(machine)
    header = ["formula", "recovered", "found", "new points", "larger box", "seconds"]
    rows = [
        [
            name,
            "yes" if entry["recovered"] else "no",
            f"`{entry['formula']}`",
            *(
                "not finite" if entry[key] is None else f"{entry[key]:.0e}"
                for key in ("relative_rmse_new_points", "relative_rmse_larger_box")
            ),
            f"{entry['seconds']:.0f}",
        ]
        for name, entry in found.items()
    ]
    script.print_table(header, rows)
    report = script.make_report("kan_symbolic", machine, cases=found, **fields)
    recovered = sum(entry["recovered"] for entry in found.values())
    lost = len(found) - recovered
    failed = [f"{lost} of {len(found)} formulas not recovered"] if lost > 2 else []
    return script.finish(report, args.output, failed)


if __name__ == "__main__":
    raise SystemExit(main())
