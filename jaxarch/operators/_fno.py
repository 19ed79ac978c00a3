r"""Fourier neural operators: blocks of a spectral convolution, skips and a channel MLP.

Z. Li, N. Kovachki, K. Azizzadenesheli, B. Liu, K. Bhattacharya, A. Stuart,
A. Anandkumar, "Fourier Neural Operator for Parametric Partial Differential Equations",
arXiv:2010.08895; the blocks are those of `neuralop.models.FNO`, neuraloperator 2.0.0,
with its defaults.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_option, check_positive
from .._params import params, static
from ..layers import MLPParams
from ._fan_in import fan_in_uniform
from ._gelu import gelu
from ._sampling import BOUNDARIES, check_function, grid_points
from ._spectral_conv import (
    SpectralConvParams,
    check_modes,
    check_padding,
    spectral_conv_apply,
    spectral_conv_init,
)


@params
class FNOParams:
    """Parameters of a Fourier neural operator.

    The parts of its `num_layers` equal blocks are stacked along the first axis.
    """

    lifting: MLPParams  # (in [+ d], 2 width, width)
    convs: SpectralConvParams
    skips: Array  # (num_layers, width, width), (out, in)
    mlps: MLPParams  # (width, width / 2, width)
    gates: Array  # (num_layers, width)
    projection: MLPParams  # (width, 2 width, out)
    positions: bool = static()
    padding: float = static()
    boundary: str = static()


def fno_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    num_modes: Sequence[int],
    *,
    width: int = 32,
    num_layers: int = 4,
    positions: bool = True,
    padding: float = 0.0,
    boundary: str = "periodic",
    dtype: DTypeLike = jnp.float32,
) -> FNOParams:
    r"""Draws the parameters of a Fourier neural operator.

    Spectral convolutions are those of `spectral_conv_init`, gates are 1, and the other
    weights and biases uniform within $1 / \sqrt{n_{in}}$, as in neuralop.

    Args:
        key: A random key.
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        num_modes: The number of frequencies along each of one to three axes of space,
            as in `spectral_conv_init`.
        width: The number of channels of the blocks. Lifting and projection have twice
            as many inside, the MLPs of the blocks half as many.
        num_layers: The number of blocks.
        positions: Whether coordinates in the domain, from 0 to 1 along each axis, are
            further channels of the input.
        padding: The share of the domain by which the period of the Fourier modes is
            longer on either side: for functions that are not periodic. See
            `spectral_conv_apply`.
        boundary: Where a grid has its points. `"periodic"`: at $j / n$. `"dirichlet"`
            or `"neumann"`: at $j / (n - 1)$, ends included.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `fno_apply`.

    Raises:
        ValueError: If a number or option is not as above.
        TypeError: If a number of channels, modes or layers is not an int.

    Examples:
        >>> params = fno_init(jax.random.key(0), 1, 1, (8, 8), width=16)
        >>> jax.jit(fno_apply)(params, jnp.ones((32, 32, 1))).shape
        (32, 32, 1)
    """
    where = "fno_init"
    check_positive(
        where,
        in_channels=in_channels,
        out_channels=out_channels,
        width=width,
        num_layers=num_layers,
    )
    check_modes(where, num_modes)
    check_option(where, "boundary", boundary, BOUNDARIES)
    check_padding(where, padding)
    check_float_dtype(where, dtype)

    def uniform(key: PRNGKeyArray, fan_in: int, *shape: int) -> Array:
        return fan_in_uniform(key, shape, fan_in, dtype)

    def mlp(key: PRNGKeyArray, n_in: int, hidden: int, n_out: int) -> MLPParams:
        keys = jax.random.split(key, 4)
        return MLPParams(
            weights=(
                uniform(keys[0], n_in, hidden, n_in),
                uniform(keys[1], hidden, n_out, hidden),
            ),
            biases=(
                uniform(keys[2], n_in, hidden),
                uniform(keys[3], hidden, n_out),
            ),
        )

    def block(key: PRNGKeyArray) -> tuple[SpectralConvParams, Array, MLPParams]:
        conv_key, skip_key, mlp_key = jax.random.split(key, 3)
        return (
            spectral_conv_init(conv_key, width, width, num_modes, dtype=dtype),
            uniform(skip_key, width, width, width),
            mlp(mlp_key, width, max(1, width // 2), width),
        )

    lifting_key, block_key, projection_key = jax.random.split(key, 3)
    convs, skips, mlps = jax.vmap(block)(jax.random.split(block_key, num_layers))
    features = in_channels + len(num_modes) * positions
    return FNOParams(
        lifting=mlp(lifting_key, features, 2 * width, width),
        convs=convs,
        skips=skips,
        mlps=mlps,
        gates=jnp.ones((num_layers, width), dtype),
        projection=mlp(projection_key, width, 2 * width, out_channels),
        positions=positions,
        padding=padding,
        boundary=boundary,
    )


def fno_apply(
    params: FNOParams,
    u: Float[Array, "*space in_channels"],
    *,
    activation: Callable[[Array], Array] = gelu,
) -> Float[Array, "*space out_channels"]:
    r"""Applies a Fourier neural operator to a function on a grid of any size.

    $$h_0 = P(u, x), \qquad
        h' = \sigma(K_l h_{l-1} + W_l h_{l-1}), \qquad
        h_l = \sigma(M_l(h') + g_l \odot h_{l-1}), \qquad v = Q(h_L)$$

    with spectral convolutions $K_l$, matrices $W_l$, gates $g_l$, and networks $P$,
    $M_l$ and $Q$ of two layers that act on the channels of each point. The last block
    has no $\sigma$ of its own.

    Args:
        params: Parameters from `fno_init` or `fno_from_torch`.
        u: One function on a grid, shape `(*space, in_channels)`.
        activation: $\sigma$, also that of $P$, $M_l$ and $Q$.

    Returns:
        The output on the same grid, shape `(*space, out_channels)`, in the promoted
        dtype of `u` and `params`.

    Raises:
        ValueError: If `u` has another number of axes or channels than `params`.
    """
    num_axes = params.convs.real.ndim - 3
    features = params.lifting.weights[0].shape[-1]
    check_function("fno_apply", u, num_axes, features - num_axes * params.positions)
    dtype = jnp.result_type(u, *jax.tree.leaves(params))
    h = jnp.asarray(u, dtype)
    if params.positions:
        x = grid_points(h.shape[:-1], boundary=params.boundary, dtype=dtype)
        h = jnp.concatenate([h, x], -1)
    pointwise = functools.partial(_pointwise, activation)
    convolve = functools.partial(
        spectral_conv_apply, boundary=params.boundary, padding=params.padding
    )

    def block(h: Array, parts: tuple, activation: Callable = activation) -> tuple:
        conv, skip, mlp, gate = parts
        new = activation(convolve(conv, h) + h @ skip.T)
        gate = jnp.expand_dims(gate, range(num_axes))
        return activation(pointwise(mlp, new) + gate * h), None

    h = pointwise(params.lifting, h)
    blocks = params.convs, params.skips, params.mlps, params.gates
    h, _ = jax.lax.scan(block, h, jax.tree.map(lambda a: a[:-1], blocks))
    last = jax.tree.map(lambda a: a[-1], blocks)
    h, _ = block(h, last, activation=lambda h: h)
    return pointwise(params.projection, h)


def fno_from_torch(
    state_dict: Mapping[str, ArrayLike],
    *,
    positions: bool = True,
    padding: float = 0.0,
) -> FNOParams:
    """Makes parameters from the weights of a `neuralop.models.FNO`.

    The model may have any channels, modes and layers, and else the defaults of
    neuraloperator 2.0.0: dense weights for real data, linear skips, channel MLPs with
    soft gates, no normalisation.

    Args:
        state_dict: The arrays by their names, such as `model.state_dict()` with its
            tensors on the CPU; NumPy arrays do as well.
        positions: Whether the model has `positional_embedding="grid"`, the default.
        padding: Its `domain_padding`.

    Returns:
        Parameters for `fno_apply`, with the dtypes of the weights.

    Raises:
        ValueError: If a weight is missing, or is not one of such a model.

    Examples:
        >>> params = fno_from_torch(model.state_dict())  # doctest: +SKIP
    """
    found = {
        name: np.asarray(value)
        for name, value in state_dict.items()
        if not name.startswith("_")
    }

    def take(name: str) -> np.ndarray:
        if name not in found:
            raise ValueError(
                f"fno_from_torch: `state_dict` must have a weight {name!r}, got "
                f"{sorted(state_dict)}."
            )
        return found.pop(name)

    def mlp(name: str) -> MLPParams:
        parts = {
            part: tuple(jnp.asarray(take(f"{name}.fcs.{i}.{part}")) for i in (0, 1))
            for part in ("weight", "bias")
        }
        return MLPParams(
            weights=tuple(w[..., 0] for w in parts["weight"]), biases=parts["bias"]
        )

    def block(i: int) -> tuple:
        weight = jnp.moveaxis(
            jnp.asarray(take(f"fno_blocks.convs.{i}.weight.tensor")), (0, 1), (-2, -1)
        )
        conv = SpectralConvParams(
            real=weight.real,
            imag=weight.imag,
            bias=jnp.asarray(take(f"fno_blocks.convs.{i}.bias").reshape(-1)),
        )
        skip = jnp.asarray(take(f"fno_blocks.fno_skips.{i}.conv.weight")[..., 0])
        gate = jnp.asarray(take(f"fno_blocks.channel_mlp_skips.{i}.weight").reshape(-1))
        return conv, skip, mlp(f"fno_blocks.channel_mlp.{i}"), gate

    num_layers = sum(
        name.startswith("fno_blocks.convs.") and name.endswith("weight.tensor")
        for name in found
    )
    blocks = [block(i) for i in range(max(num_layers, 1))]
    convs, skips, mlps, gates = jax.tree.map(lambda *a: jnp.stack(a), *blocks)
    params = FNOParams(
        lifting=mlp("lifting"),
        convs=convs,
        skips=skips,
        mlps=mlps,
        gates=gates,
        projection=mlp("projection"),
        positions=positions,
        padding=padding,
        boundary="periodic",
    )
    if found:
        raise ValueError(
            "fno_from_torch: `state_dict` must have the weights of a model with "
            f"neuralop's defaults, got {sorted(found)} besides."
        )
    return params


def _pointwise(activation: Callable[[Array], Array], mlp: MLPParams, h: Array) -> Array:
    """Applies a network of two layers to the channels of each point.

    One matrix product a layer, for `vmap` over points takes twice the time.
    """
    points = h.reshape(-1, h.shape[-1])
    (w1, w2), (b1, b2) = mlp.weights, mlp.biases
    assert b1 is not None
    assert b2 is not None
    out = activation(points @ w1.T + b1[None]) @ w2.T + b2[None]
    return out.reshape(*h.shape[:-1], -1)
