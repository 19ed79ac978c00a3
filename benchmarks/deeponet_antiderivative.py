"""DeepONet learns the antiderivative: accuracy, and what sensors and data are worth.

The data of L. Lu, P. Jin, G. E. Karniadakis, arXiv:1910.03193, section 4.1: random
functions with length scale 0.2 at 100 sensors, one random point of each antiderivative,
10,000 functions to train on and 100,000 others to test. The networks are the paper's in
size, 100-40-40 and 1-40-40, with GELU for ReLU, batches of 1,000, and Adam with a
cosine schedule for a fixed rate: the paper has 9.27e-7 after 50,000 steps on all data.

`accuracy` is one network, the gate its mean square error; `sensors` and `points` are
networks of their own for each number of sensors and of training points. Beside the
sensors stands what no predictor can beat: the variance of the antiderivative given the
values at the sensors, exact for a Gaussian field.
"""

import functools
import sys
import time
from pathlib import Path

import _harness
import _script
import numpy as np

LENGTH_SCALE, WIDTH, BATCH, RATE = 0.2, 40, 1000, 3e-3
NUM_TRAIN, NUM_TEST = 10_000, 100_000
CHUNK = 1000  # steps between two looks at the clock
GATE = 2e-6
SENSORS = (2, 3, 4, 5, 6, 7, 8, 10, 14, 20, 100)
POINTS = (100, 300, 1000, 3000, 10_000, 30_000)


def train(seed, *, steps, num_sensors=100, num_train=NUM_TRAIN, activation="gelu"):
    """Trains a network and tests it on functions it has not seen."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxarch import operators as ops

    train_key, test_key, init_key, batch_key = jax.random.split(jax.random.key(seed), 4)
    pairs = functools.partial(
        ops.antiderivative_dataset,
        num_sensors=num_sensors,
        num_points=1,
        aligned=False,
        length_scale=LENGTH_SCALE,
    )
    data, unseen = pairs(train_key, num_train), pairs(test_key, NUM_TEST)
    sizes = (num_sensors, WIDTH, WIDTH), (1, WIDTH, WIDTH)
    params = ops.deeponet_init(init_key, *sizes)
    apply = functools.partial(
        ops.deeponet_apply, activation=getattr(jax.nn, activation)
    )

    def loss(params, u, y, s):
        return jnp.mean((jax.vmap(apply, (None, 0, 0))(params, u, y) - s) ** 2)

    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def run(params, state, data, key):
        def step(carry, key):
            params, state = carry
            batch = data
            if num_train > BATCH:
                rows = jax.random.randint(key, (BATCH,), 0, num_train)
                batch = jax.tree.map(lambda a: a[rows], data)
            value, gradient = jax.value_and_grad(loss)(params, *batch)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        keys = jax.random.split(key, CHUNK)
        carry, losses = jax.lax.scan(step, (params, state), keys)
        return *carry, losses.mean()

    test = jax.jit(loss)
    start, state, curve = time.perf_counter(), optimizer.init(params), []
    for i in range(steps // CHUNK):
        key = jax.random.fold_in(batch_key, i)
        params, state, value = run(params, state, data, key)
        if (i + 1) % max(1, steps // CHUNK // 20) == 0:
            found = float(test(params, *unseen))
            curve.append([(i + 1) * CHUNK, float(value), found])
            _harness.progress(f"  step {(i + 1) * CHUNK}: test {found:.2e}")
    return {
        "steps": steps,
        "seed": seed,
        "sensors": num_sensors,
        "train_pairs": num_train,
        "activation": activation,
        "parameters": sum(a.size for a in jax.tree.leaves(params)),
        "seconds": round(time.perf_counter() - start, 1),
        "train_mse": float(test(params, *data)),
        "test_mse": float(test(params, *unseen)),
        "curve": curve,
    }


def best_mse(num_sensors):
    """The mean over y of the variance of s(y) given u at the sensors.

    With Gauss-Legendre nodes on [0, y] for the integrals; a nugget of 1e-13 keeps the
    covariance of close sensors invertible.
    """

    def covariance(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2) / (2 * LENGTH_SCALE**2))

    nodes, weights = np.polynomial.legendre.leggauss(40)
    nodes, weights = (nodes + 1) / 2, weights / 2
    x = np.linspace(0, 1, num_sensors)
    of_sensors = covariance(x, x) + 1e-13 * np.eye(num_sensors)
    total = 0.0
    for y, weight in zip(nodes, weights, strict=True):
        cross = y * weights @ covariance(y * nodes, x)
        own = y**2 * weights @ covariance(y * nodes, y * nodes) @ weights
        total += weight * (own - cross @ np.linalg.solve(of_sensors, cross))
    return max(total, 0.0)


def fit(x, y):
    """The slope of log y in log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def accuracy(args):
    found = train(args.seed, steps=args.steps, activation=args.activation)
    return {"runs": [found], "gates": {"accurate": found["test_mse"] < GATE}}


