r"""A preconditioner of $K + \sigma^2 I$ from few rows of $K$.

Harbrecht, Peters and Schneider, *On the low-rank approximation by the pivoted Cholesky
decomposition* (2012), algorithm 1; used so by Gardner et al. (arXiv:1809.11165),
section 4.2. $L L^\top$ interpolates $K$ in the rows where its remaining diagonal is
largest, and (Woodbury)

$$\sigma^2 (L L^\top + \sigma^2 I)^{-1} = I - W W^\top, \qquad
  W = L (L^\top L + \sigma^2 I)^{-1/2}.$$
"""

from collections.abc import Callable
from typing import Any

import numpy as np


def pivoted_cholesky(
    diagonal: np.ndarray,
    row: Callable[[int], np.ndarray],
    *,
    rank: int,
    stop: float,
    shown: Any,
) -> np.ndarray:
    r"""Returns $L^\top$, `(at most rank, n)`, in float64.

    Args:
        diagonal: The diagonal of a positive semi-definite matrix, `(n,)`.
        row: Returns one row of it, `(n,)`.
        rank: The most rows to use.
        stop: Ends when no more than this remains of the trace.
        shown: A bar, advanced for each row.
    """
    rest = np.array(diagonal, np.float64)
    factor = np.zeros((min(rank, len(rest)), len(rest)))
    floor = 4 * np.finfo(diagonal.dtype).eps * rest.max()
    for m in range(len(factor)):
        pivot = int(rest.argmax())
        # What is left of the diagonal is rounding; a further row would be noise.
        if rest[pivot] <= floor or rest.sum() <= stop:
            return factor[:m]
        left = row(pivot) - factor[:m, pivot] @ factor[:m]
        factor[m] = left / np.sqrt(rest[pivot])
        rest = np.maximum(rest - factor[m] ** 2, 0)
        rest[pivot] = 0
        shown.update()
    return factor


def preconditioner(factor: np.ndarray, noise: float) -> np.ndarray:
    r"""Returns $W^\top$, `(rank, n)`, for $L^\top$ and $\sigma^2$."""
    values, vectors = np.linalg.eigh(factor @ factor.T)
    return (vectors / np.sqrt(np.maximum(values, 0) + noise)).T @ factor
