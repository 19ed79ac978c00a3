"""Scale mixtures of NNGPs: what they cost, and where they help.

- `cost`: `condition` and `predict` at 2000 points with a prior on the scale, over the
  Gaussian process they rest on; the log evidence with its gradient; noise that is not
  scaled, which takes an eigendecomposition.
- `data`: negative log likelihood and calibration error on scikit-learn's digits and
  diabetes, clean, with outliers, with corrupted labels, out of distribution and with
  few training points, beside the NNGP.

All hyper-parameters are those that the evidence prefers, found by the same optimiser:
the bias scale of the hidden layers, the noise, and for the NNGP the scale of the output
(a rectifier makes the weight scales of all layers one number), without which a mixture
would win by learning it. The evidence of one data set, which has ONE scale, is largest
for a prior with all its mass at one point: an inverse gamma that is learnt comes near
the Gaussian process. `inverse gamma, a = 2` therefore learns its scale b alone.

    python benchmarks/scale_mixture.py --cases cost --output FILE
    OPENBLAS_NUM_THREADS=1 python benchmarks/scale_mixture.py --cases data --output FILE

The matrices of `data` are small: on a busy machine one thread is 20 times faster.

Exit status 1 if a gate fails: the posterior costs more than 1.1 times (median).
"""

import dataclasses
import functools
import math
import time

import _harness
import _script as script
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats
from sklearn.datasets import load_diabetes, load_digits

from jaxarch import kernels as ker

CASES = ("cost", "data")
GATE = 1.1


def network(h, b_std=0.3, depth=2):
    """Hidden layers with rectifiers; the scale of the output is the caller's."""
    for _ in range(depth):
        h = ker.relu(ker.dense(h, 512, w_std=math.sqrt(2), b_std=b_std))
    return ker.dense(h, 1)


# --- cost -------------------------------------------------------------------------

PRIORS = {
    "Gaussian process": None,
    "inverse gamma": ker.InverseGamma(2.0, 2.0),
    "Burr XII": ker.BurrXII(2.0, 1.0),
    "half-Cauchy": ker.HalfCauchy(1.0),
}


@functools.partial(jax.jit, static_argnames="scaled")
def posterior(prior, k, k_star, k_test, y, noise, scaled=True):
    """Mean and variance at the test points."""
    given = ker.condition(k, y, noise=noise, prior=prior, noise_scaled=scaled)
    found = ker.predict(given, k_star, k_test)
    return found.mean, found.variance


@functools.partial(jax.jit, static_argnames="scaled")
def evidence(prior, k, k_star, k_test, y, noise, scaled=True):
    """The log evidence, and its gradient in the Gram, the noise and the prior."""

    def value(k, noise, prior):
        given = ker.condition(k, y, noise=noise, prior=prior, noise_scaled=scaled)
        return ker.log_evidence(given)

    return jax.value_and_grad(value, (0, 1, 2))(k, noise, prior)


def run_cost(args):
    """Times, in turns, of every prior over the Gaussian process."""
    rng = np.random.default_rng(0)
    n, n_test = args.points, args.points // 10
    x = rng.standard_normal((n + n_test, 64)).astype(np.float32)
    gram = np.asarray(ker.infinite(functools.partial(network, depth=3))(x).nngp)
    k, k_star, k_test = gram[:n, :n], gram[n:, :n], np.diagonal(gram)[n:]
    plain = next(iter(PRIORS))
    cases = {}
    for outputs in (1, 10):
        y = rng.standard_normal((n, outputs)).astype(np.float32)
        inputs = jax.device_put((k, k_star, k_test, y, np.float32(0.1)))
        for work in (posterior, evidence):
            programs = {name: (work, prior, True) for name, prior in PRIORS.items()}
            if outputs == 1:
                programs |= {
                    f"{name}, noise outside": (work, prior, False)
                    for name, prior in PRIORS.items()
                    if prior is not None and args.outside
                }
            seconds = {name: [] for name in programs}
            cpu = {name: [] for name in programs}
            for turn in range(-1, args.repeats):
                for name, (function, prior, scaled) in programs.items():
                    if not scaled and turn >= args.repeats // 3:
                        continue
                    start, used = time.perf_counter(), time.process_time()
                    found = function(prior, *inputs, scaled=scaled)
                    jax.block_until_ready(found)
                    if turn >= 0:
                        seconds[name].append(time.perf_counter() - start)
                        cpu[name].append(time.process_time() - used)
            case = f"{work.__name__}, {outputs} output{'s' * (outputs > 1)}"
            script.progress(case)
            cases[case] = {
                name: {
                    "seconds": _harness.summary(taken),
                    "over_process": _harness.paired_ratio(
                        taken, seconds[plain][: len(taken)]
                    ),
                    "cpu_s": _harness.summary(cpu[name]),
                    "cpu_over_process": _harness.paired_ratio(
                        cpu[name], cpu[plain][: len(taken)]
                    ),
                    "samples_s": taken,
                    "samples_cpu_s": cpu[name],
                }
                for name, taken in seconds.items()
            }
    gates = {
        f"{case}, {name}: at most {GATE}": entry["over_process"]["median"] <= GATE
        for case, entries in cases.items()
        for name, entry in entries.items()
        if case.startswith("posterior") and "outside" not in name
    }
    return {"points": n, "dtype": "float32", "times": cases, "gates": gates}


