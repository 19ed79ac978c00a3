r"""Pruning of coupled channels by optimal brain surgery, without training.

Wang et al., "Structurally Prune Anything: Any Architecture, Any Framework, Any Time",
arXiv:2403.18955 (OBSPA), on Hassibi and Stork, "Second order derivatives for network
pruning: Optimal Brain Surgeon", NIPS 1992.

A weight $W$ (inputs $\times$ outputs) that reads the channels of a group maps inputs
$X$ to $X W$. Without the rows $r$ of one channel, the least squared change of $X W$ is
reached by

$$W \leftarrow W - [H^{-1}]_{:r} [H^{-1}]_{rr}^{-1} W_r, \qquad H = X^\top X,$$

and amounts to $\mathrm{tr}\, W_r^\top [H^{-1}]_{rr}^{-1} W_r$. Channels go one by one,
always that of the least sum of this over all the weights that read the group. Groups go
in the order in which they are read, each with the inputs that the pruned ones before it
leave. No paper's code was at hand: the damping and the order are our choice.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import PRNGKeyArray

from ._annotate import Annotation, Group, annotate, find_group
from ._axes import atoms_of, positions
from ._groups import zero_params
from ._prune import Keep, Pruned, choose, masks_of, pruned
from ._walk import Equation, Rules, walk


@dataclasses.dataclass(frozen=True)
class _Weight:
    """A parameter as an operand: which leaf, and the leaf's axis of each dimension."""

    leaf: int
    dims: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Reader:
    """An equation that contracts inputs with a parameter.

    Attributes:
        path: of the equation.
        operand: 0 or 1, the argument that is the parameter.
        leaf: of the parameter.
        contracted: its axes that are summed over, those of a window last.
    """

    path: tuple
    operand: int
    leaf: int
    contracted: tuple[int, ...]


def obspa(
    f: Callable,
    params: Any,
    *example_args: Any,
    keep: Keep,
    data: tuple | None = None,
    key: PRNGKeyArray | None = None,
    draws: int = 64,
    damping: float = 1e-2,
    check: bool = True,
) -> Pruned:
    """Prunes a function and adjusts what reads the pruned channels to their absence.

    Weights that are read as a matrix product or a convolution are adjusted, outside of
    loops and of grouped convolutions; a group that no such weight reads is thinned by
    its `"l2"` importance.

    Args:
        f: `f(params, *args)`; see `prune`.
        params: a pytree of arrays.
        example_args: the other arguments, arrays.
        keep: as for `prune`; the indices kept of a fraction are chosen here.
        data: the arguments of `f` once more, to calibrate on; other shapes are welcome.
            By default they are noise: floats are normal, others as in the example.
        key: for the noise.
        draws: how many times the arguments are drawn.
        damping: what is added to the diagonal of $H$, over its mean.
        check: whether to compare with the old function at the adjusted parameters,
            zeros in the place of what is cut.

    Returns:
        As of `prune`; the parameters kept are not the old ones.

    Raises:
        ValueError: as of `prune`, or neither `data` nor `key` is given.
    """
    if data is None:
        if key is None:
            raise ValueError(
                "obspa: needs `data` to calibrate on, or a `key` to draw it."
            )
        samples = _noise(key, example_args, draws)
    else:
        samples = jax.tree.map(lambda x: jnp.asarray(x)[None], data)
    annotation = annotate(f, params, *example_args)
    kept = choose("obspa", annotation, params, keep, "l2", None, None, False)
    free = _by_count(keep)
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
    dtypes = [x.dtype for x in jax.tree.leaves(params)]
    tree = jax.tree.structure(params)
    jaxpr = jax.make_jaxpr(f)(params, *jax.tree.map(lambda x: x[0], samples))
    num_args = len(jax.tree.leaves(samples))
    readers = _readers(jaxpr, [x.shape for x in leaves], num_args)
    by_group = {name: _readers_of(annotation, name, readers) for name in kept}
    order = sorted(kept, key=lambda n: min((r.path for r in by_group[n]), default=()))
    for name in order:
        group = find_group(annotation, name, "obspa")
        current = tree.unflatten(
            [jnp.asarray(x, d) for x, d in zip(leaves, dtypes, strict=True)]
        )
        matrices = [
            _matrix(r, leaves[r.leaf], annotation, group) for r in by_group[name]
        ]
        inputs = _inputs(jaxpr, by_group[name], current, samples)
        surgeons = [
            _Surgeon.start(w, rows, x, damping)
            for (w, rows), x in zip(matrices, inputs, strict=True)
        ]
        if surgeons:
            chosen = None if free(name) else kept[name]
            kept[name] = _operate(surgeons, group.size, len(kept[name]), chosen)
        for reader, surgeon in zip(by_group[name], surgeons, strict=True):
            leaves[reader.leaf] = _put_back(reader, leaves[reader.leaf], surgeon.weight)
        zeroed = zero_params(
            annotation, masks_of(annotation, {name: kept[name]}), tree.unflatten(leaves)
        )
        leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(zeroed)]
    adjusted = tree.unflatten(
        [jnp.asarray(x, d) for x, d in zip(leaves, dtypes, strict=True)]
    )
    return pruned(annotation, adjusted, kept, example_args if check else None)


