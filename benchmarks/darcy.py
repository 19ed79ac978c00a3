"""Darcy flow by MgNO, FNO, DeepONet and a plain ConvNet, on the same data.

Each model learns the solution of Darcy's equation from the coefficient, with the same
samples, steps, optimiser, schedule and loss, and has a result file of its own in
`--output`: parameters, seconds, relative L2 and H1 errors on the test set. With
`--superresolution` it is also tested at other resolutions, on the same functions. Every
five epochs the state is saved; the same command again goes on where the last one
stopped. Run a process for each model, such as

    XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" \
        taskset -c 0 python benchmarks/darcy.py --models mgno --output results

for seconds on one core. `--data DIR` reads darcy_train_16.npz, darcy_test_16.npz and
darcy_test_32.npz (neuraloperator's small set) in place of generating data.

- MgNO: arXiv:2310.19809, its Darcy configuration; as many grids as fit (6 from 64).
- FNO: arXiv:2010.08895, section 5.2: 12 modes, width 32, coordinates as channels, and
  a period 10 % longer than the domain (there 9 of 85 points); the blocks of neuralop.
- DeepONet: a convolutional branch on the grid of the training data, where finer data
  are read at the nearest points, and a trunk of the coordinates; our choice.
- ConvNet: residual blocks of convolutions with dilations 1 2 4 8 4 2 1 ("DilResNet" in
  the MgNO paper, arXiv:2112.15275), of a width and depth that cost what MgNO does.

The coefficient is normalised by its mean and deviation and the solution by its root
mean square over the training set. The loss is the mean relative L2 error (`--loss l2`)
or H1 error (`h1`), the spectral one of the MgNO paper, which trains its models on Darcy
with it; all models have the same one. Errors are those after the last epoch.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import _script
import numpy as np
from _harness import progress

MODELS = ("mgno", "fno", "deeponet", "convnet")
SMALL = ("darcy_train_16.npz", "darcy_test_16.npz", "darcy_test_32.npz")
BATCH, EVALUATED = 8, 10  # samples a step, and at a time without gradients
SOLVER_CELLS = 252  # of the grid on which data are solved, about
VALIDATION = TEST = 100
DILATIONS = (1, 2, 4, 8, 4, 2, 1)
CONVNET = (24, 2)  # width and blocks: about the seconds of MgNO
METRICS = ("l2", "h1", "h1_difference")


# --- data -------------------------------------------------------------------------


def generated(args, split, num_samples, resolution):
    """Coefficients and solutions, from a file if a run has made it before."""
    import jax

    from jaxarch.operators import darcy_dataset

    path = args.output / "state" / f"{args.kind}_{split}_{num_samples}_{resolution}.npz"
    if not path.exists():
        a, u = darcy_dataset(
            jax.random.fold_in(
                jax.random.key(args.seed),
                ("train", "test").index(split),
            ),
            num_samples,
            resolution,
            kind=args.kind,
            refinement=max(1, round(SOLVER_CELLS / (resolution - 1))),
            progress=True,
        )
        save(path, {"a": np.asarray(a), "u": np.asarray(u)})
    with np.load(path) as file:
        return file["a"], file["u"]


def read(path):
    """A file of the small set, with an axis of channels."""
    with np.load(path) as file:
        return tuple(file[name].astype(np.float32)[..., None] for name in ("x", "y"))


def datasets(args):
    """Training, validation and test pairs, and tests at other resolutions."""
    if args.data is not None:
        train, test, fine = (read(args.data / name) for name in SMALL)
        tests = {"32": fine} if args.superresolution else {}
    else:
        count = args.samples + VALIDATION
        train = generated(args, "train", count, args.resolution)
        test = generated(args, "test", args.tests, args.resolution)
        tests = {
            str(n): generated(args, "test", args.tests, n) for n in args.superresolution
        }
    held = VALIDATION
    valid = tuple(a[-held:] for a in train)
    return tuple(a[:-held] for a in train), valid, test, tests


# --- models -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Model:
    """A network of one normalised example, and its settings in words."""

    init: Callable
    apply: Callable
    settings: dict


def mgno(resolution):
    from jaxarch.operators import mgno_apply, mgno_init

    num_levels = min(6, int(math.log2(resolution)))
    settings = {
        "width": 24,
        "num_layers": 4,
        "levels": ((1, 0),) * (num_levels - 1) + ((2, 0),),
        "boundary": "dirichlet",
    }
    return Model(
        lambda key: mgno_init(key, 1, 1, **settings),
        mgno_apply,
        settings,
    )


def fno(resolution):
    from jaxarch.operators import fno_apply, fno_init

    num_modes = min(24, resolution)
    settings = {"width": 32, "num_layers": 4, "padding": 0.05, "boundary": "dirichlet"}
    return Model(
        lambda key: fno_init(key, 1, 1, (num_modes, num_modes), **settings),
        fno_apply,
        {"num_modes": num_modes, **settings},
    )


def deeponet(resolution):
    import jax
    import jax.numpy as jnp

    from jaxarch.layers import mlp_apply, mlp_init
    from jaxarch.operators import DeepONetParams, deeponet_apply

    channels, features, trunk = (1, 16, 32, 64), 128, (2, 128, 128, 128, 128)
    flat = channels[-1] * math.ceil(resolution / 2 ** (len(channels) - 1)) ** 2

    def init(key):
        convs, mlp, points = jax.random.split(key, 3)
        branch = convolutions(convs, channels), mlp_init(mlp, (flat, 128, features))
        return DeepONetParams(
            branch=branch,
            trunk=mlp_init(points, trunk),
            bias=jnp.zeros(()),
            multi_output=None,
            stacked=False,
        )

    def branch(params, u):
        convs, mlp = params
        for conv in convs:
            u = jax.nn.gelu(convolve(conv, u, stride=2))
        return mlp_apply(mlp, u.reshape(-1), activation=jax.nn.gelu)

    def apply(params, a):
        n = len(a)
        sensors = np.round(np.linspace(0, n - 1, resolution)).astype(int)
        x = jnp.linspace(0, 1, n)
        points = jnp.stack(jnp.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
        sensed = a[sensors][:, sensors]
        values = deeponet_apply(
            params, sensed, points, branch=branch, activation=jax.nn.gelu
        )
        return values.reshape(n, n, 1)

    settings = {"branch": [*channels, flat, 128, features], "trunk": trunk}
    return Model(init, apply, settings)


def convnet(resolution):
    import jax

    width, num_blocks = CONVNET
    settings = {"width": width, "num_blocks": num_blocks, "dilations": DILATIONS}

    def init(key):
        first, inner, last = jax.random.split(key, 3)
        block = (width,) * (len(DILATIONS) + 1)
        return {
            "first": convolutions(first, (1, width)),
            "blocks": [
                convolutions(key, block) for key in jax.random.split(inner, num_blocks)
            ],
            "last": convolutions(last, (width, 1)),
        }

    def apply(params, a):
        h = convolve(*params["first"], a)
        for block in params["blocks"]:  # in a scan XLA's convolutions are slow on a CPU
            new = h
            for i, (conv, d) in enumerate(zip(block, DILATIONS, strict=True)):
                new = convolve(conv, jax.nn.relu(new) if i else new, dilation=d)
            h = jax.nn.relu(new + h)
        return convolve(*params["last"], h)

    return Model(init, apply, settings)


def convolutions(key, channels):
    """Stencils of 3 by 3 and biases, drawn for ReLUs."""
    import jax
    import jax.numpy as jnp

    layers = []
    for n_in, n_out in itertools.pairwise(channels):
        key, drawn = jax.random.split(key)
        stencil = jax.random.normal(drawn, (3, 3, n_in, n_out))
        layers.append((math.sqrt(2 / 9 / n_in) * stencil, jnp.zeros(n_out)))
    return layers


def convolve(conv, u, *, stride=1, dilation=1):
    """A convolution whose boundary is 0.

    A dilated one is a plain one of each of the grids that have every d-th point, which
    takes a thirtieth of the time of XLA's own on a CPU.
    """
    import jax
    import jax.numpy as jnp

    stencil, bias = conv
    n, d, channels = len(u), dilation, u.shape[-1]
    m = -(-n // d)
    phases = jnp.pad(u, ((0, m * d - n), (0, m * d - n), (0, 0)))
    phases = phases.reshape(m, d, m, d, channels).transpose(1, 3, 0, 2, 4)
    out = jax.lax.conv_general_dilated(
        phases.reshape(d * d, m, m, channels),
        stencil,
        (stride, stride),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    if d > 1:
        out = out.reshape(d, d, m, m, -1).transpose(2, 0, 3, 1, 4)
        return out.reshape(m * d, m * d, -1)[:n, :n] + bias
    return out[0] + bias


# --- training ---------------------------------------------------------------------


def losses():
    """Mean errors of a batch by name."""
    import jax

    from jaxarch.operators import relative_h1, relative_l2

    difference = functools.partial(relative_h1, kind="difference")
    found = (relative_l2, relative_h1, difference)
    return {name: jax.vmap(f) for name, f in zip(METRICS, found, strict=True)}


def save(path, arrays):
    """Writes arrays such that a file is whole or is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(part, **arrays)
    part.replace(path)


