r"""What values share: which can be read together, and in which expectations.

The fast evaluations (`_vector.py`, `_spatial.py`) follow one covariance a value,
which is enough while branches are independent. A value whose branches share Gaussians,
or parameters by `name=`, needs the covariances *between* values too (`_cross.py`): sums
are bilinear, $\mathbb E(a + b)c' = \mathbb E ac' + \mathbb E bc'$; two uses of one
matrix $W$ give $\mathbb E (Wa)(Wb)' = \sigma_w^2\,\mathbb E ab'$; products and
nonlinearities are functions of the Gaussians below them, and their expectations fall
into factors that share none.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from ._attention import Attention
from ._combine import Add, Multiply, mixed_means
from ._composite import Composite, dependent, gaussians
from ._expectation import MOST_GAUSSIANS
from ._graph import Graph, Node, Number, Operation, Value, equal
from ._nonlinearity import Nonlinearity


def infer(nodes: Sequence[Node], operation: Operation, args: Sequence[int]) -> Value:
    """The `Value` of an operation whose arguments may share what they like.

    Raises:
        ValueError: if no kernel is known for it.
        NotImplementedError: if it needs an expectation over too many Gaussians.
    """
    values = [nodes[j].value for j in args]
    sources = frozenset().union(*(value.sources for value in values))
    where = operation.name
    if isinstance(operation, Nonlinearity):
        (value,) = values
        plain = value.gaussian or value.raw
        if plain or gaussians(nodes, args[0]) is None:
            return operation.infer(*values)
        found = Value(sources)
    elif isinstance(operation, Multiply) and dependent(values):
        if any(gaussians(nodes, j) is None for j in args):
            shared = sorted(values[0].sources & values[1].sources)
            raise ValueError(
                f"{where}: branches that both depend on {', '.join(shared)} must be "
                "coordinatewise functions of Gaussian values; put a `dense` on one "
                "of them."
            )
        found = Value(sources)
    else:
        return operation.infer(*values)
    node = Node(operation, tuple(args), found)
    count = max(map(_size, groups([*nodes, node], len(nodes), len(nodes))))
    if count > MOST_GAUSSIANS:
        raise NotImplementedError(
            f"{where}: its kernel is an expectation over {count} dependent Gaussian "
            f"values, and {MOST_GAUSSIANS} at most can be integrated; put a `dense` "
            "before it, or take the kernel of finite networks (`monte_carlo`)."
        )
    return found


class Group(NamedTuple):
    """Factors of two products that depend on each other, and on no other factor."""

    one: Sequence[int]
    two: Sequence[int]
    gaussians1: Sequence[int]
    gaussians2: Sequence[int]


def _size(group: Group) -> int:
    return len(group.gaussians1) + len(group.gaussians2)


def factors(nodes: Sequence[Node], i: int) -> list[int]:
    """The values whose product value `i` is."""
    if isinstance(nodes[i].operation, Multiply):
        return [k for j in nodes[i].args for k in factors(nodes, j)]
    return [i]


def groups(nodes: Sequence[Node], i: int, j: int) -> list[Group]:
    r"""Independent groups of factors of $\mathbb E v_i v_j'$."""
    members = [(0, k) for k in factors(nodes, i)] + [(1, k) for k in factors(nodes, j)]
    found: list[tuple[frozenset[str], list[tuple[int, int]]]] = []
    for side, k in members:
        sources, together = nodes[k].value.sources, [(side, k)]
        apart = []
        for others, group in found:
            if others & sources:
                sources, together = sources | others, group + together
            else:
                apart.append((others, group))
        found = [*apart, (sources, together)]
    result = []
    for _, group in found:
        one = tuple(k for side, k in group if side == 0)
        two = tuple(k for side, k in group if side == 1)
        result.append(Group(one, two, _below(nodes, one), _below(nodes, two)))
    return result


def _below(nodes: Sequence[Node], values: Sequence[int]) -> tuple[int, ...]:
    found: set[int] = set()
    for i in values:
        leaves = gaussians(nodes, i)
        # A lone factor that is no function of Gaussians has a rule of its own.
        found.update((i,) if leaves is None else leaves)
    return tuple(sorted(found))


@functools.cache
def is_joint(graph: Graph) -> bool:
    """Whether covariances between different values are needed.

    Raises:
        NotImplementedError: if they are, and an operation has no rule for them.
    """
    nodes = graph.nodes
    names = [n.operation.parameter for n in nodes if n.operation.parameter is not None]
    found = len(set(names)) < len(names)
    for node in nodes:
        values = [nodes[j].value for j in node.args]
        if isinstance(node.operation, (Add, Multiply)):
            found |= dependent(values) or mixed_means(values)
        elif isinstance(node.operation, Nonlinearity):
            found |= not (values[0].gaussian or values[0].raw)
    if found:
        for node in nodes:
            if isinstance(node.operation, Attention):
                raise NotImplementedError(
                    "attention: a network with dependent branches or shared parameters "
                    "cannot have it; put a `dense` on one of the branches."
                )
    return found


def mark_likes(graph: Graph, numbers: Sequence[Sequence[Number]]) -> Graph:
    """Says of each operation which is the first equal one, if that is ever asked."""
    if not is_joint(graph):
        return graph  # which then holds nothing of the numbers
    nodes: list[Node] = []
    for i, node in enumerate(graph.nodes):
        like = next(
            j
            for j, other in enumerate(graph.nodes)
            if other.operation == node.operation and equal(numbers[i], numbers[j])
        )
        nodes.append(dataclasses.replace(node, like=like))
    return Graph(tuple(nodes))


def coarse(graph: Graph) -> Graph:
    """The same network with two thirds of the nodes in every quadrature."""

    def one(node: Node) -> Node:
        operation: Any = node.operation
        if not isinstance(operation, Composite):
            return node
        operation = dataclasses.replace(operation, coarse=True)
        return dataclasses.replace(node, operation=operation)

    return Graph(tuple(map(one, graph.nodes)), coarse=True)


def inner_pairs(graph: Graph) -> list[tuple[int, int]]:
    """Gaussian values whose covariance at one example an expectation needs."""
    nodes, found = graph.nodes, set()
    for node in nodes:
        if isinstance(node.operation, (Multiply, Nonlinearity)):
            below = sorted({k for i in node.args for k in gaussians(nodes, i) or ()})
            for n, a in enumerate(below):
                for b in below[n + 1 :]:
                    if nodes[a].value.sources & nodes[b].value.sources:
                        found.add((a, b))
    return sorted(found)
