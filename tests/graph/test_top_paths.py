"""`top_paths` against all walks, and against the paths of the authors' models."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.graph import nbfnet_apply, top_paths
from jaxarch.graph._top_paths import _heaviest_walks, _importances

from .test_nbfnet import CASES, arrays, golden_graph, golden_params, small


def importances(params, graph, head, relation, tail):
    query = (jnp.asarray([i]) for i in (head, relation, tail))
    return np.asarray(_importances(params, graph, *query, None, jax.nn.relu))


@pytest.mark.parametrize("name", CASES)
def test_golden_paths(name):
    """Theirs sum the derivatives of all later layers, which is undone here."""
    case, found = CASES[name], arrays(name)
    h, t, r = map(int, found["batch"][0, 0])
    with jax.enable_x64(True):
        graph = golden_graph(name)
        own = importances(golden_params(name), graph, h, r, t)
    summed = np.cumsum(own[::-1], axis=0)[::-1]
    paths = _heaviest_walks(graph, summed, None, h, t, 10, 10)
    wanted = {
        tuple((a, relation, b) for a, b, relation in path): weight
        for path, weight in zip(case["paths"], case["path_weights"], strict=True)
    }
    assert {path for _, path in paths} == set(wanted)
    for weight, path in paths:
        assert weight == pytest.approx(wanted[path], abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["sum", "pna"])
def test_all_walks(key, aggregate):
    """Differences of the score weigh the edges, and every walk is enumerated."""
    head, relation, tail = 0, 1, 4
    with jax.enable_x64(True):
        graph, params = small(key, aggregate=aggregate, num_layers=3, dtype=float)
        num_edges = len(graph.senders)

        @jax.jit
        @jax.vmap
        def score(weights):
            query = (jnp.asarray([i]) for i in (head, relation))
            tails = jnp.asarray([[tail]])
            return nbfnet_apply(params, graph, *query, tails=tails, weights=weights)

        step = 1e-5 * jnp.eye(3 * num_edges).reshape(-1, 3, num_edges)
        slopes = (score(1 + step) - score(1 - step)).reshape(3, num_edges) / 2e-5
        found = top_paths(params, graph, head, relation, tail, num_paths=100)
    columns = (graph.senders, graph.edge_types, graph.receivers)
    edges = list(zip(*(a.tolist() for a in columns), strict=True))
    wanted = {}
    for length in (1, 2, 3):
        for walk in itertools.product(range(num_edges), repeat=length):
            ends = [edges[e] for e in walk]
            joins = all(a[2] == b[0] for a, b in itertools.pairwise(ends))
            early = any(end[2] == tail for end in ends[:-1])
            if joins and not early and ends[0][0] == head and ends[-1][2] == tail:
                weight = np.mean([slopes[i, e] for i, e in enumerate(walk)])
                wanted[tuple(ends)] = weight
    assert {path for _, path in found} == set(wanted)
    weights = [weight for weight, _ in found]
    assert weights == sorted(weights, reverse=True)
    for weight, path in found:
        assert weight == pytest.approx(wanted[path], rel=1e-6, abs=1e-8)


@pytest.mark.slow
def test_masked_edges_are_on_no_path(key):
    graph, params = small(key, num_layers=4)
    first = top_paths(params, graph, 0, 1, 4)[0][1][0]
    ends = np.stack([graph.senders, graph.edge_types, graph.receivers], 1)
    mask = jnp.asarray((ends != first).any(1))
    paths = top_paths(params, graph, 0, 1, 4, edge_mask=mask)
    assert paths
    assert all(first not in path for _, path in paths)
    assert len(top_paths(params, graph, 0, 1, 4, num_paths=2)) == 2


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((6, 0, 1), {}, ValueError, "top_paths: `head` must be below 6, got 6."),
        ((0, 4, 1), {}, ValueError, "top_paths: `relation` must be below 4, got 4."),
        ((0, 0, -1), {}, ValueError, "top_paths: `tail` must be at least 0, got -1."),
        ((0.5, 0, 1), {}, TypeError, "top_paths: `head` must be an int, got float."),
        (
            (0, 0, 1),
            {"num_beams": 0},
            ValueError,
            "top_paths: `num_beams` must be at least 1, got 0.",
        ),
    ],
)
def test_errors(key, arguments, options, error, message):
    graph, params = small(key)
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        top_paths(params, graph, *arguments, **options)
