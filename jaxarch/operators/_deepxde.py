"""Parameters of DeepXDE's operator networks, version 1.15.0 with PyTorch, as ours."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import check_option
from ..layers import MLPParams
from ._deeponet import DeepONetParams, check_features
from ._mionet import MERGES, MIONetParams
from ._pod_deeponet import PODDeepONetParams

_LAYER = re.compile(r"(.*)\.linears\.(\d+)\.(weight|bias)")


def deeponet_from_torch(state_dict: Mapping[str, Any]) -> DeepONetParams:
    """Reads `deepxde.nn.DeepONet` and `DeepONetCartesianProd`.

    Both have the same parameters; the strategy for several outputs follows from their
    names and shapes. Give `deeponet_apply` the activation of the network, which is not
    among them.

    Args:
        state_dict: `net.state_dict()`, tensors or arrays by their names, of fully
            connected branches and trunks.

    Returns:
        Parameters for `deeponet_apply`.

    Raises:
        ValueError: If a name is missing or not known, or the shapes fit no strategy.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> state = {"b.0": np.zeros(())}
        >>> for net, sizes in {"branch": (9, 6, 4), "trunk": (1, 6, 4)}.items():
        ...     for i in (0, 1):
        ...         shape = sizes[i + 1], sizes[i]
        ...         state[f"{net}.linears.{i}.weight"] = rng.normal(size=shape)
        ...         state[f"{net}.linears.{i}.bias"] = np.zeros(shape[0])
        >>> params = deeponet_from_torch(state)
        >>> params.trunk.weights[0].shape
        (6, 1)
    """
    where = "deeponet_from_torch"
    networks, rest = _networks(where, state_dict)
    n = max(len(rest), 1)
    biases = _take(where, rest, ["b"] if "b" in rest else [f"b.{i}" for i in range(n)])
    if n > 1 and "branch.0" in networks:
        strategy = "independent"
        branches, trunks = (
            _take(where, networks, [f"{name}.{i}" for i in range(n)])
            for name in ("branch", "trunk")
        )
        branch, trunk = (
            jax.tree.map(lambda *a: jnp.stack(a), *many) for many in (branches, trunks)
        )
    else:
        branch, trunk = _take(where, networks, ["branch", "trunk"])
        p, q = (net.weights[-1].shape[0] for net in (branch, trunk))
        split = "split_branch" if p > q else "split_trunk" if p < q else "split_both"
        strategy = split if n > 1 else None
        check_features(where, strategy, n, p, q)
    _refuse(where, rest, networks)
    return DeepONetParams(
        branch=branch,
        trunk=trunk,
        bias=jnp.stack(biases) if n > 1 else biases[0],
        multi_output=strategy,
        stacked=False,
    )


def pod_deeponet_from_torch(state_dict: Mapping[str, Any]) -> PODDeepONetParams:
    """Reads `deepxde.nn.PODDeepONet`, whose basis is not in its `state_dict`.

    Args:
        state_dict: `net.state_dict()`, as for `deeponet_from_torch`.

    Returns:
        Parameters for `pod_deeponet_apply`.

    Raises:
        ValueError: If a name is missing or not known.
    """
    where = "pod_deeponet_from_torch"
    networks, rest = _networks(where, state_dict)
    (branch,) = _take(where, networks, ["branch"])
    trunk = bias = None
    if networks or rest:
        (trunk,), (bias,) = _take(where, networks, ["trunk"]), _take(where, rest, ["b"])
    _refuse(where, rest, networks)
    return PODDeepONetParams(branch=branch, trunk=trunk, bias=bias)


def mionet_from_torch(
    state_dict: Mapping[str, Any],
    *,
    merge: str = "mul",
    output_merge: str = "mul",
    activate_trunk: bool = False,
) -> MIONetParams:
    """Reads `deepxde.nn.MIONetCartesianProd`.

    Args:
        state_dict: `net.state_dict()`, as for `deeponet_from_torch`.
        merge: The network's `merge_operation`.
        output_merge: The network's `output_merge_operation`.
        activate_trunk: The network's `trunk_last_activation`.

    Returns:
        Parameters for `mionet_apply`.

    Raises:
        ValueError: If a name is missing or not known, or an option is unknown.
    """
    where = "mionet_from_torch"
    check_option(where, "merge", merge, MERGES)
    check_option(where, "output_merge", output_merge, MERGES)
    networks, rest = _networks(where, state_dict)
    branch1, branch2, trunk = _take(where, networks, ["branch1", "branch2", "trunk"])
    (bias,) = _take(where, rest, ["b"])
    merger, output_merger = (
        networks.pop(name, None) for name in ("merger", "output_merger")
    )
    _refuse(where, rest, networks)
    return MIONetParams(
        branches=(branch1, branch2),
        trunk=trunk,
        merger=merger,
        output_merger=output_merger,
        bias=bias,
        merge=merge,
        output_merge=output_merge,
        activate_trunk=activate_trunk,
    )


def _networks(
    where: str, state_dict: Mapping[str, Any]
) -> tuple[dict[str, MLPParams], dict[str, Array]]:
    """The fully connected networks by their names, and all other arrays."""
    layers, rest = {}, {}
    for name, value in state_dict.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            rest[name] = jnp.asarray(np.asarray(value))
        else:
            network, i, part = match.groups()
            found = layers.setdefault(network, {})
            found[int(i), part] = jnp.asarray(np.asarray(value))
    return {name: _mlp(where, name, found) for name, found in layers.items()}, rest


def _mlp(where: str, name: str, found: dict[tuple[int, str], Array]) -> MLPParams:
    """Stacks the layers of equal shape that follow each other, as `mlp_init`."""
    left = {f"{name}.linears.{i}.{part}": a for (i, part), a in found.items()}
    depth = range((len(found) + 1) // 2)
    weights, biases = (
        _take(where, left, [f"{name}.linears.{i}.{part}" for i in depth])
        for part in ("weight", "bias")
    )
    *hidden, output = zip(weights, biases, strict=True)
    runs = [
        list(run) for _, run in itertools.groupby(hidden, lambda pair: pair[0].shape)
    ]
    stacked = [
        [jnp.stack(a) if len(run) > 1 else a[0] for a in zip(*run, strict=True)]
        for run in [*runs, [output]]
    ]
    weights, biases = zip(*stacked, strict=True)
    return MLPParams(weights=weights, biases=biases)


def _take(where: str, found: dict[str, Any], names: list[str]) -> list[Any]:
    for name in names:
        if name not in found:
            raise ValueError(f"{where}: `state_dict` must have {name!r}.")
    return [found.pop(name) for name in names]


def _refuse(where: str, *left: dict[str, Any]) -> None:
    names = sorted(name for found in left for name in found)
    if names:
        raise ValueError(f"{where}: `state_dict` has {names}, which are not known.")
