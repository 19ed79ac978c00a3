"""NBFNet, its losses and ranks against five models of the authors' code."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P

from jaxarch.graph import (
    Graph,
    NBFNetParams,
    filtered_ranks,
    known_tails,
    nbfnet_apply,
    nbfnet_init,
    nbfnet_states,
    remove_query_edges,
    self_adversarial_loss,
)
from jaxarch.layers import MLPParams

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
ARRAYS = np.load(GOLDEN / "nbfnet.npz")
CASES = json.loads((GOLDEN / "nbfnet.json").read_text())

apply = jax.jit(nbfnet_apply, static_argnames="symmetric")


@functools.cache
def arrays(name):
    return {
        key.removeprefix(name + "/"): ARRAYS[key]
        for key in ARRAYS.files
        if key.startswith(name + "/")
    }


def golden_params(name, prefix="p"):
    """The authors' parameters, or their gradients, as ours."""
    case, found = CASES[name], arrays(name)

    def layers(key, shape=()):
        keys = [f"{prefix}/layers.{i}.{key}" for i in range(case["layers"])]
        if keys[0] not in found:
            return None
        return jnp.stack([jnp.asarray(found[k]).reshape(shape or -1) for k in keys])

    dim, num_relations = case["dim"], case["num_relation"]
    bias = "relation_linear.bias" if case["dependent"] else "relation.weight"
    of_mlp = {
        part: tuple(jnp.asarray(found[f"{prefix}/mlp.{i}.{part}"]) for i in (0, 2))
        for part in ("weight", "bias")
    }
    return NBFNetParams(
        query=jnp.asarray(found[f"{prefix}/query.weight"]),
        relation_weight=layers("relation_linear.weight", (num_relations, dim, dim)),
        relation_bias=layers(bias, (num_relations, dim)),
        weight=layers("linear.weight", (dim, -1)),
        bias=layers("linear.bias"),
        norm_scale=layers("layer_norm.weight"),
        norm_bias=layers("layer_norm.bias"),
        mlp=MLPParams(weights=of_mlp["weight"], biases=of_mlp["bias"]),
        message=case["message"],
        aggregate=case["aggregate"],
        shortcut=case["short_cut"],
    )


def golden_graph(name):
    case, found = CASES[name], arrays(name)
    return Graph.from_edges(
        *found["edge_index"],
        num_nodes=case["n"],
        edge_types=found["edge_type"],
        num_relations=case["num_relation"],
    )


def as_tail_queries(batch, num_relations):
    """Rows (head, tail, relation) of one query each, those with many heads inverted."""
    h, t, r = np.moveaxis(batch, -1, 0)
    tails = (h == h[:, :1]).all(1)
    heads = np.where(tails, h[:, 0], t[:, 0])
    relations = np.where(tails, r[:, 0], r[:, 0] + num_relations // 2)
    candidates = np.where(tails[:, None], t, h)
    return jnp.asarray(heads), jnp.asarray(relations), jnp.asarray(candidates)


@pytest.mark.parametrize("name", CASES)
def test_golden_model(name):
    case, found = CASES[name], arrays(name)
    with jax.enable_x64(True):
        graph, params = golden_graph(name), golden_params(name)
        heads, relations, tails = as_tail_queries(found["batch"], case["num_relation"])
        evaluated = apply(params, graph, heads, relations, tails=tails)
        np.testing.assert_allclose(evaluated, found["score_eval"], atol=1e-10)

        mask = remove_query_edges(
            graph, heads, relations, tails, one_hop=case["remove_one_hop"]
        )
        kept = {
            (int(s), int(t), int(r))
            for s, t, r in zip(
                graph.senders[mask],
                graph.receivers[mask],
                graph.edge_types[mask],
                strict=True,
            )
        }
        wanted = zip(
            *found["easy_removed_edge_index"],
            found["easy_removed_edge_type"],
            strict=True,
        )
        assert kept == {tuple(map(int, edge)) for edge in wanted}
        assert int(mask.sum()) == found["easy_removed_num_edges"]

        def loss(params):
            scores = apply(params, graph, heads, relations, tails=tails, edge_mask=mask)
            temperature = case["temperature"]
            value = self_adversarial_loss(
                scores[:, 0], scores[:, 1:], temperature=temperature
            )
            return value, scores

        (value, scores), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            params
        )
        np.testing.assert_allclose(scores, found["score_train"], atol=1e-10)
        np.testing.assert_allclose(value, found["loss"], atol=1e-10)
        wanted = golden_params(name, "gp")
        assert jax.tree.structure(gradient) == jax.tree.structure(wanted)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-9), gradient, wanted
        )


