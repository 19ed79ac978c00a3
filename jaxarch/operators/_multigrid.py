r"""A multigrid V-cycle with learned stencils: a linear operator between grid functions.

Source: J. He, X. Liu, J. Xu, "MgNO: Efficient Parameterization of Linear Operators via
Multigrid", arXiv:2310.19809, section 4, algorithm 1.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    check_float_dtype,
    check_natural,
    check_option,
    check_positive,
)
from .._params import params, static
from ._fan_in import fan_in_uniform
from ._sampling import check_function
from ._stencil import BOUNDARIES, coarse_size, convolve, prolong, restrict


@params
class SmootherParams:
    """A smoothing step of `multigrid_apply`, u + S (f - A u)."""

    smooth: Array  # S: (*taps, data_channels, out_channels)
    operator: Array | None  # A: (*taps, out_channels, data_channels); None where u is 0


@params
class MultigridLevelParams:
    """The stencils of one grid of `multigrid_apply`.

    On the coarsest grid the last four are None. Before it, `operator` is A in the
    residual that is restricted, or None if the data are; `restrict_solution` is None if
    the coarser grid begins from zero.
    """

    pre: tuple[SmootherParams, ...]
    post: tuple[SmootherParams, ...]
    operator: Array | None  # A: (*taps, out_channels, data_channels)
    restrict_data: Array | None  # R: (*taps, data_channels, data_channels)
    restrict_solution: Array | None  # Pi: (*taps, out_channels, out_channels)
    prolong: Array | None  # T: (*taps, out_channels, out_channels)


@params
class MultigridParams:
    """The stencils of a V-cycle, from the finest grid to the coarsest."""

    levels: tuple[MultigridLevelParams, ...]
    boundary: str = static()
    boundary_up: str = static()


LEVELS = ((1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (2, 0))
"""Smoothing steps on the way down and up of each grid: the paper's for Darcy flow."""


def multigrid_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    *,
    num_dims: int = 2,
    levels: Sequence[tuple[int, int]] = LEVELS,
    kernel_size: int = 3,
    prolong_size: int | Sequence[int] = 4,
    restricts: str = "data",
    boundary: str = "dirichlet",
    boundary_up: str = "same",
    dtype: DTypeLike = jnp.float32,
) -> MultigridParams:
    r"""Draws the stencils of a V-cycle.

    Each entry of a stencil is uniform on $\pm 1 / \sqrt{\text{inputs of the stencil}}$,
    as in the authors' code; for $T$, which spreads, the number of its outputs counts.

    Args:
        key: A random key.
        in_channels: The number of channels of the data $f$.
        out_channels: The number of channels of the solution $u$.
        num_dims: The number of space axes, one to three.
        levels: For each grid from the finest, how many smoothing steps there are on
            the way down and on the way up; those of the coarsest all happen there.
        kernel_size: The taps along an axis of $A$, $S$, $R$ and $\Pi$.
        prolong_size: The taps along an axis of $T$: one number, or one for each grid
            but the coarsest. Three taps interpolate linearly from the neighbours.
        restricts: What a coarser grid is given: `"data"`, $R f$, as in the paper's
            Darcy networks, or `"residual"`, $R (f - A u)$, as in a classical solver.
        boundary: What is outside the grid; see `multigrid_apply`.
        boundary_up: `"same"`, or `"zero"` for zeros on the way up and coarse grids of
            the points of even index whatever the boundary, as in the authors' code.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `multigrid_apply`.

    Raises:
        ValueError: If a size is below 1 or an option unknown, if a grid but the
            coarsest has no step on the way down, or if `dtype` is not real floating.
        TypeError: If a size is not an int.

    Examples:
        >>> params = multigrid_init(jax.random.key(0), 1, 8, levels=[(1, 0), (2, 1)])
        >>> multigrid_apply(params, jnp.ones((33, 20, 1))).shape
        (33, 20, 8)
    """
    where = "multigrid_init"
    check_positive(where, in_channels=in_channels, out_channels=out_channels)
    check_positive(where, kernel_size=kernel_size, levels=len(levels))
    check_option(where, "num_dims", num_dims, (1, 2, 3))
    check_option(where, "restricts", restricts, ("data", "residual"))
    check_option(where, "boundary", boundary, BOUNDARIES)
    check_option(where, "boundary_up", boundary_up, ("same", "zero"))
    check_float_dtype(where, dtype)
    for j, (down, up) in enumerate(levels):
        check_natural(where, **{f"levels[{j}][0]": down, f"levels[{j}][1]": up})
    check_positive(where, **{"levels[0][0]": levels[0][0]})
    if isinstance(prolong_size, int):
        prolong_size = (prolong_size,) * (len(levels) - 1)
    sizes = {f"prolong_size[{j}]": k for j, k in enumerate(prolong_size)}
    check_positive(where, **sizes)
    if len(prolong_size) != len(levels) - 1:
        raise ValueError(
            f"{where}: `prolong_size` must be an int or have {len(levels) - 1} entries "
            f"(one for each grid but the coarsest), got {len(prolong_size)}."
        )
    keys = (jax.random.fold_in(key, i) for i in itertools.count())
    f, u = in_channels, out_channels

    def stencil(n_in: int, n_out: int, taps: int = kernel_size) -> Array:
        shape = (*(taps,) * num_dims, n_in, n_out)
        return fan_in_uniform(next(keys), shape, n_in * taps**num_dims, dtype)

    def smoother(first: bool = False) -> SmootherParams:
        operator = None if first else stencil(u, f)
        return SmootherParams(smooth=stencil(f, u), operator=operator)

    grids = []
    for j, (down, up) in enumerate(levels):
        coarsest = j == len(levels) - 1
        residual = restricts == "residual" and not coarsest
        grids.append(
            MultigridLevelParams(
                pre=tuple(smoother(j == i == 0) for i in range(down)),
                post=tuple(smoother() for _ in range(up)),
                operator=stencil(u, f) if residual else None,
                restrict_data=None if coarsest else stencil(f, f),
                restrict_solution=None if coarsest else stencil(u, u),
                prolong=None if coarsest else stencil(u, u, prolong_size[j]),
            )
        )
    return MultigridParams(
        levels=tuple(grids), boundary=boundary, boundary_up=boundary_up
    )


