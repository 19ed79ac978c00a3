"""Infinitely wide networks on real images, in under a minute on two cores.

One residual network is written once and read three ways: as its NNGP kernel, as its
NTK (both fitted to scikit-learn's digits as Gaussian processes, with hyper-parameters
learned by the gradient of the log evidence), and as the same network at finite width,
trained with optax. Two RBF models of scikit-learn stand beside them.

    python examples/quickstart.py
    python examples/quickstart.py --seeds 5 --results five_seeds.json
"""

import argparse
import datetime
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
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from jaxarch import kernels as ker

CLASSES = 10
TRAIN = 1400  # of 1797 images; the other 397 are for the test
TUNE = 500  # training images on which hyper-parameters are learned; all serve the fit
START = {"w_std": 1.4, "b_std": 0.1, "readout": 1.0, "noise_std": 0.1}


# --- the architecture, and its two kernels -----------------------------------------


def network(h, w_std, b_std, readout):
    """Three ReLU layers, the second a residual branch; 512 units at finite width."""
    h = ker.dense(h, 512, w_std=w_std, b_std=b_std)
    h = h + ker.dense(ker.relu(h), 512, w_std=w_std, b_std=b_std)
    return ker.dense(ker.relu(h), CLASSES, w_std=readout)


def build(logs):
    """The kernel with these logarithms of the hyper-parameters, and the noise."""
    w_std, b_std, readout, noise_std = jnp.exp(logs)
    return ker.infinite(lambda h: network(h, w_std, b_std, readout)), noise_std**2


def covariance(gram, use_ntk):
    """One of the two kernels; by a traced choice, so one compilation serves both."""
    return jnp.where(use_ntk, gram.ntk, gram.nngp)


# --- Gaussian-process classification -------------------------------------------------


@jax.jit
@jax.value_and_grad
def objective(logs, use_ntk, x, targets):
    """Negative log evidence, with a weak prior: logs ~ N(log START, 1).

    The evidence is flat in places: clean labels like no noise as well as little. The
    prior, a few units against thousands, decides there and nowhere else.
    """
    kernel, noise = build(logs)
    posterior = ker.condition(covariance(kernel(x), use_ntk), targets, noise=noise)
    start = jnp.log(jnp.asarray(list(START.values())))
    return ((logs - start) ** 2).sum() / 2 - ker.log_evidence(posterior)


def one_hot(labels):
    """Regression targets: 0.9 for the class, -0.1 for others, of mean 0 like the GP."""
    return np.eye(CLASSES)[labels] - 1 / CLASSES


def tune(use_ntk, x, targets, title):
    """Learns the hyper-parameters, as logarithms, by L-BFGS."""
    start = np.log(list(START.values()))
    with tqdm(desc=title, unit=" steps", leave=False) as bar:
        best = minimize(
            lambda logs: jax.device_get(objective(logs, use_ntk, x, targets)),
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 60},
            callback=lambda _: bar.update(),
        )
    return best.x


def kernel_classifier(use_ntk, title, x, labels, x_test):
    """Tunes and fits a GP with the NNGP or the NTK as its covariance.

    With the NNGP this is exact Bayesian inference for the infinitely wide network. With
    the NTK the mean is where gradient descent takes it on average; the variance is that
    of the GP (for the spread over trained networks see `ker.train`).
    """
    targets = one_hot(labels)
    logs = tune(use_ntk, x[:TUNE], targets[:TUNE], title)
    kernel, noise = build(logs)
    train, cross, test = kernel(x), kernel(x_test, x), kernel(x_test, diagonal=True)
    train, cross, test = (covariance(g, use_ntk) for g in (train, cross, test))
    posterior = ker.condition(train, targets, noise=noise)
    predictive = ker.predict(posterior, cross, test)
    # A new label is as noisy as the training labels, so the noise is added.
    probabilities = ker.class_probabilities(
        predictive.mean, predictive.variance + noise
    )
    evidence = ker.log_evidence(posterior)
    learned = dict(zip(START, np.exp(logs).tolist(), strict=True))
    return np.asarray(probabilities), float(evidence), learned, (kernel, train)


# --- the same network at finite width ------------------------------------------------


