"""Trains 300 small networks on digits: the table of `examples/rank_architectures.py`.

Seven families (dense, residual dense, convolutional, depthwise, residual convolutional,
mixer, attention), of which each takes its depth, width, activation, normalisation and
what else it has at random. All have the same short budget: Adam with a cosine schedule
on 600 of scikit-learn's digits; the others are the test. Of each network the table has
its settings, its text (`jaxarch.transforms.chain_text`), its parameters and FLOPs, and
the accuracy of every seed.

Some three seconds a network on one core, most of it compiling. What `--output` has
already is kept, so that a run that was stopped goes on; texts are always made anew.
"""

import functools
import json
import math
import sys
import time

import _script
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from tqdm import tqdm

from jaxarch.transforms import chain_text

TRAIN, BATCH, RATE = 600, 32, 3e-3
IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "elu": jax.nn.elu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "sine": jnp.sin,
    "none": lambda h: h,
}
COMMON = {
    "activation": list(ACTIVATIONS),
    "norm": ["none", "layer", "rms"],
    "depth": [1, 2, 3, 4],
}
IMAGES = {
    **COMMON,
    "width": [3, 4, 6, 8, 10, 12],
    "window": [1, 3, 5],
    "pool": ["none", "max", "mean"],
    "pools": [1, 2],
    "head": ["flatten", "mean", "max"],
}
PATCHES = {
    **COMMON,
    "width": [4, 8, 12, 16, 24, 32],
    "patch": [2, 4],
    "expand": [1, 2],
    "skip": [True, False],
}
CHOICES = {
    "dense": {**COMMON, "width": [4, 8, 16, 32, 64, 128], "depth": [1, 2, 3, 4, 6, 8]},
    "residual dense": {
        **COMMON,
        "width": [4, 8, 16, 32, 64, 128],
        "depth": [1, 2, 3, 4, 6, 8],
    },
    "convolutional": IMAGES,
    "depthwise": IMAGES,
    "residual convolutional": IMAGES,
    "mixer": PATCHES,
    "attention": {**PATCHES, "heads": [1, 2, 4], "position": [True, False]},
}

# --- networks ---------------------------------------------------------------------
# `get(shape, std, mean)` hands out the parameters in their order.


def dense(get, h, features):
    size = h.shape[-1]
    return h @ get((size, features), math.sqrt(2 / size)) + get((features,))


