"""Values with positions: against full matrices in NumPy; layouts; finite networks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker
from jaxarch.kernels import _spatial
from jaxarch.kernels._graph import Shape
from jaxarch.kernels._plan import plan

from . import textbook_spatial
from .monte_carlo import assert_monte_carlo

RNG = np.random.default_rng(0)
PLAIN = RNG.normal(size=(4, 4, 5, 2)) + 0.3
IMAGES = PLAIN.copy()
IMAGES[3] = IMAGES[1]
IMAGES[2, 1:3] = 0  # black
SEQUENCES = RNG.normal(size=(5, 6, 3))
VOLUMES = RNG.normal(size=(3, 3, 2, 3, 2))
SCALES = {"w_std": 1.4, "b_std": 0.3}


def conv_relu(ops, h, window=(3, 3), **options):
    return ops.relu(ops.conv(h, 4, window, **SCALES, **options))


def pooled(ops, h):
    h = ops.avg_pool(conv_relu(ops, h), (2, 2))
    h = conv_relu(ops, h, padding="VALID", window=(2, 1))
    return ops.dense(ops.global_avg_pool(h), 1)


def overlapping(ops, h):
    h = ops.sum_pool(conv_relu(ops, h), (3, 2), strides=(1, 2), padding="SAME")
    h = ops.avg_pool(conv_relu(ops, h), (2, 2), strides=1, padding="CIRCULAR")
    return ops.flatten(conv_relu(ops, h))


def strided(ops, h):
    h = conv_relu(ops, h, strides=(2, 1), window=(3, 2))
    h = conv_relu(ops, h, strides=(1, 2), padding="VALID", window=(1, 3))
    return ops.global_sum_pool(h)


def circular(ops, h):
    h = conv_relu(ops, h, padding="CIRCULAR")
    return ops.dense(ops.global_avg_pool(conv_relu(ops, h)), 1)


def residual(ops, h):
    h = ops.conv(h, 4, (3, 3), **SCALES)
    small = ops.avg_pool(h + ops.conv(ops.relu(h), 4, (3, 3), **SCALES), (2, 2))
    other = ops.conv(ops.relu(h), 4, (2, 2), strides=2, padding="VALID", w_std=0.7)
    return ops.global_avg_pool(ops.relu(small + other))


def both_needs(ops, h):
    """One value is wanted at all pairs of positions and at each position alone."""
    h = conv_relu(ops, h)
    other = ops.dense(ops.global_avg_pool(h), 3, w_std=1.2)
    return other + ops.dense(ops.flatten(h), 3)


def means(ops, h):
    """Sums of branches that both have a mean, before and after a pool."""
    a = conv_relu(ops, h) + conv_relu(ops, h, window=(2, 1))
    b = ops.avg_pool(conv_relu(ops, h), (2, 2)) + ops.avg_pool(a, (2, 2))
    flat = ops.dense(ops.flatten(ops.conv(b, 4, (2, 2), **SCALES)), 4)
    return ops.dense(ops.global_avg_pool(b), 4) + flat


def locally(ops, h):
    h = ops.relu(ops.conv_local(h, 4, (3, 3), **SCALES))
    return ops.global_avg_pool(ops.conv_local(conv_relu(ops, h), 4, (2, 2), b_std=0.1))


def transposed(ops, h):
    h = ops.conv_transpose(conv_relu(ops, h), 4, (3, 2), strides=(2, 1), **SCALES)
    h = ops.conv_transpose(ops.relu(h), 4, (2, 3), padding="VALID", strides=(1, 3))
    return ops.global_avg_pool(ops.relu(h))


def transposed_flat(ops, h):
    h = ops.conv_transpose(conv_relu(ops, h), 4, (3, 2), strides=(2, 3), **SCALES)
    return ops.flatten(ops.relu(h))


def regularised(ops, h):
    h = ops.dropout(conv_relu(ops, h), rate=0.3)
    h = ops.layer_norm(ops.conv(h, 4, (3, 3), **SCALES), eps=0.1)
    return ops.dense(ops.global_avg_pool(ops.erf(h)), 1)


def standard(ops, h):
    h = ops.conv(h, 6, (3, 3), parameterization="standard", **SCALES)
    h = ops.conv(ops.relu(h), 5, (2, 2), parameterization="standard", b_std=None)
    h = ops.dense(ops.flatten(h), 1, parameterization="standard", **SCALES)
    return ops.relu(h)


def positions_left(ops, h):
    return conv_relu(ops, ops.conv(h, 4, (3, 1), **SCALES), padding="VALID")


def taken(ops, h):
    h = ops.index(conv_relu(ops, h), slice(1, None, 2))
    h = conv_relu(ops, h)
    return ops.index(ops.dense(h, 3), 1, slice(0, 3))


def sequence(ops, h):
    h = ops.erf(ops.conv(h, 4, (3,), **SCALES))
    h = conv_relu(ops, h, window=(2,), padding="VALID")
    return ops.dense(ops.global_avg_pool(h), 1)


def volume(ops, h):
    return ops.global_avg_pool(conv_relu(ops, conv_relu(ops, h, (2, 1, 3)), (1, 2, 2)))


def attentive(ops, h, mechanism="softmax"):
    h = ops.relu(ops.dense(h, 4, **SCALES))
    h = ops.attention(
        h,
        4,
        mechanism=mechanism,
        w_query_std=1.3,
        w_key_std=0.8,
        w_out_std=1.2,
        b_std=0.2,
    )
    h = ops.attention(
        ops.erf(h),
        4,
        mechanism=mechanism,
        w_query_std=0.9,
        w_key_std=1.1,
        w_out_std=0.7,
        b_std=0.1,
    )
    return ops.global_avg_pool(ops.relu(h))


NETWORKS = {
    "pooled": (pooled, PLAIN),
    "overlapping": (overlapping, PLAIN),
    "strided": (strided, PLAIN),
    "circular": (circular, PLAIN),
    "residual": (residual, PLAIN),
    "both needs": (both_needs, PLAIN),
    "means": (means, PLAIN),
    "local": (locally, PLAIN),
    "transposed": (transposed, PLAIN),
    "transposed, flat": (transposed_flat, PLAIN),
    "regularised": (regularised, PLAIN),
    "standard": (standard, PLAIN),
    "positions left": (positions_left, PLAIN),
    "taken": (taken, PLAIN),
    "sequence": (sequence, SEQUENCES),
    "volume": (volume, VOLUMES),
    "softmax": (attentive, SEQUENCES),
    "relu": (functools.partial(attentive, mechanism="relu"), SEQUENCES),
}


IN_FULL = ("pooled", "strided", "positions left")  # other paths, and float32


def kernel_of(network):
    return ker.infinite(lambda h: network(ker, h))


def stacked(gram):
    return np.stack([np.asarray(gram.nngp), np.asarray(gram.ntk)])


def reference(network, x):
    """`(2, n, n)` or `(2, n, n, *space, *space)`."""
    value = network(textbook_spatial, textbook_spatial.inputs(x))
    n = len(x)
    pair = np.stack([value.k, value.t]).swapaxes(2, 3)
    return pair.reshape(2, n, n, *value.space, *value.space)


def close(got, want, tolerance):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


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
            np.testing.assert_array_equal(square, swapped)
        if name in IN_FULL:
            close(stacked(kernel(x[:2], x[1:])), want[:, :2, 1:], 1e-7)
    if name in IN_FULL:
        single = stacked(kernel(x.astype(np.float32)))
        close(single, want, 2e-6)
        assert single.dtype == np.float32


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
    noise = RNG.normal(size=(5, *x.shape[1:]))
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


# --- finite networks ---------------------------------------------------------

WIDTH = 64


def _wide(operation, *, readout=ker.global_avg_pool):
    def network(h):
        h = ker.relu(ker.conv(h, WIDTH, (2, 2), w_std=1.3, b_std=0.2))
        h = operation(h)
        return ker.dense(readout(h), WIDTH, w_std=1.1)

    return network


def _attend(h):
    return ker.attention(
        h, WIDTH, num_heads=2, w_query_std=1.2, b_std=0.2, embedding="sum"
    )


def _attend_sqrt(h):
    return ker.attention(
        h,
        WIDTH,
        num_heads=WIDTH,
        key_features=8,
        value_features=8,
        scaling="sqrt",
        mechanism="identity",
        embedding="concat",
        embed_values=True,
    )


def _convolve(function, **options):
    return lambda h: ker.relu(function(h, WIDTH, (2, 3), w_std=1.2, **options))


FINITE = {
    "conv": _wide(_convolve(ker.conv, strides=(1, 2), padding="CIRCULAR")),
    "conv_transpose": _wide(_convolve(ker.conv_transpose, strides=2)),
    "conv_local": _wide(_convolve(ker.conv_local, b_std=0.3)),
    "avg_pool": _wide(lambda h: ker.avg_pool(h, (2, 2)), readout=ker.flatten),
    "sum_pool": _wide(
        lambda h: 0.3 * ker.sum_pool(h, (2, 2), strides=1, padding="SAME")
    ),
    "global_sum_pool": _wide(
        lambda h: 0.3 * h, readout=lambda h: ker.global_sum_pool(h)
    ),
    "image_resize": _wide(lambda h: ker.image_resize(h, (2, 6)), readout=ker.flatten),
    "index": _wide(lambda h: ker.index(h, slice(0, 2), 1), readout=ker.flatten),
    "layer_norm": _wide(
        lambda h: ker.layer_norm(ker.conv(h, WIDTH, (1, 1)), axes=(0, 1, 2))
    ),
    "attention": _wide(_attend, readout=ker.flatten),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FINITE)
def test_monte_carlo(name, key):
    x = jnp.asarray(IMAGES[:3, :3, :4], jnp.float32)
    gram = ker.infinite(FINITE[name])(x)
    kernels = (gram.nngp, gram.ntk)
    assert_monte_carlo(FINITE[name], x, kernels, width=WIDTH, draws=200, key=key)


def test_finite_shapes(key):
    model = ker.finite(lambda h: _attend_sqrt(ker.conv(h, 6, (3, 3), strides=2)))
    params = model.init(key, jnp.ones((5, 4, 2)))
    assert params[0].weight.shape == (3, 3, 2, 6)
    assert params[1].query.shape == (WIDTH, 8, 12)
    assert params[1].position.shape == (3, 2, 6)
    assert model.apply(params, jnp.ones((5, 4, 2))).shape == (3, 2, WIDTH)


# --- what is refused ---------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "match", "network"),
    [
        (
            ValueError,
            "conv: `h` must have 1 axes of positions, as many as `window`, got posit",
            lambda h: ker.conv(h, 4, (3,)),
        ),
        (
            ValueError,
            r"conv: `window` \(5, 1\) with padding 'VALID' must fit into the positi",
            lambda h: ker.conv(h, 4, (5, 1), padding="VALID"),
        ),
        (
            ValueError,
            "conv: `padding` must be one of 'SAME', 'VALID', 'CIRCULAR', got 'same'",
            lambda h: ker.conv(h, 4, (3, 3), padding="same"),
        ),
        (
            ValueError,
            "conv_transpose: `padding` must be one of 'SAME', 'VALID', got 'CIRCULAR'",
            lambda h: ker.conv_transpose(h, 4, (3, 3), padding="CIRCULAR"),
        ),
        (
            ValueError,
            r"conv: `strides` must be 2 positive ints, got \(0, 1\)",
            lambda h: ker.conv(h, 4, (3, 3), strides=(0, 1)),
        ),
        (
            ValueError,
            r"avg_pool: `window` must be 2 positive ints, got \(2, 0\)",
            lambda h: ker.avg_pool(h, (2, 0)),
        ),
        (
            ValueError,
            "avg_pool: `h` must have 3 axes of positions",
            lambda h: ker.avg_pool(h, (2, 2, 2)),
        ),
        (
            ValueError,
            r"sum_pool: `window` \(9, 9\) with padding 'VALID' must fit",
            lambda h: ker.sum_pool(h, (9, 9)),
        ),
        (
            ValueError,
            "global_avg_pool: `h` must have axes of positions, got none",
            lambda h: ker.global_avg_pool(ker.flatten(h)),
        ),
        (
            ValueError,
            "image_resize: `h` must have 1 axes of positions",
            lambda h: ker.image_resize(h, (3,)),
        ),
        (
            ValueError,
            "image_resize: `method` must be one of",
            lambda h: ker.image_resize(h, (3, 3), method="area"),
        ),
        (
            ValueError,
            "index: `h` must have at least 3 axes of positions",
            lambda h: ker.index(h, 0, 0, 0),
        ),
        (
            ValueError,
            "index: 9 must lie inside the 4 positions of its axis",
            lambda h: ker.index(h, 9),
        ),
        (
            TypeError,
            "index: `where` must be ints and slices, got float",
            lambda h: ker.index(h, 1.0),
        ),
        (
            ValueError,
            "attention: `h` must have axes of positions, got none",
            lambda h: ker.attention(ker.flatten(h), 4),
        ),
        (
            NotImplementedError,
            "attention: scaling='sqrt' has a known kernel for mechanism='identity'",
            lambda h: ker.attention(h, 4, scaling="sqrt"),
        ),
        (
            ValueError,
            "layer_norm: `axes` must be axes of one example and include that of the f",
            lambda h: ker.flatten(ker.layer_norm(h, axes=(0,))),
        ),
        (
            NotImplementedError,
            "layer_norm: over positions `h` must have mean zero at each of them",
            lambda h: ker.flatten(ker.layer_norm(h, axes=(0, 1, 2))),
        ),
        (
            ValueError,
            r"add: the branches must have one shape of positions, got \(4, 5\), \(2, 3",
            lambda h: ker.conv(h, 4, (1, 1)) + ker.conv(h, 4, (3, 3), strides=2),
        ),
        (
            ValueError,
            "relu` must be Gaussian, got the data",
            lambda h: ker.conv(ker.relu(h), 4, (1, 1)),
        ),
        (
            TypeError,
            "conv: `h` must be a value of the network being recorded, got int",
            lambda h: ker.conv(3, 4, (3, 3)),
        ),
        (
            TypeError,
            "attention: `h` must be a value of the network being recorded, got int",
            lambda h: ker.attention(3, 4),
        ),
    ],
)
def test_refusals(error, match, network):
    with pytest.raises(error, match=match):
        ker.infinite(network)(IMAGES)


def test_refused_inputs():
    kernel = kernel_of(pooled)
    with pytest.raises(ValueError, match=r"`x1` must have shape \(n, \*space, channel"):
        kernel(IMAGES[:, 0, 0])
    with pytest.raises(ValueError, match=r"`x2` must have the positions \(4, 5\) of"):
        kernel(IMAGES, IMAGES[:, 1:])
    with pytest.raises(ValueError, match="`x2` must have the 2 features of `x1`, got"):
        kernel(IMAGES, IMAGES[..., :1])
    with pytest.raises(NotImplementedError, match="kernel.state: `x1` must be"):
        kernel.state(IMAGES)
    with pytest.raises(ValueError, match=r"init: `x` must have shape \(\*space, chan"):
        ker.finite(lambda h: pooled(ker, h)).init(jax.random.key(0), jnp.ones(3))
