"""Pruned networks beside small ones written by hand, and the time to read a network.

ResNet-50 and a GPT-2 of 12 layers with 25, 50 and 75 % of the channels of every exact
group (of the GPT-2, its heads and the widths of its networks): the forward pass of the
dense network, of the pruned one, and of the same code run on the small parameters,
which is what one would write by hand. All have the same numbers and take turns in one
process. Then the seconds that `annotate` and `diagram` take, from nothing.

The exit status is 1 if a pruned network differs from the one by hand by more than 1e-4
of the largest output. A speed is not a gate.
"""

import math
import statistics
import sys
import time

import _harness
import _script

AGREEMENT = 1e-4
FRACTIONS = (0.25, 0.5, 0.75)
DENSE, PRUNED, BY_HAND = "dense", "pruned", "by hand"
CASES = ("resnet50", "transformer")


def network(case, *, whole=False):
    """`(function, what makes its parameters, input)`; `whole` is the papers' size."""
    import jax
    import jax.numpy as jnp
    from _architectures import (
        resnet50_apply,
        resnet50_init,
        transformer_apply,
        transformer_init,
    )

    if case == "resnet50":
        shape = (1, 224, 224, 3) if whole else (4, 64, 64, 3)
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        return resnet50_apply, resnet50_init, x
    x = jax.ShapeDtypeStruct((1, 1024 if whole else 64), jnp.int32)

    def init(key):
        return transformer_init(key, vocab=50257 if whole else 8192)

    return transformer_apply, init, x


def numbers(init, x, seed=0):
    """Parameters and an input; running statistics and biases are not left trivial."""
    import jax
    import jax.numpy as jnp

    keys = iter(jax.random.split(jax.random.key(seed), 1000))
    params = jax.jit(init)(next(keys))
    params = jax.tree.map(
        lambda a: a + 0.1 * jax.random.uniform(next(keys), a.shape), params
    )
    if jnp.issubdtype(x.dtype, jnp.integer):
        return params, jax.random.randint(next(keys), x.shape, 0, 1000)
    return params, jax.random.normal(next(keys), x.shape)


def widths(case, f, params, x, fraction):
    """What to keep: the share `fraction` of each group, heads of the size they have."""
    from jaxarch import transforms as tr

    free = tr.groups(tr.annotate(f, params, x))
    chosen = [g for g in free if g.kind == "width" and g.state == "exact"]
    if case == "transformer":  # the size of a head is a number in the code
        chosen = [g for g in chosen if "mlp" in g.name or g.size == 12]
    return {g.name: fraction for g in chosen}


def measure(case, fraction, repeats):
    """One fraction of one network: times, memory and what they agree to."""
    import jax
    import numpy as np

    from jaxarch import transforms as tr

    f, init, shape = network(case)
    params, x = numbers(init, shape)
    _harness.progress(f"{case}: {fraction:.0%}")
    start = time.perf_counter()
    small, apply, report = tr.prune(
        f, params, x, keep=widths(case, f, params, x, fraction), check=False
    )
    entry = {
        "fraction": fraction,
        "prune_s": time.perf_counter() - start,
        "parameters": report.parameters,
        "flops": report.flops,
        "programs": {},
    }
    sides = {DENSE: (f, params), PRUNED: (apply, small), BY_HAND: (f, small)}
    programs, outputs = _harness.Programs(jax.block_until_ready), {}
    for side, (function, p) in sides.items():
        start = time.perf_counter()
        lowered = jax.jit(function).lower(p, x)
        middle = time.perf_counter()
        compiled = lowered.compile()
        memory = compiled.memory_analysis()
        entry["programs"][side] = {
            "lower_s": middle - start,
            "compile_s": time.perf_counter() - middle,
            "temp_bytes": memory.temp_size_in_bytes,
            "argument_bytes": memory.argument_size_in_bytes,
            "flops": compiled.cost_analysis()["flops"],
        }
        outputs[side] = np.asarray(compiled(p, x))
        programs.add(side, compiled, (p, x), None)
    samples = {side: [] for side in sides}
    for _ in range(repeats):
        for side in sides:
            samples[side].append(programs.time(side))
    for kind in ("wall_s", "cpu_s"):
        times = {side: [s[kind] for s in samples[side]] for side in sides}
        for side in sides:
            entry["programs"][side][kind] = _harness.summary(times[side])
        entry[f"pruned_over_by_hand_{kind}"] = _harness.paired_ratio(
            times[PRUNED], times[BY_HAND]
        )
        entry[f"pruned_over_dense_{kind}"] = _harness.paired_ratio(
            times[PRUNED], times[DENSE]
        )
    scale = np.abs(outputs[BY_HAND]).max()
    entry["difference"] = float(
        np.abs(outputs[PRUNED] - outputs[BY_HAND]).max() / scale
    )
    entry["gates"] = {f"within {AGREEMENT}": entry["difference"] <= AGREEMENT}
    return entry


