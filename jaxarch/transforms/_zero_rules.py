"""Where a network is zero once the parameters of a group are.

A group may be cut out without changing the function if every sum over its axes meets a
zero at the indices that are cut. The values of this walk say where that is known: for
each dimension of an array, the atoms (`_axes.py`) at whose removed indices it is zero.
A parameter is, along all its axes; a product is where one factor is; `tanh` is where
its argument is, and `sigmoid` nowhere. A sum over an atom without a zero (the variance
of a layer normalisation, a softmax) makes the group of that atom approximate.

Every atom is followed at once, as if it alone were thinned.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._jaxprs import scan_arguments
from ._axes import Axis, atoms_of
from ._primitives import (
    ELEMENTWISE,
    KEEPS,
    REDUCTIONS,
    SCANS,
    SCATTERS,
    SINGULAR,
    TRAILING,
    WINDOWS,
    ZERO_AT_ZERO,
)
from ._walk import Equation, Rules


@dataclasses.dataclass(frozen=True)
class Zero:
    """What is known of an array.

    Attributes:
        dims: for each dimension, the atoms at whose removed indices the array is zero.
        number: its value where that is one number for all entries, else `None`.
        carried: which value carried into a loop it is a copy of, else `None`.
    """

    dims: tuple[frozenset[int], ...]
    number: float | None = None
    carried: int | None = None

    @property
    def nothing(self) -> bool:
        """Tells whether the array is zero everywhere."""
        return self.number == 0


def zero_rules(
    record: dict[tuple, tuple[list, list]],
    depth: frozenset[int],
    blame: Callable[[int, str], object],
) -> Rules:
    """Gives the reading that finds the groups which may be cut exactly.

    Args:
        record: the axes of the arguments and results of each equation, in normal form.
        depth: the atoms of lengths of loops.
        blame: `blame(atom, reason)` is called for an atom that is not exact.
    """

    def axes_of(eqn: Equation) -> tuple[list[list[Axis]], list[list[Axis]]]:
        return record[eqn.path]

    def constant(value: Any) -> Zero:
        rank, number = np.ndim(value), None
        if np.size(value) == 1 and jnp.issubdtype(jnp.result_type(value), jnp.number):
            number = float(np.real(np.reshape(value, ())))
        return Zero((frozenset(),) * rank, number)

    def unknown(eqn: Equation, *_: Zero) -> list[Zero]:
        return [
            Zero((frozenset(),) * len(getattr(a, "shape", ()))) for a in eqn.out_avals
        ]

    def everywhere(axes: list[Axis]) -> Zero:
        return Zero(tuple(frozenset(atoms_of(axis)) for axis in axes), 0.0)

    def at(x: Zero, k: int, atom: int, shape: tuple, rank: int) -> bool:
        """Is `x`, as an operand of `rank` dimensions, zero at `atom` of dimension k?"""
        if x.nothing:
            return True
        return len(shape) == rank and shape[k] != 1 and atom in x.dims[k]

    def elementwise(eqn: Equation, *ins: Zero) -> list[Zero]:
        shapes = [aval.shape for aval in eqn.in_avals]
        rank = len(eqn.out_avals[0].shape)
        outs = axes_of(eqn)[1]
        if eqn.name in KEEPS:
            return [ins[0]]
        if eqn.name in ("add", "add_any", "sub"):
            shape = eqn.out_avals[0].shape
            if ins[1].nothing and shapes[0] == shape:
                return [ins[0]]
            if ins[0].nothing and shapes[1] == shape and eqn.name != "sub":
                return [ins[1]]
        if all(x.nothing for x in ins) and zero(eqn, ins, [True] * len(ins)):
            return [everywhere(axes) for axes in outs]
        if eqn.name in ("mul", "and") and any(x.nothing for x in ins):
            return [everywhere(axes) for axes in outs]
        dims = []
        for k, axis in enumerate(outs[0]):
            zeros = set()
            for atom in atoms_of(axis):
                here = [
                    at(x, k, atom, shape, rank)
                    for x, shape in zip(ins, shapes, strict=True)
                ]
                if any(here) and zero(eqn, ins, here):
                    zeros.add(atom)
                singular = (
                    (eqn.name == "div" and here[1])
                    or (eqn.name in SINGULAR and here[0])
                    or (eqn.name == "integer_pow" and here[0] and eqn.params["y"] < 0)
                )
                if singular:
                    blame(atom, f"{eqn.name} is not finite where its parameters are 0")
            dims.append(frozenset(zeros))
        return [Zero(tuple(dims))] * len(outs)

    def zero(eqn: Equation, ins: Sequence[Zero], here: list[bool]) -> bool:
        """Is the result zero where the arguments marked in `here` are?"""
        name = eqn.name
        numbers = [0.0 if h else x.number for x, h in zip(ins, here, strict=True)]
        if name in ("mul", "and"):
            return any(here)
        if name == "div":
            return here[0] and not here[1]
        if name == "select_n":
            return all(here[1:])
        if name == "clamp":
            low, x, high = numbers
            return x == 0 and (
                low is not None and high is not None and low <= 0 <= high
            )
        if name == "pow":
            return here[0] and numbers[1] is not None and numbers[1] > 0
        if name == "integer_pow":
            return here[0] and eqn.params["y"] > 0
        known = [x for x in numbers if x is not None]
        if name in ("max", "min") and len(known) == len(numbers):
            return (max if name == "max" else min)(known) == 0
        return name in ZERO_AT_ZERO and all(here)

    def product(eqn: Equation, pairs: Sequence, lhs: Zero, rhs: Zero) -> None:
        """Blames the atoms of contracted dimensions without a zero on either side."""
        left, right = axes_of(eqn)[0]
        for i, j in pairs:
            for atom in {*atoms_of(left[i]), *atoms_of(right[j])}:
                if not (
                    lhs.nothing
                    or rhs.nothing
                    or atom in lhs.dims[i]
                    or atom in rhs.dims[j]
                ):
                    blame(atom, f"{eqn.name} sums over values that are not 0")

    def dot_general(eqn: Equation, lhs: Zero, rhs: Zero) -> list[Zero]:
        contract, batch = eqn.params["dimension_numbers"]
        product(eqn, list(zip(*contract, strict=True)), lhs, rhs)
        if lhs.nothing or rhs.nothing:
            return [everywhere(axes_of(eqn)[1][0])]
        both = [lhs.dims[i] | rhs.dims[j] for i, j in zip(*batch, strict=True)]
        rows = [z for i, z in enumerate(lhs.dims) if i not in (*contract[0], *batch[0])]
        columns = [
            z for i, z in enumerate(rhs.dims) if i not in (*contract[1], *batch[1])
        ]
        return [Zero((*both, *rows, *columns))]

    def convolution(eqn: Equation, lhs: Zero, rhs: Zero) -> list[Zero]:
        if eqn.params["batch_group_count"] != 1:
            return unknown(eqn)
        numbers = eqn.params["dimension_numbers"]
        left, right = axes_of(eqn)[0]
        out = axes_of(eqn)[1][0]
        if lhs.nothing or rhs.nothing:
            return [everywhere(out)]
        channels, outputs, inputs = (
            numbers.lhs_spec[1],
            numbers.rhs_spec[0],
            numbers.rhs_spec[1],
        )
        zeros = lhs.dims[channels] | rhs.dims[inputs]
        for atom in atoms_of(right[inputs]):
            if atom not in zeros:
                blame(atom, f"{eqn.name} sums over values that are not 0")
        for k in numbers.rhs_spec[2:]:
            for atom in atoms_of(right[k]):
                if atom not in rhs.dims[k]:
                    blame(atom, f"{eqn.name} sums over values that are not 0")
        grouped = set(atoms_of(left[channels])) - set(atoms_of(right[inputs]))
        dims = [frozenset()] * len(out)
        dims[numbers.out_spec[0]] = lhs.dims[numbers.lhs_spec[0]]
        dims[numbers.out_spec[1]] = rhs.dims[outputs] | (lhs.dims[channels] & grouped)
        return [Zero(tuple(dims))]

    def by_atom(eqn: Equation, *ins: Zero) -> list[Zero]:
        """Positions move, each keeping its atoms: zero where every source is."""
        in_axes, out_axes = axes_of(eqn)
        arrays = [
            (x, axes) for x, axes in zip(ins, in_axes, strict=True) if axes
        ] or list(zip(ins[:1], in_axes[:1], strict=True))
        numbers = {x.number for x, _ in arrays}
        number = numbers.pop() if len(numbers) == 1 else None
        if number == 0:
            return [everywhere(axes) for axes in out_axes]
        lost = {
            atom
            for x, axes in arrays
            if not x.nothing
            for zeros, axis in zip(x.dims, axes, strict=True)
            for atom in atoms_of(axis)
            if atom not in zeros
        }
        found = {
            atom
            for x, axes in arrays
            for zeros, axis in zip(x.dims, axes, strict=True)
            for atom in (atoms_of(axis) if x.nothing else zeros)
        }
        return [
            Zero(
                tuple(frozenset(atoms_of(axis)) & found - lost for axis in axes), number
            )
            for axes in out_axes
        ]

    def broadcast_in_dim(eqn: Equation, x: Zero, *_: Zero) -> list[Zero]:
        out, shape = axes_of(eqn)[1][0], eqn.params["shape"]
        if x.nothing:
            return [everywhere(out)]
        dims = [frozenset()] * len(shape)
        for i, d in enumerate(eqn.params["broadcast_dimensions"]):
            if eqn.in_avals[0].shape[i] == shape[d]:
                dims[d] = x.dims[i]
        return [Zero(tuple(dims), x.number)]

    def transpose(eqn: Equation, x: Zero) -> list[Zero]:
        dims = tuple(x.dims[i] for i in eqn.params["permutation"])
        return [Zero(dims, x.number)]

    def squeeze(eqn: Equation, x: Zero) -> list[Zero]:
        dropped = eqn.params["dimensions"]
        dims = tuple(z for i, z in enumerate(x.dims) if i not in dropped)
        return [Zero(dims, x.number)]

    def concatenate(eqn: Equation, *ins: Zero) -> list[Zero]:
        d = eqn.params["dimension"]
        in_axes, out_axes = axes_of(eqn)
        if all(x.nothing for x in ins):
            return [everywhere(out_axes[0])]
        dims = []
        for k in range(len(out_axes[0])):
            zeros = set(atoms_of(out_axes[0][k]))
            for x, axes in zip(ins, in_axes, strict=True):
                if not x.nothing:
                    zeros -= (
                        set(atoms_of(axes[k] if k == d else out_axes[0][k]))
                        - (x.dims[k])
                    )
            dims.append(frozenset(zeros))
        return [Zero(tuple(dims))]

    def stack(eqn: Equation, *ins: Zero) -> list[Zero]:
        if all(x.nothing for x in ins):
            return [everywhere(axes_of(eqn)[1][0])]
        d = eqn.params["axis"]
        zeros = [x.dims for x in ins if not x.nothing]
        dims = [frozenset.intersection(*same) for same in zip(*zeros, strict=True)]
        return [Zero((*dims[:d], frozenset(), *dims[d:]))]

    def unstack(eqn: Equation, x: Zero) -> list[Zero]:
        d = eqn.params["axis"]
        out = Zero((*x.dims[:d], *x.dims[d + 1 :]), x.number)
        return [out] * len(eqn.out_avals)

    def part(eqn: Equation, x: Zero, *_: Zero) -> list[Zero]:
        """Some positions of each dimension, in their order."""
        outs = axes_of(eqn)[1]
        if x.nothing:
            return [everywhere(axes) for axes in outs]
        return [
            Zero(
                tuple(
                    z & frozenset(atoms_of(a))
                    for z, a in zip(x.dims, axes, strict=True)
                ),
                x.number,
            )
            for axes in outs
        ]

    def pad(eqn: Equation, x: Zero, padding: Zero) -> list[Zero]:
        out = axes_of(eqn)[1][0]
        inside = axes_of(eqn)[0][0]
        if x.nothing and padding.nothing:
            return [everywhere(out)]
        dims = []
        for zeros, axis, old in zip(x.dims, out, inside, strict=True):
            ends = set(atoms_of(axis)) - set(atoms_of(old))
            own = set(atoms_of(old)) if x.nothing else set(zeros)
            dims.append(frozenset(own | (ends if padding.nothing else set())))
        return [Zero(tuple(dims))]

    def reduction(eqn: Equation, x: Zero, *rest: Zero) -> list[Zero]:
        dropped = eqn.params["axes"]
        axes, outs = axes_of(eqn)
        if x.nothing and eqn.name not in ("argmax", "argmin"):
            return [everywhere(out) for out in outs]
        for i in dropped:
            for atom in atoms_of(axes[0][i]):
                vanishes = eqn.name in ("reduce_sum", "reduce_or", "reduce_xor")
                if not (vanishes and atom in x.dims[i]):
                    blame(atom, f"{eqn.name} goes over values that are not 0")
        left = tuple(z for i, z in enumerate(x.dims) if i not in dropped)
        if eqn.name in ("argmax", "argmin"):
            left = (frozenset(),) * len(left)
        return [Zero(left)]

    def along(eqn: Equation, x: Zero) -> list[Zero]:
        return unknown(eqn) if eqn.name == "cumlogsumexp" else [Zero(x.dims)]

    def sort(eqn: Equation, *ins: Zero) -> list[Zero]:
        return [Zero(x.dims) for x in ins] if len(ins) == 1 else unknown(eqn)

    def window(eqn: Equation, *ins: Zero) -> list[Zero]:
        if eqn.name == "reduce_window" or len(ins) != 1:
            return unknown(eqn)
        return part(eqn, ins[0])

    def gather(eqn: Equation, x: Zero, _: Zero) -> list[Zero]:
        out = axes_of(eqn)[1][0]
        if x.nothing:
            return [everywhere(out)]
        numbers = eqn.params["dimension_numbers"]
        dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        kept = [i for i in range(len(x.dims)) if i not in dropped]
        dims = [frozenset()] * len(out)
        for o, i in zip(numbers.offset_dims, kept, strict=True):
            dims[o] = x.dims[i] & frozenset(atoms_of(out[o]))
        batch = [k for k in range(len(out)) if k not in numbers.offset_dims]
        for i, j in zip(
            numbers.operand_batching_dims,
            numbers.start_indices_batching_dims,
            strict=True,
        ):
            dims[batch[j]] = x.dims[i]
        return [Zero(tuple(dims))]

    def scatter(eqn: Equation, x: Zero, _: Zero, update: Zero) -> list[Zero]:
        if eqn.name == "scatter-mul":
            return unknown(eqn)
        numbers = eqn.params["dimension_numbers"]
        dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        kept = [i for i in range(len(x.dims)) if i not in dropped]
        axes = axes_of(eqn)[0]
        dims = [frozenset()] * len(x.dims)
        for u, i in zip(numbers.update_window_dims, kept, strict=True):
            both = [
                frozenset(atoms_of(axes[0][i])) if y.nothing else y.dims[k]
                for y, k in ((x, i), (update, u))
            ]
            dims[i] = both[0] & both[1]
        return [Zero(tuple(dims))]

    def dynamic_update_slice(eqn: Equation, x: Zero, update: Zero, *_: Zero):
        axes = axes_of(eqn)[0][0]
        if x.nothing and update.nothing:
            return [everywhere(axes)]
        whole = [frozenset(atoms_of(axis)) for axis in axes]
        a, b = (tuple(whole) if y.nothing else y.dims for y in (x, update))
        return [Zero(tuple(p & q for p, q in zip(a, b, strict=True)))]

    def trailing(eqn: Equation, x: Zero, *_: Zero) -> list[Zero]:
        if eqn.name != "fft":
            return unknown(eqn)
        rank = len(eqn.params["fft_lengths"])
        lead = len(x.dims) - rank
        return [Zero((*x.dims[:lead], *(frozenset(),) * rank))]

    def identity(_: Equation, *ins: Zero) -> list[Zero]:
        return list(ins)

    def loop(start: list[Zero], body: Callable[[list[Zero]], list[Zero]]) -> list[Zero]:
        """The weakest state that holds before every turn of a loop."""
        state = [dataclasses.replace(x, carried=None) for x in start]
        while True:
            after = body(state)
            new = [
                Zero(
                    tuple(p & q for p, q in zip(x.dims, y.dims, strict=True)),
                    x.number if x.number == y.number else None,
                )
                for x, y in zip(state, after, strict=True)
            ]
            if new == state:
                return state
            state = new

    def scan(eqn: Equation, *ins: Zero) -> list[Zero]:
        consts, carried = scan_arguments(eqn.eqn)
        first = consts + carried
        fixed, start, xs = list(ins[:consts]), list(ins[consts:first]), ins[first:]
        slices = [Zero(x.dims[1:], x.number) for x in xs]
        jaxpr, outs = eqn.params["jaxpr"], axes_of(eqn)[1]
        results: list[Zero] = []

        def body(state: list[Zero]) -> list[Zero]:
            nonlocal results
            results = eqn.walk(jaxpr, [*fixed, *state, *slices])
            return results[:carried]

        state = loop(start, body)
        lengths = [axes[0] for axes in axes_of(eqn)[0][first:]]
        lengths += [axes[0] for axes in outs[carried:]]
        free = {atom for axis in lengths for atom in atoms_of(axis)} & depth
        for atom in free:
            # A removed turn, in which every slice of a parameter is zero, has to hand
            # on what it was given.
            turn = [
                Zero(s.dims, 0.0) if x.nothing or atom in x.dims[0] else s
                for x, s in zip(xs, slices, strict=True)
            ]
            tokens = [dataclasses.replace(x, carried=i) for i, x in enumerate(state)]
            after = eqn.walk(jaxpr, [*fixed, *tokens, *turn])[:carried]
            if any(x.carried != i for i, x in enumerate(after)):
                blame(atom, "a removed turn of scan changes what it carries")
        ys = results[carried:]
        return [*state, *(Zero((frozenset(), *y.dims), y.number) for y in ys)]

    def while_(eqn: Equation, *ins: Zero) -> list[Zero]:
        test, body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        fixed, start = list(ins[test : test + body]), list(ins[test + body :])
        jaxpr = eqn.params["body_jaxpr"]
        state = loop(
            start, lambda state: eqn.walk(jaxpr, [*fixed, *state], "body_jaxpr")
        )
        eqn.walk(eqn.params["cond_jaxpr"], [*ins[:test], *state], "cond_jaxpr")
        return state

    def cond(eqn: Equation, _: Zero, *ins: Zero) -> list[Zero]:
        outs = [
            eqn.walk(branch, ins, f"branch {k}")
            for k, branch in enumerate(eqn.params["branches"])
        ]
        return [
            Zero(
                tuple(
                    frozenset.intersection(*dims)
                    for dims in zip(*(x.dims for x in same), strict=True)
                ),
                same[0].number if len({x.number for x in same}) == 1 else None,
                same[0].carried if len({x.carried for x in same}) == 1 else None,
            )
            for same in zip(*outs, strict=True)
        ]

    rules: dict[str, Callable] = {
        **dict.fromkeys(ELEMENTWISE, elementwise),
        **dict.fromkeys(SCANS, along),
        **dict.fromkeys(WINDOWS, window),
        **dict.fromkeys(SCATTERS, scatter),
        **dict.fromkeys(TRAILING, trailing),
        **dict.fromkeys(
            REDUCTIONS,
            reduction,
        ),
        "broadcast_in_dim": broadcast_in_dim,
        "concatenate": concatenate,
        "cond": cond,
        "conv_general_dilated": convolution,
        "dot_general": dot_general,
        "device_put": identity,
        "dynamic_slice": part,
        "dynamic_update_slice": dynamic_update_slice,
        "expand_dims": by_atom,
        "fft": trailing,
        "gather": gather,
        "optimization_barrier": identity,
        "pad": pad,
        "reshape": by_atom,
        "scan": scan,
        "slice": part,
        "sort": sort,
        "split": part,
        "squeeze": squeeze,
        "stack": stack,
        "tile": by_atom,
        "transpose": transpose,
        "unstack": unstack,
        "while": while_,
    }
    return Rules(primitives=rules, constant=constant, other=unknown)
