"""An architecture as data: hashable operations, and every number beside them.

A network is an ordinary Python function of one `Symbol`. Calling it once records a
`Graph`, which contains no number, and a tuple of numbers (Python or traced) in the same
order. Everything else interprets that pair: the infinite-width kernel (`_infinite.py`),
the finite network (`_finite.py`), the printed text.

What is tracked of each value while it is recorded (`Value`): the parameters and inputs
that it depends on, whether its coordinates are Gaussian, centred and equal in law. From
these an operation tells whether the kernel that it would compute is right, and refuses
by name where it is not.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._covariance import Covariance, Marginal, Pair, Rules

Number = float | Array


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of a value without any number."""

    sources: frozenset[str]  # names of the parameters and inputs it is a function of
    gaussian: bool = False
    centred: bool = False  # every coordinate has mean zero
    mixed: bool = False  # the coordinates are not all of one law
    raw: bool = False  # the input itself, which is Gaussian if a `State` says so


class Shape(NamedTuple):
    """Positions of a value, and its number of coordinates at each of them."""

    space: tuple[int, ...]  # () for a plain vector
    features: int | None  # None where it is not known

    @property
    def width(self) -> int:
        """The features, of a value that has them for sure."""
        assert self.features is not None
        return self.features


class Operation:
    """One operation: a frozen dataclass of statics, with a rule for each reading.

    `numbers` names the numeric leaves that the operation carries, in order.
    """

    name: ClassVar[str] = ""
    numbers: ClassVar[tuple[str, ...]] = ()
    positional: ClassVar[bool] = False  # whether it needs inputs with positions
    keeps_positions: ClassVar[bool] = True  # whether its result has positions then

    def infer(self, *args: Value) -> Value:
        """Derives the `Value` of the result; raises where no kernel can be right."""
        raise NotImplementedError

    def shape(self, *args: Shape) -> Shape:
        """Shape of the result; raises where the arguments do not fit."""
        return args[0]

    def needs(self, full: bool) -> bool:
        """Whether it needs its arguments at pairs of different positions.

        Args:
            full: Whether its own result is needed there.
        """
        return full

    def mixes(self, full: bool) -> bool:
        """Whether pairs of one offset become pairs of other offsets; see `_spatial`."""
        return False

    def marginal(
        self, numbers: Sequence[Number], *args: Marginal, shapes: Sequence[Shape]
    ) -> Marginal:
        """Moments of the result at each position of each example."""
        raise NotImplementedError

    def mask(self, *masks: Array | None, shapes: Sequence[Shape]) -> Array | None:
        """Which positions of the result belong to an example; see `_mask.py`.

        Args:
            masks: Those of the arguments, `(*space, ...)`, 1 or 0; `None` is all 1.
            shapes: Of the arguments.
        """
        if any(mask is None for mask in masks):
            return None
        return functools.reduce(jnp.maximum, masks)  # pyright: ignore

    def masked_marginal(
        self,
        numbers: Sequence[Number],
        *args: Marginal,
        shapes: Sequence[Shape],
        masks: Sequence[Array | None],
        out: Array | None,
    ) -> Marginal:
        """`marginal` of arguments with `masks`, for a result with the mask `out`."""
        return self.marginal(numbers, *args, shapes=shapes).present(out)

    def masked_apply(
        self,
        numbers: Sequence[Number],
        params: Any,
        *args: Array,
        key: Array | None,
        masks: Sequence[Array | None],
    ) -> Array:
        """`apply` to arguments that are 0 where their `masks` are."""
        return self.apply(numbers, params, *args, key=key)

    def pair(
        self,
        numbers: Sequence[Number],
        *args: Covariance,
        out1: Marginal,
        out2: Marginal,
        shapes: Sequence[Shape],
        rules: Rules,
    ) -> Pair:
        """Covariance and tangent kernel of the result at each pair of examples."""
        raise NotImplementedError

    def init(
        self, key: Array, numbers: Sequence[Number], shapes: Sequence[Shape], dtype: Any
    ) -> Any:
        """Parameters of the finite network; `None` if the operation has none."""
        return None

    def apply(
        self, numbers: Sequence[Number], params: Any, *args: Array, key: Array | None
    ) -> Array:
        """The operation itself, on one example."""
        raise NotImplementedError

    @property
    def parameter(self) -> str | None:
        """Name of the parameter that the operation owns or shares."""
        return None

    def __str__(self) -> str:
        statics = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
            if getattr(self, f.name) != f.default and f.name != "label"
        ]
        return ", ".join([*self.numbers, *statics])


