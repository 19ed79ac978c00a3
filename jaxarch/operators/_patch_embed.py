r"""Patches of a fixed physical size: tokens of a function, whatever its sampling.

J. Berner et al., "Principled Approaches for Extending Neural Architectures to Function
Spaces for Operator Learning", arXiv:2506.10973, section 4 (vision transformers). A
patch of pixels shrinks with the grid; here a token is made of moments over a part of
the domain, so that its weights act on functions and the number of tokens stays.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_positive
from .._dtypes import at_least_float32, float_dtype
from .._params import params, static
from ._sampling import all_lengths, check_function, cubic, per_axis, spacings


@params
class PatchEmbedParams:
    """Weights of $K$ moments along each axis of a patch."""

    weight: Array  # (*num_basis, in, out)
    bias: Array  # (out,)
    patch_size: tuple[float, ...] = static()


@params
class PatchExpandParams:
    """Weights of the $K$ polynomials along each axis that a token is expanded in."""

    weight: Array  # (*num_basis, in, out)
    bias: Array  # (out,)
    patch_size: tuple[float, ...] = static()


def patch_embed_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    *,
    patch_size: float | Sequence[float],
    num_dims: int = 2,
    num_basis: int = 4,
    dtype: DTypeLike = jnp.float32,
) -> PatchEmbedParams:
    r"""Draws a linear map from the moments of a patch to a token.

    $$W \sim \mathcal N(0, 1 / (n_{in} K^d)), \qquad b = 0$$

    Args:
        key: A random key.
        in_channels: $n_{in}$, the number of channels of the function.
        out_channels: The number of features of a token.
        patch_size: The size of a patch in the units of the domain; one number, or one
            for each axis.
        num_dims: $d$, the number of dimensions of space.
        num_basis: $K$, the number of moments along each axis, in the place of pixels.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `patch_embed_apply`.

    Raises:
        ValueError: If a number is not as above.
        TypeError: If a number that counts is not an int.
    """
    sizes = {"in_channels": in_channels, "out_channels": out_channels}
    weight, bias, size = _init(
        "patch_embed_init", key, sizes, patch_size, num_dims, num_basis, dtype
    )
    return PatchEmbedParams(weight=weight, bias=bias, patch_size=size)


def patch_embed_apply(
    params: PatchEmbedParams,
    u: Float[Array, "*space n_in"],
    *,
    boundary: str = "periodic",
    lengths: float | Sequence[float] | None = None,
) -> Float[Array, "*patches n_out"]:
    r"""Makes a token of each patch of a function.

    $$t_p = b + \sum_m W_m \frac{1}{|p|} \int_p P_m(x) \, u(x) \, dx$$

    with products $P_m$ of Legendre polynomials, scaled to mean square 1 on the patch.
    The integrals are exact for the local cubic interpolant of the samples (`resample`):
    edges of patches need not be points of the grid, and the error is of fourth order.

    Args:
        params: Parameters from `patch_embed_init`.
        u: A function on a grid, shape `(*space, n_in)`.
        boundary: Whether the grid is periodic, as in `grid_points`.
        lengths: The length of the domain along each axis; 1 if None. The size of a
            patch divides it.

    Returns:
        The tokens, shape `(*patches, n_out)`, as many at every resolution.

    Raises:
        ValueError: If shapes or options do not fit, or patches do not tile the domain.

    Examples:
        >>> params = patch_embed_init(jax.random.key(0), 1, 16, patch_size=0.25)
        >>> patch_embed_apply(params, jnp.ones((32, 32, 1))).shape
        (4, 4, 16)
    """
    where = "patch_embed_apply"
    *num_basis, in_channels, _ = params.weight.shape
    num_dims = len(num_basis)
    check_function(where, u, num_dims, in_channels)
    spacings(where, u.shape[:-1], boundary, lengths)
    patches = _num_patches(where, params.patch_size, lengths)
    dtype = float_dtype(u, params.weight, params.bias)
    h = jnp.asarray(u, at_least_float32(dtype))
    for n, p, k in zip(u.shape[:-1], patches, num_basis, strict=True):
        matrix = jnp.asarray(_moments(n, p, k, boundary), h.dtype)
        h = jnp.tensordot(h, matrix, axes=(0, 2))  # gives (patches, moments) at the end
    moments = [2 + 2 * i for i in range(num_dims)]
    weight = jnp.asarray(params.weight, h.dtype)
    out = jnp.tensordot(h, weight, axes=([*moments, 0], [*range(num_dims + 1)]))
    out = out + jnp.asarray(params.bias, h.dtype).reshape(*[1] * num_dims, -1)
    return out.astype(dtype)


def patch_expand_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    *,
    patch_size: float | Sequence[float],
    num_dims: int = 2,
    num_basis: int = 4,
    dtype: DTypeLike = jnp.float32,
) -> PatchExpandParams:
    r"""Draws a linear map from a token to the coefficients of a patch.

    $$W \sim \mathcal N(0, 1 / (n_{in} K^d)), \qquad b = 0$$

    so that values have the size of those of a dense layer.

    Args:
        key: A random key.
        in_channels: $n_{in}$, the number of features of a token.
        out_channels: The number of channels of the function.
        patch_size: As in `patch_embed_init`.
        num_dims: $d$, the number of dimensions of space.
        num_basis: $K$, the number of polynomials along each axis.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `patch_expand_apply`.

    Raises:
        ValueError: As `patch_embed_init`.
        TypeError: As `patch_embed_init`.
    """
    sizes = {"in_channels": in_channels, "out_channels": out_channels}
    weight, bias, size = _init(
        "patch_expand_init", key, sizes, patch_size, num_dims, num_basis, dtype
    )
    return PatchExpandParams(weight=weight, bias=bias, patch_size=size)


def patch_expand_apply(
    params: PatchExpandParams,
    tokens: Float[Array, "*patches n_in"],
    *,
    shape: Sequence[int],
    boundary: str = "periodic",
    lengths: float | Sequence[float] | None = None,
) -> Float[Array, "*space n_out"]:
    r"""Makes a function on any grid of the tokens of its patches.

    $$v(x) = b + \sum_m P_m(x) \, W_m t_{p(x)}$$

    with the polynomials of `patch_embed_apply`: a function whose values at a point do
    not depend on the grid. As that of a vision transformer, it jumps at the edges of
    patches, where the patch on the right counts; a local integral or a skip connection
    after it smooths.

    Args:
        params: Parameters from `patch_expand_init`.
        tokens: A token for each patch, shape `(*patches, n_in)`.
        shape: The number of points of the grid along each axis.
        boundary: Whether the grid is periodic, as in `grid_points`.
        lengths: As in `patch_embed_apply`.

    Returns:
        The function, shape `(*shape, n_out)`.

    Raises:
        ValueError: If shapes or options do not fit, or patches do not tile the domain.

    Examples:
        >>> params = patch_expand_init(jax.random.key(0), 16, 1, patch_size=0.25)
        >>> patch_expand_apply(params, jnp.ones((4, 4, 16)), shape=(8, 8)).shape
        (8, 8, 1)
    """
    where = "patch_expand_apply"
    *num_basis, in_channels, _ = params.weight.shape
    num_dims = len(num_basis)
    patches = _num_patches(where, params.patch_size, lengths)
    if jnp.shape(tokens) != (*patches, in_channels):
        raise ValueError(
            f"{where}: `tokens` must have shape {(*patches, in_channels)} (one "
            f"example; use jax.vmap for a batch), got {jnp.shape(tokens)}."
        )
    if len(shape) != num_dims:
        raise ValueError(
            f"{where}: `shape` must have {num_dims} entries, got {tuple(shape)}."
        )
    spacings(where, shape, boundary, lengths)
    dtype = float_dtype(tokens, params.weight, params.bias)
    wide = at_least_float32(dtype)
    t, weight = jnp.asarray(tokens, wide), jnp.asarray(params.weight, wide)
    h = jnp.tensordot(t, weight, axes=(num_dims, num_dims))  # (*patches, *basis, out)
    for i, (n, p, k) in enumerate(zip(shape, patches, num_basis, strict=True)):
        # The first axis of patches and the first of polynomials become one of points.
        matrix = jnp.asarray(_polynomials(n, p, k, boundary), wide)
        h = jnp.tensordot(h, matrix, axes=([0, num_dims - i], [1, 2]))
    h = jnp.moveaxis(h, 0, -1)
    bias = jnp.asarray(params.bias, wide)
    return (h + bias.reshape(*[1] * num_dims, -1)).astype(dtype)


def _init(
    where: str,
    key: PRNGKeyArray,
    sizes: dict[str, int],
    patch_size: float | Sequence[float],
    num_dims: int,
    num_basis: int,
    dtype: DTypeLike,
) -> tuple[Array, Array, tuple[float, ...]]:
    check_positive(where, **sizes, num_dims=num_dims, num_basis=num_basis)
    check_float_dtype(where, dtype)
    if num_dims > 3:
        raise ValueError(f"{where}: `num_dims` must be at most 3, got {num_dims}.")
    size = per_axis(where, "patch_size", patch_size, num_dims)
    shape = (*[num_basis] * num_dims, *sizes.values())
    weight = jax.random.normal(key, shape, at_least_float32(dtype))
    weight = (weight / math.sqrt(math.prod(shape[:-1]))).astype(dtype)
    return weight, jnp.zeros(shape[-1:], dtype), size


def _num_patches(
    where: str, patch_size: tuple[float, ...], lengths: float | Sequence[float] | None
) -> tuple[int, ...]:
    lengths = all_lengths(where, lengths, len(patch_size))
    counts = [x / p for x, p in zip(lengths, patch_size, strict=True)]
    if any(round(c) < 1 or abs(c - round(c)) > 1e-6 * c for c in counts):
        raise ValueError(
            f"{where}: `lengths` must be multiples of the size of a patch "
            f"{patch_size}, got {lengths}."
        )
    return tuple(round(c) for c in counts)


def _legendre(s: np.ndarray, num_basis: int) -> np.ndarray:
    """Legendre polynomials on [0, 1] with mean square 1, `(*s.shape, num_basis)`."""
    degrees = np.arange(num_basis)
    return np.polynomial.legendre.legvander(2 * s - 1, num_basis - 1) * np.sqrt(
        2 * degrees + 1
    )


@functools.lru_cache(maxsize=64)
def _moments(n: int, patches: int, num_basis: int, boundary: str) -> np.ndarray:
    """Row (p, m): the weights of the samples in moment m of patch p of [0, 1]."""
    cells = n if boundary == "periodic" else n - 1
    edges = np.concatenate([np.arange(cells + 1) / cells, np.arange(patches) / patches])
    edges = np.unique(np.round(edges, 12))
    # On each interval the interpolant is a cubic: these nodes integrate it exactly.
    nodes, weights = np.polynomial.legendre.leggauss(num_basis // 2 + 2)
    gaps = np.diff(edges)[:, None]
    x = (edges[:-1, None] + gaps * (nodes + 1) / 2).reshape(-1)
    w = (gaps * weights / 2).reshape(-1)
    place = x * patches
    patch = np.floor(place).astype(int)
    basis = _legendre(place - patch, num_basis) * (w * patches)[:, None]
    rows = np.zeros((patches, num_basis, n))
    values = cubic(x, n, boundary)
    for p in range(patches):
        rows[p] = basis[patch == p].T @ values[patch == p]
    return rows


@functools.lru_cache(maxsize=64)
def _polynomials(n: int, patches: int, num_basis: int, boundary: str) -> np.ndarray:
    """Entry (i, p, m): polynomial m of patch p at point i of [0, 1], 0 elsewhere."""
    x = np.arange(n) / (n if boundary == "periodic" else n - 1) * patches
    patch = np.clip(np.floor(x + 1e-9).astype(int), 0, patches - 1)
    entries = np.zeros((n, patches, num_basis))
    entries[np.arange(n), patch] = _legendre(x - patch, num_basis)
    return entries
