r"""Convolutional KAN layers in one to three dimensions.

Source: A. D. Bodner et al., "Convolutional Kolmogorov-Arnold Networks",
arXiv:2406.13155, section 3.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_option, check_positive
from .._params import params, static
from ._kan_layer import (
    KANLayerParams,
    features,
    kan_layer_init,
    residual as residual_of,
)

PADDINGS = ("SAME", "VALID")


@params
class KANConvParams:
    """A KAN layer of the entries of a window.

    The inputs of the layer are the window's positions, the last space axis the fastest
    but for the channels: `(*kernel_size, in_channels)` flattened.
    """

    layer: KANLayerParams
    kernel_size: tuple[int, ...] = static()


def kan_conv_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    *,
    basis: str = "bspline",
    num_intervals: int = 5,
    degree: int = 3,
    domain: tuple[float, float] = (-1, 1),
    residual: str | None = "silu",
    init: str = "default",
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> KANConvParams:
    """Draws the parameters of a convolutional layer.

    Args:
        key: A random key.
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        kernel_size: The window's size along each of one to three space axes.
        basis: As in `kan_layer_init`, like all further options.
        num_intervals: The number of intervals (or functions) of the basis.
        degree: The degree of the basis.
        domain: Where the basis lives.
        residual: The function that a multiple of is added.
        init: The scheme of initial values; the number of inputs is that of a window.
        bias: Whether there is a bias.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `kan_conv_apply`.

    Raises:
        ValueError: If a size is below 1, `kernel_size` has not one to three entries,
            or an option is refused by `kan_layer_init`.
        TypeError: If a size is not an int.

    Examples:
        >>> params = kan_conv_init(jax.random.key(0), 3, 8, (3, 3))
        >>> params.layer.coefficients.shape
        (8, 27, 8)
    """
    where = "kan_conv_init"
    kernel_size = tuple(kernel_size)
    if len(kernel_size) not in (1, 2, 3):
        raise ValueError(
            f"{where}: `kernel_size` must have one to three entries, got {kernel_size}."
        )
    sizes = {f"kernel_size[{i}]": n for i, n in enumerate(kernel_size)}
    check_positive(where, in_channels=in_channels, out_channels=out_channels, **sizes)
    layer = kan_layer_init(
        key,
        math.prod(kernel_size) * in_channels,
        out_channels,
        basis=basis,
        num_intervals=num_intervals,
        degree=degree,
        domain=domain,
        residual=residual,
        init=init,
        bias=bias,
        dtype=dtype,
    )
    return KANConvParams(layer=layer, kernel_size=kernel_size)


def kan_conv_apply(
    params: KANConvParams,
    x: Float[Array, "*space in_channels"],
    *,
    stride: int | Sequence[int] = 1,
    padding: str = "SAME",
    dilation: int | Sequence[int] = 1,
    remat: bool = False,
) -> Float[Array, "*out_space out_channels"]:
    r"""Applies a KAN layer to every window of one example.

    $$y_{p,o} = \beta_o + \sum_{q,i} \phi_{q,i,o}(x_{p+q,\,i})$$

    The basis is evaluated once at each entry of `x`, and one convolution of these
    features sums over the window. Positions beyond the edge add nothing (they are not
    zeros at which $\phi$ is evaluated).

    Args:
        params: Parameters from `kan_conv_init`.
        x: One example, channels last.
        stride: Steps between windows, for each space axis or for all.
        padding: `"SAME"` (as many windows as positions, with stride 1) or `"VALID"`
            (windows inside only).
        dilation: Steps between the positions of a window.
        remat: Whether the backward pass evaluates the basis again, to save memory.

    Returns:
        The output, channels last, in the promoted dtype of `x` and `params`.

    Raises:
        ValueError: If `x` has the wrong rank or number of channels, or an option is
            out of its range.
        TypeError: If a stride or dilation is not an int.

    Examples:
        >>> params = kan_conv_init(jax.random.key(0), 3, 8, (3, 3))
        >>> kan_conv_apply(params, jnp.ones((10, 12, 3)), stride=2).shape
        (5, 6, 8)
    """
    where = "kan_conv_apply"
    rank = len(params.kernel_size)
    in_channels = params.layer.coefficients.shape[1] // math.prod(params.kernel_size)
    shape = jnp.shape(x)
    if len(shape) != rank + 1 or shape[-1] != in_channels:
        raise ValueError(
            f"{where}: `x` must have {rank} space axes and {in_channels} channels (one "
            f"example; use jax.vmap for a batch), got shape {shape}."
        )
    check_option(where, "padding", padding, PADDINGS)
    stride = _for_each_axis(where, "stride", stride, rank)
    dilation = _for_each_axis(where, "dilation", dilation, rank)
    x = jnp.asarray(x, jnp.result_type(x, *jax.tree.leaves(params)))

    def apply(params: KANConvParams, x: Array) -> Array:
        layer = params.layer
        inputs, kernels = features(layer, x), layer.coefficients
        if layer.residual is not None:
            inputs = [*inputs, residual_of(layer, x)]
            kernels = jnp.concatenate([kernels, layer.residual[None]])
        out_channels = kernels.shape[-1]
        kernels = kernels.reshape(-1, *params.kernel_size, in_channels, out_channels)
        kernel = jnp.moveaxis(kernels, 0, -3).reshape(
            *params.kernel_size, -1, out_channels
        )
        space = "DHW"[3 - rank :]
        y = jax.lax.conv_general_dilated(
            jnp.concatenate(inputs, -1)[None],
            kernel,
            stride,
            padding,
            rhs_dilation=dilation,
            dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        )[0]
        if layer.bias is None:
            return y
        return y + jnp.broadcast_to(layer.bias, y.shape)

    return (jax.checkpoint(apply) if remat else apply)(params, x)


def _for_each_axis(
    where: str, name: str, value: int | Sequence[int], rank: int
) -> tuple[int, ...]:
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank:
        raise ValueError(
            f"{where}: `{name}` must be an int or {rank} of them, got {value}."
        )
    check_positive(where, **{f"{name}[{i}]": v for i, v in enumerate(values)})
    return values
