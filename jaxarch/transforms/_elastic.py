"""Sub-networks of one network, sampled while it trains.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient
Deployment", arXiv:1908.09791. A sub-network keeps the first channels of each group, the
first layers of a scan, and the middle of each window. While it trains it is a mask,
traced, so that one compiled program serves every sub-network; what is deployed is cut
out for real.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from ._annotate import Annotation, Group, find_group
from ._groups import group_factors, member_positions
from ._importance import importance
from ._prune import Pruned, pruned

Choice = Mapping[tuple[str, ...], Any]
Space = Mapping[str | tuple[str, ...], Sequence[int]]


@dataclasses.dataclass(frozen=True, eq=False)
class Elastic:
    """The sub-networks of a function; made by `elastic`.

    A choice is a mapping from the names of groups (a tuple) to a size, which may be
    traced.

    Attributes:
        annotation: of the function.
        space: for the names of groups that share their size, the sizes allowed.
    """

    annotation: Annotation
    space: Mapping[tuple[str, ...], tuple[int, ...]]

    @property
    def largest(self) -> dict[tuple[str, ...], int]:
        """The choice of the largest size of everything."""
        return {names: max(sizes) for names, sizes in self.space.items()}

    @property
    def smallest(self) -> dict[tuple[str, ...], int]:
        """The choice of the smallest size of everything."""
        return {names: min(sizes) for names, sizes in self.space.items()}

    def sample(self, key: PRNGKeyArray) -> dict[tuple[str, ...], Int[Array, ""]]:
        """Draws each size by itself, uniformly; to be called within `jit`."""
        keys = jax.random.split(key, len(self.space))
        return {
            names: jax.random.choice(k, jnp.asarray(sizes))
            for k, (names, sizes) in zip(keys, self.space.items(), strict=True)
        }

    def mask(self, params: Any, choice: Choice) -> Any:
        """Zeroes the parameters outside of a sub-network.

        Args:
            params: the parameters of the whole network.
            choice: sizes, traced or not.

        Returns:
            The parameters, of the shapes that they have: to be given to the function.
        """
        chosen, factors = [], {}
        for names, size in choice.items():
            for name in names:
                group = find_group(self.annotation, name, "Elastic.mask")
                chosen.append(group)
                factors[group.name] = jnp.asarray(_kept(group, size), jnp.float32)
        masks = group_factors(self.annotation, factors, tuple(chosen))
        return jax.tree.map(lambda x, m: x * m.astype(x.dtype), params, masks)

    def extract(self, params: Any, choice: Choice, *args: Any) -> Pruned:
        """Cuts a sub-network out.

        Args:
            params: the parameters of the whole network.
            choice: sizes, not traced.
            args: the other arguments of the function, arrays; with them the small
                function is compared with the masked one.

        Returns:
            The small parameters, the function that takes them, and a report.
        """
        kept = {}
        for names, size in choice.items():
            for name in names:
                group = find_group(self.annotation, name, "Elastic.extract")
                kept[group.name] = np.flatnonzero(_kept(group, int(size)))
        return pruned(self.annotation, params, kept, args or None)

    def sort(self, params: Any, **options: Any) -> Any:
        """Puts the most important channels first; the function stays the same.

        Args:
            params: the parameters of the whole network.
            options: of `importance`.

        Returns:
            The parameters with the channels of each elastic width in a new order.
        """
        scores = importance(self.annotation, params, **options)
        leaves = dict(zip(self.annotation.paths, jax.tree.leaves(params), strict=True))
        for names in self.space:
            for name in names:
                group = find_group(self.annotation, name, "Elastic.sort")
                if group.kind == "width":
                    order = np.argsort(-np.asarray(scores[group.name]), kind="stable")
                    _reorder(self.annotation, group, order, leaves)
        return jax.tree.unflatten(jax.tree.structure(params), list(leaves.values()))

    def schedule(
        self, order: Sequence[str] = ("window", "depth", "width")
    ) -> list["Elastic"]:
        """Spaces that grow, for progressive shrinking.

        Args:
            order: the kinds of groups in the order in which they become elastic.

        Returns:
            First the whole network alone; then, kind by kind, spaces with one more of
            the smaller sizes of that kind each, up to this space.
        """
        open_ = {names: 1 for names in self.space}
        stages = [self._opened(open_)]
        for kind in order:
            mine = [
                names
                for names in self.space
                if find_group(self.annotation, names[0], "Elastic").kind == kind
            ]
            most = max((len(self.space[names]) for names in mine), default=1)
            for count in range(2, most + 1):
                open_ |= {names: min(count, len(self.space[names])) for names in mine}
                stages.append(self._opened(open_))
        return stages

    def _opened(self, counts: Mapping[tuple[str, ...], int]) -> "Elastic":
        space = {
            names: tuple(sorted(sizes, reverse=True)[: counts[names]])
            for names, sizes in self.space.items()
        }
        return Elastic(self.annotation, space)


def elastic(annotation: Annotation, space: Space) -> Elastic:
    """Makes the groups of a function elastic.

    Args:
        annotation: of `annotate`.
        space: for the name of a group, or for a tuple of names of groups that share
            their size (the two axes of a window), the sizes that a sub-network may
            have. Depth is that of a scan.

    Returns:
        What samples, masks and extracts the sub-networks.

    Raises:
        ValueError: an unknown group, one that is frozen or approximate (masked and cut
            would be two functions), or sizes out of range.

    Examples:
        >>> from jaxarch.transforms import annotate
        >>> params = {"w": jnp.ones((3, 8)), "v": jnp.ones((8, 2))}
        >>> f = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> nets = elastic(annotate(f, params, jnp.ones(3)), {"w[1]": (2, 4, 8)})
        >>> nets.mask(params, nets.smallest)["v"].sum()
        Array(4., dtype=float32)
        >>> nets.extract(params, {("v[0]",): 4}, jnp.ones(3)).params["v"].shape
        (4, 2)
    """
    whole = {}
    for names, sizes in space.items():
        names = (names,) if isinstance(names, str) else tuple(names)
        found = [find_group(annotation, name, "elastic") for name in names]
        for group in found:
            if group.state != "exact":
                raise ValueError(
                    f"elastic: group {group.name!r} is {group.state}: {group.reason}."
                )
            if not sizes or not all(1 <= size <= group.size for size in sizes):
                raise ValueError(
                    f"elastic: sizes of group {group.name!r} must be between 1 and "
                    f"{group.size}, got {tuple(sizes)}."
                )
        whole[tuple(group.name for group in found)] = tuple(sizes)
    return Elastic(annotation, whole)


def _kept(group: Group, size: Any) -> Any:
    """Tells which indices of a group a sub-network of one size has."""
    index = np.arange(group.size)
    first = (group.size - size) // 2 if group.kind == "window" else 0
    return (index >= first) & (index < first + size)


def _reorder(annotation: Annotation, group: Group, order: np.ndarray, leaves: dict):
    """Puts the indices of a group in a new order, wherever a parameter holds it."""
    for path, k in group.members:
        for row in member_positions(annotation, group, path, k):
            at = np.arange(len(row))
            here = np.flatnonzero(row >= 0)
            # Positions that differ in the index of this group alone change places.
            axis = annotation.param_axes[annotation.paths.index(path)][k]
            rest = _without(axis, group.atom, annotation.sizes)[here]
            place = {(r, i): p for r, i, p in zip(rest, row[here], here, strict=True)}
            for r, i, p in zip(rest, row[here], here, strict=True):
                at[p] = place[r, order[i]]
            leaves[path] = jnp.take(leaves[path], at, axis=k)


def _without(axis: Any, atom: int, sizes: Sequence[int]) -> np.ndarray:
    """Numbers the positions of an axis alike that differ in one atom alone."""
    numbers, offset = [], 0
    for term in axis:
        code = np.zeros(1, int)
        width = 1
        for factor in term:
            if isinstance(factor, tuple):
                inner = _without(factor, atom, sizes)
            elif factor == atom:
                inner = np.zeros(sizes[factor], int)
            else:
                inner = np.arange(sizes[factor])
            span = int(inner.max(initial=0)) + 1
            code = (code[:, None] * span + inner).reshape(-1)
            width *= span
        numbers.append(code + offset)
        offset += width
    return np.concatenate([np.zeros(0, int), *numbers])