def print_cost(found):
    """One row a program."""
    rows = [
        [case, name, script.spread(entry["seconds"], 1e3, 1)]
        + [script.spread(entry["over_process"], digits=2)]
        + [script.spread(entry["cpu_s"], 1e3, 1)]
        + [script.spread(entry["cpu_over_process"], digits=2)]
        for case, entries in found["times"].items()
        for name, entry in entries.items()
    ]
    header = ["work", "prior", "ms", "over the process", "cpu ms", "over the process"]
    script.print_table(header, rows)


# --- data: the models -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Method:
    """A model: its numbers beside the noise, where they start, and their ranges.

    The last number is a scale.
    """

    kind: str
    names: tuple[str, ...]
    start: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


BIASES = np.geomspace(0.03, 10, 6)
NOISE = (0.1, 1e-5, 30)  # the first guess and the range
METHODS = {
    "NNGP": Method("process", ("scale",), (1,), (1e-3,), (1e3,)),
    "NNGP, scale 1": Method("process", ("scale",), (1,), (1,), (1,)),
    "inverse gamma": Method("ig", ("a", "b"), (2, 2), (0.5, 1e-3), (100, 1e5)),
    "inverse gamma, a = 2": Method("ig", ("a", "b"), (2, 2), (2, 1e-3), (2, 1e4)),
    "Burr XII": Method(
        "burr", ("c", "k", "scale"), (2, 1, 1), (0.5, 0.5, 1e-3), (50, 50, 1e3)
    ),
    "half-Cauchy": Method("cauchy", ("scale",), (1,), (1e-3,), (1e3,)),
}


def condition(kind, numbers, k, y):
    """The posterior, and what the kernel is multiplied by."""
    noise, *own = jnp.exp(numbers)
    prior, scale = None, jnp.ones_like(noise)
    if kind == "ig":
        prior = ker.InverseGamma(*own)
    elif kind == "cauchy":
        prior = ker.HalfCauchy(*own)
    else:
        *own, scale = own
        prior = ker.BurrXII(*own) if kind == "burr" else None
    return ker.condition(scale * k, y, noise=scale * noise, prior=prior), scale


@functools.partial(jax.jit, static_argnames="kind")
def loss(kind, numbers, k, y):
    """Minus the log evidence a number, with its gradient."""

    def value(numbers):
        return -ker.log_evidence(condition(kind, numbers, k, y)[0]) / y.size

    return jax.value_and_grad(value)(numbers)


def fit(method, k, y, noise=NOISE[0], scale=1.0):
    """The numbers that the evidence prefers, and the evidence a number of `y`."""
    *start, last = method.start
    low, high = np.log([NOISE[1], *method.low]), np.log([NOISE[2], *method.high])

    def value(numbers):
        found, gradient = loss(method.kind, jnp.asarray(numbers), k, y)
        return float(found), np.asarray(gradient)

    found = scipy.optimize.minimize(
        value,
        np.clip(np.log([noise, *start, scale * last]), low, high),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low, high, strict=True)),
        options={"maxiter": 50, "ftol": 1e-8, "gtol": 1e-5},
    )
    return np.exp(found.x), -found.fun


@functools.partial(jax.jit, static_argnames=("kind", "classes"))
def predictions(kind, numbers, k, y, k_star, k_test, wanted, classes):
    """Of new observations: probabilities of classes, or log densities and levels."""
    posterior, scale = condition(kind, jnp.log(numbers), k, y)
    found = ker.predict(posterior, scale * k_star, scale * k_test, noisy=True)
    if classes:  # the integral in float32: exact enough, and the dearest part
        found = jax.tree.map(lambda a: a.astype(jnp.float32), found)
        if kind == "process":
            return ker.class_probabilities(found.mean, found.variance)
        return found.class_probabilities()
    if kind == "process":
        z = (wanted - found.mean) / jnp.sqrt(found.variance)
        log_prob = -z * z / 2 - jnp.log(2 * math.pi * found.variance) / 2
        return log_prob, jax.scipy.stats.norm.cdf(z)
    return found.log_prob(wanted), found.cdf(wanted)


