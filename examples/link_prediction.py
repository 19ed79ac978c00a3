# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Link prediction with neural Bellman-Ford networks
#
# NBFNet (Zhu, Zhang, Xhonneux and Tang, arXiv:2106.06935) scores the tails of a query
# (head, relation, ?) by what walks from the head collect. It knows relations and no
# nodes, so what it learns on one graph holds on another with the same relations.
#
# Without arguments this trains on UMLS, a graph of 135 medical concepts, for two
# epochs: under two minutes on two cores. The data are text files inside the PyKEEN
# package, which is not imported: `pip install --no-deps pykeen`.
#
#     python examples/link_prediction.py --data DIR --graph WN18RR_v1 --epochs 20
#
# trains on `DIR/WN18RR_v1/{train,valid}.txt` (head, relation, tail) and tests on the
# graph `DIR/WN18RR_v1_ind`, none of whose nodes was seen (Teru, Denis and Hamilton,
# arXiv:1911.06962): hours on two cores. It saves its state as it goes; the same command
# again goes on where the last one stopped. `--evaluate` only tests what is saved.
# `examples/results` keeps our results. Needs `pip install "jaxarch[examples]"`.

# %%
import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from tqdm import tqdm

from jaxarch import graph as gr

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, help="the folder of the graphs' folders")
parser.add_argument("--graph", default="WN18RR_v1", help="the folder to train on")
parser.add_argument("--epochs", type=int, help="2 for UMLS, 20 otherwise")
parser.add_argument("--batch", type=int, default=64, help="links a step")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--checkpoint", type=Path, help="the state, GRAPH.npz by default")
parser.add_argument("--evaluate", action="store_true", help="no training")
parser.add_argument("--results", type=Path, help="a JSON file to write figures to")
parser.add_argument("--parameters", type=Path, help="a file for the parameters")
parser.add_argument("--output", default="link_prediction.png", help="the picture")
ARGS = parser.parse_args([] if "ipykernel" in sys.modules else None)
UMLS = ARGS.data is None
NAME = "umls" if UMLS else ARGS.graph
EPOCHS = (2 if UMLS else 20) if ARGS.epochs is None else ARGS.epochs
CHECKPOINT = ARGS.checkpoint or Path(f"{NAME}.npz")
# The paper's settings, but for UMLS: smaller.
FREEBASE = NAME.startswith("FB")
MODEL = {
    "dim": 16 if UMLS else 32,
    "num_layers": 3 if UMLS else 6,
    "dependent": FREEBASE or UMLS,
}
BATCH, NEGATIVES, RATE = ARGS.batch, 32, 5e-3
TEMPERATURE = 0.5 if FREEBASE else 1.0
BLOCK = 64 if UMLS else 8  # queries at a time: their states stay in cache
SAVE_EVERY = 50  # steps
UMLS_MRR = 0.85
start = time.perf_counter()


# %% [markdown]
# ## The graphs


# %%
def read(folder, nodes, relations):
    """Triples of train, valid and test; new names get the next numbers."""
    parts = {}
    for part in ("train", "valid", "test"):
        rows = []
        for line in (folder / f"{part}.txt").read_text().splitlines():
            head, relation, tail = line.split()
            h, t = (nodes.setdefault(name, len(nodes)) for name in (head, tail))
            rows.append((h, relations.setdefault(relation, len(relations)), t))
        parts[part] = np.asarray(rows, np.int32)
    return parts


def folder_of(name):
    if not UMLS:
        return ARGS.data / name
    package = importlib.util.find_spec("pykeen")
    if package is None or not package.submodule_search_locations:
        sys.exit("UMLS is in the PyKEEN package: pip install --no-deps pykeen")
    return Path(package.submodule_search_locations[0]) / "datasets" / name


nodes, relations = {}, {}
train = read(folder_of(NAME), nodes, relations)
num_relations = len(relations)


def build(triples, nodes):
    return gr.Graph.from_triples(
        triples, num_nodes=len(nodes), num_relations=num_relations
    ).add_inverse()


graph = build(train["train"], nodes)
inductive = not UMLS and folder_of(NAME + "_ind").exists()
if inductive:
    new_nodes = {}
    test = read(folder_of(NAME + "_ind"), new_nodes, relations)
    assert len(relations) == num_relations, "the test graph has new relations"
    # The facts of the new graph are given, and answers among them are filtered.
    test_graph = test_known = build(test["train"], new_nodes)
    valid_known = graph
else:
    test, new_nodes, test_graph = train, nodes, graph
    test_known = valid_known = build(np.concatenate([*train.values()]), nodes)
print(
    f"{NAME}: {len(nodes)} nodes, {num_relations} relations, "
    f"{len(train['train'])} triples to train on; {len(test['test'])} to test on, among "
    f"{test_graph.num_nodes} {'other ' if inductive else ''}nodes"
)


