"""ResNet-50 and a GPT-2 as plain functions of nested dictionaries of arrays.

No framework stands between the transforms and these networks, so that what is timed is
the transform. Their sizes are those of the papers: 25,557,032 parameters (and 53,120
running statistics) for He et al., "Deep Residual Learning", arXiv:1512.03385, with the
stride in the 3 x 3 convolution of a bottleneck; 124,439,808 for the small model of
Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
`jax.eval_shape(resnet50_init, jax.random.key(0))` gives shapes and allocates nothing.
"""

import math

import jax
import jax.numpy as jnp

STAGES = (3, 4, 6, 3)


def _conv_init(key, window, inputs, outputs):
    scale = math.sqrt(2 / (window * window * inputs))
    return scale * jax.random.normal(key, (window, window, inputs, outputs))


def _norm_init(channels):
    return {
        "scale": jnp.ones(channels),
        "bias": jnp.zeros(channels),
        "mean": jnp.zeros(channels),
        "var": jnp.ones(channels),
    }


def resnet50_init(key, *, num_classes=1000, stages=STAGES, width=64):
    """Parameters and running statistics; fewer or narrower stages for a small one."""
    keys = iter(jax.random.split(key, 2 + 4 * sum(stages)))
    params = {
        "stem": {"kernel": _conv_init(next(keys), 7, 3, width)},
        "stem_norm": _norm_init(width),
        "stages": [],
    }
    channels = width
    for i, depth in enumerate(stages):
        inner, outer = width * 2**i, width * 2 ** (i + 2)
        stage = []
        for j in range(depth):
            sizes = ((1, channels, inner), (3, inner, inner), (1, inner, outer))
            block = {}
            for k, (window, a, b) in enumerate(sizes):
                block[f"conv{k}"] = {"kernel": _conv_init(next(keys), window, a, b)}
                block[f"norm{k}"] = _norm_init(b)
            if j == 0:
                kernel = _conv_init(next(keys), 1, channels, outer)
                block["skip"] = {"kernel": kernel}
                block["skip_norm"] = _norm_init(outer)
            stage.append(block)
            channels = outer
        params["stages"].append(stage)
    params["head"] = {
        "kernel": jax.random.normal(next(keys), (channels, num_classes))
        / math.sqrt(channels),
        "bias": jnp.zeros(num_classes),
    }
    return params


def _conv(params, x, stride=1):
    return jax.lax.conv_general_dilated(
        x,
        params["kernel"],
        (stride, stride),
        [((w - 1) // 2, w // 2) for w in params["kernel"].shape[:2]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _batch_norm(params, x):
    scale = params["scale"] * jax.lax.rsqrt(params["var"] + 1e-5)
    return (x - params["mean"]) * scale + params["bias"]


def resnet50_apply(params, x):
    """Logits (batch, num_classes) of images (batch, height, width, 3)."""
    x = jax.nn.relu(_batch_norm(params["stem_norm"], _conv(params["stem"], x, 2)))
    x = jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        ((0, 0), (1, 1), (1, 1), (0, 0)),
    )
    for i, stage in enumerate(params["stages"]):
        for j, block in enumerate(stage):
            stride = 2 if i > 0 and j == 0 else 1
            y = jax.nn.relu(_batch_norm(block["norm0"], _conv(block["conv0"], x)))
            y = _conv(block["conv1"], y, stride)
            y = jax.nn.relu(_batch_norm(block["norm1"], y))
            y = _batch_norm(block["norm2"], _conv(block["conv2"], y))
            if "skip" in block:
                x = _batch_norm(block["skip_norm"], _conv(block["skip"], x, stride))
            x = jax.nn.relu(x + y)
    x = x.mean((1, 2))
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def transformer_init(key, *, layers=12, width=768, heads=12, vocab=50257, context=1024):
    """Parameters of a GPT-2; the heads are an axis of the attention's arrays."""
    keys = iter(jax.random.split(key, 2 + 4 * layers))
    head = width // heads

    def normal(*shape, scale=0.02):
        return scale * jax.random.normal(next(keys), shape)

    def norm():
        return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}

    residual = 0.02 / math.sqrt(2 * layers)
    blocks = [
        {
            "norm1": norm(),
            "attention": {
                "qkv": normal(width, 3, heads, head),
                "qkv_bias": jnp.zeros((3, heads, head)),
                "out": normal(heads, head, width, scale=residual),
                "out_bias": jnp.zeros(width),
            },
            "norm2": norm(),
            "mlp": {
                "up": normal(width, 4 * width),
                "up_bias": jnp.zeros(4 * width),
                "down": normal(4 * width, width, scale=residual),
                "down_bias": jnp.zeros(width),
            },
        }
        for _ in range(layers)
    ]
    return {
        "tokens": normal(vocab, width),
        "positions": normal(context, width),
        "blocks": blocks,
        "norm": norm(),
    }


def layer_norm(params, x):
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    x = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
    return x * params["scale"] + params["bias"]


def attention(params, x):
    """Causal self-attention of (batch, tokens, width)."""
    qkv = jnp.einsum("btw,wkhd->kbthd", x, params["qkv"])
    query, key, value = qkv + params["qkv_bias"][:, None, None]
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -1e30))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return jnp.einsum("bqhd,hdw->bqw", mixed, params["out"]) + params["out_bias"]


def block_apply(params, x):
    """One pre-norm block, (batch, tokens, width) to the same."""
    x = x + attention(params["attention"], layer_norm(params["norm1"], x))
    y = layer_norm(params["norm2"], x)
    y = jax.nn.gelu(y @ params["mlp"]["up"] + params["mlp"]["up_bias"])
    return x + (y @ params["mlp"]["down"] + params["mlp"]["down_bias"])


def transformer_apply(params, tokens):
    """Logits (batch, tokens, vocab) of integers (batch, tokens)."""
    x = params["tokens"][tokens] + params["positions"][: tokens.shape[1]]
    for block in params["blocks"]:
        x = block_apply(block, x)
    return layer_norm(params["norm"], x) @ params["tokens"].T