def _by_count(keep: Keep) -> Callable[[str], bool]:
    """Tells of which groups only the number of indices was given."""
    if not isinstance(keep, Mapping):
        return lambda name: True
    given = {k.name if isinstance(k, Group) else k: v for k, v in keep.items()}
    return lambda name: name not in given or np.ndim(given[name]) == 0


def _noise(key: PRNGKeyArray, args: tuple, draws: int) -> tuple:
    leaves, tree = jax.tree.flatten(args)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten(
        jax.random.normal(k, (draws, *jnp.shape(x)), jnp.result_type(x))
        if jnp.issubdtype(jnp.result_type(x), jnp.floating)
        else jnp.broadcast_to(x, (draws, *jnp.shape(x)))
        for k, x in zip(keys, leaves, strict=True)
    )


@dataclasses.dataclass
class _Surgeon:
    """The state of one weight while channels are removed."""

    weight: np.ndarray  # (inputs, outputs)
    inverse: np.ndarray  # (inputs, inputs), of what is left
    rows: list[np.ndarray]  # for each channel, its inputs

    @classmethod
    def start(
        cls, weight: np.ndarray, rows: list, inputs: np.ndarray, damping: float
    ) -> "_Surgeon":
        hessian = inputs.T @ inputs
        level = damping * np.trace(hessian) / len(hessian) or 1.0
        return cls(
            weight.copy(), np.linalg.inv(hessian + level * np.eye(len(hessian))), rows
        )

    def costs(self, channels: np.ndarray) -> np.ndarray:
        """The change of the output that the removal of each channel makes."""
        costs = []
        for channel in channels:
            r = self.rows[channel]
            w = self.weight[r]
            costs.append(np.sum(w * np.linalg.solve(self.inverse[np.ix_(r, r)], w)))
        return np.array(costs)

    def remove(self, channel: int) -> None:
        """Takes one channel out and adjusts the others."""
        r = self.rows[channel]
        column = self.inverse[:, r]
        step = np.linalg.solve(self.inverse[np.ix_(r, r)], column.T)
        self.weight -= step.T @ self.weight[r]
        self.inverse -= column @ step
        self.weight[r] = 0
        self.inverse[r] = self.inverse[:, r] = 0
        self.inverse[r, r] = 1


def _operate(
    surgeons: list[_Surgeon], size: int, count: int, chosen: np.ndarray | None
) -> np.ndarray:
    """Removes all but `count` channels; gives those that stay."""
    left = np.arange(size)
    while len(left) > count:
        if chosen is None:
            costs = sum(surgeon.costs(left) for surgeon in surgeons)
            channel = left[np.argmin(costs)]
        else:
            channel = np.setdiff1d(left, chosen)[0]
        for surgeon in surgeons:
            surgeon.remove(channel)
        left = left[left != channel]
    return left


def _readers(jaxpr: Any, shapes: list[tuple], num_args: int) -> list[_Reader]:
    """Finds the contractions of parameters, transposed or converted at most."""
    found = []

    def dot_general(eqn: Equation, *ins: Any) -> list:
        contract, batch = eqn.params["dimension_numbers"]
        for k, weight in enumerate(ins):
            if weight is not None and not batch[k]:
                axes = tuple(weight.dims[i] for i in contract[k])
                found.append(_Reader(eqn.path, k, weight.leaf, axes))
        return [None]

    def convolution(eqn: Equation, _: Any, weight: Any) -> list:
        grouped = eqn.params["feature_group_count"] * eqn.params["batch_group_count"]
        if weight is not None and grouped == 1:
            spec = eqn.params["dimension_numbers"].rhs_spec
            axes = tuple(weight.dims[i] for i in spec[1:])
            found.append(_Reader(eqn.path, 1, weight.leaf, axes))
        return [None]

    def transpose(eqn: Equation, x: Any) -> list:
        if x is None:
            return [None]
        dims = tuple(x.dims[i] for i in eqn.params["permutation"])
        return [_Weight(x.leaf, dims)]

    rules = Rules(
        primitives={
            "conv_general_dilated": convolution,
            "convert_element_type": lambda eqn, x: [x],
            "dot_general": dot_general,
            "transpose": transpose,
        },
        constant=lambda value: None,
        other=lambda eqn, *ins: [None] * len(eqn.out_avals),
    )
    weights = [_Weight(i, tuple(range(len(s)))) for i, s in enumerate(shapes)]
    walk(jaxpr, rules, [*weights, *[None] * num_args])
    return found


