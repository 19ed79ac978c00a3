"""Small networks of many kinds, written as their users would write them."""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn, nnx
from jax import lax

NUMBERS = np.random.default_rng(0)


def reseed(text):
    """Makes what follows independent of what came before."""
    seed = np.random.default_rng(zlib.crc32(text.encode()))
    NUMBERS.bit_generator.state = seed.bit_generator.state


class Model(NamedTuple):
    """A function, its parameters and arguments, and what must come out of it."""

    apply: Callable
    params: Any
    args: tuple
    free: dict[str, tuple[int, str]]  # name of a group -> (its size, its state)


def weights(*shape):
    scale = np.sqrt(max(1, np.prod(shape[:-1])))
    return jnp.asarray(NUMBERS.normal(size=shape) / scale, jnp.float32)


def numbers(*shape):
    return jnp.asarray(NUMBERS.normal(size=shape), jnp.float32)


def affine(size):
    return {"scale": 1 + 0.1 * numbers(size), "bias": 0.1 * numbers(size)}


def conv(x, w, stride=1, groups=1):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def normed(x, p):
    return x * p["scale"].reshape(1, 1, 1, -1) + p["bias"].reshape(1, 1, 1, -1)


# A ResNet with depthwise, grouped and strided convolutions and two joined heads.
def resnet_apply(params, x):
    h = jax.nn.relu(normed(conv(x, params["stem"]), params["bn"]))
    for p in params["blocks"]:
        y = jax.nn.relu(normed(conv(h, p["w1"], 2 if "project" in p else 1), p["bn1"]))
        if "depthwise" in p:
            y = jax.nn.relu(conv(y, p["depthwise"], 1, y.shape[-1]))
        if "grouped" in p:
            y = jax.nn.relu(conv(y, p["grouped"], 1, 2))
        y = normed(conv(y, p["w2"]), p["bn2"])
        h = jax.nn.relu(y + (conv(h, p["project"], 2) if "project" in p else h))
    joined = jnp.concatenate([h.mean((1, 2)), h.max((1, 2))], -1)
    return joined @ params["head"]


def resnet():
    first = {
        "w1": weights(3, 3, 8, 12),
        "bn1": affine(12),
        "depthwise": weights(3, 3, 1, 12),
        "w2": weights(3, 3, 12, 8),
        "bn2": affine(8),
    }
    second = {
        "w1": weights(3, 3, 8, 16),
        "bn1": affine(16),
        "grouped": weights(3, 3, 8, 20),
        "w2": weights(3, 3, 20, 16),
        "bn2": affine(16),
        "project": weights(1, 1, 8, 16),
    }
    params = {
        "stem": weights(3, 3, 3, 8),
        "bn": affine(8),
        "blocks": [first, second],
        "head": weights(32, 5),
    }
    free = {
        "blocks/0/bn2/bias[0]": (8, "exact"),
        "blocks/0/bn1/bias[0]": (12, "exact"),
        "blocks/1/bn1/bias[0].0": (2, "exact"),  # groups of the convolution
        "blocks/1/grouped[2]": (8, "exact"),
        "blocks/1/grouped[3].1": (10, "exact"),
        "blocks/1/bn2/bias[0]": (16, "exact"),
    }
    return Model(resnet_apply, params, (numbers(2, 8, 8, 3),), free)


HEADS = 4


def layer_norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    x = x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x * p["scale"].reshape(1, 1, -1) + p["bias"].reshape(1, 1, -1)


