r"""MgNO: a neural operator whose linear operators are multigrid V-cycles.

Source: J. He, X. Liu, J. Xu, "MgNO: Efficient Parameterization of Linear Operators via
Multigrid", arXiv:2310.19809, sections 3 and 4.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_positive
from .._params import params
from ._fan_in import fan_in_uniform
from ._gelu import gelu
from ._multigrid import (
    LEVELS,
    MultigridLevelParams,
    MultigridParams,
    SmootherParams,
    multigrid_apply,
    multigrid_init,
)


@params
class MgNOLayerParams:
    """One layer of MgNO; with a leading layer axis on every array, several."""

    multigrid: MultigridParams
    weight: Array  # (in_channels, width)
    bias: Array  # (width,), or (*points, width): values on a lattice


@params
class MgNOParams:
    """Parameters of MgNO: the first layer, equal ones after it, and the read-out."""

    first: MgNOLayerParams
    others: MgNOLayerParams | None  # a leading axis of num_layers - 1; None if it is 1
    projection: Array  # (width, out_channels)


def mgno_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    *,
    width: int = 24,
    num_layers: int = 4,
    num_dims: int = 2,
    levels: Sequence[tuple[int, int]] = LEVELS,
    kernel_size: int = 3,
    prolong_size: int | Sequence[int] = 4,
    restricts: str = "data",
    boundary: str = "dirichlet",
    boundary_up: str = "same",
    bias_points: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> MgNOParams:
    r"""Draws the parameters of an MgNO.

    Stencils as in `multigrid_init`; matrices and constant biases uniform on
    $\pm 1 / \sqrt{\text{inputs}}$, as in the authors' code; bias functions zero.

    Args:
        key: A random key.
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        width: The number of channels $C$ of each layer.
        num_layers: The number of layers.
        num_dims: The number of space axes, one to three.
        levels: Smoothing steps of each grid, down and up; see `multigrid_init`. The
            default is the paper's for Darcy flow, on 64 to 512 points a side.
        kernel_size: Taps along an axis of a stencil.
        prolong_size: Taps along an axis of a prolongation.
        restricts: `"data"` or `"residual"`; see `multigrid_init`.
        boundary: See `multigrid_apply`.
        boundary_up: See `multigrid_init`.
        bias_points: If None, the bias of a layer is a constant, as in the authors'
            code. Otherwise it is a function, as in the paper: the multilinear one with
            learned values on a lattice of `bias_points` points along each axis, from
            the first point of the grid to the last, whatever the size of the grid.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `mgno_apply`.

    Raises:
        ValueError: If a size is below 1, or `multigrid_init` refuses an option.
        TypeError: If a size is not an int.

    Examples:
        >>> params = jax.eval_shape(lambda key: mgno_init(key, 1, 1), jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        572661
    """
    check_positive("mgno_init", out_channels=out_channels, width=width)
    check_positive("mgno_init", num_layers=num_layers)
    if bias_points is not None:
        check_positive("mgno_init", bias_points=bias_points)

    def layer(n_in: int, key: PRNGKeyArray) -> MgNOLayerParams:
        multigrid, weight, bias = jax.random.split(key, 3)
        if bias_points is None:
            values = fan_in_uniform(bias, (width,), n_in, dtype)
        else:
            values = jnp.zeros((*(bias_points,) * num_dims, width), dtype)
        return MgNOLayerParams(
            multigrid=multigrid_init(
                multigrid,
                n_in,
                width,
                num_dims=num_dims,
                levels=levels,
                kernel_size=kernel_size,
                prolong_size=prolong_size,
                restricts=restricts,
                boundary=boundary,
                boundary_up=boundary_up,
                dtype=dtype,
            ),
            weight=fan_in_uniform(weight, (n_in, width), n_in, dtype),
            bias=values,
        )

    first, others, projection = jax.random.split(key, 3)
    keys = jax.random.split(others, num_layers - 1)
    return MgNOParams(
        first=layer(in_channels, first),
        others=jax.vmap(functools.partial(layer, width))(keys) if len(keys) else None,
        projection=fan_in_uniform(projection, (width, out_channels), width, dtype),
    )


def mgno_apply(
    params: MgNOParams,
    u: Float[Array, "*space in_channels"],
    *,
    activation: Callable[[Array], Array] = gelu,
) -> Float[Array, "*space out_channels"]:
    r"""Applies MgNO to one grid function.

    $$u \leftarrow \sigma(\mathcal W_\mathrm{Mg} u + W u + b) \text{ for each layer},
      \qquad y = P u$$

    with a V-cycle $\mathcal W_\mathrm{Mg}$ (`multigrid_apply`). The grid may have any
    size that the levels allow, but stencils are in units of points: trained at one
    spacing, a network is another operator at half of it. The authors' code fixes the
    size of the grid.

    Args:
        params: Parameters from `mgno_init`.
        u: The input function, shape `(*space, in_channels)`.
        activation: $\sigma$; by default the exact GELU.

    Returns:
        The output function, shape `(*space, out_channels)`.

    Raises:
        ValueError: If `multigrid_apply` refuses the shape of `u`.

    Examples:
        >>> params = mgno_init(jax.random.key(0), 1, 1, boundary="periodic")
        >>> batched = jax.vmap(mgno_apply, (None, 0))
        >>> jax.eval_shape(batched, params, jnp.ones((2, 64, 64, 1))).shape
        (2, 64, 64, 1)
    """
    u = jnp.asarray(u, jnp.result_type(u, *jax.tree.leaves(params)))

    def layer(u: Array, p: MgNOLayerParams) -> tuple[Array, None]:
        linear = multigrid_apply(p.multigrid, u) + u @ p.weight
        return activation(linear + _bias(p.bias, u.shape[:-1])), None

    u, _ = layer(u, params.first)
    if params.others is not None:
        # Unrolled by four: a stack of weights that is sliced inside the loop of GELU
        # keeps XLA from vectors there.
        u, _ = jax.lax.scan(layer, u, params.others, unroll=4)
    return u @ params.projection


def _bias(values: Array, grid: tuple[int, ...]) -> Array:
    """A constant, or the multilinear function with these values, on the grid."""
    if values.ndim == 1:
        return values.reshape(*(1,) * len(grid), -1)
    for axis in range(values.ndim - 1):
        values = _interpolate(values, grid[axis], axis)
    return values


def _interpolate(values: Array, n: int, axis: int) -> Array:
    m = values.shape[axis]
    x = jnp.linspace(0, m - 1, n, dtype=values.dtype)[:, None]
    hats = jnp.maximum(0, 1 - jnp.abs(x - jnp.arange(m, dtype=values.dtype)))
    return jnp.moveaxis(jnp.tensordot(hats, values, (1, axis)), 0, axis)


def mgno_from_torch(
    state_dict: Mapping[str, ArrayLike],
    *,
    boundary: str = "dirichlet",
    restricts: str = "data",
) -> MgNOParams:
    """Makes the parameters of an MgNO that the authors' PyTorch code trained.

    For the classes `MgNO_DC` and `MgNO_DC_smooth` of their repository. What their
    normaliser does to the output is left to the caller.

    Args:
        state_dict: The arrays by PyTorch's names: `model.state_dict()`, each converted
            with `.numpy()`.
        boundary: Their `padding_mode`: `"dirichlet"` for `"zeros"`, `"neumann"` for
            `"reflect"`, `"periodic"` for `"circular"`, `"reflective"` for
            `"replicate"`.
        restricts: `"data"`, or `"residual"` for their `use_res=True`.

    Returns:
        Parameters for `mgno_apply`, with `boundary_up="zero"`; their grid is
        `(height, width)`, and channels come last here.

    Raises:
        KeyError: If an array is missing.
    """

    def stencil(name: str, *, spreads: bool = False) -> Array:
        # PyTorch has (out, in, *taps), and (in, out, *taps) for transposed ones.
        a = jnp.asarray(state_dict[name + ".weight"])
        a = a if spreads else a.swapaxes(0, 1)
        return jnp.moveaxis(a, (0, 1), (-2, -1))

    def count(prefix: str) -> int:
        """How many modules there are of a list of modules."""
        found = [n.removeprefix(prefix) for n in state_dict if n.startswith(prefix)]
        return 1 + max((int(n.split(".")[0]) for n in found), default=-1)

    def smoother(name: str) -> SmootherParams:
        first = name + ".A.weight" not in state_dict
        return SmootherParams(
            smooth=stencil(name + ".S"),
            operator=None if first else stencil(name + ".A"),
        )

    def multigrid(name: str) -> MultigridParams:
        num_levels = 1
        while f"{name}layer{num_levels}.0.Pi.weight" in state_dict:
            num_levels += 1
        levels = []
        for j in range(num_levels):
            own, coarser = f"{name}layer{j}.", f"{name}layer{j + 1}.0"
            up = f"{name}post_smooth_layer{j}."
            coarsest = j == num_levels - 1
            level = MultigridLevelParams(
                # The first module of a coarser grid is the restriction to it.
                pre=tuple(smoother(f"{own}{i}") for i in range(j > 0, count(own))),
                # Their code makes the last steps of the coarsest grid and skips them.
                post=tuple(
                    smoother(f"{up}{i}") for i in range(0 if coarsest else count(up))
                ),
                operator=stencil(coarser + ".A")
                if restricts == "residual" and not coarsest
                else None,
                restrict_data=None if coarsest else stencil(coarser + ".R"),
                restrict_solution=None if coarsest else stencil(coarser + ".Pi"),
                prolong=None
                if coarsest
                else stencil(f"{name}RTlayers.{j}", spreads=True),
            )
            levels.append(level)
        return MultigridParams(
            levels=tuple(levels), boundary=boundary, boundary_up="zero"
        )

    layers = [
        MgNOLayerParams(
            multigrid=multigrid(f"conv_list.{i}."),
            weight=stencil(f"linear_list.{i}")[0, 0],
            bias=jnp.asarray(state_dict[f"linear_list.{i}.bias"]),
        )
        for i in range(count("linear_list."))
    ]
    first, *others = layers
    return MgNOParams(
        first=first,
        others=jax.tree.map(lambda *a: jnp.stack(a), *others) if others else None,
        projection=stencil("linear")[0, 0],
    )
