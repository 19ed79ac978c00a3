"""The architecture of a function, read from its jaxpr.

`annotate` writes every axis of every value of `f(params, *args)` as sums of products of
atoms: a reshape splits an axis into a product, a concatenation or a split into a sum,
and a contraction or an addition makes two axes one. What remains is what may change its
size: a group is an atom with all the axes of parameters that hold it. Channels,
attention heads, the gates of a cell, groups of a convolution and the depth of a scan
come out alike.

The idea of coupled channels is that of Fang et al., "DepGraph: Towards Any Structural
Pruning", arXiv:2301.12900, and of Wang et al., "Structurally Prune Anything",
arXiv:2403.18955; the algebra of atoms is ours.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from ._axes import Axes, Axis, atoms_of
from ._axis_rules import axis_rules
from ._walk import walk
from ._zero_rules import Zero, zero_rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Indices of parameters that can only be kept or removed together.

    Attributes:
        name: of an axis of a parameter that it rules, `"blocks/0/w1[3]"`; where that
            axis is a product or a sum of several groups, `"wqkv[1].0"` is the first.
        size: how many indices it has.
        kind: `"width"`; `"depth"` for the turns of a scan; `"window"` for an axis of
            the window of a convolution, of which only neighbouring indices can stay.
        members: (name of a parameter, axis) for every axis that holds the group.
        state: `"exact"`: with the parameters of some indices zero, the function equals
            the one without them; `"approximate"`: it does not, since a normalisation or
            the like reaches the group; `"frozen"`: the size cannot change.
        reason: why it is approximate or frozen.
        atom: its number in the annotation.
    """

    name: str
    size: int
    kind: str
    members: tuple[tuple[str, int], ...]
    state: str
    reason: str
    atom: int

    def __str__(self) -> str:
        axes = ", ".join(f"{path}[{axis}]" for path, axis in self.members)
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.name}: {self.size} {self.kind}, {self.state}{reason}: {axes}"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Annotation:
    """A function with all its axes named.

    Attributes:
        function: `f(params, *args)` as it was given.
        params: shapes and dtypes of the parameters, as a tree.
        args: shapes and dtypes of the other arguments, as a tuple of trees.
        jaxpr: the equations.
        out_tree: the structure of the result.
        paths: the names of the leaves of `params`.
        param_axes: for each leaf of `params`, the axis of each dimension.
        record: for each equation (`Equation.path`), the axes of its arguments and of
            its results.
        out_axes: the axes of the results.
        sizes: of the atoms.
        groups: what the parameters are made of, frozen or free.
        unknown: primitives without a rule, and how often each occurs.
    """

    function: Callable
    params: Any
    args: tuple
    jaxpr: ClosedJaxpr
    out_tree: Any
    paths: tuple[str, ...]
    param_axes: tuple[tuple[Axis, ...], ...]
    record: Mapping[tuple, tuple[list, list]]
    out_axes: tuple[tuple[Axis, ...], ...]
    sizes: tuple[int, ...]
    groups: tuple[Group, ...]
    unknown: Mapping[str, int]

    def group(self, name: str) -> Group:
        """Finds a group by its name, or by the name of any axis that is it alone.

        Raises:
            ValueError: no group has this name.
        """
        return find_group(self, name, "Annotation.group")

    def __str__(self) -> str:
        lines = [str(group) for group in self.groups]
        lines += [f"unknown primitive {n}: {k} times" for n, k in self.unknown.items()]
        return "\n".join(lines)


