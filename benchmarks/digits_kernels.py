"""Digits: a dense kernel, a convolutional one that flattens, and one that pools.

Accuracy of kernel regression on scikit-learn's digits as images of 8 x 8, over random
splits of which half trains, with the noise variance that the evidence prefers. The
kernels are paired: all see the same splits. Global average pooling needs the covariance
of all pairs of pixels, 4096 for a pair of images.

    python benchmarks/digits_kernels.py --output FILE
"""

import functools
import time

import _script as script
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from jaxarch import kernels as ker

NOISES = np.geomspace(1e-6, 1e-1, 11)
CLASSES = 10


def network(h, readout):
    """Three hidden layers, the same scales in each."""
    scales = {"w_std": 1.4, "b_std": 0.1}
    if readout == "dense":
        h = ker.flatten(h)
    for _ in range(3):
        if readout == "dense":
            h = ker.relu(ker.dense(h, 512, **scales))
        else:
            h = ker.relu(ker.conv(h, 64, (3, 3), **scales))
    if readout == "flatten":
        h = ker.flatten(h)
    if readout == "global_avg_pool":
        h = ker.global_avg_pool(h)
    return ker.dense(h, CLASSES)


@jax.jit
def evidence(k, y, noise):
    """Log evidence of the training half."""
    return ker.log_evidence(ker.condition(k, y, noise=noise))


@jax.jit
def accuracy(k, k_test, y, noise, wanted):
    """Share of the test half whose largest output is right."""
    mean = ker.predict(ker.condition(k, y, noise=noise), k_test).mean
    return (mean.argmax(-1) == wanted).mean()


def scores(k, labels, splits):
    """Accuracy for each split."""
    k = np.asarray(k, np.float64)
    k = k / np.diagonal(k).mean()  # so that one range of noises suits all
    targets = np.eye(CLASSES) - 1 / CLASSES
    rng, found = np.random.default_rng(0), []
    for _ in range(splits):
        order = rng.permutation(len(labels))
        train, test = np.split(order, [len(order) // 2])
        y = jnp.asarray(targets[labels[train]])
        inside, across = k[np.ix_(train, train)], k[np.ix_(test, train)]
        best = max(NOISES, key=lambda noise: evidence(inside, y, noise))
        wanted = jnp.asarray(labels[test])
        found.append(float(accuracy(inside, across, y, best, wanted)))
    return found


def main():
    """Prints a table and writes the report."""
    parser = script.parser(__doc__, repeats=5, repeats_help="splits")
    parser.add_argument("--images", type=script.at_least(20), default=1000)
    args = parser.parse_args()
    machine = script.machine()
    digits = load_digits()
    keep = np.random.default_rng(1).permutation(len(digits.target))[: args.images]
    images = (digits.images[keep] / 16).astype(np.float32)[..., None]
    labels = digits.target[keep]
    cases, rows = {}, []
    for readout in ("dense", "flatten", "global_avg_pool"):
        script.progress(f"{readout}: {len(images)} images")
        kernel = ker.infinite(functools.partial(network, readout=readout))
        start = time.perf_counter()
        gram = jax.block_until_ready(kernel(images))
        seconds = time.perf_counter() - start
        entry = {"seconds": seconds}
        for kind in ("nngp", "ntk"):
            with jax.enable_x64(True):  # the kernel is in float32, its solve is not
                found = scores(getattr(gram, kind), labels, args.repeats)
            entry[kind] = {"accuracy": found}
            if readout != "dense":
                gain = np.subtract(found, cases["dense"][kind]["accuracy"])
                entry[kind]["gain_over_dense"] = gain.tolist()
        cases[readout] = entry
        row = [readout, f"{seconds:.1f}"]
        for kind in ("nngp", "ntk"):
            low, high = min(entry[kind]["accuracy"]), max(entry[kind]["accuracy"])
            mean = np.mean(entry[kind]["accuracy"])
            row.append(f"{mean:.4f} ({low:.4f} to {high:.4f})")
            gains = entry[kind].get("gain_over_dense")
            text = "" if gains is None else f"{np.mean(gains):+.4f} ({min(gains):+.4f}"
            row.append(text if gains is None else f"{text} to {max(gains):+.4f})")
        rows.append(row)
    script.print_machine(machine)
    header = ["kernel", "seconds", "NNGP", "gain", "NTK", "gain"]
    script.print_table(header, rows)
    fields = {"images": len(images), "splits": args.repeats, "cases": cases}
    report = script.make_report("digits_kernels", machine, **fields)
    return script.finish(report, args.output, [])


if __name__ == "__main__":
    raise SystemExit(main())
