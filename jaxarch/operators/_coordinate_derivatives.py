"""Derivatives of a field in its coordinates, for losses without solutions.

S. Wang, H. Wang, P. Perdikaris, "Learning the solution operator of parametric partial
differential equations with physics-informed DeepOnets", arXiv:2103.10974.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_rank


def coordinate_derivatives(
    f: Callable[[Array], Array], y: Float[Array, "points dim"]
) -> tuple[Array, Array, Array]:
    r"""Computes a field with its first and second derivatives at many points.

    $$s(y_i), \qquad \frac{\partial s}{\partial y_{id}}(y_i), \qquad
        \frac{\partial^2 s}{\partial y_{id}^2}(y_i)$$

    All points move along one axis at once, in forward mode: what does not depend on the
    points, such as a branch, is computed once, and the gradient of a loss in the
    parameters is a single reverse pass. The cost grows linearly with the dimension;
    what is not used, XLA removes.

    Args:
        f: A field at many points, from shape `(points, dim)` to `(points, ...)`; each
            row of its values depends on its own point alone, as in
            `lambda y: deeponet_apply(params, u, y)`.
        y: The points.

    Returns:
        Values, shape `(points, ...)`; first derivatives, shape `(points, ..., dim)`;
        second derivatives along each axis, in the same shape.

    Raises:
        ValueError: If `y` is no matrix, or `f` does not give a row for each point.

    Examples:
        >>> y = jnp.array([[1.0, 2.0]])
        >>> s, first, second = coordinate_derivatives(lambda y: y[:, 0] * y[:, 1]**2, y)
        >>> first.tolist(), second.tolist()
        ([[4.0, 4.0]], [[0.0, 2.0]])
    """
    where = "coordinate_derivatives"
    check_rank(where, "y", y, 2, "(points, dim)")

    def along(direction: Array) -> tuple[Array, Array, Array]:
        tangent = jnp.broadcast_to(direction, y.shape)

        def with_slope(y: Array) -> tuple[Array, Array]:
            return jax.jvp(f, (y,), (tangent,))

        (values, first), (_, second) = jax.jvp(with_slope, (y,), (tangent,))
        return values, first, second

    directions = jnp.eye(y.shape[1], dtype=y.dtype)
    values, first, second = jax.vmap(along, out_axes=(None, -1, -1))(directions)
    if values.shape[:1] != y.shape[:1]:
        raise ValueError(
            f"{where}: `f` must give {len(y)} rows, one for each point, got shape "
            f"{values.shape}."
        )
    return values, first, second