@dataclasses.dataclass(frozen=True)
class Input(Operation):
    """The argument of the network."""

    name = "input"

    def infer(self) -> Value:
        """The input's coordinates are data: neither centred nor of one law."""
        return Value(frozenset(["input"]), mixed=True, raw=True)


@dataclasses.dataclass(frozen=True)
class Node:
    """An operation and the positions of its arguments among the earlier nodes."""

    operation: Operation
    args: tuple[int, ...]
    value: Value
    like: int = -1  # where it matters: first node with this operation and its numbers


@dataclasses.dataclass(frozen=True)
class Graph:
    """The operations of an architecture in program order; the last is the output."""

    nodes: tuple[Node, ...]
    coarse: bool = False  # whether quadratures take fewer nodes; see `_expectation`

    @property
    def positional(self) -> bool:
        """Whether examples are `(*space, channels)` and not `(features,)`."""
        return any(node.operation.positional for node in self.nodes)

    def check_input(self, where: str, name: str, x: Any, batch: str) -> None:
        """Raises `ValueError` unless `x` has the axes that the operations need.

        Args:
            where: The function, for the message.
            name: The argument, for the message.
            x: Examples if `batch` is "n, ", one example if it is "".
            batch: The axis before those of an example.
        """
        rank = len(jnp.shape(x)) - bool(batch)
        if rank != 1 and not self.positional or rank < 2 and self.positional:
            axes = "*space, channels" if self.positional else "features"
            wanted = f"({batch}{axes})" if batch else f"({axes},) (one example)"
            raise ValueError(
                f"{where}: `{name}` must have shape {wanted}, got {jnp.shape(x)}."
            )

    def full_pairs(self, spatial: Sequence[bool]) -> list[bool]:
        """Which values are needed at pairs of different positions.

        Args:
            spatial: Whether each value has positions.
        """
        from ._joint import is_joint

        if is_joint(self):
            return list(spatial)
        full = [False] * len(self.nodes)
        full[-1] = spatial[-1]
        for i in reversed(range(len(self.nodes))):
            for j in self.nodes[i].args:
                full[j] |= spatial[j] and self.nodes[i].operation.needs(full[i])
        return full

    def __str__(self) -> str:
        lines = []
        width = len(f"h{len(self.nodes) - 1}")
        spatial: list[bool] = []
        for node in self.nodes:
            kept = [spatial[j] for j in node.args if node.operation.keeps_positions]
            spatial.append(any(kept) if node.args else self.positional)
        full = self.full_pairs(spatial)
        for i, node in enumerate(self.nodes):
            args = ", ".join(f"h{j}" for j in node.args)
            text = ", ".join(filter(None, [args, str(node.operation)]))
            law = ["Gaussian"] if node.value.gaussian else []
            law += ["centred"] if node.value.centred and not law else []
            sources = ", ".join(sorted(node.value.sources))
            notes = [*law, f"depends on {sources}"]
            if spatial[i]:
                notes.append(
                    "pairs of positions" if full[i] else "position by position"
                )
            note = "; ".join(notes)
            call = f"{f'h{i}':<{width}} = {node.operation.name}({text})"
            lines.append(f"{call:<60}  # {note}")
        return "\n".join(lines)


class _Recorder:
    """Collects nodes and numbers while a network function runs."""

    def __init__(self, *, infinite: bool):
        self.infinite = infinite
        self.nodes: list[Node] = []
        self.numbers: list[tuple[Number, ...]] = []

    def emit(
        self, operation: Operation, args: Sequence["Symbol"], numbers: Sequence[Any]
    ) -> "Symbol":
        from ._composite import compose
        from ._joint import infer

        where = operation.name
        for arg in args:
            if arg._recorder is not self:
                raise ValueError(
                    f"{where}: both arguments must come from one network, "
                    "got values of two."
                )
        positions = tuple(arg._position for arg in args)
        numbers = tuple(_number(where, n) for n in numbers)
        if self.infinite:
            operation, positions, numbers = compose(
                self.nodes, self.numbers, operation, positions, numbers
            )
            value = infer(self.nodes, operation, positions)
            self._check_shared(operation, numbers)
        else:  # a finite network is right whatever its branches share
            values = [self.nodes[i].value for i in positions]
            value = Value(frozenset().union(*(v.sources for v in values)))
        self.nodes.append(Node(operation, positions, value))
        self.numbers.append(numbers)
        return Symbol(self, len(self.nodes) - 1)

    def _check_shared(self, operation: Operation, numbers: Sequence[Number]) -> None:
        name = operation.parameter
        for node, own in zip(self.nodes, self.numbers, strict=True):
            if name is None or node.operation.parameter != name:
                continue
            if node.operation != operation or not equal(own, numbers):
                raise ValueError(
                    f"{operation.name}: operations that share the parameter {name!r} "
                    "must have the same options and numbers, got "
                    f"{node.operation.name}({node.operation}) with {own} and "
                    f"{operation.name}({operation}) with {numbers}."
                )

    def fresh(self) -> int:
        """A number that no earlier node of this network has."""
        return len(self.nodes)


