r"""Convolutional KAN layers whose channels choose their basis from a pool.

Source: Z. Yang et al., "Activation Space Selectable Kolmogorov-Arnold Networks"
(S-ConvKAN), arXiv:2408.08338. `_selectable_kan.py` says what is ours.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._params import params, static
from ._kan_conv import KANConvParams, kan_conv_apply, kan_conv_init
from ._kan_layer import KANLayerParams
from ._selectable_kan import (
    POOL,
    Pool,
    SelectableKANParams,
    combine,
    draw_pool,
    spread,
)


@params
class SelectableKANConvParams:
    """A layer of the entries of a window, as in `KANConvParams`.

    What acts on the gates takes the layer: the second stage is
    `dataclasses.replace(params, layer=selectable_kan_select(params.layer))`.
    """

    layer: SelectableKANParams
    kernel_size: tuple[int, ...] = static()


def selectable_kan_conv_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    *,
    pool: Pool = POOL,
    num_intervals: int = 5,
    degree: int = 3,
    domain: tuple[float, float] = (-1, 1),
    residual: str | None = "silu",
    init: str = "default",
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> SelectableKANConvParams:
    """Draws the parameters of a convolutional layer in its first stage.

    Args:
        key: A random key.
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output, each of which chooses.
        kernel_size: The window's size along each of one to three space axes.
        pool: As in `selectable_kan_init`.
        num_intervals: As in `kan_layer_init`, like all further options.
        degree: The degree of the bases.
        domain: Where the bases live.
        residual: The function that a multiple of is added.
        init: The scheme of initial values.
        bias: Whether there are biases.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `selectable_kan_conv_apply`.

    Raises:
        ValueError: If `pool` is empty, or an argument is refused by `kan_conv_init`.
        TypeError: If a size is not an int, or `pool` names an unknown option.
    """
    kernel_size = tuple(kernel_size)

    def draw(key: PRNGKeyArray, **options) -> KANLayerParams:
        return kan_conv_init(
            key, in_channels, out_channels, kernel_size, **options
        ).layer

    layers = draw_pool(
        "selectable_kan_conv_init",
        key,
        pool,
        draw,
        num_intervals=num_intervals,
        degree=degree,
        domain=domain,
        residual=residual,
        init=init,
        bias=bias,
        dtype=dtype,
    )
    layer = SelectableKANParams(pool=layers, gates=None, nodes=None)
    return SelectableKANConvParams(layer=layer, kernel_size=kernel_size)


def selectable_kan_conv_apply(
    params: SelectableKANConvParams,
    x: Float[Array, "*space in_channels"],
    *,
    temperature: float = 1.0,
    stride: int | Sequence[int] = 1,
    padding: str = "SAME",
    dilation: int | Sequence[int] = 1,
    remat: bool = False,
) -> Float[Array, "*out_space out_channels"]:
    r"""Applies a layer, in any stage, to every window of one example.

    $$y_{p,o} = \sum_s w_{os}\, y^s_{p,o}$$

    with the layers $y^s$ of `kan_conv_apply` and the weights of
    `selectable_kan_apply`: one choice for each channel, whatever the position.

    Args:
        params: Parameters from `selectable_kan_conv_init`.
        x: One example, channels last.
        temperature: As in `selectable_kan_apply`.
        stride: As in `kan_conv_apply`, like the next two.
        padding: `"SAME"` or `"VALID"`.
        dilation: Steps between the positions of a window.
        remat: Whether the backward pass evaluates the bases again, to save memory.

    Returns:
        The output, channels last, in the promoted dtype of `x` and `params`.

    Raises:
        ValueError: As `kan_conv_apply`.
        TypeError: If a stride or dilation is not an int.

    Examples:
        >>> params = selectable_kan_conv_init(jax.random.key(0), 3, 8, (3, 3))
        >>> selectable_kan_conv_apply(params, jnp.ones((10, 12, 3)), stride=2).shape
        (5, 6, 8)
    """
    outputs = _outputs(
        params, x, stride=stride, padding=padding, dilation=dilation, remat=remat
    )
    return combine(params.layer, outputs, temperature)


def selectable_kan_conv_spread(
    params: SelectableKANConvParams,
    x: Float[Array, "*space in_channels"],
    *,
    temperature: float = 1.0,
    stride: int | Sequence[int] = 1,
    padding: str = "SAME",
    dilation: int | Sequence[int] = 1,
) -> Float[Array, ""]:
    r"""Tells how much the layers of the pool differ: `selectable_kan_spread`.

    $$D(x) = \sum_{p,o} \sum_s w_{os} (y^s_{p,o} - y_{p,o})^2$$

    Args:
        params: Parameters of any stage.
        x: One example, channels last.
        temperature: As in `selectable_kan_apply`.
        stride: As in `kan_conv_apply`, like the next two.
        padding: `"SAME"` or `"VALID"`.
        dilation: Steps between the positions of a window.

    Returns:
        $D(x)$, a scalar; 0 after pruning.

    Raises:
        ValueError: As `kan_conv_apply`.
        TypeError: If a stride or dilation is not an int.
    """
    outputs = _outputs(params, x, stride=stride, padding=padding, dilation=dilation)
    return spread(params.layer, outputs, temperature)


def _outputs(params: SelectableKANConvParams, x: Array, **options) -> list[Array]:
    x = jnp.asarray(x, jnp.result_type(x, *jax.tree.leaves(params)))
    layers = [
        KANConvParams(layer=layer, kernel_size=params.kernel_size)
        for layer in params.layer.pool
    ]
    return [kan_conv_apply(layer, x, **options) for layer in layers]
