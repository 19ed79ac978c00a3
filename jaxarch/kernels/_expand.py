r"""A function expanded in its parameters.

The linearised network is what a wide network is under gradient descent (Lee et al.,
arXiv:1902.06720, section 2.2); higher orders say how far it is from that.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._function import split


def linearize(
    f: Callable[[Any, Any], Array], params: PyTree
) -> Callable[[Any, Any], Array]:
    r"""Expands a function to first order in its parameters.

    $$f_1(\theta, x) = f(\theta_0, x) + \nabla_\theta f(\theta_0, x)\,
        (\theta - \theta_0)$$

    Its empirical NTK is that of `f` at `params`, whatever its own parameters are.

    Args:
        f: A function `f(params, x)`, with any inputs and any pytree of outputs.
        params: Where to expand, $\theta_0$. Leaves that are no arrays of floating dtype
            are held fixed.

    Returns:
        The function $f_1$, called like `f`. One call costs two to three of `f`; its
        parameters must have the structure and shapes of `params`.

    Raises:
        TypeError: if `f` is no function.
        ValueError: if `params` holds nothing to expand in, or (when called) the
            parameters differ in structure or shape.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> f1 = ker.linearize(lambda w, x: jnp.sin(w * x), jnp.asarray(0.0))
        >>> float(f1(jnp.asarray(2.0), 3.0))
        6.0
    """
    return _expand("linearize", f, params, 1)


def taylor_expand(
    f: Callable[[Any, Any], Array], params: PyTree, *, degree: int
) -> Callable[[Any, Any], Array]:
    r"""Expands a function to some order in its parameters.

    $$f_d(\theta, x) = \sum_{k=0}^{d} \frac{1}{k!} \frac{\partial^k}{\partial t^k}
        f(\theta_0 + t (\theta - \theta_0), x) \Big|_{t=0}$$

    Args:
        f: As for `linearize`.
        params: As for `linearize`.
        degree: The order $d$, from 0.

    Returns:
        The function $f_d$, called like `f`. One call costs O(2^d) of `f`.

    Raises:
        TypeError: as `linearize`, and if `degree` is no int.
        ValueError: as `linearize`, and if `degree` is negative.
    """
    if isinstance(degree, bool) or not isinstance(degree, int):
        raise TypeError(
            f"taylor_expand: `degree` must be an int, got {type(degree).__name__}."
        )
    if degree < 0:
        raise ValueError(f"taylor_expand: `degree` must be at least 0, got {degree}.")
    return _expand("taylor_expand", f, params, degree)


def _expand(where: str, f, params, degree: int):
    function, origin, arrays = split(where, f, params)
    origin = [jnp.asarray(leaf) for leaf in origin]
    call = function.f

    def expanded(params, *args, **kwargs):
        moved = _displacement(where, function, origin, params)

        def along(t):
            point = [
                a + t.astype(a.dtype) * d for a, d in zip(origin, moved, strict=True)
            ]
            return call(function.params(point, arrays), *args, **kwargs)

        terms = _derivatives(along, jnp.zeros((), jnp.float32), degree)
        return jax.tree.map(
            lambda *ts: sum(
                (t / math.factorial(k) for k, t in enumerate(ts[1:], 1)), ts[0]
            ),
            *terms,
        )

    return expanded


def _displacement(where: str, function, origin, params) -> list[Array]:
    leaves, treedef = jax.tree.flatten(params)
    if treedef != function.treedef:
        raise ValueError(
            f"{where}: the parameters must have the structure {function.treedef}, got "
            f"{treedef}."
        )
    point = [a for a, k in zip(leaves, function.kinds, strict=True) if k == "float"]
    for a, b in zip(point, origin, strict=True):
        if jnp.shape(a) != b.shape:
            raise ValueError(
                f"{where}: the parameters must have the shapes of those expanded at, "
                f"{b.shape}, got {jnp.shape(a)}."
            )
    return [jnp.asarray(a, b.dtype) - b for a, b in zip(point, origin, strict=True)]


def _derivatives(f: Callable[[Array], Any], t: Array, degree: int) -> list[Any]:
    """The derivatives of `f` at `t` of orders 0 to `degree`."""
    if degree == 0:
        return [f(t)]
    lower, higher = jax.jvp(
        lambda t: _derivatives(f, t, degree - 1), (t,), (jnp.ones_like(t),)
    )
    return [*lower, higher[-1]]
