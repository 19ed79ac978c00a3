"""What is written on a diagram: names beside the boxes, the legend."""

import dataclasses
from collections.abc import Mapping, Sequence

from ._boxes import Box
from ._circuit import Source
from ._svg import (
    FRAME,
    GREY,
    INK,
    Colours,
    rectangle,
    shortened,
    stroke,
    text_width,
    words,
)
from ._wire_colours import Entry, WireColours

LINE = 18.0
SMALL = 9.5
_LABEL = 11.5
_NAME = 46  # letters of the name of a parameter
_SIZES = 4  # of one colour in the legend
_TIMES = "\u00d7"
_NOTATION = (
    ("linear", "spans the wires on which it acts, linear"),
    ("nonlinear", "the same, not linear"),
    ("sum", "position by position, linear"),
    ("map", "the same, not linear"),
    ("dot", "acts along this wire, or has weights for it"),
    ("apart", "between values"),
)


@dataclasses.dataclass(frozen=True)
class Pill:
    """The name of a value, with the colours of its axes."""

    colours: list[Colours]
    text: str
    title: str

    @property
    def width(self) -> float:
        """What it takes up."""
        return 12.0 + 9 * len(self.colours) + text_width(self.text, SMALL, mono=True)

    def draw(self, x: float, y: float) -> list[str]:
        """Draws it from x on, with y its middle."""
        parts = [rectangle(x, y - 7.5, self.width, 15, "pill", 4)]
        for colours in self.colours:
            parts += stroke(f"M{x + 8:.1f} {y - 4:.1f}v8", colours[0], 4.5)
            x += 9
        text = words(x + 8, y, self.text, size=SMALL, mono=True, title=self.title)
        return [*parts, text]


@dataclasses.dataclass(frozen=True)
class Words:
    """What stands beside a box: its name, and the values from outside that it takes."""

    label: str
    pills: list[Pill]
    grey: bool = False

    @property
    def lines(self) -> int:
        """How many lines of text it needs."""
        return max(len(self.pills), bool(self.label))

    @property
    def _indent(self) -> float:
        return text_width(self.label, _LABEL, bold=True) + 8 * bool(self.label)

    @property
    def width(self) -> float:
        """What it takes up."""
        return self._indent + max((pill.width for pill in self.pills), default=0.0)

    def draw(self, x: float, y: float) -> list[str]:
        """Draws it from x on, with y the middle of its first line."""
        fill = GREY if self.grey else INK
        parts = []
        if self.label:
            bold = not self.grey
            parts = [words(x, y, self.label, size=_LABEL, bold=bold, fill=fill)]
        for k, pill in enumerate(self.pills):
            parts += pill.draw(x + self._indent, y + k * LINE)
        return parts


def describe_box(box: Box, colours: WireColours, names: Mapping[str, str]) -> Words:
    """Gives the words of a box.

    Args:
        box: the operation.
        colours: of the axes of its sources.
        names: how parameters are written that stand for those of equal blocks.
    """
    if box.kind == "open":
        return Words(f"{box.label}  {box.detail}".strip(), [])
    if box.kind in ("input", "output"):
        pills = []
        for value in box.outs if box.kind == "input" else box.operands:
            bundle, order = value.bundle, value.order
            text = _named(bundle.name, [bundle.sizes[w] for w in order]) or "a number"
            shown = [colours(bundle.axes[w]) for w in order]
            pills.append(Pill(shown, shortened(text, _NAME), text))
        return Words(box.kind, pills, grey=True)
    together: dict[tuple, tuple[Source, list[str]]] = {}
    for source in box.sources:
        axes = tuple(
            a for a, n in zip(source.axes, source.shape, strict=True) if n != 1
        )
        leaves = [names.get(leaf, leaf) for leaf in source.leaves]
        part = leaves[0].rpartition("/")[0] if leaves else ""
        together.setdefault((part, axes), (source, []))[1].extend(leaves)
    pills = []
    for (part, axes), (source, leaves) in together.items():
        name = part + "/" * bool(part)
        name += ", ".join(leaf.removeprefix(name) for leaf in dict.fromkeys(leaves))
        sizes = [n for n in source.shape if n != 1]
        text = _named(shortened(name or "constant", _NAME), sizes)
        title = _named(name or "constant", sizes)
        pills.append(Pill([colours(axis) for axis in axes], text, title))
    return Words(box.label, pills, grey=box.kind == "wiring")


