"""The boxes of a diagram: which equations are drawn as one.

Chains of elementwise equations are one box, and so is what parts and meets again among
elementwise equations and reductions (a softmax, a normalisation), the bias of a linear
map with the map, slices of one value with each other. A box keeps of its equations what
they do to the wires at its border.
"""

import collections
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from ._box_names import CHEAP, CUTS, LINEAR, kind_of, label_of, named_functions
from ._circuit import Bundle, Reading, Source, Step, View
from ._primitives import ELEMENTWISE


@dataclasses.dataclass(eq=False)
class Strand:
    """Wires at the border of a box that are one axis, or an axis and its parts.

    Attributes:
        ins: (operand, wire of its value) of those that enter.
        outs: (result, wire) of those that leave.
        acted: whether the box acts on it; otherwise it passes over the box.
        weighted: whether a source has this axis.
    """

    ins: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    outs: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    acted: bool = False
    weighted: bool = False


@dataclasses.dataclass(eq=False)
class Box:
    """An operation as it is drawn.

    Attributes:
        kind: "linear", "nonlinear" (both act on wires), "map" (position by position),
            "sum" (a map that is linear), "wiring" (what only sorts positions), "open"
            and "close" (of a frame), "input" and "output".
        label: what is written beside it.
        detail: all that it does.
        operands: the values that enter, from left to right.
        outs: the values that leave.
        strands: what becomes of their wires.
        sources: the parameters and constants that enter from the side.
        frames: the frames around it, the outermost first.
    """

    kind: str
    label: str
    detail: str = ""
    operands: list[View] = dataclasses.field(default_factory=list)
    outs: list[View] = dataclasses.field(default_factory=list)
    strands: list[Strand] = dataclasses.field(default_factory=list)
    sources: list[Source] = dataclasses.field(default_factory=list)
    frames: tuple[int, ...] = ()


def boxes(reading: Reading) -> list[Box]:
    """Gives the boxes of a function in the order in which they are drawn."""
    steps = _live(reading)
    clusters = _clusters(steps, reading)
    known = named_functions(steps)
    leaving = set(_bundles(reading.results))
    leaving.update(*(cluster.outside() for cluster in clusters))
    found = [_box(cluster, leaving, reading.loops, known) for cluster in clusters]
    first = Box("input", "input", outs=list(reading.inputs))
    results = [value for value in reading.results if isinstance(value, View)]
    ends = [Strand(ins=[(i, w)]) for i, v in enumerate(results) for w in v.order]
    return [first, *found, Box("output", "output", operands=results, strands=ends)]


def _bundles(values: Iterable[View | Source]) -> list[Bundle]:
    return [value.bundle for value in values if isinstance(value, View)]


def _live(reading: Reading) -> list[Step]:
    """Leaves out what no result depends on, except within loops."""
    wanted = set(_bundles(reading.results))
    kept = []
    for step in reversed(reading.steps):
        if step.frames or wanted.intersection(_bundles(step.outs)):
            wanted.update(_bundles(step.ins))
            kept.append(step)
    return kept[::-1]


class _Cluster:
    """Equations that are drawn together, by their numbers."""

    def __init__(self, at: int, steps: Sequence[Step]) -> None:
        self.at, self._all = at, steps
        self.ids = {at}

    @property
    def steps(self) -> list[Step]:
        return [self._all[k] for k in sorted(self.ids)]

    @property
    def inner(self) -> set[Bundle]:
        return {bundle for step in self.steps for bundle in _bundles(step.outs)}

    def outside(self) -> list[Bundle]:
        """The values that enter."""
        inner = self.inner
        entering = (b for step in self.steps for b in _bundles(step.ins))
        return [bundle for bundle in dict.fromkeys(entering) if bundle not in inner]

    def only(self, kinds: frozenset[str]) -> bool:
        return all(step.kind in kinds for step in self.steps)


def _clusters(steps: Sequence[Step], reading: Reading) -> list[_Cluster]:
    users: dict[Bundle, set[int]] = collections.defaultdict(set)
    for k, step in enumerate(steps):
        for bundle in _bundles(step.ins):
            users[bundle].add(k)
    results = set(_bundles(reading.results))
    of: dict[int, _Cluster] = {}
    maker: dict[Bundle, int] = {}
    cuts: dict[Bundle, _Cluster] = {}

    def absorb(cluster: _Cluster) -> bool:
        """Takes in one cluster that works for this one alone, if there is one."""
        for bundle in cluster.outside():
            if bundle not in maker:
                continue
            other = of[maker[bundle]]
            inner = other.inner
            if (
                set().union(*(users[b] for b in inner)) <= other.ids | cluster.ids
                and not results & inner
                and other.steps[0].frames == cluster.steps[0].frames
                and _together(other, cluster)
            ):
                cluster.ids |= other.ids
                of.update(dict.fromkeys(other.ids, cluster))
                return True
        return False

    for k, step in enumerate(steps):
        maker.update(dict.fromkeys(_bundles(step.outs), k))
    for k, step in enumerate(steps):
        bundles = _bundles(step.ins)
        if _is_bias(step) and bundles[0] in maker and bundles[0] not in results:
            m = maker[bundles[0]]
            alone = users[bundles[0]] == {k} and steps[m].frames == step.frames
            if alone and _is_linear(steps[m]):
                of[m] = of[k] = _Cluster(k, steps)
                of[k].ids.add(m)

    def free(bundle: Bundle) -> bool:
        m = maker.get(bundle)
        if m is None or m in of or bundle in results:
            return False
        return steps[m].kind in CHEAP or steps[m].kind == "reshape"

    for k in reversed(range(len(steps))):
        if k not in of and steps[k].kind in CHEAP:
            region = _Cluster(k, steps)
            region.ids = _region(k, steps, maker, users, free)
            of.update(dict.fromkeys(region.ids, region))
    for k, step in enumerate(steps):
        cluster = of.setdefault(k, _Cluster(k, steps))
        if step.kind in CUTS:
            first = cuts.setdefault(_bundles(step.ins)[0], cluster)
            if first.steps[0].frames == step.frames:
                first.ids.add(k)
                of[k] = first
            continue
        while cluster.at == k and absorb(cluster):
            pass
    return sorted(dict.fromkeys(of.values()), key=lambda cluster: cluster.at)


