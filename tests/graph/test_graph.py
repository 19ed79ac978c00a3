"""`Graph`: its orders, what it refuses, padding, and other packages' graphs."""

import re
import types

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import sparse

from jaxarch.graph import Graph

EDGES = {
    "senders": [3, 0, 1, 1, 2, 3],
    "receivers": [2, 3, 0, 2, 2, 2],
    "edge_types": [1, 0, 2, 1, 0, 1],
    "weights": [0.5, 1.0, 2.0, 3.0, 4.0, 5.0],
}


def make(**changes):
    return Graph.from_edges(**EDGES | {"num_nodes": 5, "num_relations": 3} | changes)


def facts(graph):
    """The edges that count, as a sorted list."""
    keep = slice(None) if graph.mask is None else np.asarray(graph.mask)
    columns = [graph.senders, graph.edge_types, graph.receivers]
    if graph.weights is not None:
        columns.append(graph.weights)
    return sorted(zip(*(np.asarray(a)[keep].tolist() for a in columns), strict=True))


COLUMNS = [EDGES[k] for k in ("senders", "edge_types", "receivers", "weights")]
WANTED = sorted(zip(*COLUMNS, strict=True))


def on_host(graph):
    return jax.tree.map(np.asarray, graph)


def assert_in_order(graph):
    graph = on_host(graph)
    assert (np.diff(graph.receivers) >= 0).all()
    assert (np.diff(graph.senders[graph.by_sender]) >= 0).all()
    for permutation in (graph.by_sender, graph.edge_ids):
        np.testing.assert_array_equal(np.sort(permutation), np.arange(len(permutation)))


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 2), min_size=1, max_size=30))
def test_edges_are_stored_in_both_orders(pairs):
    senders, receivers = np.array(pairs).T
    graph = on_host(Graph.from_edges(senders, receivers, num_nodes=5))
    assert_in_order(graph)
    np.testing.assert_array_equal(senders[graph.edge_ids], graph.senders)
    np.testing.assert_array_equal(receivers[graph.edge_ids], graph.receivers)
    # The order of the input among the edges of one receiver.
    assert (np.diff(graph.edge_ids)[np.diff(graph.receivers) == 0] > 0).all()


def test_every_array_follows_the_edges():
    graph = make()
    assert facts(graph) == WANTED
    assert {a.dtype for a in (graph.senders, graph.edge_types)} == {jnp.dtype("int32")}
    for name, values in EDGES.items():
        np.testing.assert_array_equal(
            getattr(graph, name), np.array(values)[graph.edge_ids]
        )


def test_integer_weights_are_floats():
    assert make(weights=[1, 2, 3, 4, 5, 6]).weights.dtype == "float32"


def test_triples():
    rows = np.stack([EDGES[k] for k in ("senders", "edge_types", "receivers")], 1)
    graph = Graph.from_triples(rows, num_nodes=5, num_relations=3)
    assert facts(graph) == [fact[:3] for fact in WANTED]


def test_add_inverse():
    graph = make()
    both = graph.add_inverse()
    assert_in_order(both)
    inverse = [(v, r + 3, u, w) for u, r, v, w in WANTED]
    assert facts(both) == sorted(WANTED + inverse)
    assert both.num_relations == 6
    senders = np.array(EDGES["senders"] + EDGES["receivers"])
    np.testing.assert_array_equal(senders[both.edge_ids], both.senders)


def test_pad():
    graph = make()
    padded = graph.pad(num_nodes=7, num_edges=10)
    assert_in_order(padded)
    assert facts(padded) == facts(graph) == WANTED
    assert (padded.num_nodes, len(padded.senders)) == (7, 10)
    np.testing.assert_array_equal(padded.node_mask, [True] * 5 + [False] * 2)
    again = padded.pad(num_edges=12)
    assert facts(again) == WANTED
    np.testing.assert_array_equal(again.node_mask, padded.node_mask)
    both = padded.add_inverse()
    assert_in_order(both)
    assert facts(both) == facts(graph.add_inverse())
    np.testing.assert_array_equal(both.node_mask, padded.node_mask)


def test_graph_without_weights_pads():
    padded = make(weights=None).pad(num_edges=8)
    assert padded.weights is None
    assert facts(padded) == [fact[:3] for fact in WANTED]


def test_padded_graphs_stack():
    first = make().pad(num_edges=8)
    second = Graph.from_edges([0], [1], num_nodes=5, num_relations=3, weights=[1.0])
    stacked = jax.tree.map(lambda *a: jnp.stack(a), first, second.pad(num_edges=8))
    assert stacked.senders.shape == (2, 8)


@pytest.mark.parametrize("padded", [False, True])
def test_networkx(padded):
    graph = make().pad(num_nodes=6, num_edges=9) if padded else make()
    other = graph.to_networkx()
    assert isinstance(other, nx.MultiDiGraph)
    assert other.number_of_nodes() == 5
    back = Graph.from_networkx(other)
    assert (facts(back), back.num_nodes, back.num_relations) == (WANTED, 5, 3)


def test_networkx_undirected_with_names():
    other = nx.Graph()
    other.add_nodes_from("abc")
    other.add_edge("a", "b", weight=2.0)
    other.add_edge("c", "c")
    graph = Graph.from_networkx(other)
    assert facts(graph) == [(0, 0, 1, 2.0), (1, 0, 0, 2.0), (2, 0, 2, 1.0)]
    plain = Graph.from_networkx(nx.path_graph(3), num_relations=2)
    assert plain.weights is None
    assert plain.num_relations == 2
    assert facts(plain) == [(0, 0, 1), (1, 0, 0), (1, 0, 2), (2, 0, 1)]
    assert "weight" not in plain.to_networkx()[0][1][0]


