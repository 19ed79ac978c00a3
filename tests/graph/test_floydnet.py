"""`floydnet_init` and `floydnet_apply`: what they tell apart, masks and read-outs."""

import functools
import re

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from jaxarch.graph import floyd_block_apply, floydnet_apply, floydnet_init

from .weisfeiler_leman import (
    cfi,
    distinguishes,
    kinds,
    rook,
    shrikhande,
    subgraphs,
)

SIZES = {"num_blocks": 3, "num_heads": 2}


def random_params(*args, scale=1.0, **options):
    """Params of the shapes of `floydnet_init`, none of them zero."""
    init = functools.partial(floydnet_init, **SIZES | options)
    shapes = jax.eval_shape(lambda k: init(k, *args), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda a: jnp.asarray(
            scale * rng.normal(size=a.shape) / max(1, a.shape[-1]) ** 0.5
            if a.ndim
            else 1.0,
            a.dtype,
        ),
        shapes,
    )


def one_hot(graph, size):
    features = np.zeros((size, size, 3))
    n = graph.number_of_nodes()
    features[:n, :n] = np.eye(3)[kinds(graph)]
    return features


DIAMOND = nx.Graph([(0, 1), (1, 2), (2, 0), (1, 3), (2, 3)])
# Two-dimensional folklore Weisfeiler-Leman fails where the base has tree-width 3.
GRAPH_PAIRS = {
    "hexagon, two triangles": (nx.cycle_graph(6), cfi(nx.cycle_graph(3), False), True),
    "decalin, bicyclopentyl": (
        nx.Graph([*nx.cycle_graph(10).edges, (0, 5)]),
        nx.Graph(
            [*nx.cycle_graph(5).edges, (5, 6), (6, 7), (7, 8), (8, 9), (9, 5)]
            + [(0, 5)]
        ),
        True,
    ),  # fmt: skip
    "CFI over a diamond": (cfi(DIAMOND, False), cfi(DIAMOND, True), True),
    "rook, Shrikhande": (rook(), shrikhande(), False),
    "CFI over K4": (
        cfi(nx.complete_graph(4), False),
        cfi(nx.complete_graph(4), True),
        False,
    ),
    "CFI over K33": (
        cfi(nx.complete_bipartite_graph(3, 3), False),
        cfi(nx.complete_bipartite_graph(3, 3), True),
        False,
    ),
}


def test_distinguishes_what_folklore_weisfeiler_leman_does():
    size = 24
    with jax.enable_x64(True):
        params = random_params(3, 8, 4, scale=2.0, norm="layer", dtype="float64")
        apply = jax.jit(
            jax.vmap(lambda x, mask: floydnet_apply(params, x, node_mask=mask))
        )
        graphs = [g for pair in GRAPH_PAIRS.values() for g in pair[:2]]
        features = jnp.asarray(np.stack([one_hot(g, size) for g in graphs]))
        nodes = [g.number_of_nodes() for g in graphs]
        masks = jnp.asarray(np.arange(size) < np.array(nodes)[:, None])
        outputs = np.asarray(apply(features, masks)).reshape(len(GRAPH_PAIRS), 2, -1)
    for name, output in zip(GRAPH_PAIRS, outputs, strict=True):
        first, second, differ = GRAPH_PAIRS[name]
        if not differ:  # and yet not isomorphic
            assert subgraphs(first) != subgraphs(second), name
        degrees = [sorted(d for _, d in g.degree) for g in (first, second)]
        assert degrees[0] == degrees[1]
        assert distinguishes(first, second) == differ, name
        gap = np.abs(output[0] - output[1]).max() / np.abs(output).max()
        assert gap > 1e-7 if differ else gap < 1e-12, (name, gap)


def triples(graph):
    kind = np.eye(3)[kinds(graph)]
    n = len(kind)
    i, j, k = np.ogrid[:n, :n, :n]
    pairs = [(i, j), (i, k), (j, k), (j, i), (k, i), (k, j)]
    return np.concatenate(
        [np.broadcast_to(kind[a, b], (n, n, n, 3)) for a, b in pairs], -1
    )