@pytest.mark.parametrize("name", CASES)
def test_golden_ranks(name):
    case, found = CASES[name], arrays(name)
    h, t, r = map(jnp.asarray, found["batch"][:, 0].T)
    with jax.enable_x64(True):
        graph, params = golden_graph(name), golden_params(name)
        for side, (heads, relations, tails) in {
            "t": (h, r, t),
            "h": (t, r + case["num_relation"] // 2, h),
        }.items():
            scores = apply(params, graph, heads, relations)
            np.testing.assert_allclose(scores, found[side + "_pred"], atol=1e-10)
            known = known_tails(graph, heads, relations)
            rivals = ~known.at[jnp.arange(len(tails)), tails].set(True)
            np.testing.assert_array_equal(rivals, found[side + "mask"])
            ranks = filtered_ranks(scores, tails, known)
            np.testing.assert_array_equal(ranks, found[side + "_rank"])


def small(key, **options):
    """A graph of 6 nodes with inverse edges, and a model for it."""
    triples = [[0, 0, 1], [1, 1, 2], [2, 0, 3], [3, 1, 4], [0, 1, 5], [5, 0, 4]]
    graph = Graph.from_triples(triples, num_nodes=6, num_relations=2).add_inverse()
    options = {"num_layers": 2, **options}
    return graph, nbfnet_init(key, 4, 4, **options)


HEADS, RELATIONS = jnp.asarray([0, 3, 2]), jnp.asarray([1, 0, 3])


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["sum", "pna"])
def test_permutation_of_the_nodes(key, aggregate):
    graph, params = small(key, aggregate=aggregate)
    order = np.asarray([3, 5, 0, 1, 4, 2])
    turned = Graph.from_edges(
        order[np.asarray(graph.senders)],
        order[np.asarray(graph.receivers)],
        num_nodes=6,
        edge_types=graph.edge_types,
        num_relations=4,
    )
    scores = apply(params, graph, HEADS, RELATIONS)
    found = apply(params, turned, jnp.asarray(order)[HEADS], RELATIONS)
    np.testing.assert_allclose(found[:, order], scores, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["mean", "pna"])
def test_padding_and_masks_change_nothing(key, aggregate):
    """Edges that are masked, padded or not there at all are one and the same."""
    graph, params = small(key, aggregate=aggregate)
    scores = apply(params, graph, HEADS, RELATIONS)
    padded = graph.pad(num_nodes=8, num_edges=17)
    found = apply(params, padded, HEADS, RELATIONS)
    np.testing.assert_allclose(found[:, :6], scores, rtol=1e-5, atol=1e-6)
    links = jnp.asarray([0]), jnp.asarray([0]), jnp.asarray([1])
    mask = remove_query_edges(graph, *links)
    kept = np.asarray(mask)
    fewer = Graph.from_edges(
        *(np.asarray(a)[kept] for a in (graph.senders, graph.receivers)),
        num_nodes=6,
        edge_types=np.asarray(graph.edge_types)[kept],
        num_relations=4,
    )
    np.testing.assert_allclose(
        apply(params, graph, HEADS, RELATIONS, edge_mask=mask),
        apply(params, fewer, HEADS, RELATIONS),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.slow
def test_states_spread_by_one_edge_a_layer(key):
    """A node's state is that of a node without a head until a walk can reach it."""
    graph, params = small(key, aggregate="sum", num_layers=3)
    propagate = jax.jit(nbfnet_states)
    states = propagate(params, graph, HEADS[:1], RELATIONS[:1])
    assert states.shape == (4, 6, 1, 4)
    np.testing.assert_array_equal(states[0, 0, 0], params.query[1])
    np.testing.assert_array_equal(states[0, 1:], 0)
    # Node 0's neighbours on the cycle 0 1 2 3 4 5 are 1 and 5; a node without edges is
    # as blind as the others.
    alone = propagate(params, graph.pad(num_nodes=7), HEADS[:1], RELATIONS[:1])[1, :, 0]
    np.testing.assert_allclose(alone[:6], states[1, :, 0], rtol=1e-5)
    np.testing.assert_allclose(alone[2:5], jnp.stack([alone[6]] * 3), rtol=1e-5)
    assert np.abs(alone[jnp.asarray([0, 1, 5])] - alone[6:]).max(1).min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["max", "pna"])
def test_edges_on_several_devices(key, aggregate):
    """Scores and gradients of a split graph are those of the whole one."""
    with jax.enable_x64(True):
        graph, params = small(key, aggregate=aggregate, dtype=float)
        mask = remove_query_edges(graph, HEADS[:1], RELATIONS[:1], HEADS[1:2])
        parts = graph.split(2)
        mesh = jax.make_mesh((2,), ("edges",), axis_types=(AxisType.Auto,))

        def loss(params, graph, mask, axis_name=None):
            scores = nbfnet_apply(
                params, graph, HEADS, RELATIONS, edge_mask=mask, axis_name=axis_name
            )
            return jnp.sum(scores**2)

        split_loss = jax.shard_map(
            functools.partial(loss, axis_name="edges"),
            mesh=mesh,
            in_specs=(P(), P("edges"), P("edges")),
            out_specs=P(),
        )
        want = jax.jit(jax.value_and_grad(loss))(params, graph, mask)
        found = jax.jit(jax.value_and_grad(split_loss))(params, parts, mask)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12),
            found,
            want,
        )


