"""The indices of several groups in one row, for rules that touch all at every step.

Sums over what each index of a group stands for are one segment sum over the axes of all
parameters together: the compiled program grows with the number of parameters and not
with the number of groups.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._dtypes import at_least_float32
from ._annotate import Annotation, Group, find_group, groups as free_groups
from ._groups import member_positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupIndex:
    """Where parameters hold the indices of groups.

    Attributes:
        chosen: the groups, in the order of their indices.
        group_of: for each index, the number of its group, shape (indices,).
        held: for each leaf of the parameters, (axis, how often the axis is listed).
        at: the index at each position of the listed axes, one after the other; the
            number of indices where a position has none.
        counts: how many numbers each index stands for, shape (indices,).
    """

    chosen: tuple[Group, ...]
    group_of: np.ndarray
    held: tuple[tuple[tuple[int, int], ...], ...]
    at: np.ndarray
    counts: np.ndarray

    @property
    def total(self) -> int:
        """The number of indices of all groups together."""
        return len(self.group_of)

    def inner(self, *pairs: tuple[Sequence[Array], Sequence[Array]]) -> Array:
        """Inner products of parameters, over all that shares an index.

        Args:
            pairs: leaves of two trees each.

        Returns:
            Shape (pairs, indices), in at least float32. A number that an index meets
            along two axes counts twice.
        """
        rows = []
        for k, held in enumerate(self.held):
            if not held:
                continue
            products = jnp.stack(
                [(wide(x[k]).conj() * wide(y[k])).real for x, y in pairs]
            )
            for axis, times in held:
                rest = tuple(i + 1 for i in range(products.ndim - 1) if i != axis)
                rows += [products.sum(rest)] * times
        dtype = functools.reduce(jnp.promote_types, [row.dtype for row in rows])
        row = jnp.concatenate([row.astype(dtype) for row in rows], axis=1)
        sums = jax.ops.segment_sum(row.T, self.at, num_segments=self.total + 1)
        return sums[:-1].T

    def spread(self, values: Array, empty: Any, join: Any) -> list[Array | None]:
        """Brings one value for each index to the parameters that it stands for.

        Args:
            values: shape (indices,).
            empty: the value where a position has no index.
            join: what makes one value of two, where two groups meet in a parameter.

        Returns:
            For each leaf an array that broadcasts to it, or `None` without groups.
        """
        values = jnp.append(values, jnp.asarray(empty, values.dtype))
        found, start = [], 0
        for shape, held in zip(self._shapes, self.held, strict=True):
            leaf = None
            for axis, times in held:
                for _ in range(times):
                    # A gather of its own for each axis: slices of one long row are
                    # fused into every leaf as programs that differ, and cost 20 times
                    # the compile time.
                    stop = start + shape[axis]
                    part = values[self.at[start:stop]]
                    part = part.reshape(
                        [-1 if k == axis else 1 for k in range(len(shape))]
                    )
                    leaf = part if leaf is None else join(leaf, part)
                    start = stop
            found.append(leaf)
        return found

    _shapes: tuple[tuple[int, ...], ...]


def index_groups(annotation: Annotation, chosen: Sequence[Group]) -> GroupIndex:
    """Numbers the indices of groups."""
    sizes = [group.size for group in chosen]
    starts = np.cumsum([0, *sizes])
    shapes = tuple(x.shape for x in jax.tree.leaves(annotation.params))
    held: list[list[tuple[int, int]]] = []
    at, weights = [], []
    for path, shape in zip(annotation.paths, shapes, strict=True):
        listed = []
        for axis in range(len(shape)):
            rows = []
            for start, group in zip(starts, chosen, strict=False):
                if (path, axis) in group.members:
                    for row in member_positions(annotation, group, path, axis):
                        rows.append(np.where(row >= 0, row + start, starts[-1]))
            rows = _packed(rows, starts[-1])
            if rows:
                listed.append((axis, len(rows)))
                at += rows
                weights += [np.full(shape[axis], np.prod(shape) // shape[axis])] * len(
                    rows
                )
        held.append(listed)
    positions = np.concatenate(at)
    counts = np.bincount(positions, np.concatenate(weights), minlength=starts[-1] + 1)
    return GroupIndex(
        chosen=tuple(chosen),
        group_of=np.repeat(np.arange(len(sizes)), sizes),
        held=tuple(map(tuple, held)),
        at=positions,
        counts=counts[:-1],
        _shapes=shapes,
    )


def _packed(rows: list[np.ndarray], empty: int) -> list[np.ndarray]:
    """Puts rows that fill different positions of an axis (a concatenation) into one."""
    packed: list[np.ndarray] = []
    for row in rows:
        for k, old in enumerate(packed):
            if ((old == empty) | (row == empty)).all():
                packed[k] = np.minimum(old, row)
                break
        else:
            packed.append(row)
    return packed


def choose_groups(
    where: str, annotation: Annotation, wanted: Sequence[str | Group] | None
) -> tuple[Group, ...]:
    """The groups that a rule acts on: those named, or the exact ones of kind "width".

    Raises:
        ValueError: an unknown or frozen group, an axis of a window, or none at all.
    """
    if wanted is None:
        chosen = [
            g
            for g in free_groups(annotation)
            if g.state == "exact" and g.kind == "width"
        ]
        if not chosen:
            raise ValueError(
                f"{where}: no group of kind 'width' is exact; print the annotation to "
                "see why, and name others as `groups`."
            )
        return tuple(chosen)
    if isinstance(wanted, str | Group):
        raise TypeError(f"{where}: `groups` must be a sequence, got {wanted!r}.")
    chosen = {}
    for key in wanted:
        name = key.name if isinstance(key, Group) else key
        group = find_group(annotation, name, where)
        if group.state == "frozen":
            raise ValueError(f"{where}: group {name!r} is frozen: {group.reason}.")
        if group.kind == "window":
            raise ValueError(
                f"{where}: group {name!r} is an axis of a window, of which only "
                "neighbouring indices can stay."
            )
        chosen[group.atom] = group
    if not chosen:
        raise ValueError(f"{where}: `groups` must name at least one group, got none.")
    return tuple(chosen.values())


def wide(x: Array) -> Array:
    """Casts to at least float32."""
    return x.astype(at_least_float32(x.dtype))


def gradient_step(x: Array, d: Array, rate: Array) -> Array:
    """What descent adds to a leaf, in at least float32."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return d  # integers have no gradient, and belong to no group
    d = wide(d)
    return -rate.astype(d.real.dtype) * d