def attend(q, k, v):
    """Attention of (batch, tokens, heads, features)."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.float32(np.sqrt(q.shape[-1]))
    tokens = q.shape[1]
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((tokens, tokens), bool)), scores.shape)
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), -1)
    out = jnp.einsum("bhts,bshd->bthd", weights, v)
    return out.reshape(*out.shape[:2], -1)


def transformer_block(p, x):
    qkv = layer_norm(x, p["ln1"]) @ p["qkv"] + p["qkv_bias"].reshape(1, 1, -1)
    q, k, v = (t.reshape(*t.shape[:2], HEADS, -1) for t in jnp.split(qkv, 3, axis=-1))
    x = x + attend(q, k, v) @ p["out"]
    h = layer_norm(x, p["ln2"])
    return x + (jax.nn.gelu(h @ p["up"]) * (h @ p["gate"])) @ p["down"]


# A language model: scanned and rematerialised layers, fused projections, a gated linear
# unit, and an embedding that is also the head.
def transformer_apply(params, tokens):
    def layer(x, p):
        return jax.checkpoint(transformer_block)(p, x), None

    x, _ = lax.scan(layer, params["embedding"][tokens], params["layers"])
    return x @ params["embedding"].T


def transformer():
    def layer(d=16, f=24):
        return {
            "ln1": affine(d),
            "ln2": affine(d),
            "qkv": weights(d, 3 * d),
            "qkv_bias": 0.1 * numbers(3 * d),
            "out": weights(d, d),
            "up": weights(d, f),
            "gate": weights(d, f),
            "down": weights(f, d),
        }

    layers = jax.tree.map(lambda *a: jnp.stack(a), *[layer() for _ in range(3)])
    params = {"embedding": weights(11, 16), "layers": layers}
    free = {
        "embedding[1]": (16, "approximate"),
        "layers/down[0]": (3, "exact"),  # the depth
        "layers/down[1]": (24, "exact"),
        "layers/out[1].0": (HEADS, "exact"),
        "layers/out[1].1": (4, "exact"),  # of values
        "layers/qkv[2].1": (4, "exact"),  # of queries and keys
    }
    tokens = jnp.asarray(NUMBERS.integers(0, 11, (2, 6)))
    return Model(transformer_apply, params, (tokens,), free)


def lstm_apply(params, xs):
    def cell(state, x):
        h, c = state
        gates = x @ params["wx"] + h @ params["wh"] + params["b"]
        i, f, g, o = jnp.split(gates, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros(params["wh"].shape[0], xs.dtype)
    _, hs = lax.scan(cell, (zeros, zeros), xs)
    return hs @ params["out"]


def lstm():
    params = {
        "wx": weights(3, 32),
        "wh": weights(8, 32),
        "b": 0.1 * numbers(32),
        "out": weights(8, 2),
    }
    return Model(lstm_apply, params, (numbers(5, 3),), {"b[0]": (8, "exact")})


# A U-Net: strided convolutions down, transposed ones up, joined to what was kept.
def unet_apply(params, x):
    kept = jax.nn.silu(conv(x, params["in"]))
    low = jax.nn.silu(conv(kept, params["down"], 2))
    low = jax.nn.silu(conv(low, params["middle"]))
    up = lax.conv_transpose(
        low, params["up"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    joined = jnp.concatenate([kept, jax.nn.silu(up)], -1)
    return conv(jax.nn.silu(conv(joined, params["merge"])), params["out"])


def unet():
    params = {
        "in": weights(3, 3, 2, 6),
        "down": weights(3, 3, 6, 10),
        "middle": weights(3, 3, 10, 9),
        "up": weights(2, 2, 9, 7),
        "merge": weights(3, 3, 13, 8),
        "out": weights(1, 1, 8, 2),
    }
    free = {
        "down[2]": (6, "exact"),
        "down[3]": (10, "exact"),
        "middle[3]": (9, "exact"),
        "up[3]": (7, "exact"),
        "merge[3]": (8, "exact"),
    }
    return Model(unet_apply, params, (numbers(1, 8, 8, 2),), free)


# A ViT: a class token, learned positions, and projections fused head by head.
def vit_apply(params, image):
    patches = conv(image, params["patch"], 4)
    x = patches.reshape(patches.shape[0], -1, patches.shape[-1])
    token = jnp.broadcast_to(params["token"], (x.shape[0], 1, x.shape[-1]))
    x = jnp.concatenate([token, x], 1) + params["positions"]
    for p in params["blocks"]:
        h = layer_norm(x, p["ln1"]) @ p["qkv"]
        q, k, v = jnp.split(h.reshape(*h.shape[:2], HEADS, -1), 3, axis=-1)
        x = x + attend(q, k, v) @ p["out"]
        x = x + jax.nn.gelu(layer_norm(x, p["ln2"]) @ p["up"]) @ p["down"]
    return x[:, 0] @ params["head"]


def vit():
    def block(d=12):
        return {
            "ln1": affine(d),
            "ln2": affine(d),
            "qkv": weights(d, 3 * d),
            "out": weights(d, d),
            "up": weights(d, 20),
            "down": weights(20, d),
        }

    params = {
        "patch": weights(4, 4, 3, 12),
        "token": weights(1, 1, 12),
        "positions": weights(1, 5, 12),
        "blocks": [block(), block()],
        "head": weights(12, 3),
    }
    free = {"blocks/0/down[1]": (12, "approximate")}
    for i in range(2):
        free |= {
            f"blocks/{i}/down[0]": (20, "exact"),
            f"blocks/{i}/out[0].0": (HEADS, "exact"),
            f"blocks/{i}/out[0].1": (3, "exact"),
            f"blocks/{i}/qkv[1].1": (3, "exact"),  # queries and keys: sums in a product
        }
    return Model(vit_apply, params, (numbers(2, 8, 8, 3),), free)


# Tokens one by one, with keys and values written into a cache.
def decode_apply(params, xs):
    steps, width = xs.shape[0], params["k"].shape[1]

    def step(t, state):
        keys, values, out = state
        x = lax.dynamic_index_in_dim(xs, t, keepdims=False)
        keys = lax.dynamic_update_index_in_dim(keys, x @ params["k"], t, 0)
        values = lax.dynamic_update_index_in_dim(values, x @ params["v"], t, 0)
        scores = jnp.where(jnp.arange(steps) <= t, keys @ (x @ params["q"]), -1e9)
        y = (jax.nn.softmax(scores) @ values) @ params["out"]
        return keys, values, lax.dynamic_update_index_in_dim(out, y, t, 0)

    start = (
        jnp.zeros((steps, width)),
        jnp.zeros((steps, params["v"].shape[1])),
        jnp.zeros((steps, params["out"].shape[1])),
    )
    return lax.fori_loop(0, steps, step, start)[2]


def decoder():
    params = {
        "q": weights(4, 6),
        "k": weights(4, 6),
        "v": weights(4, 5),
        "out": weights(5, 3),
    }
    free = {"k[1]": (6, "exact"), "out[0]": (5, "exact")}
    return Model(decode_apply, params, (numbers(5, 4),), free)


class FlaxGPT(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 16)(tokens)
        for _ in range(2):
            mask = nn.make_causal_mask(tokens)
            x = x + nn.MultiHeadDotProductAttention(num_heads=4)(
                nn.LayerNorm()(x), mask=mask
            )
            x = x + nn.Dense(16)(nn.gelu(nn.Dense(24)(nn.LayerNorm()(x))))
        return nn.Dense(11)(nn.LayerNorm()(x))


def flax_gpt():
    model = FlaxGPT()
    tokens = jnp.asarray(NUMBERS.integers(0, 11, (2, 6)))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = model.init(jax.random.key(0), tokens)
    # Its layer normalisation takes means of x and of x^2: zeros change neither.
    free = {"params/Dense_0/bias[0]": (16, "exact")}
    for i in range(2):
        attention = f"params/MultiHeadDotProductAttention_{i}"
        free |= {
            f"params/Dense_{2 * i}/kernel[0]": (24, "exact"),
            f"{attention}/key/bias[0]": (4, "exact"),
            f"{attention}/key/bias[1]": (4, "exact"),
            f"{attention}/out/kernel[1]": (4, "exact"),
        }
    return Model(model.apply, params, (tokens,), free)


class EquinoxGPT(eqx.Module):
    embedding: eqx.nn.Embedding
    attention: list
    norms: list
    up: list
    down: list
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = iter(jax.random.split(key, 12))
        self.embedding = eqx.nn.Embedding(11, 16, key=next(keys))
        self.attention = [
            eqx.nn.MultiheadAttention(4, 16, key=next(keys)) for _ in range(2)
        ]
        self.norms = [eqx.nn.LayerNorm(16) for _ in range(4)]
        self.up = [eqx.nn.Linear(16, 24, key=next(keys)) for _ in range(2)]
        self.down = [eqx.nn.Linear(24, 16, key=next(keys)) for _ in range(2)]
        self.head = eqx.nn.Linear(16, 11, key=next(keys))

    def __call__(self, tokens):
        x = jax.vmap(self.embedding)(tokens)
        mask = jnp.tril(jnp.ones((len(tokens), len(tokens)), bool))
        for i in range(2):
            h = jax.vmap(self.norms[2 * i])(x)
            x = x + self.attention[i](h, h, h, mask)
            h = jax.vmap(self.norms[2 * i + 1])(x)
            x = x + jax.vmap(lambda t, i=i: self.down[i](jax.nn.gelu(self.up[i](t))))(h)
        return jax.vmap(self.head)(x)


def equinox_gpt():
    params, static = eqx.partition(EquinoxGPT(jax.random.key(0)), eqx.is_array)

    def apply(params, tokens):
        return eqx.combine(params, static)(tokens)

    free = {"embedding/weight[1]": (16, "approximate")}
    for i in range(2):
        free |= {
            f"up/{i}/weight[0]": (24, "exact"),
            f"attention/{i}/query_proj/weight[0].0": (4, "exact"),
            f"attention/{i}/query_proj/weight[0].1": (4, "exact"),
            f"attention/{i}/value_proj/weight[0].1": (4, "exact"),
        }
    tokens = jnp.asarray(NUMBERS.integers(0, 11, 6))
    return Model(apply, params, (tokens,), free)


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(6, 7, rngs=rngs)
        self.head = nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.norm(self.conv(x))).mean((1, 2))
        return self.head(nnx.silu(self.dense(h)))


def nnx_net():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        graph, state = nnx.split(NNXNet(nnx.Rngs(0)))

    def apply(state, x):
        return nnx.merge(graph, state)(x)

    free = {"conv/bias/value[0]": (6, "exact"), "dense/bias/value[0]": (7, "exact")}
    return Model(apply, state, (numbers(2, 6, 6, 2),), free)


@functools.cache
def model(name) -> Model:
    before = NUMBERS.bit_generator.state
    reseed(name)
    made = MODELS[name]()
    NUMBERS.bit_generator.state = before
    return made


MODELS = {
    made.__name__: made
    for made in (
        resnet,
        transformer,
        lstm,
        unet,
        vit,
        decoder,
        flax_gpt,
        equinox_gpt,
        nnx_net,
    )
}
