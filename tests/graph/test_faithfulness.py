"""`faithfulness`: compiled networks in any coordinates, least squares by NumPy."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.graph import (
    AlgorithmTraces,
    Graph,
    compile_bellman_ford,
    compile_bfs,
    faithfulness,
    nbfnet_init,
    nbfnet_states,
)

NODES, GRAPHS, LAYERS = 12, 8, 4
LENGTHS = np.arange(1, 5) / 4


measure = jax.jit(faithfulness)
trace = jax.jit(AlgorithmTraces.of)


def random_graphs(rng, num_nodes=NODES):
    def one():
        edges = np.nonzero(rng.random((NODES, NODES)) < 0.15)
        edge_types = rng.integers(4, size=len(edges[0]))
        sizes = {"num_nodes": NODES, "num_relations": 4}
        graph = Graph.from_edges(*edges, edge_types=edge_types, **sizes)
        return graph.pad(num_nodes=num_nodes, num_edges=60)

    return jax.tree.map(lambda *a: jnp.stack(a), *[one() for _ in range(GRAPHS)])


@pytest.fixture(scope="module")
def compiled():
    """Graphs, heads, and both algorithms."""
    rng = np.random.default_rng(0)
    graphs = random_graphs(rng)
    heads = jnp.asarray(rng.integers(NODES, size=(GRAPHS, 3)))
    algorithms = {
        "bfs": compile_bfs(4, num_layers=LAYERS),
        "bellman_ford": compile_bellman_ford(LENGTHS, bound=4.0, num_layers=LAYERS),
    }
    return graphs, heads, algorithms


@pytest.mark.parametrize("name", ["bfs", "bellman_ford"])
def test_an_algorithm_is_faithful_to_itself_in_any_coordinates(compiled, name):
    graphs, heads, algorithms = compiled
    params = algorithms[name]
    traces = trace(params, graphs, heads, 0 * heads)
    assert traces.states.shape == (GRAPHS, LAYERS + 1, NODES, 3, 1)
    assert (np.asarray(measure(params, traces)) < 1e-9).all()

    # Seven channels: an affine map of the state, another at each step, and channels
    # that say nothing or the same as others.
    rng = np.random.default_rng(1)
    mix = jnp.asarray(rng.normal(size=(LAYERS + 1, 1, 7)), jnp.float32)
    shift = jnp.asarray(rng.normal(size=(LAYERS + 1, 1, 1, 7)), jnp.float32)

    def elsewhere(params, graph, heads, relations):
        h = nbfnet_states(params, graph, heads, relations)
        return jnp.einsum("tnqc,tcd->tnqd", h, mix) + shift

    found = faithfulness(params, traces, states=elsewhere)
    assert (np.asarray(found) < 1e-9).all()


@pytest.mark.slow
def test_a_random_network_is_not(compiled, key):
    graphs, heads, algorithms = compiled
    params = nbfnet_init(key, 4, 8, num_layers=LAYERS, aggregate="max", dependent=False)
    wrong = {}
    for name, algorithm in algorithms.items():
        traces = trace(algorithm, graphs, heads, 0 * heads)
        wrong[name] = np.asarray(faithfulness(params, traces))
        # Both begin with the same mark at the head.
        assert wrong[name][0] < 1e-9
    assert (wrong["bfs"][2:] > 0.2).all()
    assert (wrong["bellman_ford"][2:] > 0.2).all()
    # Nor is one algorithm the other.
    assert measure(algorithms["bfs"], traces)[-1] > 0.05


def by_numpy(h, s, mask):
    """The error of one step: rows are nodes and queries of graphs that count."""
    half = len(h) // 2
    fit, test = (
        (a[mask[part]], b[mask[part]])
        for part, a, b in (
            (slice(half), h[:half], s[:half]),
            (slice(half, None), h[half:], s[half:]),
        )
    )

    def ones(a):
        return np.concatenate([a, np.ones((len(a), 1))], 1)

    solution = np.linalg.lstsq(ones(fit[0]), fit[1], rcond=None)[0]
    missed = ones(test[0]) @ solution - test[1]
    return (missed**2).sum() / ((test[1] - test[1].mean(0)) ** 2).sum()


def given(states, params, graph, heads, relations):
    del params, graph, relations
    return states[heads[0]]


def test_least_squares():
    """States by hand, of five channels for two variables, with padding nodes."""
    rng = np.random.default_rng(2)
    graphs = random_graphs(rng, num_nodes=NODES + 2)
    shape = (GRAPHS, 3, NODES + 2, 1)
    h = rng.normal(size=(*shape, 5))
    s = h[..., :2] ** 2 + 0.3 * h[..., 2:4] + rng.normal(size=(*shape, 2))
    s[:, 2] = 7.0  # nothing to be told at this step
    heads = jnp.arange(GRAPHS)[:, None]
    with jax.enable_x64(True):
        traces = AlgorithmTraces(
            graph=graphs, heads=heads, relations=0 * heads, states=jnp.asarray(s)
        )
        found = faithfulness(
            None, traces, states=functools.partial(given, jnp.asarray(h))
        )
    mask = np.asarray(graphs.node_mask)[:, :, None]
    want = [by_numpy(h[:, t], s[:, t], mask) for t in range(2)]
    np.testing.assert_allclose(found[:2], want, rtol=1e-10)
    assert np.isnan(found[2])
    without = by_numpy(h[:, 0], s[:, 0], np.ones_like(mask))
    assert abs(without - want[0]) > 1e-3


def test_errors(compiled):
    graphs, heads, algorithms = compiled
    params = algorithms["bfs"]
    traces = trace(params, graphs, heads, 0 * heads)

    def check(message, params, **changes):
        message = f"^{re.escape('faithfulness: ' + message)}$"
        with pytest.raises(ValueError, match=message):
            faithfulness(params, dataclasses.replace(traces, **changes))

    shape = (GRAPHS, LAYERS + 1, NODES, 3)
    check(
        "`traces.states` must have shape (graphs, steps, nodes, queries, variables), "
        f"got {shape}.",
        params,
        states=traces.states[..., 0],
    )
    check(
        "`traces` must have at least two graphs, one to fit and one to test, got 1.",
        params,
        states=traces.states[:1],
    )
    check(
        f"`states` must have shape {shape}, got {(GRAPHS, 3, NODES, 3)}.",
        compile_bfs(4, num_layers=2),
    )
