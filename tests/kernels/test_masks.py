"""Masks: padding an input changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker
from jaxarch.kernels._graph import Shape
from jaxarch.kernels._mask import masks_of
from jaxarch.kernels._plan import shapes_of

from . import textbook_masks
from .monte_carlo import assert_monte_carlo

RNG = np.random.default_rng(0)
SCALES = {"w_std": 1.4, "b_std": 0.3}


def padded(space, sizes, garbage):
    """Examples `(n, *space, 2)` of given sizes with garbage elsewhere, and the mask."""
    sizes = np.array(sizes)
    x = np.random.default_rng(1).normal(size=(len(sizes), *space, 2)) + 0.3
    mask = textbook_masks.marks(space, sizes)
    return np.where(mask[..., None], x, garbage), mask, sizes


SEQUENCES = padded((7,), [[6], [4], [7], [4]], np.nan)
IMAGES = padded((5, 6), [[4, 4], [5, 6], [4, 2]], np.nan)


def conv_relu(ops, h, window=(3,), **options):
    return ops.relu(ops.conv(h, 4, window, **SCALES, **options))


def sequence(ops, h):
    """Residual branches, windows with and without zeros beyond the edge, a pool."""
    h = ops.conv(h, 4, (3,), **SCALES)
    h = h + ops.conv(ops.relu(h), 4, (2,), **SCALES)
    h = ops.layer_norm(ops.dense(ops.erf(h), 4, **SCALES), eps=0.1)
    h = ops.avg_pool(conv_relu(ops, h, (2,), padding="VALID"), (2,), strides=1)
    return ops.dense(ops.global_avg_pool(conv_relu(ops, h)), 1, **SCALES)


def attentive(ops, h, mechanism="softmax"):
    scales = {"w_query_std": 1.3, "w_key_std": 0.8, "w_out_std": 1.2, "b_std": 0.2}
    h = ops.attention(conv_relu(ops, h), 4, mechanism=mechanism, **scales)
    h = ops.attention(ops.erf(h), 4, mechanism=mechanism, **scales)
    return ops.global_sum_pool(ops.relu(h))


def image(ops, h):
    h = ops.avg_pool(conv_relu(ops, h, (3, 2)), (2, 2))
    h = conv_relu(ops, h, (1, 2), padding="SAME")
    return ops.dense(ops.global_avg_pool(h), 1)


def flat(ops, h):
    h = conv_relu(ops, conv_relu(ops, h, (3, 2)), (2, 1), padding="VALID")
    return ops.dense(ops.flatten(ops.dropout(h, rate=0.2)), 1, **SCALES)


def strided(ops, h):
    h = conv_relu(ops, h, (3, 2), strides=(2, 1), padding="VALID")
    h = ops.conv_transpose(h, 4, (2, 3), strides=(1, 2), padding="VALID", **SCALES)
    h = ops.sum_pool(ops.relu(h), (2, 2), strides=(1, 2), padding="SAME")
    h = ops.conv_transpose(h, 4, (3, 2), strides=(2, 1), **SCALES)
    h = ops.relu(ops.conv_local(ops.relu(h), 4, (2, 2), **SCALES))
    return ops.global_avg_pool(h)


def normalised(ops, h):
    h = ops.layer_norm(ops.conv(h, 4, (3, 2), **SCALES), eps=0.1, axes=(0, 1, 2))
    return conv_relu(ops, h, (2, 2))


NETWORKS = {
    "sequence": (sequence, SEQUENCES),
    "softmax": (attentive, SEQUENCES),
    "relu": (functools.partial(attentive, mechanism="relu"), SEQUENCES),
    "identity": (functools.partial(attentive, mechanism="identity"), SEQUENCES),
    "image": (image, IMAGES),
    "flat": (flat, IMAGES),
    "strided": (strided, IMAGES),
    "normalised": (normalised, IMAGES),
}
IN_FULL = ("sequence", "softmax", "flat")  # both sides, diagonals, float32


def kernel_of(network):
    return ker.infinite(lambda h: network(ker, h))


def stacked(gram):
    return np.stack([np.asarray(gram.nngp), np.asarray(gram.ntk)])


def close(got, want, tolerance):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_against_full_matrices(name):
    """Sequences and images of different sizes, with NaN where they are padded."""
    network, (x, mask, sizes) = NETWORKS[name]
    value = network(textbook_masks, textbook_masks.inputs(x, sizes)).value
    n = len(x)
    want = np.stack([value.k, value.t]).swapaxes(2, 3)
    want = want.reshape(2, n, n, *value.space, *value.space)
    kernel = kernel_of(network)
    with jax.enable_x64(True):
        close(stacked(kernel(x, mask1=mask)), want, 1e-12)
        if name in IN_FULL:
            own = np.arange(n)
            got = kernel(x, mask1=mask, diagonal=True)
            close(stacked(got), want[:, own, own], 1e-12)
            got = kernel(x[:2], x[1:], mask1=mask[:2], mask2=mask[1:])
            off = ~np.eye(n, dtype=bool)[:2, 1:]  # dropout; rounding at angle 0
            close(stacked(got)[:, off], want[:, :2, 1:][:, off], 1e-12)
            got = kernel(x[:2], x[-2:], mask1=mask[:2], mask2=mask[-2:], diagonal=True)
            if n > 3:
                close(stacked(got), want[:, [0, 1], [n - 2, n - 1]], 1e-12)
    if name in IN_FULL:
        single = stacked(kernel(x.astype(np.float32), mask1=mask))
        close(single, want, 2e-6)
        assert single.dtype == np.float32
