"""Burgers' equation, on which neural operators are compared.

Z. Li, N. Kovachki, K. Azizzadenesheli, B. Liu, K. Bhattacharya, A. Stuart, A.
Anandkumar, "Fourier Neural Operator for Parametric Partial Differential Equations",
arXiv:2010.08895, section 5.1 and appendix A.3.1.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_positive
from .._dtypes import at_least_float32
from ._in_batches import in_batches
from ._random_fields import gaussian_random_field

NUM_MODES = 128


def burgers_dataset(
    key: PRNGKeyArray,
    num_samples: int,
    resolution: int,
    *,
    viscosity: float = 0.01,
    times: float | Sequence[float] = 1.0,
    solver_points: int = 512,
    steps_per_time: int = 500,
    batch_size: int = 16,
    progress: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Float[Array, "n r 1"], Float[Array, "n *times r 1"]]:
    r"""Draws initial functions and the solutions of Burgers' equation from them.

    $$u_t + u \, u_x = \nu u_{xx} \text{ on } [0, 1], \text{ periodic}, \qquad
        u(\cdot, 0) \sim \mathcal N\big(0, 625 (-\Delta + 25)^{-2}\big)$$

    The initial functions are those of the FNO paper (whose viscosity is 0.1), cut off
    at 128 waves (`gaussian_random_field`): one key is one list of functions, which
    every resolution samples and of which more samples show more. Solved by `exponax`:
    Fourier series of $\partial_x u^2 / 2$ without aliasing up to two thirds of the
    frequencies, and exponential Runge-Kutta steps of order 4. Needs
    `pip install "jaxarch[data]"`.

    Args:
        key: A random key.
        num_samples: The number of pairs.
        resolution: $r$, the number of points, at $i / r$.
        viscosity: $\nu$. Fronts are some $8 \nu / |u|$ wide. Below 0.003 the
            default steps are too long and give NaN; 0.001 wants 2,000 of them.
        times: The time of the solution, or increasing times.
        solver_points: The solver's grid has the least multiple of `resolution` that is
            not below it.
        steps_per_time: The solver's steps in a unit of time.
        batch_size: The number of pairs that are computed at once.
        progress: Whether to show a progress bar, if tqdm is installed.
        dtype: The dtype of both arrays; 16-bit ones are computed in float32.

    Returns:
        The initial functions, shape `(num_samples, r, 1)`, and the solutions, of the
        same shape, or `(num_samples, times, r, 1)` where `times` is a sequence.

    Raises:
        ValueError: If a number is below 1, `viscosity` is not positive, `times` are not
            positive and increasing or `dtype` is not a real floating dtype.
        TypeError: If a number is not an int.
        ImportError: exponax is not installed.
    """
    where = "burgers_dataset"
    check_float_dtype(where, dtype)
    check_positive(
        where,
        num_samples=num_samples,
        resolution=resolution,
        solver_points=solver_points,
        steps_per_time=steps_per_time,
        batch_size=batch_size,
    )
    if not 0 < viscosity < math.inf:
        raise ValueError(f"{where}: `viscosity` must be positive, got {viscosity}.")
    single = np.ndim(times) == 0
    moments = np.atleast_1d(np.asarray(times, float))
    steps = np.diff(moments, prepend=0)
    if steps.ndim != 1 or not steps.size or not ((steps > 0) & (steps < np.inf)).all():
        raise ValueError(
            f"{where}: `times` must be positive and increasing, got {times}."
        )
    every = math.ceil(solver_points / resolution)

    def pair(key: PRNGKeyArray) -> tuple[Array, Array]:
        initial = initial_function(
            key, resolution * every, dtype=at_least_float32(dtype)
        )
        u = solve_burgers(
            initial, moments, viscosity=viscosity, steps_per_time=steps_per_time
        )
        return initial[::every], u[0, ::every] if single else u[:, ::every]

    exponax(where)
    return in_batches(
        pair,
        key,
        num_samples,
        batch_size=batch_size,
        what="Burgers",
        shown=progress,
        dtype=dtype,
    )


def initial_function(
    key: PRNGKeyArray, num_points: int, *, dtype: DTypeLike
) -> Float[Array, "points 1"]:
    r"""A draw of $N(0, 625 (-\Delta + 25)^{-2})$ at $i / n$."""
    return gaussian_random_field(
        key,
        2.0,
        5.0,
        shape=(num_points,),
        sigma=25.0,
        num_modes=NUM_MODES,
        dtype=dtype,
    )


def solve_burgers(
    initial: Float[Array, "points 1"],
    times: Float[np.ndarray, " times"],
    *,
    viscosity: ArrayLike,
    steps_per_time: int,
) -> Float[Array, "times points 1"]:
    """Solutions at `times`, between which the steps are equal, in the default dtype."""
    burgers = exponax("burgers_dataset").stepper.Burgers
    intervals = np.diff(times, prepend=0)
    num_steps = math.ceil(intervals.max() * steps_per_time)

    def advance(u: Array, step: Array) -> tuple[Array, Array]:
        stepper = burgers(
            1,
            1.0,
            len(initial),
            step,
            diffusivity=viscosity,
            conservative=True,
            order=4,
        )
        u = jax.lax.fori_loop(0, num_steps, lambda _, u: stepper(u), u)
        return u, u

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        _, u = jax.lax.scan(
            advance, initial.T.astype(float), jnp.asarray(intervals / num_steps)
        )
    return u.mT


def exponax(where: str) -> Any:
    """The package, or an `ImportError` that says how to get it."""
    try:
        import exponax
    except ImportError as error:
        raise ImportError(
            f"{where}: needs exponax, which the extra `jaxarch[data]` installs."
        ) from error
    return exponax