def convolve(h, weight, groups):
    """A convolution as its users write it, for the text."""
    return lax.conv_general_dilated(
        h,
        weight,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def convolve_slices(h, weight, groups):
    """The same for training: XLA on CPU is slow at gradients of small convolutions."""
    window, (_, height, width, _) = len(weight), h.shape
    margin = (window // 2, window // 2)
    h = jnp.pad(h, ((0, 0), margin, margin, (0, 0)))
    places = [(i, j) for i in range(window) for j in range(window)]
    parts = [h[:, i : i + height, j : j + width] for i, j in places]
    if groups == 1:
        return jnp.concatenate(parts, -1) @ weight.reshape(-1, weight.shape[-1])
    return sum(part * weight[at][0] for part, at in zip(parts, places, strict=True))


def conv(get, h, features, window, convolve, groups=1):
    size = h.shape[-1] // groups
    std = math.sqrt(2 / (window * window * size))
    weight = get((window, window, size, features), std)
    return convolve(h, weight, groups) + get((features,))


def norm(get, h, kind):
    if kind == "none":
        return h
    if kind == "layer":
        h = h - h.mean(-1, keepdims=True)
    h = h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5)
    h = h * get(h.shape[-1:], mean=1.0)
    return h + get(h.shape[-1:]) if kind == "layer" else h


def pool(h, kind):
    if kind == "none":
        return h
    window = (1, 2, 2, 1)
    if kind == "max":
        return lax.reduce_window(h, -jnp.inf, lax.max, window, window, "VALID")
    return lax.reduce_window(h, 0.0, lax.add, window, window, "VALID") / 4


def dense_network(get, x, c, residual):
    h = x.reshape(len(x), -1)
    act = ACTIVATIONS[c["activation"]]
    if residual:
        h = dense(get, h, c["width"])
    for _ in range(c["depth"]):
        if residual:
            h = h + act(dense(get, norm(get, h, c["norm"]), c["width"]))
        else:
            h = act(norm(get, dense(get, h, c["width"]), c["norm"]))
    return dense(get, h, 10)


def image_network(get, x, c, family, convolve):
    act, width, window = ACTIVATIONS[c["activation"]], c["width"], c["window"]
    layer = functools.partial(conv, get, features=width, convolve=convolve)
    h = x if family == "convolutional" else layer(x, window=3)
    for i in range(c["depth"]):
        if family == "convolutional":
            h = act(norm(get, layer(h, window=window), c["norm"]))
        elif family == "depthwise":
            h = norm(get, layer(h, window=window, groups=width), c["norm"])
            h = act(layer(h, window=1))
        else:
            inner = act(norm(get, layer(h, window=window), c["norm"]))
            h = h + layer(inner, window=window)
        if i < c["pools"]:
            h = pool(h, c["pool"])
    if c["head"] == "flatten":
        h = h.reshape(len(h), -1)
    else:
        h = h.mean((1, 2)) if c["head"] == "mean" else h.max((1, 2))
    return dense(get, h, 10)


def attention(get, h, heads):
    width = h.shape[-1]
    qkv = dense(get, h, 3 * width).reshape(*h.shape[:2], 3, heads, width // heads)
    query, key, value = jnp.moveaxis(qkv, 2, 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(width // heads)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
    return dense(get, mixed.reshape(h.shape), width)


def patch_network(get, x, c, family):
    act, width, patch = ACTIVATIONS[c["activation"]], c["width"], c["patch"]
    side = 8 // patch
    h = x.reshape(len(x), side, patch, side, patch).swapaxes(2, 3)
    h = dense(get, h.reshape(len(x), side * side, patch * patch), width)
    if c.get("position"):
        h = h + get(h.shape[1:], 0.1)

    def mlp(h, features):
        return dense(get, act(dense(get, h, c["expand"] * features)), features)

    for _ in range(c["depth"]):
        inner = norm(get, h, c["norm"])
        if family == "attention":
            inner = attention(get, inner, c["heads"])
        else:
            inner = mlp(inner.swapaxes(1, 2), side * side).swapaxes(1, 2)
        h = h + inner if c["skip"] else inner
        inner = mlp(norm(get, h, c["norm"]), width)
        h = h + inner if c["skip"] else inner
    return dense(get, h.mean(1), 10)


def network(get, x, config, convolve=convolve):
    family = config["family"]
    if family in ("dense", "residual dense"):
        return dense_network(get, x, config, family == "residual dense")
    if family in ("mixer", "attention"):
        return patch_network(get, x, config, family)
    return image_network(get, x, config, family, convolve)


def apply(params, x, config, convolve=convolve):
    """Logits (batch, 10) of images (batch, 8, 8, 1)."""
    left = iter(params)
    return network(lambda *_, **__: next(left), x, config, convolve)


def parameters(config):
    """Shape, standard deviation and mean of each parameter."""
    found = []

    def get(shape, std=0.0, mean=0.0):
        found.append((shape, std, mean))
        return jnp.zeros(shape)

    jax.eval_shape(lambda x: network(get, x, config), IMAGE)
    return found


def draw(rng, family):
    """The settings of a network at random."""
    config = {"family": family}
    for name, values in CHOICES[family].items():
        config[name] = values[rng.integers(len(values))]
    if "pool" in config:  # settings without an effect would make equal networks
        none = config["pool"] == "none"
        config["pools"] = 0 if none else min(config["pools"], config["depth"])
    return config


def draw_all(per_family):
    """As many different networks of each family, the same ones every time."""
    found = []
    for number, family in enumerate(CHOICES):
        rng, own = np.random.default_rng(number), []
        while len(own) < per_family:
            if (config := draw(rng, family)) not in own:
                own.append(config)
        found += own
    return found


# --- training ---------------------------------------------------------------------


def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = (x[order].reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    y = y[order].astype(np.int32)
    return (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])


def accuracies(config, train, test, seeds, steps):
    """The test accuracy of each seed."""
    slots = parameters(config)
    f = functools.partial(apply, config=config, convolve=convolve_slices)
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def loss(params, x, y):
        losses = optax.softmax_cross_entropy_with_integer_labels(f(params, x), y)
        return losses.mean()

    def one(start):
        params, rows = start

        def step(carry, rows):
            params, state = carry
            slopes = jax.grad(loss)(params, train[0][rows], train[1][rows])
            updates, state = optimizer.update(slopes, state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = lax.scan(step, (params, optimizer.init(params)), rows)
        return (f(params, test[0]).argmax(-1) == test[1]).mean()

    # Drawn here, since a compiled generator takes as long to compile as some networks.
    starts = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        params = [
            (mean + std * rng.normal(size=shape)).astype(np.float32)
            for shape, std, mean in slots
        ]
        starts.append((params, rng.integers(TRAIN, size=(steps, BATCH))))
    starts = jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *starts)
    # One seed after the other: `vmap` would make slow products of many small ones.
    run = jax.jit(lambda starts: lax.map(one, starts)).lower(starts)
    # Compiling is the time of those that are products alone, and hardly helps them.
    quick = "window" not in config and jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 0} if quick else None
    return np.asarray(run.compile(compiler_options=options)(starts))


def text_of(config):
    params = [jax.ShapeDtypeStruct(p[0], jnp.float32) for p in parameters(config)]
    return chain_text(functools.partial(apply, config=config), params, IMAGE)


def measure(config, train, test, seeds, steps):
    start = time.perf_counter()
    shapes = [shape for shape, *_ in parameters(config)]
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lowered = jax.jit(functools.partial(apply, config=config)).lower(params, IMAGE)
    found = accuracies(config, train, test, seeds, steps)
    return {
        **config,
        "parameters": sum(map(math.prod, shapes)),
        "flops": int(lowered.cost_analysis()["flops"]),
        "accuracy": [round(float(a), 4) for a in found],
        "seconds": round(time.perf_counter() - start, 2),
    }


# --- the table --------------------------------------------------------------------


def write(path, report):
    """One network a line. A text is lines of words, each word written once."""
    numbers, rows = {}, []
    for row in report["networks"]:
        lines = text_of(row).splitlines()
        text = [
            [numbers.setdefault(word, len(numbers)) for word in line.split(" --> ")]
            for line in lines
        ]
        rows.append(json.dumps({**row, "text": text}, separators=(",", ":")))
    head = {k: v for k, v in report.items() if k != "networks"}
    head |= {"words": list(numbers), "networks": []}
    head = json.dumps(head, allow_nan=False).removesuffix("]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "\n" + ",\n".join(rows) + "\n]}\n")


def kept(path, settings):
    """The rows that an earlier run with the same settings left."""
    if not path or not path.exists():
        return []
    report = json.loads(path.read_text())
    if report["settings"] != settings:
        return []
    return [{k: v for k, v in r.items() if k != "text"} for r in report["networks"]]


def main():
    parser = _script.parser(__doc__, repeats=2, repeats_help="seeds")
    parser.add_argument("--steps", type=_script.at_least(1), default=200)
    parser.add_argument("--per-family", type=_script.at_least(1), default=43)
    args = parser.parse_args()
    settings = {
        "steps": args.steps,
        "batch": BATCH,
        "rate": RATE,
        "train": TRAIN,
        "seeds": args.repeats,
    }
    report = _script.make_report(
        "architecture_scores",
        _script.machine(),
        versions={m.__name__: m.__version__ for m in (jax, np, optax)},
        settings=settings,
        networks=kept(args.output, settings),
    )
    train, test = jax.tree.map(jnp.asarray, digits())
    rows, wanted = report["networks"], draw_all(args.per_family)
    done = [
        {k: row.get(k) for k in ("family", *CHOICES[row["family"]])} for row in rows
    ]
    left = [config for config in wanted if config not in done]
    for i, config in enumerate(tqdm(left, unit="network")):
        rows.append(measure(config, train, test, args.repeats, args.steps))
        jax.clear_caches()  # no program is used twice
        if args.output and i % 20 == 19:
            write(args.output, report)
    if args.output:
        write(args.output, report)
    table = []
    for family in CHOICES:
        means = [np.mean(row["accuracy"]) for row in rows if row["family"] == family]
        cells = [f"{x:.3f}" for x in np.quantile(means, (0, 0.5, 1))]
        table.append([family, str(len(means)), *cells])
    _script.print_machine(report["machine"])
    _script.print_table(["family", "networks", "lowest", "median", "highest"], table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
