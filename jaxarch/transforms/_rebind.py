"""The same equations at smaller shapes.

Tracing the user's Python again at other shapes is not safe: what it computes from its
own constants (the number of heads, a width in a static field) would be another
function, in silence. So the jaxpr that was annotated is applied equation by equation:
each primitive is bound again, with those of its parameters that are shapes taken from
the axes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._jaxprs import scan_arguments
from ._annotate import Annotation
from ._axes import Axis, keep_mask, kept_size
from ._derivatives import cotangent_jaxpr, tangent_jaxpr
from ._walk import Equation, Rules, walk


@dataclasses.dataclass(frozen=True, eq=False)
class _Whole:
    """A constant of the jaxpr, not yet cut."""

    value: Any


def apply_kept(
    annotation: Annotation, keep: Mapping[int, np.ndarray], values: Sequence
) -> list:
    """Evaluates an annotated function with only some indices of its atoms.

    Args:
        annotation: of the function.
        keep: for atoms that are thinned, which of their indices stay.
        values: leaves of the pruned parameters, then of the other arguments.

    Returns:
        The leaves of the result.
    """
    rules = _rebind_rules(annotation, keep)
    outs = walk(annotation.jaxpr, rules, values)  # on no output is anything cut
    return [jnp.asarray(x.value) if isinstance(x, _Whole) else x for x in outs]


def _cutter(annotation: Annotation, keep: Mapping[int, np.ndarray]) -> Callable:
    def cut(whole: _Whole | Any, axes: Sequence[Axis], first: int = 0) -> Any:
        """Takes the kept indices of dimensions from `first` on."""
        value = whole.value if isinstance(whole, _Whole) else whole
        for k, axis in enumerate(axes):
            mask = keep_mask(axis, keep, annotation.sizes)
            if k >= first and not mask.all():
                value = jnp.take(value, np.nonzero(mask)[0], axis=k)
        return value

    return cut


def _rebind_rules(annotation: Annotation, keep: Mapping[int, np.ndarray]) -> Rules:
    sizes = list(annotation.sizes)
    for atom, kept in keep.items():
        sizes[atom] = int(kept.sum())
    cut = _cutter(annotation, keep)

    def mask(axis: Axis) -> np.ndarray:
        return keep_mask(axis, keep, annotation.sizes)

    def shapes(eqn: Equation) -> list[tuple[int, ...]]:
        outs = annotation.record[eqn.path][1]
        return [tuple(kept_size(axis, sizes) for axis in axes) for axes in outs]

    def unchanged(eqn: Equation) -> bool:
        both = zip(
            annotation.record[eqn.path], (eqn.in_avals, eqn.out_avals), strict=True
        )
        return all(
            tuple(kept_size(axis, sizes) for axis in axes) == getattr(a, "shape", ())
            for values, avals in both
            for axes, a in zip(values, avals, strict=True)
        )

    def resolved(rule: Callable) -> Callable:
        """Cuts the constants among the arguments of an equation before its rule."""

        def with_arrays(eqn: Equation, *ins: Any) -> Sequence:
            axes = annotation.record[eqn.path][0]
            return rule(eqn, *arrays(list(ins), axes))

        return with_arrays

    def bind(eqn: Equation, *ins: Any) -> list:
        return eqn.bind(*ins)

    def broadcast_in_dim(eqn: Equation, *ins: Any) -> list:
        return eqn.bind(*ins, shape=shapes(eqn)[0])

    def reshape(eqn: Equation, *ins: Any) -> list:
        return eqn.bind(*ins, new_sizes=shapes(eqn)[0])

    def split(eqn: Equation, x: Any) -> list:
        d = eqn.params["axis"]
        return eqn.bind(x, sizes=tuple(shape[d] for shape in shapes(eqn)))

    def slice_(eqn: Equation, x: Any) -> list:
        axes = annotation.record[eqn.path][0][0]
        counts = [np.concatenate([[0], np.cumsum(mask(axis))]) for axis in axes]
        start, stop = (
            tuple(int(c[i]) for c, i in zip(counts, eqn.params[name], strict=True))
            for name in ("start_indices", "limit_indices")
        )
        return eqn.bind(x, start_indices=start, limit_indices=stop)

    def pad(eqn: Equation, x: Any, value: Any) -> list:
        ins, (outs,) = annotation.record[eqn.path]
        config = []
        for axis, old, (low, high, interior) in zip(
            outs, ins[0], eqn.params["padding_config"], strict=True
        ):
            new, inside = mask(axis), mask(old)
            low = int(new[:low].sum()) if low > 0 else -int(inside[:-low].sum())
            end = len(new) - high
            inner = len(inside) + high
            high = int(new[end:].sum()) if high > 0 else -int(inside[inner:].sum())
            config.append((low, high, interior))
        return eqn.bind(x, value, padding_config=tuple(config))

    def convolution(eqn: Equation, lhs: Any, rhs: Any) -> list:
        numbers = eqn.params["dimension_numbers"]
        groups = eqn.params["feature_group_count"]
        if groups > 1:
            groups = lhs.shape[numbers.lhs_spec[1]] // rhs.shape[numbers.rhs_spec[1]]
        padding = []
        for k, (low, high), dilation in zip(
            numbers.rhs_spec[2:],
            eqn.params["padding"],
            eqn.params["rhs_dilation"],
            strict=True,
        ):
            kept = np.nonzero(mask(annotation.record[eqn.path][0][1][k]))[0]
            window = eqn.in_avals[1].shape[k]
            low -= int(kept[0]) * dilation
            high -= (window - 1 - int(kept[-1])) * dilation
            padding.append((low, high))
        return eqn.bind(lhs, rhs, feature_group_count=groups, padding=tuple(padding))

    def made(eqn: Equation, *ins: Any) -> list:
        """Made whole, then cut: each index keeps its number."""
        rank = ins[0].ndim if ins else 0
        outs = annotation.record[eqn.path][1]
        return [
            cut(x, axes, first=rank)
            for x, axes in zip(eqn.bind(*ins), outs, strict=True)
        ]

    def gather(eqn: Equation, x: Any, indices: Any) -> list:
        old = eqn.in_avals[0].shape
        slices = tuple(
            new if size == whole and size != 1 else size
            for size, whole, new in zip(
                eqn.params["slice_sizes"], old, x.shape, strict=True
            )
        )
        return eqn.bind(x, indices, slice_sizes=slices)

    def dynamic_slice(eqn: Equation, x: Any, *starts: Any) -> list:
        return eqn.bind(x, *starts, slice_sizes=shapes(eqn)[0])

    def checkpoint(eqn: Equation, *ins: Any) -> list:
        policy, prevent_cse = eqn.params["policy"], eqn.params["prevent_cse"]
        outs = annotation.record[eqn.path][1]
        function = jax.checkpoint(
            lambda *args: arrays(eqn.inline(*args), outs),
            policy=policy,
            prevent_cse=prevent_cse,
        )
        return function(*ins)

    def custom_jvp(eqn: Equation, *ins: Any) -> list:
        if "derivative" in eqn.path:
            return eqn.inline(*ins)
        if unchanged(eqn):
            return eqn.bind(*ins)
        jaxpr, inputs, outputs = tangent_jaxpr(eqn.eqn)
        outs = annotation.record[eqn.path][1]

        @jax.custom_jvp
        def function(*args):
            return arrays(eqn.inline(*args), outs)

        @function.defjvp
        def _(primals, tangents):
            given = [tangents[i] for i in inputs]
            both = eqn.walk(jaxpr, [*primals, *given], "derivative")
            out = arrays(both[: len(outs)], outs)
            slopes = dict(
                zip(
                    outputs,
                    arrays(both[len(outs) :], [outs[i] for i in outputs]),
                    strict=True,
                )
            )
            return out, [
                slopes[i] if i in slopes else np.zeros(x.shape, jax.dtypes.float0)
                for i, x in enumerate(out)
            ]

        return function(*ins)

    def custom_vjp(eqn: Equation, *ins: Any) -> list:
        if "derivative" in eqn.path:
            return eqn.inline(*ins)
        if unchanged(eqn):
            return eqn.bind(*ins)
        jaxpr, inputs, outputs = cotangent_jaxpr(eqn.eqn)
        in_axes, outs = annotation.record[eqn.path]

        @jax.custom_vjp
        def function(*args):
            return arrays(eqn.inline(*args), outs)

        def backward(args, cotangents):
            given = [cotangents[i] for i in outputs]
            back = eqn.walk(jaxpr, [*args, *given], "derivative")
            slopes = iter(arrays(back, [in_axes[i] for i in inputs]))
            return tuple(
                next(slopes) if i in inputs else None for i in range(len(args))
            )

        function.defvjp(lambda *args: (function(*args), args), backward)
        return function(*ins)

    def scan(eqn: Equation, *ins: Any) -> list:
        consts, carried = scan_arguments(eqn.eqn)
        first = consts + carried
        fixed, start, xs = ins[:consts], list(ins[consts:first]), list(ins[first:])
        outs = annotation.record[eqn.path][1]
        outs = [*outs[:carried], *(axes[1:] for axes in outs[carried:])]

        def body(carry: list, slices: list) -> tuple[list, list]:
            after = eqn.walk(eqn.params["jaxpr"], [*fixed, *carry, *slices])
            after = arrays(after, outs)
            return after[:carried], after[carried:]

        carry, ys = lax.scan(
            body,
            start,
            xs,
            length=xs[0].shape[0] if xs else eqn.params["length"],
            reverse=eqn.params["reverse"],
            unroll=eqn.params["unroll"],
        )
        return [*carry, *ys]

    def while_(eqn: Equation, *ins: Any) -> list:
        test, body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        a, b, carry = ins[:test], ins[test : test + body], list(ins[test + body :])
        outs = annotation.record[eqn.path][1]

        def go_on(state: list) -> Any:
            values = [*a, *state]
            (test,) = eqn.walk(eqn.params["cond_jaxpr"], values, "cond_jaxpr")
            return test.value if isinstance(test, _Whole) else test

        def turn(state: list) -> list:
            values = [*b, *state]
            return arrays(
                eqn.walk(eqn.params["body_jaxpr"], values, "body_jaxpr"), outs
            )

        return lax.while_loop(go_on, turn, carry)

    def cond(eqn: Equation, index: Any, *ins: Any) -> list:
        outs = annotation.record[eqn.path][1]

        def branch(k: int, jaxpr: Any) -> Callable:
            return lambda *args: arrays(eqn.walk(jaxpr, args, f"branch {k}"), outs)

        branches = [branch(k, b) for k, b in enumerate(eqn.params["branches"])]
        return lax.switch(index, branches, *ins)

    def arrays(values: list, axes: Sequence) -> list:
        """Cuts the constants among the results of a loop, a branch or a call."""
        return [
            cut(x, a) if isinstance(x, _Whole) else x
            for x, a in zip(values, axes, strict=True)
        ]

    rules: dict[str, Callable] = {
        "broadcast_in_dim": broadcast_in_dim,
        "checkpoint": checkpoint,
        "cond": cond,
        "conv_general_dilated": convolution,
        "custom_jvp_call": custom_jvp,
        "custom_vjp_call": custom_vjp,
        "custom_vjp_call_jaxpr": custom_vjp,
        "dynamic_slice": dynamic_slice,
        "gather": gather,
        "iota": made,
        "pad": pad,
        "random_bits": made,
        "random_split": made,
        "remat": checkpoint,
        "remat2": checkpoint,
        "reshape": reshape,
        "scan": scan,
        "slice": slice_,
        "split": split,
        "while": while_,
    }
    rules = {name: resolved(rule) for name, rule in rules.items()}
    return Rules(primitives=rules, constant=_Whole, other=resolved(bind))
