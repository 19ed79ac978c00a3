"""Queries and edges over the devices of a mesh, against one device."""

import dataclasses
import functools
import os
import pathlib
import re
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from jaxarch import graph as gr
from jaxarch.graph import Graph, message_pass

ROOT = pathlib.Path(__file__).parents[2]
MESSAGES = ("transe", "distmult", "rotate")
AGGREGATES = ("sum", "mean", "max", "pna")
NUM_NODES, NUM_RELATIONS, QUERIES, DIM, NUM_EDGES = 7, 3, 2, 4, 21


def make_mesh(count, *more, names=("edges",)):
    shape = (count, *more)
    devices = jax.devices()[: int(np.prod(shape))]
    types = (AxisType.Auto,) * len(shape)
    return jax.make_mesh(shape, names, axis_types=types, devices=devices)


def random_graph():
    """Parallel edges, loops, weights, a node without edges, some edges masked."""
    rng = np.random.default_rng(0)
    graph = Graph.from_edges(
        *rng.integers(0, NUM_NODES - 2, (2, NUM_EDGES)),
        num_nodes=NUM_NODES - 1,
        edge_types=rng.integers(0, NUM_RELATIONS, NUM_EDGES),
        num_relations=NUM_RELATIONS,
        weights=rng.uniform(0.5, 1.5, NUM_EDGES),
    ).pad(num_nodes=NUM_NODES)
    return dataclasses.replace(graph, mask=jnp.arange(NUM_EDGES) % 6 > 0)


def random_inputs():
    """Small integers, so that extrema tie on and across devices."""
    rng = np.random.default_rng(1)
    shapes = [(n, QUERIES, DIM) for n in (NUM_NODES, NUM_RELATIONS, NUM_NODES)]
    return tuple(jnp.asarray(rng.integers(-2, 3, s).astype(float)) for s in shapes)


def run(graph, x, relations, boundary, cotangent, axis_name=None, **options):
    """A message pass and its gradients, those of the weights last."""

    def apply(x, relations, boundary, weights):
        made = dataclasses.replace(graph, weights=weights)
        arrays = x, relations, boundary
        return message_pass(made, *arrays, axis_name=axis_name, **options)

    out, pull = jax.vjp(apply, x, relations, boundary, graph.weights)
    return out, *pull(cotangent)


def over_edges(mesh, **options):
    parts, whole = P("edges"), P()
    return jax.jit(
        jax.shard_map(
            functools.partial(run, axis_name="edges", **options),
            mesh=mesh,
            in_specs=(parts, *[whole] * 4),
            out_specs=(*[whole] * 4, parts),
        )
    )


def cotangent_of(aggregate):
    width = DIM * (12 if aggregate == "pna" else 1)
    shape = (NUM_NODES, QUERIES, width)
    cotangent = np.sin(np.arange(np.prod(shape))).reshape(shape)
    cotangent[-1] = 0  # padding
    return jnp.asarray(cotangent)


def assert_close(got, want, atol=1e-12):
    chex.assert_trees_all_close(got, want, rtol=0, atol=atol)


def check_edges(mesh, message, aggregate, weights=None):
    """Compares a message pass over the parts of `mesh` with that of one device."""
    options = {"message": message, "aggregate": aggregate}
    with jax.enable_x64(True):
        graph = random_graph()
        if weights is not None:
            graph = dataclasses.replace(graph, weights=weights)
        arrays = *random_inputs(), cotangent_of(aggregate)
        *want, of_weights = jax.jit(functools.partial(run, **options))(graph, *arrays)
        parts = graph.split(mesh.size)
        *got, in_parts = over_edges(mesh, **options)(parts, *arrays)
        assert_close((*got, in_parts[:NUM_EDGES]), (*want, of_weights))
        assert not in_parts[NUM_EDGES:].any()


@pytest.mark.parametrize(
    ("message", "aggregate"),
    [
        pytest.param("distmult", "pna", marks=pytest.mark.slow),
        ("transe", "mean"),
        ("rotate", "max"),
    ],
)
def test_edges_over_four_devices(message, aggregate):
    with jax.enable_x64(True):
        weights = jnp.ones(NUM_EDGES)
    # Weights of 1 leave the messages integers, which tie.
    check_edges(make_mesh(4), message, aggregate, weights)