def reading(case, repeats=5):
    """Seconds to read a network of the paper's size, of which nothing is computed."""
    import jax

    from jaxarch import transforms as tr

    f, init, x = network(case, whole=True)
    params = jax.eval_shape(init, jax.random.key(0))
    found = {}
    for name, read in (("annotate", tr.annotate), ("diagram", tr.diagram)):
        _harness.progress(f"{case}: {name}")
        times = []
        for _ in range(repeats):
            jax.clear_caches()
            start = time.perf_counter()
            read(lambda *args: f(*args), params, x)  # a new function: traced again
            times.append(time.perf_counter() - start)
        found[name] = {"first_s": times[0], **_harness.summary(times)}
    return found


def print_report(report):
    _script.print_machine(report["machine"])
    rows = []
    for name, entry in report["cases"].items():
        dense, pruned = (entry["programs"][side] for side in (DENSE, PRUNED))
        rows.append(
            [
                name,
                f"{entry['parameters'][0] / entry['parameters'][1]:.2f}",
                f"{dense['flops'] / pruned['flops']:.2f}",
                _script.spread(pruned["wall_s"], 1e3, 1),
                f"{1 / entry['pruned_over_dense_wall_s']['median']:.2f}",
                f"{dense['temp_bytes'] / pruned['temp_bytes']:.2f}",
                _script.spread(entry["pruned_over_by_hand_wall_s"], 1, 2),
                _script.spread(entry["pruned_over_by_hand_cpu_s"], 1, 2),
            ]
        )
    header = [
        "network",
        "parameters, times fewer",
        "FLOPs, times fewer",
        "pruned, ms",
        "times faster than dense",
        "temporaries, times fewer",
        "over by hand, wall",
        "over by hand, CPU",
    ]
    _script.print_table(header, rows)
    print()
    header = ["network", "annotate, s", "diagram, s"]
    _script.print_table(
        header,
        [
            [name, *(_script.spread(entry[k], 1, 2) for k in ("annotate", "diagram"))]
            for name, entry in report["reading"].items()
        ],
    )
    ratios = [
        entry["pruned_over_by_hand_wall_s"]["median"]
        for entry in report["cases"].values()
    ]
    if ratios:
        print(f"\nmedian of pruned over by hand: {statistics.median(ratios):.3f}")


def main():
    parser = _script.parser(__doc__, repeats=15)
    _script.add_cases(parser, CASES)
    args = parser.parse_args()
    machine = _script.machine()
    cases, read = {}, {}
    for case in args.cases:
        for fraction in FRACTIONS:
            name = f"{case}, {math.floor(100 * fraction)} %"
            cases[name] = measure(case, fraction, args.repeats)
        read[case] = reading(case)
    import jax

    report = _script.make_report(
        "prune",
        machine,
        jax=jax.__version__,
        dtype="float32",
        repeats=args.repeats,
        cases=cases,
        reading=read,
    )
    print_report(report)
    return _script.finish(report, args.output, _script.failed_gates(cases))


if __name__ == "__main__":
    sys.exit(main())
