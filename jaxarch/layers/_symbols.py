r"""Named univariate functions that an edge of a KAN can turn out to be.

Each is finite for every finite argument, and so is its derivative: beyond its domain a
function is constant, and near a pole it is cut. Only there do a network and its formula
differ.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

TINY = 1e-6  # poles are cut at 1 / TINY
LARGEST = 80.0  # the argument of exp; float32 overflows at 88


@dataclasses.dataclass(frozen=True)
class Symbol:
    """A function for both `numpy` and `jax.numpy`, and what it costs.

    Its complexity grows with the numbers that change its shape. Sine and its like have
    two, the scale and the shift of the argument; a parabola has one, and is a limit of
    theirs.
    """

    function: Callable[[Any, Any], Any]  # of (numpy or jax.numpy, u)
    formula: Callable[[Any, Any], Any]  # of (sympy, expression)
    complexity: int
    low: float = -math.inf  # the arguments that a fit may use
    high: float = math.inf
    # f(s u) or f(u + s) is an affine function of f(u): one scale, or shift, is enough.
    one_scale: bool = False
    one_shift: bool = False
    symmetric: bool = False  # even or odd: the sign of the scale does not matter
    half_period: float = 0.0  # f(u + half_period) = -f(u)


def _above(
    xp: Any, u: Any, function: Callable[[Any], Any], least: float, end: float
) -> Any:
    inside = u > least
    held = function(xp.where(inside, u, 1.0))
    return xp.where(inside, held, end)


def _odd_within(
    xp: Any, u: Any, function: Callable[[Any], Any], most: float, end: float
) -> Any:
    inside = xp.abs(u) < most
    held = function(xp.where(inside, u, 0.0))
    return xp.where(inside, held, xp.where(u < 0, -end, end))


def _cut(xp: Any, u: Any) -> Any:
    return xp.where(u < 0, -1.0, 1.0) * xp.maximum(xp.abs(u), TINY)


def _bessel(xp: Any, u: Any) -> Any:
    r"""$J_0(u) = \frac1\pi \int_0^\pi \cos(u \sin t)\,dt$ by the midpoint rule.

    64 nodes, of which 32 differ: the error is about $2 J_{128}(u)$, below 1e-12 up to
    $|u| = 90$.
    """
    values = [xp.cos(u * math.sin(math.pi * (2 * k + 1) / 128)) for k in range(32)]
    return sum(values[1:], values[0]) / 32


SYMBOLS: dict[str, Symbol] = {
    "x": Symbol(
        lambda xp, u: u,
        lambda sp, u: u,
        1,
        one_scale=True,
        one_shift=True,
        symmetric=True,
    ),
    "x^2": Symbol(
        lambda xp, u: u * u, lambda sp, u: u**2, 2, one_scale=True, symmetric=True
    ),
    "x^3": Symbol(
        lambda xp, u: u * u * u, lambda sp, u: u**3, 3, one_scale=True, symmetric=True
    ),
    "x^4": Symbol(
        lambda xp, u: (u * u) * (u * u),
        lambda sp, u: u**4,
        4,
        one_scale=True,
        symmetric=True,
    ),
    "1/x": Symbol(
        lambda xp, u: 1 / _cut(xp, u), lambda sp, u: 1 / u, 2, low=TINY, one_scale=True
    ),
    "1/x^2": Symbol(
        lambda xp, u: _cut(xp, u) ** -2.0,
        lambda sp, u: u**-2,
        3,
        low=TINY**0.5,
        one_scale=True,
    ),
    "sqrt": Symbol(
        lambda xp, u: _above(xp, u, xp.sqrt, 0.0, 0.0),
        lambda sp, u: sp.sqrt(u),
        2,
        low=0.0,
        one_scale=True,
    ),
    "exp": Symbol(
        lambda xp, u: xp.exp(xp.minimum(u, LARGEST)),
        lambda sp, u: sp.exp(u),
        2,
        high=LARGEST,
        one_shift=True,
    ),
    "log": Symbol(
        lambda xp, u: _above(xp, u, xp.log, TINY, math.log(TINY)),
        lambda sp, u: sp.log(u),
        2,
        low=TINY,
        one_scale=True,
    ),
    "abs": Symbol(
        lambda xp, u: xp.abs(u),
        lambda sp, u: sp.Abs(u),
        3,
        one_scale=True,
        symmetric=True,
    ),
    "sin": Symbol(
        lambda xp, u: xp.sin(u),
        lambda sp, u: sp.sin(u),
        3,
        symmetric=True,
        half_period=math.pi,
    ),
    "cos": Symbol(
        lambda xp, u: xp.cos(u),
        lambda sp, u: sp.cos(u),
        3,
        symmetric=True,
        half_period=math.pi,
    ),
    "tan": Symbol(
        lambda xp, u: xp.sin(u) / _cut(xp, xp.cos(u)),
        lambda sp, u: sp.tan(u),
        3,
        low=-math.pi / 2 + 1e-3,
        high=math.pi / 2 - 1e-3,
        symmetric=True,
    ),
    "tanh": Symbol(
        lambda xp, u: xp.tanh(u), lambda sp, u: sp.tanh(u), 3, symmetric=True
    ),
    "sigmoid": Symbol(
        lambda xp, u: 0.5 + 0.5 * xp.tanh(0.5 * u),
        lambda sp, u: 1 / (1 + sp.exp(-u)),
        3,
        symmetric=True,
    ),
    "gaussian": Symbol(
        lambda xp, u: xp.exp(-xp.minimum(u * u, LARGEST)),
        lambda sp, u: sp.exp(-(u**2)),
        3,
        symmetric=True,
    ),
    "1/(1+x^2)": Symbol(
        lambda xp, u: 1 / (1 + u * u), lambda sp, u: 1 / (1 + u**2), 3, symmetric=True
    ),
    "arcsin": Symbol(
        lambda xp, u: _odd_within(xp, u, xp.arcsin, 1.0, math.pi / 2),
        lambda sp, u: sp.asin(u),
        4,
        low=-1.0,
        high=1.0,
        symmetric=True,
    ),
    "arctan": Symbol(
        lambda xp, u: xp.arctan(u), lambda sp, u: sp.atan(u), 4, symmetric=True
    ),
    "arctanh": Symbol(
        lambda xp, u: _odd_within(xp, u, xp.arctanh, 1 - TINY, math.atanh(1 - TINY)),
        lambda sp, u: sp.atanh(u),
        4,
        low=TINY - 1,
        high=1 - TINY,
        symmetric=True,
    ),
    "j0": Symbol(
        _bessel, lambda sp, u: sp.besselj(0, u), 4, low=-85.0, high=85.0, symmetric=True
    ),
}
