"""A function as a circuit for a drawing: values as bundles of wires, and the equations.

A wire is an axis of more than one position. Equations that leave the wires as they are
(transposes, conversions, axes of one position put in or taken out) only say in which
order a value is looked at. What is made of parameters or constants alone is no value of
its own: it comes to the equation that uses it as a source, with the parameters' names.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from .._jaxprs import scan_arguments
from ._annotate import Annotation
from ._axes import Axis
from ._axis_rules import runs
from ._origin import origin
from ._primitives import ELEMENTWISE
from ._ties import End, Ties, ties
from ._walk import CALLS, Equation, Rules, walk

_SAME = frozenset(
    """convert_element_type copy copy_p layout_constraint name optimization_barrier
    pcast pvary reduce_precision sharding_constraint stop_gradient""".split()
)


@dataclasses.dataclass(eq=False)
class Bundle:
    """A value: its wires in the order of the equation that made it."""

    axes: list[Axis]
    sizes: tuple[int, ...]
    name: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A value as an equation sees it: the wire of each dimension, `None` for size 1."""

    bundle: Bundle
    wires: tuple[int | None, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The wires from left to right."""
        return tuple(w for w in self.wires if w is not None)


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What is made of parameters, or of constants alone if there are no leaves.

    Attributes:
        leaves: the names of the parameters.
        shape: of the array as it is used; 1 for axes along which it was repeated.
        axes: of that array.
        text: the number that a constant is.
    """

    leaves: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    axes: tuple[Axis, ...] = ()
    text: str = ""


@dataclasses.dataclass(eq=False)
class Step:
    """An equation on at least one value.

    Attributes:
        eqn: the equation.
        kind: its primitive; "open" and "close" where a loop begins and ends.
        origin: the functions of JAX and of the user that it is a part of.
        ins: its arguments.
        outs: its results.
        ties: which of their dimensions belong together.
        frames: the loops around it.
    """

    eqn: JaxprEqn | None
    kind: str
    origin: tuple[str, str]
    ins: list[View | Source]
    outs: list[View]
    ties: Ties
    frames: tuple[int, ...]

    def enter(
        self,
        value: View | Source,
        out: View,
        shape: Sequence[int],
        axes: Sequence[Axis],
        drop: int = 0,
        add: int = 0,
    ) -> None:
        """Lets a value pass whose first axis is dropped, or that gets one."""
        i = len(self.ins)
        source = isinstance(value, Source)
        self.ins.append(
            dataclasses.replace(value, axes=tuple(axes)) if source else value
        )
        self.outs.append(out)
        for d in range(drop, len(shape)):
            end = End(False, i, d)
            self.ties.groups.append([end, End(True, i, d - drop + add)])
            if source:
                self.ties.acted.add(end)
        self.ties.acted.update(End(False, i, d) for d in range(drop))
        self.ties.acted.update(End(True, i, d) for d in range(add))


class Reading:
    """The equations of a function on its inputs, calls and loops written out.

    Attributes:
        steps: the equations in their order.
        inputs: the arguments of the function.
        results: what it returns.
        loops: for each loop, how it is named.
    """

    def __init__(self, annotation: Annotation, names: Sequence[str]) -> None:
        self.steps: list[Step] = []
        self.loops: list[str] = []
        self.record = annotation.record
        self._frames: tuple[int, ...] = ()
        self._calls: list[str] = []
        params = [
            Source((path,), x.shape)
            for path, x in zip(
                annotation.paths, jax.tree.leaves(annotation.params), strict=True
            )
        ]
        shapes = [x.shape for x in jax.tree.leaves(annotation.args)]
        self.inputs = [
            _view(shape, [()] * len(shape), name)
            for shape, name in zip(shapes, names, strict=True)
        ]
        rules = Rules(
            primitives={
                **dict.fromkeys(CALLS, self._call),
                **dict.fromkeys(_SAME, self._same),
                "broadcast_in_dim": self._broadcast,
                "expand_dims": self._expand,
                "reshape": self._reshape,
                "scan": self._scan,
                "squeeze": self._squeeze,
                "transpose": self._transpose,
            },
            constant=_constant,
            other=self._equation,
        )
        self.results = walk(annotation.jaxpr, rules, [*params, *self.inputs])

    def _call(self, eqn: Equation, *ins: Any) -> list:
        self._calls.append(str(eqn.params.get("name", "")))
        out = eqn.inline(*ins)
        self._calls.pop()
        return out

    def _axes(self, eqn: Equation, ins: Sequence[View | Source]) -> tuple:
        """The axes of arguments and results; inputs learn theirs on the way."""
        axes = self.record[eqn.path]
        for value, known in zip(ins, axes[0], strict=True):
            if isinstance(value, View):
                for wire, axis in zip(value.wires, known, strict=True):
                    if wire is not None and not value.bundle.axes[wire]:
                        value.bundle.axes[wire] = axis
        return axes

    def _equation(self, eqn: Equation, *ins: View | Source) -> list:
        axes = self._axes(eqn, ins)
        shapes = [getattr(aval, "shape", ()) for aval in eqn.out_avals]
        if not any(isinstance(value, View) for value in ins):
            sources = [value for value in ins if isinstance(value, Source)]
            leaves = tuple(dict.fromkeys(leaf for v in sources for leaf in v.leaves))
            own = [v.shape for v in sources if len(v.shape) == len(shapes[0])]
            if eqn.name in ELEMENTWISE and own:
                shapes = [tuple(map(max, *own, own[0]))] * len(shapes)
            return [Source(leaves, shape) for shape in shapes]
        outs = [
            _view(shape, value) for shape, value in zip(shapes, axes[1], strict=True)
        ]
        data = [isinstance(value, View) for value in ins]
        given = [
            dataclasses.replace(v, axes=tuple(a)) if isinstance(v, Source) else v
            for v, a in zip(ins, axes[0], strict=True)
        ]
        self.steps.append(
            Step(
                eqn.eqn,
                eqn.name,
                origin(eqn.eqn, self._calls),
                given,
                outs,
                ties(eqn.eqn, axes, data),
                self._frames,
            )
        )
        return outs

    def _looked(self, value: View | Source, dims: Sequence[int | None]) -> list:
        """A value in other dimensions: each one that it had, or new and of size 1."""
        if isinstance(value, Source):
            shape = tuple(1 if d is None else value.shape[d] for d in dims)
            return [Source(value.leaves, shape, text=value.text)]
        wires = tuple(None if d is None else value.wires[d] for d in dims)
        return [View(value.bundle, wires)]

    def _same(self, eqn: Equation, *ins: View | Source) -> list:
        self._axes(eqn, ins)
        return list(ins)

    def _squeeze(self, eqn: Equation, value: View | Source) -> list:
        self._axes(eqn, [value])
        gone = eqn.params["dimensions"]
        rank = len(eqn.in_avals[0].shape)
        return self._looked(value, [d for d in range(rank) if d not in gone])

    def _expand(self, eqn: Equation, value: View | Source) -> list:
        self._axes(eqn, [value])
        dims: list[int | None] = list(range(len(eqn.in_avals[0].shape)))
        for d in sorted(eqn.params["dimensions"]):
            dims.insert(d, None)
        return self._looked(value, dims)

    def _transpose(self, eqn: Equation, value: View | Source) -> list:
        self._axes(eqn, [value])
        return self._looked(value, eqn.params["permutation"])

    def _broadcast(self, eqn: Equation, value: View | Source, *rest: Any) -> list:
        shape, to = eqn.params["shape"], eqn.params["broadcast_dimensions"]
        old = eqn.in_avals[0].shape
        kept = {d: i for i, d in enumerate(to) if old[i] == shape[d]}
        repeats = any(n != 1 and d not in kept for d, n in enumerate(shape))
        if isinstance(value, View) and repeats:
            return self._equation(eqn, value, *rest)
        self._axes(eqn, [value, *rest])
        return self._looked(value, [kept.get(d) for d in range(len(shape))])

    def _reshape(self, eqn: Equation, value: View | Source, *rest: Any) -> list:
        old, new = eqn.in_avals[0].shape, eqn.out_avals[0].shape
        pairs = [] if 0 in old else runs(old, new)
        moved = 0 in old or any(len(a) > 1 or len(b) > 1 for a, b in pairs)
        if moved:
            return self._equation(eqn, value, *rest)
        self._axes(eqn, [value, *rest])
        kept = {j: i for (i, *_), (j, *_) in pairs}
        return self._looked(value, [kept.get(d) for d in range(len(new))])

    def _scan(self, eqn: Equation, *ins: View | Source) -> list:
        axes = self._axes(eqn, ins)
        if not any(isinstance(value, View) for value in ins):
            return self._equation(eqn, *ins)
        consts, carried = scan_arguments(eqn.eqn)
        outer = self._frames
        self._frames = (*outer, len(self.loops))
        self.loops.append(f"\u00d7 {eqn.params['length']}  scan")
        inner = list(ins)
        gate = self._gate("open")
        for k in range(consts, len(ins)):
            shape, known, lead = (
                eqn.in_avals[k].shape,
                axes[0][k],
                k >= consts + carried,
            )
            value = ins[k]
            if lead and isinstance(value, Source):
                inner[k] = Source(value.leaves, shape[1:])
                continue
            inner[k] = view = _view(shape[lead:], known[lead:])
            gate.enter(value, view, shape, known, drop=int(lead))
        out = eqn.walk(eqn.params["jaxpr"], inner)
        gate = self._gate("close")
        for k, value in enumerate(out):
            shape, known, lead = eqn.out_avals[k].shape, axes[1][k], k >= carried
            if isinstance(value, Source):
                out[k] = Source(value.leaves, shape)
                continue
            out[k] = _view(shape, known)
            gate.enter(value, out[k], shape[lead:], known[lead:], add=int(lead))
        self._frames = outer
        return out

    def _gate(self, kind: str) -> Step:
        """A step where a loop begins or ends."""
        step = Step(None, kind, ("", ""), [], [], Ties([], set()), self._frames)
        self.steps.append(step)
        return step


def _constant(value: Any) -> Source:
    plain = np.ndim(value) == 0 and np.issubdtype(np.result_type(value), np.number)
    return Source((), np.shape(value), text=f"{value:.4g}" if plain else "")


def _view(shape: Sequence[int], axes: Sequence[Axis], name: str = "") -> View:
    """A new bundle, seen as it is."""
    kept = [d for d, n in enumerate(shape) if n != 1]
    number = {d: w for w, d in enumerate(kept)}
    bundle = Bundle([axes[d] for d in kept], tuple(shape[d] for d in kept), name)
    return View(bundle, tuple(number.get(d) for d in range(len(shape))))
