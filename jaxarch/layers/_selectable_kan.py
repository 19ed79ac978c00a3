r"""KAN layers whose nodes choose their basis from a pool.

Source: Z. Yang et al., "Activation Space Selectable Kolmogorov-Arnold Networks"
(S-KAN), arXiv:2408.08338: a pool of bases, weighted for each node, and three stages:
full training, selective training, pruning. Its formula for the weights was not at hand.
What is ours: the softmax over the pool, the entropy and the spread as penalties, and
the choice of the largest weight.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_shape
from .._dtypes import at_least_float32
from .._params import params, static
from ._kan import Grid
from ._kan_layer import KANLayerParams, kan_layer_apply, kan_layer_init

Pool = Sequence[str | Mapping[str, Any]]
POOL = ("bspline", "chebyshev", "fourier", "rbf", "mexican_hat")


@params
class SelectableKANParams:
    r"""A pool of KAN layers, and what each node takes of them.

    The fields tell the stage, so that an optimiser moves what the stage trains:

    | stage | `gates` | `nodes` | node $o$ is |
    | --- | --- | --- | --- |
    | 1, full training | None | None | the mean of the pool |
    | 2, selective training | $a$, trained | None | a weighted mean of the pool |
    | 3, pruned | None | of each layer | a node of one layer |
    """

    pool: tuple[KANLayerParams, ...]
    gates: Array | None  # a, (out, len(pool))
    nodes: tuple[tuple[int, ...], ...] | None = static()  # what each layer computes

    @property
    def in_features(self) -> int:
        """The number of inputs."""
        return self.pool[0].coefficients.shape[1]


def selectable_kan_init(
    key: PRNGKeyArray,
    in_features: int,
    out_features: int,
    *,
    pool: Pool = POOL,
    num_intervals: int = 5,
    degree: int = 3,
    domain: tuple[float, float] = (-1, 1),
    residual: str | None = "silu",
    init: str = "default",
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> SelectableKANParams:
    """Draws the parameters of a layer in its first stage: the whole pool, no gates.

    Args:
        key: A random key.
        in_features: The number of inputs.
        out_features: The number of nodes.
        pool: For each layer of the pool a basis, or a mapping of options of
            `kan_layer_init`, such as `{"basis": "chebyshev", "degree": 8}`, which go
            before the ones below. A basis may occur more than once. The paper's own
            pool was not at hand; the default is ours.
        num_intervals: As in `kan_layer_init`, like all further options.
        degree: The degree of the bases.
        domain: Where the bases live.
        residual: The function that a multiple of is added.
        init: The scheme of initial values.
        bias: Whether there are biases.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `selectable_kan_apply`. Each layer of the pool has a residual
        and a bias of its own.

    Raises:
        ValueError: If `pool` is empty, or an option is refused by `kan_layer_init`.
        TypeError: If a size is not an int, or `pool` names an unknown option.

    Examples:
        >>> params = selectable_kan_init(jax.random.key(0), 2, 4, pool=("rbf", "sine"))
        >>> [layer.basis for layer in params.pool]
        ['rbf', 'sine']
    """
    layers = draw_pool(
        "selectable_kan_init",
        key,
        pool,
        functools.partial(
            kan_layer_init, in_features=in_features, out_features=out_features
        ),
        num_intervals=num_intervals,
        degree=degree,
        domain=domain,
        residual=residual,
        init=init,
        bias=bias,
        dtype=dtype,
    )
    return SelectableKANParams(pool=layers, gates=None, nodes=None)


def selectable_kan_apply(
    params: SelectableKANParams,
    x: Float[Array, " n_in"],
    *,
    temperature: float = 1.0,
    grid: Grid = None,
    remat: bool = False,
) -> Float[Array, " n_out"]:
    r"""Applies a layer, in any stage, to one example.

    $$y_o = \sum_s w_{os}\, y^s_o, \qquad
    y^s_o = \beta^s_o + \sum_i \phi^s_{io}(x_i), \qquad
    w_o = \operatorname{softmax}(a_o / T)$$

    where $s$ runs over the pool; without gates $w_{os} = 1/S$. So each edge is the
    function $\sum_s w_{os} \phi^s_{io}$. The time is that of all layers of the pool.
    After `selectable_kan_prune` each node is $y^s_o$ of one layer, and the time is that
    of the layers' parts.

    Args:
        params: Parameters from `selectable_kan_init`.
        x: One example, shape `(n_in,)`.
        temperature: $T > 0$; it is used in the second stage only.
        grid: One entry for each layer of the pool: the knots of B-splines, or None.
        remat: Whether the backward pass evaluates the bases again, to save memory.

    Returns:
        The output, shape `(n_out,)`, in the promoted dtype of `x` and `params`.

    Raises:
        ValueError: If `x` or a part of `grid` has the wrong shape, or `grid` another
            number of entries than the pool.

    Examples:
        >>> params = selectable_kan_init(jax.random.key(0), 2, 4)
        >>> jax.vmap(selectable_kan_apply, (None, 0))(params, jnp.ones((7, 2))).shape
        (7, 4)
    """
    outputs = _outputs("selectable_kan_apply", params, x, grid, remat)
    return combine(params, outputs, temperature)


def selectable_kan_select(params: SelectableKANParams) -> SelectableKANParams:
    """Goes from full to selective training: adds gates, all 0.

    The function does not change, since gates of 0 weigh the pool evenly. There is one
    array more, so the optimiser's state is to be initialised again.

    Args:
        params: Parameters of the first stage.

    Returns:
        Parameters of the second stage.

    Raises:
        ValueError: If `params` has gates or is pruned.
    """
    if params.gates is not None or params.nodes is not None:
        raise ValueError(
            "selectable_kan_select: `params` must be of the first stage, got "
            + ("pruned ones." if params.gates is None else "gates.")
        )
    coefficients = params.pool[0].coefficients
    gates = jnp.zeros((coefficients.shape[2], len(params.pool)), coefficients.dtype)
    return dataclasses.replace(params, gates=gates)


def selectable_kan_prune(
    params: SelectableKANParams,
) -> tuple[SelectableKANParams, dict[str, Any]]:
    """Goes from selective training to the chosen bases: each node keeps its largest.

    Nodes of one basis become one smaller layer, and layers that no node chose go. The
    output is that of gates that put all weight on the choice (the first of equals).
    This reads values, so it cannot be traced.

    Args:
        params: Parameters of the second stage.

    Returns:
        Parameters of the third stage, and a report: `"pool"` (for each node the index
            of its layer in the old pool), `"basis"` (that layer's basis), `"weight"`
            (the share of the choice at temperature 1) and `"num_parameters"` (before
            and after).

    Raises:
        ValueError: If `params` has no gates.
    """
    if params.gates is None:
        raise ValueError(
            "selectable_kan_prune: `params` must have gates (selectable_kan_select), "
            "got None."
        )
    choice = np.argmax(np.asarray(params.gates, np.float64), 1)
    chosen = np.unique(choice)
    nodes = [np.flatnonzero(choice == s) for s in chosen]
    layers = [_part(params.pool[s], n) for s, n in zip(chosen, nodes, strict=True)]
    pruned = SelectableKANParams(
        pool=tuple(layers), gates=None, nodes=tuple(tuple(n.tolist()) for n in nodes)
    )
    report = {
        "pool": choice.tolist(),
        "basis": [params.pool[s].basis for s in choice],
        "weight": np.asarray(gate_weights(params, 1.0)).max(1).tolist(),
        "num_parameters": (_size(params), _size(pruned)),
    }
    return pruned, report


def selectable_kan_entropy(
    params: SelectableKANParams, *, temperature: float = 1.0
) -> Float[Array, ""]:
    r"""Tells how undecided the nodes are.

    $$H = -\sum_o \sum_s w_{os} \log w_{os}$$

    As a penalty in the second stage it makes each node choose. It is at its maximum,
    and has no gradient, where all gates are equal.

    Args:
        params: Parameters of any stage.
        temperature: $T$, as in `selectable_kan_apply`.

    Returns:
        The entropy in nats: 0 if each node has chosen, $n_{out} \log S$ before. It is
        finite, with its gradient, where a weight is 0.
    """
    if params.nodes is not None:
        return jnp.zeros((), params.pool[0].coefficients.dtype)
    weights = gate_weights(params, temperature)
    logs = jnp.log(jnp.where(weights > 0, weights, 1))
    return -jnp.sum(weights * logs).astype(params.pool[0].coefficients.dtype)


def selectable_kan_spread(
    params: SelectableKANParams,
    x: Float[Array, " n_in"],
    *,
    temperature: float = 1.0,
    grid: Grid = None,
) -> Float[Array, ""]:
    r"""Tells how much the layers of the pool differ, at one example.

    $$D(x) = \sum_o \sum_s w_{os} (y^s_o - y_o)^2$$

    Why it is needed: where the sum of the pool represents the target, every weighting
    without a 0 does so too with other coefficients, so the loss alone does not choose.
    For a squared loss the spread is what is missing to the mean loss of the layers each
    by itself, $\lVert y - t \rVert^2 + D = \sum_o \sum_s w_{os} (y^s_o - t_o)^2$
    (A. Krogh, J. Vedelsby, "Neural Network Ensembles, Cross Validation, and Active
    Learning", 1994), which the gates make small by choosing the best. In a network it
    holds the layers of a hidden node together likewise. Use it in both stages.

    Args:
        params: Parameters of any stage.
        x: One example, shape `(n_in,)`.
        temperature: As in `selectable_kan_apply`.
        grid: As in `selectable_kan_apply`.

    Returns:
        $D(x)$, a scalar; 0 after pruning.

    Raises:
        ValueError: As `selectable_kan_apply`.
    """
    outputs = _outputs("selectable_kan_spread", params, x, grid, False)
    return spread(params, outputs, temperature)


def draw_pool(
    where: str,
    key: PRNGKeyArray,
    pool: Pool,
    draw: Callable[..., KANLayerParams],
    **common: Any,
) -> tuple[KANLayerParams, ...]:
    """Draws each layer of a pool; its own options go before the common ones."""
    if not pool:
        raise ValueError(f"{where}: `pool` must have at least one basis, got none.")
    keys = jax.random.split(key, len(pool))
    options = [{"basis": p} if isinstance(p, str) else dict(p) for p in pool]
    return tuple(
        draw(key, **{**common, **own}) for key, own in zip(keys, options, strict=True)
    )


def gate_weights(
    params: SelectableKANParams, temperature: float
) -> Float[Array, "n_out pool"]:
    """The weights $w$, in float32 at least."""
    if params.gates is None:
        coefficients = params.pool[0].coefficients
        shape = coefficients.shape[2], len(params.pool)
        dtype = at_least_float32(coefficients.dtype)
        return jnp.full(shape, 1 / len(params.pool), dtype)
    gates = params.gates.astype(at_least_float32(params.gates.dtype))
    return jax.nn.softmax(gates / temperature)


def combine(
    params: SelectableKANParams, outputs: Sequence[Array], temperature: float
) -> Array:
    """The nodes of a layer, on the last axis, from the outputs of the pool."""
    if params.nodes is not None:
        order = np.concatenate([np.asarray(n) for n in params.nodes])
        y = jnp.concatenate(outputs, -1)
        if (np.diff(order) > 0).all():
            return y
        return jnp.take(y, np.argsort(order), -1, mode="clip", unique_indices=True)
    weights = _weights_like(params, outputs[0], temperature)
    return sum(
        (w * y for w, y in zip(weights, outputs, strict=True)),
        start=jnp.zeros_like(outputs[0]),
    )


def spread(
    params: SelectableKANParams, outputs: Sequence[Array], temperature: float
) -> Array:
    """The spread $D$, summed over all axes, from the outputs of the pool."""
    if params.nodes is not None:
        return jnp.zeros((), outputs[0].dtype)
    dtype = outputs[0].dtype
    outputs = [y.astype(at_least_float32(dtype)) for y in outputs]
    mean = combine(params, outputs, temperature)
    weights = _weights_like(params, mean, temperature)
    squares = [w * (y - mean) ** 2 for w, y in zip(weights, outputs, strict=True)]
    return jnp.sum(jnp.stack(squares)).astype(dtype)


def _weights_like(
    params: SelectableKANParams, y: Array, temperature: float
) -> list[Array]:
    weights = gate_weights(params, temperature).astype(y.dtype)
    shape = (1,) * (y.ndim - 1) + (-1,)
    return [weights[:, s].reshape(shape) for s in range(len(params.pool))]


def _outputs(
    where: str, params: SelectableKANParams, x: Array, grid: Grid, remat: bool
) -> list[Array]:
    check_shape(where, "x", x, (params.in_features,))
    knots = [None] * len(params.pool) if grid is None else list(grid)
    if len(knots) != len(params.pool):
        raise ValueError(
            f"{where}: `grid` must have one entry for each of {len(params.pool)} "
            f"layers of the pool, got {len(knots)}."
        )
    x = jnp.asarray(x, jnp.result_type(x, *jax.tree.leaves(params)))
    return [
        kan_layer_apply(layer, x, grid=t, remat=remat)
        for layer, t in zip(params.pool, knots, strict=True)
    ]


def _part(layer: KANLayerParams, nodes: np.ndarray) -> KANLayerParams:
    """The layer of some of the nodes."""
    return dataclasses.replace(
        layer,
        coefficients=layer.coefficients[..., nodes],
        residual=None if layer.residual is None else layer.residual[:, nodes],
        bias=None if layer.bias is None else layer.bias[nodes],
    )


def _size(tree: Any) -> int:
    return sum(a.size for a in jax.tree.leaves(tree))
