"""A table of the layers of any function: shapes, parameters, operations and bytes.

A layer is a use of parameters: one contraction with the parameters that stand beside it
in their tree (a kernel and its bias), and what is done to its result until the next
parameters come (see `_layers.py`).
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from ._annotate import annotate
from ._cost import equation_flops
from ._fold import folded_name, plain, repeats
from ._layers import Reading, Row

_PARTS = frozenset(("dynamic_slice", "gather", "slice"))  # read a part of an operand
_SILENT = frozenset(
    """broadcast_in_dim convert_element_type copy copy_p expand_dims iota name reshape
    slice squeeze stop_gradient transpose""".split()
)
_NAMED = 4  # operations in a cell


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A row of the table. Counts are of all its turns together, shapes of one.

    Attributes:
        name: the part of the tree of parameters, or the parameters, that it uses;
            `"(inputs)"` for what is done before there are any, `"(not used)"` for
            parameters without an effect on the result.
        operations: the primitives, each once, in their order.
        inputs: types of what it takes from other layers, `"f32[1,8]"`, each once.
        outputs: types of what it gives to other layers or as a result, each once.
        leaves: the parameters that are counted here.
        shared: parameters that it uses and that are counted in a layer above.
        parameters: how many numbers `leaves` hold.
        flops: operations, as XLA counts them (exponentials and the like are one each).
        bytes_read: of inputs and parameters, each read once (the rows of a table that
            are looked up, not the table).
        bytes_written: of outputs.
        times: how often it is done: turns of a loop, equal layers folded into one row.
    """

    name: str
    operations: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    leaves: tuple[str, ...]
    shared: tuple[str, ...]
    parameters: int
    flops: int
    bytes_read: int
    bytes_written: int
    times: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """What a group of the annotation holds.

    Attributes:
        name: of the group.
        size: how many indices it has.
        state: `"exact"`, `"approximate"` or `"frozen"`.
        parameters: numbers in the arrays that have an axis in the group.
        times: how many equal groups the row stands for.
    """

    name: str
    size: int
    state: str
    parameters: int
    times: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """A function as a table; `str` writes it as text.

    Attributes:
        layers: the rows, in the order of the computation.
        groups: what each group of coupled axes holds; an array with several groups
            counts in each.
        parameters: numbers in all parameters.
        flops: of all rows.
        bytes_read: of all rows.
        bytes_written: of all rows.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Held, ...]
    parameters: int
    flops: int
    bytes_read: int
    bytes_written: int

    def __str__(self) -> str:
        tables = (_aligned(rows, left) for rows, left in self._tables())
        return "\n\n".join(tables)

    def to_markdown(self) -> str:
        """Writes the two tables in Markdown."""
        tables = (_markdown(rows, left) for rows, left in self._tables())
        return "\n\n".join(tables)

    def _tables(self) -> list[tuple[list[tuple[str, ...]], int]]:
        """Cells of the two tables, and how many columns of each are text."""
        head = ("layer", "operations", "in", "out")
        rows: list[tuple[str, ...]]
        rows = [(*head, "parameters", "FLOPs", "read", "written", "times")]
        for row in self.layers:
            names = row.operations
            rows.append(
                (
                    row.name,
                    ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED),
                    ", ".join(row.inputs),
                    ", ".join(row.outputs),
                    *_counts(row),
                    _turns(row),
                )
            )
        rows.append(("total", "", "", "", *_counts(self), ""))
        groups = [("group", "state", "size", "parameters", "times")]
        groups += [
            (g.name, g.state, f"{g.size:,}", f"{g.parameters:,}", _turns(g))
            for g in self.groups
        ]
        return [(rows, 4), (groups, 2)]


def describe(
    f: Callable,
    params: Any,
    *example_args: Any,
    fold: bool = True,
    depth: int | None = None,
) -> Description:
    """Lists the layers of a function with their shapes and costs.

    A row reads and writes each value once, as if it were one kernel: its bytes are a
    lower bound of what a machine moves. Of the branches of a `cond` the dearest counts,
    of a `while` loop one turn.

    Args:
        f: `f(params, *args)`, any function that JAX can trace.
        params: a pytree of arrays or of `jax.ShapeDtypeStruct`.
        example_args: the other arguments, likewise; only shapes are read.
        fold: whether equal layers one behind the other share rows, and equal groups.
        depth: for one row per part of the tree of parameters at this depth, in place of
            one per use: with 2, all of `"blocks/0"` is one.

    Returns:
        The table.

    Raises:
        TypeError: a leaf of `params` or of the arguments is not an array.
        ValueError: `depth` is not positive; else as of `annotate`.

    Examples:
        >>> import jax.numpy as jnp
        >>> params = {"in": {"w": jnp.ones((3, 8))}, "out": {"w": jnp.ones((8, 2))}}
        >>> f = lambda p, x: jnp.tanh(x @ p["in"]["w"]) @ p["out"]["w"]
        >>> table = describe(f, params, jnp.ones(3))
        >>> [(row.name, row.parameters, row.flops) for row in table.layers]
        [('in', 24, 56), ('out', 16, 32)]
    """
    if depth is not None and depth < 1:
        raise ValueError(f"describe: `depth` must be positive, got {depth}.")
    annotation = annotate(f, params, *example_args)
    leaves = jax.tree.leaves(annotation.params)
    sizes = {
        p: math.prod(x.shape) for p, x in zip(annotation.paths, leaves, strict=True)
    }
    reading = Reading(annotation.jaxpr, annotation.paths)
    rows = reading.rows()
    if depth is not None:
        rows = _to_depth(rows, depth)
    layers = _layers(reading, rows, sizes, depth)
    held = [
        Held(
            name=group.name,
            size=group.size,
            state=group.state,
            parameters=sum(sizes[path] for path in {path for path, _ in group.members}),
        )
        for group in annotation.groups
    ]
    return Description(
        layers=tuple(_folded(layers) if fold else layers),
        groups=tuple(_alike(held) if fold else held),
        parameters=sum(sizes.values()),
        flops=sum(layer.flops for layer in layers),
        bytes_read=sum(layer.bytes_read for layer in layers),
        bytes_written=sum(layer.bytes_written for layer in layers),
    )


def _to_depth(rows: Sequence[Row], depth: int) -> list[Row]:
    out = []
    for part, same in itertools.groupby(
        rows, lambda row: "/".join(row.part.split("/")[:depth])
    ):
        row = Row(part)
        for other in same:
            row.steps += other.steps
            row.use(other.leaves)
        out.append(row)
    return out


def _layers(
    reading: Reading, rows: Sequence[Row], sizes: Mapping[str, int], depth: int | None
) -> list[Layer]:
    at: dict[int | None, int]
    at = {k: r for r, row in enumerate(rows) for k in row.steps}
    passed = {
        v.step
        for k, step in enumerate(reading.steps)
        if k in at
        for v in step.ins
        if at.get(v.step) != at[k]
    }
    counted: set[str] = set()
    layers = []
    for r, row in enumerate(rows):
        ins: dict[int, tuple[Any, int]] = {}
        outs: list[tuple[Any, int]] = []
        for k in row.steps:
            step = reading.steps[k]
            if step.eqn is None:
                continue
            for v, var in zip(step.ins, step.eqn.invars, strict=True):
                if at.get(v.step) != r:
                    size = _bytes(var)
                    if step.name in _PARTS and v is step.ins[0]:
                        size = min(size, _bytes(step.eqn.outvars[0]))
                    aval = var.aval if v.data else None
                    ins.setdefault(id(v), (aval, step.times * size))
            if k in passed or k in reading.leaving:
                outs += [(v.aval, step.times * _bytes(v)) for v in step.eqn.outvars]
        eqns = [reading.steps[k] for k in row.steps if reading.steps[k].eqn]
        leaves = tuple(leaf for leaf in row.leaves if leaf not in counted)
        counted.update(leaves)
        layers.append(
            Layer(
                name=_name(row, sizes, depth),
                operations=tuple(
                    dict.fromkeys(
                        s.name for s in eqns if s.data and s.name not in _SILENT
                    )
                ),
                inputs=_types(aval for aval, _ in ins.values()),
                outputs=_types(aval for aval, _ in outs),
                leaves=leaves,
                shared=tuple(leaf for leaf in row.leaves if leaf not in leaves),
                parameters=sum(sizes[leaf] for leaf in leaves),
                flops=sum(s.times * equation_flops(s.eqn) for s in eqns if s.eqn),
                bytes_read=sum(size for _, size in ins.values()),
                bytes_written=sum(size for _, size in outs),
                times=max((s.times for s in eqns), default=1),
            )
        )
    unused = tuple(leaf for leaf in sizes if leaf not in counted)
    if unused:
        empty = dict.fromkeys(("operations", "inputs", "outputs", "shared"), ())
        zero = dict.fromkeys(("flops", "bytes_read", "bytes_written"), 0)
        numbers = sum(sizes[leaf] for leaf in unused)
        layers.append(
            Layer(
                name="(not used)",
                leaves=unused,
                parameters=numbers,
                times=1,
                **empty,
                **zero,
            )
        )
    return layers


def _name(row: Row, sizes: Mapping[str, int], depth: int | None) -> str:
    """The part of the tree if the row uses all of it, else the parameters."""
    prefix = row.part + "/" if row.part else ""
    whole = [leaf for leaf in sizes if leaf.startswith(prefix)]
    if row.part and (depth or len(whole) == len(row.leaves) or not row.leaves):
        return row.part
    return prefix + ", ".join(leaf.removeprefix(prefix) for leaf in row.leaves)


def _folded(layers: Sequence[Layer]) -> list[Layer]:
    def key(layer: Layer) -> tuple:
        fields = dataclasses.asdict(layer)
        names = {k: tuple(map(plain, fields[k])) for k in ("leaves", "shared")}
        return tuple({**fields, **names, "name": plain(layer.name)}.items())

    out: list[Layer] = []
    at = 0
    for start, period, times in repeats([key(layer) for layer in layers]):
        out += layers[at:start]
        for k in range(period):
            same = [layers[start + k + period * turn] for turn in range(times)]
            out.append(_together(same))
        at = start + period * times
    return out + list(layers[at:])


def _together(same: Sequence[Layer]) -> Layer:
    counts = ("parameters", "flops", "bytes_read", "bytes_written", "times")
    leaves = itertools.chain.from_iterable(layer.leaves for layer in same)
    shared = itertools.chain.from_iterable(layer.shared for layer in same)
    return dataclasses.replace(
        same[0],
        name=folded_name([layer.name for layer in same]),
        leaves=tuple(leaves),
        shared=tuple(dict.fromkeys(shared)),
        **{name: sum(getattr(layer, name) for layer in same) for name in counts},
    )


def _alike(groups: Sequence[Held]) -> list[Held]:
    same: dict[tuple, list[Held]] = {}
    for group in groups:
        key = (plain(group.name), group.size, group.state, group.parameters)
        same.setdefault(key, []).append(group)
    return [
        dataclasses.replace(
            equal[0],
            name=folded_name([group.name for group in equal]),
            parameters=sum(group.parameters for group in equal),
            times=len(equal),
        )
        for equal in same.values()
    ]


def _types(avals: Iterable[Any]) -> tuple[str, ...]:
    found = (a.str_short(short_dtypes=True) for a in avals if a is not None)
    return tuple(dict.fromkeys(found))


def _bytes(v: Any) -> int:
    size = math.prod(getattr(v.aval, "shape", ()))
    return size * getattr(getattr(v.aval, "dtype", None), "itemsize", 0)


def _counts(row: Layer | Description) -> tuple[str, ...]:
    bytes_ = (short(row.bytes_read) + "B", short(row.bytes_written) + "B")
    return (f"{row.parameters:,}", short(row.flops), *bytes_)


def _turns(row: Layer | Held) -> str:
    return f"x {row.times}" if row.times > 1 else ""


def short(number: int) -> str:
    """Writes a number with three digits and a prefix, as in "1.24 G"."""
    value, prefixes = float(number), iter(" kMGTPE")
    prefix = next(prefixes)
    while value >= 999.5:
        value, prefix = value / 1000, next(prefixes)
    return f"{value:.3g} {prefix}".rstrip() + " " * (prefix == " ")


def _aligned(rows: Sequence[tuple[str, ...]], left: int) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if k < left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _markdown(rows: Sequence[tuple[str, ...]], left: int) -> str:
    rule = tuple("---" if k < left else "---:" for k in range(len(rows[0])))
    lines = (" | ".join(row) for row in (rows[0], rule, *rows[1:]))
    return "\n".join(f"| {line} |" for line in lines)
