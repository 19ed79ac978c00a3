"""S-KAN convolutions: the layer of every window, in every stage."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.layers import (
    KANConvParams,
    kan_conv_apply,
    selectable_kan_apply,
    selectable_kan_conv_apply,
    selectable_kan_conv_init,
    selectable_kan_conv_spread,
    selectable_kan_prune,
    selectable_kan_spread,
)

POOL = ("bspline", {"basis": "fourier", "num_intervals": 2}, "derivative_of_gaussian")
STAGES = ("mean", "gated", "pruned")


def make(kernel_size, stage):
    """Params of the shapes of `selectable_kan_conv_init`."""
    shapes = jax.eval_shape(
        lambda key: selectable_kan_conv_init(
            key, 2, 4, kernel_size, pool=POOL, dtype=jnp.float64
        ),
        jax.random.key(0),
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), shapes)
    layer = params.layer
    if stage != "mean":
        gates = jnp.asarray(rng.normal(size=(4, 3)))
        layer = dataclasses.replace(layer, gates=gates)
    if stage == "pruned":
        layer, report = selectable_kan_prune(layer)
        assert len(set(report["pool"])) > 1
    return dataclasses.replace(params, layer=layer)


def windows(x, kernel_size, stride, dilation):
    """Gives the windows inside, (*out_space, entries)."""
    space = x.shape[:-1]
    starts = [
        range(0, n - dilation * (k - 1), stride)
        for n, k in zip(space, kernel_size, strict=True)
    ]
    cut = [
        x[
            tuple(
                slice(i, i + dilation * (k - 1) + 1, dilation)
                for i, k in zip(at, kernel_size, strict=True)
            )
        ]
        for at in itertools.product(*starts)
    ]
    return np.stack([w.reshape(-1) for w in cut]), tuple(map(len, starts))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("kernel_size", "space", "stride", "dilation"),
    [((3,), (9,), 2, 1), ((2, 3), (5, 6), 1, 2)],
)
def test_the_layer_of_every_window(stage, kernel_size, space, stride, dilation):
    with jax.enable_x64(True):
        params = make(kernel_size, stage)
        x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, size=(*space, 2)))
        options = {"stride": stride, "padding": "VALID", "dilation": dilation}
        apply = functools.partial(selectable_kan_conv_apply, **options)
        got = jax.jit(apply)(params, x)
        cut, out_space = windows(np.asarray(x), kernel_size, stride, dilation)
        apply = jax.jit(jax.vmap(selectable_kan_apply, (None, 0)))
        want = apply(params.layer, cut).reshape(*out_space, 4)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)
        spread = functools.partial(selectable_kan_conv_spread, **options)
        got = jax.jit(spread)(params, x)
        spread = jax.jit(jax.vmap(selectable_kan_spread, (None, 0)))
        want = np.sum(spread(params.layer, cut))
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("member", range(3))
def test_one_hot_gates_are_the_convolution_of_one_basis(member):
    with jax.enable_x64(True):
        params = make((2, 3), "gated")
        gates = jnp.where(jnp.arange(3) == member, 0.0, -jnp.inf)
        layer = dataclasses.replace(
            params.layer, gates=jnp.broadcast_to(gates, (4, 3)).astype(jnp.float64)
        )
        params = dataclasses.replace(params, layer=layer)
        x = jnp.linspace(-1, 1, 24, dtype=jnp.float64).reshape(3, 4, 2)
        single = KANConvParams(layer=layer.pool[member], kernel_size=(2, 3))
        np.testing.assert_array_equal(
            selectable_kan_conv_apply(params, x, remat=True), kan_conv_apply(single, x)
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: selectable_kan_conv_init(jax.random.key(0), 2, 4, (3,), pool=()),
            "selectable_kan_conv_init: `pool` must have at least one basis, got none.",
        ),
        (
            lambda: selectable_kan_conv_init(jax.random.key(0), 2, 4, ()),
            "kan_conv_init: `kernel_size` must have one to three entries, got ().",
        ),
        (
            lambda: selectable_kan_conv_apply(
                selectable_kan_conv_init(jax.random.key(0), 2, 4, (3,)),
                jnp.ones((9, 3)),
            ),
            "kan_conv_apply: `x` must have 1 space axes and 2 channels (one example; "
            "use jax.vmap for a batch), got shape (9, 3).",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
