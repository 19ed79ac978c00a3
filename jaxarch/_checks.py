"""Trace-time argument checks. They read shapes only, so they cost nothing under jit."""

import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike


def check_shape(where: str, name: str, x: ArrayLike, shape: tuple[int, ...]) -> None:
    """Raises `ValueError` unless `x.shape == shape`."""
    got = jnp.shape(x)
    if got == shape:
        return
    batched = len(got) > len(shape) and got[len(got) - len(shape) :] == shape
    hint = " (one example; use jax.vmap for a batch)" if batched else ""
    raise ValueError(f"{where}: `{name}` must have shape {shape}{hint}, got {got}.")


def check_rank(where: str, name: str, x: ArrayLike, rank: int, axes: str) -> None:
    """Raises `ValueError` unless `x` has `rank` axes, which `axes` describes."""
    got = jnp.shape(x)
    if len(got) != rank:
        raise ValueError(f"{where}: `{name}` must have shape {axes}, got {got}.")


def check_positive(where: str, **values: int) -> None:
    """Raises `ValueError` unless every value is a positive integer."""
    _check_ints(where, 1, values)


def check_natural(where: str, **values: int) -> None:
    """Raises `ValueError` unless every value is a non-negative integer."""
    _check_ints(where, 0, values)


def _check_ints(where: str, least: int, values: dict[str, int]) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(
                f"{where}: `{name}` must be an int, got {type(value).__name__}."
            )
        if value < least:
            raise ValueError(
                f"{where}: `{name}` must be at least {least}, got {value}."
            )


def check_integers(where: str, **arrays: ArrayLike) -> None:
    """Raises `TypeError` unless every array has an integer dtype."""
    for name, a in arrays.items():
        dtype = jnp.result_type(a)
        if not jnp.issubdtype(dtype, jnp.integer):
            raise TypeError(f"{where}: `{name}` must be integers, got {dtype}.")


def check_interval(where: str, name: str, interval: tuple[float, float]) -> None:
    """Raises `ValueError` unless `interval` is two finite numbers in their order."""
    wanted = f"{where}: `{name}` must be two finite numbers (low, high), low < high"
    try:
        low, high = map(float, interval)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{wanted}, got {interval!r}.") from error
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"{wanted}, got {interval!r}.")


def check_option(where: str, name: str, value: Any, options: Collection[Any]) -> None:
    """Raises `ValueError` unless `value` is one of `options`."""
    if value not in options:
        wanted = ", ".join(repr(o) for o in options)
        raise ValueError(f"{where}: `{name}` must be one of {wanted}, got {value!r}.")


def check_float_dtype(where: str, dtype: DTypeLike) -> None:
    """Raises `ValueError` unless `dtype` is a real floating dtype."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{where}: `dtype` must be a real floating dtype, got {jnp.dtype(dtype)}."
        )


def is_concrete(*arrays: ArrayLike) -> bool:
    """Tells whether the numbers in `arrays` can be read now: none is being traced."""
    try:
        for array in arrays:
            if isinstance(array, jax.Array):
                array.is_deleted()  # every tracer refuses to answer
    except jax.errors.ConcretizationTypeError:
        return False
    return True
