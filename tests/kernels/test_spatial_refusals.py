"""What operations with positions refuse, by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker

from .spatial_networks import IMAGES, kernel_of, pooled


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
            "aggregate: `h` must have one axis of positions, the nodes, got positions",
            lambda h: ker.aggregate(h, ([0], [1])),
        ),
        (
            ValueError,
            r"aggregate: `pattern` must be \(4, 4\), a row and a column for each posi",
            lambda h: ker.aggregate(ker.index(h, slice(None), 0), np.eye(3)),
        ),
        (
            ValueError,
            "aggregate: `pattern` must join nodes below 4, the positions of `h`, got n",
            lambda h: ker.aggregate(ker.index(h, slice(None), 0), ([0, 4], [1, 1])),
        ),
        (
            ValueError,
            r"aggregate: `pattern` must be a square array or a tuple of edges, `\(send",
            lambda h: ker.aggregate(h, np.ones((2, 3))),
        ),
        (
            ValueError,
            "aggregate: `receivers` must be numbers of nodes from 0, got int64 with th",
            lambda h: ker.aggregate(h, ([0, 1], [1, -1])),
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
