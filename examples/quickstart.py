"""Infinitely wide networks on real images, in under a minute on two cores.

One residual network is written once and read three ways: as its NNGP kernel, as its
NTK (both fitted to scikit-learn's digits as Gaussian processes, with hyper-parameters
learned by the gradient of the log evidence), and as the same network at finite width,
trained with optax. Two RBF models of scikit-learn stand beside them.

    python examples/quickstart.py
    python examples/quickstart.py --seeds 5 --results five_seeds.json

It prints a table and draws a Gram matrix and a reliability diagram.
"""

import argparse
import datetime
import functools
import json
import os
import platform
import time
import warnings
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy.optimize import minimize
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor, kernels as rbf
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import jaxarch
from jaxarch import kernels as ker

CLASSES = 10
TRAIN = 1400  # of 1797 images; the other 397 are for the test
TUNE = 400  # of them serve to learn the hyper-parameters; all serve the fit
SCORES = {"accuracy": 4, "NLL": 4, "ECE": 4, "evidence": 0, "seconds": 1}  # digits
STEPS = 600  # of the optimiser of the finite network
OPTIMIZER = optax.adam(optax.cosine_decay_schedule(0.05, STEPS))
START = {"w_std": 1.4, "b_std": 0.1, "readout": 1.0, "noise_std": 0.1}


# --- the architecture and its kernels -------------------------------------------------


def network(h, w_std, b_std, readout):
    """A ReLU network of three layers, the second a residual branch."""
    h = ker.dense(h, 512, w_std=w_std, b_std=b_std)
    h = h + ker.dense(ker.relu(h), 512, w_std=w_std, b_std=b_std)
    return ker.dense(ker.relu(h), CLASSES, w_std=readout)


def build(logs):
    """Returns the kernel for these log hyper-parameters, and the noise variance."""
    w_std, b_std, readout, noise_std = jnp.exp(logs)
    return ker.infinite(lambda h: network(h, w_std, b_std, readout)), noise_std**2


def choose(gram, use_ntk):
    """Returns one kernel. `use_ntk` may be traced: one compilation serves both."""
    return jnp.where(use_ntk, gram.ntk, gram.nngp)


# --- Gaussian-process classification --------------------------------------------------


def one_hot(labels):
    """Targets of the regression, shifted to mean 0 because the process has mean 0."""
    return np.eye(CLASSES)[labels] - 1 / CLASSES


@jax.jit
@functools.partial(jax.jacfwd, has_aux=True)
def objective(logs, use_ntk, x, targets):
    """Negative log evidence, plus a weak prior: each log is N(log of START, 1).

    The evidence is flat in places: with labels as clean as these, no noise is as good
    as little. The prior, a few units against thousands, decides only there. `jacfwd`
    returns the gradient and the value. (With four inputs, forward mode runs as fast as
    `jax.value_and_grad`, and compiles faster.)
    """
    kernel, noise = build(logs)
    posterior = ker.condition(choose(kernel(x), use_ntk), targets, noise=noise)
    prior = ((logs - jnp.log(jnp.asarray([*START.values()]))) ** 2).sum() / 2
    value = prior - ker.log_evidence(posterior)
    return value, value


def tune(use_ntk, x, targets):
    """Returns the log hyper-parameters that minimise the objective, by L-BFGS."""
    title = f"tuning the {'NTK' if use_ntk else 'NNGP'}"
    with tqdm(desc=title, unit=" steps", leave=False) as bar:
        best = minimize(
            lambda logs: jax.device_get(objective(logs, use_ntk, x, targets))[::-1],
            np.log([*START.values()]),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 60, "ftol": 1e-6},
            callback=lambda _: bar.update(),
        )
    return best.x


@jax.jit
def fit(logs, use_ntk, x, targets, x_test):
    """Returns class probabilities, the log evidence, and the Gram matrix of `x`."""
    kernel, noise = build(logs)
    # All images in one matrix, in blocks: training, test by training, test.
    gram, n = choose(kernel(jnp.concatenate([x, x_test])), use_ntk), len(x)
    posterior = ker.condition(gram[:n, :n], targets, noise=noise)
    test = ker.predict(posterior, gram[n:, :n], jnp.diagonal(gram)[n:])
    # An example has the class whose output is the largest. Outputs are observed with
    # noise, in training and here, so the noise belongs to their variance.
    probabilities = ker.class_probabilities(test.mean, test.variance + noise)
    return probabilities, ker.log_evidence(posterior), gram[:n, :n]


def kernel_classifier(use_ntk, x, labels, x_test):
    """A Gaussian process with the NNGP or the NTK as its covariance.

    With the NNGP this is exact Bayesian inference for an infinitely wide network. With
    the NTK the mean is, but for the noise, where gradient descent takes such networks
    on average; `ker.train` gives their spread.
    """
    targets = one_hot(labels)
    logs = tune(use_ntk, x[:TUNE], targets[:TUNE])
    probabilities, evidence, gram = fit(logs, use_ntk, x, targets, x_test)
    return {
        "p": np.asarray(probabilities),
        "evidence": float(evidence),
        "learned": dict(zip(START, np.exp(logs).tolist(), strict=True)),
        "kernel": build(logs)[0],
        "gram": np.asarray(gram),
    }