@pytest.mark.slow
def test_symmetric_scores(key):
    """Scores of (u, v) and of (v, u) agree, each the mean of both directions' walks."""
    graph, params = small(key)
    u, v = jnp.asarray([0, 2]), jnp.asarray([4, 5])
    relations = jnp.asarray([1, 1])
    score = functools.partial(apply, params, graph, symmetric=True)
    there = score(u, relations, tails=v[:, None])
    back = score(v, relations, tails=u[:, None])
    np.testing.assert_allclose(there, back, rtol=1e-5)
    one_way = apply(params, graph, u, relations, tails=v[:, None])
    assert np.abs(there - one_way).max() > 1e-3
    # The read-out of the averaged features, by hand.
    for i in range(2):
        pair = u[i], v[i]
        features = sum(
            nbfnet_states(params, graph, a[None], relations[i : i + 1])[-1, b, 0]
            for a, b in (pair, pair[::-1])
        )
        x = jnp.concatenate([features / 2, params.query[1]])
        (w1, w2), (b1, b2) = params.mlp.weights, params.mlp.biases
        want = w2 @ jnp.maximum(w1 @ x + b1, 0) + b2
        np.testing.assert_allclose(there[i], want, rtol=1e-5)


@pytest.mark.slow
def test_a_training_step_lowers_the_loss(key):
    graph, params = small(key)
    links = HEADS, RELATIONS, jnp.asarray([5, 2, 1])

    @jax.jit
    def loss(params):
        mask = remove_query_edges(graph, *links)
        scores = apply(params, graph, *links[:2], edge_mask=mask)
        positive = jnp.take_along_axis(scores, links[2][:, None], axis=1)[:, 0]
        return self_adversarial_loss(positive, scores)

    gradient = jax.grad(loss)(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda p, g: p - 1e-2 * g, params, gradient)
    assert loss(moved) < loss(params)


def test_bfloat16(key):
    graph, params = small(key)
    scores = apply(params, graph, HEADS, RELATIONS)
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    found = apply(low, graph, HEADS, RELATIONS)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), scores, rtol=0.1, atol=0.3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda p, g: nbfnet_init(jax.random.key(0), 2, 3, message="rotate"),
            ValueError,
            'nbfnet_init: `dim` must be even with message="rotate", got 3.',
        ),
        (
            lambda p, g: nbfnet_init(jax.random.key(0), 2, 3, aggregate="median"),
            ValueError,
            "nbfnet_init: `aggregate` must be one of 'sum', 'mean', 'max', 'pna', got "
            "'median'.",
        ),
        (
            lambda p, g: nbfnet_apply(p, g, HEADS[0], RELATIONS),
            ValueError,
            "nbfnet_apply: `heads` must have shape (queries,), got ().",
        ),
        (
            lambda p, g: nbfnet_apply(p, g, HEADS, RELATIONS[:2]),
            ValueError,
            "nbfnet_apply: `relations` must have shape (3,), got (2,).",
        ),
        (
            lambda p, g: nbfnet_apply(p, g, jnp.ones(3), RELATIONS),
            TypeError,
            "nbfnet_apply: `heads` must be integers, got float32.",
        ),
        (
            lambda p, g: nbfnet_apply(p, g, HEADS, RELATIONS, tails=HEADS),
            ValueError,
            "nbfnet_apply: `tails` must have shape (3, candidates), got (3,).",
        ),
        (
            lambda p, g: nbfnet_apply(p, g, HEADS, RELATIONS, symmetric=True),
            ValueError,
            "nbfnet_apply: `symmetric` needs `tails`, got None.",
        ),
        (
            lambda p, g: nbfnet_states(p, g.add_inverse(), HEADS, RELATIONS),
            ValueError,
            "nbfnet_states: `graph` must have 4 relations, as `params`, got 8.",
        ),
        (
            lambda p, g: nbfnet_states(p, g, HEADS, RELATIONS, weights=jnp.ones(12)),
            ValueError,
            "nbfnet_states: `weights` must have shape (2, 12), got (12,).",
        ),
        (
            lambda p, g: nbfnet_apply(p, None, HEADS, RELATIONS),
            TypeError,
            "nbfnet_apply: `graph` must be a Graph, got <class 'NoneType'>.",
        ),
    ],
)
def test_errors(key, call, error, message):
    graph, params = small(key)
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call(params, graph)
