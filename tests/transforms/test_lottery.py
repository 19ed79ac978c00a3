"""Masks by magnitude against sorting in NumPy, and the rounds around a training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.transforms._lottery import (
    iterative_pruning_masks,
    magnitude_masks,
    rewind,
)

from .models import numbers

PARAMS = {
    "layers": [{"w": numbers(7, 5), "b": numbers(5)}, {"w": numbers(5, 3)}],
    "kernel": numbers(3, 3, 2, 4),
    "scale": numbers(4),
}
WEIGHTS = ("kernel", "layers/0/w", "layers/1/w")


def named(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }


def by_sorting(w, left, fraction):
    """Drops the smallest of what is left, by a stable sort."""
    candidates = np.nonzero(left.ravel())[0]
    order = np.argsort(np.abs(w.ravel()[candidates]), kind="stable")
    kept = left.ravel().copy()
    kept[candidates[order[: int(np.round(fraction * len(candidates)))]]] = False
    return kept.reshape(w.shape)


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 1.0])
def test_within_each_layer(fraction):
    step = jax.jit(lambda p, m: magnitude_masks(p, m, fraction=fraction))
    masks, wanted = None, {k: np.ones(w.shape, bool) for k, w in named(PARAMS).items()}
    for _ in range(3):
        masks = step(PARAMS, masks)
        for name in WEIGHTS:
            wanted[name] = by_sorting(named(PARAMS)[name], wanted[name], fraction)
        for name, mask in named(masks).items():
            np.testing.assert_array_equal(mask, wanted[name])
    assert all(mask.all() for k, mask in named(masks).items() if k not in WEIGHTS)


def test_over_all_layers_together():
    masks = magnitude_masks(PARAMS, fraction=0.4, scope="global")
    masks = magnitude_masks(PARAMS, masks, fraction=0.4, scope="global")
    flat = np.concatenate([named(PARAMS)[k].ravel() for k in WEIGHTS])
    wanted = by_sorting(flat, np.ones(len(flat), bool), 0.4)
    wanted = by_sorting(flat, wanted, 0.4)
    found = np.concatenate([named(masks)[k].ravel() for k in WEIGHTS])
    np.testing.assert_array_equal(found, wanted)


def test_equal_weights_go_in_order():
    params = {"w": jnp.asarray([[1.0, -1.0, 1.0], [0.0, 1.0, -1.0]])}
    masks = magnitude_masks(params, fraction=0.5)
    np.testing.assert_array_equal(
        masks["w"], [[False, False, True], [False, True, True]]
    )
    masks = magnitude_masks({"w": jnp.zeros((2, 2))}, fraction=0.5)
    np.testing.assert_array_equal(masks["w"], [[False, False], [True, True]])


def test_what_is_gone_stays_gone_whatever_its_size():
    before = {"w": jnp.asarray([[False, True], [True, True]])}
    params = {"w": jnp.asarray([[9.0, jnp.inf], [3.0, 1.0]])}
    masks = magnitude_masks(params, before, fraction=2 / 3)
    np.testing.assert_array_equal(masks["w"], [[False, True], [False, False]])


def test_a_fraction_for_each_part():
    fraction = {"layers": [0.5, 0.2], "kernel": 0.0, "scale": 0.9}
    masks = named(magnitude_masks(PARAMS, fraction=fraction))
    assert masks["layers/0/w"].sum() == 35 - round(17.5)
    assert masks["layers/1/w"].sum() == 12
    assert masks["kernel"].all()
    assert masks["scale"].all()  # of one axis


def test_where_chooses():
    masks = named(
        magnitude_masks(
            PARAMS,
            fraction=0.5,
            where=lambda name, leaf: name in ("scale", "layers/1/w"),
        )
    )
    assert masks["scale"].sum() == 2
    assert masks["layers/0/w"].all()
    masks = magnitude_masks(
        PARAMS, fraction=0.5, scope="global", where=lambda *_: False
    )
    assert all(mask.all() for mask in named(masks).values())


def test_rewind_keeps_survivors_and_what_has_no_mask():
    masks = magnitude_masks(PARAMS, fraction=0.5)
    early = jax.tree.map(lambda w: w + 1, PARAMS)
    found = named(rewind(early, masks))
    for name, mask in named(masks).items():
        np.testing.assert_array_equal(
            found[name], np.where(mask, named(early)[name], 0)
        )
    grads = jax.grad(
        lambda p: sum(jnp.sum(w**2) for w in jax.tree.leaves(rewind(p, masks)))
    )(early)
    for name, mask in named(masks).items():
        assert not named(grads)[name][~mask].any()


def test_the_rounds():
    early = jax.tree.map(lambda w: 2 * w, PARAMS)
    seen = []

    def train(params, masks):
        seen.append((params, masks))
        return jax.tree.map(lambda w: w - 0.1, params)

    found = list(
        iterative_pruning_masks(
            train, PARAMS, rounds=3, fraction=0.2, rewind_to=early, progress=False
        )
    )
    assert len(found) == len(seen) == 4
    assert found[0].kept == 1
    masks = jax.tree.map(lambda w: jnp.ones(w.shape, bool), PARAMS)
    start = PARAMS
    for k, (round_, (params, given)) in enumerate(zip(found, seen, strict=True)):
        assert jax.tree.all(jax.tree.map(jnp.array_equal, params, start)), k
        for tree in (given, round_.masks):
            assert jax.tree.all(jax.tree.map(jnp.array_equal, tree, masks)), k
        sizes = [
            (named(masks)[name].sum(), named(masks)[name].size) for name in WEIGHTS
        ]
        assert round_.kept == sum(a for a, _ in sizes) / sum(b for _, b in sizes)
        masks = magnitude_masks(round_.params, masks, fraction=0.2)
        start = rewind(early, masks)


def test_tickets_go_back_to_the_initial_values():
    found = iterative_pruning_masks(
        lambda p, m: jax.tree.map(jnp.negative, p), PARAMS, rounds=1, fraction=0.5
    )
    _, last = found  # with a bar
    ticket = rewind(PARAMS, last.masks)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: jnp.array_equal(a, -b), ticket, last.params)
    )


def test_without_tqdm(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    found = iterative_pruning_masks(lambda p, m: p, PARAMS, rounds=0, fraction=0.5)
    assert [round_.kept for round_ in found] == [1]


def test_what_is_refused():
    def refuses(message, error=ValueError, **options):
        with pytest.raises(error, match=f"magnitude_masks: {message}"):
            magnitude_masks(PARAMS, **{"fraction": 0.5, **options})

    refuses(r"`fraction` must be in \[0, 1\], got 1.5", fraction=1.5)
    refuses("`fraction` must be a number, or a tree of them", fraction={"w": 0.5})
    refuses("`scope` must be one of 'layer', 'global'", scope="all")
    fraction = {"layers": 0.5, "kernel": 0.2, "scale": 0.1}
    refuses("`fraction` must be one number with", scope="global", fraction=fraction)
    refuses("`masks` must have the structure of `params`", masks={"w": True})
    masks = magnitude_masks(PARAMS, fraction=0.5)
    masks["kernel"] = masks["kernel"][0]
    refuses(r"`masks` at 'kernel' must have shape \(3, 3, 2, 4\)", masks=masks)
    with pytest.raises(ValueError, match="rewind: `masks` at 'kernel' must have shape"):
        rewind(PARAMS, masks)


def test_the_rounds_refuse_before_they_train():
    def never(params, masks):
        raise AssertionError

    def refuses(message, error=ValueError, **options):
        with pytest.raises(error, match=message):
            iterative_pruning_masks(
                never, PARAMS, **{"rounds": 2, "fraction": 0.5, **options}
            )

    refuses("iterative_pruning_masks: `rounds` must be at least 0", rounds=-1)
    refuses("iterative_pruning_masks: `rounds` must be an int", TypeError, rounds=1.5)
    refuses("`fraction` must be in", fraction=-0.1)
    refuses("`masks` must have the structure", rewind_to={"w": jnp.ones(3)})
