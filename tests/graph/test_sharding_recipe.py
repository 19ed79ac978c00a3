"""The recipes of `docs/graph.md` for several devices, as printed there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.graph import Graph, message_pass

RNG = np.random.default_rng(0)
GRAPH = Graph.from_edges(*RNG.integers(0, 9, (2, 30)), num_nodes=9, num_relations=1)
STATES = RNG.normal(size=(9, 4, 2)).astype(np.float32)
RELATIONS = RNG.normal(size=(1, 2)).astype(np.float32)
OPTIONS = {"message": "distmult", "aggregate": "mean"}


@pytest.fixture
def whole():
    return message_pass(GRAPH, STATES, RELATIONS, STATES, **OPTIONS)


def test_queries(whole):
    graph, x, relations = GRAPH, STATES, RELATIONS
    # --8<-- [start:queries]
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

    mesh = jax.make_mesh((4,), ("queries",), axis_types=(AxisType.Auto,))

    @jax.jit
    def layer(graph, x, relations):
        return message_pass(
            graph, x, relations, x, message="distmult", aggregate="mean"
        )

    x = jax.device_put(x, NamedSharding(mesh, P(None, "queries")))  # (nodes, q, dim)
    out = layer(graph, x, relations)  # as x: each device has its queries
    # --8<-- [end:queries]
    assert out.sharding.is_equivalent_to(x.sharding, 3)
    np.testing.assert_allclose(out, whole, rtol=1e-5)


def test_edges(whole):
    graph, x, relations = GRAPH, STATES, RELATIONS
    # --8<-- [start:edges]
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

    mesh = jax.make_mesh((4,), ("edges",), axis_types=(AxisType.Auto,))
    parts = jax.device_put(graph.split(4), NamedSharding(mesh, P("edges")))

    def layer(graph, x, relations):
        return message_pass(
            graph,
            x,
            relations,
            x,
            message="distmult",
            aggregate="mean",
            axis_name="edges",
        )

    specs = {"mesh": mesh, "in_specs": (P("edges"), P(), P()), "out_specs": P()}
    layer = jax.jit(jax.shard_map(layer, **specs))
    out = layer(parts, x, relations)  # as on one device
    of_relations = jax.grad(lambda r: jnp.sum(layer(parts, x, r) ** 2))(relations)
    # --8<-- [end:edges]
    np.testing.assert_allclose(out, whole, rtol=1e-5)

    def loss(r):
        return jnp.sum(message_pass(GRAPH, x, r, x, **OPTIONS) ** 2)

    np.testing.assert_allclose(of_relations, jax.grad(loss)(relations), rtol=1e-4)