def run(name, args, data):
    """Trains one model, or goes on with it, and returns its report."""
    import jax
    import jax.numpy as jnp
    import optax
    from tqdm import tqdm

    (a, u), valid, test, tests = data
    resolution, machine = a.shape[1], _script.machine()
    model: Model = globals()[name](resolution)
    mean, deviation, scale = (
        float(a.mean()),
        float(a.std()),
        float(np.sqrt((u**2).mean())),
    )

    def predict(params, a):
        return scale * jax.vmap(lambda a: model.apply(params, a))(
            (a - mean) / deviation
        )

    steps = len(a) // BATCH
    schedule = optax.cosine_onecycle_schedule(
        steps * args.epochs,
        args.rate,
        pct_start=0.2,
        div_factor=2,
        final_div_factor=100,
    )
    optimiser = optax.adamw(schedule, weight_decay=args.weight_decay)
    errors = losses()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, a, u):
        loss, gradient = jax.value_and_grad(
            lambda params: errors[args.loss](predict(params, a), u).mean()
        )(params)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    @jax.jit
    def judge(params, a, u):
        return {name: error(predict(params, a), u) for name, error in errors.items()}

    def evaluate(params, a, u):
        size = math.gcd(EVALUATED, len(a))
        rows = [
            judge(params, a[i : i + size], u[i : i + size])
            for i in range(0, len(a), size)
        ]
        rows = {name: np.concatenate([r[name] for r in rows]) for name in METRICS}
        return {name: float(row.mean()) for name, row in rows.items()}

    settings = {
        "data": "small" if args.data is not None else args.kind,
        "resolution": resolution,
        "samples": len(a),
        "validation": len(valid[0]),
        "tests": len(test[0]),
        "solver": None
        if args.data is not None
        else f"about {SOLVER_CELLS} cells a side",
        "loss": args.loss,
        "epochs": args.epochs,
        "batch": BATCH,
        "optimiser": "adamw",
        "weight_decay": args.weight_decay,
        "rate": args.rate,
        "schedule": "one cycle: pct_start 0.2, div_factor 2, final_div_factor 100",
        "seed": args.seed,
        "model": json.loads(json.dumps(model.settings)),
    }
    params = jax.jit(model.init)(jax.random.key(args.seed))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    state = optimiser.init(params)
    record = {"epoch": 0, "wall_s": 0.0, "cpu_s": 0.0, "history": []}
    stem = f"darcy_{settings['data']}_{resolution}_{name}_{args.loss}"
    checkpoint = args.output / "state" / f"{stem}.npz"
    if checkpoint.exists():
        with np.load(checkpoint) as file:
            if json.loads(str(file["settings"])) != settings:
                raise SystemExit(f"{checkpoint} is of other settings: remove it first")
            record = json.loads(str(file["record"]))
            leaves, tree = jax.tree.flatten((params, state))
            leaves = [jnp.asarray(file[str(i)], x.dtype) for i, x in enumerate(leaves)]
            params, state = jax.tree.unflatten(tree, leaves)

    # Compiled before the clock starts.
    began = time.perf_counter()
    step = step.lower(params, state, a[:BATCH], u[:BATCH]).compile()
    compile_s = time.perf_counter() - began
    bar = tqdm(
        total=steps * args.epochs,
        initial=steps * record["epoch"],
        desc=name,
        unit="step",
    )
    for epoch in range(record["epoch"], args.epochs):
        wall, cpu = time.perf_counter(), time.process_time()
        order = np.random.default_rng((args.seed, epoch)).permutation(len(a))
        total = 0.0
        for rows in order[: steps * BATCH].reshape(steps, BATCH):
            params, state, loss = step(params, state, a[rows], u[rows])
            total += float(loss)
            bar.update()
        record["wall_s"] += time.perf_counter() - wall
        record["cpu_s"] += time.process_time() - cpu
        record["epoch"] = epoch + 1
        found = evaluate(params, *valid)
        record["history"].append({"train": total / steps, "validation": found})
        bar.set_postfix(
            train=f"{total / steps:.4f}", **{f"v_{METRICS[0]}": found["l2"]}
        )
        if (epoch + 1) % 5 == 0 or epoch + 1 == args.epochs:
            leaves = jax.tree.leaves((params, state))
            arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
            words = {"settings": json.dumps(settings), "record": json.dumps(record)}
            save(checkpoint, {**arrays, **words})
    bar.close()
    report = _script.make_report(
        "darcy",
        machine,
        model=name,
        settings=settings,
        parameters=count,
        compile_s=compile_s,
        wall_s=record["wall_s"],
        cpu_s=record["cpu_s"],
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        backend=jax.default_backend(),
        versions={n: metadata.version(n) for n in ("jax", "jaxlib", "optax")},
        test=evaluate(params, *test),
        superresolution={n: evaluate(params, *pairs) for n, pairs in tests.items()},
        history=record["history"],
    )
    _script.write_json(args.output / f"{stem}.json", report)
    return report


