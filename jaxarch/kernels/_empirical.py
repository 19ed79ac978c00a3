r"""Kernels of a finite network at given parameters, for any function of JAX.

The empirical neural tangent kernel (Jacot, Gabriel, Hongler, arXiv:1806.07572) and
three ways to compute it (Novak, Sohl-Dickstein, Schoenholz, arXiv:2206.08720).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._checks import check_option, check_positive
from .._dtypes import at_least_float32
from ._cost import Cost, Problem, choose_uses, has_custom_vjp, predict
from ._example_tiles import over_pairs, over_tiles, tile_side
from ._function import (
    Function,
    basis,
    check_inputs,
    check_output,
    example,
    split,
    vary,
)
from ._gp import einsum
from ._structured import Plan, contract, factors

METHODS = ("auto", "jacobian", "vector_products", "structured")
_FORMS = {True: "trace", False: "full", "diagonal": "diagonal"}
_MEMORY = 2**30


def empirical_ntk(
    f: Callable[[Any, Any], Array],
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    method: str = "auto",
    trace_outputs: bool | str = True,
    diagonal: bool = False,
    tile: int | None = None,
    memory_limit: int | None = None,
) -> Float[Array, "..."]:
    r"""Neural tangent kernel of a function at given parameters.

    With $\theta$ all arrays of floating dtype in `params` and $o$ an output,

    $$\Theta_{oo'}(x, x') = \sum_\theta
        \frac{\partial f_o(x)}{\partial \theta}
        \frac{\partial f_{o'}(x')}{\partial \theta}.$$

    Methods, for $n$ examples a side, $O$ outputs and $P$ parameters:

    - `"jacobian"` forms the gradients and multiplies them: memory O(n O P), time
      O(n^2 O P), times O more for the full kernel.
    - `"vector_products"` forms them on one side and pushes them forward through the
      network: time O(n^2 O) evaluations. A `custom_vjp` in the network has no forward
      derivative, so neither this nor `ntk_vector_product` can be used with one.
    - `"structured"` keeps the gradient of a parameter of a dense, convolutional or
      embedding layer in its two factors, the inputs and the cotangents, and multiplies
      those. Layers inside `jit`, `scan` and `checkpoint` are found too. Other
      parameters (biases, scales, what enters a custom derivative or a branch) are
      treated as by `"jacobian"`.
    - `"auto"` takes the least predicted time, and with factors decides for each
      parameter whether to use them: where a layer is used at many positions, as a
      convolution of a large image is, the gradient is the smaller object.

    Examples are worked on in tiles, so that memory stays near `memory_limit` whatever
    `n` is; every tile computes the gradients of its own examples. Products are summed
    in float32 at least. The value may be jitted, differentiated in arrays that enter it
    and mapped; outside `jit` a new `f` (a fresh lambda) compiles again.

    Args:
        f: A function `f(params, x)` of ONE example that returns one real array, shape
            `(*out,)`. For Flax give `module.apply`, for Equinox
            `lambda model, x: model(x)`.
        params: Any pytree. Integer arrays and leaves that are no arrays are held fixed.
        x1: Examples along the first axis, `(n1, *example)`, or a pytree of such arrays.
        x2: Other examples `(n2, *example)`. `None` means `x1`.
        method: One of the above.
        trace_outputs: `True` gives the mean over the outputs of the diagonal
            $\Theta_{oo}$, `"diagonal"` gives that diagonal, `False` everything.
        diagonal: Computes only the pairs `x1[i], x2[i]`.
        tile: Examples a side of a tile. `None` means as many as fit.
        memory_limit: Bytes of working memory, 1 GiB if `None`; a prediction and not a
            guarantee. A single pair is never divided.

    Returns:
        `(n1, n2)`, `(n1, n2, *out)` or `(n1, n2, *out, *out)` in the dtype of the
        output of `f`; with `diagonal` `(n,)` takes the place of `(n1, n2)`.

    Raises:
        TypeError: if `f` is no function, or does not return one real floating array.
        ValueError: if a shape or an option is wrong, or nothing can be differentiated.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> f = lambda w, x: jnp.tanh(w @ x)
        >>> ker.empirical_ntk(f, jnp.ones((2, 3)), jnp.ones((5, 3))).shape
        (5, 5)
    """
    where = "empirical_ntk"
    check_option(where, "method", method, METHODS)
    form = _form(where, trace_outputs)
    return _kernel(
        where, f, params, x1, x2, form, diagonal, tile, memory_limit, method=method
    )


def empirical_nngp(
    f: Callable[[Any, Any], Array],
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    trace_outputs: bool | str = True,
    diagonal: bool = False,
    tile: int | None = None,
    memory_limit: int | None = None,
) -> Float[Array, "..."]:
    r"""Products of the outputs of a function at given parameters.

    $K_{oo'}(x, x') = f_o(x) f_{o'}(x')$: its mean over random parameters is the NNGP
    kernel of the network (Lee et al., arXiv:1711.00165).

    Args:
        f: As for `empirical_ntk`.
        params: As for `empirical_ntk`.
        x1: As for `empirical_ntk`.
        x2: As for `empirical_ntk`.
        trace_outputs: As for `empirical_ntk`.
        diagonal: As for `empirical_ntk`.
        tile: As for `empirical_ntk`.
        memory_limit: As for `empirical_ntk`.

    Returns:
        The same shapes as `empirical_ntk`.

    Raises:
        TypeError: as `empirical_ntk`.
        ValueError: as `empirical_ntk`.
    """
    where = "empirical_nngp"
    form = _form(where, trace_outputs)
    return _kernel(
        where, f, params, x1, x2, form, diagonal, tile, memory_limit, method="nngp"
    )


def ntk_vector_product(
    f: Callable[[Any, Any], Array],
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None,
    vector: Float[Array, "n2 ..."],
    *,
    tile: int | None = None,
    memory_limit: int | None = None,
) -> Float[Array, "n1 ..."]:
    r"""The full empirical NTK times a vector, without the kernel.

    $$u_{io} = \sum_{jo'} \Theta_{oo'}(x_i, x'_j)\, v_{jo'}
        = \nabla_\theta f_o(x_i) \cdot \sum_j \nabla_\theta f(x'_j)^\top v_j$$

    One backward pass at `x2` and one forward pass at `x1`: time
    O((n1 + n2) evaluations), memory O(P) and a tile of examples.

    Args:
        f: As for `empirical_ntk`.
        params: As for `empirical_ntk`.
        x1: As for `empirical_ntk`.
        x2: As for `empirical_ntk`; `None` means `x1`.
        vector: Shape `(n2, *out)`.
        tile: Examples a tile. `None` means as many as fit.
        memory_limit: As for `empirical_ntk`.

    Returns:
        The product, shape `(n1, *out)`, in the dtype of the output of `f`.

    Raises:
        TypeError: as `empirical_ntk`.
        ValueError: as `empirical_ntk`, and if the shape of `vector` is wrong.
    """
    where = "ntk_vector_product"
    task, floats, arrays, x1, x2 = _prepare(
        where, f, params, x1, x2, "full", False, tile, memory_limit
    )
    out = check_output(where, task.function, floats, arrays, x1)
    other = x1 if x2 is None else x2
    shape = (jax.tree.leaves(other)[0].shape[0], *out.shape)
    if jnp.shape(vector) != shape:
        raise ValueError(
            f"{where}: `vector` must have shape {shape} (n2, *out), got "
            f"{jnp.shape(vector)}."
        )
    vector = jnp.asarray(vector).astype(out.dtype)
    return _product(task, floats, arrays, x1, other, vector)


class _Task(NamedTuple):
    """Everything about a computation that is not an array."""

    function: Function
    form: str
    diagonal: bool
    tile: int | None
    memory: int


def _form(where: str, trace_outputs: bool | str) -> str:
    if not isinstance(trace_outputs, bool | str):
        raise TypeError(
            f"{where}: `trace_outputs` must be a bool or 'diagonal', got "
            f"{type(trace_outputs).__name__}."
        )
    check_option(where, "trace_outputs", trace_outputs, tuple(_FORMS))
    return _FORMS[trace_outputs]


def _prepare(where, f, params, x1, x2, form, diagonal, tile, memory):
    function, floats, arrays = split(where, f, params)
    x1, x2 = check_inputs(where, x1, x2, diagonal)
    memory = _MEMORY if memory is None else memory
    check_positive(where, memory_limit=memory)
    if tile is not None:
        check_positive(where, tile=tile)
    return _Task(function, form, diagonal, tile, memory), floats, arrays, x1, x2


def _kernel(where, f, params, x1, x2, form, diagonal, tile, memory, *, method):
    task, floats, arrays, x1, x2 = _prepare(
        where, f, params, x1, x2, form, diagonal, tile, memory
    )
    check_output(where, task.function, floats, arrays, x1)
    return _evaluate(task, method, floats, arrays, x1, x2)


# --- methods ----------------------------------------------------------------------


class _Method(NamedTuple):
    """What is computed for the examples of each side, then for a tile of pairs."""

    left: Callable[[Any], Any]
    right: Callable[[Any], Any]
    pairs: Callable[[Any, Any], Array]  # (i, j, ...) in the form asked for
    cost: Cost


def _problem(task: _Task, floats, arrays, x1, x2) -> tuple[Problem, Any]:
    n1 = jax.tree.leaves(x1)[0].shape[0]
    # Not `example(x1)`: under `shard_map` a jaxpr says what differs between devices.
    one = jax.tree.map(lambda a: a[0], x1) if n1 else example(x1)
    out = jax.eval_shape(task.function, floats, arrays, example(x1))
    n2 = n1 if x2 is None else jax.tree.leaves(x2)[0].shape[0]
    problem = Problem(
        jaxpr=jax.make_jaxpr(task.function)(floats, arrays, one),
        leaves=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in floats],
        outputs=math.prod(out.shape),
        itemsize=at_least_float32(out.dtype).itemsize,
        form=task.form,
        sizes=(n1, 1) if task.diagonal else (n1, n2),
        symmetric=x2 is None,
    )
    return problem, out


def _choose(task: _Task, method: str, floats, arrays, x1, x2) -> _Method:
    problem, out = _problem(task, floats, arrays, x1, x2)
    if method == "nngp":
        return _nngp(task, floats, arrays, problem, out)
    candidates: list[dict | None] = []
    forward = method == "auto" and not has_custom_vjp(problem.jaxpr.jaxpr)
    if forward or method == "vector_products":
        candidates.append(None)
    if method == "jacobian":
        candidates.append({})
    if method in ("auto", "structured"):
        candidates.append(choose_uses(problem, every=method == "structured"))
    costs = [predict(problem, chosen) for chosen in candidates]
    totals = [cost.total(*problem.sizes, problem.symmetric) for cost in costs]
    best = int(np.argmin(totals))
    chosen, cost = candidates[best], costs[best]
    if chosen is None:
        return _vector_products(task, floats, arrays, out, cost)
    plan = Plan(task.function, problem.jaxpr, chosen, out)
    side = functools.partial(factors, plan, floats, arrays)
    pairs = functools.partial(contract, plan, form=task.form)
    return _Method(side, side, lambda one, two: pairs(one, two), cost)


_FROM_FULL = {"full": "iojp->ijop", "diagonal": "iojo->ijo", "trace": "iojo->ij"}


def _nngp(task: _Task, floats, arrays, problem: Problem, out) -> _Method:
    dtype = at_least_float32(out.dtype)

    def side(x):
        y = jax.vmap(lambda one: task.function(floats, arrays, one))(x)
        return y.reshape(-1, problem.outputs).astype(dtype)

    def pairs(one, two):
        subscripts = {"full": "io,jp->ijop", "diagonal": "io,jo->ijo"}
        return einsum(subscripts.get(task.form, "io,jo->ij"), one, two)

    entries = problem.itemsize * problem.entries
    return _Method(side, side, pairs, Cost(pair_bytes=entries))


def _vector_products(task: _Task, floats, arrays, out, cost) -> _Method:
    r"""$\Theta_{oo'}(x, x')$: the derivative of $f_o(x)$ along $\nabla f_{o'}(x')$."""
    dtype = at_least_float32(out.dtype)

    def gradients(x):
        def one(x):
            _, pull = jax.vjp(lambda p: task.function(p, arrays, x), floats)
            return jax.vmap(lambda v: pull(v)[0])(basis(out, floats, x))

        return jax.vmap(one)(x)

    def pairs(x, directions):
        def one(x):
            _, push = jax.linearize(lambda p: task.function(p, arrays, x), floats)
            return jax.vmap(jax.vmap(push))(directions)  # (j, p, *out)

        y = jax.vmap(one)(x).astype(dtype)
        y = y.reshape(*y.shape[:3], math.prod(out.shape))
        subscripts = {"full": "ijpo->ijop", "diagonal": "ijoo->ijo"}
        return jnp.einsum(subscripts.get(task.form, "ijoo->ij"), y)

    return _Method(lambda x: x, gradients, pairs, cost)


# --- tiles ------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("task", "method"))
def _evaluate(task: _Task, method: str, floats, arrays, x1, x2) -> Array:
    floats = vary(floats, x1, x2)
    chosen = _choose(task, method, floats, arrays, x1, x2)
    out = jax.eval_shape(task.function, floats, arrays, example(x1))
    side = task.tile or tile_side(
        task.memory, chosen.cost.example_bytes, chosen.cost.pair_bytes
    )
    if task.diagonal:
        k = over_pairs(chosen.left, chosen.right, chosen.pairs, x1, x2, side)
        lead = k.shape[:1]
    else:
        k = over_tiles(chosen.left, chosen.right, chosen.pairs, x1, x2, side)
        lead = k.shape[:2]
    if task.form == "trace":
        return (k / math.prod(out.shape)).astype(out.dtype)
    repeats = 2 if task.form == "full" else 1
    return k.reshape(*lead, *out.shape * repeats).astype(out.dtype)


@functools.partial(jax.jit, static_argnames=("task",))
def _product(task: _Task, floats, arrays, x1, x2, vector) -> Array:
    floats = vary(floats, x1, x2, vector)
    vector = vary(vector, floats)
    problem, _ = _problem(task, floats, arrays, x1, x2)
    cost = predict(problem._replace(outputs=1), {})
    side = task.tile or tile_side(task.memory, cost.example_bytes, 0.0)

    def batch(p, x):
        return jax.vmap(lambda one: task.function(p, arrays, one))(x)

    def pull(x, v):
        return jax.vjp(lambda p: batch(p, x), floats)[1](v)[0]

    n2, done = vector.shape[0], 0
    gradient = vary(jax.tree.map(jnp.zeros_like, floats), floats)
    if whole := n2 // side:
        done = whole * side
        chunks = jax.tree.map(
            lambda a: a[:done].reshape(whole, side, *a.shape[1:]), (x2, vector)
        )

        def step(total, chunk):
            return jax.tree.map(jnp.add, total, pull(*chunk)), None

        gradient, _ = jax.lax.scan(step, gradient, chunks)
    if done < n2:
        rest = jax.tree.map(lambda a: a[done:], (x2, vector))
        gradient = jax.tree.map(jnp.add, gradient, pull(*rest))

    def push(x):
        return jax.jvp(lambda p: task.function(p, arrays, x), (floats,), (gradient,))[1]

    return jax.lax.map(push, x1, batch_size=side)
