"""Numbers that describe a text of `chain_text`, for a model of what it will score.

Counts of operations and of pairs of them, sizes and depth, all as logarithms, since
twice as many is as much of a step from ten as from a hundred.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("operation", "pair", "attribute", "size")
_NAME = re.compile(r"[\w-]+")
_PARAM = re.compile(r"Param\[([\d,]*)\]")
_ATTRIBUTE = re.compile(r"([a-z_]+)=(\[[\d\[\],:-]*\]|[\w.:-]+)")
_LENGTH = re.compile(r"\blength=(\d+)")
_SIZES = re.compile(r":(scalar|\d+(?:x\d+)*)")
_VALUE = re.compile(r"\b(?:Value|Carry|Slice|Next|Result|Out)\d*")
_GIVEN = re.compile(r"\b((?:Carry|Slice)\d*)=(\w+)")
# Attributes that repeat a shape, which the sizes say better.
_SHAPES = frozenset("limit_indices new_sizes shape sizes slice_sizes".split())


class _Line(NamedTuple):
    """A chain: its operations and results, how often it runs, and what it ends."""

    operations: list[str]
    results: str
    times: int
    opens: bool = False  # a block follows
    closes: bool = False  # no chain, but the end of a block


class _Made(NamedTuple):
    """A value: the operation that made it, and the longest path to it."""

    name: str
    depth: float


def features(text: str) -> dict[str, dict[str, float]]:
    """Describes a text: kind of feature -> name -> number, absent where it is 0.

    Kinds are `operation` and `pair`, counts of operations and of an operation followed
    by another, `attribute`, counts of an operation with one of its attributes, and
    `size`: parameters and layers, sizes of results, the longest path. A loop counts as
    its turns would. A text without operands, attributes or shapes has the features that
    are left; any other text has counts of its words.
    """
    counts = {
        kind: collections.Counter() for kind in ("operation", "pair", "attribute")
    }
    made: dict[str, _Made] = {}
    params: list[tuple[int, list[int]]] = []
    results: list[tuple[int, int]] = []
    open_blocks: list[tuple[str, _Made]] = []  # results, and the end of the block
    layers, nothing = 0, _Made("", 0.0)
    longest = nothing
    for line in _lines(text):
        if line.closes:
            if open_blocks:
                names, inner = open_blocks.pop()
                made.update(dict.fromkeys(_VALUE.findall(names), inner))
            continue
        last = nothing
        for operation in line.operations:
            found = _NAME.match(operation)
            if found is None:
                continue
            name = found.group()
            counts["operation"][name] += line.times
            for key, value in _ATTRIBUTE.findall(operation):
                if key not in _SHAPES:
                    counts["attribute"][f"{name} {key}={value}"] += line.times
            if line.opens:  # what it is given is used within
                for inner, outer in _GIVEN.findall(operation):
                    made[inner] = made.get(outer, nothing)
                continue
            before = [made[v] for v in _VALUE.findall(operation) if v in made]
            before += [last] if last.name else []
            for other in before:
                if other.name:
                    counts["pair"][f"{other.name} {name}"] += line.times
            depth = max((b.depth for b in before), default=0.0) + line.times
            last = _Made(name, depth)
            sizes = [_numbers(found) for found in _PARAM.findall(operation)]
            params += [(line.times, own) for own in sizes]
            layers += line.times * any(len(own) > 1 for own in sizes)
        longest = max(longest, last, key=lambda m: m.depth)
        for sizes in _SIZES.findall(line.results):
            results.append((line.times, math.prod(_numbers(sizes))))
        if line.opens:
            open_blocks.append((line.results, nothing))
            continue
        made.update(dict.fromkeys(_VALUE.findall(line.results), last))
        open_blocks = [
            (names, max(end, last, key=lambda m: m.depth)) for names, end in open_blocks
        ]
    logs = {
        kind: {name: math.log1p(n) for name, n in found.items()}
        for kind, found in counts.items()
    }
    return {**logs, "size": _sizes(params, results, longest.depth, layers)}


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _sizes(
    params: list[tuple[int, list[int]]],
    results: list[tuple[int, int]],
    depth: float,
    layers: int,
) -> dict[str, float]:
    found: dict[str, float] = {"depth": depth, "layers": layers}
    if params:
        numbers = sum(times * math.prod(sizes) for times, sizes in params)
        fans = [math.prod(sizes[:-1]) for _, sizes in params if len(sizes) > 1] or [0]
        found |= {"parameters": numbers, "parameters a layer": numbers / max(layers, 1)}
        found |= {"first fan-in": fans[0], "last fan-in": fans[-1]}
        found |= {"least fan-in": min(fans), "most fan-in": max(fans)}
    if results:
        elements = [n for _, n in results]
        found["elements"] = sum(times * n for times, n in results)
        found |= {"least elements": min(elements), "most elements": max(elements)}
    return {name: math.log1p(number) for name, number in found.items()}


def _lines(text: str) -> Iterator[_Line]:
    """The chains of a text; those in a block run as often as their loop says."""
    times = [1]
    for raw in text.splitlines():
        line = raw.strip()
        opens = line.endswith("{")
        if line.startswith("}"):
            if not opens:
                times = times[:-1] or [1]
                yield _Line([], "", times[-1], closes=True)
            continue
        *operations, results = line.removesuffix("{").strip().split(" --> ")
        if not operations:
            operations, results = results.split(), ""
        yield _Line(operations, results, times[-1], opens=opens)
        if opens:
            length = _LENGTH.search(operations[-1]) if operations else None
            times.append(times[-1] * (int(length.group(1)) if length else 1))
