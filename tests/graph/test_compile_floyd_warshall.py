"""`compile_floyd_warshall` against NetworkX, within the bound that it states."""

import functools
import re

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from jaxarch.graph import compile_floyd_warshall, floydnet_apply

N = 11


def directed(rng, integers=False, negative=False):
    """A sparse directed graph; returns its matrix of lengths and NetworkX's answer."""
    graph = nx.gnp_random_graph(N, 0.18, seed=int(rng.integers(100)), directed=True)
    height = rng.normal(size=N) if negative else np.zeros(N)
    for i, k in graph.edges:
        length = float(rng.integers(1, 9)) if integers else rng.random()
        graph.edges[i, k]["weight"] = length + height[i] - height[k]
    missing = 100.0
    lengths = nx.to_numpy_array(graph, nonedge=missing)
    np.fill_diagonal(lengths, 0.0)
    return lengths, np.asarray(nx.floyd_warshall_numpy(graph)), missing


@functools.partial(jax.jit, static_argnames="dtype")
def run(lengths, scale, dtype):
    w = jnp.asarray(lengths, dtype)
    x = jnp.stack([w, jnp.ones_like(w), jnp.eye(N, dtype=dtype)], -1)
    params = compile_floyd_warshall(N, scale=scale, dtype=dtype)
    return floydnet_apply(params, x)[..., 0]


@pytest.mark.parametrize("negative", [False, True])
def test_error_is_within_the_bound(negative):
    lengths, want, missing = directed(np.random.default_rng(0), negative=negative)
    path = np.isfinite(want)
    assert path.any()
    assert not path.all()
    with jax.enable_x64(True):
        largest = []
        for scale in (1e1, 1e2, 1e4):
            got = np.asarray(run(lengths, scale, dtype="float64"))
            error = (got - want)[path]
            bound = (2**4 - 1) * np.log(N) / scale  # four squares: 16 >= 10 edges
            assert (error >= -1e-13).all()
            assert (error <= bound).all()
            largest.append(error.max())
            if not negative:
                assert (got[~path] >= missing - 1e-13).all()
                assert (got[~path] <= missing + bound).all()
    assert largest[0] > largest[1] > largest[2]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)]
)
def test_integer_lengths_are_exact(dtype, tolerance):
    lengths, want, _ = directed(np.random.default_rng(1), integers=True)
    path = np.isfinite(want)
    with jax.enable_x64(True):
        got = np.asarray(run(lengths, 40.0, dtype=dtype))
    np.testing.assert_allclose(got[path], want[path], rtol=0, atol=tolerance)


def test_longest_path_and_fewest_nodes():
    line = nx.path_graph(9, create_using=nx.DiGraph)  # eight edges: three squares
    w = nx.to_numpy_array(line, nonedge=50.0)
    np.fill_diagonal(w, 0.0)
    params = compile_floyd_warshall(9, scale=40.0)
    assert params.blocks.qkv.shape[0] == 3
    x = jnp.stack([jnp.asarray(w, "float32"), jnp.ones((9, 9)), jnp.eye(9)], -1)
    np.testing.assert_allclose(floydnet_apply(params, x)[0, 8, 0], 8.0, atol=1e-5)
    for n, blocks in ((1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)):
        made = compile_floyd_warshall(n, scale=1.0)
        assert made.blocks.qkv.shape[0] == blocks


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((0,), {}, ValueError, "`num_nodes` must be at least 1, got 0."),
        ((2.0,), {}, TypeError, "`num_nodes` must be an int, got float."),
        (
            (2,),
            {"dtype": "int32"},
            ValueError,
            "`dtype` must be a real floating dtype, got int32.",
        ),
    ],
)
def test_errors(args, options, error, message):
    message = f"^{re.escape('compile_floyd_warshall: ' + message)}$"
    with pytest.raises(error, match=message):
        compile_floyd_warshall(*args, scale=1.0, **options)
