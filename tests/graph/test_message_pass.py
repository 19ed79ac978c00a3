"""`message_pass` against the authors' layers and loops in NumPy."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P

from jaxarch.graph import Graph, _accumulate, message_pass

from . import golden

MESSAGES = ("transe", "distmult", "rotate")
AGGREGATES = ("sum", "mean", "max", "pna")
NUM_NODES, NUM_RELATIONS, QUERIES, DIM = 7, 3, 2, 4


def layer(params, arrays, graph, *, message, aggregate):
    """The authors' layer: linear of [state, aggregate], layer normalisation, ReLU."""
    x, query, boundary, weights = arrays
    if "relation.weight" in params:
        relations = params["relation.weight"]
    else:
        relations = jnp.einsum("oi,bi->bo", params["relation_linear.weight"], query)
        relations += params["relation_linear.bias"][None]
        relations = relations.reshape(len(query), -1, x.shape[-1]).swapaxes(0, 1)
    h = message_pass(
        dataclasses.replace(graph, weights=weights),
        x.swapaxes(0, 1),
        relations,
        boundary.swapaxes(0, 1),
        message=message,
        aggregate=aggregate,
    )
    h = jnp.concatenate([x, h.swapaxes(0, 1)], -1)
    out = jnp.einsum("oi,bni->bno", params["linear.weight"], h)
    out += params["linear.bias"][None, None]
    if "layer_norm.weight" in params:
        out -= out.mean(-1, keepdims=True)
        out /= jnp.sqrt(out.var(-1, keepdims=True) + 1e-5)
        out *= params["layer_norm.weight"][None, None]
        out += params["layer_norm.bias"][None, None]
    return jax.nn.relu(out)


@pytest.mark.parametrize("name", golden.names("layer_"))
def test_golden_layer(name):
    case = golden.case(name)
    _, message, aggregate, *_ = name.split("_")
    with jax.enable_x64(True):
        graph = Graph.from_edges(
            *case["edge_index"],
            num_nodes=case["x"].shape[1],
            edge_types=case["edge_type"],
            num_relations=4,
            weights=case["edge_weight"],
        )
        params = {
            k.removeprefix("p/"): jnp.asarray(a)
            for k, a in case.items()
            if k.startswith("p/")
        }
        arrays = (
            *(jnp.asarray(case[k]) for k in ("x", "query", "boundary")),
            (graph.weights),
        )

        @jax.jit
        def run(params, arrays):
            apply = functools.partial(
                layer, graph=graph, message=message, aggregate=aggregate
            )
            y, pull = jax.vjp(apply, params, arrays)
            return y, *pull(jnp.asarray(case["cot"]))

        y, of_params, (of_x, of_query, of_boundary, of_weights) = run(params, arrays)
    np.testing.assert_allclose(y, case["y"], rtol=0, atol=1e-10)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-9)
    close(of_x, case["gx"])
    close(of_query, case.get("gquery", np.zeros_like(case["query"])))
    close(of_boundary, case["gboundary"])
    close(of_weights, case["gw"][graph.edge_ids])
    for key, got in of_params.items():
        close(got, case["gp/" + key])


def random_graph(seed=0, num_edges=20, num_nodes=NUM_NODES):
    """A graph with parallel edges, loops and a node (the last) without edges."""
    rng = np.random.default_rng(seed)
    return Graph.from_edges(
        *rng.integers(0, num_nodes - 1, (2, num_edges)),
        num_nodes=num_nodes,
        edge_types=rng.integers(0, NUM_RELATIONS, num_edges),
        num_relations=NUM_RELATIONS,
        weights=rng.normal(size=num_edges),
    )


def random_inputs(seed=1, num_nodes=NUM_NODES):
    rng = np.random.default_rng(seed)
    shapes = [(n, QUERIES, DIM) for n in (num_nodes, NUM_RELATIONS, num_nodes)]
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


