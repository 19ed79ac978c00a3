"""Masks of weights by magnitude, again and again from the same start.

Source: Frankle and Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable
Neural Networks", ICLR 2019, arXiv:1803.03635, sections 1 and 2, and the authors' code
(google-research/lottery-ticket-hypothesis). To go back to an early step and not to the
initial values is from Frankle et al., arXiv:1903.01611.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import check_natural, check_option

SCOPES = ("layer", "global")
Where = Callable[[str, Array], bool]


class LotteryRound(NamedTuple):
    """One round of `iterative_pruning_masks`.

    Attributes:
        masks: what `train` was given: bools in the structure of the parameters.
        params: what it returned.
        kept: the share of the prunable weights that the masks keep.
    """

    masks: Any
    params: Any
    kept: float


def magnitude_masks(
    params: Any,
    masks: Any = None,
    *,
    fraction: Any,
    scope: str = "layer",
    where: Where | None = None,
) -> Any:
    r"""Masks without the smallest of the weights that are left.

    Of $n$ weights left, the $\mathrm{round}(n \cdot \mathrm{fraction})$ of least
    $|w|$ go; of equal ones the first. It may be jitted. Time O(n log n).

    Args:
        params: a pytree of arrays, trained.
        masks: those before, bools in its structure; `None` keeps everything.
        fraction: which share of what is left goes, in [0, 1]; with `scope="layer"` also
            a tree of them for parts of `params`, such as half of it for a last layer.
        scope: `"layer"` ranks within each array, `"global"` all weights together.
        where: `where(name, leaf)` tells whether the weights of a leaf may go, its name
            being such as "layers/0/w". `None` is leaves of two axes or more: biases
            and normalisations stay.

    Returns:
        Bools in the structure of `params`; all true where `where` is not.

    Raises:
        ValueError: a fraction out of range, several with `scope="global"`, an unknown
            scope, `masks` of another structure or other shapes.

    The authors' code removes one weight more, the one at the cut, and all equal ones.

    Examples:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.array([[3.0, -1.0], [0.5, 2.0]]), "b": jnp.zeros(2)}
        >>> print(magnitude_masks(params, fraction=0.5)["w"])
        [[ True False]
         [False  True]]
    """
    check_option("magnitude_masks", "scope", scope, SCOPES)
    leaves, tree = jax.tree.flatten(params)
    masks = _masks("magnitude_masks", params, masks)
    fractions = _fractions("magnitude_masks", params, fraction)
    prunable = _prunable(params, where)
    if scope == "global" and len(set(fractions)) > 1:
        raise ValueError(
            'magnitude_masks: `fraction` must be one number with scope="global", got '
            f"{fraction!r}."
        )
    old = jax.tree.leaves(masks)
    chosen = [k for k, wanted in enumerate(prunable) if wanted]
    together = [chosen] if scope == "global" and chosen else [[k] for k in chosen]
    new = list(old)
    for ks in together:
        sizes = jnp.concatenate([jnp.abs(leaves[k]).ravel() for k in ks])
        left = jnp.concatenate([old[k].ravel() for k in ks])
        kept = _without_smallest(sizes, left, fractions[ks[0]])
        stops = np.cumsum([leaves[k].size for k in ks])[:-1]
        for k, part in zip(ks, jnp.split(kept, stops), strict=True):
            new[k] = part.reshape(leaves[k].shape)
    return jax.tree.unflatten(tree, new)


def rewind(params: Any, masks: Any) -> Any:
    """Earlier parameters, zero where a mask is false: the start of the next round.

    It is also how masks are held while training: `f(rewind(params, masks), x)` neither
    uses nor moves the weights that are gone, whatever the optimiser.

    Args:
        params: the initial parameters, or those of an early step.
        masks: of `magnitude_masks`.

    Returns:
        Arrays in the structure of `params`.

    Raises:
        ValueError: `masks` of another structure or other shapes.

    Examples:
        >>> import jax.numpy as jnp
        >>> rewind({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])})
        {'w': Array([1., 0.], dtype=float32)}
    """
    masks = _masks("rewind", params, masks)
    return jax.tree.map(lambda w, m: jnp.where(m, w, jnp.zeros_like(w)), params, masks)


def iterative_pruning_masks(
    train: Callable[[Any, Any], Any],
    params: Any,
    *,
    rounds: int,
    fraction: Any,
    scope: str = "layer",
    where: Where | None = None,
    rewind_to: Any = None,
    progress: bool = True,
) -> Iterator[LotteryRound]:
    """Trains, drops the smallest weights, goes back to the start, and again.

    Args:
        train: `train(params, masks) -> trained params`; it keeps to the masks, as with
            `rewind` in its loss.
        params: the initial parameters.
        rounds: how often weights are dropped.
        fraction: of the weights left that go in each round; see `magnitude_masks`, also
            for `scope` and `where`.
        scope: as there.
        where: as there.
        rewind_to: what survivors go back to, such as an early step; `None` is `params`.
        progress: whether to show a bar, if tqdm is installed.

    Returns:
        An iterator that trains as it is read, over `rounds + 1` rounds, the first of
        them dense. The ticket of a round is `rewind(params, masks)`.

    Raises:
        TypeError: `rounds` is no integer.
        ValueError: a negative number of rounds, or what `magnitude_masks` refuses.

    Examples:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.array([[3.0, -1.0], [0.5, 2.0]])}
        >>> found = iterative_pruning_masks(lambda p, m: p, params, rounds=2,
        ...                                 fraction=0.5, progress=False)
        >>> [round.kept for round in found]
        [1.0, 0.5, 0.25]
    """
    check_natural("iterative_pruning_masks", rounds=rounds)
    start = params if rewind_to is None else rewind_to
    # What is wrong is said now and not after hours of training.
    options = {"fraction": fraction, "scope": scope, "where": where}
    jax.eval_shape(lambda p: magnitude_masks(p, **options), params)
    masks = _masks("iterative_pruning_masks", params, None)
    jax.eval_shape(rewind, start, masks)
    return _rounds(train, params, start, masks, rounds, options, progress)


def _rounds(
    train: Callable,
    params: Any,
    start: Any,
    masks: Any,
    rounds: int,
    options: dict[str, Any],
    progress: bool,
) -> Iterator[LotteryRound]:
    chosen = _prunable(params, options["where"])
    bar = _bar(progress, rounds + 1)
    try:
        for k in range(rounds + 1):
            trained = train(params if k == 0 else rewind(start, masks), masks)
            counts = [
                (int(mask.sum()), mask.size)
                for mask, wanted in zip(jax.tree.leaves(masks), chosen, strict=True)
                if wanted
            ]
            kept = sum(a for a, _ in counts) / max(1, sum(b for _, b in counts))
            if bar is not None:
                bar.set_postfix(kept=f"{kept:.1%}")
                bar.update()
            yield LotteryRound(masks, trained, kept)
            if k < rounds:
                masks = magnitude_masks(trained, masks, **options)
    finally:
        if bar is not None:
            bar.close()


def _bar(shown: bool, total: int) -> Any:
    if not shown or jax.process_index() != 0:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, desc="iterative pruning", unit="round")


def _without_smallest(sizes: Array, left: Array, fraction: float) -> Array:
    """Drops the given fraction of what is left, by size."""
    # What is gone sorts behind everything, infinite sizes too.
    order = jnp.lexsort((sizes, ~left))
    count = left.sum()
    drop = jnp.round(fraction * count.astype(float)).astype(count.dtype)
    rank = (
        jnp.zeros(sizes.shape, count.dtype)
        .at[order]
        .set(jnp.arange(sizes.size, dtype=count.dtype))
    )
    return left & (rank >= drop)


def _prunable(params: Any, where: Where | None) -> list[bool]:
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "params"
        found.append(bool(jnp.ndim(leaf) >= 2 if where is None else where(name, leaf)))
    return found


def _masks(where: str, params: Any, masks: Any) -> Any:
    """The masks, checked; all true if there are none."""
    if masks is None:
        return jax.tree.map(lambda w: jnp.ones(jnp.shape(w), bool), params)
    tree = jax.tree.structure(params)
    if jax.tree.structure(masks) != tree:
        raise ValueError(
            f"{where}: `masks` must have the structure of `params`, {tree}, got "
            f"{jax.tree.structure(masks)}."
        )
    for (path, leaf), mask in zip(
        jax.tree_util.tree_flatten_with_path(params)[0],
        jax.tree.leaves(masks),
        strict=True,
    ):
        if jnp.shape(mask) != jnp.shape(leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{where}: `masks` at {name!r} must have shape {jnp.shape(leaf)}, got "
                f"{jnp.shape(mask)}."
            )
    return jax.tree.map(lambda m: jnp.asarray(m, bool), masks)


def _fractions(where: str, params: Any, fraction: Any) -> list[float]:
    """The fraction of each leaf."""
    try:
        found = jax.tree.leaves(jax.tree.broadcast(fraction, params))
    except ValueError as error:
        raise ValueError(
            f"{where}: `fraction` must be a number, or a tree of them for parts of "
            f"`params`, got {fraction!r}."
        ) from error
    for value in found:
        if not 0 <= value <= 1:
            raise ValueError(f"{where}: `fraction` must be in [0, 1], got {value!r}.")
    return found