@pytest.mark.parametrize("check_vma", [True, False])
def test_ties_across_devices_share_the_gradient(check_vma):
    """Three equal messages on three devices and an equal boundary: a quarter each."""
    graph = Graph.from_edges([1, 2, 3], [0, 0, 0], num_nodes=4).split(4)
    assert graph.mask.tolist() == [True, True, True, False]
    options = {"message": "transe", "aggregate": "max", "axis_name": "edges"}

    def maximum(graph, x, boundary):
        return message_pass(graph, x, jnp.zeros((1, 2)), boundary, **options)

    on_mesh = jax.shard_map(
        maximum,
        mesh=make_mesh(4),
        in_specs=(P("edges"), P(), P()),
        out_specs=P(),
        check_vma=check_vma,
    )
    x = jnp.ones((4, 2))
    first = jax.jit(jax.grad(lambda *a: on_mesh(graph, *a)[0, 0], (0, 1)))
    of_x, of_boundary = first(x, x)
    np.testing.assert_array_equal(of_x, [[0, 0]] + [[0.25, 0]] * 3)
    np.testing.assert_array_equal(of_boundary, [[0.25, 0]] + [[0, 0]] * 3)


def loss_and_gradient(graph, x, relations, boundary, axis_name=None):
    def loss(x, relations, boundary):
        arrays = x, relations, boundary
        options = {"message": "distmult", "aggregate": "pna", "axis_name": axis_name}
        return jnp.sum(jnp.sin(message_pass(graph, *arrays, **options)))

    return jax.value_and_grad(loss, (0, 1, 2))(x, relations, boundary)


@pytest.mark.slow
def test_gradient_taken_inside_and_without_replication_checks():
    """A training step inside of `shard_map`; and a gradient of one from outside."""
    with jax.enable_x64(True):
        graph, arrays = random_graph(), random_inputs()
        want = jax.jit(loss_and_gradient)(graph, *arrays)
        specs = {
            "mesh": make_mesh(3),
            "in_specs": (P("edges"), P(), P(), P()),
            "out_specs": P(),
        }
        inside = functools.partial(loss_and_gradient, axis_name="edges")
        parts = graph.split(3)
        got = jax.jit(jax.shard_map(inside, **specs))(parts, *arrays)
        assert_close(got, want)

        def loss(graph, *arrays):
            options = {"message": "distmult", "aggregate": "pna"}
            out = message_pass(graph, *arrays, axis_name="edges", **options)
            return jnp.sum(jnp.sin(out))

        unchecked = jax.shard_map(loss, **specs, check_vma=False)
        got = jax.jit(jax.value_and_grad(unchecked, (1, 2, 3)))(parts, *arrays)
        assert_close(got, want)


def test_queries_and_edges_over_two_axes():
    mesh = make_mesh(2, 2, names=("queries", "edges"))
    split = P(None, "queries")

    def total(graph, *arrays):
        found, gradients = loss_and_gradient(graph, *arrays, axis_name="edges")
        return jax.lax.psum(found, "queries"), gradients

    with jax.enable_x64(True):
        graph, arrays = random_graph(), random_inputs()
        want = jax.jit(loss_and_gradient)(graph, *arrays)
        on_mesh = jax.shard_map(
            total,
            mesh=mesh,
            in_specs=(P("edges"), split, split, split),
            out_specs=(P(), split),
        )
        assert_close(jax.jit(on_mesh)(graph.split(2), *arrays), want)


def test_queries_by_sharded_jit_move_nothing():
    """Each device has its queries; the states are never gathered."""
    graph, arrays = random_graph(), random_inputs()
    sharding = NamedSharding(make_mesh(2, names=("q",)), P(None, "q"))
    options = {"message": "rotate", "aggregate": "max"}

    @jax.jit
    def apply(graph, *arrays):
        out, pull = jax.vjp(functools.partial(message_pass, graph, **options), *arrays)
        return out, *pull(jnp.cos(out))

    split = jax.device_put(arrays, sharding)
    compiled = apply.lower(graph, *split).compile()
    assert not re.search(r"all-(reduce|gather|to-all)|permute", compiled.as_text())
    got = compiled(graph, *split)
    assert all(a.sharding.is_equivalent_to(sharding, 3) for a in got)
    assert_close(got, apply(graph, *arrays), 1e-5)


# Bellman-Ford.