def sensors(args):
    """More sensors, until the error is that of training."""
    runs = []
    for m in SENSORS:
        _harness.progress(f"{m} sensors")
        found = train(args.seed, steps=args.sweep_steps, num_sensors=m)
        del found["curve"]
        runs.append(found | {"best_mse": best_mse(m)})
    # While the sensors decide: where the best possible error is above the last one.
    floor = runs[-1]["test_mse"]
    few = [r for r in runs if r["best_mse"] > 3 * floor]
    m, errors = ([r[k] for r in few] for k in ("sensors", "test_mse"))
    decay = -float(np.polyfit(m, np.log10(errors), 1)[0])
    excess = max(r["test_mse"] / r["best_mse"] for r in few)
    return {
        "runs": runs,
        "decades_per_sensor": decay,
        "fitted_to": m,
        "largest_over_best": excess,
        "gates": {},
    }


def points(args):
    """More training points: the order of the error in their number."""
    runs = []
    for n in POINTS:
        _harness.progress(f"{n} training points")
        runs.append(train(args.seed, steps=args.sweep_steps, num_train=n))
        del runs[-1]["curve"]
    n, errors = ([r[k] for r in runs] for k in ("train_pairs", "test_mse"))
    few = [i for i, size in enumerate(n) if size <= 3000]
    many = [i for i, size in enumerate(n) if size >= 3000]
    orders = {
        name: -fit([n[i] for i in part], [errors[i] for i in part])
        for name, part in (("to_3000", few), ("from_3000", many))
    }
    return {"runs": runs, "orders": orders, "gates": {}}


CASES = {"accuracy": accuracy, "sensors": sensors, "points": points}


def plot(cases, path):
    """Draws the two sweeps."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    runs = cases["sensors"]["runs"]
    m = [r["sensors"] for r in runs]
    left.semilogy(m, [r["test_mse"] for r in runs], "o-", label="DeepONet, test")
    best = [(r["sensors"], r["best_mse"]) for r in runs if r["best_mse"] > 1e-10]
    left.semilogy(*zip(*best, strict=True), "k:", label="best possible")
    decay = cases["sensors"]["decades_per_sensor"]
    left.set(
        xscale="log",
        xlabel="sensors",
        ylabel="mean square error",
        title=f"first {decay:.2f} decades a sensor, then training decides",
    )
    left.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    left.minorticks_off()
    left.legend()
    runs, orders = cases["points"]["runs"], cases["points"]["orders"]
    n = [r["train_pairs"] for r in runs]
    right.loglog(n, [r["test_mse"] for r in runs], "o-", label="test")
    right.loglog(n, [r["train_mse"] for r in runs], "s--", label="train")
    right.set(
        xlabel="training points",
        title=f"order {orders['to_3000']:.1f}, from 3,000 on {orders['from_3000']:.1f}",
    )
    right.legend()
    for axes, shown in ((left, left.title), (right, right.title)):
        shown.set_fontsize("medium")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def print_report(report):
    """Prints the report as Markdown tables."""
    _script.print_machine(report["machine"])
    header = ["case", "sensors", "points", "steps", "seconds", "train", "test", "best"]
    rows = []
    for name, case in report["cases"].items():
        for r in case["runs"]:
            row = [name, *(str(r[k]) for k in ("sensors", "train_pairs", "steps"))]
            row += [f"{r['seconds']:.0f}", f"{r['train_mse']:.2e}"]
            best = f"{r['best_mse']:.1e}" if "best_mse" in r else ""
            rows.append([*row, f"{r['test_mse']:.2e}", best])
    _script.print_table(header, rows)
    for name, case in report["cases"].items():
        rest = {k: v for k, v in case.items() if k not in ("runs", "gates")}
        if rest:
            print(f"\n{name}: {rest}")


def main():
    parser = _script.parser(__doc__, repeats=1)
    _script.add_cases(parser, CASES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=_script.at_least(CHUNK), default=60_000)
    parser.add_argument("--sweep-steps", type=_script.at_least(CHUNK), default=20_000)
    parser.add_argument("--activation", default="gelu", help="a name in jax.nn")
    parser.add_argument("--plot", type=Path, help="draw the sweeps here")
    args = parser.parse_args()
    machine, commit = _script.machine(), _script.commit()
    cases = {name: CASES[name](args) for name in args.cases}
    report = _script.make_report(
        "deeponet_antiderivative", machine, commit=commit, cases=cases
    )
    print_report(report)
    if args.plot and {"sensors", "points"} <= set(cases):
        plot(cases, args.plot)
    return _script.finish(report, args.output, _script.failed_gates(cases))


if __name__ == "__main__":
    sys.exit(main())
