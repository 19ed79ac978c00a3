"""Where everything in a diagram stands.

The values that live between two boxes stand side by side, as on a stack: those that the
next box takes at the right, those that wait at the left, the one that waits longest
outermost. A value that waits keeps its place, so that residual branches and skip
connections run straight down.
"""

import dataclasses
from collections.abc import Sequence

from ._boxes import Box
from ._circuit import Bundle, View
from ._diagram_words import LINE

STEP = 40.0  # from wire to wire; a size stands between two
GAP = 20.0  # between values
BOX = 16.0  # height of a box
_FRAME = 14.0  # between a frame and what it holds


@dataclasses.dataclass(eq=False)
class Lane:
    """A value at a height of the diagram: where each of its wires is."""

    view: View
    at: dict[int, float]

    @property
    def left(self) -> float:
        """Where its first wire is."""
        return min(self.at.values())

    @property
    def right(self) -> float:
        """Where its last wire is."""
        return max(self.at.values())


@dataclasses.dataclass(eq=False)
class Row:
    """A box and all values beside it.

    Attributes:
        box: the operation.
        operands: the values that it takes.
        outs: the values that it gives.
        waiting: the values that pass it.
        top: where its wires come in.
        middle: where the box is.
        low: where the wires that pass it begin to turn.
        joined: where its results are in their places.
        bottom: where the way to the next row begins.
        left: of the frame that opens here.
    """

    box: Box
    operands: list[Lane]
    outs: list[Lane]
    waiting: list[Lane]
    top: float = 0.0
    middle: float = 0.0
    low: float = 0.0
    joined: float = 0.0
    bottom: float = 0.0
    left: float = 0.0


@dataclasses.dataclass(eq=False)
class Layout:
    """All rows, and the size of the part with the wires."""

    rows: list[Row]
    width: float
    height: float


def lay_out(boxes: Sequence[Box], lines: Sequence[int]) -> Layout:
    """Places boxes and wires.

    Args:
        boxes: in their order, the input first and the output last.
        lines: how many lines of text stand beside each.
    """
    made = {view.bundle: k for k, box in enumerate(boxes) for view in box.outs}
    uses: dict[Bundle, list[int]] = {}
    for k, box in enumerate(boxes):
        for view in box.operands:
            uses.setdefault(view.bundle, []).append(k)
    offsets = [0.0] * len(boxes)  # what is taken up, from the right
    operands, outs = [], []
    for k, box in enumerate(boxes):
        views = sorted(box.operands, key=lambda view: made[view.bundle])
        operands.append(_side_by_side(views))
        used = [view for view in box.outs if view.bundle in uses]
        used.sort(key=lambda view: -min(uses[view.bundle]))
        outs.append(_side_by_side(used))
        offsets[k] = max(_width(views), _width(used))
    waiting, lefts = _wait(boxes, made, uses, offsets)
    width = max(offsets)
    rows = []
    for k, box in enumerate(boxes):
        row = Row(box, operands[k], outs[k], waiting[k], left=width - lefts.get(k, 0.0))
        for lane in (*row.operands, *row.outs):
            _shift(lane, width)
        rows.append(row)
    for lane in {lane: None for row in rows for lane in row.waiting}:
        _shift(lane, width)
    return Layout(rows, width, _heights(rows, lines))


def _size(view: View) -> float:
    return STEP * max(len(view.order), 1)


def _width(views: Sequence[View]) -> float:
    return sum(map(_size, views)) + GAP * max(len(views) - 1, 0)


def _lane(view: View, left: float) -> Lane:
    order = view.order or (-1,)  # a number has no wires, but a way of its own
    return Lane(view, {wire: left + STEP * i for i, wire in enumerate(order)})


def _side_by_side(views: Sequence[View]) -> list[Lane]:
    left, lanes = -_width(views), []
    for view in views:
        lanes.append(_lane(view, left))
        left += _size(view) + GAP
    return lanes


def _shift(lane: Lane, width: float) -> None:
    lane.at = {wire: x + width for wire, x in lane.at.items()}


