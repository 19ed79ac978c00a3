"""Kernels of an architecture by sampling networks of finite width."""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from .._checks import check_option, check_positive
from .._params import params
from ._empirical import METHODS, empirical_nngp, empirical_ntk
from ._function import check_inputs
from ._gram import Gram


class _Model(Protocol):
    def init(self, key: PRNGKeyArray, x: Any, /) -> Any: ...

    def apply(self, params: Any, x: Any, /) -> Any: ...


@params
class Estimate:
    """A mean over random networks, and its standard error, entry by entry."""

    mean: Gram
    standard_error: Gram


def monte_carlo(
    model: _Model,
    key: PRNGKeyArray,
    x1: PyTree,
    x2: PyTree | None,
    num_samples: int,
    *,
    ntk: bool = True,
    method: str = "auto",
    tile: int | None = None,
    memory_limit: int | None = None,
) -> Estimate:
    r"""Estimates the NNGP and NTK kernels of a network by drawing its parameters.

    With $K_s$ the empirical kernel (mean over outputs) of draw $s$ of $S$,

    $$\bar K = \frac1S \sum_s K_s, \qquad
      \mathrm{se} = \sqrt{\frac{1}{S (S - 1)} \sum_s (K_s - \bar K)^2}.$$

    For a network of finite width the mean differs from the infinite kernel by
    O(1 / width); the standard error does not know of that.

    Args:
        model: What has `init(key, x) -> params` and `apply(params, x)` for one example:
            `finite(network)`, a Flax Linen module, or one's own.
        key: A JAX key, split into one for each draw.
        x1: Examples `(n1, *example)`.
        x2: Other examples `(n2, *example)`; `None` means `x1`.
        num_samples: Number $S$ of draws, at least 2. They are made one after another.
        ntk: Whether to estimate the NTK too.
        method: As for `empirical_ntk`.
        tile: As for `empirical_ntk`.
        memory_limit: As for `empirical_ntk`.

    Returns:
        Mean and standard error, each with matrices `(n1, n2)`.

    Raises:
        TypeError: if `model` has no `init` and `apply`, or as `empirical_ntk`.
        ValueError: as `empirical_ntk`, or if there are fewer than 2 samples.
    """
    where = "monte_carlo"
    for name in ("init", "apply"):
        if not callable(getattr(model, name, None)):
            raise TypeError(
                f"{where}: `model` must have `init` and `apply`, got "
                f"{type(model).__name__} without `{name}`."
            )
    check_option(where, "method", method, METHODS)
    check_positive(where, num_samples=num_samples)
    if num_samples < 2:
        raise ValueError(f"{where}: `num_samples` must be at least 2, got 1.")
    x1, x2 = check_inputs(where, x1, x2, False)
    first = jax.tree.map(lambda a: a[0], x1)

    nngp_of = functools.partial(
        empirical_nngp, model.apply, tile=tile, memory_limit=memory_limit
    )
    ntk_of = functools.partial(
        empirical_ntk,
        model.apply,
        method=method,
        tile=tile,
        memory_limit=memory_limit,
    )

    def sample(key) -> Gram:
        params = model.init(key, first)
        return Gram(
            nngp=nngp_of(params, x1, x2), ntk=ntk_of(params, x1, x2) if ntk else None
        )

    def step(state, key):
        """Welford's update: the sum of squares is of differences from the mean."""
        count, mean, squares = state
        k = sample(key)
        before = jax.tree.map(jnp.subtract, k, mean)
        count = count + 1
        mean = jax.tree.map(lambda m, d: m + d / count.astype(d.dtype), mean, before)
        squares = jax.tree.map(
            lambda s, d, a, m: s + d * (a - m), squares, before, k, mean
        )
        return (count, mean, squares), None

    keys = jax.random.split(key, num_samples)
    zeros = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(sample, keys[0])
    )
    start = (jnp.zeros((), jnp.int32), zeros, zeros)
    (_, mean, squares), _ = jax.lax.scan(step, start, keys)
    scale = num_samples * (num_samples - 1)
    error = jax.tree.map(lambda s: jnp.sqrt(s / scale), squares)
    return Estimate(mean=mean, standard_error=error)
