"""Known links, negatives, losses and ranks against loops over Python sets."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.graph import (
    Graph,
    filtered_ranks,
    known_tails,
    ranking_metrics,
    remove_query_edges,
    sample_negative_tails,
    self_adversarial_loss,
)

NODES, RELATIONS = 9, 3
RNG = np.random.default_rng(0)
TRIPLES = np.unique(
    np.stack([RNG.integers(0, n, 40) for n in (NODES, RELATIONS, NODES)], 1), axis=0
)
GRAPH = Graph.from_triples(
    TRIPLES, num_nodes=NODES, num_relations=RELATIONS
).add_inverse()
FACTS = set(
    zip(
        *(a.tolist() for a in (GRAPH.senders, GRAPH.edge_types, GRAPH.receivers)),
        strict=True,
    )
)
HEADS, QUERIES, TAILS = (jnp.asarray(a) for a in TRIPLES[::4].T)


def edges(mask):
    kept = np.asarray(mask)
    columns = (GRAPH.senders, GRAPH.edge_types, GRAPH.receivers)
    return set(zip(*(np.asarray(a)[kept].tolist() for a in columns), strict=True))


@pytest.mark.parametrize("inverse", [False, True])
def test_links_and_their_inverses_are_removed(inverse):
    h, r, t = HEADS, QUERIES, TAILS
    if inverse:
        h, r, t = t, r + RELATIONS, h
    found = edges(jax.jit(remove_query_edges)(GRAPH, h, r, t))
    links = set(zip(HEADS.tolist(), QUERIES.tolist(), TAILS.tolist(), strict=True))
    both = links | {(t, r + RELATIONS, h) for h, r, t in links}
    assert found == FACTS - both
    assert both <= FACTS


def test_one_hop_removes_every_relation_between_two_nodes():
    tails = jnp.stack([TAILS, (TAILS + 1) % NODES], 1)
    found = edges(remove_query_edges(GRAPH, HEADS, QUERIES, tails, one_hop=True))
    pairs = {
        frozenset((h, t))
        for h, row in zip(HEADS.tolist(), tails.tolist(), strict=True)
        for t in row
    }
    assert found == {(h, r, t) for h, r, t in FACTS if frozenset((h, t)) not in pairs}


def test_links_that_are_no_edges_remove_nothing():
    nowhere = jnp.asarray([0]), jnp.asarray([0]), jnp.asarray([10**6])
    assert remove_query_edges(GRAPH, *nowhere).all()


def test_known_tails():
    found = known_tails(GRAPH, HEADS, QUERIES)
    for i, (h, r) in enumerate(zip(HEADS.tolist(), QUERIES.tolist(), strict=True)):
        want = {t for a, b, t in FACTS if (a, b) == (h, r)}
        assert set(np.flatnonzero(found[i]).tolist()) == want
    first = GRAPH.pad(num_edges=len(GRAPH.senders) + 5)
    np.testing.assert_array_equal(known_tails(first, HEADS, QUERIES), found)


def test_negatives_are_uniform_and_never_known(key):
    known = known_tails(GRAPH, HEADS, QUERIES)
    drawn = sample_negative_tails(key, known, 4000)
    for row, mask in zip(np.asarray(drawn), np.asarray(known), strict=True):
        counts = np.bincount(row, minlength=NODES)
        assert counts[mask].sum() == 0
        share = 4000 / (~mask).sum()
        assert np.abs(counts[~mask] - share).max() < 5 * np.sqrt(share)


def test_no_negatives_left(key):
    drawn = sample_negative_tails(key, jnp.ones((1, 5), bool), 3)
    np.testing.assert_array_equal(drawn, 4)


@pytest.mark.parametrize("temperature", [0, 0.5, 2])
def test_loss(temperature):
    positive, negative = RNG.normal(size=4), RNG.normal(size=(4, 3))
    total = 0.0
    for p, row in zip(positive, negative, strict=True):
        weights = np.exp(row / temperature) if temperature else np.ones(3)
        weights = weights / weights.sum()
        total += np.log1p(np.exp(-p)) + weights @ np.log1p(np.exp(row))
    with jax.enable_x64(True):
        loss = lambda n: self_adversarial_loss(  # noqa: E731
            jnp.asarray(positive), n, temperature=temperature
        )
        np.testing.assert_allclose(loss(jnp.asarray(negative)), total / 8, rtol=1e-13)
        slopes = jax.grad(loss)(jnp.asarray(negative))
        weights = jax.nn.softmax(negative / temperature) if temperature else 1 / 3
        # The weights are constants to the gradient.
        want = weights / (1 + np.exp(-negative)) / 8
        np.testing.assert_allclose(slopes, want, rtol=1e-12)


def test_loss_of_large_scores():
    loss = self_adversarial_loss(jnp.asarray([-1e4]), jnp.asarray([[1e4, -1e4]]))
    np.testing.assert_allclose(loss, 1e4)


def test_ranks_count_ties_against_the_tail():
    scores = jnp.asarray([[1.0, 2, 2, 3, 0], [5, 5, 5, 5, 5], [1, np.nan, 0, 0, 2]])
    known = np.zeros((3, 5), bool)
    known[0, 3] = known[1, 0] = known[1, 1] = known[2, 4] = True
    tails = jnp.asarray([1, 1, 0])
    # Row 3: a score that is no number counts as better.
    found = filtered_ranks(scores, tails, jnp.asarray(known))
    np.testing.assert_array_equal(found, [2, 4, 2])


def test_metrics():
    ranks = jnp.asarray([1, 2, 11, 60])
    found = ranking_metrics(ranks, num_rivals=jnp.asarray([99, 99, 99, 99]))
    np.testing.assert_allclose(found["mr"], 18.5)
    np.testing.assert_allclose(found["mrr"], (1 + 1 / 2 + 1 / 11 + 1 / 60) / 4)
    np.testing.assert_allclose(found["hits@1"], 0.25)
    np.testing.assert_allclose(found["hits@10"], 0.5)
    # Rank among 49 of 99 rivals drawn with replacement, by simulation.
    front = np.asarray(ranks) - 1
    drawn = RNG.binomial(49, front / 99, (200_000, 4))
    np.testing.assert_allclose(found["hits@10_50"], (drawn < 10).mean(), atol=2e-3)


MASK = jnp.zeros((3, NODES), bool)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: remove_query_edges(GRAPH, HEADS, QUERIES, TAILS[:2]),
            ValueError,
            f"remove_query_edges: `tails` must have shape ({len(HEADS)},) or "
            f"({len(HEADS)}, candidates), got (2,).",
        ),
        (
            lambda: remove_query_edges(
                Graph.from_triples(TRIPLES, num_nodes=NODES, num_relations=3),
                *(HEADS, QUERIES, TAILS),
            ),
            ValueError,
            "remove_query_edges: `graph` must have inverse relations, an even number, "
            "unless `one_hop`, got 3.",
        ),
        (
            lambda: known_tails(GRAPH, HEADS, QUERIES[:2]),
            ValueError,
            f"known_tails: `relations` must have shape ({len(HEADS)},), got (2,).",
        ),
        (
            lambda: remove_query_edges(GRAPH, HEADS, QUERIES, jnp.ones(len(HEADS))),
            TypeError,
            "remove_query_edges: `tails` must be integers, got float32.",
        ),
        (
            lambda: known_tails(GRAPH, jnp.ones(3), QUERIES[:3]),
            TypeError,
            "known_tails: `heads` must be integers, got float32.",
        ),
        (
            lambda: filtered_ranks(jnp.ones((3, 9)), jnp.zeros(3), MASK),
            TypeError,
            "filtered_ranks: `tails` must be integers, got float32.",
        ),
        (
            lambda: sample_negative_tails(jax.random.key(0), MASK[0], 3),
            ValueError,
            "sample_negative_tails: `known` must have shape (queries, nodes), got "
            f"({NODES},).",
        ),
        (
            lambda: sample_negative_tails(jax.random.key(0), MASK, 0),
            ValueError,
            "sample_negative_tails: `num_negatives` must be at least 1, got 0.",
        ),
        (
            lambda: self_adversarial_loss(jnp.ones(2), jnp.ones((3, 4))),
            ValueError,
            "self_adversarial_loss: `positives` must have shape (3,), got (2,).",
        ),
        (
            lambda: self_adversarial_loss(
                jnp.ones(3), jnp.ones((3, 4)), temperature=-1
            ),
            ValueError,
            "self_adversarial_loss: `temperature` must not be negative, got -1.",
        ),
        (
            lambda: filtered_ranks(jnp.ones((3, 9)), jnp.zeros(2, int), MASK),
            ValueError,
            "filtered_ranks: `tails` must have shape (3,), got (2,).",
        ),
        (
            lambda: filtered_ranks(jnp.ones((3, 8)), jnp.zeros(3, int), MASK),
            ValueError,
            "filtered_ranks: `known` must have shape (3, 8), got (3, 9).",
        ),
        (
            lambda: ranking_metrics(jnp.ones((3, 1), int)),
            ValueError,
            "ranking_metrics: `ranks` must have shape (queries,), got (3, 1).",
        ),
        (
            lambda: ranking_metrics(jnp.ones(3, int), num_rivals=jnp.ones(2, int)),
            ValueError,
            "ranking_metrics: `num_rivals` must have shape (3,), got (2,).",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
