r"""The group lasso on the groups of a function, by proximal gradient steps.

Source: Yuan and Lin, "Model selection and estimation in regression with grouped
variables", Journal of the Royal Statistical Society B 68 (2006) 49-67; the proximal
step is that of Parikh and Boyd, "Proximal Algorithms", Foundations and Trends in
Optimization 1 (2014), section 6.5.4.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ._annotate import Annotation, Group
from ._group_index import (
    choose_groups,
    final_step,
    gradient_step,
    index_groups,
    need_optax,
    update_leaves,
    wide,
)
from ._importance import check_params


class GroupProximalState(NamedTuple):
    """What `group_proximal` carries from step to step.

    Attributes:
        count: steps taken.
    """

    count: Int[Array, ""]


def group_proximal(
    annotation: Annotation,
    *,
    learning_rate: float | Callable,
    penalty: float | Callable,
    groups: Sequence[str | Group] | None = None,
) -> Any:
    r"""Proximal gradient steps on a loss with the group lasso added.

    The penalty is $\mu \sum_g \sqrt{n_g} \lVert x_g \rVert$ over the indices $g$ of
    groups, $x_g$ all the parameters of an index and $n_g$ how many they are. A step
    goes to $z = x - \alpha d$, and every number of $z$ is multiplied by

    $$\prod_{g \ni w} \max(0, 1 - \alpha \mu \sqrt{n_g} / \lVert z_g \rVert)$$

    over the indices that it belongs to. Where groups are disjoint that is the proximal
    operator of the penalty. They are not where a weight has an input and an output
    that may both be cut: there all norms are of $z$, the factors are multiplied,
    and the step agrees with a gradient step on the penalty to first order in $\alpha$;
    the exact operator has no closed form. An index vanishes if its norm is
    below its threshold, whatever it shares, and then `zero_groups` lists it. It is not
    kept at zero, but a loss without a gradient there leaves it.

    It is the last of a chain, as `dhspg` is; what comes in is a direction with the sign
    of a gradient. After a rule that rescales it by coordinate, such as Adam's, the
    threshold remains that of the plain norm.

    Args:
        annotation: of the function that is trained; see `annotate`.
        learning_rate: $\alpha$, a number or a schedule of the step.
        penalty: $\mu$, likewise.
        groups: names of groups or groups; `None` is all exact groups of kind "width".

    Returns:
        An `optax.GradientTransformation`. Its update needs the parameters, and adding
        what it returns to them makes exact zeros.

    Raises:
        ImportError: optax is not installed.
        TypeError: `groups` is one name alone.
        ValueError: a negative penalty, an unknown or frozen group; in the update,
            parameters that are missing or not as annotated.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxarch.transforms import annotate
        >>> params = {"w": jnp.array([[3.0, 0.1]]), "v": jnp.array([[4.0], [0.1]])}
        >>> f = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> tx = group_proximal(annotate(f, params, jnp.ones(1)), learning_rate=1.0,
        ...                     penalty=0.5)
        >>> zeros = jax.tree.map(jnp.zeros_like, params)
        >>> updates, _ = tx.update(zeros, tx.init(params), params)
        >>> print(optax.apply_updates(params, updates)["w"] != 0)
        [[ True False]]
    """
    optax = need_optax("group_proximal")
    if not callable(penalty) and not penalty >= 0:
        raise ValueError(
            f"group_proximal: `penalty` must not be negative, got {penalty}."
        )
    index = index_groups(
        annotation, choose_groups("group_proximal", annotation, groups)
    )

    def init(params: Any) -> GroupProximalState:
        check_params("group_proximal", annotation, params)
        return GroupProximalState(jnp.zeros((), jnp.int32))

    def update(
        updates: Any, state: GroupProximalState, params: Any = None
    ) -> tuple[Any, GroupProximalState]:
        d, x = update_leaves("group_proximal", annotation, updates, params)
        rate, weight = (
            jnp.asarray(value(state.count) if callable(value) else value)
            for value in (learning_rate, penalty)
        )
        steps = [gradient_step(x, d, rate) for x, d in zip(x, d, strict=True)]
        moved = [
            wide(x) + step if held else x
            for x, step, held in zip(x, steps, index.held, strict=True)
        ]
        (squares,) = index.inner((moved, moved))
        bound = rate.astype(squares.dtype) * weight.astype(squares.dtype)
        bound *= jnp.sqrt(jnp.asarray(index.counts, squares.dtype))
        norm = jnp.sqrt(squares)
        factor = jnp.where(norm > bound, 1 - bound / jnp.where(norm > 0, norm, 1), 0)
        factors = index.spread(factor, 1, jnp.multiply)
        leaves = []
        for w, z, step, shrunk in zip(x, moved, steps, factors, strict=True):
            if shrunk is not None:
                step = z * shrunk.astype(z.real.dtype) - wide(w)
            zero = None if shrunk is None else shrunk == 0
            leaves.append(final_step(w, step, zero))
        state = GroupProximalState(optax.safe_increment(state.count))
        return jax.tree.unflatten(jax.tree.structure(updates), leaves), state

    return optax.GradientTransformation(init, update)