# --- data: the data ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Task:
    """Training data and, for each condition that they serve, test points."""

    train: np.ndarray  # rows of the inputs
    y: np.ndarray
    tests: dict  # of rows of the inputs
    wanted: np.ndarray  # targets or labels of the test points


def rows(*counts):
    """Consecutive ranges of these lengths."""
    return np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])


def diabetes(seed, args):
    """Inputs and tasks of one split, standardised by its training part."""
    rng = np.random.default_rng(seed)
    x, y = load_diabetes(return_X_y=True, scaled=False)
    train, test = np.split(rng.permutation(len(y)), [4 * len(y) // 5])
    x = (x - x[train].mean(0)) / x[train].std(0)
    y = (y - y[train].mean()) / y[train].std()
    dirty = y[train].copy()
    chosen = rng.permutation(len(train))[: len(train) // 10]
    dirty[chosen] += 5 * rng.choice([-1, 1], len(chosen))
    direction = rng.standard_normal(x.shape[1])
    direction *= 3 / np.linalg.norm(direction)
    moved = x[test] + direction + 0.5 * rng.standard_normal(x[test].shape)
    all_of, clean, away = rows(len(train), len(test), len(test))
    few, wanted = args.few, y[test]
    tasks = [
        Task(all_of, y[train], {"clean": clean, "out of distribution": away}, wanted),
        Task(all_of, dirty, {"outliers": clean}, wanted),
        Task(all_of[:few], y[train][:few], {f"{few} points": clean}, wanted),
    ]
    return np.concatenate([x[train], x[test], moved]), tasks


def digits(seed, args):
    """Inputs and tasks of one split; the targets are one-hot, less their mean."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    images = images / 16
    order = rng.permutation(len(labels))
    train, test = np.split(order[: args.images + args.tests], [args.images])
    targets = np.eye(10) - 0.1
    dirty = labels[train].copy()
    chosen = rng.permutation(len(train))[: len(train) // 5]
    dirty[chosen] = rng.integers(0, 10, len(chosen))
    moved = np.roll(images[test].reshape(-1, 8, 8), 1, axis=2).reshape(-1, 64)
    moved = moved + 0.2 * rng.standard_normal(moved.shape)
    all_of, clean, away = rows(len(train), len(test), len(test))
    few, y, wanted = 2 * args.few, targets[labels[train]], labels[test]
    tasks = [
        Task(all_of, y, {"clean": clean, "out of distribution": away}, wanted),
        Task(all_of, targets[dirty], {"corrupted labels": clean}, wanted),
        Task(all_of[:few], y[:few], {f"{few} points": clean}, wanted),
    ]
    return np.concatenate([images[train], images[test], moved]), tasks


def scores(kind, numbers, gram, task, test):
    """Mean negative log likelihood, and the calibration error."""
    k, k_star = gram[np.ix_(task.train, task.train)], gram[np.ix_(test, task.train)]
    arrays = jnp.asarray(numbers), k, task.y, k_star, np.diagonal(gram)[test]
    classes = task.y.ndim == 2
    found = predictions(kind, *arrays, None if classes else task.wanted, classes)
    if not classes:
        log_prob, level = map(np.asarray, found)
        nominal = np.arange(1, 20) / 20
        empirical = (level[:, None] <= nominal).mean(0)
        return -log_prob.mean(), np.abs(empirical - nominal).mean()
    probability = np.asarray(found, float)
    log_prob = np.log(probability[np.arange(len(test)), task.wanted])
    confidence, right = probability.max(1), probability.argmax(1) == task.wanted
    bins = np.minimum((confidence * 15).astype(int), 14)
    gap = np.bincount(bins, right - confidence, minlength=15)
    return -log_prob.mean(), np.abs(gap).sum() / len(test)


def run_task(task, grams):
    """The bias scale that the NNGP prefers, and for each method its scores there."""
    inside = [gram[np.ix_(task.train, task.train)] for gram in grams]
    tried = [fit(METHODS["NNGP"], k, task.y) for k in inside]
    best = int(np.argmax([evidence for _, evidence in tried]))
    for name, method in METHODS.items():
        if name == "NNGP":
            numbers, value = tried[best]
        else:
            numbers, value = fit(method, inside[best], task.y, *tried[best][0])
        learnt = dict(zip(("noise", *method.names), numbers.tolist(), strict=True))
        learnt = {"b_std": float(BIASES[best]), **learnt}
        for condition, test in task.tests.items():
            nll, error = scores(method.kind, numbers, grams[best], task, test)
            found = {"nll": nll, "calibration": error, "evidence": value}
            yield condition, name, {**found, "numbers": learnt}


def run_data(args):
    """Scores of every method on every data set, condition and seed."""
    cases = {}
    for make in (diabetes, digits):
        for seed in range(args.seeds):
            script.progress(f"{make.__name__}, seed {seed}")
            x, tasks = make(seed, args)
            kernels = [
                ker.infinite(functools.partial(network, b_std=b)) for b in BIASES
            ]
            with jax.enable_x64(True):
                grams = [np.asarray(kernel(x, ntk=False).nngp) for kernel in kernels]
                for task in tasks:
                    for condition, name, found in run_task(task, grams):
                        entries = cases.setdefault(f"{make.__name__}: {condition}", {})
                        entry = entries.setdefault(name, {})
                        for field, value in found.items():
                            entry.setdefault(field, []).append(value)
    for entries in cases.values():
        for name, entry in entries.items():
            for field in ("nll", "calibration"):
                paired = np.subtract(entry[field], entries["NNGP"][field])
                entry[f"{field}_less_nngp"] = paired.tolist()
                if name != "NNGP":
                    entry[f"{field}_verdict"] = verdict(paired)
    sizes = {"images": args.images, "test_images": args.tests, "few": args.few}
    return {"seeds": args.seeds, **sizes, "scores": cases, "gates": {}}


def verdict(paired):
    """What paired differences over seeds say, by a t-test at 5 %."""
    if len(paired) < 2:
        return "one seed"
    if abs(paired.mean()) < 0.001:
        return "the same to 0.001"
    error = paired.std(ddof=1) / math.sqrt(len(paired))
    if abs(paired.mean()) <= scipy.stats.t.ppf(0.975, len(paired) - 1) * error:
        return "within the noise"
    word = "helps" if paired.mean() < 0 else "hurts"
    return word if abs(paired.mean()) >= 0.01 else f"{word}, by less than 0.01"


def mean_and_deviation(values, digits, sign=""):
    """Over the seeds, in words."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):{sign}.{digits}f} ± {deviation:.{digits}f}"


def print_data(found):
    """One row for each data set, condition and method."""
    lines = []
    for case, entries in found["scores"].items():
        for name, entry in entries.items():
            row = [case, name]
            for field, decimals in (("nll", 3), ("calibration", 4)):
                row.append(mean_and_deviation(entry[field], decimals))
                if name == "NNGP":
                    row += ["", ""]
                    continue
                paired = entry[f"{field}_less_nngp"]
                row.append(mean_and_deviation(paired, 4, "+"))
                row.append(entry[f"{field}_verdict"])
            learnt = {
                number: np.median([numbers[number] for numbers in entry["numbers"]])
                for number in entry["numbers"][0]
            }
            row.append(", ".join(f"{k} {v:.3g}" for k, v in learnt.items()))
            lines.append(row)
    header = ["data", "model", "NLL", "less NNGP's", "NLL says"]
    header += [
        "calibration error",
        "less NNGP's",
        "calibration says",
        "learnt (median)",
    ]
    script.print_table(header, lines)


# --- running ----------------------------------------------------------------------


def main():
    """Prints the tables and writes the report."""
    parser = script.parser(__doc__, repeats=15)
    script.add_cases(parser, CASES)
    at_least = script.at_least
    parser.add_argument("--points", type=at_least(20), default=2000)
    parser.add_argument("--no-outside", dest="outside", action="store_false")
    parser.add_argument("--seeds", type=at_least(1), default=10)
    parser.add_argument("--images", type=at_least(50), default=500)
    parser.add_argument("--tests", type=at_least(50), default=250)
    parser.add_argument("--few", type=at_least(5), default=20)
    args = parser.parse_args()
    machine, cases = script.machine(), {}
    script.print_machine(machine)
    for case, run, show in (
        ("cost", run_cost, print_cost),
        ("data", run_data, print_data),
    ):
        if case in args.cases:
            start = time.perf_counter()
            cases[case] = run(args)
            cases[case]["seconds"] = time.perf_counter() - start
            show(cases[case])
            print()
    report = script.make_report("scale_mixture", machine, cases=cases)
    return script.finish(report, args.output, script.failed_gates(cases))


if __name__ == "__main__":
    raise SystemExit(main())
