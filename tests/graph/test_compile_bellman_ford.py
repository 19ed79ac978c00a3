"""Compiled breadth-first search and Bellman-Ford: the CLRS benchmark, NetworkX."""

import functools
import re

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from jaxarch.graph import (
    Graph,
    compile_bellman_ford,
    compile_bfs,
    nbfnet_apply,
    nbfnet_states,
)

from . import clrs

STEPS = 12


def weighted(matrix):
    """A graph with a relation for each length, and the lengths, of one size each."""
    senders, receivers = np.nonzero(matrix)
    lengths, edge_types = np.unique(matrix[senders, receivers], return_inverse=True)
    graph = Graph.from_edges(
        senders,
        receivers,
        num_nodes=len(matrix),
        edge_types=edge_types,
        num_relations=256,
    )
    return graph.pad(num_edges=520), np.resize(lengths, 256)


@functools.partial(jax.jit, static_argnames=("dtype", "num_layers"))
def search(graph, heads, dtype="float64", num_layers=STEPS):
    params = compile_bfs(graph.num_relations, num_layers=num_layers, dtype=dtype)
    relations = jnp.zeros_like(heads)
    return (
        nbfnet_states(params, graph, heads, relations)[..., 0],
        nbfnet_apply(params, graph, heads, relations),
    )


@functools.partial(jax.jit, static_argnames=("dtype", "num_layers"))
def shortest(graph, lengths, heads, bound, dtype="float64", num_layers=STEPS):
    params = compile_bellman_ford(
        lengths, bound=bound, num_layers=num_layers, dtype=dtype
    )
    relations = jnp.zeros_like(heads)
    return (
        nbfnet_states(params, graph, heads, relations)[..., 0],
        nbfnet_apply(params, graph, heads, relations),
    )


@pytest.mark.parametrize("name", clrs.NAMES)
def test_breadth_first_search_of_the_benchmark(name):
    case = clrs.case(name)
    a, source, hints = case["A"], case["src"], case["bfs_reach_hints"]
    graph = Graph.from_edges(*np.nonzero(a), num_nodes=len(a)).pad(num_edges=520)
    for dtype in ("bfloat16", "float32") if len(a) == 16 else ("float32",):
        states, scores = search(graph, jnp.asarray([source]), dtype)
        states = np.asarray(states, np.float64)[..., 0]
        for step, hint in enumerate(hints):
            np.testing.assert_array_equal(states[step], hint)  # bit by bit
        np.testing.assert_array_equal(states[-1], np.asarray(scores[0], np.float64))

    # The smallest neighbour among those that were reached one step before.
    pi = np.arange(len(a))
    for before, after in zip(states, states[1:], strict=False):
        for v in np.flatnonzero((after == 1) & (before == 0)):
            pi[v] = np.flatnonzero((before == 1) & (a[:, v] == 1))[0]
    np.testing.assert_array_equal(pi, case["bfs_pi"])


@pytest.mark.parametrize("name", clrs.NAMES)
def test_bellman_ford_of_the_benchmark(name):
    case = clrs.case(name)
    w, source = case["W"], case["src"]
    n = bound = len(w)
    with jax.enable_x64(True):
        graph, lengths = weighted(w)
        states, scores = shortest(graph, lengths, jnp.asarray([source]), float(bound))
        states = np.asarray(states)[..., 0]
    hints = case["bf_d_hints"], case["bf_msk_hints"]
    for h, d, reached in zip(states, *hints, strict=False):
        np.testing.assert_array_equal(h > 0, reached == 1)
        # The benchmark writes 0 where there is no path yet.
        np.testing.assert_allclose(np.where(h > 0, bound - h, 0), d, rtol=0, atol=1e-12)
    for h in states[len(hints[0]) :]:
        np.testing.assert_array_equal(h, states[len(hints[0]) - 1])
    np.testing.assert_array_equal(states[-1], scores[0])

    # The neighbour that wins, where a distance becomes less.
    pi = np.arange(n)
    for before, after in zip(states, states[1:], strict=False):
        message = np.where((w > 0) & (before > 0)[:, None], before[:, None] - w, -1)
        better = after > before
        pi[better] = np.argmax(message, 0)[better]
    np.testing.assert_array_equal(pi, case["bf_pi"])