# %% [markdown]
# ## Training
#
# The first half of a batch asks for tails, the second for heads. Negatives are drawn
# from the nodes that are no known answers. The links that are asked for are not there
# to be read off: they, or with Freebase all edges between their ends, are masked.


# %%
def both_ways(triples):
    """Queries and answers: (head, relation, tail) and (tail, inverse, head)."""
    h, r, t = jnp.asarray(triples).T
    queries = (h, t), (r, r + num_relations), (t, h)
    return tuple(jnp.concatenate(pair) for pair in queries)


def loss(params, graph, heads, relations, candidates, mask):
    scores = gr.nbfnet_apply(
        params, graph, heads, relations, tails=candidates, edge_mask=mask
    )
    return gr.self_adversarial_loss(
        scores[:, 0], scores[:, 1:], temperature=TEMPERATURE
    )


optimizer = optax.adam(RATE)


@jax.jit
def train_step(params, state, graph, triples, key):
    half = len(triples) // 2
    h, r, t = triples.T
    heads = jnp.concatenate([h[:half], t[half:]])
    asked = jnp.concatenate([r[:half], r[half:] + num_relations])
    tails = jnp.concatenate([t[:half], h[half:]])
    known = gr.known_tails(graph, heads, asked)
    negatives = gr.sample_negative_tails(key, known, NEGATIVES)
    candidates = jnp.concatenate([tails[:, None], negatives], axis=1)
    mask = gr.remove_query_edges(graph, heads, asked, candidates, one_hop=FREEBASE)

    def add_block(total, block):
        found = jax.value_and_grad(loss)(params, graph, *block, mask)
        return jax.tree.map(jnp.add, total, found), None

    blocks = [
        a.reshape(-1, min(BLOCK, len(heads)), *a.shape[1:])
        for a in (heads, asked, candidates)
    ]
    nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    total, _ = jax.lax.scan(add_block, nothing, blocks)
    value, gradient = jax.tree.map(lambda a: a / len(blocks[0]), total)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value


score = jax.jit(gr.nbfnet_apply)


def evaluate(params, graph, known, triples):
    """Metrics of both directions, the measure among 50 included."""
    queries = both_ways(triples)
    ranks, rivals = [], []
    for i in tqdm(range(0, len(queries[0]), 16), "test", leave=False):
        # The last block is filled up with its first queries and cut.
        kept = min(16, len(queries[0]) - i)
        heads, asked, tails = (jnp.resize(a[i : i + 16], 16) for a in queries)
        others = gr.known_tails(known, heads, asked)
        found = gr.filtered_ranks(score(params, graph, heads, asked), tails, others)
        ranks.append(found[:kept])
        others = others.at[jnp.arange(16), tails].set(True)
        rivals.append((~others).sum(1)[:kept])
    metrics = gr.ranking_metrics(
        jnp.concatenate(ranks), num_rivals=jnp.concatenate(rivals)
    )
    return {name: round(float(value), 4) for name, value in metrics.items()}


# %% [markdown]
# ## The state, on disk
#
# Parameters, their best by validation, the optimiser's state and the curve so far.


# %%
@dataclasses.dataclass
class Progress:
    """What a run has reached; `arrays` is (params, best params, optimiser state)."""

    arrays: tuple
    step: int = 0
    seconds: float = 0.0
    losses: list = dataclasses.field(default_factory=list)
    curve: list = dataclasses.field(default_factory=list)

    def save(self, path):
        """Writes everything; a run that is cut off leaves the state before."""
        leaves = jax.tree.leaves(self.arrays)
        numbers = {k: v for k, v in vars(self).items() if k != "arrays"}
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            named = {str(i): leaf for i, leaf in enumerate(leaves)}
            np.savez_compressed(file, progress=json.dumps(numbers), **named)
        partial.replace(path)

    def load(self, path):
        """Reads what `save` wrote."""
        tree = jax.tree.structure(self.arrays)
        with np.load(path) as file:
            leaves = [jnp.asarray(file[str(i)]) for i in range(tree.num_leaves)]
            numbers = json.loads(str(file["progress"]))
        return Progress(jax.tree.unflatten(tree, leaves), **numbers)


key = jax.random.key(ARGS.seed)
params = gr.nbfnet_init(key, 2 * num_relations, **MODEL)
progress = Progress((params, params, optimizer.init(params)))
if CHECKPOINT.exists() and not UMLS:
    progress = progress.load(CHECKPOINT)
    print(f"Goes on from step {progress.step} of {CHECKPOINT}.")

