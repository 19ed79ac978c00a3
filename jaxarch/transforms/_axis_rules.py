"""What each primitive says about the axes of its arguments and results.

The values of this walk are lists of axes (`_axes.py`), one for each dimension. A rule
makes those one that the primitive needs to be of one size index by index (the two sides
of a contraction, the operands of an addition), hands axes on to the results, and
freezes those on which positions have a meaning of their own (a window, a sorted axis,
what another array indexes). A primitive without a rule freezes all that it touches.
"""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._jaxprs import scan_arguments
from ._axes import Axes, Axis
from ._derivatives import cotangent_jaxpr, tangent_jaxpr
from ._primitives import (
    ELEMENTWISE,
    REDUCTIONS,
    SCANS,
    SCATTERS,
    TRAILING,
    WINDOWS,
)
from ._walk import Equation, Rules


def axis_rules(axes: Axes, record: dict, unknown: collections.Counter) -> Rules:
    """Gives the reading of a jaxpr that fills a table of atoms.

    Args:
        axes: the table.
        record: receives, for each equation, the axes of its arguments and results.
        unknown: receives the primitives without a rule, and how often they were met.
    """

    def constant(value: Any) -> list[Axis]:
        return axes.fresh_axes(np.shape(value))

    def other(eqn: Equation, *ins: list[Axis]) -> list[list[Axis]]:
        unknown[eqn.name] += 1
        reason = f"touched by the primitive {eqn.name}, which is not known"
        for value in ins:
            for axis in value:
                axes.freeze(axis, reason)
        return [axes.fresh_axes(getattr(a, "shape", ()), reason) for a in eqn.out_avals]

    def together(values: Sequence[list[Axis]], shapes: Sequence[tuple]) -> list[Axis]:
        """One list of axes for operands that agree where they are not of size 1."""
        out: list[Axis] = [((),)] * len(shapes[0])
        size = [1] * len(shapes[0])
        for value, shape in zip(values, shapes, strict=True):
            for k in range(len(shape)):
                if shape[k] == 1:
                    continue
                if size[k] == 1:
                    out[k], size[k] = value[k], shape[k]
                else:
                    axes.unify(out[k], value[k])
        return out

    def elementwise(eqn: Equation, *ins: list[Axis]) -> list[list[Axis]]:
        shape = eqn.out_avals[0].shape
        ranked = [
            (value, aval.shape)
            for value, aval in zip(ins, eqn.in_avals, strict=True)
            if len(aval.shape) == len(shape)  # a predicate or a bound may be a scalar
        ]
        if not ranked:
            return other(eqn, *ins)
        out = together([v for v, _ in ranked], [s for _, s in ranked])
        return [out] * len(eqn.out_avals)

    def identity(eqn: Equation, *ins: list[Axis]) -> list[list[Axis]]:
        return list(ins)

    def dot_general(eqn: Equation, lhs: list[Axis], rhs: list[Axis]):
        contract, batch = eqn.params["dimension_numbers"]
        for i, j in (*zip(*contract, strict=True), *zip(*batch, strict=True)):
            axes.unify(lhs[i], rhs[j])
        rows = [a for i, a in enumerate(lhs) if i not in (*contract[0], *batch[0])]
        columns = [a for i, a in enumerate(rhs) if i not in (*contract[1], *batch[1])]
        return [[*(lhs[i] for i in batch[0]), *rows, *columns]]

    def convolution(eqn: Equation, lhs: list[Axis], rhs: list[Axis]):
        numbers = eqn.params["dimension_numbers"]
        groups = eqn.params["feature_group_count"]
        if eqn.params["batch_group_count"] != 1:
            return other(eqn, lhs, rhs)
        channels, outputs, inputs = (
            lhs[numbers.lhs_spec[1]],
            rhs[numbers.rhs_spec[0]],
            rhs[numbers.rhs_spec[1]],
        )
        if groups == 1:
            axes.unify(channels, inputs)
        else:
            share = eqn.in_avals[0].shape[numbers.lhs_spec[1]] // groups
            group, part = axes.factors(channels, (groups, share))
            share = eqn.in_avals[1].shape[numbers.rhs_spec[0]] // groups
            axes.unify(group, axes.factors(outputs, (groups, share))[0])
            axes.unify(part, inputs)
        out = axes.fresh_axes(eqn.out_avals[0].shape, "positions of a convolution")
        out[numbers.out_spec[0]] = lhs[numbers.lhs_spec[0]]
        out[numbers.out_spec[1]] = outputs
        for k in numbers.lhs_spec[2:]:
            axes.freeze(lhs[k], "positions of a convolution")
        for k in numbers.rhs_spec[2:]:
            axes.mark(rhs[k], "window")
        return [out]

    def broadcast_in_dim(eqn: Equation, value: list[Axis], *_):
        shape = eqn.params["shape"]
        out = axes.fresh_axes(shape)
        for i, d in enumerate(eqn.params["broadcast_dimensions"]):
            if eqn.in_avals[0].shape[i] == shape[d]:
                out[d] = value[i]
        return [out]

    def reshape(eqn: Equation, value: list[Axis], *_):
        if eqn.params.get("dimensions") is not None:
            return other(eqn, value)
        old, new = eqn.in_avals[0].shape, eqn.out_avals[0].shape
        out: list[Axis] = [((),)] * len(new)
        if 0 in old:
            return [axes.fresh_axes(new)]
        for merged, parts in runs(old, new):
            whole = axes.product([value[i] for i in merged])
            if len(parts) == 1:
                out[parts[0]] = whole
                continue
            for j, part in zip(
                parts, axes.factors(whole, [new[j] for j in parts]), strict=True
            ):
                out[j] = part
        return [out]

    def squeeze(eqn: Equation, value: list[Axis]):
        dropped = eqn.params["dimensions"]
        return [[a for i, a in enumerate(value) if i not in dropped]]

    def expand_dims(eqn: Equation, value: list[Axis]):
        out = list(value)
        for d in sorted(eqn.params["dimensions"]):
            out.insert(d, ((),))
        return [out]

    def transpose(eqn: Equation, value: list[Axis]):
        return [[value[i] for i in eqn.params["permutation"]]]

    def reduction(eqn: Equation, value: list[Axis], *_):
        dropped = eqn.params["axes"]
        if eqn.name in ("argmax", "argmin"):
            for i in dropped:
                axes.freeze(value[i], f"indexed by {eqn.name}")
        return [[a for i, a in enumerate(value) if i not in dropped]]

    def scan_along(eqn: Equation, value: list[Axis]):
        along = eqn.params.get("dimensions", (eqn.params.get("axis"),))
        for k in along:
            axes.freeze(value[k], f"in the order of {eqn.name}")
        return [value]

    def sort(eqn: Equation, *ins: list[Axis]):
        out = together(ins, [aval.shape for aval in eqn.in_avals])
        axes.freeze(out[eqn.params["dimension"]], "in the order of sort")
        return [out] * len(ins)

    def concatenate(eqn: Equation, *ins: list[Axis]):
        d = eqn.params["dimension"]
        for value in ins[1:]:
            for k, (x, y) in enumerate(zip(ins[0], value, strict=True)):
                if k != d:
                    axes.unify(x, y)
        out = list(ins[0])
        out[d] = axes.join([value[d] for value in ins])
        return [out]

    def split(eqn: Equation, value: list[Axis]):
        d = eqn.params["axis"]
        parts = axes.summands(value[d], eqn.params["sizes"])
        return [[*value[:d], part, *value[d + 1 :]] for part in parts]

    def slice_(eqn: Equation, value: list[Axis]):
        rank = len(value)
        out = []
        for axis, start, stop, stride, size in zip(
            value,
            eqn.params["start_indices"],
            eqn.params["limit_indices"],
            eqn.params["strides"] or (1,) * rank,
            eqn.in_avals[0].shape,
            strict=True,
        ):
            if (start, stop, stride) == (0, size, 1):
                out.append(axis)
            elif stride == 1:
                sizes = (start, stop - start, size - stop)
                out.append(axes.summands(axis, sizes)[1])
            else:
                axes.freeze(axis, "sliced with a stride")
                count = len(range(start, stop, stride))
                out.append(axes.fresh(count, "sliced with a stride"))
        return [out]

    def stack(eqn: Equation, *ins: list[Axis]):
        for value in ins[1:]:
            unify_all([ins[0]], [value])
        d, one = eqn.params["axis"], ((),)
        return [[*ins[0][:d], one * len(ins), *ins[0][d:]]]

    def unstack(eqn: Equation, value: list[Axis]):
        d = eqn.params["axis"]
        axes.summands(value[d], (1,) * len(eqn.out_avals))
        return [[*value[:d], *value[d + 1 :]]] * len(eqn.out_avals)

    def tile(eqn: Equation, value: list[Axis]):
        reps = eqn.params["reps"]
        return [
            [
                axes.product((axes.fresh(n, "repeated by tile"), axis))
                for n, axis in zip(reps, value, strict=True)
            ]
        ]

    def pad(eqn: Equation, value: list[Axis], _):
        out = []
        for axis, (low, high, interior), size, new in zip(
            value,
            eqn.params["padding_config"],
            eqn.in_avals[0].shape,
            eqn.out_avals[0].shape,
            strict=True,
        ):
            if (low, high, interior) == (0, 0, 0):
                out.append(axis)
            elif interior or size + min(low, 0) + min(high, 0) < 0:
                axes.freeze(axis, "padded between its positions")
                out.append(axes.fresh(new, "padded between its positions"))
            else:
                cut = (max(-low, 0), size + min(low, 0) + min(high, 0), max(-high, 0))
                inside = axes.summands(axis, cut)[1]
                ends = axes.fresh_axes((max(low, 0), max(high, 0)))
                out.append(axes.join((ends[0], inside, ends[1])))
        return [out]

    def made(eqn: Equation, *ins: list[Axis]):
        """Numbers made from nothing, or from keys: `iota`, `random_bits`."""
        prefix = list(ins[0]) if ins else []
        return [
            prefix + axes.fresh_axes(aval.shape[len(prefix) :])
            for aval in eqn.out_avals
        ]

    def random_wrap(eqn: Equation, value: list[Axis]):
        rank = len(eqn.out_avals[0].shape)
        for axis in value[rank:]:
            axes.freeze(axis, "the words of a random key")
        return [value[:rank]]

    def random_unwrap(eqn: Equation, value: list[Axis]):
        words = eqn.out_avals[0].shape[len(value) :]
        return [value + axes.fresh_axes(words, "the words of a random key")]

    def window(eqn: Equation, *ins: list[Axis]):
        values = [v for v in ins if v]
        out = together(values, [eqn.in_avals[0].shape] * len(values))
        for k in range(len(out)):
            if _windowed(eqn, k):
                axes.freeze(out[k], "positions of a window")
                new = eqn.out_avals[0].shape[k]
                out[k] = axes.fresh(new, "positions of a window")
        return [out] * len(eqn.out_avals)

    def gather(eqn: Equation, value: list[Axis], indices: list[Axis]):
        numbers, shape = eqn.params["dimension_numbers"], eqn.in_avals[0].shape
        out = axes.fresh_axes(eqn.out_avals[0].shape)
        dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        kept = [i for i in range(len(value)) if i not in dropped]
        for o, i in zip(numbers.offset_dims, kept, strict=True):
            if eqn.params["slice_sizes"][i] == shape[i]:
                out[o] = value[i]
            else:
                axes.freeze(value[i], "indexed by gather")
                axes.freeze(out[o], "indexed by gather")
        for i in numbers.collapsed_slice_dims:
            axes.freeze(value[i], "indexed by gather")
        batch = [k for k in range(len(out)) if k not in numbers.offset_dims]
        for k, axis in zip(batch, indices[:-1], strict=True):
            out[k] = axis
        for i, j in zip(
            numbers.operand_batching_dims,
            numbers.start_indices_batching_dims,
            strict=True,
        ):
            axes.unify(value[i], indices[j])
        return [out]

    def scatter(eqn: Equation, value: list[Axis], indices: list[Axis], update):
        numbers = eqn.params["dimension_numbers"]
        shape, patch = eqn.in_avals[0].shape, eqn.in_avals[2].shape
        dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        kept = [i for i in range(len(value)) if i not in dropped]
        indexed = "indexed by scatter"
        for u, i in zip(numbers.update_window_dims, kept, strict=True):
            whole = i not in numbers.scatter_dims_to_operand_dims
            if patch[u] == shape[i] and whole:
                axes.unify(update[u], value[i])
            else:
                axes.freeze(value[i], indexed)
                axes.freeze(update[u], indexed)
        for i in numbers.inserted_window_dims:
            axes.freeze(value[i], indexed)
        batch = [k for k in range(len(update)) if k not in numbers.update_window_dims]
        for k, axis in zip(batch, indices[:-1], strict=True):
            axes.unify(update[k], axis)
        for i, j in zip(
            numbers.operand_batching_dims,
            numbers.scatter_indices_batching_dims,
            strict=True,
        ):
            axes.unify(value[i], indices[j])
        return [value]

    def dynamic_slice(eqn: Equation, value: list[Axis], *_):
        out = list(value)
        for k, size in enumerate(eqn.params["slice_sizes"]):
            if size != eqn.in_avals[0].shape[k]:
                axes.freeze(value[k], "indexed by dynamic_slice")
                out[k] = axes.fresh(size, "indexed by dynamic_slice")
        return [out]

    def dynamic_update_slice(eqn: Equation, value: list[Axis], update, *_):
        for k, size in enumerate(eqn.in_avals[1].shape):
            if size == eqn.in_avals[0].shape[k]:
                axes.unify(value[k], update[k])
            else:
                axes.freeze(value[k], "indexed by dynamic_update_slice")
                axes.freeze(update[k], "indexed by dynamic_update_slice")
        return [value]

    def fft(eqn: Equation, value: list[Axis]):
        rank = len(eqn.params["fft_lengths"])
        return trailing(eqn, rank, value)

    def trailing(eqn: Equation, rank: int, *ins: list[Axis]):
        reason = f"mixed by {eqn.name}"
        lead = len(ins[0]) - rank
        for value in ins:
            for axis in value[lead:]:
                axes.freeze(axis, reason)
            for x, y in zip(ins[0][:lead], value[:lead], strict=True):
                axes.unify(x, y)
        return [
            list(ins[0][:lead]) + axes.fresh_axes(aval.shape[lead:], reason)
            for aval in eqn.out_avals
        ]

    def scan(eqn: Equation, *ins: list[Axis]):
        consts, carried = scan_arguments(eqn.eqn)
        length = axes.fresh(eqn.params["length"])
        axes.mark(length, "depth")
        first = consts + carried
        for value in ins[first:]:
            axes.unify(value[0], length)
        slices = [value[1:] for value in ins[first:]]
        out = eqn.walk(eqn.params["jaxpr"], [*ins[:first], *slices])
        unify_all(out[:carried], ins[consts:first])
        return [*out[:carried], *([length, *value] for value in out[carried:])]

    def while_(eqn: Equation, *ins: list[Axis]):
        test, body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carry = ins[test + body :]
        eqn.walk(eqn.params["cond_jaxpr"], [*ins[:test], *carry], "cond_jaxpr")
        inputs = [*ins[test : test + body], *carry]
        unify_all(eqn.walk(eqn.params["body_jaxpr"], inputs, "body_jaxpr"), carry)
        return list(carry)

    def cond(eqn: Equation, _, *ins: list[Axis]):
        first, *rest = (
            eqn.walk(branch, ins, f"branch {k}")
            for k, branch in enumerate(eqn.params["branches"])
        )
        for out in rest:
            unify_all(first, out)
        return first

    def unify_all(xs: Sequence[list[Axis]], ys: Sequence[list[Axis]]) -> None:
        for x, y in zip(xs, ys, strict=True):
            for a, b in zip(x, y, strict=True):
                axes.unify(a, b)

    # The derivative that a function brings along is walked too, with tangents and
    # cotangents on the axes of what they belong to: pruned, it needs smaller shapes.
    # What it calls again is written out.
    def custom_jvp(eqn: Equation, *ins: list[Axis]):
        out = eqn.inline(*ins)
        if "derivative" in eqn.path:
            return out
        jaxpr, inputs, outputs = tangent_jaxpr(eqn.eqn)
        tangents = eqn.walk(jaxpr, [*ins, *(ins[i] for i in inputs)], "derivative")
        unify_all(tangents, [*out, *(out[i] for i in outputs)])
        return out

    def custom_vjp(eqn: Equation, *ins: list[Axis]):
        out = eqn.inline(*ins)
        if "derivative" in eqn.path:
            return out
        jaxpr, inputs, outputs = cotangent_jaxpr(eqn.eqn)
        back = eqn.walk(jaxpr, [*ins, *(out[i] for i in outputs)], "derivative")
        unify_all(back, [ins[i] for i in inputs])
        return out

    rules: dict[str, Callable] = {
        **dict.fromkeys(ELEMENTWISE, elementwise),
        **dict.fromkeys(REDUCTIONS, reduction),
        **dict.fromkeys(SCANS, scan_along),
        **dict.fromkeys(WINDOWS, window),
        **dict.fromkeys(SCATTERS, scatter),
        **{
            name: lambda eqn, *ins, rank=rank: trailing(eqn, rank, *ins)
            for name, rank in TRAILING.items()
        },
        "broadcast_in_dim": broadcast_in_dim,
        "concatenate": concatenate,
        "cond": cond,
        "conv_general_dilated": convolution,
        "custom_jvp_call": custom_jvp,
        "custom_vjp_call": custom_vjp,
        "custom_vjp_call_jaxpr": custom_vjp,
        "dot_general": dot_general,
        "dynamic_slice": dynamic_slice,
        "dynamic_update_slice": dynamic_update_slice,
        "expand_dims": expand_dims,
        "fft": fft,
        "gather": gather,
        "iota": made,
        "device_put": identity,
        "optimization_barrier": identity,
        "pad": pad,
        "random_bits": made,
        "random_split": made,
        "random_unwrap": random_unwrap,
        "random_wrap": random_wrap,
        "reshape": reshape,
        "scan": scan,
        "slice": slice_,
        "sort": sort,
        "split": split,
        "squeeze": squeeze,
        "stack": stack,
        "tile": tile,
        "transpose": transpose,
        "unstack": unstack,
        "while": while_,
    }

    def located(rule: Callable) -> Callable:
        def with_place(eqn: Equation, *ins: list[Axis]):
            axes.where = eqn
            return rule(eqn, *ins)

        return with_place

    rules = {name: located(rule) for name, rule in rules.items()}
    return Rules(primitives=rules, constant=constant, other=other, record=record)


def _windowed(eqn: Equation, k: int) -> bool:
    """Tells whether a window mixes, drops or adds positions of a dimension."""
    changed = eqn.out_avals[0].shape[k] != eqn.in_avals[0].shape[k]
    return changed or eqn.params["window_dimensions"][k] != 1


def runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[list, list]]:
    """Pairs runs of dimensions of equal product, those of size 1 left out."""
    left = [i for i, n in enumerate(old) if n != 1]
    right = [j for j, n in enumerate(new) if n != 1]
    runs = []
    while left or right:
        a, b = [left.pop(0)], [right.pop(0)]
        while (m := math.prod(old[i] for i in a)) != (
            n := math.prod(new[j] for j in b)
        ):
            if m < n:
                a.append(left.pop(0))
            else:
                b.append(right.pop(0))
        runs.append((a, b))
    return runs
