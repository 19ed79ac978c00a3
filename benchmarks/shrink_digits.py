"""Digits: networks that shrink while they train, or at once afterwards.

A dense network (64-128-128-10) and a convolutional one learn scikit-learn's digits,
1400 images for training and 397 for testing, split anew for each seed. Rows:

- SGD, Adam: trained and left as they are;
- DHSPG: `dhspg` empties 50, 80 and 90 % of all channels in the one training run, and
  `prune` cuts them, nothing is tuned afterwards; with SGD and the paper's saliency,
  and with Adam and the relative magnitude;
- as small from the start: networks of the sizes that DHSPG with Adam has left, from
  new initial values, trained as the row "Adam" is;
- group lasso: `group_proximal` at several penalties, cut likewise;
- at once: the network of the row "SGD", of each layer that share of channels cut, by
  magnitude (`prune`) and by `obspa`; nothing is tuned afterwards.

`--validation` trains on 1120 of the 1400 and judges on the other 280: what the settings
were chosen by. With `--output` the report is written; a seed takes one core one minute
for the dense network and three for the other.

    XLA_FLAGS="--xla_cpu_multi_thread_eigen=false" taskset -c 0 \
        python benchmarks/shrink_digits.py --output FILE
"""

import argparse
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import _script as script
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from tqdm import tqdm

from jaxarch import transforms as tr

TRAIN, VALID, BATCH, STEPS = 1400, 280, 100, 3000
TARGETS = (0.5, 0.8, 0.9)
LEAST = 0.08  # of each layer's channels that `dhspg` leaves


# --- networks ---------------------------------------------------------------------


def dense_init(key, sizes):
    keys = jax.random.split(key, len(sizes))
    return [
        {"w": jax.random.normal(k, (a, b)) * (2 / a) ** 0.5, "b": jnp.zeros(b)}
        for k, a, b in zip(keys, sizes, sizes[1:], strict=False)
    ]


def dense_apply(layers, x):
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


def mlp_init(key, widths=(128, 128)):
    return dense_init(key, (64, *widths, 10))


def mlp_widths(params):
    return tuple(layer["w"].shape[1] for layer in params[:-1])


def mlp_apply(params, x):
    return dense_apply(params, x.reshape(len(x), -1))


def cnn_init(key, widths=(16, 32, 32, 64)):
    keys = jax.random.split(key, 4)
    sizes = (1, *widths[:3])
    convs = [
        {
            "w": jax.random.normal(k, (3, 3, a, b)) * (2 / (9 * a)) ** 0.5,
            "scale": jnp.ones(b),
            "shift": jnp.zeros(b),
        }
        for k, a, b in zip(keys, sizes, sizes[1:], strict=False)
    ]
    return {
        "convs": convs,
        "dense": dense_init(keys[3], (4 * widths[2], widths[3], 10)),
    }


def cnn_widths(params):
    return (
        *(layer["w"].shape[3] for layer in params["convs"]),
        *mlp_widths(params["dense"]),
    )


