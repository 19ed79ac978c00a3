r"""A function of one Gaussian that is written as several operations.

`relu(u) + u` or `x * sigmoid(x)` depend on one Gaussian value only, so they are a
nonlinearity like any other: `compose` finds them while a network is recorded. A
positively homogeneous one, $f(u) = \alpha u + \beta|u|$, has the formulas of a
rectifier with these slopes; a smooth one its Hermite expansion; one with kinks at zero
a quadrature between the kinks.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Array

from ._combine import Add, Multiply, Scale
from ._expansion import expand_moments, series
from ._expectation import half_line_moments, sectors, slopes
from ._graph import Node, Number, Operation, Value
from ._nonlinearity import Nonlinearity
from ._piecewise import PiecewiseExponential
from ._rectified import RectifiedMonomial, Rectifier, Sign


@dataclasses.dataclass(frozen=True)
class Composite(Nonlinearity):
    """Operations on the values so far, of which the argument is number 0."""

    steps: tuple[tuple[Operation, tuple[int, ...]], ...]
    coarse: bool = False

    name = "composite"

    @property
    def numbers(self) -> tuple[str, ...]:  # pyright: ignore
        """Those of the steps."""
        return tuple(n for operation, _ in self.steps for n in operation.numbers)

    def __str__(self) -> str:
        texts = ["u"]
        for operation, args in self.steps:
            inside = ", ".join(
                filter(None, [*(texts[i] for i in args), str(operation)])
            )
            texts.append(f"{operation.name}({inside})")
        return texts[-1]

    @property
    def homogeneous(self) -> bool:
        r"""Whether it is $\alpha u + \beta |u|$."""
        return all(is_homogeneous(operation) for operation, _ in self.steps)

    @property
    def smooth(self) -> bool:
        """Whether it has no kink."""
        return all(is_smooth(operation) for operation, _ in self.steps)

    def function(self, numbers: Sequence[Number]) -> Callable[[Array], Array]:
        """The map of arrays, number by number."""

        def f(u):
            values, rest = [u], list(numbers)
            for operation, args in self.steps:
                own = [rest.pop(0) for _ in operation.numbers]
                inputs = [values[i] for i in args]
                values.append(operation.apply(own, None, *inputs, key=None))
            return values[-1]

        return f

    def _rectifier(self, numbers, dtype) -> tuple[Array, Array]:
        """Slopes below and above zero."""
        odd, even = slopes(self.function(numbers), dtype)
        return odd - even, odd + even

    def marginal(self, numbers, *args, shapes):
        """As a rectifier, or as the moments say."""
        if self.homogeneous:
            ends = self._rectifier(numbers, args[0].root.dtype)
            return Rectifier("abrelu").marginal(ends, *args, shapes=shapes)
        return super().marginal(numbers, *args, shapes=shapes)

    def moments(self, numbers, q):
        """By expansion or quadrature."""
        f = self.function(numbers)
        if self.smooth:
            return expand_moments(f, q)
        return *half_line_moments(f, q, self.coarse), ()

    def pair(self, numbers, *args, out1, out2, shapes, rules):
        """As a rectifier, or by `dual`."""
        context: Any = {"out1": out1, "out2": out2, "shapes": shapes, "rules": rules}
        if self.homogeneous:
            ends = self._rectifier(numbers, args[0].v.dtype)
            return Rectifier("abrelu").pair(ends, *args, **context)
        return super().pair(numbers, *args, **context)

    def dual(self, numbers, h):
        """By expansion or quadrature."""
        if self.smooth:
            return series(h.one.weights, h.two.weights, 1 - h.v)
        f = self.function(numbers)
        jumps = not all(is_continuous(operation) for operation, _ in self.steps)
        return sectors(f, f, h, self.coarse, jumps)

    def apply(self, numbers, params, *args: Array, key) -> Array:
        """The steps."""
        return self.function(numbers)(args[0])


def is_homogeneous(operation: Operation) -> bool:
    r"""Whether `operation` keeps functions $\alpha u + \beta|u|$ such functions."""
    if isinstance(operation, Composite):
        return operation.homogeneous
    return isinstance(operation, (Add, Scale, Rectifier))


def is_smooth(operation: Operation) -> bool:
    """Whether `operation` has no kink."""
    if isinstance(operation, Composite):
        return operation.smooth
    kinked = (Rectifier, Sign, RectifiedMonomial, PiecewiseExponential)
    return not isinstance(operation, kinked)


def is_continuous(operation: Operation) -> bool:
    """Whether `operation` has no jump."""
    if isinstance(operation, Composite):
        return all(is_continuous(step) for step, _ in operation.steps)
    return not isinstance(operation, Sign)


def is_coordinatewise(operation: Operation) -> bool:
    """Whether each coordinate of the result depends on that of the arguments only."""
    return isinstance(operation, (Add, Multiply, Scale, Nonlinearity))


def gaussians(
    nodes: Sequence[Node], i: int, *, raw: bool = False
) -> tuple[int, ...] | None:
    """The Gaussian values that value `i` is a coordinatewise function of.

    Args:
        nodes: Of the network.
        i: Position of the value.
        raw: Whether to count the input, which is Gaussian if a `State` says so.

    Returns:
        Their positions in order; `None` if it is no such function.
    """
    node = nodes[i]
    if raw and node.value.raw:
        return (i,)
    below: set[int] = set()
    if is_coordinatewise(node.operation):
        for j in node.args:
            found = gaussians(nodes, j, raw=raw)
            if found is None:
                return (i,) if node.value.gaussian else None
            below.update(found)
        if len(below) == 1 or not node.value.gaussian:  # multiples are no others
            return tuple(sorted(below))
    return (i,) if node.value.gaussian else None


def dependent(values: Sequence[Value]) -> bool:
    """Whether two of the values depend on one parameter or input."""
    sources = [value.sources for value in values]
    return len(frozenset().union(*sources)) < sum(map(len, sources))


def compose(
    nodes: Sequence[Node],
    numbers: Sequence[Sequence[Number]],
    operation: Operation,
    args: Sequence[int],
    own: Sequence[Number],
) -> tuple[Operation, tuple[int, ...], tuple[Number, ...]]:
    """Writes an operation on dependent or non-Gaussian values as a function of one.

    Returns:
        A `Composite`, its argument and its numbers; those given if the operation needs
        no such reading or has none.
    """
    given = operation, tuple(args), tuple(own)
    values = [nodes[j].value for j in args]
    plain = all(value.gaussian or value.raw for value in values)
    if isinstance(operation, Nonlinearity):
        if plain:
            return given
    elif not isinstance(operation, (Add, Multiply)) or not dependent(values):
        return given
    elif isinstance(operation, Add) and plain:
        return given  # a sum of Gaussians is Gaussian
    leaves: set[int] = set()
    for j in args:
        found = gaussians(nodes, j, raw=True)
        if found is None:
            return given
        leaves.update(found)
    if len(leaves) != 1:
        return given
    (leaf,) = leaves
    place, steps, flat = {leaf: 0}, [], []

    def visit(j: int) -> int:
        if j not in place:
            node, values = nodes[j], [visit(k) for k in nodes[j].args]
            inner = ((node.operation, range(len(values))),)
            if isinstance(node.operation, Composite):
                inner = node.operation.steps
            for step, places in inner:
                steps.append((step, tuple(values[k] for k in places)))
                values.append(len(steps))
            flat.extend(numbers[j])
            place[j] = len(steps)
        return place[j]

    inputs = tuple(visit(j) for j in args)
    return Composite((*steps, (operation, inputs))), (leaf,), (*flat, *own)