def multigrid_apply(
    params: MultigridParams, f: Float[Array, "*space in_channels"]
) -> Float[Array, "*space out_channels"]:
    r"""Applies a V-cycle to one grid function.

    Down, from the finest grid, where $u = 0$, to the coarsest:

    $$u \leftarrow u + S (f - A u) \text{ (each step its own stencils)}, \qquad
      f_{j+1} = R f \text{ or } R (f - A u), \quad u_{j+1} = \Pi u$$

    and up again, with the data and the solutions of the way down:

    $$u_j \leftarrow u_j + T u_{j+1}, \qquad u_j \leftarrow u_j + S (f_j - A u_j)$$

    It is linear in $f$ (a test holds this to round-off). Time and memory are linear in
    the number of points. The grid may have any size; a stencil is in units of points,
    so the operator does depend on the spacing.

    | `boundary` | the outermost points are | what lies outside |
    | --- | --- | --- |
    | `"dirichlet"` | a step inside of it | zero |
    | `"neumann"` | on it | mirrored, `u[-i] = u[i]` |
    | `"reflective"` | half a step inside of it | mirrored, `u[-i] = u[i-1]` |
    | `"periodic"` | neighbours | `u[-i] = u[n-i]` |

    It holds on each grid and on the way up. Coarse grids have the points of even
    index, $\lceil n / 2 \rceil$ of $n$; under Dirichlet conditions and odd $n$ those of
    odd index, so that grids of $2^k - 1$ interior points are nested within the
    boundary, as those of $2^k + 1$ points are for Neumann and $2^k$ for periodic ones.
    The authors' transposed convolutions always pad with zeros, so their networks keep
    no boundary but zero; `boundary_up="zero"` of `multigrid_init` has this.

    Args:
        params: Parameters from `multigrid_init`.
        f: The data, shape `(*space, in_channels)`.

    Returns:
        The solution, shape `(*space, out_channels)`.

    Raises:
        ValueError: If `f` has another number of axes or channels, or if the grid is too
            small for as many levels.
    """
    _check_grid(params, f)
    dtype = jnp.result_type(f, *jax.tree.leaves(params))
    f, u = f.astype(dtype), None
    boundary = _way_down(params)
    outside = "zeros" if params.boundary_up == "zero" else boundary

    *finer, coarsest = params.levels
    down = []
    for level in finer:
        u = _smooth(level.pre, u, f, boundary)
        down.append((u, f))
        residual = f
        if level.operator is not None:
            residual = f - convolve(u, level.operator, boundary)
        assert level.restrict_data is not None
        f = restrict(residual, level.restrict_data, boundary)
        if level.restrict_solution is None:
            u = None
        else:
            u = restrict(u, level.restrict_solution, boundary)
    u = _smooth(coarsest.pre + coarsest.post, u, f, boundary)
    for level, (u_down, f) in zip(reversed(finer), reversed(down), strict=True):
        assert level.prolong is not None
        grid = u_down.shape[:-1]
        u = u_down + prolong(u, level.prolong, grid, boundary, outside)
        u = _smooth(level.post, u, f, boundary)
    return u


def _smooth(
    steps: tuple[SmootherParams, ...], u: Array | None, f: Array, boundary: str
) -> Array:
    """Takes the steps u <- u + S (f - A u); no `u` is zero."""
    for step in steps:
        if u is None:
            u = convolve(f, step.smooth, boundary)
        else:
            assert step.operator is not None
            residual = f - convolve(u, step.operator, boundary)
            u = u + convolve(residual, step.smooth, boundary)
    assert u is not None
    return u


def _check_grid(params: MultigridParams, f: Array) -> None:
    where, num_levels = "multigrid_apply", len(params.levels)
    first = params.levels[0].pre[0].smooth
    check_function(where, f, first.ndim - 2, first.shape[-2], name="f")
    sizes = f.shape[:-1]
    for _ in range(num_levels - 1):
        sizes = tuple(coarse_size(n, _way_down(params)) for n in sizes)
    if 0 in sizes:
        raise ValueError(
            f"{where}: `f` must have enough points for {num_levels} levels, "
            f"got shape {f.shape}, whose coarsest grid has shape {sizes}."
        )


def _way_down(params: MultigridParams) -> str:
    """The boundary on the way down; zeros say nothing of where coarse points lie."""
    zero = params.boundary_up == "zero" and params.boundary == "dirichlet"
    return "zeros" if zero else params.boundary
