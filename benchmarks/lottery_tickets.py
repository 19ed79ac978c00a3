"""Lottery tickets on digits: do they train better than the same masks drawn anew?

A dense network 64-300-100-10 is trained, loses a fifth of its weights (a tenth of the
last layer's), goes back to where it began, and again, down to 1 % of the weights. At
each level four networks of as many weights in each layer are trained alike:

- ticket: the masks found, and the initial values they were found with;
- re-initialised: the masks found, and new initial values;
- random masks: as many weights of each layer at random, the ticket's initial values;
- shuffled: the masks found, and the ticket's initial values in another order within
  what each mask keeps.

Frankle and Carbin, arXiv:1803.03635, figures 3 and 4, do so with MNIST, which needs a
download; here it is scikit-learn's digits, split anew for each seed. Reported are the
accuracy on the test part at the end and after 15 % of the steps, the loss at the end,
and the step at which the loss on the validation part is least, as mean and standard
error over seeds; a level separates where the ticket's mean lies above the other's by
more than two standard errors of their paired difference.

    XLA_FLAGS="--xla_cpu_multi_thread_eigen=false" taskset -c 0 \
        python benchmarks/lottery_tickets.py --output FILE
"""

import argparse
import os
import sys
import time
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

SIZES, BATCH = (64, 300, 100, 10), 60  # the paper's batch
TRAIN, VALID, LEVEL = 1120, 280, 0.2
JUDGED = ("accuracy", "early_accuracy")
KINDS = ("ticket", "re-initialised", "random masks", "shuffled")


def init(key):
    """Glorot's normal initialisation, as in the paper."""
    keys = jax.random.split(key, len(SIZES))
    return [
        {"w": jax.random.normal(k, (a, b)) * (2 / (a + b)) ** 0.5, "b": jnp.zeros(b)}
        for k, a, b in zip(keys, SIZES, SIZES[1:], strict=False)
    ]