def convolution(x, w):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def shifted_products(x, w):
    """The same, as products: XLA's convolutions train 20 times slower on one core."""
    rows, columns = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [x[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return jnp.concatenate(parts, -1) @ w.reshape(-1, w.shape[-1])


def cnn_apply(params, x, conv=convolution):
    """Convolution, affine, ReLU; pooled after the first and the third."""
    x = x[..., None]
    for k, layer in enumerate(params["convs"]):
        x = jax.nn.relu(conv(x, layer["w"]) * layer["scale"] + layer["shift"])
        if k != 1:
            n, rows, columns, channels = x.shape
            x = x.reshape(n, rows // 2, 2, columns // 2, 2, channels).max((2, 4))
    return dense_apply(params["dense"], x.reshape(len(x), -1))


# How each begins, what it is, what it is while training, and how wide it is.
cnn_training = functools.partial(cnn_apply, conv=shifted_products)
NETWORKS = {
    "mlp": (mlp_init, mlp_apply, mlp_apply, mlp_widths),
    "cnn": (cnn_init, cnn_apply, cnn_training, cnn_widths),
}


# --- training ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Method:
    """A row that trains: how its optimiser is made, and what is asked of it."""

    name: str
    make: Callable  # (annotation) -> optax transformation
    target: float | None = None
    settings: dict = dataclasses.field(default_factory=dict)


def methods(network, steps):
    """The rows that train, with the settings that `--validation` favoured."""
    cosine = functools.partial(optax.cosine_decay_schedule, decay_steps=steps)
    warmup, deadline = steps // 6, 2 * steps // 3
    rows = [
        Method("SGD", lambda _: optax.sgd(0.1), settings={"rate": 0.1}),
        Method("Adam", lambda _: optax.adam(cosine(5e-3)), settings={"rate": 5e-3}),
    ]
    for target in TARGETS:
        paper = {"learning_rate": 0.1, "penalty": 0.02, "saliency": "otov2"}
        ours = {"learning_rate": 5e-3, "penalty": 0.01, "saliency": "magnitude"}
        for before, options in (("SGD", paper), ("Adam", ours)):
            options |= {"warmup": warmup, "deadline": deadline, "least": LEAST}

            def make(annotation, before=before, options=options, target=target):
                if before == "SGD":
                    return tr.dhspg(annotation, target=target, **options)
                rate = cosine(options["learning_rate"])
                options = {**options, "learning_rate": rate}
                rule = tr.dhspg(annotation, target=target, **options)
                return optax.chain(optax.scale_by_adam(), rule)

            rows.append(Method(f"DHSPG, {before}", make, target, options))
    for penalty in PENALTIES[network]:
        options = {"learning_rate": 0.1, "penalty": penalty}

        def make(annotation, options=options):
            return tr.group_proximal(annotation, **options)

        rows.append(Method(f"group lasso, {penalty:g}", make, None, options))
    return rows


PENALTIES = {"mlp": (3e-4, 1e-3, 2e-3), "cnn": (3e-4, 1e-3, 2e-3)}


def trainer(apply, tx, steps):
    """Compiled once for all seeds: (params, x, y, key) -> trained params."""

    def loss(params, x, y):
        logits = apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def train(params, x, y, key):
        def step(carry, key):
            params, state = carry
            rows = jax.random.randint(key, (BATCH,), 0, len(x))
            grads = jax.grad(loss)(params, x[rows], y[rows])
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(key, steps)
        return jax.lax.scan(step, (params, tx.init(params)), keys)[0][0]

    return train


def splits(seed, validation):
    """Images and labels to train on and to judge by."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    x = jnp.asarray(digits.images[order] / 16, jnp.float32)
    y = jnp.asarray(digits.target[order], jnp.int32)
    a, b = (TRAIN - VALID, TRAIN) if validation else (TRAIN, len(y))
    return (x[:a], y[:a]), (x[a:b], y[a:b])


# --- what is measured -------------------------------------------------------------


def accuracy(logits, y):
    return float((logits.argmax(-1) == y).mean())


def measured(apply, params, pruned, test):
    """A row's figures for one seed; the pruned function is what is judged."""
    x, y = test
    report = pruned.report
    small = jax.jit(pruned.apply)(pruned.params, x)
    zeros = sum(
        group.size - len(report.kept[group.name])
        for group in report.annotation.groups
        if group.name in report.kept
    )
    found = {
        "accuracy": accuracy(small, y),
        "zero": zeros,
        "parameters": report.parameters,
        "flops": report.flops,
    }
    if params is not None:
        big = jax.jit(apply)(params, x)
        found["logit_difference"] = float(jnp.abs(big - small).max())
        found["dense_accuracy"] = accuracy(big, y)
    return found


def at_once(name, apply, params, train, target):
    """Prunes a trained network by magnitude, or by `obspa`."""
    x = train[0][:256]
    if name == "magnitude":
        return tr.prune(apply, params, x, keep=1 - target)
    return tr.obspa(apply, params, x, keep=1 - target, data=(x,))


def run(network, args, bar):
    """All rows of a network: name -> figures of each seed."""
    init, apply, training, widths = NETWORKS[network]
    example = jax.ShapeDtypeStruct((2, 8, 8), jnp.float32)
    annotation = tr.annotate(apply, jax.eval_shape(init, jax.random.key(0)), example)
    indices = sum(
        g.size
        for g in tr.groups(annotation)
        if g.state == "exact" and g.kind == "width"
    )
    cases, kept, sizes = {}, {}, {}
    for method in methods(network, args.steps):
        name = method.name
        if method.target is not None:
            name += f", {method.target:.0%}"
        train = trainer(training, method.make(annotation), args.steps)
        rows, began = [], time.perf_counter()
        for seed in range(args.seeds):
            data, test = splits(seed, args.validation)
            key = jax.random.key(seed)
            params = jax.block_until_ready(train(init(key), *data, key))
            kept.setdefault(name, []).append(params)
            keep = tr.zero_groups(annotation, params)
            pruned = tr.prune(apply, params, data[0][:2], keep=keep)
            rows.append(measured(apply, params, pruned, test))
            sizes.setdefault(name, []).append(widths(pruned.params))
            rows[-1]["widths"] = sizes[name][-1]
            bar.set_postfix_str(f"{network} {name} {rows[-1]['accuracy']:.4f}")
            bar.update()
        cases[name] = {
            "settings": method.settings,
            "target": method.target,
            "seeds": rows,
            "seconds": time.perf_counter() - began,
        }
    tx = methods(network, args.steps)[1].make(annotation)
    assert methods(network, args.steps)[1].name == "Adam"
    for target in TARGETS:
        rows = []
        for seed, small in enumerate(sizes[f"DHSPG, Adam, {target:.0%}"]):
            data, test = splits(seed, args.validation)
            key = jax.random.key(seed)
            params = trainer(training, tx, args.steps)(init(key, small), *data, key)
            right = accuracy(jax.jit(apply)(params, test[0]), test[1])
            rows.append({"accuracy": right, "widths": small})
            bar.update()
        cases[f"as small from the start, {target:.0%}"] = {"seeds": rows}
    for name in ("magnitude", "obspa"):
        for target in TARGETS:
            rows = []
            for seed in range(args.seeds):
                data, test = splits(seed, args.validation)
                params = kept["SGD"][seed]
                pruned = at_once(name, apply, params, data, target)
                rows.append(measured(apply, None, pruned, test))
                bar.update()
            cases[f"at once, {name}, {target:.0%}"] = {"target": target, "seeds": rows}
    return {"indices": indices, "cases": cases}


# --- the report -------------------------------------------------------------------


def summarise(result):
    """Adds means over the seeds, and the gates of DHSPG."""
    for name, case in result["cases"].items():
        rows = case["seeds"]
        found = [row["accuracy"] for row in rows]
        case["accuracy"] = {
            "mean": float(np.mean(found)),
            "standard_error": float(np.std(found, ddof=1) / len(found) ** 0.5)
            if len(found) > 1
            else None,
        }
        case["gates"] = {}
        if name.startswith("DHSPG"):
            wanted = int(case["target"] * result["indices"] + 1e-9)
            worst = max(row["logit_difference"] for row in rows)
            case["gates"] = {
                f"{wanted} indices zero": all(row["zero"] == wanted for row in rows),
                "logits of the pruned network equal to 1e-4": worst <= 1e-4,
            }


def print_result(network, result):
    rows = []
    for name, case in result["cases"].items():
        seeds = case["seeds"]
        error = case["accuracy"]["standard_error"]
        line = [
            f"{network}: {name}",
            f"{case['accuracy']['mean']:.4f}"
            + ("" if error is None else f" ± {error:.4f}"),
        ]
        if "zero" in seeds[0]:
            zero = np.mean([row["zero"] for row in seeds]) / result["indices"]
            before, after = np.mean([row["parameters"] for row in seeds], axis=0)
            operations = np.divide(*np.mean([row["flops"] for row in seeds], axis=0))
            line += [
                f"{zero:.1%}",
                f"{before:.0f} to {after:.0f} ({before / after:.1f})",
                f"{operations:.1f}",
            ]
        else:
            line += [""] * 3
        differences = [row.get("logit_difference") for row in seeds]
        line.append("" if None in differences else f"{max(differences):.1e}")
        rows.append(line)
    header = "network, accuracy, indices zero, parameters (times fewer), "
    header += "times fewer operations, largest difference of logits"
    script.print_table(header.split(", "), rows)
    print()


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--seeds", type=script.at_least(1), default=3)
    parser.add_argument("--steps", type=script.at_least(6), default=STEPS)
    parser.add_argument(
        "--validation", action="store_true", help="judge on a part of the training data"
    )
    parser.add_argument("--output", type=Path, help="write the report here, as JSON")
    return parser.parse_args(argv)


def main():
    args = parse()
    machine = script.machine()
    count = sum(
        len(methods(network, args.steps)) + 3 * len(TARGETS)
        for network in args.networks
    )
    with tqdm(total=count * args.seeds, unit="network") as bar:
        results = {network: run(network, args, bar) for network in args.networks}
    script.print_machine(machine)
    failed = []
    for network, result in results.items():
        summarise(result)
        print_result(network, result)
        failed += script.failed_gates(result["cases"])
    report = script.make_report(
        "shrink_digits",
        machine,
        seeds=args.seeds,
        steps=args.steps,
        batch=BATCH,
        judged_on="validation" if args.validation else "test",
        backend=jax.default_backend(),
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        versions={n: metadata.version(n) for n in ("jax", "jaxlib", "optax")},
        networks=results,
    )
    return script.finish(report, args.output, failed)


if __name__ == "__main__":
    sys.exit(main())