def annotate(f: Callable, params: Any, *example_args: Any) -> Annotation:
    """Names every axis of a function of parameters.

    Args:
        f: `f(params, *args)`, any function that JAX can trace. What it closes over is
            constant, and is not pruned by itself.
        params: a pytree of arrays or of `jax.ShapeDtypeStruct`.
        example_args: the other arguments, likewise; only shapes are read.

    Returns:
        The annotation. `str` of it lists the groups.

    Raises:
        TypeError: a leaf of `params` or of the arguments is not an array.
        ValueError: `params` has no arrays, or f closes over arrays and makes no use of
            `params`.

    Examples:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.ones((3, 8)), "v": jnp.ones((8, 2))}
        >>> f = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> print(annotate(f, params, jnp.ones(3)).group("w[1]"))
        v[0]: 8 width, exact: v[0], w[1]
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    if not leaves:
        raise ValueError("annotate: `params` must hold arrays, got none.")
    paths = tuple(_name(path) for path, _ in leaves)
    shapes = [
        _shape(f"`params` at {name!r}", x)
        for name, (_, x) in zip(paths, leaves, strict=True)
    ]
    arg_leaves, arg_tree = jax.tree_util.tree_flatten_with_path(example_args)
    arg_names = [
        f"args[{path[0].idx}]{jax.tree_util.keystr(path[1:])}" for path, _ in arg_leaves
    ]
    arg_shapes = [
        _shape(f"`{name}`", x)
        for name, (_, x) in zip(arg_names, arg_leaves, strict=True)
    ]
    params, args = tree.unflatten(shapes), arg_tree.unflatten(arg_shapes)
    jaxpr, out_shape = jax.make_jaxpr(f, return_shape=True)(params, *args)
    _check_used(jaxpr, len(leaves))

    axes, record, unknown = Axes(), {}, collections.Counter()
    param_axes = [
        axes.fresh_axes(
            x.shape, "" if jnp.issubdtype(x.dtype, jnp.inexact) else "integers"
        )
        for x in shapes
    ]
    data_axes = [
        axes.fresh_axes(x.shape, f"an axis of the input {name}")
        for name, x in zip(arg_names, arg_shapes, strict=True)
    ]
    rules = axis_rules(axes, record, unknown)
    out_axes = walk(jaxpr, rules, [*param_axes, *data_axes])
    for value in out_axes:
        for axis in value:
            axes.freeze(axis, "an axis of the output")

    def normal(values: list[list[Axis]]) -> list[tuple[Axis, ...]]:
        return [tuple(map(axes.normal, value)) for value in values]

    record = {path: (normal(ins), normal(outs)) for path, (ins, outs) in record.items()}
    param_axes, out_axes = tuple(normal(param_axes)), tuple(normal(out_axes))
    approximate = _approximate(jaxpr, axes, record, param_axes, normal(data_axes))
    return Annotation(
        function=f,
        params=params,
        args=args,
        jaxpr=jaxpr,
        out_tree=jax.tree.structure(out_shape),
        paths=paths,
        param_axes=param_axes,
        record=record,
        out_axes=out_axes,
        sizes=tuple(axes.sizes),
        groups=_groups(axes, paths, param_axes, approximate),
        unknown=dict(unknown),
    )


def groups(annotation: Annotation, *, frozen: bool = False) -> tuple[Group, ...]:
    """Lists what may be pruned of a function, in the order of its parameters.

    Args:
        annotation: of `annotate`.
        frozen: list the groups that cannot change too.
    """
    return tuple(g for g in annotation.groups if frozen or g.state != "frozen")


def _approximate(jaxpr, axes: Axes, record, param_axes, data_axes) -> dict[int, str]:
    """Finds the atoms that cannot be cut exactly, and why."""
    reasons: dict[int, str] = {}
    depth = frozenset(
        atom
        for atom, marks in axes.marks.items()
        if "depth" in marks and atom not in axes.frozen
    )
    rules = zero_rules(record, depth, reasons.setdefault)
    values = [
        Zero(tuple(frozenset(atoms_of(axis)) for axis in value)) for value in param_axes
    ]
    values += [Zero((frozenset(),) * len(value)) for value in data_axes]
    walk(jaxpr, rules, values)
    return reasons


def _groups(axes: Axes, paths, param_axes, approximate) -> tuple[Group, ...]:
    members: dict[int, list[tuple[str, int]]] = collections.defaultdict(list)
    names: dict[int, tuple[bool, str]] = {}
    for path, value in zip(paths, param_axes, strict=True):
        for k, axis in enumerate(value):
            atoms = atoms_of(axis)
            for i, atom in enumerate(atoms):
                members[atom].append((path, k))
                alone = len(atoms) == 1
                name = f"{path}[{k}]" if alone else f"{path}[{k}].{i}"
                names[atom] = min(
                    names.get(atom, (True, name)), (not alone, name), key=lambda n: n[0]
                )
    found = []
    for atom, held in members.items():
        marks = axes.marks.get(atom, ())
        state, reason = "exact", ""
        if atom in axes.frozen:
            state, reason = "frozen", axes.frozen[atom]
        elif atom in approximate:
            state, reason = "approximate", approximate[atom]
        found.append(
            Group(
                name=names[atom][1],
                size=axes.sizes[atom],
                kind=next((m for m in ("window", "depth") if m in marks), "width"),
                members=tuple(held),
                state=state,
                reason=reason,
                atom=atom,
            )
        )
    return tuple(found)


def find_group(annotation: Annotation, name: str, where: str) -> Group:
    """Finds a group by name, or by that of an axis which holds it alone."""
    for group in annotation.groups:
        if group.name == name:
            return group
    path, _, axis = name.rpartition("[")
    if path in annotation.paths and axis[:-1].isdigit() and axis.endswith("]"):
        value = annotation.param_axes[annotation.paths.index(path)]
        k = int(axis[:-1])
        atoms = atoms_of(value[k]) if k < len(value) else []
        if len(atoms) == 1:
            return next(g for g in annotation.groups if g.atom == atoms[0])
        if atoms:
            parts = ", ".join(
                repr(g.name) for g in annotation.groups if g.atom in atoms
            )
            raise ValueError(
                f"{where}: the axis {name!r} is made of several groups: {parts}."
            )
    known = ", ".join(repr(g.name) for g in annotation.groups if g.state != "frozen")
    raise ValueError(f"{where}: there is no group {name!r}; the free ones are {known}.")


def _check_used(jaxpr: ClosedJaxpr, count: int) -> None:
    """Refuses a function whose weights are constants instead of parameters."""
    used = {v for eqn in jaxpr.jaxpr.eqns for v in eqn.invars if not hasattr(v, "val")}
    used |= {v for v in jaxpr.jaxpr.outvars if not hasattr(v, "val")}
    if used.isdisjoint(jaxpr.jaxpr.invars[:count]):
        shapes = ", ".join(
            f"{c.dtype}{list(np.shape(c))}" for c in jaxpr.consts if np.ndim(c)
        )
        closed = f", but closes over constants {shapes}" if shapes else ""
        raise ValueError(
            f"annotate: `f` makes no use of `params`{closed}; "
            "pass what may be pruned as `params`."
        )


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/") or "params"


def _shape(what: str, x: Any) -> jax.ShapeDtypeStruct:
    if not hasattr(x, "shape") and not isinstance(x, int | float | complex):
        raise TypeError(
            f"annotate: {what} must be an array, got {type(x).__name__}; keep what is "
            "not an array (an activation, a size) out of the arguments."
        )
    dtype = getattr(x, "dtype", None) or jnp.result_type(x)
    return jax.ShapeDtypeStruct(np.shape(x), dtype)
