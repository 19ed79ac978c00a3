"""How much each index of a group matters.

Magnitude is the oldest measure; the others take one gradient of a loss. SNIP: Lee,
Ajanthan and Torr, arXiv:1810.02340; the Taylor criterion: Molchanov et al.,
arXiv:1906.10771; the saliency of optimal brain damage: LeCun, Denker and Solla, NIPS
1989, with the Fisher information in the place of the Hessian, as in WoodFisher,
arXiv:2004.14340.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import check_option
from ._annotate import Annotation, groups
from ._groups import group_sums

CRITERIA = ("l1", "l2", "taylor", "snip", "obs")


def importance(
    annotation: Annotation,
    params: Any,
    *,
    criterion: str = "l2",
    loss: Callable | None = None,
    data: Any = None,
) -> dict[str, Array]:
    r"""Scores every index of every free group by the parameters that it stands for.

    With $w$ the parameters of one index and $g$ the gradient of the loss,

    - `"l1"`: $\sum |w|$,
    - `"l2"`: $\sqrt{\sum w^2}$,
    - `"taylor"`: $|\sum g w|$, the change of the loss to first order without them,
    - `"snip"`: $\sum |g w|$ over the sum of the same of all parameters,
    - `"obs"`: $\frac12 \sum_w w^2 \, \mathrm{mean}_i \, g_i^2$ over examples $i$.

    Args:
        annotation: of `annotate`.
        params: the parameters.
        criterion: one of the five.
        loss: for the last three, `loss(params, *data)`, a scalar that is the mean over
            examples.
        data: for the last three, a tuple of arrays whose leading axis is the examples.

    Returns:
        For the name of each free group, shape (size,). The scores of different groups
        compare only within `"taylor"`, `"snip"` and `"obs"`.

    Raises:
        ValueError: an unknown criterion, or one that needs `loss` and `data` without
            them; `params` of other shapes.
    """
    check_option("importance", "criterion", criterion, CRITERIA)
    check_params("importance", annotation, params)
    chosen = groups(annotation)
    if criterion in ("l1", "l2"):
        power = 1 if criterion == "l1" else 2
        sums = group_sums(
            annotation, jax.tree.map(lambda w: jnp.abs(w) ** power, params), chosen
        )
        return {name: total ** (1 / power) for name, total in sums.items()}
    if loss is None or data is None:
        raise ValueError(
            f"importance: criterion {criterion!r} needs `loss` and `data`, got "
            f"{'no loss' if loss is None else 'no data'}."
        )
    if criterion == "obs":

        def one(example: Any) -> Any:
            return jax.grad(loss, allow_int=True)(
                params, *jax.tree.map(lambda x: x[None], example)
            )

        def add(total: Any, example: Any) -> tuple[Any, None]:
            return jax.tree.map(
                lambda t, g: t + _float(g, g) ** 2, total, one(example)
            ), None

        start = jax.tree.map(lambda w: jnp.zeros(w.shape), params)
        squares, _ = jax.lax.scan(add, start, tuple(data))
        count = len(jax.tree.leaves(data)[0])
        products = jax.tree.map(
            lambda w, f: 0.5 * _float(w, w) ** 2 * f / count, params, squares
        )
        return group_sums(annotation, products, chosen)
    gradient = jax.grad(loss, allow_int=True)(params, *data)
    products = jax.tree.map(lambda w, g: _float(w, w) * _float(g, w), params, gradient)
    if criterion == "taylor":
        sums = group_sums(annotation, products, chosen)
        return {name: jnp.abs(total) for name, total in sums.items()}
    sizes = jax.tree.map(jnp.abs, products)
    whole = sum(jnp.sum(x) for x in jax.tree.leaves(sizes))
    sums = group_sums(annotation, sizes, chosen)
    return {name: total / whole for name, total in sums.items()}


def _float(x: Any, like: Any) -> Array:
    """Integers among the parameters have no gradient."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.zeros(like.shape)
    return x


def check_params(where: str, annotation: Annotation, params: Any) -> None:
    """Raises `ValueError` unless `params` has the shapes that were annotated."""
    if jax.tree.structure(params) != jax.tree.structure(annotation.params):
        raise ValueError(
            f"{where}: `params` must have the structure that was annotated, "
            f"{jax.tree.structure(annotation.params)}, got "
            f"{jax.tree.structure(params)}."
        )
    for path, want, got in zip(
        annotation.paths,
        jax.tree.leaves(annotation.params),
        jax.tree.leaves(params),
        strict=True,
    ):
        if jnp.shape(got) != want.shape:
            raise ValueError(
                f"{where}: `params` at {path!r} must have shape {want.shape}, "
                f"got {jnp.shape(got)}."
            )
