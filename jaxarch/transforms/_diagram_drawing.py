"""The SVG text of a diagram, row by row."""

import collections
import html
import math

import jax

from ._annotate import Annotation
from ._cost import flops
from ._describe import short
from ._diagram_layout import (
    BOX,
    GAP,
    Lane,
    Layout,
    Row,
    lay_out,
    news,
    strands,
    ways,
)
from ._diagram_words import STYLE, Words, describe_box, legend
from ._frames import Folded
from ._svg import (
    BACKGROUND,
    FRAME,
    GREY,
    INK,
    colour_of,
    line,
    rectangle,
    spread,
    stroke,
    wire,
    words,
)
from ._wire_colours import WireColours

_MARGIN = 24.0
_BAND = 7.0  # height of what acts position by position
_NEST = 8.0  # between frames


class Drawing:
    """One picture."""

    def __init__(
        self,
        annotation: Annotation,
        picture: Folded,
        colours: WireColours,
        title: str,
    ) -> None:
        self._colours, self._title = colours, title
        self._boxes = picture.boxes
        self._words = [describe_box(b, colours, picture.names) for b in picture.boxes]
        leaves = jax.tree.leaves(annotation.params)
        count = sum(math.prod(x.shape) for x in leaves)
        self._summary = f"{count:,} parameters, {short(flops(annotation.jaxpr))}FLOPs"
        self._x = _MARGIN  # of the left end of the wires
        self._column = 0.0  # of the words

    def text(self) -> str:
        """The whole picture."""
        depth = max(len(box.frames) for box in self._boxes)
        layout = lay_out(self._boxes, [w.lines for w in self._words])
        self._column = _MARGIN + layout.width + 10
        right = self._column + max(w.width for w in self._words) + 12 + _NEST * depth
        entries = self._colours.legend()
        key, low, wide = legend(entries, _MARGIN, 68, max(right - _MARGIN, 560.0))
        down = low + 14
        width, height = max(right, wide) + _MARGIN, down + layout.height + _MARGIN
        size = f'width="{width:.0f}" height="{height:.0f}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" '
            'aria-labelledby="title description">',
            f'<title id="title">{html.escape(self._title)}</title>',
            f'<desc id="description">{html.escape(self._description())}</desc>',
            f"<style>{STYLE}</style>",
            f'<rect width="100%" height="100%" fill="{BACKGROUND}"/>',
            words(_MARGIN, 26, self._title, size=15, bold=True),
            words(_MARGIN, 46, self._summary, size=10.5, fill=GREY),
            *key,
            f'<g transform="translate(0 {down:.1f})">',
            *self._frames(layout, right),
        ]
        for k in range(len(layout.rows)):
            parts += self._waiting(layout, k)
        for row, text, then in zip(
            layout.rows, self._words, (*layout.rows[1:], None), strict=True
        ):
            parts += self._operation(row, text)
            parts += self._below(row, then)
        return "\n".join((*parts, "</g>", "</svg>")) + "\n"

    def _description(self) -> str:
        names = []
        for text in self._words:
            taken = ", ".join(pill.title for pill in text.pills)
            if text.label:
                names.append(f"{text.label} ({taken})" if taken else text.label)
        return f"{self._summary}. From top to bottom: {'; '.join(names)}."

    def _frames(self, layout: Layout, right: float) -> list[str]:
        parts, opened = [], []
        for row in layout.rows:
            if row.box.kind == "open":
                opened.append(row)
            elif row.box.kind == "close":
                first = opened.pop()
                x = self._x + first.left - 6
                wide = right - _NEST * len(opened) - x
                tall = row.bottom - first.top
                parts.append(rectangle(x, first.top, wide, tall, "frame", 7))
        return parts[::-1]

    def _wire(
        self,
        lane: Lane,
        number: int,
        role: str,
        start: tuple[float, float],
        end: tuple[float, float],
        under: str = "",
    ) -> str:
        (x0, y0), (x1, y1) = start, end
        x0, x1 = x0 + self._x, x1 + self._x
        if number < 0:
            return f'<path class="thread" d="{line(x0, y0, x1, y1)}"/>'
        bundle = lane.view.bundle
        more = f' data-role="{role}" data-size="{bundle.sizes[number]}"'
        colours = self._colours(bundle.axes[number])
        return wire(x0, y0, x1, y1, colours, halo=under, attributes=more)

    def _waiting(self, layout: Layout, k: int) -> list[str]:
        """The values that begin to wait in a row, down to where they are taken."""
        parts, rows = [], layout.rows
        for lane in rows[k].waiting:
            if k and lane in rows[k - 1].waiting:
                continue
            last = k
            while last + 1 < len(rows) and lane in rows[last + 1].waiting:
                last += 1
            y0, y1 = rows[k].top, rows[last].bottom
            for number, x in lane.at.items():
                parts.append(self._wire(lane, number, "waiting", (x, y0), (x, y1)))
            x = self._x + lane.right + GAP * 0.9
            parts.append(f'<path class="apart" d="{line(x, y0, x, y1)}"/>')
        return parts

    def _operation(self, row: Row, text: Words) -> list[str]:
        """A box, with its wires from where they come in to where they leave it."""
        box = row.box
        ranks = " ".join(str(len(view.order)) for view in box.operands)
        title = html.escape(box.detail or box.label or box.kind)
        shape, under, over = self._box(row, text)
        parts = [
            f'<g class="operation" data-kind="{box.kind}" data-ranks="{ranks}" '
            f'data-label="{html.escape(box.label)}">',
            f"<title>{title}</title>",
            *under,
            *shape,
            *over,
        ]
        for first, second in zip(row.operands, row.operands[1:], strict=False):
            x = self._x + (first.right + second.left) / 2
            if box.kind not in ("output", "open", "close"):
                d = line(x, row.top - 4, x, row.middle - BOX / 2)
                parts.append(f'<path class="apart" d="{d}"/>')
        parts += text.draw(self._column, row.middle)
        for lane, number in news(row):
            bundle = lane.view.bundle
            half = spread(self._colours(bundle.axes[number])) / 2
            x, size = self._x + lane.at[number] + half + 2.5, bundle.sizes[number]
            parts.append(
                words(x, row.joined + 7, str(size), size=8.5, mono=True, fill=GREY)
            )
        return [*parts, "</g>"]

    def _box(self, row: Row, text: Words) -> tuple[list[str], list[str], list[str]]:
        """The shape of a box, the wires below it, and those that pass over it."""
        box = row.box
        halo = FRAME if box.frames else BACKGROUND
        operands = {id(lane.view): lane for lane in row.operands}
        outs = {id(lane.view): lane for lane in row.outs}
        under, over, dots = [], [], []
        spanned: list[float] = []
        begun: list[tuple[float, Lane, int]] = []
        for strand, ins, places in strands(row):
            leaving = [(outs.get(id(box.outs[j])), w) for j, w in strand.outs]
            taken = [(lane, w) for lane, w in leaving if lane]
            if not ins:
                begun += [(lane.at[w], lane, w) for lane, w in taken]
            elif strand.acted:
                spanned += ins
            for x, (i, w) in zip(ins, strand.ins, strict=True):
                lane = operands[id(box.operands[i])]
                if not places:
                    end = (x, row.middle)
                    under.append(self._wire(lane, w, "in", (x, row.top), end))
                    continue
                end = (x, row.low)
                over.append(self._wire(lane, w, "in", (x, row.top), end, halo))
                for to, part in zip(places, taken, strict=True):
                    # What is taken apart leaves in the colours of its parts.
                    shown = part if len(places) > 1 else (lane, w)
                    start, end = (x, row.low), (to, row.joined)
                    over.append(self._wire(*shown, "on", start, end, halo))
                if strand.weighted or strand.acted:
                    dots.append(self._dot(x, row.middle, 3.4, INK))
        for lane in row.operands:
            if -1 in lane.at:
                x = lane.at[-1]
                over.append(self._wire(lane, -1, "in", (x, row.top), (x, row.middle)))
        if box.kind in ("input", "output"):
            return [], under, over
        if box.kind in ("wiring", "open", "close"):
            for x, lane, w in begun:
                start, end = (x, row.middle), (x, row.joined)
                over.append(self._wire(lane, w, "on", start, end, halo))
                if box.kind == "wiring":
                    over.append(self._dot(x, row.middle, 3, BACKGROUND))
            return [], under, over
        flat = box.kind in ("map", "sum")
        if flat:
            spanned = [x for lane in row.operands for x in lane.at.values()]
        spanned = spanned or [x for x, _, _ in begun]
        if not spanned:
            return [], under, [*over, *dots]
        left, right = min(spanned) - 9, max(spanned) + 9
        grow = max(0.0, 12.0 * len(begun) + 6 - (right - left)) / 2
        left, right = left - grow, right + grow
        begun.sort(key=lambda start: start[0])
        for k, (x, lane, w) in enumerate(begun):
            at = left + (right - left) * (k + 1) / (len(begun) + 1)
            if len(begun) == 1 and left + 5 <= x <= right - 5:
                at = x
            under.append(self._wire(lane, w, "on", (at, row.middle), (x, row.joined)))
        tall = _BAND if flat else BOX
        x, y = self._x + left, row.middle - tall / 2
        radius = 0.0 if box.kind == "linear" else 4.0
        shape = rectangle(x, y, right - left, tall, box.kind, radius)
        return [self._leader(row, right, text), shape], under, [*over, *dots]

    def _dot(self, x: float, y: float, radius: float, fill: str) -> str:
        edge = f' stroke="{INK}"' if fill == BACKGROUND else ""
        return (
            f'<circle cx="{self._x + x:.1f}" cy="{y:.1f}" r="{radius:g}" '
            f'fill="{fill}"{edge}/>'
        )

    def _leader(self, row: Row, right: float, text: Words) -> str:
        """From a box to its words: the axes of the first source, if it has one."""
        x0, x1 = self._x + right, self._column - 4
        colours = [c for pill in text.pills[:1] for c in pill.colours]
        if not colours:
            return f'<path class="leader" d="M{x0:.1f} {row.middle:.1f}H{x1:.1f}"/>'
        parts = []
        for k, colour in enumerate(colours):
            y = row.middle + (k - (len(colours) - 1) / 2) * 3
            parts += stroke(f"M{x0:.1f} {y:.1f}H{x1:.1f}", colour[0], 1.3)
        return f'<g class="source">{"".join(parts)}</g>'

    def _below(self, row: Row, then: Row | None) -> list[str]:
        """The wires from a row to the next, with dots where they fork."""
        halo = FRAME if row.box.frames else BACKGROUND
        parts = []
        for lane in row.outs:
            for number, x in lane.at.items():
                start, end = (x, row.joined), (x, row.bottom)
                parts.append(self._wire(lane, number, "out", start, end, halo))
        if then is None:
            return parts
        uses = collections.Counter(lane.view.bundle for lane in then.waiting)
        uses.update(lane.view.bundle for lane in then.operands)
        for x0, x1, (lane, number) in ways(row, then):
            start, end = (x0, row.bottom), (x1, then.top)
            parts.append(self._wire(lane, number, "way", start, end, halo))
            bundle = lane.view.bundle
            if uses[bundle] > 1 and number >= 0:
                fill = colour_of(self._colours(bundle.axes[number]))
                parts.append(self._dot(x0, row.bottom, 3, fill))
        return parts