class Symbol:
    """A value of the network being recorded; `+`, `*` and `ker` functions act on it."""

    __slots__ = ("_position", "_recorder")
    __array_ufunc__ = None  # NumPy scalars leave `2.0 * h` to __rmul__

    def __init__(self, recorder: _Recorder, position: int):
        self._recorder = recorder
        self._position = position

    def __add__(self, other: "Symbol") -> "Symbol":
        from ._combine import add

        return add(self, other) if isinstance(other, Symbol) else NotImplemented

    def __mul__(self, other: Any) -> "Symbol":
        from ._combine import multiply, scale

        if isinstance(other, Symbol):
            return multiply(self, other)
        return scale(self, other)

    __rmul__ = __mul__

    def __neg__(self) -> "Symbol":
        return self * -1.0

    def __sub__(self, other: "Symbol") -> "Symbol":
        return self + -other if isinstance(other, Symbol) else NotImplemented

    def __truediv__(self, other: Any) -> "Symbol":
        return NotImplemented if isinstance(other, Symbol) else self * (1 / other)

    def __repr__(self) -> str:
        return f"h{self._position} of {len(self._recorder.nodes)} operations"


def _number(where: str, value: Any) -> Number:
    """A Python float, or an array or tracer of shape ()."""
    if isinstance(value, (bool, str, bytes)) or value is None:
        raise TypeError(f"{where}: wanted a number, got {value!r}.")
    if isinstance(value, (int, float)):
        return float(value)
    if jnp.shape(value) != ():
        raise ValueError(
            f"{where}: numbers must have shape (), got {jnp.shape(value)}."
        )
    if not isinstance(value, jax.Array):
        value = jnp.asarray(value)
    floating = jnp.issubdtype(value.dtype, jnp.floating)
    return value if floating else value.astype(jnp.result_type(float))


def equal(a: Sequence[Number], b: Sequence[Number]) -> bool:
    """Whether numbers are known to be equal; tracers are if they are one object."""
    return all(
        x is y or (isinstance(x, float) and isinstance(y, float) and x == y)
        for x, y in zip(a, b, strict=True)
    )


def emit(operation: Operation, args: Sequence[Symbol], numbers: Sequence[Any]):
    """Records `operation` on `args` and returns the symbol of its result."""
    for arg in args:
        if not isinstance(arg, Symbol):
            raise TypeError(
                f"{operation.name}: `h` must be a value of the network being recorded, "
                f"got {type(arg).__name__}."
            )
    return args[0]._recorder.emit(operation, args, numbers)


def record(
    where: str, network: Callable[[Symbol], Symbol], *, infinite: bool
) -> tuple[Graph, tuple[tuple[Number, ...], ...]]:
    """Runs `network` once and returns its graph and its numbers."""
    if not callable(network):
        raise TypeError(
            f"{where}: `network` must be a function of one value, "
            f"got {type(network).__name__}."
        )
    from ._joint import mark_likes

    recorder = _Recorder(infinite=infinite)
    output = network(recorder.emit(Input(), (), ()))
    if not isinstance(output, Symbol) or output._recorder is not recorder:
        raise TypeError(
            f"{where}: `network` must return a value made from its argument, "
            f"got {type(output).__name__}."
        )
    graph, numbers = _prune(recorder.nodes, recorder.numbers, output._position)
    return (mark_likes(graph, numbers) if infinite else graph), numbers


def _prune(nodes, numbers, output):
    """Drops what the output does not depend on and makes the output the last node."""
    needed = {output}
    for i in range(output, -1, -1):
        if i in needed:
            needed.update(nodes[i].args)
    needed.add(0)
    order = sorted(needed)
    position = {old: new for new, old in enumerate(order)}
    kept = tuple(
        dataclasses.replace(nodes[i], args=tuple(position[j] for j in nodes[i].args))
        for i in order
    )
    return Graph(kept), tuple(numbers[i] for i in order)
