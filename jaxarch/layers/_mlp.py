"""A plain fully connected network: the sub-network that other primitives default to.

Initial weights: K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers:
Surpassing Human-Level Performance on ImageNet Classification", arXiv:1502.01852,
section 2.2, equation (10).
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_positive, check_shape
from .._dtypes import at_least_float32
from .._params import params


@params
class MLPParams:
    """Weights and biases of a fully connected network, one entry per run of layers.

    A run is a longest sequence of neighbouring hidden layers of equal shape. A run of
    several layers is one array with a leading layer axis, which `mlp_apply` scans:
    compile time grows with the number of runs, not of layers. A run of one, and the
    output layer, which no activation follows, are plain matrices. So `sizes` may be
    anything, and a deep network of one width has three entries whatever its depth.
    """

    weights: tuple[Array, ...]  # each (out, in), or (num_layers, width, width)
    biases: tuple[Array | None, ...]  # each (out,), or (num_layers, width), or None


def mlp_init(
    key: PRNGKeyArray,
    sizes: Sequence[int],
    *,
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> MLPParams:
    r"""Draws the parameters of a fully connected network.

    $$W_l \sim \mathcal N(0, 2 / n_{l-1}), \qquad b_l = 0$$

    With ReLU this keeps the mean square of the signal through any depth: over draws of
    the parameters, each output has mean square $2 \lVert x \rVert^2 / n_0$. As in the
    paper the first layer has the factor 2 as well, although no ReLU precedes it.

    Args:
        key: A random key.
        sizes: $(n_0, \dots, n_L)$, the number of features of the input, of each hidden
            layer and of the output.
        bias: Whether the layers have biases.
        dtype: The dtype of the parameters. Draws for a 16-bit dtype are made in float32
            and rounded.

    Returns:
        Parameters for `mlp_apply`.

    Raises:
        ValueError: If `sizes` has fewer than two entries or one below 1, or if `dtype`
            is not a real floating dtype.
        TypeError: If an entry of `sizes` is not an int.

    Examples:
        >>> params = mlp_init(jax.random.key(0), (3, 16, 16, 16, 1))
        >>> [weight.shape for weight in params.weights]
        [(16, 3), (2, 16, 16), (1, 16)]
    """
    if len(sizes) < 2:
        raise ValueError(
            "mlp_init: `sizes` must have at least two entries (input and output), "
            f"got {tuple(sizes)}."
        )
    check_positive("mlp_init", **{f"sizes[{i}]": n for i, n in enumerate(sizes)})
    check_float_dtype("mlp_init", dtype)

    def layer(shape: tuple[int, int], key: PRNGKeyArray) -> Array:
        weight = jax.random.normal(key, shape, at_least_float32(dtype))
        return (math.sqrt(2 / shape[1]) * weight).astype(dtype)

    *hidden, output = [(n_out, n_in) for n_in, n_out in itertools.pairwise(sizes)]
    runs = [(shape, len(list(run))) for shape, run in itertools.groupby(hidden)]
    keys = jax.random.split(key, len(sizes) - 1)
    weights = []
    for shape, num_layers in [*runs, (output, 1)]:
        run = jax.vmap(functools.partial(layer, shape))(keys[:num_layers])
        weights.append(run[0] if num_layers == 1 else run)
        keys = keys[num_layers:]
    return MLPParams(
        weights=tuple(weights),
        biases=tuple(jnp.zeros(w.shape[:-1], dtype) if bias else None for w in weights),
    )


def mlp_apply(
    params: MLPParams,
    x: Float[Array, " n_in"],
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> Float[Array, " n_out"]:
    r"""Applies a fully connected network to one example.

    $$h_0 = x, \qquad h_l = \sigma(W_l h_{l-1} + b_l), \qquad y = W_L h_{L-1} + b_L$$

    Args:
        params: Parameters from `mlp_init`.
        x: One example, shape `(n_0,)`.
        activation: $\sigma$, which keeps the shape and the dtype of its argument.

    Returns:
        The output, shape `(n_L,)`, in the promoted dtype of `x` and `params`.

    Raises:
        ValueError: If `x` has another shape than `(n_0,)`.

    Examples:
        >>> params = mlp_init(jax.random.key(0), (3, 16, 16, 16, 1))
        >>> batch = jnp.ones((5, 3))
        >>> jax.vmap(mlp_apply, (None, 0))(params, batch).shape
        (5, 1)
    """
    check_shape("mlp_apply", "x", x, (params.weights[0].shape[-1],))
    # A scan wants the dtype of its result from the start.
    h = jnp.asarray(x, jnp.result_type(x, *jax.tree.leaves(params)))

    def layer(h: Array, weight_and_bias: tuple[Array, Array | None]) -> tuple:
        return activation(_dense(h, *weight_and_bias)), None

    *hidden, output = zip(params.weights, params.biases, strict=True)
    for weight, bias in hidden:
        if weight.ndim == 2:
            h, _ = layer(h, (weight, bias))
        else:
            h, _ = jax.lax.scan(layer, h, (weight, bias))
    return _dense(h, *output)


def _dense(h: Array, weight: Array, bias: Array | None) -> Array:
    out = weight @ h
    return out if bias is None else out + bias
