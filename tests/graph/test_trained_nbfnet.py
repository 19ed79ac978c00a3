"""The kept parameters of `examples/link_prediction.py`, evaluated again.

The data are not in the project: `JAXARCH_DATA` names a folder with the folders
WN18RR_v1, WN18RR_v1_ind and so on (https://github.com/kkteru/grail), without which this
is skipped.
"""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import graph as gr

RESULTS = pathlib.Path(__file__).parents[2] / "examples" / "results"
DATA = os.environ.get("JAXARCH_DATA")


def triples(folder, part, nodes, relations):
    rows = [line.split() for line in (folder / f"{part}.txt").read_text().splitlines()]
    return np.asarray(
        [
            (
                nodes.setdefault(h, len(nodes)),
                relations.setdefault(r, len(relations)),
                nodes.setdefault(t, len(nodes)),
            )
            for h, r, t in rows
        ]
    )


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="JAXARCH_DATA is not set")
@pytest.mark.parametrize(
    ("name", "least"), [("WN18RR_v1", 0.93), ("FB15k-237_v1", 0.80)]
)
def test_hits_on_unseen_nodes(name, least):
    kept = RESULTS / f"link_prediction_{name}.npz"
    if not kept.exists():
        pytest.skip(f"no parameters are kept for {name}")
    results = json.loads(kept.with_suffix(".json").read_text())
    folder = pathlib.Path(DATA or "")
    relations, nodes = {}, {}
    for part in ("train", "valid", "test"):
        triples(folder / name, part, {}, relations)
    num_relations = len(relations)
    facts = triples(folder / f"{name}_ind", "train", nodes, relations)
    triples(folder / f"{name}_ind", "valid", nodes, relations)
    h, r, t = triples(folder / f"{name}_ind", "test", nodes, relations).T
    graph = gr.Graph.from_triples(
        facts, num_nodes=len(nodes), num_relations=num_relations
    ).add_inverse()

    shapes = jax.eval_shape(
        lambda key: gr.nbfnet_init(key, 2 * num_relations, **results["model"]),
        jax.random.key(0),
    )
    with np.load(kept) as file:
        leaves = [jnp.asarray(file[k], jnp.float32) for k in file.files]
    params = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), params, shapes)

    # Both directions, and the expected hits among 50 by sums over rivals.
    hits, reciprocal = [], []
    score = jax.jit(gr.nbfnet_apply)
    facts = {tuple(fact) for fact in facts.tolist()}
    for heads, asked, tails, inverse in ((h, r, t, 0), (t, r + num_relations, h, 1)):
        for i in range(0, len(heads), 47):  # 188 links
            block = slice(i, i + 47)
            scores = np.asarray(score(params, graph, heads[block], asked[block]))
            for row, u, v, q in zip(
                scores, heads[block], tails[block], r[block], strict=True
            ):
                known = {
                    w
                    for w in range(len(nodes))
                    if ((w, q, u) if inverse else (u, q, w)) in facts
                }
                rivals = [w for w in range(len(nodes)) if w != v and w not in known]
                front = (row[rivals] >= row[v]).sum()
                reciprocal.append(1 / (1 + front))
                drawn = np.random.default_rng(0).binomial(49, front / len(rivals), 2000)
                hits.append((drawn < 10).mean())
    assert np.mean(reciprocal) == pytest.approx(results["test"]["mrr"], abs=2e-3)
    assert np.mean(hits) == pytest.approx(results["test"]["hits@10_50"], abs=5e-3)
    assert results["test"]["hits@10_50"] >= least
