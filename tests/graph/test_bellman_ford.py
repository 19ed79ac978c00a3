"""Semirings and path problems against NetworkX, NumPy and the golden file."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P
from jax.test_util import check_grads

from jaxarch import graph as gr
from jaxarch.graph import Graph

from . import golden

SOURCES = np.array([0, 3])


def both_ways(u, v, *columns):
    return (np.append(u, v), np.append(v, u), *(np.append(c, c) for c in columns))


@pytest.mark.parametrize("name", golden.names("semi_"))
def test_golden(name):
    case = golden.case(name)
    u, v, weight, p = case["edges"].T
    u, v = u.astype(int), v.astype(int)
    if name == "semi_undirected":
        u, v, weight, p = both_ways(u, v, weight, p)
    with jax.enable_x64(True):
        plain = Graph.from_edges(u, v, num_nodes=200)
        order = plain.edge_ids
        lengths = dataclasses.replace(plain, weights=jnp.asarray(weight)[order])
        reliable = dataclasses.replace(plain, weights=jnp.asarray(p)[order])
        plain = dataclasses.replace(plain, weights=jnp.ones(len(u)))
        sources = jnp.asarray(case["sources"])
        beta = jnp.asarray(case["katz_beta"])
        # The series ends where it does not change any more.
        series = {"num_steps": 1000, "tol": 1e-16}
        found = {
            "shortest": gr.shortest_path(lengths, sources, tol=0),
            "hops": gr.shortest_path(plain, sources, tol=0),
            "widest": gr.widest_path(lengths, sources, tol=0),
            "reliable": gr.most_reliable_path(reliable, sources, tol=0),
            "katz_index_rows": gr.katz_index(plain, sources, beta=beta, **series),
            "ppr85": gr.personalized_pagerank(lengths, sources, **series),
        }
    # The file has 0 where there is no path to be wide.
    found["widest"] = np.where(np.isneginf(found["widest"]), 0, found["widest"])
    for key, got in found.items():
        np.testing.assert_allclose(got.T, case[key], rtol=1e-10, atol=1e-10)


@functools.cache
def small():
    """A directed graph of 12 nodes and its NetworkX twin; the last node is apart."""
    rng = np.random.default_rng(0)
    pairs = [(u, v) for u, v in itertools.permutations(range(11), 2)]
    pairs = [pairs[i] for i in rng.choice(len(pairs), 30, replace=False)]
    weights = rng.uniform(0.1, 0.9, 30)
    twin = nx.DiGraph()
    twin.add_nodes_from(range(12))
    twin.add_weighted_edges_from(
        (*pair, w) for pair, w in zip(pairs, weights, strict=True)
    )
    return Graph.from_networkx(twin), twin


def test_shortest_path_is_dijkstras():
    graph, twin = small()
    for s, got in zip(SOURCES, gr.shortest_path(graph, SOURCES).T, strict=True):
        found = nx.single_source_dijkstra_path_length(twin, int(s))
        want = [found.get(v, np.inf) for v in range(12)]
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_hops_without_weights():
    graph, twin = small()
    got = gr.shortest_path(dataclasses.replace(graph, weights=None), 0)
    found = nx.single_source_shortest_path_length(twin, 0)
    np.testing.assert_array_equal(got, [found.get(v, np.inf) for v in range(12)])


def best_path(twin, s, worth, best, apart):
    """The best worth of any simple path, by enumeration."""
    out = []
    for v in twin:
        paths = nx.all_simple_edge_paths(twin, s, v)
        worths = [
            worth([twin[a][b]["weight"] for a, b in path]) for path in paths if path
        ]
        out.append(best(worths) if worths else apart)
    return out


@pytest.mark.parametrize(
    ("function", "worth", "apart"),
    [(gr.widest_path, min, -np.inf), (gr.most_reliable_path, np.prod, 0.0)],
)
def test_best_of_all_simple_paths(function, worth, apart):
    graph, twin = small()
    for s, got in zip(SOURCES, function(graph, SOURCES).T, strict=True):
        want = best_path(twin, int(s), worth, max, apart)
        want[s] = got[s]  # the path without edges, checked below
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert function(graph, 0)[0] == {-np.inf: np.inf, 0.0: 1.0}[apart]


def test_katz_index_is_networkxs_centrality():
    graph, twin = small()
    with jax.enable_x64(True):
        graph = Graph.from_networkx(twin)
        index = gr.katz_index(graph, jnp.arange(12), beta=0.3, num_steps=400)
    want = nx.katz_centrality_numpy(twin, alpha=0.3, beta=1.0, weight="weight")
    got = np.asarray(index).sum(1) + 1
    got /= np.linalg.norm(got)
    np.testing.assert_allclose(got, [want[v] for v in range(12)], rtol=1e-10)


def test_personalized_pagerank_is_networkxs():
    with jax.enable_x64(True):
        graph = Graph.from_networkx(small()[1])
        found = gr.personalized_pagerank(
            graph, SOURCES, alpha=0.7, num_steps=None, tol=0
        )
    for s, got in zip(SOURCES, found.T, strict=True):
        want = nx.pagerank(
            small()[1], alpha=0.7, personalization={int(s): 1}, tol=1e-14, max_iter=999
        )
        np.testing.assert_allclose(got, [want[v] for v in range(12)], atol=1e-12)
    np.testing.assert_allclose(np.asarray(found).sum(0), 1, rtol=1e-14)


WALKS = 4


def all_walks(graph, boundary, add, multiply, one, num_steps):
    """Every walk of at most `num_steps` edges, node by node, by enumeration."""
    columns = (graph.senders, graph.receivers, graph.weights)
    edges = list(zip(*(np.asarray(a) for a in columns), strict=True))
    ends = {v: [b] for v, b in enumerate(np.asarray(boundary))}
    last = dict(ends)
    for _ in range(num_steps):
        new = {v: [] for v in ends}
        for u, v, w in edges:
            new[int(v)] += [multiply(a, w) for a in last[int(u)]]
        last = new
        for v, found in new.items():
            ends[v] = ends[v] + found
    return [functools.reduce(add, found) for found in ends.values()]


def soft(temperature):
    return lambda a, b: temperature * np.logaddexp(a / temperature, b / temperature)


@pytest.mark.parametrize(
    ("semiring", "add", "multiply"),
    [
        (gr.MIN_PLUS, min, np.add),
        (gr.MAX_MIN, max, min),
        (gr.MAX_TIMES, max, np.multiply),
        (gr.SUM_TIMES, np.add, np.multiply),
        (gr.LOG_SUM_EXP, np.logaddexp, np.add),
        (gr.log_sum_exp(-0.5), soft(-0.5), np.add),
        (gr.Semiring(jnp.logaddexp, jnp.add, -np.inf, 0.0), np.logaddexp, np.add),
    ],
)
def test_semirings_sum_over_all_walks(semiring, add, multiply):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        graph = Graph.from_edges(
            [0, 1, 1, 2, 0, 2],
            [1, 2, 0, 2, 1, 0],
            num_nodes=4,
            weights=rng.uniform(0.1, 0.9, 6),
        )
        boundary = jnp.asarray([semiring.one, semiring.zero, 0.5, semiring.zero])
        got = gr.bellman_ford(graph, boundary, semiring, num_steps=WALKS)
    want = all_walks(graph, boundary, add, multiply, semiring.one, WALKS)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_soft_minimum_approaches_the_shortest_path():
    graph, _ = small()
    hard = gr.shortest_path(graph, SOURCES)
    cold = gr.log_sum_exp(-1e-3)
    boundary = jnp.where(jnp.arange(12)[:, None] == SOURCES[None], cold.one, cold.zero)
    got = gr.bellman_ford(graph, boundary, cold, num_steps=11)
    np.testing.assert_allclose(got, hard, atol=5e-3)


def two_smallest(a, b):
    """Adds sets of lengths: the two shortest of both, as an ordered last axis."""
    return jnp.sort(jnp.concatenate([a, b], -1), axis=-1)[..., :2]


def test_a_semiring_of_ones_own():
    """The two shortest walks to each node, which no scatter reduces."""
    two = gr.Semiring(two_smallest, jnp.add, np.inf, 0.0)
    graph = Graph.from_edges(
        [0, 0, 1, 0, 2], [1, 1, 2, 2, 3], num_nodes=5, weights=[1.0, 1.5, 1.0, 9.0, 1.0]
    )
    boundary = jnp.full((5, 2), jnp.inf).at[0, 0].set(0)
    got = gr.bellman_ford(graph, boundary, two)
    inf = np.inf
    want = [[0, inf], [1, 1.5], [2, 2.5], [3, 3.5], [inf, inf]]
    np.testing.assert_array_equal(got, want)


def test_add_need_not_commute():
    """The first message that is not 0, in the order of the edges."""
    first = gr.Semiring(lambda a, b: jnp.where(a != 0, a, b), jnp.multiply, 0.0, 1.0)
    graph = Graph.from_edges([0, 1, 2], [3, 3, 3], num_nodes=4, weights=[0.0, 5.0, 7.0])
    boundary = jnp.asarray([1.0, 1.0, 1.0, 2.0])
    got = gr.bellman_ford(graph, boundary, first, num_steps=1)
    np.testing.assert_array_equal(got, [1, 1, 1, 5])


@pytest.mark.parametrize(
    "semiring",
    [gr.MIN_PLUS, gr.SUM_TIMES, gr.log_sum_exp(0.5), gr.log_sum_exp(-0.5)],
)
def test_gradients(semiring):
    graph, _ = small()
    boundary = jnp.where(jnp.arange(12) == 0, semiring.one, semiring.zero)

    def reached(weights):
        made = dataclasses.replace(graph, weights=weights)
        h = gr.bellman_ford(made, boundary.astype(weights.dtype), semiring, num_steps=4)
        return jnp.sum(jnp.where(jnp.isfinite(h), h, 0))

    with jax.enable_x64(True):
        weights = jnp.asarray(graph.weights, jnp.float64)
        check_grads(jax.jit(reached), (weights,), order=1, modes=("fwd", "rev"))


def test_ties_share_the_gradient():
    """Two paths of one length: half a unit for each edge of either."""
    graph = Graph.from_edges([0, 0, 1, 2], [1, 2, 3, 3], num_nodes=4, weights=[1.0] * 4)

    def length(weights):
        made = dataclasses.replace(graph, weights=weights)
        return gr.shortest_path(made, 0)[3]

    got = jax.grad(length)(graph.weights)
    np.testing.assert_array_equal(got, [0.5] * 4)


def test_tolerance_is_forward_mode_only():
    graph, twin = small()

    def total(beta):
        return jnp.sum(gr.katz_index(graph, SOURCES, beta=beta, num_steps=None, tol=0))

    a = nx.to_numpy_array(twin)
    inverse = np.linalg.inv(np.eye(12) - 0.3 * a)
    value, slope = jax.jvp(total, (0.3,), (1.0,))
    rows = (inverse - np.eye(12))[SOURCES]
    np.testing.assert_allclose(value, rows.sum(), rtol=1e-5)
    want = (inverse @ a @ inverse)[SOURCES].sum()
    np.testing.assert_allclose(slope, want, rtol=1e-4)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(total)(0.3)


def test_a_limit_ends_what_never_settles():
    graph = Graph.from_edges([0, 1], [1, 0], num_nodes=2, weights=[-1.0, -1.0])
    got = gr.shortest_path(graph, 0, num_steps=10, tol=0)
    np.testing.assert_array_equal(got, [-10, -9])


def test_masked_edges_are_no_edges():
    graph, _ = small()
    keep = np.arange(30) % 3 > 0
    masked = dataclasses.replace(graph, mask=jnp.asarray(keep)).pad(num_edges=35)
    fewer = Graph.from_edges(
        np.asarray(graph.senders)[keep],
        np.asarray(graph.receivers)[keep],
        num_nodes=12,
        weights=np.asarray(graph.weights)[keep],
    )
    for function in (
        gr.shortest_path,
        gr.widest_path,
        gr.most_reliable_path,
        functools.partial(gr.katz_index, beta=0.3),
        gr.personalized_pagerank,
    ):
        got, want = function(masked, SOURCES), function(fewer, SOURCES)
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_sharded_queries():
    graph, _ = small()
    mesh = jax.make_mesh((2,), ("q",), axis_types=(AxisType.Auto,))
    for options in ({}, {"tol": 0.0}):
        function = functools.partial(gr.shortest_path, **options)
        split = jax.shard_map(
            function, mesh=mesh, in_specs=(P(), P("q")), out_specs=P(None, "q")
        )
        got = jax.jit(split)(graph, SOURCES)
        np.testing.assert_array_equal(got, function(graph, SOURCES))


def test_any_axes_of_queries_and_one_node():
    graph, _ = small()
    flat = gr.shortest_path(graph, jnp.arange(4))
    square = gr.shortest_path(graph, jnp.arange(4).reshape(2, 2))
    np.testing.assert_array_equal(square.reshape(12, 4), flat)
    assert gr.shortest_path(graph, 2).shape == (12,)
    loop = Graph.from_edges([0], [0], num_nodes=1)
    assert gr.katz_index(loop, 0, beta=0.5, num_steps=2).tolist() == [0.75]
    assert gr.shortest_path(loop, 0).tolist() == [0.0]
    counts = gr.bellman_ford(loop, jnp.asarray([1]), gr.SUM_TIMES)
    assert (counts.dtype, counts.tolist()) == (jnp.float32, [2.0])


GRAPH = Graph.from_edges([0], [1], num_nodes=2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: gr.bellman_ford(None, jnp.ones(2), gr.MIN_PLUS),
            TypeError,
            "bellman_ford: `graph` must be a Graph, got <class 'NoneType'>.",
        ),
        (
            lambda: gr.bellman_ford(GRAPH, jnp.ones(3), gr.MIN_PLUS),
            ValueError,
            "`boundary` must have shape (2, *queries), got (3,).",
        ),
        (
            lambda: gr.shortest_path(GRAPH, 0, num_steps=0),
            ValueError,
            "`num_steps` must be at least 1, got 0.",
        ),
        (
            lambda: gr.shortest_path(GRAPH, 0, num_steps=2.0),
            TypeError,
            "`num_steps` must be an int, got float.",
        ),
        (
            lambda: gr.shortest_path(GRAPH, 0, tol=-1.0),
            ValueError,
            "`tol` must be at least 0, got -1.0.",
        ),
        (
            lambda: gr.widest_path(GRAPH, 0.5),
            TypeError,
            "widest_path: `sources` must be integers, got float32.",
        ),
        (
            lambda: gr.katz_index(None, 0, beta=1.0),
            TypeError,
            "katz_index: `graph` must be a Graph",
        ),
        (
            lambda: gr.log_sum_exp(0.0),
            ValueError,
            "log_sum_exp: `temperature` must be finite and not 0, got 0.0.",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
