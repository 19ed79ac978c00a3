r"""Training that empties whole groups, so that they can be cut without fine-tuning.

Source: Chen, Liang, Ding, Zhu and Zharkov, "OTOv2: Automatic, Generic, User-Friendly",
ICLR 2023, arXiv:2303.06862, and the authors' code (tianyic/only_train_once, branch
otov2_legacy_backup, dhspg.py), which fixes what the paper leaves open.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from .._checks import check_natural, check_option, check_positive
from ._annotate import Annotation, Group, groups as free_groups
from ._group_index import (
    GroupIndex,
    choose_groups,
    final_step,
    gradient_step,
    index_groups,
    need_optax,
    update_leaves,
    wide,
)
from ._importance import check_params

SALIENCIES = ("otov2", "magnitude")


class DHSPGState(NamedTuple):
    """What `dhspg` carries from step to step, over the indices of all its groups.

    Attributes:
        count: steps taken.
        redundant: the indices that are to be emptied; none before the warm-up's end.
        zero: those that are.
    """

    count: Int[Array, ""]
    redundant: Bool[Array, " indices"]
    zero: Bool[Array, " indices"]


def dhspg(
    annotation: Annotation,
    *,
    target: float | int,
    learning_rate: float | Callable,
    warmup: int,
    penalty: float = 1e-3,
    amplify: float = 2.0,
    limit: float = 10.0,
    epsilon: float = 0.0,
    saliency: str = "otov2",
    least: int | float = 1,
    groups: Sequence[str | Group] | None = None,
    deadline: int | None = None,
) -> Any:
    r"""Dual half-space projected gradient: empties whole groups while training.

    For `warmup` steps it is gradient descent. Then the indices of the groups are ranked
    once, and those that matter least become redundant. With $x_g$ all the parameters of
    a redundant index and $d_g$ the direction there, each further step makes

    $$\hat x = x - \alpha\,(d + \textstyle\sum_g \lambda_g x_g / \lVert x_g \rVert),$$

    where $\lambda_g$ is `penalty` where $\langle d_g, x_g \rangle \ge 0$. Elsewhere the
    loss drives $x_g$ away from zero: the norm shrinks only for $\lambda_g$ above
    $\lambda_{\min} = -\langle d_g, x_g \rangle / \lVert x_g \rVert$, and the loss only
    for $\lambda_g$ below $\lambda_{\max} = \lVert d_g \rVert^2 / \lambda_{\min}$.
    There $\lambda_g$ is `amplify` $\lambda_{\min}$, clipped to between `penalty` and
    `limit` times `penalty`, or the mean of both bounds if it is not below
    $\lambda_{\max}$. An index that leaves its half-space,

    $$\langle \hat x_g, x_g \rangle < \epsilon \lVert x_g \rVert^2,$$

    is zero from then on. `zero_groups` turns trained parameters into what `prune`
    takes, and the pruned function equals the trained one.

    It is the last of a chain, since it takes the step itself: what comes in is a
    direction with the sign of a gradient, of which any rule may be the source, such as
    `optax.chain(optax.trace(0.9), dhspg(...))` or
    `optax.chain(optax.scale_by_adam(), dhspg(...))`.

    Args:
        annotation: of the function that is trained; see `annotate`.
        target: how many indices become zero, of all groups together: a number of them,
            or a fraction in [0, 1), of which the count is rounded down. It is never
            exceeded.
        learning_rate: $\alpha$, a number or a schedule of the step.
        warmup: steps before the indices are ranked.
        penalty: $\lambda$.
        amplify: of the lower bound.
        limit: of $\lambda_g$, in multiples of `penalty`.
        epsilon: in [0, 1): a larger one empties groups earlier.
        saliency: what is redundant. `"otov2"`: the largest sums of two scores, each a
            unit vector over all indices: the cosine between $x_g$ and $d_g$, and the
            inverse of $\lVert x_g \rVert$ over the number of its entries.
            `"magnitude"`: the smallest $\lVert x_g \rVert$ over the mean of its group,
            which takes more evenly from groups of unlike sizes; ours.
        least: how many indices every group keeps: a number of them, at least one, or a
            fraction of its size in [0, 1), rounded up. A group that is left with very
            few is a bottleneck, from which no further training recovers.
        groups: names of groups or groups; `None` is all exact groups of kind "width".
            With approximate ones the pruned function differs.
        deadline: the step (counted from 0) at which every redundant index is zero at
            last. Until then $\lambda_g$ is at least what takes $\lVert x_g \rVert$
            there at an even pace. `None` is the paper's rule, with which momentum, Adam
            or a small `limit` may leave indices hovering above zero.

    Returns:
        An `optax.GradientTransformation`. Its update needs the parameters, and adding
        what it returns to them makes exact zeros.

    Raises:
        ImportError: optax is not installed.
        TypeError: `warmup` or `deadline` is no integer, or `groups` one name alone.
        ValueError: a number out of range, an unknown or frozen group, or a target that
            leaves groups fewer indices than `least`; in the update, parameters that are
            missing or not as annotated.

    What differs from the paper. Its groups hold the producing side alone (the rows of
    a layer, with bias and normalisation), and are disjoint. Ours hold every parameter
    that `prune` cuts, the consuming side too, so that a weight lies in two groups, gets
    both penalties, and vanishes with either; that needs no activation with
    $f(0) = 0$. The authors' code makes 5 % more indices redundant than the target asks
    for and stops at the target, picking at random where one step would exceed it; here
    they are exactly as many. The defaults are those of its plain gradient descent (for
    Adam it has `penalty=1e-2, amplify=20, limit=1e3`). The linear algebra is of time
    O(parameters) per step.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxarch.transforms import annotate
        >>> params = {"w": jnp.eye(3, 8), "v": jnp.ones((8, 2))}
        >>> f = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> tx = dhspg(annotate(f, params, jnp.ones(3)), target=5, learning_rate=0.1,
        ...            warmup=0, deadline=0)
        >>> grads = jax.grad(lambda p: jnp.sum(f(p, jnp.ones(3)) ** 2))(params)
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> jnp.any(optax.apply_updates(params, updates)["w"], axis=0).sum().item()
        3
    """
    optax = need_optax("dhspg")
    check_natural("dhspg", warmup=warmup)
    if deadline is not None:
        check_natural("dhspg", deadline=deadline)
        if deadline < warmup:
            raise ValueError(
                f"dhspg: `deadline` must be at least `warmup` {warmup}, got {deadline}."
            )
    check_option("dhspg", "saliency", saliency, SALIENCIES)
    for name, value, low in (
        ("penalty", penalty, 0.0),
        ("amplify", amplify, 1.0),
        ("limit", limit, 1.0),
    ):
        if not value >= low:
            raise ValueError(f"dhspg: `{name}` must be at least {low}, got {value}.")
    if not 0 <= epsilon < 1:
        raise ValueError(f"dhspg: `epsilon` must be in [0, 1), got {epsilon}.")
    index = index_groups(annotation, choose_groups("dhspg", annotation, groups))
    kept = _least(index, least)
    wanted = _target(index, target, int(kept.sum()))

    def init(params: Any) -> DHSPGState:
        check_params("dhspg", annotation, params)
        none = jnp.zeros(index.total, bool)
        return DHSPGState(jnp.zeros((), jnp.int32), none, none)

    def update(
        updates: Any, state: DHSPGState, params: Any = None
    ) -> tuple[Any, DHSPGState]:
        d, x = update_leaves("dhspg", annotation, updates, params)
        xx, dx, dd = index.inner((x, x), (d, x), (d, d))
        redundant = jax.lax.cond(
            state.count == warmup,
            lambda: _redundant(index, wanted, kept, saliency, xx, dx, dd),
            # In shard_map it varies like the norms, which are never negative.
            lambda: state.redundant | (xx < 0),
        )
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        norm, rate = jnp.sqrt(xx), jnp.asarray(rate, xx.dtype)
        shrink = rate * _penalties(norm, dx, dd, penalty, amplify, limit)
        if deadline is not None:
            outward = rate * jnp.maximum(-dx, 0) * _inverse(norm)
            left = jnp.maximum(deadline - state.count + 1, 1).astype(xx.dtype)
            shrink = jnp.maximum(shrink, outward + norm / left)
        shrink = jnp.where(redundant, shrink * _inverse(norm), 0)
        steps = []
        for w, g, pull in zip(x, d, index.spread(shrink, 0, jnp.add), strict=True):
            step = gradient_step(w, g, rate)
            if pull is not None:
                step -= pull.astype(step.real.dtype) * wide(w)
            steps.append(step)
        trial = [
            wide(x) + step if held else x
            for x, step, held in zip(x, steps, index.held, strict=True)
        ]
        (inside,) = index.inner((trial, x))
        gone = (inside < epsilon * xx) | (xx == 0)
        if deadline is not None:
            gone |= state.count >= deadline
        zero = state.zero | (redundant & gone)
        emptied = index.spread(zero, False, jnp.logical_or)
        leaves = [
            final_step(x, step, gone)
            for x, step, gone in zip(x, steps, emptied, strict=True)
        ]
        count = optax.safe_increment(state.count)
        return (
            jax.tree.unflatten(jax.tree.structure(updates), leaves),
            DHSPGState(count, redundant, zero),
        )

    return optax.GradientTransformation(init, update)


def zero_groups(
    annotation: Annotation,
    params: Any,
    *,
    groups: Sequence[str | Group] | None = None,
) -> dict[str, np.ndarray]:
    """Finds the indices that may be cut since all their parameters are zero.

    Args:
        annotation: of the function.
        params: arrays, such as `dhspg` or `group_proximal` leaves them.
        groups: where to look: names of groups or groups; `None` is all exact groups but
            those of windows.

    Returns:
        For the name of each group with zeros, the indices that are not zero, for
        `prune(..., keep=...)`; the first index of a group where all are zero.

    Raises:
        TypeError: `groups` is one name alone.
        ValueError: `params` not as annotated; an unknown or frozen group.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxarch.transforms import annotate
        >>> params = {"w": jnp.eye(3, 4), "v": jnp.eye(4, 2)}
        >>> f = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> zero_groups(annotate(f, params, jnp.ones(3)), params)
        {'v[0]': array([0, 1, 2])}
    """
    check_params("zero_groups", annotation, params)
    if groups is None:
        free = free_groups(annotation)
        chosen = [g for g in free if g.state == "exact" and g.kind != "window"]
    else:
        chosen = choose_groups("zero_groups", annotation, groups)
    if not chosen:
        return {}
    index = index_groups(annotation, chosen)
    alive = np.zeros(index.total + 1, bool)
    start = 0
    for leaf, held in zip(jax.tree.leaves(params), index.held, strict=True):
        for axis, times in held:
            rest = tuple(k for k in range(np.ndim(leaf)) if k != axis)
            along = np.asarray(leaf != 0).any(rest)
            for _ in range(times):
                stop = start + np.shape(leaf)[axis]
                np.logical_or.at(alive, index.at[start:stop], along)
                start = stop
    keep = {}
    for k, group in enumerate(chosen):
        kept = np.nonzero(alive[:-1][index.group_of == k])[0]
        if len(kept) < group.size:
            keep[group.name] = kept if len(kept) else np.zeros(1, int)
    return keep


def _least(index: GroupIndex, least: int | float) -> np.ndarray:
    """How many indices each group keeps."""
    sizes = np.array([group.size for group in index.chosen])
    if isinstance(least, float):
        if not 0 <= least < 1:
            raise ValueError(
                "dhspg: `least` must be a fraction in [0, 1) or a number of indices "
                f"(an int), got {least}."
            )
        return np.maximum(1, np.ceil(least * sizes - 1e-9).astype(int))
    check_positive("dhspg", least=least)
    return np.minimum(least, sizes)


def _target(index: GroupIndex, target: float | int, kept: int) -> int:
    """How many indices become zero."""
    most = index.total - kept
    if isinstance(target, bool) or not isinstance(target, int | float):
        raise TypeError(
            f"dhspg: `target` must be an int or a float, got {type(target).__name__}."
        )
    if isinstance(target, float) and not 0 <= target < 1:
        raise ValueError(
            "dhspg: `target` must be a fraction in [0, 1) or a number of indices (an "
            f"int), got {target}."
        )
    wanted = target
    if isinstance(target, float):
        wanted = int(np.floor(target * index.total + 1e-9))  # 0.7 * 10 is below 7
    if not 0 <= wanted <= most:
        raise ValueError(
            f"dhspg: `target` must leave {kept} indices to {len(index.chosen)} groups, "
            f"see `least`: at most {most} of {index.total} can be zero, got {target}."
        )
    return int(wanted)


def _redundant(
    index: GroupIndex,
    wanted: int,
    least: np.ndarray,
    saliency: str,
    xx: Array,
    dx: Array,
    dd: Array,
) -> Array:
    """Marks the indices that matter least, but for the best of each group."""
    counts = jnp.asarray(index.counts, xx.dtype)
    norm = jnp.sqrt(xx)
    if saliency == "magnitude":
        sums = jax.ops.segment_sum(norm, index.group_of, len(index.chosen))
        mean = sums / np.bincount(index.group_of).astype(norm.dtype)
        score = -norm * _inverse(mean)[index.group_of]
    else:
        cosine = dx * _inverse(norm * jnp.sqrt(dd))
        small = 1 / (norm / counts + 1e-6)
        score = (_unit(cosine) + _unit(small)) / 2
    sizes = np.bincount(index.group_of)
    # Sorted by group and within it by score, the first of each group are kept.
    order = jnp.lexsort((score, index.group_of))
    rank = np.arange(index.total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    score = score.at[order[np.nonzero(rank < np.repeat(least, sizes))[0]]].set(-jnp.inf)
    worst = jax.lax.top_k(score, wanted)[1]
    return jnp.zeros(index.total, bool).at[worst].set(True)


def _penalties(
    norm: Array, dx: Array, dd: Array, penalty: float, amplify: float, limit: float
) -> Array:
    """The lambda of each index."""
    low = -dx * _inverse(norm)
    high = dd * norm * _inverse(-dx)
    adjusted = jnp.clip(amplify * low, penalty, limit * penalty)
    adjusted = jnp.where(adjusted >= high, (low + high) / 2, adjusted)
    return jnp.where(dx < 0, adjusted, penalty)


def _inverse(x: Array) -> Array:
    """1 / x, and 0 where x is 0."""
    return jnp.where(x == 0, 0, 1 / jnp.where(x == 0, 1, x))


def _unit(x: Array) -> Array:
    return x * _inverse(jnp.sqrt(jnp.sum(x**2)))
