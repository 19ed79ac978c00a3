"""The networks of docs/function-spaces.md, plain and converted, and their reports."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxarch import operators as op
from jaxarch.layers import mlp_apply, mlp_init

WIDTH = 8
NS = (32, 64, 128)


# --8<-- [start:field]
def field(n):
    x, y = jnp.split(2 * jnp.pi * op.grid_points((n, n)), 2, axis=-1)
    return jnp.exp(jnp.sin(x) + jnp.cos(y) - 1) - 0.5  # (n, n, 1)


# --8<-- [end:field]
# --8<-- [start:convnet]
def conv(kernel, u):  # kernel: (3, 3, in, out)
    u = jnp.pad(u, ((1, 1), (1, 1), (0, 0)), mode="wrap")
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        u[None], kernel, (1, 1), "VALID", dimension_numbers=layout
    )[0]


def convnet(params, u, conv):
    h = u
    for layer in params[:-1]:
        h = jax.nn.gelu(conv(layer, h))
    return conv(params[-1], h)


# --8<-- [end:convnet]
# --8<-- [start:layer]
def layer_init(key, n_in, n_out):
    keys = jax.random.split(key, 3)
    return (
        op.local_integral_init(keys[0], n_in, n_out, radius=0.2),
        op.differential_conv_init(keys[1], n_in, n_out),
        mlp_init(keys[2], (n_in, n_out)),
    )


def layer(params, u):
    integral, derivative, at_point = params
    h = op.local_integral_apply(integral, u)
    h = h + op.differential_conv_apply(derivative, u, lengths=32)
    return h + op.pointwise(functools.partial(mlp_apply, at_point), u)


# --8<-- [end:layer]
# --8<-- [start:unet]
def unet(params, u, conv, down, up):
    fine = jax.nn.gelu(conv(params["left"], u))
    coarse = jax.nn.gelu(conv(params["middle"], down(params["down"], fine)))
    both = jnp.concatenate([fine, up(coarse, fine.shape[:2])], axis=-1)
    return conv(params["right"], both)


# --8<-- [end:unet]
# --8<-- [start:scales]
def stride(kernel, u):
    return conv(kernel, u)[::2, ::2]


def repeat(u, shape):
    return jnp.repeat(jnp.repeat(u, 2, axis=0), 2, axis=1)


def down(params, u):
    return op.local_integral_apply(params, u)[::2, ::2]


# --8<-- [end:scales]
# --8<-- [start:vit]
def vit(params, u, tokens, positions, out):
    t = tokens(params["embed"], u)  # (rows, columns, features)
    shape, t = t.shape, t.reshape(-1, t.shape[-1])
    t = t + positions(params["positions"], shape)
    weights = jnp.full(len(t), 1 / len(t))  # patches of equal size
    t = t + op.attention_integral_apply(params["attend"], t, weights)
    t = t + op.pointwise(functools.partial(mlp_apply, params["mlp"]), t)
    return out(params["expand"], t.reshape(shape), u)


# --8<-- [end:vit]
# --8<-- [start:pixels]
def pixel_tokens(weight, u):  # patches of 8 x 8 pixels, weight: (8, 8, 1, out)
    n = len(u) // 8
    return jnp.einsum("iajbc,abco->ijo", u.reshape(n, 8, n, 8, -1), weight)


def index_positions(table, shape):  # one row for each index
    return table[: shape[0] * shape[1]]


def pixel_out(weight, t, u):  # weight: (8, 8, features, 1)
    return jnp.einsum("ijo,aboc->iajbc", t, weight).reshape(u.shape)


# --8<-- [end:pixels]
# --8<-- [start:patches]
def tokens(params, u):
    return op.patch_embed_apply(params, u)


def positions(weight, shape):
    x = op.grid_points(shape[:2]).reshape(-1, 2)  # of the patches
    return op.fourier_positions(x, 2) @ weight


def out(params, t, u):
    return op.patch_expand_apply(params, t, shape=u.shape[:2])


# --8<-- [end:patches]


def draw(seed, *shape):
    fan_in = 1
    for n in shape[:-1]:
        fan_in *= n
    return jax.random.normal(jax.random.key(seed), shape) / fan_in**0.5


def networks():
    key = jax.random.key(0)
    sizes = ((1, WIDTH), (WIDTH, WIDTH), (WIDTH, 1))
    kernels = [draw(i, 3, 3, *size) for i, size in enumerate(sizes)]
    layers = [layer_init(jax.random.key(i), *size) for i, size in enumerate(sizes)]
    yield "ConvNet", functools.partial(convnet, kernels, conv=conv)
    yield "ConvNet, converted", functools.partial(convnet, layers, conv=layer)

    parts = {"left": (1, WIDTH), "middle": (WIDTH, WIDTH), "right": (2 * WIDTH, 1)}
    plain = {name: draw(3, 3, 3, *size) for name, size in parts.items()}
    plain["down"] = draw(4, 3, 3, WIDTH, WIDTH)
    converted = {name: layer_init(key, *size) for name, size in parts.items()}
    converted["down"] = op.local_integral_init(key, WIDTH, WIDTH, radius=0.3)
    yield (
        "U-Net",
        functools.partial(unet, plain, conv=conv, down=stride, up=repeat),
    )
    yield (
        "U-Net, converted",
        functools.partial(unet, converted, conv=layer, down=down, up=op.resample),
    )

    shared = {
        "attend": op.attention_integral_init(key, WIDTH, WIDTH),
        "mlp": mlp_init(key, (WIDTH, 16, WIDTH)),
    }
    of_pixels = {
        "embed": draw(5, 8, 8, 1, WIDTH),
        "positions": draw(6, 256, WIDTH),
        "expand": draw(7, 8, 8, WIDTH, 1),
    }
    of_patches = {
        "embed": op.patch_embed_init(key, 1, WIDTH, patch_size=0.25),
        "positions": draw(8, 8, WIDTH),
        "expand": op.patch_expand_init(key, WIDTH, 1, patch_size=0.25),
    }
    yield (
        "ViT",
        functools.partial(
            vit,
            shared | of_pixels,
            tokens=pixel_tokens,
            positions=index_positions,
            out=pixel_out,
        ),
    )
    yield (
        "ViT, converted",
        functools.partial(
            vit, shared | of_patches, tokens=tokens, positions=positions, out=out
        ),
    )


def report(network):
    # --8<-- [start:report]
    return op.resolution_report(jax.jit(network), field, (32, 64, 128))
    # --8<-- [end:report]


@pytest.mark.slow
def test_the_converted_networks_are_operators_and_the_plain_ones_are_not():
    for name, network in networks():
        found = report(network)
        assert found.converges == name.endswith("converted"), f"{name}\n{found}"


if __name__ == "__main__":
    for name, network in networks():
        print(f"{name}\n{report(network)}\n")
