"""POD-DeepONet: the trunk is a basis of the training outputs.

L. Lu et al., "A comprehensive and fair comparison of two neural operators (with
practical extensions) based on FAIR data", arXiv:2111.05512. A trunk beside the basis is
from DeepXDE, version 1.15.0.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_positive, check_rank, check_shape
from .._dtypes import at_least_float32, float_dtype
from .._params import params
from ..layers import mlp_apply, mlp_init
from ._deeponet import activated_mlp, check_mlp_input, check_sizes, contract


@params
class PODDeepONetParams:
    """Parameters of a branch and, beside the basis, of a trunk and a constant."""

    branch: Any
    trunk: Any  # or None
    bias: Array | None  # (), or None without a trunk


def pod_basis(
    outputs: Float[Array, "samples points"], num_modes: int
) -> tuple[Float[Array, " points"], Float[Array, "points modes"]]:
    r"""Computes the mean of functions and the basis that captures most of the rest.

    With the centred outputs $S - 1 \phi_0^\top = U \Sigma V^\top$ the basis is the
    first columns of $\sqrt n\, V$ for $n$ points, whose mean squares are 1: no basis of
    as many functions leaves a smaller mean square of the training outputs. Its columns
    are known up to their signs.

    Args:
        outputs: Functions on the same points, a row each.
        num_modes: $q$, at most the number of functions or points.

    Returns:
        The mean $\phi_0$, shape `(points,)`, and the basis, shape `(points, q)`, for
        `pod_deeponet_apply`.

    Raises:
        ValueError: If `outputs` is no matrix or `num_modes` is out of range.
        TypeError: If `num_modes` is not an int.
    """
    where = "pod_basis"
    check_rank(where, "outputs", outputs, 2, "(samples, points)")
    check_positive(where, num_modes=num_modes)
    if num_modes > min(jnp.shape(outputs)):
        raise ValueError(
            f"{where}: `num_modes` must be at most {min(jnp.shape(outputs))}, got "
            f"{num_modes}."
        )
    dtype = float_dtype(outputs)
    wide = jnp.asarray(outputs, at_least_float32(dtype))
    mean = wide.mean(0)
    _, _, modes = jnp.linalg.svd(wide - mean[None], full_matrices=False)
    basis = modes[:num_modes].T * wide.shape[1] ** 0.5
    return mean.astype(dtype), basis.astype(dtype)


def pod_deeponet_init(
    key: PRNGKeyArray,
    branch_sizes: Sequence[int],
    trunk_sizes: Sequence[int] | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
) -> PODDeepONetParams:
    """Draws the parameters of a POD-DeepONet of `mlp`s, as `mlp_init` does.

    Args:
        key: A random key.
        branch_sizes: Features of the branch from the number of sensors to the number
            of modes of the basis, plus the features of the trunk if there is one.
        trunk_sizes: Features of the trunk from the dimension of a point; None for the
            basis alone.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `pod_deeponet_apply`.

    Raises:
        ValueError: If sizes are below 1 or fewer than two, or the branch has no more
            features than the trunk.
        TypeError: If a size is not an int.
    """
    where = "pod_deeponet_init"
    check_sizes(where, branch_sizes=branch_sizes)
    check_float_dtype(where, dtype)
    branch_key, trunk_key = jax.random.split(key)
    branch = mlp_init(branch_key, branch_sizes, dtype=dtype)
    if trunk_sizes is None:
        return PODDeepONetParams(branch=branch, trunk=None, bias=None)
    check_sizes(where, trunk_sizes=trunk_sizes)
    if branch_sizes[-1] <= trunk_sizes[-1]:
        raise ValueError(
            f"{where}: `branch_sizes` must end in more than the trunk's "
            f"{trunk_sizes[-1]} features, got {branch_sizes[-1]}."
        )
    return PODDeepONetParams(
        branch=branch,
        trunk=mlp_init(trunk_key, trunk_sizes, dtype=dtype),
        bias=jnp.zeros((), dtype),
    )


def pod_deeponet_apply(
    params: PODDeepONetParams,
    basis: Float[Array, "points modes"],
    u: Any,
    *,
    y: Float[Array, "points dim"] | None = None,
    mean: Float[Array, " points"] | None = None,
    branch: Callable[[Any, Any], Array] | None = None,
    trunk: Callable[[Any, Array], Array] | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> Float[Array, " points"]:
    r"""Evaluates the image of one function at the points of the basis.

    $$G(u)(y_i) = \phi_0(y_i) + \sum_{k=1}^q b_k(u) \, \phi_k(y_i)
        \;\Big[ + \sum_{k=1}^r b_{q+k}(u) \, t_k(y_i) + b_0 \Big]$$

    The bracket is there if `params` has a trunk, as in DeepXDE. For other points than
    those of the training outputs, interpolate basis and mean.

    Args:
        params: Parameters from `pod_deeponet_init`.
        basis: $\phi_1, \dots, \phi_q$, from `pod_basis`: data, which no optimiser sees.
        u: One function, shape `(num_sensors,)`, or what `branch` takes.
        y: The points, needed by a trunk only.
        mean: $\phi_0$, from `pod_basis`; 0 if None.
        branch: As in `deeponet_apply`.
        trunk: As in `deeponet_apply`.
        activation: As in `deeponet_apply`.

    Returns:
        The values, shape `(points,)`.

    Raises:
        ValueError: If shapes do not fit, or `y` is missing.
        TypeError: If parameters are not those of an `mlp` and their function is not
            given.
    """
    where = "pod_deeponet_apply"
    check_rank(where, "basis", basis, 2, "(points, modes)")
    if branch is None:
        check_mlp_input(where, "branch", params.branch, "u", u)
        branch = functools.partial(mlp_apply, activation=activation)
    features = basis
    if params.trunk is not None:
        if y is None:
            raise ValueError(f"{where}: `y` must be given to a trunk, got None.")
        check_rank(where, "y", y, 2, "(points, dim)")
        check_shape(where, "y", y, (basis.shape[0], y.shape[1]))
        if trunk is None:
            check_mlp_input(where, "trunk", params.trunk, "y", y, 1)
            trunk = activated_mlp(activation)
        t = jax.vmap(trunk, (None, 0))(params.trunk, y)
        features = jnp.concatenate([basis, t], -1)
    b = branch(params.branch, u).reshape(-1)
    if b.size != features.shape[1]:
        raise ValueError(
            f"{where}: `basis` and the trunk must have {b.size} features together, as "
            f"the branch has, got {features.shape[1]}."
        )
    values = contract("k,pk->p", b, features)
    if params.bias is not None:
        values = values + params.bias
    if mean is not None:
        check_shape(where, "mean", mean, values.shape)
        values = values + mean
    return values