def _wait(boxes, made, uses, offsets) -> tuple[list[list[Lane]], dict[int, float]]:
    """Places what waits, and frames around it: the shortest wait is innermost."""
    spans: list[tuple[int, int, int, View | None]] = []
    for bundle, users in uses.items():
        first, last = made[bundle] + 1, max(users) - 1
        if first <= last:
            view = View(bundle, tuple(range(len(bundle.sizes))))
            spans.append((last - first, -first, 0, view))
    opened: list[int] = []
    for k, box in enumerate(boxes):
        if box.kind == "open":
            opened.append(k)
        elif box.kind == "close":
            first = opened.pop()
            spans.append((k - first, -first, -1, None))
    waiting: list[list[Lane]] = [[] for _ in boxes]
    lefts: dict[int, float] = {}
    order = {id(span): i for i, span in enumerate(spans)}
    for span in sorted(spans, key=lambda span: (*span[:3], order[id(span)])):
        length, first, _, view = span
        rows = range(-first, -first + length + 1)
        taken = max(offsets[k] for k in rows)
        if view is None:
            taken += _FRAME
            lefts[-first] = taken
        else:
            taken += GAP + _size(view)
            lane = _lane(view, -taken)
            for k in rows:
                waiting[k].append(lane)
        for k in rows:
            offsets[k] = taken
    return waiting, lefts


def _heights(rows: Sequence[Row], lines: Sequence[int]) -> float:
    """Gives every row its heights, and returns where the diagram ends."""
    y = 0.0
    for k, (row, count) in enumerate(zip(rows, lines, strict=True)):
        kind = row.box.kind
        thin = kind in ("wiring", "input", "output", "open", "close")
        row.top = y
        several = 9.0 * (len(row.operands) > 1 and not thin)
        row.middle = y + (LINE / 2 + 1 if thin else BOX / 2 + 7 + several)
        row.low = row.middle + (0.0 if thin else BOX / 2)
        row.joined = row.low + turn(
            (a, b) for _, ins, outs in strands(row) for a in ins for b in outs
        )
        labels = 14.0 if news(row) else 2.0
        low = row.middle + LINE * (count - 0.5) + 3
        row.bottom = max(row.joined + labels, low if count else 0.0)
        if kind == "close":
            row.bottom = row.joined + 6
        y = row.bottom
        if k + 1 < len(rows):
            moves = [(a, b) for a, b, _ in ways(row, rows[k + 1])]
            y += max(turn(moves), 4.0)
    return y


def turn(moves) -> float:
    """The height that wires take to move sideways."""
    far = max((abs(a - b) for a, b in moves), default=0.0)
    return 14.0 + min(50.0, 0.12 * far) if far > 0.5 else 0.0


def strands(row: Row) -> list[tuple]:
    """The strands of a row's box, with where their wires come in and go out."""
    box = row.box
    operands = {id(lane.view): lane for lane in row.operands}
    outs = {id(lane.view): lane for lane in row.outs}
    found = []
    for strand in box.strands:
        found.append(
            (
                strand,
                [operands[id(box.operands[i])].at[w] for i, w in strand.ins],
                [
                    outs[id(box.outs[j])].at[w]
                    for j, w in strand.outs
                    if id(box.outs[j]) in outs
                ],
            )
        )
    return found


def news(row: Row) -> list[tuple[Lane, int]]:
    """The wires that begin in a row, or change their size there."""
    if row.box.kind == "input":
        return [(lane, wire) for lane in row.outs for wire in lane.view.order]
    old = {}
    for strand in row.box.strands:
        for j, wire in strand.outs:
            bundle = row.box.outs[j].bundle
            sizes = [row.box.operands[i].bundle.sizes[w] for i, w in strand.ins]
            old[bundle, wire] = bundle.sizes[wire] in sizes
    return [
        (lane, wire)
        for lane in row.outs
        for wire in lane.view.order
        if not old.get((lane.view.bundle, wire), False)
    ]


def ways(row: Row, then: Row) -> list[tuple[float, float, tuple[Lane, int]]]:
    """The wires between two rows, from where to where."""
    sources = {lane.view.bundle: lane for lane in (*row.waiting, *row.outs)}
    found = []
    for lane in (*then.waiting, *then.operands):
        if lane in row.waiting:
            continue
        source = sources[lane.view.bundle]
        for wire, x in lane.at.items():
            found.append((source.at[wire], x, (lane, wire)))
    return found