def by_hand(graph, x, relations, boundary, mask, *, message, aggregate):
    """Lists of messages, node by node."""
    x, relations, boundary = (np.asarray(a) for a in (x, relations, boundary))
    graph = jax.tree.map(np.asarray, graph)
    received = [[(1.0, b)] for b in boundary]
    edges = zip(graph.senders, graph.receivers, graph.edge_types, strict=True)
    for e, (u, v, t) in enumerate(edges):
        if not mask[e]:
            continue
        r, a = relations[t], x[u]
        if message == "transe":
            m = a + r
        elif message == "distmult":
            m = a * r
        else:
            half = DIM // 2
            z = (a[..., :half] + 1j * a[..., half:]) * (
                r[..., :half] + 1j * r[..., half:]
            )
            m = np.concatenate([z.real, z.imag], -1)
        received[v].append((graph.weights[e], m))
    logs = np.log([len(messages) for messages in received])
    out = []
    for messages, log in zip(received, logs, strict=True):
        m = np.array([w * m for w, m in messages])
        if aggregate != "pna":
            out.append(getattr(m, aggregate)(0))
            continue
        squares = np.mean([w * m * m for w, m in messages], 0)
        std = np.sqrt(np.maximum(squares - m.mean(0) ** 2, 1e-6))
        stats = np.stack([m.mean(0), m.max(0), m.min(0), std], -1)
        s = log / logs.mean()
        scales = np.array([1, s, 1 / max(s, 1e-2)])
        out.append((stats[..., None] * scales).reshape(*m.shape[1:-1], -1))
    return np.stack(out)


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_against_lists_of_messages(message, aggregate):
    mask = np.arange(20) % 5 > 0
    options = {"message": message, "aggregate": aggregate}
    with jax.enable_x64(True):
        graph, arrays = random_graph(), random_inputs()
        got = message_pass(graph, *arrays, edge_mask=jnp.asarray(mask), **options)
        want = by_hand(graph, *arrays, mask, **options)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)


@functools.partial(jax.jit, static_argnames=("message", "aggregate"))
def value_and_gradients(
    graph, arrays, edge_mask=None, message="distmult", aggregate="pna"
):
    """Output, and gradients of a fixed function of it, with weights' in input order."""

    def apply(arrays, weights):
        made = dataclasses.replace(graph, weights=weights)
        options = {"message": message, "aggregate": aggregate, "edge_mask": edge_mask}
        return message_pass(made, *arrays, **options)

    out, pull = jax.vjp(apply, arrays, graph.weights)
    row = jnp.sin(jnp.arange(out[0].size, dtype=out.dtype)).reshape(1, *out.shape[1:])
    if graph.node_mask is not None:
        row = jnp.where(graph.node_mask[:, None, None], row, 0)
    of_arrays, of_weights = pull(jnp.broadcast_to(row, out.shape))
    in_order = jnp.zeros_like(of_weights).at[graph.edge_ids].set(of_weights)
    return out, of_arrays, in_order


def assert_trees_close(got, want, atol=1e-12):
    chex.assert_trees_all_close(got, want, rtol=0, atol=atol)


def test_permuted_nodes_permute_the_output():
    rng = np.random.default_rng(2)
    new = rng.permutation(NUM_NODES)  # the new name of each node
    old = np.argsort(new)
    with jax.enable_x64(True):
        graph, (x, relations, boundary) = random_graph(), random_inputs()
        ids = np.argsort(graph.edge_ids)
        s, r, t, w = (
            np.asarray(a)[ids]
            for a in (graph.senders, graph.receivers, graph.edge_types, graph.weights)
        )
        moved = Graph.from_edges(
            new[s],
            new[r],
            num_nodes=NUM_NODES,
            edge_types=t,
            num_relations=NUM_RELATIONS,
            weights=w,
        )
        out, (of_x, of_r, of_b), of_w = value_and_gradients(
            moved, (x[old], relations, boundary[old])
        )
        got = out[new], (of_x[new], of_r, of_b[new]), of_w
        assert_trees_close(got, value_and_gradients(graph, (x, relations, boundary)))