def _named(name: str, sizes: Sequence[int]) -> str:
    return f"{name} {_TIMES.join(map(str, sizes))}".strip()


def legend(
    entries: Sequence[Entry], x: float, y: float, wide: float
) -> tuple[list[str], float, float]:
    """Draws what the colours and the boxes stand for.

    Args:
        entries: one for each colour.
        x: where it begins.
        y: the middle of its first line.
        wide: the width that it may take up.

    Returns:
        The pieces, where they end below, and where at the right.
    """
    lines = [_entry(entry) for entry in entries]
    step = max((text_width(text, SMALL, mono=True) for text in lines), default=0.0) + 50
    columns = 1 if len(lines) < 5 else max(1, int(wide // step))
    count = -(-len(lines) // columns)
    parts = []
    for k, (entry, text) in enumerate(zip(entries, lines, strict=True)):
        left, line = x + k // count * step, y + k % count * 16.0
        drawn = "".join(stroke(f"M{left:.1f} {line:.1f}h22", (entry.number,), 3.4))
        label = words(left + 30, line, text, size=SMALL, mono=True, title=entry.reason)
        parts.append(f'<g class="key" data-number="{entry.number}">{drawn}{label}</g>')
    y += count * 16 + 6
    left, right = x, x + min(columns, len(lines)) * step
    for style, text in _NOTATION:
        width = 28 + text_width(text, SMALL)
        if left > x and left + width > x + wide:
            left, y = x, y + 16
        parts += _sample(style, left, y)
        parts.append(words(left + 24, y, text, size=SMALL, fill=GREY))
        left += width + 14
        right = max(right, left)
    return parts, y + 8, right


def _sample(style: str, x: float, y: float) -> list[str]:
    if style == "dot":
        return [f'<circle cx="{x + 9:.1f}" cy="{y:.1f}" r="3.4" fill="{INK}"/>']
    if style == "apart":
        return [f'<path class="apart" d="M{x + 9:.1f} {y - 7:.1f}v14"/>']
    tall = 11.0 if style in ("linear", "nonlinear") else 6.0
    radius = 0 if style == "linear" else 3
    return [rectangle(x, y - tall / 2, 18, tall, style, radius)]


def _entry(entry: Entry) -> str:
    sizes = list(map(str, entry.sizes))
    if len(sizes) > _SIZES:
        sizes = [*sizes[:2], "\u2026", sizes[-1]]
    name = shortened(entry.name, _NAME)
    return f"{', '.join(sizes)}  {name}  {entry.state}"


STYLE = f"""
.s{{font-family:"DejaVu Sans",Verdana,"Segoe UI",Helvetica,Arial,sans-serif}}
.m{{font-family:"DejaVu Sans Mono",Menlo,Consolas,monospace;white-space:pre}}
path{{fill:none}}
.linear{{fill:#cfd8e6;stroke:#3d4f6b}}
.nonlinear{{fill:#ffe9b8;stroke:#946c00}}
.sum{{fill:#c3cfe2;stroke:none}}
.map{{fill:#ffd97a;stroke:none}}
.pill{{fill:#ffffff;stroke:#c5ccd3}}
.frame{{fill:{FRAME};stroke:#8c959f;stroke-width:1.2}}
.apart{{stroke:#8c959f;stroke-width:1;stroke-dasharray:3 4}}
.thread{{stroke:{GREY};stroke-width:1.2;stroke-dasharray:1 3}}
.leader{{stroke:{GREY};stroke-width:0.8;stroke-dasharray:1 4}}
"""
