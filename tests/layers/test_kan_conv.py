"""Convolutional KAN layers against a loop over windows."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.layers import kan_conv_apply, kan_conv_init, kan_layer_edges


def by_windows(params, x, stride, dilation, padding):
    """Sums the edges of each window, those beyond the border left out."""
    space, window = x.shape[:-1], params.kernel_size
    channels, out = x.shape[-1], params.layer.coefficients.shape[-1]
    reach = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    if padding == "VALID":
        sizes = [(n - r) // s + 1 for n, r, s in zip(space, reach, stride, strict=True)]
        starts = [0] * len(space)
    else:
        sizes = [-(-n // s) for n, s in zip(space, stride, strict=True)]
        starts = [
            -(max((m - 1) * s + r - n, 0) // 2)
            for n, m, r, s in zip(space, sizes, reach, stride, strict=True)
        ]
    edges = jax.jit(kan_layer_edges)
    y = np.zeros((*sizes, out))
    bias = 0 if params.layer.bias is None else np.asarray(params.layer.bias)
    for place in itertools.product(*map(range, sizes)):
        values, inside = np.zeros((*window, channels)), np.zeros((*window, channels))
        for offset in itertools.product(*map(range, window)):
            at = [
                b + p * s + o * d
                for b, p, s, o, d in zip(
                    starts, place, stride, offset, dilation, strict=True
                )
            ]
            if all(0 <= a < n for a, n in zip(at, space, strict=True)):
                values[offset], inside[offset] = x[tuple(at)], 1
        each = np.asarray(edges(params.layer, jnp.asarray(values.reshape(-1))))
        y[place] = (inside.reshape(-1, 1) * each).sum(0) + bias
    return y


@pytest.mark.parametrize(
    ("space", "kernel_size", "stride", "dilation", "padding"),
    [
        ((9,), (3,), 1, 1, "SAME"),
        ((9,), (4,), 2, 2, "VALID"),
        ((5, 6), (3, 2), (2, 1), (1, 2), "SAME"),
        ((4, 3, 5), (2, 3, 2), 2, 1, "SAME"),
    ],
)
def test_windows(space, kernel_size, stride, dilation, padding):
    with jax.enable_x64(True):
        params = kan_conv_init(
            jax.random.key(0), 2, 3, kernel_size, init="power", dtype=jnp.float64
        )
        x = np.random.default_rng(0).uniform(-1, 1, (*space, 2))
        got = jax.jit(
            lambda p, x: kan_conv_apply(
                p, x, stride=stride, dilation=dilation, padding=padding
            )
        )(params, x)
        each = [
            (v,) * len(space) if isinstance(v, int) else v for v in (stride, dilation)
        ]
        want = by_windows(params, x, *each, padding)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_options(key):
    params = kan_conv_init(key, 2, 3, (3,), basis="sine", residual=None, bias=False)
    x = jax.random.normal(key, (8, 2))
    plain = kan_conv_apply(params, x)
    assert plain.shape == (8, 3)
    np.testing.assert_allclose(kan_conv_apply(params, x, remat=True), plain, atol=1e-6)
    want = by_windows(params, np.asarray(x), (1,), (1,), "SAME")
    np.testing.assert_allclose(plain, want, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"kernel_size": ()},
            ValueError,
            "`kernel_size` must have one to three entries",
        ),
        (
            {"kernel_size": (3, 0)},
            ValueError,
            "`kernel_size[1]` must be at least 1, got 0",
        ),
        ({"kernel_size": (3, 2.0)}, TypeError, "`kernel_size[1]` must be an int, got"),
        ({"in_channels": 0}, ValueError, "`in_channels` must be at least 1, got 0"),
    ],
)
def test_init_errors(options, error, message, key):
    arguments = {"in_channels": 2, "out_channels": 3, "kernel_size": (3, 3)} | options
    with pytest.raises(error, match=re.escape(f"kan_conv_init: {message}")):
        kan_conv_init(key, **arguments)


@pytest.mark.parametrize(
    ("shape", "options", "error", "message"),
    [
        ((5, 5), {}, ValueError, "`x` must have 2 space axes and 2 channels"),
        ((5, 5, 3), {}, ValueError, "`x` must have 2 space axes and 2 channels"),
        (
            (5, 5, 2),
            {"padding": "FULL"},
            ValueError,
            "`padding` must be one of 'SAME', ",
        ),
        (
            (5, 5, 2),
            {"stride": (1,)},
            ValueError,
            "`stride` must be an int or 2 of them",
        ),
        ((5, 5, 2), {"dilation": 0}, ValueError, "`dilation[0]` must be at least 1"),
        ((5, 5, 2), {"stride": (1, 1.0)}, TypeError, "`stride[1]` must be an int, got"),
    ],
)
def test_apply_errors(shape, options, error, message, key):
    params = kan_conv_init(key, 2, 3, (3, 3))
    with pytest.raises(error, match=re.escape(f"kan_conv_apply: {message}")):
        kan_conv_apply(params, jnp.zeros(shape), **options)
