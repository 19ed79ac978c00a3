"""`compile_dfs` against the CLRS benchmark and, step by step, NetworkX."""

import functools

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from jaxarch.graph import DFSState, Graph, compile_dfs

from . import clrs


@functools.partial(jax.jit, static_argnames="num_steps")
def search(graph, num_steps):
    """The last state, and the nodes that the search has been at."""
    step = compile_dfs()
    return jax.lax.scan(
        lambda s, _: (step(graph, s), s.current),
        DFSState.start(graph),
        length=num_steps,
    )


@pytest.mark.parametrize("name", clrs.NAMES)
def test_predecessors_of_the_benchmark(name):
    case = clrs.case(name)
    n = len(case["D"])
    graph = Graph.from_edges(*np.nonzero(case["D"]), num_nodes=n).pad(
        num_edges=n**2 // 2
    )
    state, _ = search(graph, 2 * n)
    np.testing.assert_array_equal(state.predecessors, case["dfs_pi"])
    assert (np.asarray(state.colors) == 2).all()


def walk(network):
    """Where a depth-first search is after each step, by NetworkX."""
    path = []
    for u, v, event in nx.dfs_labeled_edges(network, sort_neighbors=sorted):
        if event == "forward":
            path.append(v)
        elif event == "reverse" and u != v:
            path.append(u)
    return path


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("p", [0.05, 0.15, 0.6])
def test_every_step(p, directed):
    n = 14
    for seed in range(4):
        network = nx.gnp_random_graph(n, p, seed=seed, directed=directed)
        network.add_edge(3, 3)  # a loop leads nowhere
        # Weights, even 0 and below, and relations play no part.
        edges = [(u, v) for u, v in network.to_directed().edges]
        shuffled = np.random.default_rng(seed).permutation(np.asarray(edges))
        graph = Graph.from_edges(
            *shuffled.T,
            num_nodes=n,
            edge_types=np.arange(len(edges)) % 2,
            num_relations=2,
            weights=np.arange(len(edges)) - 3.0,
        ).pad(num_nodes=n + 1, num_edges=n**2)
        state, path = search(graph, 2 * n)
        want = walk(network)
        np.testing.assert_array_equal(path[: len(want)], want)
        assert len(set(np.asarray(path[len(want) :]))) <= 1  # done, it stays
        parents = nx.dfs_predecessors(network, sort_neighbors=sorted)
        np.testing.assert_array_equal(
            state.predecessors, [parents.get(v, v) for v in range(n + 1)]
        )
        assert (np.asarray(state.colors) == 2).all()


def test_colors_on_the_way():
    graph = Graph.from_edges([0, 0, 2], [1, 2, 1], num_nodes=4)
    step, state = compile_dfs(), DFSState.start(graph)
    found = [np.asarray(state.colors).tolist()]
    for _ in range(6):
        state = step(graph, state)
        found.append(np.asarray(state.colors).tolist())
    assert found == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 2, 0, 0],
        [1, 2, 1, 0],
        [1, 2, 2, 0],
        [2, 2, 2, 1],
        [2, 2, 2, 2],
    ]


def test_graphs_in_a_batch():
    networks = [nx.gnp_random_graph(9, 0.3, seed=s, directed=True) for s in range(3)]
    graphs = [Graph.from_networkx(g).pad(num_edges=40) for g in networks]
    # All have masks, so that they stack.
    batch = jax.tree.map(lambda *a: jnp.stack(a), *graphs)
    states, _ = jax.vmap(lambda graph: search(graph, 18))(batch)
    for network, got in zip(networks, states.predecessors, strict=True):
        parents = nx.dfs_predecessors(network, sort_neighbors=sorted)
        np.testing.assert_array_equal(got, [parents.get(v, v) for v in range(9)])