def _is_bias(step: Step) -> bool:
    sources = [v for v in step.ins if isinstance(v, Source)]
    return step.kind == "add" and len(sources) == 1 and bool(sources[0].leaves)


def _is_linear(step: Step) -> bool:
    return step.kind in LINEAR and any(isinstance(v, Source) for v in step.ins)


def _region(
    k: int,
    steps: Sequence[Step],
    maker: Mapping[Bundle, int],
    users: Mapping[Bundle, set[int]],
    free: Callable[[Bundle], bool],
) -> set[int]:
    """The most equations that lead from one value to equation k and nowhere else.

    Reshapes may be among them if the axes are the same again at the end (as in a
    normalisation of groups of channels).
    """
    ids, best = {k}, {k}
    while True:
        entering = {b for i in ids for b in _bundles(steps[i].ins)}
        entering -= {b for i in ids for b in _bundles(steps[i].outs)}
        reshaped = any(steps[i].kind == "reshape" for i in ids)
        ends = [*entering, *_bundles(steps[k].outs)]
        if len(entering) <= 1 and not (
            reshaped and any(b.axes != ends[0].axes for b in ends)
        ):
            best = set(ids)
        takes = [
            maker[b]
            for b in entering
            if free(b) and users[b] <= ids and steps[maker[b]].frames == steps[k].frames
        ]
        if not takes:
            return best
        ids.add(max(takes))


def _together(first: _Cluster, then: _Cluster) -> bool:
    """Tells whether a cluster is drawn with the only one that uses its results."""
    if then.only(frozenset(("gather",))):
        indices = then.steps[0].ins[1]
        entering = first.outside()
        return (
            first.only(CHEAP)
            and len(entering) == 1
            and isinstance(indices, View)
            and indices.bundle in first.inner
        )
    if not (first.only(CHEAP) and then.only(CHEAP)):
        return False
    if first.only(frozenset(("broadcast_in_dim",))):
        return True
    inner = first.inner
    entering = {*first.outside(), *(b for b in then.outside() if b not in inner)}
    alone = len(then.outside()) == 1 and then.only(ELEMENTWISE)
    return len(entering) <= 1 or alone


def _box(
    cluster: _Cluster, leaving: set[Bundle], loops: Sequence[str], known: set[str]
) -> Box:
    steps = cluster.steps
    inner = cluster.inner
    operands: dict[tuple, tuple[int, View]] = {}
    sources: dict[tuple, Source] = {}
    outs = [v for step in steps for v in step.outs if v.bundle in leaving]
    for step in steps:
        for value in step.ins:
            if isinstance(value, Source):
                if value.leaves or any(n > 1 for n in value.shape):
                    sources.setdefault((value.leaves, value.shape), value)
            elif value.bundle not in inner:
                key = (value.bundle, value.order)
                operands.setdefault(key, (len(operands), value))
    label, detail = label_of(steps, known, loops)
    return Box(
        kind_of(steps),
        label,
        detail,
        [view for _, view in operands.values()],
        outs,
        _strands(steps, inner, operands, outs),
        list(sources.values()),
        steps[0].frames,
    )


def _strands(
    steps: Sequence[Step],
    inner: set[Bundle],
    operands: Mapping[tuple, tuple[int, View]],
    outs: Sequence[View],
) -> list[Strand]:
    """Follows the wires through the equations of a box."""
    parent: dict[Hashable, Hashable] = {}

    def root(x: Hashable) -> Hashable:
        parent.setdefault(x, x)
        while parent[x] != x:
            parent[x] = x = parent[parent[x]]
        return x

    acted, weighted = [], []
    for s, step in enumerate(steps):

        def end(e, step=step, s=s) -> Hashable | None:
            value = (step.outs if e.out else step.ins)[e.index]
            if isinstance(value, Source):
                one = value.shape[e.dim] == 1
                return None if one else ("source", s, e.index, e.dim)
            wire = value.wires[e.dim]
            if wire is None:
                return None
            if value.bundle in inner:
                return (value.bundle, wire)
            return (operands[value.bundle, value.order][0], wire)

        for group in step.ties.groups:
            keys = [key for key in map(end, group) if key is not None]
            for key in keys[1:]:
                parent[root(key)] = root(keys[0])
        acted += [key for key in map(end, step.ties.acted) if key is not None]
        for i, value in enumerate(step.ins):
            if isinstance(value, Source) and (value.leaves or len(value.shape) > 0):
                weighted += [
                    ("source", s, i, d) for d, n in enumerate(value.shape) if n > 1
                ]
    found: dict[Hashable, Strand] = collections.defaultdict(Strand)
    for i, view in operands.values():
        for wire in view.order:
            found[root((i, wire))].ins.append((i, wire))
    for j, view in enumerate(outs):
        for wire in view.order:
            found[root((view.bundle, wire))].outs.append((j, wire))
    for key in acted:
        if root(key) in found:
            found[root(key)].acted = True
    for key in weighted:
        if root(key) in found:
            found[root(key)].weighted = True
    return list(found.values())