def apply(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def loss(params, x, y):
    logits = apply(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def trainer(args):
    """Compiled once: (params, masks, data, key) -> (params, figures)."""
    tx = optax.adam(args.rate)
    every = max(1, args.steps // 40)

    @jax.jit
    def train(params, masks, data, key):
        (x, y), (x_valid, y_valid), (x_test, y_test) = data

        def step(carry, key):
            params, state = carry
            rows = jax.random.randint(key, (BATCH,), 0, len(x))

            def masked(params):
                return loss(tr.rewind(params, masks), x[rows], y[rows])

            updates, state = tx.update(jax.grad(masked)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        def part(carry, keys):
            carry, _ = jax.lax.scan(step, carry, keys)
            params = tr.rewind(carry[0], masks)
            valid = loss(params, x_valid, y_valid)
            logits = apply(params, x_test)
            right = (logits.argmax(-1) == y_test).mean()
            return carry, (valid, right, loss(params, x_test, y_test))

        keys = jax.random.split(key, (args.steps // every, every))
        (params, _), history = jax.lax.scan(part, (params, tx.init(params)), keys)
        valid, right, test = history
        best = valid.argmin()
        figures = {
            "accuracy": right[-1],
            "loss": test[-1],
            "best_step": (best + 1) * every,
            "best_accuracy": right[best],
            "early_accuracy": right[round(0.15 * len(right)) - 1],
        }
        return tr.rewind(params, masks), figures

    return train


def splits(seed):
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    x = jnp.asarray(digits.data[order] / 16, jnp.float32)
    y = jnp.asarray(digits.target[order], jnp.int32)
    stops = [0, TRAIN, TRAIN + VALID, len(y)]
    return [(x[a:b], y[a:b]) for a, b in zip(stops, stops[1:], strict=False)]


def permuted(key, tree, masks=None):
    """Shuffles each weight matrix; with masks, the values within what they keep."""
    leaves, structure = jax.tree.flatten(tree)
    kept = jax.tree.leaves(masks) if masks is not None else [None] * len(leaves)
    keys = jax.random.split(key, len(leaves))
    found = []
    for leaf, mask, key in zip(leaves, kept, keys, strict=True):
        if leaf.ndim < 2:
            found.append(leaf)
        elif mask is None:
            found.append(jax.random.permutation(key, leaf.ravel()).reshape(leaf.shape))
        else:
            where = np.nonzero(np.asarray(mask).ravel())[0]
            values = jax.random.permutation(key, leaf.ravel()[where])
            found.append(leaf.ravel().at[where].set(values).reshape(leaf.shape))
    return jax.tree.unflatten(structure, found)


def one_seed(seed, train, args, bar):
    """Figures of each level: kept -> kind -> figures."""
    data, key = splits(seed), jax.random.key(seed)
    first, again, order, mixed, shuffled = jax.random.split(key, 5)
    params = init(first)
    reached = {}

    def fit(params, masks):
        trained, figures = train(params, masks, data, order)
        reached.update({name: float(value) for name, value in figures.items()})
        return trained

    levels = []
    rounds = tr.iterative_pruning_masks(
        fit,
        params,
        rounds=args.rounds,
        fraction=[LEVEL, LEVEL, LEVEL / 2],  # the last layer's more slowly
        progress=False,
    )
    for k, (masks, _, kept) in enumerate(rounds):
        found = {"ticket": dict(reached)}
        if k % args.every == 0 or k == args.rounds:
            random = permuted(jax.random.fold_in(mixed, k), masks)
            others = {
                "re-initialised": (init(jax.random.fold_in(again, k)), masks),
                "random masks": (params, random),
                "shuffled": (
                    permuted(jax.random.fold_in(shuffled, k), params, masks),
                    masks,
                ),
            }
            for kind, (start, kept_there) in others.items():
                fit(tr.rewind(start, kept_there), kept_there)
                found[kind] = dict(reached)
            levels.append({"round": k, "kept": kept, "kinds": found})
        bar.set_postfix_str(f"seed {seed}: {kept:.1%} kept")
        bar.update()
    return levels


def gain(values, kind, name):
    """By how much tickets are better than another kind, seed by seed."""
    found = values["ticket"][name] - values[kind][name]
    error = found.std(ddof=1) / len(found) ** 0.5
    return {
        "mean": float(found.mean()),
        "standard_error": float(error),
        "separates": bool(found.mean() > 2 * error),
    }


def summarise(seeds):
    """Means and standard errors of each level, and where tickets are better."""
    rows = []
    for levels in zip(*seeds, strict=True):
        row = {"round": levels[0]["round"], "kept": levels[0]["kept"], "kinds": {}}
        values = {
            kind: {
                name: np.array([level["kinds"][kind][name] for level in levels])
                for name in levels[0]["kinds"][kind]
            }
            for kind in KINDS
        }
        for kind, figures in values.items():
            row["kinds"][kind] = {
                name: {
                    "mean": float(v.mean()),
                    "standard_error": float(v.std(ddof=1) / len(v) ** 0.5),
                }
                for name, v in figures.items()
            }
        row["ticket_minus"] = {
            kind: {name: gain(values, kind, name) for name in JUDGED}
            for kind in KINDS[1:]
        }
        rows.append(row)
    return rows


def words(found, digits=4):
    return f"{found['mean']:.{digits}f} ± {found['standard_error']:.{digits}f}"


def print_levels(rows):
    header = ["kept", *KINDS, *(f"ticket minus {kind}" for kind in KINDS[1:])]
    for name in JUDGED:
        print(f"\n{name.replace('_', ' ')}\n")
        table = []
        for row in rows:
            line = [f"{row['kept']:.1%}"]
            line += [words(row["kinds"][kind][name]) for kind in KINDS]
            for kind in KINDS[1:]:
                found = row["ticket_minus"][kind][name]
                line.append(words(found) + " *" * found["separates"])
            table.append(line)
        script.print_table(header, table)
    print("\n* more than two standard errors above zero")


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=script.at_least(2), default=5)
    parser.add_argument("--steps", type=script.at_least(40), default=1000)
    parser.add_argument("--rounds", type=script.at_least(1), default=22)
    parser.add_argument(
        "--every",
        type=script.at_least(1),
        default=2,
        help="compare every so many rounds",
    )
    parser.add_argument("--rate", type=float, default=1.2e-3, help="of Adam")
    parser.add_argument("--output", type=Path, help="write the report here, as JSON")
    return parser.parse_args(argv)


def main():
    args = parse()
    machine = script.machine()
    train = trainer(args)
    began = time.perf_counter()
    with tqdm(total=args.seeds * (args.rounds + 1), unit="round") as bar:
        seeds = [one_seed(seed, train, args, bar) for seed in range(args.seeds)]
    seconds = time.perf_counter() - began
    rows = summarise(seeds)
    script.print_machine(machine)
    print_levels(rows)
    report = script.make_report(
        "lottery_tickets",
        machine,
        network="-".join(map(str, SIZES)),
        seeds=args.seeds,
        steps=args.steps,
        batch=BATCH,
        optimiser=f"Adam, {args.rate:g}",
        fraction=[LEVEL, LEVEL, LEVEL / 2],
        seconds=seconds,
        backend=jax.default_backend(),
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        versions={n: metadata.version(n) for n in ("jax", "jaxlib", "optax")},
        levels=rows,
        by_seed=seeds,
    )
    return script.finish(report, args.output, [])


if __name__ == "__main__":
    sys.exit(main())
