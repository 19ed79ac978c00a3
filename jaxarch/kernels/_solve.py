r"""Kernel regression: $(K + \sigma^2 I)^{-1} y$, in memory, from disk, or matrix-free.

Conjugate gradients (Hestenes and Stiefel, 1952) by lineax, with the preconditioner of
`_pivoted.py`, need of $K$ its products with vectors and a few rows.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._checks import check_option, check_positive
from .._params import params
from ._big import check_inputs, gram, memory_limits
from ._gp import as_targets, check_scalar, condition
from ._gram import Gram
from ._infinite import Kernel
from ._operators import Dense, Recomputed, Stored, contract
from ._pivoted import pivoted_cholesky, preconditioner
from ._progress import bar, bytes_text
from ._store import StoredMatrix

_TOLERANCE = {4: 1e-4, 8: 1e-8}  # by the bytes of a number


@params
class Solution:
    """Weights of a kernel regression, made by `solve`.

    The prediction at test points is `k_test_train @ weights`.
    """

    weights: Array  # (n,) or (n, outputs)
    residual: Array  # () or (outputs,): |(K + noise I) w - y| / |y|
    num_steps: Array  # () or (outputs,): of conjugate gradients; 0 for Cholesky


def solve(
    k: Gram | StoredMatrix | ArrayLike | Kernel | Callable[[Array, Array], Gram],
    y: Float[ArrayLike, " n"] | Float[ArrayLike, "n outputs"],
    *,
    noise: Float[ArrayLike, ""],
    x: Float[ArrayLike, "n ..."] | None = None,
    kind: str = "nngp",
    method: str = "cholesky",
    tol: float | None = None,
    rank: int = 256,
    max_steps: int = 1000,
    tile: int | None = None,
    memory_limit: int | None = None,
    progress: bool = True,
) -> Solution:
    r"""Solves $(K + \sigma^2 I) w = y$ for the weights of kernel regression.

    `method="cholesky"` factors the matrix in memory, as `condition` does: time O(n^3),
    memory about 4 n^2 numbers. `method="cg"` needs the extra `big` and takes, besides
    matrices in memory,

    - a `StoredMatrix`: its tiles are kept in memory as far as `memory_limit` allows and
      read from disk in every step where not. A step reads and multiplies each stored
      tile once;
    - a kernel and `x`: every step computes all tiles on and above the diagonal anew,
      and memory does not grow with n^2. Worth it where a matrix has no room anywhere.

    A pivoted Cholesky decomposition of up to `rank` rows preconditions. The steps end
    when the residual is at most `tol` times $|y|$ for every output (twice that is
    accepted, for rounding), and the change of $\sigma^2 w$ at most `tol` times it too.
    Time O(n^2 outputs) a step and O(n rank^2) once.

    A float32 matrix is known to about 1e-7 of its largest eigenvalue, which may be its
    trace. With a smaller noise $K + \sigma^2 I$ need not be positive definite, and the
    steps diverge: make the kernel in float64.

    Args:
        k: The kernel matrix `(n, n)`, symmetric, positive semi-definite: an array, a
            `StoredMatrix`, a `Gram` of either; or a kernel to compute it with.
        y: Targets, `(n,)` or `(n, outputs)`.
        noise: $\sigma^2$, an absolute variance, positive.
        x: The examples, for a kernel; otherwise `None`.
        kind: Which matrix of a Gram or a kernel, `"nngp"` or `"ntk"`.
        method: `"cholesky"` or `"cg"`.
        tol: Relative residual to reach; `None` means 1e-4, or 1e-8 for a float64 `k`.
        rank: The most rows of the preconditioner.
        max_steps: The most steps of conjugate gradients.
        tile: Side of the tiles that are computed anew; `None` means about 1024.
        memory_limit: Bytes for tiles in memory, or for Cholesky; `None` means half of
            the memory that is free.
        progress: Shows a bar, if tqdm is installed.

    Returns:
        The weights in the dtype of `k`, at least float32, with what they leave.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: a shape or an option is wrong, the matrix does not fit in
            `memory_limit`, or the steps did not reach `tol`.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> ker.solve(jnp.eye(3), jnp.ones(3), noise=1.0).weights.shape
        (3,)
    """
    check_option("solve", "method", method, ("cholesky", "cg"))
    check_option("solve", "kind", kind, ("nngp", "ntk"))
    check_scalar("solve", "noise", noise, positive=True)
    check_positive("solve", rank=rank, max_steps=max_steps)
    limit = min(memory_limits("solve", memory_limit, None))
    matrix = _matrix(k, kind)
    if callable(matrix) != (x is not None):
        wanted = (
            "the examples of the kernel" if callable(matrix) else "None for a matrix"
        )
        got = "None" if x is None else f"shape {np.shape(x)}"
        raise ValueError(f"solve: `x` must be {wanted}, got {got}.")
    if method == "cholesky":
        return _by_cholesky(matrix, y, noise, x, kind, tile, limit, progress)
    if callable(matrix):
        x, _ = check_inputs("solve", matrix, x, None)
        operator = Recomputed(matrix, x, kind, tile)
    elif isinstance(matrix, StoredMatrix):
        operator = Stored(matrix, limit)
    else:
        operator = Dense(matrix)
    return _by_cg(operator, y, noise, tol, rank, max_steps, progress)


def _matrix(k: Any, kind: str) -> Any:
    """One matrix of a `Gram`; a kernel stays as it is."""
    if isinstance(k, Gram):
        k = getattr(k, kind)
        if k is None:
            raise ValueError(f"solve: `k` must hold the `{kind}` asked for, got None.")
    if callable(k):
        return k
    shape = k.shape if isinstance(k, StoredMatrix) else jnp.shape(k)
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(f"solve: `k` must have shape (n, n) with n >= 1, got {shape}.")
    if isinstance(k, StoredMatrix) and not k.tiling.symmetric:
        raise ValueError(
            "solve: `k` must be a stored matrix of one set with itself, got one of two."
        )
    return k


def _by_cholesky(k: Any, y, noise, x, kind, tile, limit, progress) -> Solution:
    n = np.shape(x)[0] if callable(k) else k.shape[0]
    itemsize = 4 if callable(k) else max(4, jnp.dtype(k.dtype).itemsize)
    need = 4 * n * n * itemsize
    if (callable(k) or isinstance(k, StoredMatrix)) and need > limit:
        raise ValueError(
            f"solve: `memory_limit` must be at least the {bytes_text(need)} of a "
            f"Cholesky factorization in memory, got {bytes_text(limit)}; method='cg' "
            "needs less."
        )
    if callable(k):
        k = _matrix(gram(k, x, tile=tile, progress=progress), kind)  # pyright: ignore
    k = jnp.asarray(np.asarray(k) if isinstance(k, StoredMatrix) else k)
    posterior = condition(k, y, noise=noise)
    w = posterior.weights
    k, y = k.astype(w.dtype), jnp.asarray(y, w.dtype)
    left = y - contract("ij,j...->i...", k, w) - posterior.noise * w
    residual = jnp.linalg.norm(left, axis=0) / jnp.linalg.norm(y, axis=0)
    steps = jnp.zeros(residual.shape, int)
    return Solution(weights=w, residual=residual, num_steps=steps)


def _by_cg(operator, y, noise, tol, rank, max_steps, progress) -> Solution:
    try:
        import lineax  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "solve: method='cg' needs lineax: pip install 'jaxarch[big]'."
        ) from error
    y = as_targets("solve", "y", y, operator)
    noise = float(noise)
    if tol is None:
        tol = _TOLERANCE[y.dtype.itemsize]
    shown = bar(progress, min(rank, len(operator)), what="pivots", unit="row")
    factor = pivoted_cholesky(
        operator.diagonal(), operator.row, rank=rank, stop=0.1 * noise, shown=shown
    )
    shown.close()
    basis = jnp.asarray(preconditioner(factor, noise), y.dtype)
    number = next(_NUMBERS)
    _BARS[number] = bar(progress, None, what="conjugate gradients", unit="product")
    columns = y[:, None] if y.ndim == 1 else y
    size = jnp.linalg.norm(columns, axis=0, keepdims=True)
    size = jnp.where(size > 0, size, 1)
    u, steps, left = _cg(
        operator.mv,
        operator.stabilise,
        progress,
        (operator.arrays, np.asarray(number)),
        columns / size,
        jnp.asarray(noise, y.dtype),
        basis,
        jnp.asarray(tol, y.dtype),
        max_steps,
    )
    residual = jax.block_until_ready(jnp.linalg.norm(left, axis=0))
    jax.effects_barrier()
    _BARS.pop(number).close()
    worst = float(residual.max())
    # The residual of the recursion drifts a little from the true one.
    if not worst <= 2 * tol:
        raise ValueError(
            f"solve: the residual must fall to `tol` = {tol:.1e} of |y|, got "
            f"{worst:.1e} after {int(steps.max())} of `max_steps` = {max_steps}; a "
            "larger `rank` or `noise`, or a kernel made in float64, may help."
        )
    weights = u * (size / noise)
    if y.ndim == 1:
        weights, residual, steps = weights[:, 0], residual[0], steps[0]
    return Solution(weights=weights, residual=residual, num_steps=steps)


# Bars by number: compiled programs outlive them.
_NUMBERS = itertools.count()
_BARS: dict[int, Any] = {}


def _tick(number) -> None:
    _BARS[int(number)].update()


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 8))
def _cg(mv, stabilise, progress, operands, b, noise, basis, tol, max_steps):
    r"""$(I + K / \sigma^2) u = b$, whose solution is no larger than `b`."""
    import lineax as lx

    (arrays, number), n = operands, b.shape[0]
    shape = jax.ShapeDtypeStruct((n,), b.dtype)
    tag = lx.positive_semidefinite_tag

    def product(u):
        if progress:
            jax.debug.callback(_tick, number)
        return u + mv(arrays, u) / noise

    def precondition(r):
        inner = contract("rn,n->r", basis, r)
        return r - contract("rn,r->n", basis, inner)

    def one(b):
        solution = lx.linear_solve(
            lx.FunctionLinearOperator(product, shape, tag),
            b,
            lx.CG(0.0, tol, jnp.linalg.norm, stabilise, max_steps),
            options={
                "preconditioner": lx.FunctionLinearOperator(precondition, shape, tag)
            },
            throw=False,
        )
        u = solution.value
        return u, solution.stats["num_steps"], b - product(u)

    return jax.vmap(one, in_axes=1, out_axes=(1, 0, 1))(b)
