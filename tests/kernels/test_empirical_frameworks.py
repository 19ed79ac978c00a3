"""Empirical kernels of functions that Flax and Equinox make."""

import jax
import jax.numpy as jnp
import pytest

from jaxarch import kernels as ker

from . import networks
from .networks import assert_near


@pytest.mark.slow
def test_flax():
    import flax.linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Conv(4, (3, 3), strides=2)(x)
            h = nn.LayerNorm()(nn.gelu(h))
            return nn.Dense(2)(h.reshape(-1))

    loose = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")
    with jax.enable_x64(True), loose[0], loose[1]:
        x = networks.images(3)
        module = Network()
        params = module.init(jax.random.key(0), x[0])
        params = jax.tree.map(lambda p: p.astype(x.dtype) + 0.1, params)
        want = networks.ntk_by_hand(module.apply, params, x, x)
        got = networks.ntk(
            module.apply, params, x, method="structured", trace_outputs=False
        )
        assert_near(got, want)
        estimate = jax.eval_shape(
            lambda key: ker.monte_carlo(module, key, x, x[:2], 2), jax.random.key(1)
        )
        assert estimate.mean.ntk.shape == (3, 2)


def test_equinox():
    import equinox as eqx

    model = eqx.nn.MLP(5, 3, 4, 2, key=jax.random.key(0))
    x1, x2 = (networks.vectors(n).astype(jnp.float32) for n in (3, 2))
    floats, rest = eqx.partition(model, eqx.is_inexact_array)
    want = networks.ntk_by_hand(lambda p, x: eqx.combine(p, rest)(x), floats, x1, x2)

    def call(model, x):
        return model(x)

    for method in ("structured", "vector_products"):
        got = ker.empirical_ntk(call, model, x1, x2, method=method, trace_outputs=False)
        assert_near(got, want, 1e-6)
    assert ker.linearize(call, model)(model, x1[0]).shape == (3,)