def final_step(x: Array, step: Array, zero: Array | None) -> Array:
    """The step in the dtype of a leaf, which becomes zero where it should."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return step
    step = step.astype(x.dtype)
    # Added to x this is an exact zero, whatever the rounding of the step.
    return step if zero is None else jnp.where(zero, -x, step)


def need_optax(where: str) -> Any:
    """The package, or an `ImportError` that says how to get it."""
    try:
        import optax
    except ImportError as error:
        raise ImportError(
            f"{where}: needs optax, which the extra `jaxarch[train]` installs."
        ) from error
    return optax


def update_leaves(
    where: str, annotation: Annotation, updates: Any, params: Any
) -> tuple[list[Array], list[Array]]:
    """The leaves of the direction and of the parameters, as they were annotated.

    Raises:
        ValueError: no `params`, or other structures or shapes than those annotated.
    """
    if params is None:
        raise ValueError(
            f"{where}: the update needs `params`: tx.update(grads, state, params)."
        )
    tree = jax.tree.structure(annotation.params)
    found = []
    for name, value in (("updates", updates), ("params", params)):
        leaves, structure = jax.tree.flatten(value)
        if structure != tree:
            raise ValueError(
                f"{where}: `{name}` must have the structure that was annotated, "
                f"{tree}, got {structure}."
            )
        for path, want, leaf in zip(
            annotation.paths, jax.tree.leaves(annotation.params), leaves, strict=True
        ):
            if jnp.shape(leaf) != want.shape:
                raise ValueError(
                    f"{where}: `{name}` at {path!r} must have shape {want.shape}, got "
                    f"{jnp.shape(leaf)}."
                )
        found.append(leaves)
    return found[0], found[1]