def test_padding_changes_nothing():
    with jax.enable_x64(True):
        graph, arrays = random_graph(), random_inputs()
        want = value_and_gradients(graph, arrays)
        padded = graph.pad(num_nodes=NUM_NODES + 2, num_edges=25)
        more = [(0, 2), (0, 0), (0, 0)]
        x, relations, boundary = arrays
        wider = jnp.pad(x, more), relations, jnp.pad(boundary, more)
        out, (of_x, of_r, of_b), of_w = value_and_gradients(padded, wider)
        n = NUM_NODES
        got = out[:n], (of_x[:n], of_r, of_b[:n]), of_w[:20]
        assert_trees_close(got, want)
        assert not of_x[n:].any()
        assert not of_w[20:].any()


def test_a_masked_edge_is_no_edge():
    with jax.enable_x64(True):
        graph, arrays = random_graph(), random_inputs()
        keep = np.arange(20) % 4 > 0
        columns = (graph.senders, graph.receivers, graph.edge_types, graph.weights)
        s, r, t, w = (np.asarray(a)[keep] for a in columns)
        fewer = Graph.from_edges(
            s,
            r,
            num_nodes=NUM_NODES,
            edge_types=t,
            num_relations=NUM_RELATIONS,
            weights=w,
        )
        want = value_and_gradients(fewer, arrays)
        out, of_arrays, of_w = value_and_gradients(graph, arrays, jnp.asarray(keep))
        of_w = of_w[graph.edge_ids]
        assert_trees_close((out, of_arrays, of_w[keep]), want)
        assert not of_w[~keep].any()
        masked = dataclasses.replace(graph, mask=jnp.asarray(keep))
        assert_trees_close(value_and_gradients(masked, arrays)[0], want[0])


def test_blocks_of_edges(monkeypatch):
    """Three edges a block, the last one filled up."""
    with jax.enable_x64(True):
        graph, arrays = random_graph(), random_inputs()
        want = value_and_gradients(graph, arrays)
        monkeypatch.setattr(_accumulate, "_BLOCK_BYTES", {"cpu": 3 * 8 * QUERIES * DIM})
        jax.clear_caches()
        got = value_and_gradients(graph, arrays)
    jax.clear_caches()
    assert_trees_close(got, want)


def test_ties_share_the_gradient():
    """Three equal messages and an equal boundary: a quarter each."""
    graph = Graph.from_edges([1, 2, 3], [0, 0, 0], num_nodes=4)
    x = jnp.ones((4, 2))

    def maximum(x, boundary):
        relations = jnp.zeros((1, 2))
        options = {"message": "transe", "aggregate": "max"}
        return message_pass(graph, x, relations, boundary, **options)[0, 0]

    of_x, of_boundary = jax.grad(maximum, (0, 1))(x, x)
    np.testing.assert_array_equal(of_x, [[0, 0]] + [[0.25, 0]] * 3)
    np.testing.assert_array_equal(of_boundary, [[0.25, 0]] + [[0, 0]] * 3)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_maximum_passes_its_whole_gradient_on(message):
    """Two roundings of one message would lose it: Euler's theorem in the weights."""
    graph = random_graph(num_edges=5000, num_nodes=300)
    x, relations, _ = random_inputs(num_nodes=300)
    # The last node has no edge; the others have nothing else than their edges.
    boundary = jnp.full_like(x, -jnp.inf).at[-1].set(0)

    def maximum(weights):
        made = dataclasses.replace(graph, weights=weights)
        options = {"message": message, "aggregate": "max"}
        return jnp.sum(message_pass(made, x, relations, boundary, **options))

    total, of_weights = jax.jit(jax.value_and_grad(maximum))(graph.weights)
    np.testing.assert_allclose(jnp.vdot(of_weights, graph.weights), total, rtol=1e-5)


def test_no_edges_at_all_are_finite():
    graph, (x, relations, boundary) = random_graph(), random_inputs()
    out, gradients, of_w = value_and_gradients(
        graph, (x, relations, boundary), jnp.zeros(20, bool)
    )
    assert jax.tree.all(
        jax.tree.map(lambda a: jnp.isfinite(a).all(), (out, gradients, of_w))
    )
    # Mean, maximum and minimum are the boundary, under scales of 1, 0 and 100.
    scales = np.array([1.0, 0.0, 100.0], np.float32)
    want = np.stack([boundary] * 3 + [np.full_like(boundary, 1e-3)], -1)
    want = (want[..., None] * scales).reshape(out.shape)
    np.testing.assert_allclose(out, want, rtol=1e-6)


