"""Networks of values with positions, their inputs, and their kernels on both sides.

Each is `network(ops, h)`: `ops` is `jaxarch.kernels` or `textbook_spatial`.
"""

import functools

import numpy as np

from jaxarch import kernels as ker

from . import textbook_spatial

_RNG = np.random.default_rng(0)
PLAIN = _RNG.normal(size=(4, 4, 5, 2)) + 0.3
IMAGES = PLAIN.copy()
IMAGES[3] = IMAGES[1]
IMAGES[2, 1:3] = 0  # black
SEQUENCES = _RNG.normal(size=(5, 6, 3))
VOLUMES = _RNG.normal(size=(3, 3, 2, 3, 2))
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


def myrtle(ops, h):
    """Myrtle-5 (Shankar et al., arXiv:2003.02237) for images of 8 x 8."""
    for depth in (2, 1, 1):
        for _ in range(depth):
            h = ops.relu(ops.conv(h, 4, (3, 3), w_std=2**0.5))
        h = ops.avg_pool(h, (2, 2))
    return ops.dense(ops.flatten(h), 1, w_std=2**0.5)


def wide_resnet(ops, h):
    """A group of two blocks (Zagoruyko and Komodakis, arXiv:1605.07146)."""
    h = ops.conv(h, 4, (3, 3), **SCALES)
    for strides in (2, 1):
        u = ops.conv(ops.relu(h), 4, (3, 3), strides=strides, **SCALES)
        u = ops.conv(ops.relu(u), 4, (3, 3), **SCALES)
        h = u + (h if strides == 1 else ops.conv(h, 4, (3, 3), strides=2, **SCALES))
    return ops.dense(ops.global_avg_pool(h), 1)


PATTERN = np.abs(_RNG.normal(size=(6, 6))) * (_RNG.random((6, 6)) < 0.4) + np.eye(6)
EDGES = (
    [0, 1, 2, 3, 4, 5, 0, 3, 3, 5, 2],
    [0, 1, 2, 3, 4, 5, 1, 4, 4, 2, 0],
    [0.4, 1.1, -0.7, 0.9, 0.3, 1.2, 0.8, -1.3, 0.5, 0.6, 1.0],
)


def graph(ops, h):
    """Two layers on a dense pattern and on edges, of which some are equal."""
    h = ops.relu(ops.dense(ops.aggregate(h, PATTERN), 4, **SCALES))
    h = ops.aggregate(ops.dense(h, 4, **SCALES), EDGES)
    return ops.relu(h)


NETWORKS = {
    "graph": (graph, SEQUENCES),
    "Myrtle-5": (myrtle, _RNG.normal(size=(3, 8, 8, 3))),
    "Wide ResNet": (wide_resnet, _RNG.normal(size=(3, 6, 6, 3))),
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