def walks(graph, boundary, axis_name=None, **options):
    return gr.bellman_ford(graph, boundary, axis_name=axis_name, **options)


def walks_over(mesh, **options):
    apply = functools.partial(walks, axis_name="edges", **options)
    return jax.shard_map(apply, mesh=mesh, in_specs=(P("edges"), P()), out_specs=P())


@pytest.mark.parametrize("semiring", [gr.MIN_PLUS, gr.MAX_TIMES, gr.SUM_TIMES])
def test_paths_over_four_devices(semiring):
    options = {"semiring": semiring, "num_steps": 3}
    with jax.enable_x64(True):
        graph, (boundary, *_) = random_graph(), random_inputs()
        graph = dataclasses.replace(graph, weights=jnp.ones(NUM_EDGES))
        boundary = jnp.abs(boundary) + 1  # MAX_TIMES has no negative numbers
        row = jnp.sin(jnp.arange(boundary.size)).reshape(boundary.shape)

        @functools.partial(jax.jit, static_argnums=0)
        def everything(apply, graph, boundary):
            def values(weights, boundary):
                return apply(dataclasses.replace(graph, weights=weights), boundary)

            at = graph.weights, boundary
            out, pull = jax.vjp(values, *at)
            turns = jax.tree.map(jnp.cos, at)
            return (*jax.jvp(values, at, turns), *pull(row)[::-1])

        *want, of_weights = everything(
            functools.partial(walks, **options), graph, boundary
        )
        *got, in_parts = everything(
            walks_over(make_mesh(4), **options), graph.split(4), boundary
        )
        assert_close((*got, in_parts[:NUM_EDGES]), (*want, of_weights))


def test_paths_until_they_settle():
    """A line of seven nodes, and no way back."""
    nodes = np.arange(NUM_NODES)
    graph = Graph.from_edges(nodes[:-1], nodes[1:], num_nodes=NUM_NODES).split(4)
    boundary = jnp.where(nodes[:, None] == np.array([[0, 2]]), 0.0, jnp.inf)
    on_mesh = walks_over(make_mesh(4), semiring=gr.MIN_PLUS, tol=0.0)
    far = nodes[:, None] - np.array([[0, 2]])
    want = np.where(far < 0, np.inf, far)
    np.testing.assert_array_equal(jax.jit(on_mesh)(graph, boundary), want)


def test_ties_of_paths_across_devices():
    """Two ways of equal length on two devices, and an equal boundary: a third each."""
    graph = Graph.from_edges([1, 2], [0, 0], num_nodes=3, weights=[1.0, 2.0])
    options = {"semiring": gr.MIN_PLUS, "num_steps": 1}
    on_mesh = walks_over(make_mesh(2), **options)
    boundary = jnp.asarray([3.0, 2.0, 1.0])
    gradient = jax.jit(jax.grad(lambda b: on_mesh(graph.split(2), b)[0]))(boundary)
    np.testing.assert_allclose(gradient, [1 / 3] * 3, rtol=1e-6)


@pytest.mark.parametrize(
    "semiring", [gr.LOG_SUM_EXP, gr.Semiring(jnp.hypot, jnp.multiply, 0.0, 1.0)]
)
def test_other_sums_are_not_written_over_devices(semiring):
    on_mesh = walks_over(make_mesh(2), semiring=semiring, num_steps=1)
    with pytest.raises(NotImplementedError, match="with `axis_name` the `add` must be"):
        on_mesh(random_graph().split(2), jnp.ones(NUM_NODES))


# Parts.


