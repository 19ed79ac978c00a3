"""The recipes of the page on graphs in the documentation."""

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.slow
def test_recipes():
    # --8<-- [start:paths]
    from jaxarch.graph import LOG_SUM_EXP, Graph, bellman_ford, shortest_path

    roads = Graph.from_edges(
        [0, 0, 1, 2], [1, 2, 3, 3], num_nodes=4, weights=[1.0, 2.0, 4.0, 1.5]
    )
    shortest_path(roads, 0)  # 0, 1, 2, 3.5

    boundary = jnp.array([0.0, -jnp.inf, -jnp.inf, -jnp.inf])[:, None]
    bellman_ford(roads, boundary, LOG_SUM_EXP, num_steps=3)  # over all walks at once
    # --8<-- [end:paths]
    np.testing.assert_allclose(shortest_path(roads, 0), [0, 1, 2, 3.5])
    soft = bellman_ford(roads, boundary, LOG_SUM_EXP, num_steps=3)[:, 0]
    np.testing.assert_allclose(soft[3], np.logaddexp(5, 3.5), rtol=1e-6)

    # --8<-- [start:links]
    import jax

    from jaxarch import graph as gr

    triples = [[0, 0, 1], [1, 0, 2], [3, 0, 4], [4, 0, 5], [0, 1, 2], [3, 1, 5]]
    facts = gr.Graph.from_triples(triples, num_nodes=6, num_relations=2).add_inverse()
    params = gr.nbfnet_init(jax.random.key(0), 4, 16, num_layers=3)
    heads, relations, tails = jnp.array(triples).T

    def loss(params, key):
        known = gr.known_tails(facts, heads, relations)
        negatives = gr.sample_negative_tails(key, known, 4)
        candidates = jnp.concatenate([tails[:, None], negatives], axis=1)
        mask = gr.remove_query_edges(facts, heads, relations, tails)
        scores = gr.nbfnet_apply(
            params, facts, heads, relations, tails=candidates, edge_mask=mask
        )
        return gr.self_adversarial_loss(scores[:, 0], scores[:, 1:])

    gradient = jax.jit(jax.grad(loss))(params, jax.random.key(1))
    scores = gr.nbfnet_apply(params, facts, heads, relations)
    known = gr.known_tails(facts, heads, relations)
    gr.ranking_metrics(gr.filtered_ranks(scores, tails, known))  # mr, mrr, hits@k
    gr.top_paths(params, facts, 0, 1, 2, num_paths=3)  # the walks behind a score
    # --8<-- [end:links]
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    ranks = gr.filtered_ranks(scores, tails, known)
    assert ((ranks >= 1) & (ranks <= 6)).all()
