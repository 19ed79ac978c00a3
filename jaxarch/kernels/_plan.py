"""Which pairs of positions an architecture needs, decided value by value."""

import functools
from typing import NamedTuple

from ._attention import Attention
from ._graph import Graph, Shape
from ._nonlinearity import Nonlinearity
from ._pool import GlobalPool, Linear
from ._regularise import LayerNorm


class Plan(NamedTuple):
    """What is decided for each value of a graph, given the shape of its input."""

    shapes: tuple[Shape, ...]
    full: tuple[bool, ...]  # whether pairs of different positions are needed
    mixed: tuple[bool, ...]  # whether it is computed from absolute arrays
    stage: tuple[int, ...]  # how many mixing operations lie before it at most
    kept: tuple[bool, ...]  # whether it is put down in absolute arrays
    summed: tuple[bool, ...]  # whether its sum over all pairs is wanted
    formal: tuple[bool, ...]  # whether its second moment is a bound only
    exact: bool  # whether pooled second moments are needed


def shapes_of(graph: Graph, first: Shape) -> list[Shape]:
    """Shape of every value."""
    shapes: list[Shape] = []
    for node in graph.nodes:
        args = [shapes[i] for i in node.args]
        shapes.append(node.operation.shape(*args) if args else first)
    return shapes


@functools.lru_cache(maxsize=256)
def plan(graph: Graph, first: Shape) -> Plan:
    """Decides for every value which pairs are needed and how they are laid out."""
    nodes = graph.nodes
    shapes = shapes_of(graph, first)
    full = graph.full_pairs([bool(shape.space) for shape in shapes])
    mixed, stage, pooled = [], [], []
    for i, node in enumerate(nodes):
        mixed.append(node.operation.mixes(full[i]))
        stage.append(max([stage[j] for j in node.args], default=0) + mixed[i])
        linear = isinstance(node.operation, (Linear, Attention))
        pooled.append(linear or any(pooled[j] for j in node.args))
    exact = any(isinstance(node.operation, Attention) for node in nodes) or any(
        isinstance(node.operation, (Nonlinearity, LayerNorm))
        and any(pooled[j] for j in node.args)
        for node in nodes
    )
    kept, summed = [False] * len(nodes), [False] * len(nodes)
    kept[-1] = full[-1]
    for i, node in enumerate(nodes):
        for j in node.args:
            if not full[j]:
                continue
            if isinstance(node.operation, GlobalPool) and not mixed[j]:
                summed[j] = True
            elif mixed[i] or stage[i] > stage[j] or not full[i]:
                kept[j] = True
    return Plan(
        tuple(shapes),
        tuple(full),
        tuple(mixed),
        tuple(stage),
        tuple(kept),
        tuple(summed),
        tuple(p and not exact for p in pooled),
        exact,
    )