@pytest.mark.parametrize("num_parts", [1, 3, 4, 8])
def test_parts(num_parts):
    graph = random_graph()
    parts = jax.tree.map(np.asarray, graph.split(num_parts))
    size = parts.part_size
    assert size == -(-NUM_EDGES // num_parts)
    assert len(parts.senders) == num_parts * size
    for name in ("senders", "receivers", "edge_types", "weights", "mask"):
        whole = getattr(graph, name)
        np.testing.assert_array_equal(getattr(parts, name)[:NUM_EDGES], whole)
    assert not parts.mask[NUM_EDGES:].any()
    assert (np.diff(parts.receivers) >= 0).all()
    for own, senders in zip(
        parts.by_sender.reshape(-1, size), parts.senders.reshape(-1, size), strict=True
    ):
        np.testing.assert_array_equal(np.sort(own), np.arange(size))
        assert (np.diff(senders[own]) >= 0).all()
    nodes = parts.node_mask.reshape(num_parts, NUM_NODES)
    np.testing.assert_array_equal(nodes, [graph.node_mask] * num_parts)


@pytest.mark.parametrize(
    "method", ["add_inverse", "pad", "to_jraph", "to_networkx", "to_scipy"]
)
def test_a_graph_in_parts_stays_so(method):
    message = f"Graph.{method}: the graph must be whole, got one in parts of 11 edges."
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(random_graph().split(2), method)()


def test_refusals():
    graph, arrays = random_graph(), random_inputs()
    options = {"message": "distmult", "aggregate": "sum"}
    with pytest.raises(ValueError, match="the graph must be whole"):
        graph.split(2).split(2)
    with pytest.raises(ValueError, match="`num_parts` must be at least 1, got 0"):
        graph.split(0)
    with pytest.raises(ValueError, match="`graph` must be whole without `axis_name`"):
        message_pass(graph.split(2), *arrays, **options)
    with pytest.raises(ValueError, match="`graph` must be whole without `axis_name`"):
        gr.bellman_ford(graph.split(2), arrays[0], gr.SUM_TIMES)
    apply = functools.partial(message_pass, axis_name="edges", **options)
    on_mesh = jax.shard_map(
        apply, mesh=make_mesh(3), in_specs=(P("edges"), P(), P(), P()), out_specs=P()
    )
    graph = dataclasses.replace(graph, node_mask=None)
    for wrong, got in ((graph, "7 edges of a whole one"), (graph.split(6), "8 edges")):
        with pytest.raises(ValueError, match=f"one part of .* got {got}"):
            on_mesh(wrong, *arrays)


# In processes of their own.


def start(code, *args, devices):
    flags = os.environ.get("XLA_FLAGS", "")
    flags = f"{flags} --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        env=env | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


EIGHT = """
import sys
from tests.graph import test_sharding as test
mesh = test.make_mesh(8)
for aggregate in test.AGGREGATES:
    test.check_edges(mesh, sys.argv[1], aggregate)
"""


@pytest.mark.slow
@pytest.mark.parametrize("message", MESSAGES)
def test_eight_devices(message):
    """Three edges a part, the last part without an edge."""
    process = start(EIGHT, message, devices=8)
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text


TWO = """
import sys, jax, numpy as np
rank, port, out = int(sys.argv[1]), *sys.argv[2:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.config.update("jax_enable_x64", True)
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
from jax.sharding import NamedSharding, PartitionSpec as P
from tests.graph import test_sharding as test
mesh = test.make_mesh(4)
assert (jax.process_count(), jax.local_device_count()) == (2, 2)
graph = test.random_graph().split(4)
parts = jax.device_put(graph, NamedSharding(mesh, P("edges")))
arrays = *test.random_inputs(), test.cotangent_of("pna")
arrays = jax.device_put(arrays, NamedSharding(mesh, P()))
options = {"message": "distmult", "aggregate": "pna"}
*found, of_weights = test.over_edges(mesh, **options)(parts, *arrays)
shards = {s.index[0].start or 0: s.data for s in of_weights.addressable_shards}
found = [np.asarray(a.addressable_shards[0].data) for a in found]
np.savez(out, *found, starts=list(shards), of_weights=np.stack(list(shards.values())))
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Two devices each, collectives by gloo on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outs = [tmp_path / f"{rank}.npz" for rank in range(2)]
    started = [start(TWO, rank, port, out, devices=2) for rank, out in enumerate(outs)]
    try:
        texts = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], texts
    options = {"message": "distmult", "aggregate": "pna"}
    with jax.enable_x64(True):
        arrays = *random_inputs(), cotangent_of("pna")
        *want, of_weights = jax.jit(functools.partial(run, **options))(
            random_graph(), *arrays
        )
    whole = np.full(24, np.nan)
    for out in outs:
        with np.load(out) as found:
            assert_close([found[f"arr_{i}"] for i in range(4)], want)
            for first, part in zip(found["starts"], found["of_weights"], strict=True):
                whole[first : first + 6] = part
    assert_close(whole[:NUM_EDGES], np.asarray(of_weights))
    assert not whole[NUM_EDGES:].any()