def random_network(seed, directed):
    n = 13
    network = nx.gnp_random_graph(n, 0.16, seed=seed, directed=directed)
    rng = np.random.default_rng(seed)
    for u, v in network.edges:
        network.edges[u, v]["weight"] = float(rng.integers(1, 9)) / 4
    return network


@pytest.mark.parametrize("directed", [False, True])
def test_networkx(directed):
    for seed in range(3):
        network = random_network(seed, directed)
        n = len(network)
        matrix = nx.to_numpy_array(network)
        # Lengths are the same eight, so that all graphs share a program.
        lengths = np.arange(1, 9) / 4
        senders, receivers = np.nonzero(matrix)
        graph = Graph.from_edges(
            senders,
            receivers,
            num_nodes=n,
            edge_types=np.searchsorted(lengths, matrix[senders, receivers]),
            num_relations=8,
        ).pad(num_nodes=n + 2, num_edges=80)
        heads = jnp.arange(n)
        hops, reached = search(graph, heads, "float32")
        with jax.enable_x64(True):
            scores = np.asarray(shortest(graph, lengths, heads, 24.0)[1])
        # The step at which a node is reached, no step if never.
        hops = np.where(reached == 1, np.argmax(hops, 0).T, -1)
        assert not scores[:, n:].any()
        wanted_hops = np.full((n, n), -1)
        for u, row in nx.all_pairs_shortest_path_length(network):
            for v, hop in row.items():
                wanted_hops[u, v] = hop
        np.testing.assert_array_equal(hops[:, :n], wanted_hops)
        assert (wanted_hops == -1).any()
        distances = np.asarray(nx.floyd_warshall_numpy(network))
        got = np.where(scores > 0, 24.0 - scores, np.inf)
        np.testing.assert_allclose(got[:, :n], distances, rtol=0, atol=1e-12)


def test_distances_from_the_bound_on_count_as_no_path():
    graph = Graph.from_edges([0, 1, 2], [1, 2, 3], num_nodes=4)
    heads = jnp.asarray([0])
    _, scores = shortest(graph, np.ones(1), heads, 2.5, "float32", 3)
    assert scores.tolist() == [[2.5, 1.5, 0.5, 0.0]]


def test_single_precision_is_that_of_the_bound():
    case = clrs.case("n16_0")
    graph, lengths = weighted(case["W"])
    _, scores = shortest(
        graph, np.asarray(lengths, "float32"), jnp.asarray([13]), 16.0, "float32"
    )
    error = np.abs(16 - np.asarray(scores[0], np.float64) - case["bf_d_hints"][-1])
    assert 0 < error.max() < 4 * 16 * 2**-24


def test_the_gradient_counts_the_edges_of_the_shortest_path():
    graph = Graph.from_edges(
        [0, 1, 2, 0, 3, 2],
        [1, 2, 3, 3, 4, 4],
        num_nodes=5,
        edge_types=[0, 0, 1, 2, 1, 2],
        num_relations=3,
    )

    def distance(lengths):
        _, scores = shortest(graph, lengths, jnp.asarray([0]), 32.0, "float32", 4)
        return 32 - scores[0, 4]

    value, counts = jax.value_and_grad(distance)(jnp.asarray([1.0, 2.0, 7.0]))
    assert value == 1 + 1 + 2 + 2
    assert counts.tolist() == [2, 2, 0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: compile_bfs(0, num_layers=1),
            ValueError,
            "compile_bfs: `num_relations` must be at least 1, got 0.",
        ),
        (
            lambda: compile_bfs(num_layers=1.0),
            TypeError,
            "compile_bfs: `num_layers` must be an int, got float.",
        ),
        (
            lambda: compile_bfs(num_layers=1, dtype="int32"),
            ValueError,
            "compile_bfs: `dtype` must be a real floating dtype, got int32.",
        ),
        (
            lambda: compile_bellman_ford(1.0, bound=2.0, num_layers=1),
            ValueError,
            "compile_bellman_ford: `lengths` must have shape (num_relations,), got ().",
        ),
        (
            lambda: compile_bellman_ford([1.0], bound=2.0, num_layers=0),
            ValueError,
            "compile_bellman_ford: `num_layers` must be at least 1, got 0.",
        ),
        (
            lambda: compile_bellman_ford([1.0], bound=2.0, num_layers=1, dtype="int8"),
            ValueError,
            "compile_bellman_ford: `dtype` must be a real floating dtype, got int8.",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
