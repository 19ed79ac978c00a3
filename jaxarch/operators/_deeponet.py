"""Deep operator networks: functions of a function and a point.

L. Lu, P. Jin, G. E. Karniadakis, "DeepONet: Learning nonlinear operators for
identifying differential equations based on the universal approximation theorem of
operators", arXiv:1910.03193, section 2. Several outputs: L. Lu et al., "A comprehensive
and fair comparison of two neural operators", arXiv:2111.05512, section 3.1.6.
Conventions are those of DeepXDE, version 1.15.0.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import (
    check_float_dtype,
    check_option,
    check_positive,
    check_rank,
    check_shape,
)
from .._dtypes import at_least_float32
from .._params import params, static
from ..layers import MLPParams, mlp_apply, mlp_init

STRATEGIES = ("independent", "split_both", "split_branch", "split_trunk")


@params
class DeepONetParams:
    """Parameters of a branch, a trunk and the constants that are added.

    `branch` and `trunk` are the parameters of any functions. With `stacked` the branch
    has a leading axis, a network of its own for each coefficient; independent outputs
    have a leading axis of outputs before that, in branch and trunk.
    """

    branch: Any
    trunk: Any
    bias: Array  # (), or (outputs,)
    multi_output: str | None = static()
    stacked: bool = static()


def deeponet_init(
    key: PRNGKeyArray,
    branch_sizes: Sequence[int],
    trunk_sizes: Sequence[int],
    *,
    num_outputs: int | None = None,
    multi_output: str = "split_both",
    stacked: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> DeepONetParams:
    r"""Draws the parameters of a DeepONet whose branch and trunk are `mlp`s.

    Weights are those of `mlp_init` (He's; the authors' code has Glorot's), biases 0.
    For other networks fill `DeepONetParams` with their parameters.

    Args:
        key: A random key.
        branch_sizes: Features of the branch from the number of sensors to $p$.
        trunk_sizes: Features of the trunk from the dimension of a point to $p$.
        num_outputs: $n$, the number of outputs; None for one output without an axis.
        multi_output: How several outputs come about: `"independent"` networks;
            `"split_both"`, the last layers of branch and trunk cut into $n$ equal parts
            in order; `"split_branch"`, the branch cut and the trunk shared, so that the
            branch ends in $n$ times the features of the trunk; `"split_trunk"`, the
            other way round.
        stacked: Whether each of the $p$ coefficients has a branch of its own, with
            sizes `(*branch_sizes[:-1], 1)`, as in the paper's stacked networks.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `deeponet_apply`.

    Raises:
        ValueError: If sizes are below 1, fewer than two or do not fit together, or an
            option is unknown.
        TypeError: If a size is not an int.

    Examples:
        >>> params = deeponet_init(jax.random.key(0), (100, 40, 40), (1, 40, 40))
        >>> u, y = jnp.ones((5, 100)), jnp.ones((7, 1))
        >>> jax.vmap(deeponet_apply, (None, 0, None))(params, u, y).shape
        (5, 7)
    """
    where = "deeponet_init"
    check_option(where, "multi_output", multi_output, STRATEGIES)
    check_float_dtype(where, dtype)
    n = 1 if num_outputs is None else num_outputs
    check_positive(where, num_outputs=n)
    check_sizes(where, branch_sizes=branch_sizes, trunk_sizes=trunk_sizes)
    strategy = None if num_outputs is None else multi_output
    check_features(where, strategy, n, branch_sizes[-1], trunk_sizes[-1])

    def networks(key: PRNGKeyArray) -> tuple[MLPParams, MLPParams]:
        branch_key, trunk_key = jax.random.split(key)
        trunk = mlp_init(trunk_key, trunk_sizes, dtype=dtype)
        if not stacked:
            return mlp_init(branch_key, branch_sizes, dtype=dtype), trunk
        *hidden, p = branch_sizes
        one = functools.partial(mlp_init, sizes=(*hidden, 1), dtype=dtype)
        return jax.vmap(one)(jax.random.split(branch_key, p)), trunk

    if strategy == "independent":
        branch, trunk = jax.vmap(networks)(jax.random.split(key, n))
    else:
        branch, trunk = networks(key)
    return DeepONetParams(
        branch=branch,
        trunk=trunk,
        bias=jnp.zeros(() if num_outputs is None else (n,), dtype),
        multi_output=strategy,
        stacked=stacked,
    )


def deeponet_apply(
    params: DeepONetParams,
    u: Any,
    y: Float[Array, "points dim"],
    *,
    branch: Callable[[Any, Any], Array] | None = None,
    trunk: Callable[[Any, Array], Array] | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
    output_transform: Callable[[Any, Array, Array], Array] | None = None,
) -> Float[Array, " points *outputs"]:
    r"""Evaluates the image of one function at many points.

    $$G(u)(y) = \sum_{k=1}^p b_k(u) \, t_k(y) + b_0$$

    The branch is evaluated once, the trunk once a point. Data are *aligned* if all
    functions share their points, and batches are then `vmap` with axes
    `(None, 0, None)`; otherwise each function has its own points, one or more,
    and the axes are `(None, 0, 0)`.

    Args:
        params: Parameters from `deeponet_init`, or any others in `DeepONetParams`.
        u: One function, shape `(num_sensors,)`, or what `branch` takes.
        y: The points where the image is wanted.
        branch: `branch(params.branch, u)` gives the coefficients $b$, flat. `mlp_apply`
            by default, whose last layer has no activation. With `stacked` parameters it
            is one of the networks, and gives one number, in an axis or not.
        trunk: `trunk(params.trunk, point)` gives the features $t$ of one point, flat.
            By default `mlp_apply` followed by the activation.
        activation: $\sigma$ of the default networks.
        output_transform: `output_transform(u, y, values)` gives the final values, such
            as `lambda u, y, s: y[:, 0] * s` for a solution that is 0 at 0: boundary
            conditions that hold exactly.

    Returns:
        The values, shape `(points,)`, or `(points, outputs)` for several outputs.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If parameters are not those of an `mlp` and their function is not
            given.
    """
    where = "deeponet_apply"
    check_rank(where, "y", y, 2, "(points, dim)")
    if branch is None:
        check_mlp_input(where, "branch", params.branch, "u", u)
        branch = functools.partial(mlp_apply, activation=activation)
    if trunk is None:
        check_mlp_input(where, "trunk", params.trunk, "y", y, 1)
        trunk = activated_mlp(activation)
    branches = jax.vmap(branch, (0, None)) if params.stacked else branch
    trunks = jax.vmap(trunk, (None, 0))
    n, strategy = params.bias.size, params.multi_output
    if strategy == "independent":
        branches = jax.vmap(branches, (0, None))
        trunks = jax.vmap(trunks, (0, None), out_axes=1)

    b = branches(params.branch, u)
    b = b.reshape((n, -1) if strategy == "independent" else -1)
    t = trunks(params.trunk, y)
    check_features(where, strategy, n, b.shape[-1], t.shape[-1])
    if strategy in ("split_both", "split_branch"):
        b = b.reshape(n, -1)
    if strategy in ("split_both", "split_trunk"):
        t = t.reshape(len(y), n, -1)
    of_b = "k" if b.ndim == 1 else "ok"
    of_t = "pk" if t.ndim == 2 else "pok"
    if strategy is None:
        values = contract("k,pk->p", b, t) + params.bias
    else:
        values = contract(f"{of_b},{of_t}->po", b, t) + params.bias[None]
    return values if output_transform is None else output_transform(u, y, values)


def contract(indices: str, *arrays: Array) -> Array:
    """`einsum` that sums in float32 at least and gives the promoted dtype."""
    dtype = jnp.result_type(*arrays)
    wide = at_least_float32(dtype)
    return jnp.einsum(indices, *arrays, preferred_element_type=wide).astype(dtype)


def activated_mlp(
    activation: Callable[[Array], Array],
) -> Callable[[Any, Array], Array]:
    """An `mlp` whose last layer is activated too."""

    def apply(params: Any, y: Array) -> Array:
        return activation(mlp_apply(params, y, activation=activation))

    return apply


def check_mlp_input(
    where: str, name: str, network: Any, argument: str, x: Array, num_axes: int = 0
) -> None:
    """Checks what the default network `params.name` is applied to, `num_axes` times."""
    if not isinstance(network, MLPParams):
        raise TypeError(
            f"{where}: `{name}` must be given, a function of the parameters "
            f"`params.{name}`, which are not MLPParams but {type(network).__name__}."
        )
    in_features = network.weights[0].shape[-1]
    check_shape(where, argument, x, (*jnp.shape(x)[:num_axes], in_features))


def check_sizes(where: str, **networks: Sequence[int]) -> None:
    """Checks the sizes of default networks."""
    for name, sizes in networks.items():
        if len(sizes) < 2:
            raise ValueError(
                f"{where}: `{name}` must have at least two entries, got {tuple(sizes)}."
            )
        check_positive(where, **{f"{name}[{i}]": s for i, s in enumerate(sizes)})


def check_features(
    where: str, strategy: str | None, num_outputs: int, of_branch: int, of_trunk: int
) -> None:
    """Checks the features of branch and trunk against the strategy."""
    n = num_outputs
    fits, wanted = {
        "split_both": (
            of_branch == of_trunk and of_branch % n == 0,
            f"as many features, a multiple of {n}",
        ),
        "split_branch": (of_branch == n * of_trunk, f"{n} to 1 features"),
        "split_trunk": (of_trunk == n * of_branch, f"1 to {n} features"),
    }.get(strategy or "", (of_branch == of_trunk, "as many features"))
    if not fits:
        raise ValueError(
            f"{where}: branch and trunk must end in {wanted}, got {of_branch} and "
            f"{of_trunk}."
        )
