r"""Stencils on grids: smoothing, restriction and prolongation with boundaries.

A stencil of $k$ taps along an axis reaches from $-\lfloor (k-1)/2 \rfloor$ to
$\lfloor k/2 \rfloor$ around its centre. What it finds outside the grid, the boundary
says:

| boundary | the first and last points are | outside | |
| --- | --- | --- | --- |
| `"dirichlet"` | the first and last interior ones | `0` | $u = 0$ a step further |
| `"neumann"` | on the boundary | `u[-i] = u[i]` | $u' = 0$ there |
| `"reflective"` | amid cells | `u[-i] = u[i-1]` | $u' = 0$ half a step further |
| `"periodic"` | neighbours | `u[-i] = u[n-i]` | |
| `"zeros"` | anywhere | `0` | |

A coarse grid has every second point: those of even index, $\lceil n / 2 \rceil$ of $n$,
but under Dirichlet conditions with odd $n$ those of odd index, $(n - 1) / 2$, so that
the boundary stays where it is.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._dtypes import at_least_float32

BOUNDARIES = ("dirichlet", "neumann", "periodic", "reflective")
_PAD = {"neumann": "reflect", "periodic": "wrap", "reflective": "symmetric"}


def coarse_size(n: int, boundary: str) -> int:
    """The number of points of the next coarser grid."""
    return n // 2 if _odd_points(n, boundary) else -(-n // 2)


def _odd_points(n: int, boundary: str) -> bool:
    return boundary == "dirichlet" and n % 2 == 1


def convolve(
    u: Float[Array, "*space n_in"],
    stencil: Float[Array, "*taps n_in n_out"],
    boundary: str,
) -> Float[Array, "*space n_out"]:
    """Applies a stencil at every point."""
    reach = [((k - 1) // 2, k // 2) for k in stencil.shape[:-2]]
    return _correlate(u, stencil, reach, boundary)


def restrict(
    u: Float[Array, "*space n_in"],
    stencil: Float[Array, "*taps n_in n_out"],
    boundary: str,
) -> Float[Array, "*coarse n_out"]:
    """Applies a stencil at the points of the next coarser grid alone."""
    reach = []
    for n, k in zip(u.shape, stencil.shape[:-2], strict=False):
        first = int(_odd_points(n, boundary))
        last = first + 2 * (coarse_size(n, boundary) - 1)
        reach.append(((k - 1) // 2 - first, last + k // 2 - (n - 1)))
    return _correlate(u, stencil, reach, boundary, stride=2)


def prolong(
    u: Float[Array, "*coarse n_in"],
    stencil: Float[Array, "*taps n_in n_out"],
    shape: tuple[int, ...],
    boundary: str,
    outside: str,
) -> Float[Array, "*space n_out"]:
    r"""Carries a function to the next finer grid, of `shape`.

    $$v_j = \sum_i u_i \, t_{j - x_i}, \qquad x_i \text{ the fine index of point } i$$

    where $i$ runs over all points and, as `outside` (a boundary) says, over those
    beyond. It is computed as a convolution of $u$ for even and for odd $j$ (of each
    axis), each with its half of the taps: the convolution of a function spread over
    every second point multiplies zeros, and its weight gradient was ten times slower.
    """
    halves = []  # along each axis, for both parities: the taps and how far they reach
    for n, coarse, k in zip(shape, u.shape, stencil.shape[:-2], strict=False):
        centre = (k - 1) // 2 - int(_odd_points(n, boundary))
        axis = []
        for parity in (0, 1):
            # Point j = 2 r + parity takes u[r + offset] by tap t.
            taps = [t for t in range(k) if (parity + centre - t) % 2 == 0][::-1]
            offsets = [(parity + centre - t) // 2 for t in taps]
            last = -(-n // 2) - 1 + max(offsets, default=0)
            axis.append((taps, (-min(offsets, default=0), last - (coarse - 1))))
        halves.append(axis)
    parts = []
    for half in itertools.product(*halves):
        every_second = [slice(t[0], None, -2) if t else slice(0) for t, _ in half]
        part = stencil[tuple(every_second)]
        reach = [reach for _, reach in half]
        if 0 in part.shape:  # a stencil of one tap has no odd half
            size = tuple(-(-n // 2) for n in shape)
            parts.append(jnp.zeros((*size, stencil.shape[-1]), u.dtype))
        else:
            parts.append(_correlate(u, part, reach, outside))
    return _interleave(parts, shape)


def _interleave(parts: list[Array], shape: tuple[int, ...]) -> Array:
    """Puts together what was computed for each parity of each axis."""
    for axis in reversed(range(len(shape))):
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [jnp.stack(pair, axis + 1) for pair in pairs]
        parts = [p.reshape(*p.shape[:axis], -1, *p.shape[axis + 2 :]) for p in parts]
    return parts[0][tuple(slice(n) for n in shape)]


def _correlate(
    u: Array,
    stencil: Array,
    reach: list[tuple[int, int]],
    boundary: str,
    *,
    stride: int = 1,
) -> Array:
    """Slides a stencil over a grid that is extended by `reach`, cut where negative."""
    dtype = jnp.result_type(u, stencil)
    inner = [(max(-a, 0), max(-b, 0)) for a, b in reach]
    u = u[tuple(slice(a, n - b) for n, (a, b) in zip(u.shape, inner, strict=False))]
    reach = [(max(a, 0), max(b, 0)) for a, b in reach]
    if boundary in _PAD:
        u, reach = _extend(u, reach, boundary), [(0, 0)] * len(reach)
    wide = at_least_float32(dtype)
    y = _slide(stride, tuple(reach), u.astype(wide), stencil.astype(wide))
    return y.astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _slide(
    stride: int, padding: tuple[tuple[int, int], ...], u: Array, stencil: Array
) -> Array:
    return _convolution(u, stencil, stride, padding, "IO")


@_slide.defjvp
def _slide_jvp(stride, padding, primals, tangents):
    """The derivatives, in a form whose transposes are fast.

    XLA on CPUs makes the fast call of a convolution in a loop (a scan over layers or
    over steps of training) only where the axes are in its favourite order: batch,
    space, channels. The transposes that JAX derives from a convolution in that order
    are in others, and the gradient of a stencil ran forty times slower. So the
    derivatives have those orders here whose transposes have the favourite one.
    """
    (u, stencil), (du, dstencil) = primals, tangents
    by_u = _convolution(du, stencil.swapaxes(-1, -2), stride, padding, "OI")

    @functools.partial(jax.checkpoint, prevent_cse=False)  # keeps u, not another order
    def by_stencil(u, dstencil):
        space = "DHW"[-len(padding) :]
        y = jax.lax.conv_general_dilated(
            jnp.moveaxis(u, -1, 0)[..., None],
            jnp.moveaxis(dstencil, -2, 0),
            window_strides=(stride,) * len(padding),
            padding=padding,
            dimension_numbers=(f"C{space}N", f"I{space}O", f"{space}NC"),
        )
        return y[..., 0, :]

    return _slide(stride, padding, u, stencil), by_u + by_stencil(u, dstencil)


def _convolution(u, stencil, stride, padding, channels):
    space = "DHW"[-len(padding) :]
    y = jax.lax.conv_general_dilated(
        u[None],
        stencil,
        window_strides=(stride,) * len(padding),
        padding=padding,
        dimension_numbers=(f"N{space}C", f"{space}{channels}", f"N{space}C"),
    )
    return y[0]


def _extend(u: Array, reach: list[tuple[int, int]], boundary: str) -> Array:
    """Writes out what lies outside the grid."""
    for axis, (before, after) in enumerate(reach):
        n = u.shape[axis]
        mode: Any = _PAD[boundary]
        inside = np.pad(np.arange(n), (before, after), mode=mode)
        outer = [*inside[:before], None, *inside[before + n :]]
        pieces = [
            u if i is None else jax.lax.slice_in_dim(u, i, i + 1, axis=axis)
            for i in outer
        ]
        u = jnp.concatenate(pieces, axis) if len(pieces) > 1 else u
    return u
