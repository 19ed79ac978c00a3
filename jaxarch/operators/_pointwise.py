r"""Layers that any sampling of a function agrees on without a quadrature of their own.

A map at each point, a normalisation by means over the domain, and encodings of
coordinates: J. Berner et al., "Principled Approaches for Extending Neural Architectures
to Function Spaces for Operator Learning", arXiv:2506.10973, section 3. They replace
activations and dense layers, a layer normalisation over channels and pixels, and
encodings of indices.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_option, check_positive, check_rank, check_shape
from .._dtypes import at_least_float32, float_dtype
from ._sampling import BOUNDARIES, all_lengths, domain_mean


def pointwise(
    f: Callable[[Array], Array], u: Float[Array, "*space n_in"]
) -> Float[Array, "*space n_out"]:
    """Applies a function of one vector at each point.

    Args:
        f: A function from shape `(n_in,)` to shape `(n_out,)`, such as
            `functools.partial(mlp_apply, params)`.
        u: A function on a grid or a cloud, channels last.

    Returns:
        `f` of the values, shape `(*space, n_out)`.

    Raises:
        ValueError: If `u` has no axis of points, or `f` does not give a vector.

    Examples:
        >>> from jaxarch.layers import mlp_apply, mlp_init
        >>> params = mlp_init(jax.random.key(0), (3, 16, 1))
        >>> f = lambda x: mlp_apply(params, x)
        >>> pointwise(f, jnp.ones((8, 8, 3))).shape
        (8, 8, 1)
    """
    if jnp.ndim(u) < 2:
        raise ValueError(
            f"pointwise: `u` must have shape (*space, channels), got {jnp.shape(u)}."
        )
    out = jax.vmap(f)(u.reshape(-1, u.shape[-1]))
    if jnp.ndim(out) != 2:
        raise ValueError(
            "pointwise: `f` must give a vector at a point, got shape "
            f"{jnp.shape(out)[1:]}."
        )
    return out.reshape(*u.shape[:-1], -1)


def instance_norm(
    u: Float[Array, "*space channels"],
    weights: Float[Array, "*space"] | None = None,
    *,
    scale: Float[Array, " channels"] | None = None,
    bias: Float[Array, " channels"] | None = None,
    eps: float = 1e-5,
) -> Float[Array, "*space channels"]:
    r"""Normalises each channel by its mean and variance over the domain.

    $$\gamma \frac{u - \bar u}{\sqrt{\overline{(u - \bar u)^2} + \epsilon}} + \beta$$

    The means are those of `domain_mean`, so that a finer or an uneven sampling changes
    them by the error of the quadrature alone.

    Args:
        u: A function on a grid or a cloud, channels last.
        weights: The quadrature weight of each point; equal ones if None.
        scale: $\gamma$, shape `(channels,)`; 1 if None.
        bias: $\beta$, shape `(channels,)`; 0 if None.
        eps: $\epsilon$.

    Returns:
        The normalised function, of the shape of `u`; means are taken in float32 at
        least.

    Raises:
        ValueError: If shapes do not fit.
    """
    where = "instance_norm"
    given = [a for a in (u, weights, scale, bias) if a is not None]
    dtype = float_dtype(*given)
    wide = at_least_float32(dtype)
    h = jnp.asarray(u, wide)
    for name, array in (("scale", scale), ("bias", bias)):
        if array is not None:
            check_shape(where, name, array, jnp.shape(u)[-1:])
    if weights is not None:
        check_shape(where, "weights", weights, jnp.shape(u)[:-1])
        weights = jnp.asarray(weights, wide)
    shape = (1,) * (h.ndim - 1) + (-1,)
    h = h - domain_mean(h, weights).reshape(shape)
    h = h * jax.lax.rsqrt(domain_mean(h**2, weights) + eps).reshape(shape)
    if scale is not None:
        h = h * jnp.asarray(scale, wide).reshape(shape)
    if bias is not None:
        h = h + jnp.asarray(bias, wide).reshape(shape)
    return h.astype(dtype)


def fourier_positions(
    x: Float[Array, "*space dims"],
    num_frequencies: int,
    *,
    boundary: str = "periodic",
    lengths: float | Sequence[float] | None = None,
) -> Float[Array, "*space features"]:
    r"""Encodes coordinates by sines and cosines of them.

    $$\sin(2 \pi m x_i / P_i), \quad \cos(2 \pi m x_i / P_i), \qquad m = 1, \dots, M$$

    with the period $P_i = L_i$ of a periodic domain, or $2 L_i$ where the two ends
    differ. A function of where a point is, and not of its index: the same at every
    resolution.

    Args:
        x: Coordinates, as `grid_points` gives them, shape `(*space, dims)`.
        num_frequencies: $M$.
        boundary: Whether the domain is periodic, as in `grid_points`.
        lengths: $L_i$, the length of the domain along each axis; 1 if None.

    Returns:
        The encodings, shape `(*space, 2 * dims * num_frequencies)`: all sines, then all
        cosines, coordinates first.

    Raises:
        ValueError: If an option is not as above.
        TypeError: If `num_frequencies` is not an int.

    Examples:
        >>> fourier_positions(jnp.zeros((5, 2)), 3).shape
        (5, 12)
    """
    where = "fourier_positions"
    check_positive(where, num_frequencies=num_frequencies)
    check_option(where, "boundary", boundary, BOUNDARIES)
    if jnp.ndim(x) < 1:
        check_rank(where, "x", x, 1, "(*space, dims)")
    lengths = all_lengths(where, lengths, x.shape[-1])
    dtype = float_dtype(x)
    wide = jnp.asarray(x, at_least_float32(dtype))
    periods = jnp.asarray(lengths, wide.dtype)
    periods = periods if boundary == "periodic" else 2 * periods
    m = jnp.arange(1, num_frequencies + 1, dtype=wide.dtype)
    shape = (1,) * (wide.ndim - 1)
    turns = (wide / periods.reshape(*shape, -1))[..., None] * m.reshape(*shape, 1, -1)
    angles = 2 * jnp.pi * turns.reshape(*wide.shape[:-1], -1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).astype(dtype)
