r"""Padding by a fraction of the domain, so that it is as wide at every resolution.

J. Berner et al., "Principled Approaches for Extending Neural Architectures to Function
Spaces for Operator Learning", arXiv:2506.10973, section 3. A padding of so many pixels
is another domain on every grid, and a spectral convolution on it another operator.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_rank
from ._sampling import spacings


def domain_pad(
    u: Float[Array, "*space channels"],
    fraction: float | Sequence[float],
    *,
    boundary: str = "dirichlet",
) -> Float[Array, "*padded channels"]:
    r"""Extends the domain by zeros to a periodic one of length $(1 + f) L$.

    Along an axis of n points, a grid with both ends gets $f (n - 1) - 1$ points, a
    periodic one $f n$, rounded, so that the result is a periodic grid with the spacing
    of `u`. Take its length for `lengths`. At resolutions where a rounding is needed the
    length is off by part of a spacing.

    Args:
        u: A function on a grid, shape `(*space, channels)`.
        fraction: $f$; one number, or one for each axis; at least 0.
        boundary: What the grid of `u` is, as in `grid_points`.

    Returns:
        The function on the larger domain. `domain_unpad` takes it back.

    Raises:
        ValueError: If a fraction is negative, or so small that no point fits where an
            end is among the points.

    Examples:
        >>> domain_pad(jnp.ones((9, 9, 1)), 0.25).shape
        (10, 10, 1)
        >>> domain_pad(jnp.ones((17, 17, 1)), 0.25).shape
        (20, 20, 1)
    """
    where = "domain_pad"
    num_dims = jnp.ndim(u) - 1
    if num_dims < 1:
        check_rank(where, "u", u, 2, "(*space, channels)")
    spacings(where, u.shape[:-1], boundary, None)
    many = isinstance(fraction, Sequence)
    fractions = tuple(fraction) if many else (fraction,) * num_dims
    widths = []
    for n, f in zip(u.shape[:-1], fractions, strict=True):
        width = round(f * n) if boundary == "periodic" else round(f * (n - 1)) - 1
        if width < 0:
            raise ValueError(
                f"{where}: `fraction` must be at least "
                f"{0 if boundary == 'periodic' else 1 / (n - 1):.3g} with {n} points, "
                f"got {f}."
            )
        widths.append((0, width))
    return jnp.pad(u, [*widths, (0, 0)])


def domain_unpad(
    u: Float[Array, "*padded channels"], shape: Sequence[int]
) -> Float[Array, "*space channels"]:
    """Cuts what `domain_pad` has added.

    Args:
        u: A function on the larger domain.
        shape: The number of points along each axis before the padding.

    Returns:
        The function on the domain, shape `(*shape, channels)`.

    Raises:
        ValueError: If `u` has fewer points than `shape`, or other axes.
    """
    where = "domain_unpad"
    check_rank(where, "u", u, len(shape) + 1, f"({len(shape)} axes, channels)")
    if any(n < m for n, m in zip(u.shape[:-1], shape, strict=True)):
        raise ValueError(
            f"{where}: `shape` must be at most {u.shape[:-1]}, got {tuple(shape)}."
        )
    return u[tuple(slice(m) for m in shape)]
