r"""Fits $y \approx c f(a x + b) + d$ on the host, in float64.

Given $a$ and $b$, the best $c$ and $d$ are a linear regression; so the search is over
$(a, b)$ alone: a grid first, then Levenberg-Marquardt in all four.
"""

import dataclasses
import functools

import numpy as np

from ._symbols import Symbol

GRID_POINTS = 64  # of the sample, in the search
POINTS = 150  # of the sample, in the refinement
STARTS = 3
STEPS, PATIENCE = 48, 8
EXACT = 1e-14  # of the variance left: rounding


@dataclasses.dataclass(frozen=True)
class AffineFit:
    """The numbers of one fit."""

    a: float
    b: float
    c: float
    d: float
    r_squared: float

    def __lt__(self, other: "AffineFit") -> bool:
        return self.r_squared > other.r_squared


def fit_symbol(symbol: Symbol, x: np.ndarray, y: np.ndarray) -> AffineFit | None:
    """The best fit of a sample; None if the domain of the symbol holds none."""
    middle, reach = 0.5 * (x.max() + x.min()), 0.5 * (x.max() - x.min())
    order = np.argsort(x)
    mean, spread = y.mean(), y.std()

    def thinned(count: int) -> tuple[np.ndarray, np.ndarray]:
        count = min(count, len(x))
        index = order[np.linspace(0, len(x) - 1, count).round().astype(int)]
        return (x[index] - middle) / reach, (y[index] - mean) / spread

    starts = _search(symbol, *thinned(GRID_POINTS))
    if not len(starts):
        return None
    scale, shift, c, d, error = _refined(symbol, *thinned(POINTS), starts)
    scale, shift = scale / reach, shift - scale * middle / reach
    if symbol.half_period:
        turns = np.round(shift / symbol.half_period)
        shift, c = shift - turns * symbol.half_period, c * (-1) ** turns
    return AffineFit(
        a=float(scale),
        b=float(shift),
        c=float(c * spread),
        d=float(mean + d * spread),
        r_squared=float(1 - error),
    )


@functools.cache
def _grid(one_scale: bool, one_shift: bool, symmetric: bool) -> np.ndarray:
    """Pairs (scale, shift) of an argument that is in [-1, 1]; shape (pairs, 2)."""
    scales = np.concatenate([np.geomspace(0.05, 1, 10), np.arange(1.5, 32, 0.75)])
    beyond = 1 + np.geomspace(1e-3, 30, 14)
    centers = np.concatenate([-beyond[::-1], np.linspace(-1, 1, 21), beyond])
    scales = np.ones(1) if one_scale else scales
    centers = np.zeros(1) if one_shift else centers
    scales = scales if symmetric else np.concatenate([scales, -scales])
    scale, center = np.meshgrid(scales, centers, indexing="ij")
    return np.stack([scale.ravel(), (-scale * center).ravel()], -1)


def _allowed(symbol: Symbol, pairs: np.ndarray) -> np.ndarray:
    """Whether the domain holds the image of [-1, 1]."""
    reach, shift = np.abs(pairs[:, 0]), pairs[:, 1]
    return (shift - reach >= symbol.low) & (shift + reach <= symbol.high)


def _search(symbol: Symbol, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    pairs = _grid(symbol.one_scale, symbol.one_shift, symbol.symmetric)
    pairs = pairs[_allowed(symbol, pairs)]
    error = _regress(symbol, z, y, pairs)[2]
    return pairs[np.argsort(error)[:STARTS]]


def _regress(
    symbol: Symbol, z: np.ndarray, y: np.ndarray, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The best c and d of each pair, the share of the variance left, residuals."""
    values = symbol.function(np, pairs[:, :1] * z + pairs[:, 1:])
    centered = values - values.mean(1, keepdims=True)
    variance = np.einsum("pn,pn->p", centered, centered)
    varies = variance > 1e-20 * np.einsum("pn,pn->p", values, values) + 1e-200
    c = np.where(varies, centered @ y / np.where(varies, variance, 1), 0)
    d = y.mean() - c * values.mean(1)
    residual = (y - y.mean()) - c[:, None] * centered
    total = np.sum((y - y.mean()) ** 2)
    error = np.einsum("pn,pn->p", residual, residual) / (total if total > 0 else 1)
    return c, d, np.where(np.isfinite(error), error, np.inf), residual


def _refined(
    symbol: Symbol, z: np.ndarray, y: np.ndarray, pairs: np.ndarray
) -> tuple[float, float, float, float, float]:
    """Levenberg-Marquardt from each pair; the best end."""
    # Declared, since a type checker would follow the loop for minutes.
    c: np.ndarray
    d: np.ndarray
    error: np.ndarray
    residual: np.ndarray
    c, d, error, residual = _regress(symbol, z, y, pairs)
    damping: np.ndarray = np.full(len(pairs), 1e-3)
    before: float = np.inf
    for step_number in range(STEPS):
        u = pairs[:, :1] * z + pairs[:, 1:]
        step = 1e-6 * (1 + np.abs(u))
        up, down = (symbol.function(np, u + s) for s in (step, -step))
        slope = c[:, None] * (up - down) / (2 * step)
        columns = [slope * z, slope, symbol.function(np, u), np.ones_like(u)]
        jacobian = np.stack(columns, -1)
        norm = np.sqrt(np.einsum("pnk,pnk->pk", jacobian, jacobian)) + 1e-200
        jacobian = jacobian / norm[:, None]
        gram = np.einsum("pnk,pnl->pkl", jacobian, jacobian)
        gram = gram + damping[:, None, None] * np.eye(4)
        right = np.einsum("pnk,pn->pk", jacobian, residual)
        move = np.linalg.solve(gram, right[..., None])[..., 0] / norm
        moved = pairs + move[:, :2]
        new = _regress(symbol, z, y, moved)
        better = _allowed(symbol, moved) & (new[2] < error)
        pairs = np.where(better[:, None], moved, pairs)
        residual = np.where(better[:, None], new[3], residual)
        c, d = np.where(better, new[0], c), np.where(better, new[1], d)
        error = np.where(better, new[2], error)
        damping = np.where(better, 0.2 * damping, 5 * damping).clip(1e-12)
        if error.min() < EXACT or damping.min() > 1e6:
            break
        if step_number % PATIENCE == 0:
            if error.min() > 0.9 * before:
                break
            before = float(error.min())
    best = int(np.argmin(error))
    return *pairs[best], c[best], d[best], error[best]
