"""Structured pruning of any function: smaller arrays, and a function that takes them.

The coupled channels are the groups of `annotate`. What is cut is cut from the equations
and not from the user's code, so that nothing has to be known of it; see `_rebind.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._annotate import Annotation, Group, annotate, find_group, groups
from ._axes import atoms_of, positions
from ._cost import flops
from ._groups import cut_params, kept_masks, zero_params
from ._importance import check_params, importance
from ._rebind import apply_kept
from ._widths import widths

Keep = float | Mapping[str | Group, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PruneReport:
    """What a pruning did.

    Attributes:
        annotation: of the function as it was.
        kept: for the name of each group that was thinned, the indices that stay.
        parameters: numbers in the parameters, before and after.
        flops: operations of one call at the example's shapes, before and after.
        difference: the largest difference between the outputs of the old function with
            zeros in the place of what was cut and of the new one, over the largest
            output (or 1); `None` where it was not computed.
        widths: (parameter, its shape before, its shape after) of all that changed.
        config: for layers of Flax and Equinox, the sizes to write where the model is
            made: name of the layer -> name of the argument -> new value.
    """

    annotation: Annotation
    kept: Mapping[str, np.ndarray]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    difference: float | None
    widths: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    config: Mapping[str, Mapping[str, Any]]

    @property
    def approximate(self) -> tuple[Group, ...]:
        """The groups that were thinned although that changes the function."""
        return tuple(
            g
            for g in self.annotation.groups
            if g.name in self.kept and g.state == "approximate"
        )

    def __str__(self) -> str:
        before, after = self.parameters
        old, new = self.flops
        lines = [
            f"parameters {before:,} -> {after:,} ({before / after:.2f} times fewer)",
            f"operations {old:,} -> {new:,} ({old / max(new, 1):.2f} times fewer)",
        ]
        if self.difference is not None:
            lines.append(f"zeroed against pruned: {self.difference:.1e}")
        for group in self.annotation.groups:
            if group.name in self.kept:
                note = f" (approximate: {group.reason})" * (group in self.approximate)
                kept = len(self.kept[group.name])
                lines.append(f"{group.name}: {group.size} -> {kept} {group.kind}{note}")
        for name, count in self.annotation.unknown.items():
            lines.append(f"unknown primitive {name}, {count} times: frozen")
        return "\n".join(lines)


class Pruned(NamedTuple):
    """A pruned function.

    Attributes:
        params: the smaller arrays, in the structure that they had.
        apply: `apply(params, *args)`, a pure function of the smaller arrays: to be
            jitted, differentiated, mapped or exported. For other dtypes, and for other
            arguments of other shapes than the example's, the function is read again.
        report: what was done.
    """

    params: Any
    apply: Callable
    report: PruneReport


def prune(
    f: Callable,
    params: Any,
    *example_args: Any,
    keep: Keep,
    criterion: str = "l2",
    loss: Callable | None = None,
    data: Any = None,
    approximate: bool = False,
    check: bool = True,
    tolerance: float = 1e-4,
) -> Pruned:
    """Removes the least important indices of groups of a function.

    Args:
        f: `f(params, *args)`; see `annotate`.
        params: a pytree of arrays.
        example_args: the other arguments. With arrays the result is checked on them;
            `jax.ShapeDtypeStruct` will do without `check`.
        keep: one fraction in (0, 1] for every free group whose kind is not "window"
            (their depth too); or a mapping from the names of groups to fractions or to
            the indices kept. At least one index of a group stays.
        criterion: what chooses the indices of a fraction; see `importance`, also for
            `loss` and `data`. Of a window its middle stays.
        loss: for some criteria.
        data: for some criteria.
        approximate: whether one fraction applies to approximate groups too. Those of a
            mapping are thinned in any case.
        check: whether to compare with the old function, zeros in the place of what is
            cut.
        tolerance: the largest difference allowed if all groups are exact, over the
            largest output (or 1).

    Returns:
        The smaller parameters, the function that takes them, and a report.

    Raises:
        ValueError: an unknown or frozen group, a fraction or indices out of range, or
            outputs that differ by more than the tolerance.

    Examples:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.eye(3, 8), "v": jnp.ones((8, 2))}
        >>> f = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> small, apply, report = prune(f, params, jnp.ones(3), keep=0.5)
        >>> small["w"].shape, apply(small, jnp.ones(3)).shape
        ((3, 4), (2,))
    """
    annotation = annotate(f, params, *example_args)
    kept = choose("prune", annotation, params, keep, criterion, loss, data, approximate)
    return pruned(annotation, params, kept, example_args if check else None, tolerance)


def pruned(
    annotation: Annotation,
    params: Any,
    kept: Mapping[str, np.ndarray],
    check_on: tuple | None,
    tolerance: float = 1e-4,
) -> Pruned:
    """Cuts all but the kept indices of groups out of parameters and function."""
    check_params("prune", annotation, params)
    keep = masks_of(annotation, kept)
    small = cut_params(annotation, keep, params)
    apply = _small_function(annotation, keep)
    old, new = jax.tree.leaves(params), jax.tree.leaves(small)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), small)

    def factors(path: str, k: int) -> list[int]:
        axis = annotation.param_axes[annotation.paths.index(path)][k]
        sizes = dict(enumerate(annotation.sizes))
        sizes |= {atom: int(mask.sum()) for atom, mask in keep.items()}
        return [sizes[atom] for atom in atoms_of(axis)] if len(axis) == 1 else []

    changed = tuple(
        (path, jnp.shape(a), jnp.shape(b))
        for path, a, b in zip(annotation.paths, old, new, strict=True)
        if jnp.shape(a) != jnp.shape(b)
    )
    report = PruneReport(
        annotation=annotation,
        kept=kept,
        parameters=(sum(map(jnp.size, old)), sum(map(jnp.size, new))),
        flops=(
            flops(annotation.jaxpr),
            flops(jax.make_jaxpr(apply)(shapes, *annotation.args)),
        ),
        difference=None,
        widths=changed,
        config=widths(small, changed, factors),
    )
    result = Pruned(small, apply, report)
    if check_on is None:
        return result
    difference = check_exact(result, params, *check_on)
    if difference > tolerance and not report.approximate:
        raise ValueError(
            f"prune: the pruned function differs by {difference:.1e} of the largest "
            "output from the old one with zeros, more than `tolerance` "
            f"{tolerance:.1e}."
        )
    report = dataclasses.replace(report, difference=difference)
    return Pruned(small, apply, report)


def check_exact(result: Pruned, params: Any, *args: Any) -> float:
    """Compares a pruned function with the old one, zeros in the place of what was cut.

    Args:
        result: of `prune`.
        params: the parameters that were pruned.
        args: arrays for the other arguments.

    Returns:
        The largest difference of the outputs over the largest output (or 1): rounding
        where all groups are exact. It is infinite where one of the two is NaN.

    Raises:
        TypeError: `args` hold shapes and not arrays.
    """
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(args)):
        raise TypeError(
            "check_exact: `args` must be arrays, got jax.ShapeDtypeStruct; "
            "call prune with check=False."
        )
    annotation = result.report.annotation
    keep = masks_of(annotation, result.report.kept)
    zeroed = zero_params(annotation, keep, params)
    dense = jax.jit(annotation.function)(zeroed, *args)
    small = jax.jit(result.apply)(result.params, *args)
    worst = 0.0
    for a, b in zip(jax.tree.leaves(dense), jax.tree.leaves(small), strict=True):
        if not jnp.issubdtype(a.dtype, jnp.number) or not a.size:
            continue
        a, b = (_wide(x) for x in (a, b))
        known = np.isfinite(a)
        if (known != np.isfinite(b)).any():
            return float("inf")
        scale = max(1.0, np.abs(a[known]).max(initial=0.0))
        worst = max(worst, float(np.abs(a - b)[known].max(initial=0.0) / scale))
    return worst


def _wide(x: Any) -> np.ndarray:
    kind = np.complex128 if jnp.iscomplexobj(x) else np.float64
    return np.asarray(x).astype(kind)


def choose(
    where: str,
    annotation: Annotation,
    params: Any,
    keep: Keep,
    criterion: str,
    loss: Callable | None,
    data: Any,
    approximate: bool,
) -> dict[str, np.ndarray]:
    """Turns `keep` into the indices that stay of each group."""
    if not isinstance(keep, Mapping):
        states = ("exact", "approximate") if approximate else ("exact",)
        keep = {
            g.name: keep
            for g in groups(annotation)
            if g.kind != "window" and g.state in states
        }
        if not keep:
            raise ValueError(f"{where}: no group is free; annotate says why.")
    scores: dict[str, Any] = {}
    kept = {}
    for key, wanted in keep.items():
        name = key.name if isinstance(key, Group) else key
        group = find_group(annotation, name, where)
        if group.state == "frozen":
            raise ValueError(f"{where}: group {name!r} is frozen: {group.reason}.")
        if np.ndim(wanted):
            kept[group.name] = _indices(where, group, wanted)
            continue
        if not 0 < wanted <= 1:
            raise ValueError(
                f"{where}: `keep` of group {name!r} must be a fraction in (0, 1] or "
                f"indices, got {wanted!r}."
            )
        count = max(1, round(float(wanted) * group.size))
        if group.kind == "window":
            first = (group.size - count) // 2
            kept[group.name] = np.arange(first, first + count)
            continue
        if not scores:
            scores = importance(
                annotation, params, criterion=criterion, loss=loss, data=data
            )
        best = np.argsort(-np.asarray(scores[group.name]), kind="stable")
        kept[group.name] = np.sort(best[:count])
    return kept


def _indices(where: str, group: Group, wanted: Sequence) -> np.ndarray:
    indices = np.asarray(wanted)
    if indices.dtype == bool and indices.shape == (group.size,):
        indices = np.nonzero(indices)[0]
    good = (
        indices.ndim == 1
        and indices.size
        and np.issubdtype(indices.dtype, np.integer)
        and len(np.unique(indices)) == len(indices)
        and 0 <= indices.min() <= indices.max() < group.size
    )
    if not good:
        raise ValueError(
            f"{where}: `keep` of group {group.name!r} must be different indices below "
            f"{group.size}, at least one, got {wanted!r}."
        )
    indices = np.sort(indices)
    if group.kind == "window" and (np.diff(indices) != 1).any():
        raise ValueError(
            f"{where}: `keep` of group {group.name!r} must be neighbours, being a "
            f"window, got {wanted!r}."
        )
    return indices


def masks_of(
    annotation: Annotation, kept: Mapping[str, np.ndarray]
) -> dict[int, np.ndarray]:
    """Gives masks of atoms for indices of groups."""
    masks = {}
    for group in annotation.groups:
        if group.name in kept:
            masks[group.atom] = np.isin(np.arange(group.size), kept[group.name])
    return masks


def _small_function(annotation: Annotation, keep: dict[int, np.ndarray]) -> Callable:
    """Makes `apply(params, *args)` for parameters of which some indices are kept."""
    masks = kept_masks(annotation, keep)
    dense, tree = jax.tree.flatten(annotation.params)
    plans = {_key(dense, annotation.args): (annotation, keep)}

    def apply(params: Any, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(params)
        if structure != tree:
            raise ValueError(
                f"pruned function: `params` must have the structure {tree}, "
                f"got {structure}."
            )
        for path, leaf, kept in zip(annotation.paths, leaves, masks, strict=True):
            shape = tuple(int(mask.sum()) for mask in kept)
            if jnp.shape(leaf) != shape:
                raise ValueError(
                    f"pruned function: `params` at {path!r} must have shape {shape}, "
                    f"got {jnp.shape(leaf)}."
                )
        key = _key(leaves, args)
        if key not in plans:
            old = [
                jax.ShapeDtypeStruct(a.shape, jnp.result_type(b))
                for a, b in zip(dense, leaves, strict=True)
            ]
            other = annotate(annotation.function, tree.unflatten(old), *args)
            plans[key] = (other, _same_cut(other, masks))
        plan, thinned = plans[key]
        values = [*map(jnp.asarray, leaves), *map(jnp.asarray, jax.tree.leaves(args))]
        return jax.tree.unflatten(plan.out_tree, apply_kept(plan, thinned, values))

    return apply


def _key(params: Sequence, args: tuple) -> tuple:
    """What a function has to be read again for: dtypes, and the shapes of data."""
    leaves, tree = jax.tree.flatten(args)
    shapes = tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)
    return tree, shapes, tuple(jnp.result_type(x) for x in params)


def _same_cut(annotation: Annotation, masks: list) -> dict[int, np.ndarray]:
    """Finds the masks of atoms that cut parameters as given, at other data."""
    keep: dict[int, np.ndarray] = {}
    for axes, kept in zip(annotation.param_axes, masks, strict=True):
        for axis, mask in zip(axes, kept, strict=True):
            for atom in atoms_of(axis):
                stays = np.zeros(annotation.sizes[atom], bool)
                for row in positions(axis, atom, annotation.sizes):
                    stays[row[mask & (row >= 0)]] = True
                keep[atom] = keep.get(atom, True) & stays
    keep = {atom: stays for atom, stays in keep.items() if not stays.all()}
    same = all(
        np.array_equal(a, b)
        for new, old in zip(kept_masks(annotation, keep), masks, strict=True)
        for a, b in zip(new, old, strict=True)
    )
    states = {g.atom: g for g in annotation.groups}
    frozen = [states[a] for a in keep if states[a].state == "frozen"]
    if not same or frozen:
        why = f": {frozen[0].name} is {frozen[0].reason}" if frozen else ""
        raise ValueError(
            "pruned function: with arguments of these shapes the parameters cannot be "
            f"cut as they were with the example's{why}."
        )
    return keep
