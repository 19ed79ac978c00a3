"""FloydNet beside plain message passing, at four times the size they were trained on.

Two tasks on random graphs whose edges have lengths from 1 to 8:

- distances: the length of the shortest path between every two nodes;
- predecessors: the last node but one of a shortest path between every two nodes, the
  output of the task `floyd_warshall` of the CLRS benchmark (arXiv:2205.15659). Of
  several shortest paths any counts.

The two networks see the same relations, one for each length, have as many parameters,
and both give one number for every two nodes: a FloydNet by attention over all pivots on
n^2 pairs, an NBFNet by messages along the edges, one query for each source. They train
on 16 nodes and are tested on 16 and 64, with four edges a node in both.

The default is 400 steps a network, a first look, kept in
`examples/results/floydnet_or_messages.json`; `--full` makes ten times as many and
has one more network.
"""

import argparse
import datetime
import functools
import json
import os
import platform
import time
from importlib import metadata

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.sparse import csgraph
from tqdm import trange

from jaxarch import graph as gr

LENGTHS, DEGREE = 8, 4
SIZES = 16, 64


def draw(rng, num_nodes):
    """Lengths of the edges of a connected graph, 0 for none, and all distances."""
    while True:
        edges = np.triu(
            rng.random((num_nodes, num_nodes)) < DEGREE / (num_nodes - 1), 1
        )
        w = edges * rng.integers(1, LENGTHS + 1, edges.shape)
        w = w + w.T
        distances = csgraph.shortest_path(w)
        if np.isfinite(distances).all():
            return w, distances.astype(np.float32)


def graphs(rng, num_nodes, count):
    """A batch: the graphs, their matrices of lengths, and all distances."""
    matrices, distances = map(
        np.stack, zip(*[draw(rng, num_nodes) for _ in range(count)], strict=True)
    )
    num_edges = int((matrices > 0).sum((1, 2)).max())

    def graph(w):
        senders, receivers = np.nonzero(w)
        return gr.Graph.from_edges(
            senders,
            receivers,
            num_nodes=num_nodes,
            edge_types=w[senders, receivers] - 1,
            num_relations=LENGTHS,
        ).pad(num_edges=num_edges)

    stacked = jax.tree.map(lambda *a: np.stack(a), *map(graph, matrices))
    return jax.tree.map(jnp.asarray, (stacked, matrices, distances))


def floydnet_scores(params, graph, w):
    """A number for every two nodes, from a one-hot code of each pair."""
    del graph
    kind = jax.nn.one_hot(w, LENGTHS + 1)
    x = jnp.concatenate([kind, jnp.eye(len(w))[..., None]], -1)
    return gr.floydnet_apply(params, x, remat=False)[..., 0]


def message_scores(params, graph, w):
    """A number for every two nodes: each node is the head of a query."""
    heads = jnp.arange(len(w))
    return gr.nbfnet_apply(params, graph, heads, 0 * heads)


def networks(key, full):
    """Sizes that make the numbers of parameters alike."""
    floydnet = gr.floydnet_init(
        key,
        LENGTHS + 2,
        16,
        1,
        num_blocks=4,
        num_heads=4,
        readout="edge",
        head_widths=(16,),
    )
    nbfnet = functools.partial(gr.nbfnet_init, key, LENGTHS, dependent=False)
    found = {
        "FloydNet": (floydnet, floydnet_scores),
        "NBFNet, PNA": (nbfnet(12, num_layers=8), message_scores),
    }
    if full:
        likest = nbfnet(26, num_layers=8, message="transe", aggregate="max")
        found["NBFNet, max"] = likest, message_scores
    return found


# A task reads the scores s_ij of a graph. For predecessors, node k is as likely as
# exp(s_ik + b of the length of edge kj) among the neighbours k of j, which is Bellman's
# equation where s is minus a distance; b is trained with the network.


def others(w):
    return ~jnp.eye(len(w), dtype=bool)


def predecessor_logits(scores, lengths, w):
    logits = scores[:, :, None] + lengths[w][None]
    return jnp.where((w > 0)[None], logits, -1e9)  # (i, k, j)


def is_predecessor(w, distances):
    on_path = distances[:, :, None] + w[None] == distances[:, None, :]
    return on_path & (w > 0)[None]


def distance_loss(scores, lengths, w, distances):
    del lengths
    return jnp.square(scores - distances / LENGTHS).mean(where=others(w))


def predecessor_loss(scores, lengths, w, distances):
    logs = jax.nn.log_softmax(predecessor_logits(scores, lengths, w), 1)
    right = is_predecessor(w, distances)
    log = jnp.where(right, logs, 0).sum(1) / jnp.maximum(right.sum(1), 1)
    return -log.mean(where=others(w))


def distance_accuracy(scores, lengths, w, distances):
    """The share of distances that are right once rounded, and the relative error."""
    del lengths
    off = others(w)
    error = jnp.abs(scores * LENGTHS - distances)
    relative = error / jnp.where(off, distances, 1)
    return (error < 0.5).mean(where=off), relative.mean(where=off)