def _readers_of(
    annotation: Annotation, name: str, readers: list[_Reader]
) -> list[_Reader]:
    """Picks the readers that sum over a group; a leaf read twice has one adjustment."""
    atom = find_group(annotation, name, "obspa").atom
    picked = {}
    for reader in readers:
        axes = annotation.param_axes[reader.leaf]
        if any(atom in atoms_of(axes[k]) for k in reader.contracted):
            picked.setdefault(reader.leaf, reader)
    return list(picked.values())


def _matrix(
    reader: _Reader, leaf: np.ndarray, annotation: Annotation, group: Group
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Gives a weight as (inputs, outputs), and the inputs of each channel."""
    rest = [k for k in range(leaf.ndim) if k not in reader.contracted]
    moved = leaf.transpose(*reader.contracted, *rest)
    shape = moved.shape[: len(reader.contracted)]
    holds = np.zeros((group.size, *shape), bool)
    for i, k in enumerate(reader.contracted):
        axis = annotation.param_axes[reader.leaf][k]
        for row in positions(axis, group.atom, annotation.sizes):
            here = row == np.arange(group.size)[:, None]
            holds |= here.reshape(
                [group.size] + [-1 if j == i else 1 for j in range(len(shape))]
            )
    holds = holds.reshape(group.size, -1)
    return moved.reshape(holds.shape[1], -1), [np.flatnonzero(row) for row in holds]


def _put_back(reader: _Reader, leaf: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    order = [
        *reader.contracted,
        *(k for k in range(leaf.ndim) if k not in reader.contracted),
    ]
    moved = matrix.reshape([leaf.shape[k] for k in order])
    return moved.transpose(np.argsort(order))


def _inputs(
    jaxpr: Any, readers: list[_Reader], params: Any, data: tuple
) -> list[np.ndarray]:
    """Evaluates the function on each of `data`; what each reader contracts.

    Returns:
        For each reader, shape (rows, inputs).
    """
    seen = {}
    wanted = {reader.path: reader for reader in readers}

    def dot_general(eqn: Equation, *ins: Any) -> list:
        if eqn.path in wanted:
            k = 1 - wanted[eqn.path].operand
            axes = eqn.params["dimension_numbers"][0][k]
            x = jnp.moveaxis(ins[k], axes, range(-len(axes), 0))
            size = int(np.prod([ins[k].shape[i] for i in axes]))
            seen[eqn.path] = x.reshape(-1, size)
        return eqn.bind(*ins)

    def convolution(eqn: Equation, lhs: Any, rhs: Any) -> list:
        if eqn.path in wanted:
            numbers = eqn.params["dimension_numbers"]
            patches = lax.conv_general_dilated_patches(
                lhs,
                [rhs.shape[k] for k in numbers.rhs_spec[2:]],
                eqn.params["window_strides"],
                eqn.params["padding"],
                eqn.params["lhs_dilation"],
                eqn.params["rhs_dilation"],
                dimension_numbers=numbers,
            )
            patches = jnp.moveaxis(patches, numbers.out_spec[1], -1)
            seen[eqn.path] = patches.reshape(-1, patches.shape[-1])
        return eqn.bind(lhs, rhs)

    rules = Rules(
        primitives={"conv_general_dilated": convolution, "dot_general": dot_general},
        constant=lambda value: value,
        other=lambda eqn, *ins: eqn.bind(*ins),
    )

    def evaluate(args: list) -> list:
        walk(jaxpr, rules, [*jax.tree.leaves(params), *args])
        return [seen[reader.path] for reader in readers]

    inputs = jax.vmap(evaluate)(jax.tree.leaves(data))
    return [np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in inputs]