steps = len(train["train"]) // BATCH  # an epoch; what is left over comes another time
rng = np.random.default_rng(ARGS.seed)
orders = [rng.permutation(len(train["train"])) for _ in range(EPOCHS)]
params, best, state = progress.arrays
began, before = time.perf_counter(), progress.seconds
bar = tqdm(range(EPOCHS * steps), "training", initial=progress.step, mininterval=5)
while progress.step < EPOCHS * steps and not ARGS.evaluate:
    epoch, i = divmod(progress.step, steps)
    rows = orders[epoch][i * BATCH : (i + 1) * BATCH]
    params, state, value = train_step(
        params,
        state,
        graph,
        jnp.asarray(train["train"][rows]),
        jax.random.fold_in(key, progress.step),
    )
    progress.losses.append(round(float(value), 5))
    progress.step += 1
    bar.update()
    bar.set_postfix(loss=f"{np.mean(progress.losses[-steps:]):.3f}")
    if progress.step % steps == 0:
        # Some of the validation triples tell the epochs apart well enough.
        metrics = evaluate(params, graph, valid_known, train["valid"][:150])
        previous = [entry["mrr"] for entry in progress.curve]
        if metrics["mrr"] > max(previous, default=0):
            best = params
        mean_loss = round(float(np.mean(progress.losses[-steps:])), 4)
        progress.curve.append({"epoch": epoch + 1, "loss": mean_loss, **metrics})
        tqdm.write(json.dumps(progress.curve[-1]))
    progress.arrays = params, best, state
    progress.seconds = round(before + time.perf_counter() - began, 1)
    if not UMLS and (progress.step % SAVE_EVERY == 0 or progress.step % steps == 0):
        progress.save(CHECKPOINT)
bar.close()

# %% [markdown]
# ## The test

# %%
figures = evaluate(best, test_graph, test_known, test["test"])
print(f"test: {json.dumps(figures)}")

# %% [markdown]
# ## Why?
#
# The heaviest walks behind the first right answers to questions whose answer is not an
# edge.

# %%
names = [*relations, *(f"{name}, inverse" for name in relations)]
entities = list(new_nodes)
h, r, t = test["test"].T
first = score(best, test_graph, *(jnp.asarray(a[:16]) for a in (h, r)))
known = gr.known_tails(test_known, *(jnp.asarray(a[:16]) for a in (h, r)))
right = np.flatnonzero(gr.filtered_ranks(first, jnp.asarray(t[:16]), known) == 1)
for i in right[:2].tolist():
    query = int(h[i]), int(r[i]), int(t[i])
    print(f"\n{entities[query[0]]} -{names[query[1]]}-> {entities[query[2]]}, because")
    for weight, path in gr.top_paths(best, test_graph, *query, num_paths=3):
        hops = (f"{entities[a]} -{names[r]}-> {entities[b]}" for a, r, b in path)
        print(f"  {weight:8.3f}  " + ", ".join(hops))

# %% [markdown]
# ## Results and a picture

# %%
results = {
    "graph": NAME,
    "seed": ARGS.seed,
    "epochs": progress.step / steps,
    "batch": BATCH,
    "model": MODEL,
    "hours": round(progress.seconds / 3600, 3),
    "test": figures,
    "curve": progress.curve,
    "device": f"{jax.devices()[0].device_kind}, {platform.machine()}, "
    f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores",
    "versions": {name: metadata.version(name) for name in ("jax", "optax", "numpy")},
    "date": datetime.date.today().isoformat(),
}
if ARGS.results:
    ARGS.results.write_text(json.dumps(results, indent=1) + "\n")
if ARGS.parameters:
    leaves = jax.tree.leaves(best)
    np.savez_compressed(ARGS.parameters, *leaves)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
width = max(1, min(50, len(progress.losses) // 10))
smooth = np.convolve(progress.losses, np.ones(width) / width, "valid")
left.plot(width + np.arange(len(smooth)), smooth, color="#0072B2")
left.set(xlabel="step", ylabel=f"loss, mean over {width} steps", yscale="log")
epochs = [entry["epoch"] for entry in progress.curve]
for name, colour in (("mrr", "#D55E00"), ("hits@10", "#009E73")):
    values = [entry[name] for entry in progress.curve]
    right.plot(epochs, values, "o-", color=colour, label=f"{name}, validation")
    right.axhline(figures[name], color=colour, ls=":", label=f"{name}, test")
right.set(xlabel="epoch", ylim=(0, 1))
right.legend(fontsize="small")
figure.suptitle(f"NBFNet on {NAME}")
figure.savefig(ARGS.output, dpi=120)

# %%
if UMLS:
    assert figures["mrr"] > UMLS_MRR, figures
print(f"Wrote {ARGS.output} after {time.perf_counter() - start:.0f} s.")
