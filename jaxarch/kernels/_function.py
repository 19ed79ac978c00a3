"""A user's function of one example, made ready for differentiation in its parameters.

Parameters are any pytree. Its arrays of floating dtype are differentiated; what else it
holds (integer arrays, activation functions of an Equinox module) is kept as it is.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_FLOAT, _ARRAY, _STATIC = "float", "array", "static"


@dataclasses.dataclass(frozen=True)
class Function:
    """The static half of a bound function: hashable, so it can key a compilation."""

    f: Callable[[Any, Any], Any]
    treedef: Any
    kinds: tuple[str, ...]  # of each leaf of the parameters
    statics: tuple[Hashable, ...]  # leaves that are no arrays

    def __call__(self, floats: Sequence[Any], arrays: Sequence[Any], x: Any) -> Any:
        """Calls `f` with its parameters put together again."""
        return self.f(self.params(floats, arrays), x)

    def params(self, floats: Sequence[Any], arrays: Sequence[Any]) -> Any:
        """The parameters with these leaves."""
        left = {_FLOAT: iter(floats), _ARRAY: iter(arrays)}
        left[_STATIC] = iter(value for _, value in self.statics)  # pyright: ignore
        return self.treedef.unflatten([next(left[kind]) for kind in self.kinds])


def _kind(leaf: Any) -> str:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return _STATIC
    return _FLOAT if jnp.issubdtype(leaf.dtype, jnp.inexact) else _ARRAY


def split(where: str, f: Any, params: Any) -> tuple[Function, list[Any], list[Any]]:
    """Binds `f` to the structure of `params`.

    Args:
        where: The public function, for messages.
        f: A function `(params, x) -> out` of one example.
        params: Any pytree.

    Returns:
        The function, the float arrays of `params` and its other arrays.
    """
    if not callable(f):
        raise TypeError(
            f"{where}: `f` must be a function (params, x) of one example, got "
            f"{type(f).__name__}."
        )
    try:
        hash(f)
    except TypeError:
        f = functools.partial(f)
    leaves, treedef = jax.tree.flatten(params)
    kinds = tuple(map(_kind, leaves))
    groups = {
        kind: [a for a, k in zip(leaves, kinds, strict=True) if k == kind]
        for kind in (_FLOAT, _ARRAY, _STATIC)
    }
    if not groups[_FLOAT]:
        raise ValueError(
            f"{where}: `params` must hold at least one array of floating dtype, got "
            f"{treedef}."
        )
    for leaf in groups[_FLOAT]:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{where}: `params` must be real, got {leaf.dtype}.")
    statics = tuple((type(leaf), leaf) for leaf in groups[_STATIC])
    return Function(f, treedef, kinds, statics), groups[_FLOAT], groups[_ARRAY]


def num_examples(where: str, name: str, x: Any) -> int:
    """The common length of the leading axis of the arrays of `x`."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
    if not shapes or not all(shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"{where}: `{name}` must have shape (n, ...), examples along its first "
            f"axis, got {shapes if len(shapes) != 1 else shapes[0]}."
        )
    return shapes[0][0]


def check_inputs(where: str, x1: Any, x2: Any, diagonal: bool) -> tuple[Any, Any]:
    """Returns the inputs as arrays, if their examples are alike."""
    n1 = num_examples(where, "x1", x1)
    x1 = jax.tree.map(jnp.asarray, x1)
    if x2 is None:
        return x1, None
    n2 = num_examples(where, "x2", x2)
    x2 = jax.tree.map(jnp.asarray, x2)
    one, two = describe(example(x1)), describe(example(x2))
    if one != two:
        raise ValueError(
            f"{where}: an example of `x2` must be like one of `x1`, {one}, got {two}."
        )
    if diagonal and n1 != n2:
        raise ValueError(
            f"{where}: with `diagonal` `x2` must have the {n1} examples of `x1`, "
            f"got {n2}."
        )
    return x1, x2


def describe(tree: Any) -> str:
    """Shapes and dtypes of a tree in words."""
    text = str(jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree))
    return text.strip("'")


def example(x: Any) -> Any:
    """Shape and dtype of one example of the batch `x`."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)


def check_output(
    where: str, function: Function, floats: Any, arrays: Any, x: Any
) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the output for one example of `x`, one real array."""
    out = jax.eval_shape(function, floats, arrays, example(x))
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise TypeError(
            f"{where}: `f` must return one array, got {jax.tree.structure(out)}."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(
            f"{where}: `f` must return real floating numbers, got {out.dtype}."
        )
    if math.prod(out.shape) == 0:
        raise ValueError(
            f"{where}: `f` must return at least one number, got shape {out.shape}."
        )
    return out


def basis(out: jax.ShapeDtypeStruct, *like: Any) -> Array:
    """The unit cotangents of an output that depends on `like`: `(outputs, *out)`."""
    outputs = math.prod(out.shape)
    unit = jnp.eye(outputs, dtype=out.dtype).reshape(outputs, *out.shape)
    return vary(unit, *like)


def vary(arrays: Any, *like: Any) -> Any:
    """Returns equal arrays that JAX takes to depend on all of `like`.

    Under `shard_map` the derivative in what all devices share is summed over devices;
    that in an array of a device's own is not.
    """
    sources = [
        leaf.reshape(-1)[0]
        for leaf in jax.tree.leaves(like)
        if leaf.size and jnp.issubdtype(leaf.dtype, jnp.number)
    ]

    def one(a):
        for source in sources:
            a = jnp.where(False, source.astype(a.dtype), a)
        return a

    return jax.tree.map(one, arrays)