@pytest.mark.parametrize("padded", [False, True])
def test_scipy(padded):
    graph = make().pad(num_nodes=6, num_edges=9) if padded else make()
    matrices = graph.to_scipy()
    assert len(matrices) == 3
    dense = np.zeros((3, 5, 5))
    for u, r, v, w in WANTED:
        dense[r, u, v] += w
    np.testing.assert_array_equal([m.toarray() for m in matrices], dense)
    back = Graph.from_scipy(matrices)
    np.testing.assert_array_equal([m.toarray() for m in back.to_scipy()], dense)


def test_scipy_one_matrix():
    graph = Graph.from_scipy(sparse.csr_array(np.array([[0, 2.0], [0, 0]])))
    assert facts(graph) == [(0, 0, 1, 2.0)]
    unweighted = Graph.from_edges([0, 0], [1, 1], num_nodes=2).to_scipy()
    np.testing.assert_array_equal(unweighted[0].toarray(), [[0, 2], [0, 0]])


@pytest.mark.parametrize("padded", [False, True])
def test_jraph(padded):
    graph = make().pad(num_nodes=6, num_edges=9) if padded else make()
    other = graph.to_jraph()
    assert other._fields == (
        *("nodes", "edges", "receivers", "senders", "globals", "n_node", "n_edge"),
    )
    assert (other.n_node.tolist(), other.n_edge.tolist()) == ([5], [6])
    back = Graph.from_jraph(other)
    assert (facts(back), back.num_nodes, back.num_relations) == (WANTED, 5, 3)


def jraph_like(edges):
    return types.SimpleNamespace(
        senders=[0, 1], receivers=[1, 2], edges=edges, n_node=[2, 1]
    )


def test_jraph_edges_of_any_kind():
    none = Graph.from_jraph(jraph_like(None))
    assert (none.num_nodes, none.num_relations, none.weights) == (3, 1, None)
    relations = Graph.from_jraph(jraph_like(np.array([1, 0])), num_relations=4)
    assert facts(relations) == [(0, 1, 1), (1, 0, 2)]
    assert relations.num_relations == 4
    floats = Graph.from_jraph(jraph_like(jnp.asarray([0.5, 2.0], jnp.bfloat16)))
    assert facts(floats) == [(0, 0, 1, 0.5), (1, 0, 2, 2.0)]
    unweighted = make(weights=None).to_jraph()
    assert set(unweighted.edges) == {"edge_types"}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make(num_nodes=0), ValueError, "`num_nodes` must be at least 1"),
        (lambda: make(num_nodes=5.0), TypeError, "`num_nodes` must be an int"),
        (
            lambda: Graph.from_edges([], [], num_nodes=3),
            ValueError,
            "Graph.from_edges: the graph must have an edge, got none.",
        ),
        (
            lambda: make(num_nodes=3),
            ValueError,
            "`senders` must be in [0, 3) (`num_nodes`), got 3 at edge 0.",
        ),
        (
            lambda: make(receivers=[2, 3, 0, 2, 2, -1]),
            ValueError,
            "`receivers` must be in [0, 5) (`num_nodes`), got -1 at edge 5.",
        ),
        (
            lambda: make(num_relations=2),
            ValueError,
            "`edge_types` must be in [0, 2) (`num_relations`), got 2 at edge 2.",
        ),
        (lambda: make(senders=np.ones(6)), TypeError, "must be integers, got float64"),
        (
            lambda: make(senders=[[0]]),
            ValueError,
            "`senders` must have shape (edges,), got (1, 1).",
        ),
        (
            lambda: make(receivers=[0, 1]),
            ValueError,
            "`receivers` must have shape (6,) as `senders`, got (2,).",
        ),
        (
            lambda: make(weights=[1.0] * 5 + [np.nan]),
            ValueError,
            "`weights` must be numbers, got NaN at edge 5.",
        ),
        (
            lambda: Graph.from_triples([[0, 1]], num_nodes=2, num_relations=2),
            ValueError,
            "`triples` must have shape (edges, 3), got (1, 2).",
        ),
        (
            lambda: Graph.from_triples([], num_nodes=2, num_relations=2),
            ValueError,
            "the graph must have an edge, got none.",
        ),
        (
            lambda: make().pad(num_edges=5),
            ValueError,
            "Graph.pad: `num_edges` must be at least 6, got 5.",
        ),
        (
            lambda: Graph.from_jraph(jraph_like(np.ones((2, 3)))),
            ValueError,
            "got float64 of shape (2, 3).",
        ),
        (
            lambda: Graph.from_jraph(jraph_like({"kind": [0, 0]})),
            ValueError,
            "must have keys among 'edge_types' and 'weights', got ['kind'].",
        ),
        (
            lambda: Graph.from_scipy([]),
            ValueError,
            "Graph.from_scipy: `matrices` must not be empty.",
        ),
        (
            lambda: Graph.from_scipy(sparse.csr_array((2, 3))),
            ValueError,
            "`matrices[0]` must have shape (2, 2), got (2, 3).",
        ),
        (
            lambda: Graph.from_networkx(nx.empty_graph(3)),
            ValueError,
            "the graph must have an edge, got none.",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