@pytest.mark.slow
def test_triples_tell_strongly_regular_graphs_apart():
    with jax.enable_x64(True):
        options = {"order": 3, "num_heads": 1, "num_blocks": 2, "bias": True}
        params = random_params(18, 4, 4, norm="layer", dtype="float64", **options)
        apply = jax.jit(functools.partial(floydnet_apply, params, block_size=4))
        same = nx.relabel_nodes(rook(), dict(enumerate(rook())))
        shuffled = nx.Graph()
        shuffled.add_nodes_from(reversed(list(same)))
        shuffled.add_edges_from(same.edges)
        graphs = rook(), shrikhande(), shuffled
        a, b, c = (np.asarray(apply(jnp.asarray(triples(g)))) for g in graphs)
    assert distinguishes(rook(), shrikhande(), order=3)
    assert np.abs(a - b).max() > 1e-6 * np.abs(a).max()
    np.testing.assert_allclose(a, c, rtol=1e-11)


def test_padding_and_permutations_change_nothing():
    rng = np.random.default_rng(1)
    order = rng.permutation(5)
    x = rng.normal(size=(5, 5, 3))
    padded = rng.normal(size=(7, 7, 3))
    padded[:5, :5] = x[order][:, order]
    mask = jnp.arange(7) < 5
    with jax.enable_x64(True):
        params = random_params(
            3, 4, 2, readout="edge", norm="layer", bias=True, dtype="float64"
        )
        small = jax.jit(floydnet_apply)(params, jnp.asarray(x))

        @jax.jit
        def run(params, x):
            y = floydnet_apply(params, x, node_mask=mask, block_size=3)
            return jnp.square(y[:5, :5]).sum(), y

        gradient, large = jax.grad(run, (0, 1), has_aux=True)(
            params, jnp.asarray(padded)
        )
    np.testing.assert_allclose(
        large[:5, :5], small[order][:, order], rtol=1e-12, atol=1e-12
    )
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert not gradient[1][5:].any()
    assert not gradient[1][:, 5:].any()


def test_empty_graph_has_finite_gradients():
    params = random_params(3, 4, 2)
    mask = jnp.zeros(4, bool)

    def loss(params):
        return floydnet_apply(params, jnp.ones((4, 4, 3)), node_mask=mask).sum()

    gradient = jax.grad(loss)(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_readouts_and_remat():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(2).normal(size=(5, 5, 3)))
        params = random_params(3, 4, 2, dtype="float64")
        state = jnp.einsum("ijf,cf->ijc", x, params.embed)
        for i in range(SIZES["num_blocks"]):
            block = jax.tree.map(lambda a, i=i: a[i], params.blocks)
            state = floyd_block_apply(block, state)
        state = np.asarray(state)
        (weight,), (bias,) = map(np.asarray, params.head.weights), params.head.biases
        sums = {
            "graph": state.sum((0, 1)),
            "node": state.sum(0) + state.sum(1),
            "edge": state,
        }
        for readout, pooled in sums.items():
            params = random_params(3, 4, 2, readout=readout, dtype="float64")
            got = floydnet_apply(params, x, remat=readout == "node")
            want = pooled @ weight.T + np.asarray(bias)
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_program_does_not_grow_with_depth():
    def size(depth):
        params = random_params(3, 4, 2, num_blocks=depth)
        return len(jax.make_jaxpr(floydnet_apply)(params, jnp.ones((5, 5, 3))).eqns)

    assert size(2) == size(20)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((3, 4, 2), {"readout": "pair"}, ValueError,
         "`readout` must be one of 'graph', 'node', 'edge', got 'pair'."),
        ((0, 4, 2), {}, ValueError, "`in_features` must be at least 1, got 0."),
        ((3, 4, 2.0), {}, TypeError, "`out_features` must be an int, got float."),
        ((3, 4, 2), {"dtype": "int32"}, ValueError,
         "`dtype` must be a real floating dtype, got int32."),
    ],
)  # fmt: skip
def test_init_errors(key, args, options, error, message):
    with pytest.raises(error, match=f"^{re.escape('floydnet_init: ' + message)}$"):
        floydnet_init(key, *args, **SIZES, **options)


@pytest.mark.parametrize(
    ("shape", "mask", "error", "message"),
    [
        ((4, 4, 2), None, ValueError, "`x` must have shape (4, 4, 3), got (4, 4, 2)."),
        ((4, 4, 3), jnp.ones(3, bool), ValueError,
         "`node_mask` must have shape (4,), got (3,)."),
        ((4, 4, 3), jnp.ones(4), TypeError,
         "`node_mask` must be boolean, got float32."),
    ],
)  # fmt: skip
def test_apply_errors(shape, mask, error, message):
    params = random_params(3, 4, 2)
    with pytest.raises(error, match=f"^{re.escape('floydnet_apply: ' + message)}$"):
        floydnet_apply(params, jnp.ones(shape), node_mask=mask)
