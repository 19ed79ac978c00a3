"""Values with positions: against full matrices in NumPy; layouts; what is decided."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker
from jaxarch.kernels import _spatial
from jaxarch.kernels._graph import Shape
from jaxarch.kernels._plan import plan

from .spatial_networks import (
    IMAGES,
    NETWORKS,
    PLAIN,
    SEQUENCES,
    attentive,
    both_needs,
    close,
    conv_relu,
    kernel_of,
    pooled,
    reference,
    residual,
    stacked,
    standard,
)

IN_FULL = ("pooled", "strided", "positions left", "graph")  # other paths, and float32


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in IN_FULL else pytest.mark.slow)
        for name in NETWORKS
    ],
)
def test_against_full_matrices(name):
    network, x = NETWORKS[name]
    kernel, want = kernel_of(network), reference(network, x)
    with jax.enable_x64(True):
        square = stacked(kernel(x))
        close(square, want, 1e-12)
        half = (square.ndim - 3) // 2
        axes = (0, 2, 1, *range(3 + half, square.ndim), *range(3, 3 + half))
        swapped = square.transpose(axes)
        if half:  # an example with itself: symmetric in the positions to rounding
            close(square, swapped, 1e-15)
        else:
            np.testing.assert_allclose(square, swapped, rtol=1e-15, atol=0)
        if name in IN_FULL:
            close(stacked(kernel(x[:2], x[1:])), want[:, :2, 1:], 1e-7)
    if name in IN_FULL:
        single = stacked(kernel(x.astype(np.float32)))
        close(single, want, 2e-6)
        assert single.dtype == np.float32


@pytest.mark.parametrize("end", ["flatten", "global_avg_pool"])
def test_black_regions_with_trained_biases_that_start_at_zero(end):
    x = IMAGES.copy()
    x[0, :2] = x[1, :, 1:3] = 0

    def network(ops, h, b_std=1e-9):
        scales = {"parameterization": "standard", "b_std": b_std}
        h = ops.relu(ops.conv(h, 8, (3, 3), **scales))
        h = ops.relu(ops.conv(ops.avg_pool(h, (2, 2)), 8, (2, 2), **scales))
        return ops.dense(getattr(ops, end)(h), 1, **scales)

    want = reference(network, x)
    kernel = ker.infinite(lambda h: network(ker, h, 0.0))
    with jax.enable_x64(True):
        close(stacked(kernel(x)), want, 1e-8)
        close(stacked(kernel(x, x[::-1])), want[..., ::-1], 1e-8)
    close(stacked(kernel(x.astype(np.float32))), want, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pooled", "standard", "positions left"])
def test_diagonal(name):
    kernel = kernel_of(NETWORKS[name][0])
    with jax.enable_x64(True):
        square = stacked(kernel(IMAGES))
        own = stacked(kernel(IMAGES, diagonal=True))
        pairs = stacked(kernel(IMAGES[:2], IMAGES[2:], diagonal=True))
    index = np.arange(4)
    close(own, square[:, index, index], 1e-15)
    close(pairs, square[:, index[:2], index[2:]], 1e-14)
    close(square[:, 1, 3], square[:, 1, 1], 1e-14)  # equal images


@pytest.mark.slow
@pytest.mark.parametrize("entries", [1, 150])
@pytest.mark.parametrize("network", [residual, standard], ids=["full", "diagonal"])
def test_blocks_of_any_size(monkeypatch, network, entries):
    monkeypatch.setitem(_spatial._ENTRIES, "cpu", entries)

    def longer(ops, h):  # another graph, which is not yet compiled
        return ops.dense(network(ops, h), entries + 1)

    kernel, want = kernel_of(longer), reference(longer, PLAIN)
    with jax.enable_x64(True):
        close(stacked(kernel(PLAIN)), want, 1e-12)
        close(stacked(kernel(PLAIN[:3], PLAIN[1:])), want[:, :3, 1:], 1e-7)


def test_near_duplicates_in_float32():
    """Images 1e-1 to 1e-5 apart: as accurate as float32 inputs are."""

    def network(h):
        for _ in range(6):
            h = ker.relu(ker.conv(h, 4, (3, 3), w_std=math.sqrt(2), b_std=0.1))
        return ker.dense(ker.flatten(h), 1)

    x = IMAGES[:1].astype(np.float32)
    steps = 10.0 ** -np.arange(1, 6)
    noise = np.random.default_rng(1).normal(size=(5, *x.shape[1:]))
    y = (x + steps[:, None, None, None] * noise).astype(np.float32)
    kernel = ker.infinite(network)
    got = stacked(kernel(x, y))
    with jax.enable_x64(True):
        want = stacked(kernel(x.astype(np.float64), y.astype(np.float64)))
    np.testing.assert_allclose(got, want, rtol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", [conv_relu, both_needs, attentive], ids=["flat", "pooled", "attention"]
)
def test_gradients(network):
    """Against differences, black pixels and one image on both sides included."""
    if network is attentive:  # with a ReLU behind it, no slope where x1 is x2
        x1, x2 = SEQUENCES[:2, :3], SEQUENCES[2:4, :3]
    else:
        x1, x2 = IMAGES[1:3, :2, :3], IMAGES[2:4, :2, :3]

    def weigh(x1, x2, w_std):
        def build(h):
            if network is conv_relu:
                return ker.dense(ker.flatten(network(ker, h)), 1, w_std=w_std)
            return w_std * network(ker, h)

        gram = ker.infinite(build)(x1, x2)
        weights = jnp.asarray([[0.7, -0.4], [1.1, 0.3]])
        return (jnp.sin(gram.nngp) * weights).sum() + (gram.ntk * weights).sum()

    with jax.enable_x64(True):
        args = jnp.asarray(x1), jnp.asarray(x2), jnp.asarray(1.3)
        value = jax.jit(weigh)
        got = jax.jit(jax.grad(weigh, (0, 2)))(*args)
        step = 1e-6
        moved = np.stack(
            [
                [value(args[0] + s * step * e, *args[1:]) for s in (1, -1)]
                for e in np.eye(x1.size).reshape(-1, *x1.shape)
            ]
        )
        want = ((moved[:, 0] - moved[:, 1]) / (2 * step)).reshape(x1.shape)
        close(got[0], want, 1e-6)
        up, down = (value(*args[:2], args[2] + s * step) for s in (1, -1))
        np.testing.assert_allclose(got[1], (up - down) / (2 * step), rtol=1e-7)


def test_transformations():
    kernel = kernel_of(pooled)
    x = jnp.asarray(IMAGES, jnp.float32)
    want = kernel(x[:2], x[2:4]).ntk
    close(jax.jit(lambda k, *x: k(*x).ntk)(kernel, x[:2], x[2:4]), want, 1e-6)
    sets = jnp.stack([x[:2], x[1:3]])
    got = jax.vmap(lambda x: kernel(x, x[:2]).ntk)(sets)
    close(got[0], kernel(x[:2], x[:2]).ntk, 1e-6)
    assert got.shape == (2, 2, 2)


def test_empty():
    kernel = kernel_of(pooled)
    assert kernel(IMAGES[:0], IMAGES).ntk.shape == (0, 4)


def test_decisions():
    """A pool early and `flatten` late: all pairs of positions up to the pool only."""

    def network(h):
        h = ker.relu(ker.conv(h, 4, (3, 3)))
        h = ker.relu(ker.conv(h, 4, (3, 3)))
        h = ker.avg_pool(h, (2, 2))
        h = ker.relu(ker.conv(h, 4, (3, 3)))
        return ker.dense(ker.flatten(h), 1)

    graph = ker.infinite(network).graph
    made = plan(graph, Shape((8, 8), 3))
    names = [node.operation.name for node in graph.nodes]
    assert made.full == tuple(i < names.index("avg_pool") for i in range(len(names)))
    assert [shape.space for shape in made.shapes][-3:] == [(4, 4), (), ()]
    lines = [line.rsplit("; ", 1)[-1] for line in str(graph).splitlines()]
    assert lines[:5] == ["pairs of positions"] * 5
    assert lines[5:8] == ["position by position"] * 3
    assert "position" not in lines[8]
    flat = ker.infinite(lambda h: ker.flatten(ker.conv(h, 4, (3, 3)))).graph
    assert not any(plan(flat, Shape((8, 8), 3)).full)
