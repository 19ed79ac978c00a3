"""One elastic network on digits beside networks trained one by one.

A convolution and residual layers, whose window (3, 5), depth (1, 2, 3) and inner width
(16, 32, 64) are elastic, are trained once, with progressive shrinking as in
Cai et al., arXiv:1908.09791: each step takes the whole network on the labels, and the
smallest and two random sub-networks on its logits. Then every width and depth, with
windows in turn, is cut out and tested as it is, beside the same small architecture
trained by itself, for a third of the steps, from its own initial values.

The exit status is 1 if a sub-network that was cut out gives other logits than the mask
that was trained (1e-4 of the largest), or if the mean over seeds of its accuracy is
more than two points below that of the network trained by itself. scikit-learn's digits,
1,397 images to train on and 400 to test.
"""

import itertools
import sys
import time

import _harness
import _script
import numpy as np

CHANNELS, FEATURES = 16, 64
WIDTHS, DEPTHS, WINDOWS = (16, 32, 64), (1, 2, 3), (3, 5)
BATCH, RATE, TEST, CHUNK = 64, 3e-3, 400, 100
ELASTIC = 3  # times as many steps as a network trained by itself
LARGEST_GAP, AGREEMENT = 0.02, 1e-4


def init(key, width=WIDTHS[-1], depth=DEPTHS[-1], window=WINDOWS[-1]):
    import jax

    stem, inner, up, down, head = jax.random.split(key, 5)

    def weights(key, *shape, fan_in):
        return np.sqrt(2 / fan_in) * jax.random.normal(key, shape)

    flat = 16 * CHANNELS
    return {
        "stem": weights(stem, window, window, 1, CHANNELS, fan_in=window**2),
        "in": weights(inner, flat, FEATURES, fan_in=flat),
        "layers": {
            "up": weights(up, depth, FEATURES, width, fan_in=FEATURES),
            "down": weights(down, depth, width, FEATURES, fan_in=8 * width),
        },
        "head": weights(head, FEATURES, 10, fan_in=2 * FEATURES),
    }