# --- the same network at finite width -------------------------------------------------


@jax.jit
def initialise(model, key, x):
    """Initial parameters, and the state of the optimiser."""
    params = model.init(key, x[0])
    return params, OPTIMIZER.init(params)


@jax.jit
def advance(model, carry, x, labels):
    """Takes one step of the optimiser for each batch: `x` is (steps, batch, pixels)."""

    def loss(params, x, labels):
        logits = jax.vmap(model.apply, (None, 0))(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry, batch):
        params, state = carry
        updates, state = OPTIMIZER.update(jax.grad(loss)(params, *batch), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, carry, (x, labels))[0]


def finite_network(kernel, seed, x, labels, x_test):
    """Trains the network that `kernel` was read from: Adam on the cross entropy."""
    model = ker.finite(kernel)
    x, x_test = np.float32(x), np.float32(x_test)
    carry = initialise(model, jax.random.key(seed), x)
    batches = np.random.default_rng(seed).integers(len(x), size=(STEPS // 20, 20, 100))
    for batch in tqdm(batches, desc="training the network", unit="x20", leave=False):
        carry = jax.block_until_ready(advance(model, carry, x[batch], labels[batch]))
    logits = jax.jit(jax.vmap(model.apply, (None, 0)))(carry[0], x_test)
    return {"p": np.asarray(jax.nn.softmax(logits), np.float64)}


# --- scikit-learn's models ------------------------------------------------------------


def rbf_gaussian_process(x, labels, x_test):
    """The same regression with an RBF kernel, tuned by scikit-learn."""
    targets = one_hot(labels)
    kernel = rbf.ConstantKernel(0.1) * rbf.RBF(4) + rbf.WhiteKernel(0.01, (1e-8, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # no noise, here too
        model = GaussianProcessRegressor(kernel).fit(x[:TUNE], targets[:TUNE])
    model = GaussianProcessRegressor(model.kernel_, optimizer=None).fit(x, targets)
    mean, std = model.predict(x_test, return_std=True)  # with the noise
    probabilities = ker.class_probabilities(mean, std[:, 0] ** 2)
    evidence = model.log_marginal_likelihood_value_
    return {"p": np.asarray(probabilities), "evidence": evidence}


def rbf_svm(x, labels, x_test):
    """A support vector machine, cross-validated, with its own calibration."""
    grid = {"C": [1, 10, 100], "gamma": [0.005, 0.0125, 0.025, 0.05]}
    best = GridSearchCV(SVC(), grid, cv=3).fit(x, labels).best_estimator_
    model = CalibratedClassifierCV(best, method="temperature", ensemble=False)
    return {"p": model.fit(x, labels).predict_proba(x_test)}


# --- data and scores ------------------------------------------------------------------


def split(seed, train=TRAIN):
    """Digits in random order, the first for training.

    Pixels go to [-1, 1], so that the covariance of the inputs, x.x' / 64, is about 1.
    """
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    x, labels = images[order] / 8 - 1, labels[order]
    return x[:train], labels[:train], x[TRAIN:], labels[TRAIN:]


def reliability(probabilities, labels, bins=10):
    """Per bin of confidence: number of examples, mean confidence, and accuracy."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    total = np.maximum(count, 1)
    confidence = np.bincount(index, confidence, bins) / total
    return count, confidence, np.bincount(index, right, bins) / total


def calibration_error(probabilities, labels, bins=10):
    """Expected calibration error: mean over examples of |accuracy - confidence|."""
    count, confidence, accuracy = reliability(probabilities, labels, bins)
    return float((count * abs(accuracy - confidence)).sum() / count.sum())


def negative_log_likelihood(probabilities, labels):
    """Mean of minus the log probability of the right class."""
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(right, np.finfo(float).tiny)).mean())


# --- the experiment -------------------------------------------------------------------


def run(seed, train=TRAIN):
    """Fits and scores every model on one split; returns them, and the test labels."""
    *data, test_labels = split(seed, train)
    fits = {}

    def score(name, function, *args):
        start = time.perf_counter()
        out = fits[name] = function(*args, *data)
        out["seconds"] = time.perf_counter() - start
        out["accuracy"] = float((out["p"].argmax(1) == test_labels).mean())
        out["NLL"] = negative_log_likelihood(out["p"], test_labels)
        out["ECE"] = calibration_error(out["p"], test_labels)

    score("GP, NNGP", kernel_classifier, False)
    score("GP, NTK", kernel_classifier, True)
    # The network takes the scales learned for the NTK, the kernel of its training.
    score("finite network", finite_network, fits["GP, NTK"]["kernel"], seed)
    score("GP, RBF (sklearn)", rbf_gaussian_process)
    score("SVM, RBF (sklearn)", rbf_svm)
    return fits, test_labels


def summarise(runs):
    """Mean over splits of every score that a model has; the median of the seconds."""

    def mean(name, key):
        values = [fits[name][key] for fits in runs]
        return float(np.median(values) if key == "seconds" else np.mean(values))

    return {
        n: {k: mean(n, k) for k in SCORES if k in fit} for n, fit in runs[0].items()
    }


def table(summary):
    """The summary as text."""
    lines = [" " * 18 + "".join(f"{key:>10}" for key in SCORES)]
    for name, row in summary.items():
        cells = (f"{row[k]:.{n}f}" if k in row else "-" for k, n in SCORES.items())
        lines.append(f"{name:18}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def picture(path, gram, labels, probabilities, test_labels):
    """Draws a Gram matrix sorted by class, and the reliability of every model."""
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.subplots()
    order = np.argsort(labels)
    gram = gram[np.ix_(order, order)]
    scale = np.sqrt(np.diag(gram))
    cosine = gram / scale / scale[:, None]
    image = axes.imshow(cosine, cmap="cividis", vmax=np.quantile(cosine, 0.999))
    left.colorbar(image, ax=axes, label="correlation", shrink=0.9)
    edges = np.searchsorted(labels[order], np.arange(CLASSES + 1)) - 0.5
    axes.hlines(edges[1:-1], edges[0], edges[-1], color="white", linewidth=0.4)
    axes.vlines(edges[1:-1], edges[0], edges[-1], color="white", linewidth=0.4)
    axes.set_xticks((edges[1:] + edges[:-1]) / 2, range(CLASSES))
    axes.set_yticks((edges[1:] + edges[:-1]) / 2, range(CLASSES))
    axes.tick_params(length=0)
    axes.set(title="NTK of the training images", xlabel="digit", ylabel="digit")

    top, bottom = right.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="perfect")
    colours = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7"  # Okabe and Ito
    for i, (name, predicted) in enumerate(probabilities.items()):
        bins = np.stack(reliability(predicted, test_labels))
        count, confidence, accuracy = bins[:, bins[0] > 0]
        # About one standard error, after Agresti and Coull; wide where images are few.
        middle = (accuracy * count + 1) / (count + 2)
        width = np.sqrt(middle * (1 - middle) / (count + 2))
        error = [accuracy - middle + width, middle + width - accuracy]
        style = {"color": colours[i], "label": name}
        error = np.maximum(error, 0)
        top.errorbar(confidence, accuracy, error, fmt="os^Dv"[i], ms=5, lw=0.8, **style)
        bottom.bar(np.arange(10) / 10 + 0.018 * (i + 0.78), bins[0], 0.016, **style)
    top.set(title="Reliability on the test images", ylabel="accuracy")
    top.legend(frameon=False, loc="upper left")
    bottom.set(xlabel="confidence", ylabel="images", yscale="log", ylim=0.5)
    figure.savefig(path, dpi=150)


def report(runs, summary):
    """What is kept of a run: scores, and what made them."""
    packages, keep = ("jax", "optax", "scikit-learn"), (*SCORES, "learned")
    versions = {"python": platform.python_version(), "jaxarch": jaxarch.__version__}
    versions |= {name: metadata.version(name) for name in packages}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "versions": versions,
        "mean": summary,
        "splits": [
            {n: {k: fit[k] for k in keep if k in fit} for n, fit in fits.items()}
            for fits in runs
        ],
    }


def main():
    """Runs the experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1, help="number of random splits")
    parser.add_argument("--train", type=int, default=TRAIN, help="training images")
    parser.add_argument("--output", default="quickstart.png", help="the picture")
    parser.add_argument("--results", help="a JSON file to write the scores to")
    args = parser.parse_args()
    start = time.perf_counter()
    jax.config.update("jax_enable_x64", True)  # noise this small is lost in float32
    splits = tqdm(range(args.seeds), desc="splits", disable=args.seeds == 1)
    # JAX factorises with SciPy's BLAS, whose threads would compete with XLA's.
    with threadpool_limits(1):
        outcomes = [run(s, args.train) for s in splits]
    runs = [fits for fits, _ in outcomes]
    summary = summarise(runs)
    print(f"Digits: {args.train} training and 397 test images; {args.seeds} split(s).")
    print(table(summary))
    print("evidence: log p(training targets); seconds: median, the first compiles")

    names, test_labels = list(summary), np.concatenate([y for _, y in outcomes])
    pooled = {n: np.concatenate([r[n]["p"] for r in runs]) for n in names}
    gram, labels = runs[0]["GP, NTK"]["gram"], split(0, args.train)[1]
    picture(args.output, gram, labels, pooled, test_labels)
    if args.results:
        text = json.dumps(report(runs, summary), indent=2)
        Path(args.results).write_text(text + "\n")
    print(f"Wrote {args.output} after {time.perf_counter() - start:.0f} s.")
    if args.train == TRAIN:
        for name in ("GP, NNGP", "GP, NTK"):
            assert summary[name]["accuracy"] >= 0.98, summary[name]
            assert summary[name]["NLL"] <= 0.1, summary[name]
        assert summary["finite network"]["accuracy"] >= 0.96, summary


if __name__ == "__main__":
    main()
