"""Sums over the members of a group, and masks on them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._annotate import Annotation, Group
from ._axes import keep_mask, positions


def group_sums(
    annotation: Annotation, tree: Any, chosen: tuple[Group, ...]
) -> dict[str, Array]:
    """Sums numbers that belong to parameters over all that shares an index of a group.

    Args:
        annotation: of the function.
        tree: numbers in the structure of the parameters.
        chosen: the groups.

    Returns:
        For the name of each group, shape (size of the group,).
    """
    leaves = dict(zip(annotation.paths, jax.tree.leaves(tree), strict=True))
    along: dict[tuple[str, int], Array] = {}
    sums = {}
    for group in chosen:
        dtype = jnp.result_type(*(leaves[path].dtype for path, _ in group.members))
        total = jnp.zeros(group.size, dtype)
        for path, k in group.members:
            leaf = leaves[path]
            if (path, k) not in along:
                rest = tuple(i for i in range(leaf.ndim) if i != k)
                along[path, k] = leaf.sum(rest)
            for row in member_positions(annotation, group, path, k):
                here = np.nonzero(row >= 0)[0]
                numbers = along[path, k].astype(total.dtype)
                total = total.at[row[here]].add(numbers[here])
        sums[group.name] = total
    return sums


def group_factors(
    annotation: Annotation, factors: Mapping[str, Array], chosen: tuple[Group, ...]
) -> Any:
    """Spreads numbers of groups over the parameters, multiplied where groups meet.

    Args:
        annotation: of the function.
        factors: for the name of each group, shape (size,): 0 and 1 make a mask. They
            may be traced.
        chosen: the groups.

    Returns:
        A tree in the structure of the parameters, each leaf of a shape that broadcasts
        to that of the parameter.
    """
    found: dict[str, list[Any]] = {
        path: [1.0] * len(axes)
        for path, axes in zip(annotation.paths, annotation.param_axes, strict=True)
    }
    for group in chosen:
        factor = jnp.asarray(factors[group.name])
        extended = jnp.append(factor, jnp.ones((), factor.dtype))  # for no index
        for path, k in group.members:
            for row in member_positions(annotation, group, path, k):
                found[path][k] = found[path][k] * extended[row]
    leaves = []
    for shape, path in zip(
        jax.tree.leaves(annotation.params), annotation.paths, strict=True
    ):
        rank = len(shape.shape)
        product = jnp.ones((1,) * rank, jnp.float32)
        for k, factor in enumerate(found[path]):
            if not isinstance(factor, float):
                product = product * factor.reshape(
                    [-1 if i == k else 1 for i in range(rank)]
                )
        leaves.append(product)
    return jax.tree.unflatten(jax.tree.structure(annotation.params), leaves)


def member_positions(
    annotation: Annotation, group: Group, path: str, k: int
) -> np.ndarray:
    """For each position of an axis of a parameter, the index of the group there, or -1.

    Returns:
        Shape (occurrences, size of the axis); see `positions`.
    """
    axis = annotation.param_axes[annotation.paths.index(path)][k]
    return positions(axis, group.atom, annotation.sizes)


def kept_masks(
    annotation: Annotation, keep: Mapping[int, np.ndarray]
) -> list[list[np.ndarray]]:
    """For each leaf and axis of the parameters, which positions stay."""
    return [
        [keep_mask(axis, keep, annotation.sizes) for axis in axes]
        for axes in annotation.param_axes
    ]


def cut_params(
    annotation: Annotation, keep: Mapping[int, np.ndarray], tree: Any
) -> Any:
    """Gives the smaller arrays."""
    leaves = []
    for leaf, masks in zip(
        jax.tree.leaves(tree), kept_masks(annotation, keep), strict=True
    ):
        for k, mask in enumerate(masks):
            if not mask.all():
                leaf = jnp.take(leaf, np.nonzero(mask)[0], axis=k)
        leaves.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def zero_params(
    annotation: Annotation, keep: Mapping[int, np.ndarray], tree: Any
) -> Any:
    """Gives arrays of the old shapes that are zero where they would be cut."""
    leaves = []
    for leaf, masks in zip(
        jax.tree.leaves(tree), kept_masks(annotation, keep), strict=True
    ):
        rank = len(masks)
        for k, mask in enumerate(masks):
            if not mask.all():
                mask = mask.reshape([-1 if i == k else 1 for i in range(rank)])
                leaf = jnp.where(mask, leaf, jnp.zeros_like(leaf))
        leaves.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
