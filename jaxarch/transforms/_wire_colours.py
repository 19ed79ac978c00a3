"""Which colour each wire of a diagram has, and what a colour stands for."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from ._annotate import Annotation, Group
from ._axes import Axis, atoms_of
from ._boxes import Box
from ._circuit import Source, View
from ._svg import Colours


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the legend.

    Attributes:
        number: of the colour.
        sizes: of the axes that have it.
        name: of a group of the annotation, or of an axis of an input.
        state: whether its size can change.
        reason: why not, or not exactly.
    """

    number: int
    sizes: tuple[int, ...]
    name: str
    state: str
    reason: str


class WireColours:
    """Colours of axes: one for each atom, and for all that stand for each other.

    Those are the same atom in equal blocks, and what a window makes of an axis of
    positions.
    """

    def __init__(
        self,
        annotation: Annotation,
        boxes: Sequence[Box],
        same: Iterable[tuple[Axis, Axis]],
        names: Mapping[str, str],
    ) -> None:
        self._sizes = annotation.sizes
        self._groups = {group.atom: group for group in annotation.groups}
        # The windows of convolutions are no wires of their own, and many.
        self._windows = {g.atom for g in annotation.groups if g.kind == "window"}
        self._names = names
        self._inputs: dict[int, str] = {}
        self._parent: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._atoms: dict[int, list[int]] = {}
        for x, y in same:
            self._unite(x, y)
        for box in boxes:
            for strand in box.strands:
                if len(strand.ins) == len(strand.outs) == 1:
                    (i, v), (j, w) = strand.ins[0], strand.outs[0]
                    operand, out = box.operands[i].bundle, box.outs[j].bundle
                    self._unite(out.axes[w], operand.axes[v])
        for view in boxes[0].outs:
            for d, wire in enumerate(view.wires):
                if wire is not None:
                    for atom in atoms_of(view.bundle.axes[wire]):
                        name = f"input {view.bundle.name}[{d}]"
                        self._inputs.setdefault(self._root(atom), name)
        for box in boxes:
            for value in (*box.operands, *box.outs, *box.sources):
                for axis in _axes(value):
                    self(axis)

    def _root(self, atom: int) -> int:
        while self._parent.get(atom, atom) != atom:
            atom = self._parent[atom]
        return atom

    def _unite(self, x: Axis, y: Axis) -> None:
        if all(len(axis) == 1 and len(axis[0]) == 1 for axis in (x, y)):
            (a,), (b,) = x[0], y[0]
            if isinstance(a, int) and isinstance(b, int):
                self._parent[self._root(a)] = self._root(b)

    def __call__(self, axis: Axis) -> Colours:
        """The colours of the strands of a wire."""
        return tuple(
            tuple(
                self._number(atom)
                for atom in atoms_of((term,))
                if atom not in self._windows
            )
            for term in axis
        ) or ((),)

    def _number(self, atom: int) -> int:
        root = self._root(atom)
        known = self._atoms.setdefault(root, [])
        if atom not in known:
            known.append(atom)
        return self._numbers.setdefault(root, len(self._numbers))

    def legend(self) -> list[Entry]:
        """What the colours stand for, in the order in which they appear."""
        entries = []
        for root, number in self._numbers.items():
            atoms = self._atoms[root]
            groups = [self._groups[a] for a in (root, *atoms) if a in self._groups]
            group = groups[0] if groups else None
            frozen = next((g for g in groups if g.state == "frozen"), None)
            name = self._inputs.get(root) or (self._name(group) if group else "")
            state, reason = "fixed", "no parameter has it"
            if group is not None:
                shown = frozen or group
                state, reason = _STATES[shown.state], shown.reason
            sizes = dict.fromkeys(self._sizes[atom] for atom in atoms)
            entries.append(
                Entry(
                    number=number,
                    sizes=tuple(sizes),
                    name=name or "positions",
                    state=state,
                    reason=reason,
                )
            )
        return entries

    def _name(self, group: Group) -> str:
        path, bracket, rest = group.name.rpartition("[")
        return self._names.get(path, path) + bracket + rest


_STATES = {"exact": "free", "approximate": "free, approximate", "frozen": "fixed"}


def _axes(value: View | Source) -> Sequence[Axis]:
    if isinstance(value, Source):
        pairs = zip(value.axes, value.shape, strict=False)
        return [axis for axis, n in pairs if n != 1]
    return [value.bundle.axes[wire] for wire in value.order]
