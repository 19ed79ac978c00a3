"""Equal blocks of a diagram, drawn once in a frame."""

import dataclasses
from collections.abc import Sequence

from ._axes import Axis
from ._boxes import Box, Strand
from ._circuit import Bundle, View
from ._fold import Repeat, folded_name, plain, repeats

_SAVED = 3  # boxes that a frame has to save


@dataclasses.dataclass(eq=False)
class Folded:
    """A diagram with its equal blocks drawn once.

    Attributes:
        boxes: what is drawn.
        same: pairs of axes that stand for each other, of a block and of its equals.
        names: parameters of a block -> how they are written for all of its equals.
    """

    boxes: list[Box]
    same: list[tuple[Axis, Axis]] = dataclasses.field(default_factory=list)
    names: dict[str, str] = dataclasses.field(default_factory=dict)


def fold(boxes: Sequence[Box]) -> Folded:
    """Draws blocks that stand several times one behind the other as one block.

    Blocks are equal if their boxes are, and if each takes from the one before it what
    the next takes from it.
    """
    folded = Folded([])
    folded.boxes = _fold(list(boxes), list(boxes), folded, ())
    return folded


def _key(box: Box) -> tuple:
    operands = [tuple(v.bundle.sizes[w] for w in v.order) for v in box.operands]
    outs = [(v.bundle.sizes, v.wires) for v in box.outs]
    strands = [(s.ins, s.outs, s.acted, s.weighted) for s in box.strands]
    sources = [([plain(x) for x in s.leaves], s.shape, s.text) for s in box.sources]
    parts = (operands, outs, strands, sources, len(box.frames))
    return box.kind, box.label, repr(parts)


