"""Equal blocks one behind the other in a sequence, and the names of what they hold."""

import re
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np


class Repeat(NamedTuple):
    """A block of `period` entries from `start` on, which stands there `times` times."""

    start: int
    period: int
    times: int

    @property
    def stop(self) -> int:
        """The first entry behind all of it."""
        return self.start + self.period * self.times


def repeats(
    keys: Sequence[Hashable],
    cost: Callable[[Repeat], float | None] = lambda _: 0.0,
    *,
    saved: int = 1,
) -> list[Repeat]:
    """Finds blocks that stand several times one behind the other.

    Those that save most entries come first; then the same is done to what is left
    before and behind them. Time O(n^2) for n keys.

    Args:
        keys: entries with equal keys may stand for each other.
        cost: of a block, `None` if it is none. A run of a period may be cut into blocks
            at several entries: the cheapest is taken, and of those the first.
        saved: how many entries have to go for a block to be worth its frame.

    Returns:
        The blocks in their order; they do not overlap.
    """
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(key, len(numbers)) for key in keys], int)
    found: list[Repeat] = []
    todo = [(0, len(codes))]
    while todo:
        low, high = todo.pop()
        best = _best(codes[low:high], low, cost, saved)
        if best is not None:
            found.append(best)
            todo += [(low, best.start), (best.stop, high)]
    return sorted(found)


def _best(codes: np.ndarray, low: int, cost: Callable, saved: int) -> Repeat | None:
    candidates = []
    for period in range(1, len(codes) // 2 + 1):
        same = np.concatenate(([False], codes[:-period] == codes[period:], [False]))
        edges = np.flatnonzero(same[1:] != same[:-1])
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            turns = (stop - start) // period
            if turns * period >= saved and turns:
                candidates.append((-turns * period, period, start, stop))
    for _, period, start, stop in sorted(candidates):
        turns = (stop - start) // period
        options = []
        for first in range(start, stop - turns * period + 1):
            repeat = Repeat(low + first, period, turns + 1)
            price = cost(repeat)
            if price is not None:
                options.append((price, repeat))
        if options:
            return min(options)[1]
    return None


def plain(name: str) -> str:
    """A name with its numbers left out, by which those of equal blocks are compared."""
    return re.sub(r"\d+", "#", name)


def folded_name(names: Sequence[str]) -> str:
    """Writes names that differ in their numbers as one, `"blocks/0..11/w"`."""
    split = [re.split(r"(\d+)", name) for name in names]
    if len({len(parts) for parts in split}) != 1:
        return names[0]
    return "".join(map(_together, zip(*split, strict=True)))


def _together(parts: tuple[str, ...]) -> str:
    distinct = list(dict.fromkeys(parts))
    if len(distinct) == 1 or not all(part.isdigit() for part in distinct):
        return distinct[0]
    first, last = int(distinct[0]), int(distinct[-1])
    if [int(part) for part in distinct] == list(range(first, last + 1)):
        return f"{first}..{last}"
    return "{" + ",".join(distinct) + "}"
