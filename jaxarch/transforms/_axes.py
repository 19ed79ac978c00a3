r"""Axes as sums of products of atoms.

An axis of 12 positions may be written as one atom of size 12, as a product of atoms
$3 \times 4$ (a reshape has split it, the last factor running fastest), or as a sum
$5 + 7$ (a concatenation has joined it). A normal form is a tuple of terms in their
order; a term is a tuple of atoms in row-major order, of which the last factor may again
be a sum. `((),)` is an axis of one position, `()` of none.

Where two axes have to be one, `Axes.unify` refines their atoms until the two are
written alike; where no common refinement exists both are frozen, with that reason.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# More terms are a table of single positions, which nobody prunes.
_MOST_TERMS, _MOST_FROZEN_TERMS = 256, 8
Axis = tuple[tuple[Any, ...], ...]  # terms of factors: atoms (int) and axes


class Axes:
    """A table of atoms, their sizes, what they were refined into and what is frozen."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.frozen: dict[int, str] = {}
        self.marks: dict[int, set[str]] = {}  # "depth", "window"
        self.where: Any = ""  # what is being done, for reasons
        self._refined: dict[int, Axis] = {}

    def fresh(self, size: int, frozen: str = "") -> Axis:
        """Makes an axis of one new atom."""
        atom = len(self.sizes)
        self.sizes.append(int(size))
        if frozen:
            self.frozen[atom] = frozen
        return ((atom,),)

    def fresh_axes(self, shape: Iterable[int], frozen: str = "") -> list[Axis]:
        """Makes the axes of a new array."""
        return [self.fresh(size, frozen) for size in shape]

    def size(self, axis: Axis) -> int:
        """Counts the positions of an axis."""
        return kept_size(axis, self.sizes)

    def normal(self, axis: Axis) -> Axis:
        """Writes an axis by the atoms as refined so far."""
        out = []
        for term in axis:
            terms = [()]
            for factor in term:
                expanded = self._expand(factor)
                terms = [new for t in terms for new in _times(t, expanded)]
            out += terms
        return tuple(out)

    def _expand(self, factor: int | Axis) -> Axis:
        if isinstance(factor, tuple):
            return self.normal(factor)
        if factor in self._refined:
            self._refined[factor] = refined = self.normal(self._refined[factor])
            return refined
        size = self.sizes[factor]
        return ((factor,),) if size > 1 else ((),) * size

    def freeze(self, axis: Axis, reason: str) -> None:
        """Freezes the atoms of an axis; the first reason stays."""
        for atom in atoms_of(self.normal(axis)):
            self.frozen.setdefault(atom, reason)

    def mark(self, axis: Axis, mark: str) -> None:
        """Notes something of the atoms of an axis."""
        for atom in atoms_of(self.normal(axis)):
            self.marks.setdefault(atom, set()).add(mark)

    def product(self, axes: Sequence[Axis]) -> Axis:
        """Merges neighbouring axes in row-major order."""
        return self.normal((tuple(axes),))

    def join(self, axes: Sequence[Axis]) -> Axis:
        """Puts axes one behind the other."""
        return self.normal(tuple(term for axis in axes for term in axis))

    def factors(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """Splits an axis into the axes whose product it is."""
        parts = self.fresh_axes(sizes)
        self.unify(axis, self.product(parts))
        return parts

    def summands(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """Splits an axis into the axes whose sum it is."""
        parts = self.fresh_axes(sizes)
        self.unify(axis, self.join(parts))
        return parts

    def unify(self, x: Axis, y: Axis) -> None:
        """Makes two axes one, refining atoms; freezes both where that cannot be."""
        while (x := self.normal(x)) != (y := self.normal(y)):
            assert self.size(x) == self.size(y), (x, y)
            # What cannot change needs little refinement; rolls of it would have much.
            reason = self._why(x) or self._why(y)
            most = _MOST_FROZEN_TERMS if reason else _MOST_TERMS
            if max(len(x), len(y)) <= most and self._refine_sum(x, y):
                continue
            reason = reason or f"no common factorisation in {self.where}"
            self.freeze(x, reason)
            self.freeze(y, reason)
            return

    def _why(self, axis: Axis) -> str:
        """Gives the reason why all of an axis is frozen, or ""."""
        reasons = [self.frozen.get(atom, "") for atom in atoms_of(axis)]
        return reasons[0] if reasons and all(reasons) else ""

    def _refine_sum(self, x: Axis, y: Axis) -> bool:
        """Refines one atom where two sums first differ; tells whether it could."""
        s, t = next((s, t) for s, t in zip(x, y, strict=False) if s != t)
        if self._term(s) == self._term(t):
            return self._refine_product(s, t)
        if self._term(s) < self._term(t):
            s, t = t, s
        rows = max(1, self._term(t) // self._term(s[1:]))
        parts = self.fresh_axes((rows, self.sizes[s[0]] - rows))
        self._assign(s[0], self.join(parts))
        return True

    def _refine_product(self, s: tuple, t: tuple) -> bool:
        while s[0] == t[0]:
            s, t = s[1:], t[1:]
        a, b = s[0], t[0]
        if isinstance(a, tuple) or isinstance(b, tuple):
            return self._refine_sum(_as_axis(s), _as_axis(t))
        if self.sizes[a] == self.sizes[b]:
            self._assign(a, ((b,),))
            return True
        if self.sizes[a] < self.sizes[b]:
            a, b = b, a
        quotient, rest = divmod(self.sizes[a], self.sizes[b])
        if rest:
            return False
        self._assign(a, self.product((((b,),), self.fresh(quotient))))
        return True

    def _term(self, term: tuple) -> int:
        return kept_size((term,), self.sizes)

    def _assign(self, atom: int, axis: Axis) -> None:
        if atom in self.frozen:
            self.freeze(axis, self.frozen[atom])
        for mark in self.marks.get(atom, ()):
            self.mark(axis, mark)
        self._refined[atom] = axis


def _times(term: tuple, axis: Axis) -> list[tuple]:
    """The terms of `term * axis`: only what leads a product distributes over a sum."""
    if not term:
        return list(axis)
    if isinstance(term[-1], tuple):
        last = tuple(new for t in term[-1] for new in _times(t, axis))
        return [(*term[:-1], last)] if last else []
    if len(axis) == 1:
        return [term + axis[0]]
    return [(*term, axis)] if axis else []


def _as_axis(term: tuple) -> Axis:
    """The axis that a product is: a lone sum is that sum."""
    if len(term) == 1 and isinstance(term[0], tuple):
        return term[0]
    return (term,)


def atoms_of(axis: Axis) -> list[int]:
    """Lists the atoms of a normal form, each once, in order of their appearance."""
    found: dict[int, None] = {}
    for term in axis:
        for factor in term:
            inner = atoms_of(factor) if isinstance(factor, tuple) else (factor,)
            found.update(dict.fromkeys(inner))
    return list(found)


def kept_size(axis: Axis, sizes: Mapping[int, int] | Sequence[int]) -> int:
    """Counts the positions of an axis whose atoms have the given sizes."""
    return sum(
        math.prod(
            kept_size(factor, sizes) if isinstance(factor, tuple) else sizes[factor]
            for factor in term
        )
        for term in axis
    )


def keep_mask(axis: Axis, keep: Mapping[int, np.ndarray], sizes: Sequence[int]):
    """Tells which positions of an axis stay where the atoms of `keep` are thinned."""
    parts = [np.zeros(0, bool)]
    for term in axis:
        mask = np.ones(1, bool)
        for factor in term:
            if isinstance(factor, tuple):
                inner = keep_mask(factor, keep, sizes)
            else:
                inner = keep.get(factor, np.ones(sizes[factor], bool))
            mask = np.kron(mask, inner)
        parts.append(mask)
    return np.concatenate(parts).astype(bool)


def positions(axis: Axis, atom: int, sizes: Sequence[int]) -> np.ndarray:
    """For each position of an axis, the index of `atom` there, or -1.

    Returns:
        Shape (occurrences, size of the axis): one row unless a product holds the atom
        more than once.
    """
    parts = [_term_positions(term, atom, sizes) for term in axis]
    rows = max((len(part) for part in parts), default=1)
    padded = [
        np.pad(part, ((0, rows - len(part)), (0, 0)), constant_values=-1)
        for part in parts
    ]
    return np.concatenate([np.zeros((rows, 0), int), *padded], axis=1)


def _term_positions(term: tuple, atom: int, sizes: Sequence[int]) -> np.ndarray:
    size = kept_size((term,), sizes)
    rows, outer = [], 1
    for factor in term:
        if isinstance(factor, tuple):
            inner = positions(factor, atom, sizes)
        elif factor == atom:
            inner = np.arange(sizes[atom])[None]
        else:
            inner = np.full((1, sizes[factor]), -1)
        width = inner.shape[1]
        for row in inner:
            if (row >= 0).any():
                rows.append(np.tile(np.repeat(row, size // (outer * width)), outer))
        outer *= width
    return np.stack(rows) if rows else np.full((1, size), -1)