def predecessor_accuracy(scores, lengths, w, distances):
    """The share of the predecessors that are on a shortest path."""
    off = others(w)
    chosen = predecessor_logits(scores, lengths, w).argmax(1)
    right = is_predecessor(w, distances)
    right = jnp.take_along_axis(right, chosen[:, None, :], 1)[:, 0]
    share = right.mean(where=off)
    return share, 1 - share


TASKS = {
    "distances": (distance_loss, distance_accuracy),
    "predecessors": (predecessor_loss, predecessor_accuracy),
}


def train(name, params, apply, loss, data, steps, seed, batch=8, rate=3e-3):
    """Adam with a warm-up and a cosine; the trained parameters and the last loss."""
    schedule = optax.warmup_cosine_decay_schedule(0, rate, max(steps // 10, 1), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    @jax.jit
    def step(params, state, key):
        chosen = jax.random.randint(key, (batch,), 0, len(data[1]))

        def total(params):
            def one(graph, w, distances):
                return loss(apply(params[0], graph, w), params[1], w, distances)

            return jax.vmap(one)(*jax.tree.map(lambda a: a[chosen], data)).mean()

        value, slope = jax.value_and_grad(total)(params)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state, value

    state, value = optimizer.init(params), jnp.inf
    key = jax.random.key(seed)
    for i in trange(steps, desc=name):
        params, state, value = step(params, state, jax.random.fold_in(key, i))
    return params, float(value)


def test(params, apply, accuracy, data):
    """What `accuracy` gives, averaged over graphs."""

    @jax.jit
    def run(params, data):
        def one(example):
            graph, w, distances = example
            return accuracy(apply(params[0], graph, w), params[1], w, distances)

        return jax.lax.map(one, data)

    return [float(a.mean()) for a in run(params, data)]


def study(steps, seed, full):
    """Trains and tests every network on both tasks."""
    rng = np.random.default_rng(seed)
    data = graphs(rng, SIZES[0], 1500)
    tests = {n: graphs(rng, n, 1024 // n) for n in SIZES}
    rows = []
    for task, (loss, accuracy) in TASKS.items():
        for name, (params, apply) in networks(jax.random.key(seed), full).items():
            start = time.perf_counter()
            params = params, jnp.zeros(LENGTHS + 1)
            params, value = train(
                f"{name}, {task}", params, apply, loss, data, steps, seed
            )
            found = {n: test(params, apply, accuracy, tests[n]) for n in SIZES}
            rows.append(
                {
                    "task": task,
                    "network": name,
                    "parameters": sum(a.size for a in jax.tree.leaves(params)),
                    "steps": steps,
                    "seed": seed,
                    "loss": value,
                    "right": {str(n): right for n, (right, _) in found.items()},
                    "error": {str(n): error for n, (_, error) in found.items()},
                    "seconds": round(time.perf_counter() - start, 1),
                }
            )
            print(line(rows[-1]), flush=True)
    return rows


def line(row):
    """A row of the table."""
    right, error = (
        " ".join(f"{row[key][str(n)]:.3f}" for n in SIZES) for key in ("right", "error")
    )
    return (
        f"{row['task']:13} {row['network']:12} {row['parameters']:6} parameters; with "
        f"16 and 64 nodes: right {right}, error {error}; {row['seconds']} s"
    )


def picture(rows, path):
    """Shares that are right, by task, network and size."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for axis, task in zip(axes, TASKS, strict=True):
        mine = [row for row in rows if row["task"] == task]
        for shift, n in zip((-0.2, 0.2), SIZES, strict=True):
            shares = [row["right"][str(n)] for row in mine]
            bars = axis.bar(np.arange(len(mine)) + shift, shares, 0.4)
            axis.bar_label(bars, fmt="%.2f", fontsize=8)
            bars.set_label(f"{n} nodes")
        axis.set_xticks(range(len(mine)), [row["network"] for row in mine])
        axis.set(title=task, ylim=(0, 1.1))
    axes[0].set(ylabel="share that is right")
    axes[1].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="4000 steps, one seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", help="a JSON file to write the table to")
    parser.add_argument("--output", default="floydnet_or_messages.png")
    args = parser.parse_args()
    start = time.perf_counter()
    rows = study(4000 if args.full else 400, args.seed, args.full)
    picture(rows, args.output)
    if args.results:
        found = {
            "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared",
            "jax": metadata.version("jax"),
            "rows": rows,
        }
        with open(args.results, "w") as file:
            json.dump(found, file, indent=1)
    by_name = {(row["task"], row["network"]): row for row in rows}
    floydnet, messages = (
        by_name["distances", name] for name in ("FloydNet", "NBFNet, PNA")
    )
    assert abs(floydnet["parameters"] / messages["parameters"] - 1) < 0.1
    print(f"Wrote {args.output} after {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