def finite_network(kernel, key, x, labels, x_test, *, epochs=40, batch=50):
    """Trains the network that `kernel` was read from: Adam on the cross entropy."""
    model = ker.finite(kernel)
    x, x_test, labels = jnp.float32(x), jnp.float32(x_test), jnp.asarray(labels)
    init_key, *keys = jax.random.split(key, 1 + epochs)
    logits = jax.vmap(model.apply, (None, 0))
    steps = max(1, len(x) // batch)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, epochs * steps))

    def loss(params, rows):
        outputs = logits(params, x[rows])
        return optax.softmax_cross_entropy_with_integer_labels(
            outputs, labels[rows]
        ).mean()

    def step(carry, rows):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def epoch(carry, key):
        order = jax.random.permutation(key, len(x))[: steps * batch]
        return jax.lax.scan(step, carry, order.reshape(steps, -1))[0]

    params = model.init(init_key, x[0])
    carry = params, optimizer.init(params)
    for key in tqdm(keys, desc="finite network", unit=" epochs", leave=False):
        carry = jax.block_until_ready(epoch(carry, key))
    return np.asarray(jax.nn.softmax(logits(carry[0], x_test)), np.float64)


# --- scikit-learn's models -----------------------------------------------------------


def rbf_gaussian_process(x, labels, x_test):
    """The same regression, targets and probabilities, with the evidence-tuned RBF."""
    targets = one_hot(labels)
    rbf = ConstantKernel(0.1) * RBF(4.0, (1e-2, 1e3)) + WhiteKernel(0.01, (1e-8, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the noise goes to 0
        tuned = GaussianProcessRegressor(rbf).fit(x[:TUNE], targets[:TUNE]).kernel_
    model = GaussianProcessRegressor(tuned, optimizer=None).fit(x, targets)
    mean, deviation = model.predict(x_test, return_std=True)  # noise included
    probabilities = ker.class_probabilities(mean, deviation[:, 0] ** 2)
    return np.asarray(probabilities), model.log_marginal_likelihood_value_


def rbf_svm(x, labels, x_test):
    """Support vector machine tuned by cross-validation, with scaled probabilities."""
    grid = {"C": [1, 10, 100], "gamma": [0.005, 0.0125, 0.025, 0.05]}
    best = GridSearchCV(SVC(), grid, cv=3).fit(x, labels).best_estimator_
    # The best of its calibrations here; its old `probability=True` is deprecated.
    model = CalibratedClassifierCV(best, method="temperature", ensemble=False)
    return model.fit(x, labels).predict_proba(x_test)


# --- data and scores -----------------------------------------------------------------


def split(seed, train=TRAIN):
    """Digits with pixels in [-1, 1], split at random; the test set is the last 397."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    x, labels = images[order] / 8 - 1, labels[order]
    return x[:train], labels[:train], x[TRAIN:], labels[TRAIN:]


def bins_of(probabilities, labels, bins=10):
    """Per bin of confidence: number of examples, mean confidence, accuracy."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    total = np.maximum(count, 1)
    mean = np.bincount(index, confidence, minlength=bins) / total
    return count, mean, np.bincount(index, right, minlength=bins) / total


def calibration_error(probabilities, labels, bins=10):
    """Expected calibration error: |accuracy - confidence|, averaged over examples."""
    count, confidence, accuracy = bins_of(probabilities, labels, bins)
    return float((count * abs(accuracy - confidence)).sum() / count.sum())


def negative_log_likelihood(probabilities, labels):
    """Mean of -log of the probability of the right class."""
    of_label = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(of_label, np.finfo(float).tiny)).mean())


# --- the experiment --------------------------------------------------------------------


def run(seed, train):
    """All models on one split: rows of the table, probabilities, and a Gram matrix."""
    x, labels, x_test, test_labels = split(seed, train)
    rows, probabilities = {}, {}

    def record(name, start, predicted, evidence=None, **more):
        rows[name] = {
            "accuracy": float((predicted.argmax(1) == test_labels).mean()),
            "nll": negative_log_likelihood(predicted, test_labels),
            "ece": calibration_error(predicted, test_labels),
            "log_evidence": evidence,
            "seconds": time.perf_counter() - start,
            **more,
        }
        probabilities[name] = predicted

    for name, use_ntk in (("NNGP", False), ("NTK", True)):
        start = time.perf_counter()
        predicted, evidence, learned, (kernel, gram) = kernel_classifier(
            use_ntk, name, x, labels, x_test
        )
        record(f"{name} GP", start, predicted, evidence, learned=learned)
    start = time.perf_counter()
    # The network at the scales that were learned for the NTK, which describes training.
    predicted = finite_network(kernel, jax.random.key(seed), x, labels, x_test)
    record("finite network", start, predicted)
    start = time.perf_counter()
    record("RBF GP (sklearn)", start, *rbf_gaussian_process(x, labels, x_test))
    start = time.perf_counter()
    record("RBF SVM (sklearn)", start, rbf_svm(x, labels, x_test))
    return rows, probabilities, test_labels, (gram, labels)


def summarise(seeds):
    """Mean over seeds of every score; the median of the seconds."""
    out = {}
    for name, row in seeds[0].items():
        out[name] = {}
        for key in ("accuracy", "nll", "ece", "log_evidence", "seconds"):
            values = [rows[name][key] for rows in seeds]
            average = np.median if key == "seconds" else np.mean
            out[name][key] = None if row[key] is None else float(average(values))
    return out


def table(summary):
    """The summary as text."""
    lines = [f"{'':18}{'accuracy':>9}{'NLL':>9}{'ECE':>9}{'evidence':>10}{'time':>8}"]
    for name, row in summary.items():
        evidence = row["log_evidence"]
        lines.append(
            f"{name:18}{row['accuracy']:9.4f}{row['nll']:9.4f}{row['ece']:9.4f}"
            f"{'-' if evidence is None else f'{evidence:.0f}':>10}{row['seconds']:6.1f} s"
        )
    return "\n".join(lines)


def picture(path, gram, labels, probabilities, test_labels):
    """Draws the Gram matrix sorted by class, and the reliability of every model."""
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.subplots()
    order = np.argsort(labels, kind="stable")
    scale = np.sqrt(np.diag(gram))
    cosine = (np.asarray(gram) / scale / scale[:, None])[np.ix_(order, order)]
    image = axes.imshow(cosine, cmap="cividis", vmax=np.quantile(cosine, 0.999))
    left.colorbar(image, ax=axes, label="correlation of outputs", shrink=0.9)
    edges = np.searchsorted(labels[order], np.arange(CLASSES + 1)) - 0.5
    axes.hlines(edges[1:-1], *edges[[0, -1]], color="white", linewidth=0.4)
    axes.vlines(edges[1:-1], *edges[[0, -1]], color="white", linewidth=0.4)
    axes.set_xticks((edges[1:] + edges[:-1]) / 2, range(CLASSES))
    axes.set_yticks((edges[1:] + edges[:-1]) / 2, range(CLASSES))
    axes.tick_params(length=0)
    axes.set(title="NTK of the training images", xlabel="digit", ylabel="digit")

    top, bottom = right.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="perfect")
    colours = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7"  # Okabe and Ito
    for i, (name, predicted) in enumerate(probabilities.items()):
        count, confidence, accuracy = bins_of(predicted, test_labels)
        use = count > 0
        # Standard error of a proportion; one more of each outcome keeps it above 0.
        smooth = (accuracy * count + 1) / (count + 2)
        error = np.sqrt(smooth * (1 - smooth) / (count + 2))
        style = {"color": colours[i], "label": name}
        top.errorbar(
            confidence[use],
            accuracy[use],
            error[use],
            fmt="os^Dv"[i],
            markersize=5,
            elinewidth=0.8,
            **style,
        )
        at = np.arange(0, 1, 0.1) + 0.018 * (i + 0.78)
        bottom.bar(at, count, 0.016, **style)
    top.set(title="Reliability on test images", ylabel="accuracy", ylim=(-0.05, 1.08))
    top.legend(frameon=False, loc="upper left")
    bottom.set(xlabel="confidence", ylabel="images", yscale="log", xlim=(0, 1.02))
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1, help="number of random splits")
    parser.add_argument("--train", type=int, default=TRAIN, help="training images")
    parser.add_argument("--output", type=Path, default="quickstart.png")
    parser.add_argument("--results", type=Path, help="write the scores here, as JSON")
    args = parser.parse_args()
    start = time.perf_counter()
    jax.config.update("jax_enable_x64", True)  # for a GP with nearly no noise
    results = []
    with threadpool_limits(1):
        for seed in tqdm(range(args.seeds), desc="seeds", disable=args.seeds == 1):
            results.append(run(seed, args.train))
    seeds = [rows for rows, *_ in results]
    summary = summarise(seeds)
    print(f"digits: {args.train} training and 397 test images, {args.seeds} seed(s)")
    print(table(summary))
    probabilities = {
        n: np.concatenate([p[n] for _, p, _, _ in results]) for n in summary
    }
    test_labels = np.concatenate([labels for _, _, labels, _ in results])
    picture(args.output, *results[0][-1], probabilities, test_labels)
    print(f"wrote {args.output}; {time.perf_counter() - start:.0f} s in all")
    if args.results:
        pass


if __name__ == "__main__":
    main()
