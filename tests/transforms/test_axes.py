"""The algebra of axes against positions written out."""

import numpy as np
from hypothesis import given, settings, strategies as st

from jaxarch.transforms._axes import Axes, atoms_of, keep_mask, kept_size, positions

from .test_prune import spelled


@st.composite
def axis_of(draw, axes, depth=3):
    """An axis made of atoms by products and sums, in any order."""
    if depth == 0 or draw(st.booleans()):
        made = st.sampled_from(range(len(axes.sizes) + 1))
        atom = draw(made)
        if atom < len(axes.sizes):
            return axes.normal(((atom,),))
        return axes.fresh(draw(st.integers(1, 4)))
    parts = [draw(axis_of(axes, depth - 1)) for _ in range(draw(st.integers(1, 3)))]
    return axes.product(parts) if draw(st.booleans()) else axes.join(parts)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_masks_and_positions_are_those_of_the_axis_written_out(data):
    axes = Axes()
    axis = data.draw(axis_of(axes))
    places = spelled(axis, axes.sizes)
    assert len(places) == axes.size(axis)
    keep = {
        atom: np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
        for atom, n in enumerate(axes.sizes)
        if atom in atoms_of(axis)
    }
    want = [all(keep[a][i] for a, i in place) for place in places]
    np.testing.assert_array_equal(keep_mask(axis, keep, axes.sizes), want)
    sizes = {atom: int(kept.sum()) for atom, kept in keep.items()}
    assert kept_size(axis, sizes) == sum(want)
    for atom in atoms_of(axis):
        rows = positions(axis, atom, axes.sizes)
        for p, place in enumerate(places):
            held = [i for a, i in place if a == atom]
            assert sorted(held) == sorted(i for i in rows[:, p] if i >= 0)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_unified_axes_are_written_alike_and_keep_their_places(data):
    axes = Axes()
    x = data.draw(axis_of(axes))
    size = axes.size(x)
    # An axis of the same size with another structure.
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=3)))
    sizes = np.diff([0, *cuts, size])
    y = axes.join(
        [
            axes.product([axes.fresh(k), axes.fresh(n // k)])
            for n in sizes
            if n
            for k in [
                data.draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
            ]
        ]
    )
    before = {axis: spelled(axis, axes.sizes) for axis in (x, y)}
    axes.unify(x, y)
    for axis, places in before.items():
        # Positions that were tied still are.
        new = spelled(axes.normal(axis), axes.sizes)
        assert len(new) == len(places)
        now = dict(zip(places, new, strict=True))
        assert [now[place] for place in places] == new
    if not axes.frozen:
        assert axes.normal(x) == axes.normal(y)


def test_what_a_slice_of_a_product_leaves():
    axes = Axes()
    a, b = axes.fresh(4), axes.fresh(3)
    first, rest = axes.summands(axes.product([a, b]), (5, 7))
    assert axes.size(first) == 5
    assert axes.size(rest) == 7
    joined = axes.join([first, rest])
    assert joined == axes.normal(axes.product([a, b]))
    assert not axes.frozen


def test_reasons_go_along():
    axes = Axes()
    data, w = axes.fresh(6, "data"), axes.fresh(6)
    axes.unify(w, axes.product([axes.fresh(2), axes.fresh(3)]))
    axes.unify(w, data)
    assert {axes.frozen[atom] for atom in atoms_of(axes.normal(w))} == {"data"}
    axes.where = "here"
    x, y = axes.product([axes.fresh(2), axes.fresh(300)]), axes.fresh(600)
    axes.unify(x, y)
    assert axes.normal(x) == axes.normal(y)
    many = axes.join([axes.fresh(1)] * 600)
    axes.unify(many, y)
    assert "no common factorisation in here" in axes.frozen.values()
