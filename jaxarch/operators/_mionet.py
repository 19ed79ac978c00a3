"""MIONet: operators of several functions.

P. Jin, S. Meng, L. Lu, "MIONet: Learning multiple-input operators via tensor product",
arXiv:2202.06137. Merging networks are those of DeepXDE, version 1.15.0.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_option, check_rank
from .._params import params, static
from ..layers import mlp_apply, mlp_init
from ._deeponet import activated_mlp, check_mlp_input, check_sizes, contract

MERGES = ("mul", "add", "cat")


@params
class MIONetParams:
    """Parameters of a branch for each function, of a trunk, and of what merges them."""

    branches: tuple[Any, ...]
    trunk: Any
    merger: Any  # an mlp of the merged branches, or None
    output_merger: Any  # an mlp of branches and trunk merged, or None for their product
    bias: Array  # ()
    merge: str = static()
    output_merge: str = static()
    activate_trunk: bool = static()


def mionet_init(
    key: PRNGKeyArray,
    branch_sizes: Sequence[Sequence[int]],
    trunk_sizes: Sequence[int],
    *,
    merge: str = "mul",
    merger_sizes: Sequence[int] | None = None,
    output_merge: str = "mul",
    output_merger_sizes: Sequence[int] | None = None,
    activate_trunk: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> MIONetParams:
    """Draws the parameters of a MIONet of `mlp`s, as `mlp_init` does.

    Args:
        key: A random key.
        branch_sizes: Features of each branch, from the number of its sensors on.
        trunk_sizes: Features of the trunk, from the dimension of a point on.
        merge: How the branches meet: `"mul"` or `"add"`, coefficient by coefficient, or
            `"cat"`, one after the other.
        merger_sizes: Features of a network of the merged branches; None for none.
        output_merge: How branches and trunk meet in front of an output merger.
        output_merger_sizes: Features of a network of what they give, with one output;
            None for the sum of the products.
        activate_trunk: Whether the last layer of the trunk is activated; in DeepXDE it
            is not, other than in its DeepONet.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `mionet_apply`.

    Raises:
        ValueError: If sizes are below 1, fewer than two or do not fit together, or an
            option is unknown.
        TypeError: If a size is not an int.
    """
    where = "mionet_init"
    check_option(where, "merge", merge, MERGES)
    check_option(where, "output_merge", output_merge, MERGES)
    check_float_dtype(where, dtype)
    names = [f"branch_sizes[{i}]" for i in range(len(branch_sizes))]
    sizes = dict(zip(names, branch_sizes, strict=True)) | {"trunk_sizes": trunk_sizes}
    if merger_sizes is not None:
        sizes["merger_sizes"] = merger_sizes
    if output_merger_sizes is not None:
        sizes["output_merger_sizes"] = output_merger_sizes
    check_sizes(where, **sizes)

    merged = _merged_size(where, "branches", merge, [s[-1] for s in branch_sizes])
    if merger_sizes is not None:
        _check_size(where, "merger_sizes", merged, merger_sizes[0])
        merged = merger_sizes[-1]
    if output_merger_sizes is None:
        _check_size(where, "trunk_sizes", merged, trunk_sizes[-1], end=True)
    else:
        both = [merged, trunk_sizes[-1]]
        both = _merged_size(where, "branches and trunk", output_merge, both)
        _check_size(where, "output_merger_sizes", both, output_merger_sizes[0])
        _check_size(where, "output_merger_sizes", 1, output_merger_sizes[-1], end=True)

    *branch_keys, trunk_key, merger_key, output_key = jax.random.split(
        key, len(branch_sizes) + 3
    )

    def network(key: PRNGKeyArray, sizes: Sequence[int] | None) -> Any:
        return None if sizes is None else mlp_init(key, sizes, dtype=dtype)

    return MIONetParams(
        branches=tuple(map(network, branch_keys, branch_sizes)),
        trunk=network(trunk_key, trunk_sizes),
        merger=network(merger_key, merger_sizes),
        output_merger=network(output_key, output_merger_sizes),
        bias=jnp.zeros((), dtype),
        merge=merge,
        output_merge=output_merge,
        activate_trunk=activate_trunk,
    )


def mionet_apply(
    params: MIONetParams,
    us: Sequence[Any],
    y: Float[Array, "points dim"],
    *,
    branches: Sequence[Callable[[Any, Any], Array] | None] | None = None,
    trunk: Callable[[Any, Array], Array] | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
    output_transform: Callable[[Any, Array, Array], Array] | None = None,
) -> Float[Array, " points"]:
    r"""Evaluates the image of several functions at many points.

    $$G(u_1, \dots, u_n)(y)
        = \sum_{k=1}^p b^1_k(u_1) \cdots b^n_k(u_n) \, t_k(y) + b_0$$

    With `merge="add"` the branches are added in place of multiplied, with `"cat"` they
    follow each other. A merger is a network of the result; an output merger is one of
    the products with the trunk (or their sums, or both in a row), in place of the sum
    over $k$. Aligned and unaligned data differ by the axes of `vmap`, as in
    `deeponet_apply`.

    Args:
        params: Parameters from `mionet_init`.
        us: The functions, each of shape `(num_sensors,)`, or what its branch takes.
        y: The points where the image is wanted.
        branches: A function for each branch, as in `deeponet_apply`, or None where it
            is `mlp_apply`.
        trunk: As in `deeponet_apply`; by default `mlp_apply`, activated if the
            parameters say so.
        activation: $\sigma$ of the default networks and of the mergers.
        output_transform: `output_transform(us, y, values)`, as in `deeponet_apply`.

    Returns:
        The values, shape `(points,)`.

    Raises:
        ValueError: If shapes or numbers of functions do not fit.
        TypeError: If parameters are not those of an `mlp` and their function is not
            given.
    """
    where = "mionet_apply"
    check_rank(where, "y", y, 2, "(points, dim)")
    network = functools.partial(mlp_apply, activation=activation)
    if branches is None:
        branches = [None] * len(params.branches)
    for name, given in (("us", us), ("branches", branches)):
        if len(given) != len(params.branches):
            raise ValueError(
                f"{where}: `{name}` must have {len(params.branches)} entries, one for "
                f"each branch, got {len(given)}."
            )
    if trunk is None:
        check_mlp_input(where, "trunk", params.trunk, "y", y, 1)
        trunk = activated_mlp(activation) if params.activate_trunk else network

    coefficients = []
    for i, (branch, p, u) in enumerate(zip(branches, params.branches, us, strict=True)):
        if branch is None:
            check_mlp_input(where, f"branches[{i}]", p, f"us[{i}]", u)
            branch = network
        coefficients.append(branch(p, u).reshape(-1))
    _merged_size(where, "branches", params.merge, [b.size for b in coefficients])
    b = functools.reduce(functools.partial(_merge, params.merge), coefficients)
    if params.merger is not None:
        b = network(params.merger, b)
    t = jax.vmap(trunk, (None, 0))(params.trunk, y)
    if params.output_merger is None:
        _check_size(where, "trunk", b.size, t.shape[-1], end=True)
        values = contract("k,pk->p", b, t)
    else:
        both = [b.size, t.shape[-1]]
        _merged_size(where, "branches and trunk", params.output_merge, both)

        def merged(t: Array) -> Array:
            return network(params.output_merger, _merge(params.output_merge, b, t))

        values = jax.vmap(merged)(t).reshape(-1)
    values = values + params.bias
    return values if output_transform is None else output_transform(us, y, values)


def _merge(merge: str, a: Array, b: Array) -> Array:
    if merge == "cat":
        return jnp.concatenate([a, b])
    return a * b if merge == "mul" else a + b


def _merged_size(where: str, what: str, merge: str, sizes: Sequence[int]) -> int:
    if merge == "cat":
        return sum(sizes)
    if len(set(sizes)) != 1:
        raise ValueError(
            f"{where}: {what} must end in as many features to be merged by {merge!r}, "
            f"got {tuple(sizes)}."
        )
    return sizes[0]


def _check_size(
    where: str, name: str, wanted: int, got: int, *, end: bool = False
) -> None:
    if got != wanted:
        raise ValueError(
            f"{where}: `{name}` must {'end in' if end else 'start with'} {wanted} "
            f"features, got {got}."
        )