def print_reports(reports):
    rows = []
    for report in reports:
        tests = {str(report["settings"]["resolution"]): report["test"]}
        for n, found in {**tests, **report["superresolution"]}.items():
            errors = [f"{100 * found[name]:.2f}" for name in METRICS]
            row = [report["model"], str(report["parameters"]), n, *errors]
            rows.append([*row, f"{report['wall_s']:.0f}", f"{report['cpu_s']:.0f}"])
    header = "model, parameters, tested at, L2 %, H1 %, H1 by differences %, "
    _script.print_table((header + "wall s, CPU s").split(", "), rows)


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--kind", choices=("smooth", "rough"), default="smooth")
    parser.add_argument("--loss", choices=("l2", "h1"), default="l2")
    parser.add_argument("--epochs", type=_script.at_least(1), default=50)
    parser.add_argument("--samples", type=_script.at_least(BATCH), default=1000)
    parser.add_argument("--tests", type=_script.at_least(1), default=TEST)
    parser.add_argument("--resolution", type=_script.at_least(8), default=64)
    parser.add_argument(
        "--superresolution",
        type=_script.at_least(8),
        nargs="*",
        default=(),
        metavar="POINTS",
        help="also test at these resolutions",
    )
    parser.add_argument("--rate", type=float, default=1e-3, help="at its peak")
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--data", type=Path, help=f"a directory with {', '.join(SMALL)}"
    )
    parser.add_argument("--output", type=Path, default=Path("darcy"), metavar="DIR")
    return parser.parse_args(argv)


def main():
    args = parse()
    data = datasets(args)
    reports = []
    for name in args.models:
        progress(f"{name}, loss {args.loss}")
        reports.append(run(name, args, data))
    _script.print_machine(reports[0]["machine"])
    print_reports(reports)
    return 0


if __name__ == "__main__":
    sys.exit(main())