def test_shared_relations_are_those_of_each_query():
    graph, (x, relations, boundary) = random_graph(), random_inputs()
    shared = relations[:, 0]
    repeated = jnp.broadcast_to(shared[:, None], relations.shape)

    @jax.jit
    def run(relations):
        def total(relations):
            out = message_pass(
                graph, x, relations, boundary, message="rotate", aggregate="sum"
            )
            return jnp.sum(jnp.sin(out))

        return jax.value_and_grad(total)(relations)

    (value, of_shared), (want, of_repeated) = run(shared), run(repeated)
    assert_trees_close((value, of_shared), (want, of_repeated.sum(1)), 1e-5)


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_sharded_queries_with_replicated_parameters(aggregate):
    """The relations and the graph do not vary over the mesh; gradients are summed."""
    graph, (x, relations, boundary) = random_graph(), random_inputs()
    mesh = jax.make_mesh((QUERIES,), ("q",), axis_types=(AxisType.Auto,))
    split = P(None, "q")

    def loss(x, relations, boundary, graph):
        out = message_pass(
            graph, x, relations, boundary, message="distmult", aggregate=aggregate
        )
        return jnp.sum(out * jnp.sin(out))

    def sharded(x, relations, boundary, graph):
        return jax.lax.psum(loss(x, relations, boundary, graph), "q")

    on_mesh = jax.shard_map(
        sharded, mesh=mesh, in_specs=(split, P(), split, P()), out_specs=P()
    )
    args = x, relations[:, 0], boundary, graph
    got = jax.jit(jax.value_and_grad(on_mesh, (0, 1, 2)))(*args)
    want = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*args)
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-4)


def test_several_axes_of_queries():
    graph, (x, relations, boundary) = random_graph(), random_inputs()
    out, *_ = value_and_gradients(graph, (x, relations, boundary))
    got = message_pass(
        graph,
        *(a[:, :, None] for a in (x, relations, boundary)),
        message="distmult",
        aggregate="pna",
    )
    assert_trees_close(got[:, :, 0], out, 1e-5)


GRAPH = Graph.from_edges([0, 1], [1, 2], num_nodes=3, num_relations=2)
X, RELATIONS = np.ones((3, 2, 5), np.float32), np.ones((2, 5), np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"graph": 3}, TypeError, "`graph` must be a Graph, got <class 'int'>"),
        ({"message": "add"}, ValueError, "`message` must be one of 'transe'"),
        ({"aggregate": "std"}, ValueError, "`aggregate` must be one of 'sum'"),
        ({"message": "rotate"}, ValueError, "`dim` must be even with"),
        ({"x": X[:2]}, ValueError, "`x` must have shape (3, *queries, dim), got (2,"),
        ({"boundary": X[:, 0]}, ValueError, "`boundary` must have shape (3, 2, 5)"),
        (
            {"relation_features": X},
            ValueError,
            "`relation_features` must have shape (2, 5) or (2, 2, 5), got (3, 2, 5).",
        ),
        (
            {"edge_mask": jnp.ones(3, bool)},
            ValueError,
            "`edge_mask` must have shape (2,)",
        ),
        ({"edge_mask": jnp.ones(2)}, TypeError, "`edge_mask` must be bool, got float"),
    ],
)
def test_refusals(changes, error, message):
    options = {
        "graph": GRAPH,
        "x": X,
        "relation_features": RELATIONS,
        "boundary": X,
        "message": "transe",
        "aggregate": "sum",
        **changes,
    }
    names = ("graph", "x", "relation_features", "boundary")
    positional = [options.pop(name) for name in names]
    with pytest.raises(error, match=re.escape(message)):
        message_pass(*positional, **options)


def test_forward_mode_is_refused():
    def total(x):
        options = {"message": "transe", "aggregate": "sum"}
        return message_pass(GRAPH, x, RELATIONS, X, **options)

    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(total, (jnp.asarray(X),), (jnp.asarray(X),))
