"""Writes `docs/systems.md` from `tests/registry/`: `python docs/make_systems.py`."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.registry import ENTRIES, SUBPACKAGES, Entry  # noqa: E402

HEAD = """\
# Systems

What each function takes from which source, and what proves it. The state is *proved*,
*our choice* where the source does not say, or *not reproduced*.

<!-- Written by docs/make_systems.py from tests/registry/; edit that. -->
"""
COLUMNS = ("source", "functions", "what proves it", "what differs", "state")


def row(cells: tuple[str, ...]) -> str:
    """Makes one row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def cells(entry: Entry) -> tuple[str, ...]:
    """Gives the cells of an entry; each name is a link to its documentation."""
    page = f"api/{entry.package}.md#jaxarch.{entry.package}"
    names = ", ".join(f"[`{name}`]({page}.{name})" for name in entry.names)
    return entry.source, names, entry.proof, entry.differs, entry.state


def render() -> str:
    """Gives the text of `docs/systems.md`."""
    blocks = [HEAD]
    for package in SUBPACKAGES:
        rows = [cells(e) for e in ENTRIES if e.package == package and e.source]
        table = [row(COLUMNS), row(("---",) * len(COLUMNS)), *map(row, rows)]
        blocks.append(f"## {package.capitalize()}\n\n" + "\n".join(table) + "\n")
    return "\n".join(blocks)


if __name__ == "__main__":
    (ROOT / "docs" / "systems.md").write_text(render())