def apply(params, x):
    """Logits (batch, 10) of images (batch, 8, 8, 1)."""
    import jax
    from jax import lax

    def layer(h, p):
        return h + jax.nn.relu(h @ p["up"]) @ p["down"], None

    h = lax.conv_general_dilated(
        x, params["stem"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    h = lax.reduce_window(h, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    h = jax.nn.relu(h).reshape(len(x), -1) @ params["in"]
    h, _ = lax.scan(layer, h, params["layers"])
    return jax.nn.relu(h) @ params["head"]


def digits(seed):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x = (x[order].reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    y = y[order].astype(np.int32)
    return (x[TEST:], y[TEST:]), (x[:TEST], y[:TEST])


def accuracy(function, params, data):
    return float((np.asarray(function(params, data[0])).argmax(-1) == data[1]).mean())


def trainer(loss, data, steps):
    """Adam with a cosine schedule over `steps`, `CHUNK` of them at a time.

    Returns `start(params)`, which gives a state, and `run(state, key, extras)`, where
    `loss(params, x, y, extra)` gets a row of `extras` at each step.
    """
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    images, labels = map(jnp.asarray, data)

    @jax.jit
    def run(state, key, extras):
        def step(state, row):
            params, moments = state
            key, extra = row
            rows = jax.random.randint(key, (BATCH,), 0, len(images))
            gradient = jax.grad(loss)(params, images[rows], labels[rows], extra)
            updates, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), moments), None

        keys = jax.random.split(key, CHUNK)
        return jax.lax.scan(step, state, (keys, extras))[0]

    return lambda params: (params, optimizer.init(params)), run


def cross_entropy(logits, labels):
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train_elastic(seed, steps):
    """The elastic network, and the seconds that it took."""
    import jax
    import jax.numpy as jnp

    from jaxarch import transforms as tr

    train, _ = digits(seed)
    key = jax.random.key(seed)
    params = init(key)
    annotation = tr.annotate(apply, params, train[0][:2])
    space = {
        "layers/down[1]": WIDTHS,
        "layers/down[0]": DEPTHS,
        ("stem[0]", "stem[1]"): WINDOWS,
    }
    nets = tr.elastic(annotation, space)

    def loss(params, x, y, choices):
        whole = apply(params, x)
        total = cross_entropy(whole, y)
        target = jax.lax.stop_gradient(jax.nn.softmax(whole))
        for choice in choices:
            logits = apply(nets.mask(params, choice), x)
            total -= (target * jax.nn.log_softmax(logits)).sum(-1).mean()
        return total / (1 + len(choices))

    def choices(stage, key):
        """For each step the smallest network of the stage and two random ones."""
        smallest = {k: jnp.full(CHUNK, n) for k, n in stage.smallest.items()}
        keys = jax.random.split(key, (2, CHUNK))
        return [smallest, *(jax.vmap(stage.sample)(k) for k in keys)]

    stages = nets.schedule()
    start, chunks = time.perf_counter(), steps // CHUNK
    begin, run = trainer(loss, train, steps)
    state = begin(params)
    for i in range(chunks):  # all of the space from the middle on
        stage = stages[min(2 * i * len(stages) // chunks, len(stages) - 1)]
        run_key, net_key = jax.random.split(jax.random.fold_in(key, i))
        state = run(state, run_key, choices(stage, net_key))
    jax.block_until_ready(state)
    return nets, state[0], time.perf_counter() - start


def one_seed(seed, steps):
    import jax

    train, test = digits(seed)
    _harness.progress(f"seed {seed}: the elastic network")
    nets, params, seconds = train_elastic(seed, ELASTIC * steps)
    found, names = [], list(nets.space)
    for i, (width, depth) in enumerate(itertools.product(WIDTHS, DEPTHS)):
        window = WINDOWS[i % len(WINDOWS)]
        choice = dict(zip(names, (width, depth, window), strict=True))
        small, function, report = nets.extract(params, choice)
        masked = np.asarray(jax.jit(apply)(nets.mask(params, choice), test[0]))
        cut = np.asarray(jax.jit(function)(small, test[0]))
        _harness.progress(f"seed {seed}: width {width}, depth {depth}, window {window}")
        start = time.perf_counter()
        begin, run = trainer(
            lambda p, x, y, _: cross_entropy(apply(p, x), y), train, steps
        )
        state = begin(init(jax.random.key(100 + seed), width, depth, window))
        for j in range(steps // CHUNK):
            state = run(state, jax.random.fold_in(jax.random.key(seed), j), None)
        alone = state[0]
        found.append(
            {
                "width": width,
                "depth": depth,
                "window": window,
                "parameters": report.parameters[1],
                "elastic": accuracy(jax.jit(function), small, test),
                "alone": accuracy(jax.jit(apply), alone, test),
                "alone_s": round(time.perf_counter() - start, 1),
                "difference": float(np.abs(masked - cut).max() / np.abs(masked).max()),
            }
        )
    return {"seed": seed, "elastic_s": round(seconds, 1), "networks": found}


def main():
    parser = _script.parser(__doc__, repeats=3, repeats_help="seeds")
    parser.add_argument("--steps", type=_script.at_least(CHUNK), default=1500)
    args = parser.parse_args()
    machine = _script.machine()
    runs = [one_seed(seed, args.steps) for seed in range(args.repeats)]
    cases, rows = {}, []
    for same in zip(*(run["networks"] for run in runs), strict=True):
        first = same[0]
        name = "width {width}, depth {depth}, window {window}".format(**first)
        elastic, alone = (np.array([s[k] for s in same]) for k in ("elastic", "alone"))
        gap = float((alone - elastic).mean())
        cases[name] = {
            "parameters": first["parameters"],
            "elastic": elastic.tolist(),
            "alone": alone.tolist(),
            "mean_gap": gap,
            "gates": {
                f"within {LARGEST_GAP}": gap <= LARGEST_GAP,
                f"cut as masked to {AGREEMENT}": max(s["difference"] for s in same)
                <= AGREEMENT,
            },
        }
        counts = (f"{first['parameters']:,}", f"{elastic.mean():.4f}")
        rows.append([name, *counts, f"{alone.mean():.4f}", f"{100 * gap:.2f}"])
    _script.print_machine(machine)
    header = ["network", "parameters", "cut out", "trained by itself", "gap, points"]
    _script.print_table(header, rows)
    import jax

    report = _script.make_report(
        "elastic_digits",
        machine,
        jax=jax.__version__,
        steps=args.steps,
        runs=runs,
        cases=cases,
    )
    return _script.finish(report, args.output, _script.failed_gates(cases))


if __name__ == "__main__":
    sys.exit(main())