class _Wiring:
    """Where the boxes of a diagram take their operands from."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self.boxes = boxes
        self.made = {
            view.bundle: (k, o)
            for k, box in enumerate(boxes)
            for o, view in enumerate(box.outs)
        }
        self.users: dict[Bundle, list[int]] = {}
        for k, box in enumerate(boxes):
            for view in box.operands:
                self.users.setdefault(view.bundle, []).append(k)

    def unit(self, repeat: Repeat, turn: int) -> list[tuple]:
        """What the boxes of one block take, in terms that its equals share."""
        low = repeat.start + turn * repeat.period
        out = []
        for box in self.boxes[low : low + repeat.period]:
            for view in box.operands:
                k, o = self.made.get(view.bundle, (-1, view.bundle))
                at, order = k - low, view.order
                if 0 <= at < repeat.period:
                    out.append(("here", at, o, order))
                elif -repeat.period <= at < 0 and turn:
                    out.append(("before", at + repeat.period, o, order))
                else:
                    out.append(("outside", view.bundle, None, order))
        return out

    def passed(self, repeat: Repeat) -> dict[tuple[int, int], Bundle] | None:
        """What goes from block to block, as (box, result) -> what the first one takes.

        `None` where the blocks are not connected as equals.
        """
        if any(self.boxes[k].kind in ("input", "output") for k in _span(repeat)):
            return None
        first, *rest = (self.unit(repeat, turn) for turn in range(repeat.times))
        if any(other != rest[0] for other in rest):
            return None
        passed: dict[tuple[int, int], Bundle] = {}
        for mine, other in zip(first, rest[0], strict=True):
            if mine[3] != other[3] or (mine[0] == "here" and mine != other):
                return None
            if mine[0] == "outside" and other[0] == "outside" and mine != other:
                return None
            if mine[0] == "outside" and other[0] == "before":
                if passed.setdefault(other[1:3], mine[1]) is not mine[1]:
                    return None
            elif mine[0] != other[0]:
                return None
        last = repeat.stop - repeat.period
        for k in range(repeat.start, last):
            block = (k - repeat.start) // repeat.period
            end = repeat.start + (block + 2) * repeat.period
            for view in self.boxes[k].outs:
                if any(user >= end for user in self.users.get(view.bundle, ())):
                    return None
        depth = [len(self.boxes[k].frames) for k in _span(repeat)]
        opened = [
            self.boxes[k].kind
            for k in range(repeat.start, repeat.start + repeat.period)
        ]
        if opened.count("open") != opened.count("close") or depth[0] != min(depth):
            return None
        return passed

    def leaving(self, repeat: Repeat) -> list[View]:
        """What the last block gives to the boxes behind it."""
        low = repeat.stop - repeat.period
        return [
            view
            for box in self.boxes[low : repeat.stop]
            for view in box.outs
            if any(user >= repeat.stop for user in self.users.get(view.bundle, ()))
        ]


def _span(repeat: Repeat) -> range:
    return range(repeat.start, repeat.stop)


def _fold(
    boxes: list[Box], every: Sequence[Box], folded: Folded, frames: tuple
) -> list:
    wiring = _Wiring(every)
    offset = every.index(boxes[0]) if boxes else 0

    def cost(repeat: Repeat) -> float | None:
        moved = repeat._replace(start=repeat.start + offset)
        passed = wiring.passed(moved)
        return None if passed is None else len(passed)

    found = repeats([_key(box) for box in boxes], cost, saved=_SAVED)
    out: list[Box] = []
    at = 0
    for repeat in found:
        out += boxes[at : repeat.start]
        moved = repeat._replace(start=repeat.start + offset)
        out += _framed(moved, wiring, folded)
        at = repeat.stop
    return out + boxes[at:]


def _framed(repeat: Repeat, wiring: _Wiring, folded: Folded) -> list[Box]:
    """One block in a frame, with gates through which its values come and go."""
    passed = wiring.passed(repeat)
    assert passed is not None
    period, boxes = repeat.period, wiring.boxes
    block = boxes[repeat.start : repeat.start + period]
    for k, box in enumerate(block):
        equal = boxes[repeat.start + k : repeat.stop : period]
        for i in range(len(box.sources)):
            for names in zip(*(e.sources[i].leaves for e in equal), strict=True):
                folded.names[names[0]] = folded_name(names)
        for values in zip(*(e.outs for e in equal), strict=True):
            for value in values[1:]:
                folded.same += zip(
                    value.bundle.axes, values[0].bundle.axes, strict=True
                )
    inner = {b: Bundle(list(b.axes), b.sizes) for b in dict.fromkeys(passed.values())}
    new = [
        dataclasses.replace(
            box,
            operands=[
                dataclasses.replace(v, bundle=inner.get(v.bundle, v.bundle))
                for v in box.operands
            ],
        )
        for box in block
    ]
    frames = block[0].frames
    number = -1 - repeat.start  # loops have the others
    new = [
        dataclasses.replace(box, frames=(*frames, number, *box.frames[len(frames) :]))
        for box in new
    ]
    names = [_part(boxes[k : k + period]) for k in _span(repeat)[::period]]
    label = f"\u00d7 {repeat.times}"
    opening = _gate("open", label, [(_whole(b), _whole(i)) for b, i in inner.items()])
    opening.detail = folded_name(names) if len(set(names)) > 1 else ""
    pairs = []
    for view in wiring.leaving(repeat):
        k, o = wiring.made[view.bundle]
        first = block[k - (repeat.stop - period)].outs[o]
        pairs.append((_whole(first.bundle), _whole(view.bundle)))
    closing = _gate("close", "", pairs)
    opening.frames = closing.frames = (*frames, number)
    return [opening, *new, closing]


def _whole(bundle: Bundle) -> View:
    return View(bundle, tuple(range(len(bundle.sizes))))


def _gate(kind: str, label: str, pairs: Sequence[tuple[View, View]]) -> Box:
    strands = [
        Strand([(i, w)], [(i, w)])
        for i, (view, _) in enumerate(pairs)
        for w in view.order
    ]
    return Box(kind, label, "", [a for a, _ in pairs], [b for _, b in pairs], strands)


def _part(boxes: Sequence[Box]) -> str:
    """The part of the tree of parameters that some boxes share."""
    paths = [leaf.split("/") for b in boxes for s in b.sources for leaf in s.leaves]
    common = []
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return "/".join(common)
