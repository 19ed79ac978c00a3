"""Which dimensions of an equation go on, meet, end or begin, for a drawing.

The endpoints of an equation are the dimensions of its arguments and results. Those of
a tie are one and the same axis, or (reshapes, slices, concatenations) an axis and the
parts into which it is taken. An equation acts on some endpoints and passes over others.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jax.extend.core import JaxprEqn

from ._axes import Axis
from ._axis_rules import runs
from ._primitives import ELEMENTWISE, REDUCTIONS, SCANS, SCATTERS, TRAILING, WINDOWS


class End(NamedTuple):
    """Dimension `dim` of argument or result number `index`."""

    out: bool
    index: int
    dim: int


class Ties(NamedTuple):
    """The endpoints of an equation that belong together, and those it acts on."""

    groups: list[list[End]]
    acted: set[End]


def _in(index: int, dim: int) -> End:
    return End(False, index, dim)


def _out(index: int, dim: int) -> End:
    return End(True, index, dim)


def ties(
    eqn: JaxprEqn,
    axes: tuple[Sequence[Sequence[Axis]], Sequence[Sequence[Axis]]],
    data: Sequence[bool],
) -> Ties:
    """Gives the ties of an equation.

    Args:
        eqn: any equation; one that is not known acts on all it has, and goes on along
            axes that the annotation says are the same.
        axes: of its arguments and results, from the annotation.
        data: for each argument, whether it depends on an input. Of a contraction with
            parameters all that the parameters have is acted on.
    """
    name, params = eqn.primitive.name, eqn.params
    ins = [getattr(v.aval, "shape", ()) for v in eqn.invars]
    outs = [getattr(v.aval, "shape", ()) for v in eqn.outvars]
    rank = len(outs[0]) if outs else 0
    same = [
        [_in(0, d), *(_out(j, d) for j in range(len(outs)))]
        for d in range(min(rank, len(ins[0]) if ins else 0))
    ]
    if name in ELEMENTWISE or name == "concatenate":
        groups = [[_out(j, d) for j in range(len(outs))] for d in range(rank)]
        for k, shape in enumerate(ins):
            if len(shape) == rank:
                for d in range(rank):
                    if shape[d] == outs[0][d] or name == "concatenate":
                        groups[d].append(_in(k, d))
        return Ties(groups, set())
    if name == "dot_general":
        return _contraction(params, ins, data)
    if name == "conv_general_dilated":
        return _convolution(params, ins, outs)
    if name == "broadcast_in_dim":
        to = enumerate(params["broadcast_dimensions"])
        pairs = [(i, d) for i, d in to if ins[0][i] == outs[0][d]]
        return Ties([[_in(0, i), _out(0, d)] for i, d in pairs], set())
    if name == "reshape":
        groups = [
            [*(_in(0, i) for i in a), *(_out(0, j) for j in b)]
            for a, b in runs(ins[0], outs[0])
        ]
        return Ties(groups, set())
    if name in REDUCTIONS:
        gone = params["axes"]
        kept = (d for d in range(len(ins[0])) if d not in gone)
        groups = [[_in(0, d), _out(0, j)] for j, d in enumerate(kept)]
        return Ties(groups, {_in(0, d) for d in gone})
    if name in ("slice", "split"):
        return Ties(same, set())
    if name in SCANS or name == "sort":
        along = params.get("dimensions", (params.get("axis", params.get("dimension")),))
        more = [_in(k, d) for k in range(1, len(ins)) for d in range(rank)]
        for end in more:
            same[end.dim].append(end)
        return Ties(same, {_in(0, d) for d in along})
    if name in WINDOWS or name in ("pad", "dynamic_slice", "dynamic_update_slice"):
        window = params.get("window_dimensions", (1,) * rank)
        changed = {d for d in range(rank) if ins[0][d] != outs[0][d] or window[d] != 1}
        if name == "dynamic_update_slice":
            for d in range(rank):
                same[d].append(_in(1, d))
            changed = {d for d in range(rank) if ins[0][d] != ins[1][d]}
        return Ties(same, {_in(0, d) for d in changed})
    if name == "gather":
        return _gather(params, ins, outs, data)
    if name in SCATTERS:
        at = params["dimension_numbers"].scatter_dims_to_operand_dims
        acted = {_in(k, d) for k in (1, 2) for d in range(len(ins[k]))}
        return Ties(same, acted | {_in(0, d) for d in at})
    if name in TRAILING or name == "fft":
        mixed = TRAILING.get(name) or len(params["fft_lengths"])
        lead = len(ins[0]) - mixed
        acted = {_in(k, d) for k, s in enumerate(ins) for d in range(lead, len(s))}
        acted |= {_out(k, d) for k, s in enumerate(outs) for d in range(lead, len(s))}
        return Ties(same[:lead], acted)
    return _unknown(axes, ins, outs)


def _contraction(params: dict, ins: Sequence, data: Sequence[bool]) -> Ties:
    contract, batch = params["dimension_numbers"]
    acted = {_in(k, d) for k in (0, 1) for d in contract[k]}
    groups = [[_in(0, i), _in(1, j)] for i, j in zip(*contract, strict=True)]
    count = 0
    for i, j in zip(*batch, strict=True):
        groups.append([_in(0, i), _in(1, j), _out(0, count)])
        count += 1
    for k in (0, 1):
        for d in range(len(ins[k])):
            if d not in (*contract[k], *batch[k]):
                groups.append([_in(k, d), _out(0, count)])
                count += 1
        if not data[k]:
            acted |= {_in(k, d) for d in range(len(ins[k]))}
    return Ties(groups, acted)


def _convolution(params: dict, ins: Sequence, outs: Sequence) -> Ties:
    lhs, rhs, out = params["dimension_numbers"]
    groups = [
        [_in(0, i), _out(0, o)]
        for i, o in zip((lhs[0], *lhs[2:]), (out[0], *out[2:]), strict=True)
    ]
    if params["feature_group_count"] == 1:
        groups += [[_in(0, lhs[1]), _in(1, rhs[1])], [_in(1, rhs[0]), _out(0, out[1])]]
    elif ins[0][lhs[1]] == outs[0][out[1]]:
        groups.append([_in(0, lhs[1]), _in(1, rhs[0]), _out(0, out[1])])
    else:
        groups.append([_in(1, rhs[0]), _out(0, out[1])])
    acted = {_in(0, d) for d in lhs[1:]} | {_in(1, d) for d in rhs}
    if all(ins[1][d] == 1 for d in rhs[2:]):
        acted -= {_in(0, d) for d in lhs[2:]}  # a 1 x 1 window does not mix positions
    return Ties(groups, acted)


def _gather(params: dict, ins: Sequence, outs: Sequence, data: Sequence[bool]) -> Ties:
    numbers = params["dimension_numbers"]
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [i for i in range(len(ins[0])) if i not in dropped]
    groups = [
        [_in(0, i), _out(0, o)] for i, o in zip(kept, numbers.offset_dims, strict=True)
    ]
    places = [o for o in range(len(outs[0])) if o not in numbers.offset_dims]
    groups += [[_in(1, k), _out(0, o)] for k, o in enumerate(places)]
    acted = {_in(0, i) for i in numbers.collapsed_slice_dims}
    acted |= {_in(0, i) for i in kept if params["slice_sizes"][i] != ins[0][i]}
    acted.add(_in(1, len(ins[1]) - 1))
    if not data[0]:
        acted |= {_in(0, i) for i in range(len(ins[0]))}
    return Ties(groups, acted)


def _unknown(axes: tuple, ins: Sequence, outs: Sequence) -> Ties:
    sides = ((False, axes[0], ins), (True, axes[1], outs))
    ends = {
        out: [
            (End(out, k, d), tuple(value)[d])
            for k, (value, shape) in enumerate(zip(values, shapes, strict=True))
            for d in range(len(shape))
        ]
        for out, values, shapes in sides
    }
    groups, taken = [], set()
    for end, axis in ends[True]:
        for other, its in ends[False]:
            if its == axis and other not in taken:
                taken.add(other)
                groups.append([other, end])
                break
    return Ties(groups, {end for side in ends.values() for end, _ in side})
