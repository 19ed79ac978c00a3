"""Pieces of SVG text: words whose widths are known, wires in one or several colours."""

import html
from collections.abc import Sequence

BACKGROUND = "#fcfcfa"
FRAME = "#f1f3f5"
INK = "#24292f"
GREY = "#6e7781"
NONE = "#b8bec5"  # a wire that is no group: padding, a number
# Told apart with any colour vision, and from the background: after Okabe and Ito and
# after Tol.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b8539b",
    "#8c6d00",
    "#332288",
    "#40a8dc",
    "#882255",
    "#6b8e23",
    "#e08a9b",
)
STYLES = 3  # plain, hollow, beaded
_PLAIN, _BOLD, _MONO = 0.6, 0.67, 0.61  # of a letter, in its size
_WIRE = 3.0
_STRANDS = 4

Colours = tuple[tuple[int, ...], ...]  # strands of one wire, each of several colours


class SVG(str):
    """SVG text that notebooks show as a picture."""

    def _repr_svg_(self) -> str:
        return str(self)


def words(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 11.0,
    mono: bool = False,
    bold: bool = False,
    fill: str = INK,
    title: str = "",
) -> str:
    """A line of text that begins at x, with y its middle."""
    style = f' class="{"m" if mono else "s"}" font-size="{size:g}" fill="{fill}"'
    weight = ' font-weight="600"' if bold else ""
    more = f"<title>{html.escape(title)}</title>" if title else ""
    width = f' data-width="{text_width(text, size, mono=mono, bold=bold):.1f}"'
    return (
        f'<text x="{x:.1f}" y="{y + 0.36 * size:.1f}"{style}{weight}{width}>'
        f"{more}{html.escape(text)}</text>"
    )


def text_width(
    text: str, size: float, *, mono: bool = False, bold: bool = False
) -> float:
    """The width that is kept free for a text."""
    return len(text) * size * (_MONO if mono else _BOLD if bold else _PLAIN)


def shortened(text: str, letters: int) -> str:
    """A text with its middle left out where it is long."""
    if len(text) <= letters:
        return text
    half = (letters - 1) // 2
    return text[:half] + "\u2026" + text[-half:]


def line(x0: float, y0: float, x1: float, y1: float) -> str:
    """A way from a point to one below it."""
    if abs(x0 - x1) < 0.05:
        return f"M{x0:.1f} {y0:.1f}V{y1:.1f}"
    half = (y0 + y1) / 2
    return (
        f"M{x0:.1f} {y0:.1f}C{x0:.1f} {half:.1f} {x1:.1f} {half:.1f} {x1:.1f} {y1:.1f}"
    )


def wire(
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    colours: Colours,
    *,
    halo: str = "",
    attributes: str = "",
) -> str:
    """A wire: its strands stand beside each other, the colours of one take turns.

    With a halo, the colour of what lies below, it is seen to pass over others.
    """
    shown = colours[:_STRANDS]
    parts = []
    width = _WIRE if len(shown) == 1 else 2.4
    total = spread(colours)
    if halo:
        parts.append(
            f'<path d="{line(x0, y0, x1, y1)}" stroke="{halo}" '
            f'stroke-width="{total + 3:.1f}"/>'
        )
    for i, strand in enumerate(shown):
        shift = (i - (len(shown) - 1) / 2) * 3.4
        # Pieces of a wire overlap, or a seam is seen between them.
        d = line(x0 + shift, y0 - 0.6, x1 + shift, y1 + 0.6)
        parts += stroke(d, strand, width)
    return f'<g class="wire"{attributes}>{"".join(parts)}</g>'


def spread(colours: Colours) -> float:
    """The width of a wire."""
    return _WIRE if len(colours) == 1 else 3.4 * min(len(colours), _STRANDS) - 1


def colour_of(colours: Colours) -> str:
    """The first colour of a wire."""
    return COLOURS[colours[0][0] % len(COLOURS)] if colours[0] else NONE


def stroke(d: str, strand: Sequence[int], width: float) -> list[str]:
    """A path in several colours that take turns."""
    if not strand:
        return [f'<path d="{d}" stroke="{NONE}" stroke-width="{width:g}"/>']
    parts = []
    for k, number in enumerate(strand):
        dash = ""
        if k:
            rest = 7 * (len(strand) - 1 - k)
            dash = f' stroke-dasharray="0 {7 * k} 7 {rest}"'
        colour = COLOURS[number % len(COLOURS)]
        parts.append(
            f'<path d="{d}" stroke="{colour}" stroke-width="{width:g}"{dash}/>'
        )
        style = number // len(COLOURS) % STYLES
        if style and not k:
            beads = ' stroke-dasharray="2 5"' if style == 2 else ""
            parts.append(
                f'<path d="{d}" stroke="{BACKGROUND}" stroke-width="{width / 2.6:.1f}"'
                f"{beads}/>"
            )
    return parts


def rectangle(
    x: float, y: float, width: float, height: float, style: str, radius: float = 0.0
) -> str:
    """A rectangle, with a class of the style sheet."""
    return (
        f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" rx="{radius:g}"/>'
    )
