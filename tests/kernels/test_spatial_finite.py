"""Finite networks of values with positions: draws against the kernel, and shapes."""

import jax.numpy as jnp
import pytest

from jaxarch import kernels as ker

from .monte_carlo import assert_monte_carlo
from .spatial_networks import IMAGES

WIDTH = 64


def _wide(operation, *, readout=ker.global_avg_pool, window=(2, 2)):
    def network(h):
        h = ker.relu(ker.conv(h, WIDTH, window, w_std=1.3, b_std=0.2))
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


_EDGES = ([0, 1, 2, 2], [1, 0, 0, 2])
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
    "aggregate": lambda h: _wide(
        lambda h: ker.relu(ker.aggregate(ker.dense(h, WIDTH), _EDGES)),
        readout=ker.flatten,
        window=(2,),
    )(ker.index(h, slice(None), 0)),
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
