r"""Darcy flow: a solver, and the data sets on which neural operators are compared.

Z. Li, N. Kovachki, K. Azizzadenesheli, B. Liu, K. Bhattacharya, A. Stuart, A.
Anandkumar, "Fourier Neural Operator for Parametric Partial Differential Equations",
arXiv:2010.08895, section 5.2 and appendix A.3.2; J. He, X. Liu, J. Xu, "MgNO: Efficient
Parameterization of Linear Operators via Multigrid", arXiv:2310.19809, section 5, and
the authors' code, xlliu2017/MgNO.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_option, check_positive, check_rank
from .._dtypes import at_least_float32, float_dtype
from ._in_batches import in_batches
from ._random_fields import gaussian_random_field

# tau^2 of the field, and the coefficient where it is positive and where negative.
_KINDS = {"smooth": (9.0, 12.0, 3.0), "rough": (20.0, 12.0, 2.0)}
_NUM_MODES = 128


def solve_darcy(
    coefficient: Float[Array, "nx ny 1"], source: ArrayLike = 1.0
) -> Float[Array, "nx ny 1"]:
    r"""Solves Darcy's equation on the unit square, where the solution is 0 around.

    $$-\nabla \cdot (a \nabla u) = f, \qquad u = 0 \text{ on the boundary}$$

    Finite volumes around the points, between which the coefficient jumps half-way: the
    flux between neighbours is the difference of $u$ times the harmonic mean of $a$.
    Second order for smooth $a$, and where $a$ jumps half-way between points. Conjugate
    gradients, preconditioned by $-\Delta$, which sines diagonalise: the condition
    number is at most $\max a / \min a$ on any grid. Time O(points (nx + ny)) a step,
    some 10 to 30 steps for the contrasts of `darcy_dataset`.

    Args:
        coefficient: $a > 0$ at the points $(i / (n_x - 1), j / (n_y - 1))$, shape
            `(nx, ny, 1)`; else the result is of no use.
        source: $f$, a number or at the same points, shape `(nx, ny, 1)`.

    Returns:
        $u$, shape `(nx, ny, 1)`, in the promoted dtype. In float32 it is within about
        1e-5 of the largest value from the solution of the discrete equations. It has a
        derivative in both arguments.

    Raises:
        ValueError: If `coefficient` has another shape, or fewer than three points along
            an axis, or if `source` does not fit.

    Examples:
        >>> u = solve_darcy(jnp.ones((65, 65, 1)))
        >>> print(f"{u.max():.4f}")  # 0.0737 in the limit
        0.0737
    """
    where = "solve_darcy"
    check_rank(where, "coefficient", coefficient, 3, "(nx, ny, 1)")
    nx, ny, channels = jnp.shape(coefficient)
    if min(nx, ny) < 3 or channels != 1:
        raise ValueError(
            f"{where}: `coefficient` must have shape (nx, ny, 1) with three points or "
            f"more along each axis, got {(nx, ny, channels)}."
        )
    if jnp.shape(source) not in ((), (nx, ny, 1)):
        raise ValueError(
            f"{where}: `source` must be a number or have shape {(nx, ny, 1)}, got "
            f"{jnp.shape(source)}."
        )
    dtype = float_dtype(coefficient, source)
    real = at_least_float32(dtype)
    a = jnp.asarray(coefficient, real)[..., 0]
    f = jnp.broadcast_to(jnp.asarray(source, real), (nx, ny, 1))[1:-1, 1:-1, 0]

    # The equations times the area of a cell, divided by the scale of the coefficient.
    ratio = (nx - 1) / (ny - 1)
    across_x = ratio * _harmonic_mean(a[:-1, 1:-1], a[1:, 1:-1])
    across_y = _harmonic_mean(a[1:-1, :-1], a[1:-1, 1:]) / ratio

    def operator(u: Array) -> Array:
        flux_x = across_x * jnp.diff(jnp.pad(u, ((1, 1), (0, 0))), axis=0)
        flux_y = across_y * jnp.diff(jnp.pad(u, ((0, 0), (1, 1))), axis=1)
        return -jnp.diff(flux_x, axis=0) - jnp.diff(flux_y, axis=1)

    sines_x, values_x = _sines(nx, real)
    sines_y, values_y = _sines(ny, real)
    laplacian = ratio * values_x[:, None] + values_y[None] / ratio

    def inverse_laplacian(r: Array) -> Array:
        return sines_x @ ((sines_x @ r @ sines_y) / laplacian) @ sines_y

    # Products in the fewest bits that an accelerator has would stop the steps early.
    with jax.default_matmul_precision("highest"):
        tolerance = float(jnp.finfo(real).eps)
        area = 1 / ((nx - 1) * (ny - 1))
        u, _ = cg(operator, area * f, tol=tolerance, M=inverse_laplacian, maxiter=1000)
    return jnp.pad(u, 1)[..., None].astype(dtype)


def _harmonic_mean(a: Array, b: Array) -> Array:
    return 2 * a * b / (a + b)


def _sines(n: int, dtype: DTypeLike) -> tuple[Array, Array]:
    """Eigenvectors, an orthogonal symmetric matrix, and eigenvalues of (-1, 2, -1)."""
    k = jnp.arange(1, n - 1)
    # Reduced as integers: float32 has no digits left of a sine of a thousand.
    angle = (k[:, None] * k[None] % (2 * (n - 1))).astype(dtype) * (math.pi / (n - 1))
    eigenvalues = 4 * jnp.sin(k.astype(dtype) * (math.pi / (2 * (n - 1)))) ** 2
    return math.sqrt(2 / (n - 1)) * jnp.sin(angle), eigenvalues


def darcy_dataset(
    key: PRNGKeyArray,
    num_samples: int,
    resolution: int,
    *,
    kind: str = "smooth",
    refinement: int = 2,
    batch_size: int = 16,
    progress: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Float[Array, "n r r 1"], Float[Array, "n r r 1"]]:
    r"""Makes pairs of a coefficient and the solution of Darcy's equation.

    $$-\nabla \cdot (a \nabla u) = 1 \text{ on the unit square}, \qquad u = 0
        \text{ on its boundary}$$

    $a$ has two values, and is the larger one where a Gaussian random field of
    covariance $(-\Delta + \tau^2)^{-2}$ with no flux through the boundary and no mean
    (`gaussian_random_field`) is positive:

    - "smooth": $\tau^2 = 9$, 12 and 3: the data of the FNO paper, on which the authors
      of MgNO call it "Darcy smooth";
    - "rough": $\tau^2 = 20$, 12 and 2: smaller grains, and twice the contrast less a
      half. Our reading of "Darcy rough" in the MgNO paper, whose code names the data by
      "20c6" and gives no values; a file name there says $\tau = 5$.

    Field and solution are ours, not the authors' files: the field has 128 cosines along
    each axis at every resolution (theirs as many as their grid of 421 or 512 points),
    so that one key is one list of functions, which every resolution samples and of
    which more samples show more. The solution is that of a finer grid at these points
    (`solve_darcy`).

    Args:
        key: A random key.
        num_samples: The number of pairs.
        resolution: $r$, the points along each axis, at $i / (r - 1)$.
        kind: "smooth" or "rough".
        refinement: Intervals of the grid of the solver in one of the result. 1 for a
            solution of the discrete equations on the grid itself.
        batch_size: The number of pairs that are computed at once.
        progress: Whether to show a progress bar, if tqdm is installed.
        dtype: The dtype of both arrays; 16-bit ones are computed in float32.

    Returns:
        The coefficients and the solutions, each `(num_samples, r, r, 1)`, the boundary
        included.

    Raises:
        ValueError: If a size is below 1 (`resolution`: 3), `kind` is unknown or `dtype`
            is not a real floating dtype.
        TypeError: If a size is not an int.

    Examples:
        >>> a, u = darcy_dataset(jax.random.key(0), 2, 17)
        >>> a.shape, u.shape
        ((2, 17, 17, 1), (2, 17, 17, 1))
    """
    where = "darcy_dataset"
    check_option(where, "kind", kind, tuple(_KINDS))
    check_float_dtype(where, dtype)
    check_positive(
        where,
        num_samples=num_samples,
        resolution=resolution,
        refinement=refinement,
        batch_size=batch_size,
    )
    if resolution < 3:
        raise ValueError(f"{where}: `resolution` must be at least 3, got {resolution}.")
    pair = functools.partial(_pair, kind=kind, num=resolution, refinement=refinement)
    return in_batches(
        functools.partial(pair, dtype=at_least_float32(dtype)),
        key,
        num_samples,
        batch_size=batch_size,
        what=f"Darcy, {kind}",
        shown=progress,
        dtype=dtype,
    )


def _pair(
    key: PRNGKeyArray, *, kind: str, num: int, refinement: int, dtype: DTypeLike
) -> tuple[Array, Array]:
    tau_squared, high, low = _KINDS[kind]
    points = (num - 1) * refinement + 1
    field = gaussian_random_field(
        key,
        2.0,
        math.sqrt(tau_squared),
        shape=(points, points),
        boundary="neumann",
        num_modes=_NUM_MODES,
        zero_mean=True,
        dtype=dtype,
    )
    a = jnp.where(field >= 0, high, low).astype(dtype)
    every = slice(None, None, refinement)
    return a[every, every], solve_darcy(a)[every, every]
