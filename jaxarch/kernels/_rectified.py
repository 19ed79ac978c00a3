r"""Maps with a kink at zero: the rectifier family, `sign` and rectified monomials.

Cho and Saul, *Kernel Methods for Deep Learning* (NeurIPS 2009). For
$f(x) = a\min(x, 0) + b\max(x, 0)$, with $s = (a^2 + b^2)/2$ and
$r = (a - b)^2 / (2\pi s)$, the cosine $1 - v$ of an angle $\theta$ becomes $1 - v'$ and

$$v' = v - r\,(\sin\theta - \theta\cos\theta), \qquad \dot F = s\,(1 - r\theta).$$
"""

import dataclasses
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import check_positive
from ._angle import angle, safe_sqrt
from ._covariance import Covariance, Marginal, Pair
from ._graph import Number, Symbol, emit
from ._nonlinearity import Nonlinearity

_CONSTANTS = {"relu": (0.0, 1.0), "absolute": (-1.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class Rectifier(Nonlinearity):
    """Rules of `relu`, `absolute`, `leaky_relu` and `abrelu`."""

    label: str

    @property
    def name(self) -> str:  # pyright: ignore
        """The member of the family."""
        return self.label

    @property
    def numbers(self) -> tuple[str, ...]:  # pyright: ignore
        """None where the slopes are part of the name."""
        return () if self.label in _CONSTANTS else ("a", "b")

    def _slopes(self, numbers):
        return _CONSTANTS.get(self.label) or numbers

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        r"""$s q$ and $(b - a)\sqrt{q / 2\pi}$."""
        a, b = self._slopes(numbers)
        (h,) = args
        mean = (b - a) / math.sqrt(2 * math.pi) * h.root
        return h.scaled(jnp.sqrt(jnp.asarray((a**2 + b**2) / 2, h.root.dtype)), mean)

    def pair(self, numbers, *args: Covariance, out1, out2, shapes, rules) -> Pair:
        """The formulas of the module, which lose no digit near the diagonal."""
        a, b = self._slopes(numbers)
        (h,) = args
        s = (a**2 + b**2) / 2
        r = (a - b) ** 2 / (2 * math.pi * s)
        theta, j = angle(h.v, h.w, h.half)
        w = None if self.label in _CONSTANTS else h.complement + r * j
        # Where u is 0, |u| has the subgradient 0 and the odd part of f its slope.
        slope = None if h.slope is None else h.slope * ((a + b) / 2) ** 2
        return Pair(h.v - r * j, w, h.t * (s - s * r * theta), slope)

    def apply(self, numbers, params, *args: Array, key) -> Array:
        """The map."""
        (x,) = args
        if self.label == "relu":
            return jax.nn.relu(x)
        if self.label == "absolute":
            return jnp.abs(x)
        a, b = numbers
        return jnp.where(x < 0, a * x, b * x)


@dataclasses.dataclass(frozen=True)
class Sign(Nonlinearity):
    """Rules of `sign`."""

    name = "sign"

    @property
    def centred(self) -> bool:
        """It is odd."""
        return True

    def moments(self, numbers, q):
        """1, except at 0."""
        return jnp.where(q > 0, 1, 0).astype(q.dtype), None, ()

    def dual(self, numbers, h):
        r"""$1 - 2\theta/\pi$; the derivative of the map is zero almost everywhere."""
        theta, _ = angle(h.v, h.w, h.half)
        return 1 - theta * (2 / math.pi), jnp.zeros_like(theta)

    def apply(self, numbers, params, *args: Array, key) -> Array:
        """The map."""
        return jnp.sign(args[0])


@cache
def _arc_cosine(degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    r"""$A, B$ with $J_k = A(\cos\theta)\sin\theta + B(\cos\theta)(\pi - \theta)$.

    From $J_k = (-1)^k \sin^{2k+1}\theta\,
    (\frac1{\sin\theta}\frac{\partial}{\partial\theta})^k
    \frac{\pi - \theta}{\sin\theta}$.
    """
    poly = np.polynomial.Polynomial
    c, sine2 = poly([0.0, 1.0]), poly([1.0, 0.0, -1.0])
    a, b = poly([0.0]), poly([1.0])
    for k in range(degree):
        a, b = (
            -a.deriv() * sine2 - 2 * k * c * a - b,
            -b.deriv() * sine2 - (2 * k + 1) * c * b,
        )
    sign = (-1) ** degree
    return tuple(map(float, sign * a.coef)), tuple(map(float, sign * b.coef))


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    value = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


@dataclasses.dataclass(frozen=True)
class RectifiedMonomial(Nonlinearity):
    """Rules of `rectified_monomial`: the arc-cosine kernels."""

    name = "rectified_monomial"
    nonnegative = True

    degree: int

    def __str__(self) -> str:
        return f"degree={self.degree}"

    def moments(self, numbers, q):
        """Half the moments of $|u|^{2k}$ and $|u|^k$."""
        k = self.degree
        second = math.prod(range(1, 2 * k, 2)) / 2
        first = 2 ** (k / 2 - 1) * math.gamma((k + 1) / 2) / math.sqrt(math.pi)
        return second * q**k, first * safe_sqrt(q) ** k, ()

    def dual(self, numbers, h):
        r"""$n^k J_k / 2\pi$ and $k^2 n^{k-1} J_{k-1} / 2\pi$."""
        k = self.degree
        theta, _ = angle(h.v, h.w, h.half)
        sine, cosine = safe_sqrt(h.v * h.complement), 1 - h.v

        def j(degree):
            a, b = _arc_cosine(degree)
            value = _polynomial(a, cosine) * sine
            return value + _polynomial(b, cosine) * (math.pi - theta)

        norm = h.norm
        f = norm**k * j(k) / (2 * math.pi)
        return f, k**2 * norm ** (k - 1) * j(k - 1) / (2 * math.pi)

    def apply(self, numbers, params, *args: Array, key) -> Array:
        """The map."""
        return jax.nn.relu(args[0]) ** self.degree


def relu(h: Symbol) -> Symbol:
    r"""$\max(x, 0)$: $F = \frac n{2\pi}(\sin\theta + (\pi - \theta)\cos\theta)$."""
    return emit(Rectifier("relu"), [h], [])


def absolute(h: Symbol) -> Symbol:
    r"""$|x|$: $F = \frac{2n}\pi(\sin\theta + (\tfrac\pi2 - \theta)\cos\theta)$."""
    return emit(Rectifier("absolute"), [h], [])


def leaky_relu(h: Symbol, *, alpha: Number = 0.01) -> Symbol:
    r"""$\max(x, 0) + \alpha\min(x, 0)$; see `abrelu`."""
    return emit(Rectifier("leaky_relu"), [h], [alpha, 1.0])


def abrelu(h: Symbol, *, a: Number, b: Number) -> Symbol:
    r"""$a\min(x, 0) + b\max(x, 0)$. With $n = \sqrt{q_1 q_2}$,.

    $$F = \frac{(a - b)^2}{2\pi} n\sin\theta + k\dot F, \qquad
      \dot F = \frac{a^2 + b^2}2 - \frac{(a - b)^2}{2\pi}\theta.$$
    """
    return emit(Rectifier("abrelu"), [h], [a, b])


def sign(h: Symbol) -> Symbol:
    r"""$\mathrm{sign}(x)$: $F = 1 - 2\theta/\pi$; nothing below it is trained."""
    return emit(Sign(), [h], [])


def rectified_monomial(h: Symbol, *, degree: int) -> Symbol:
    r"""$\max(x, 0)^k$: the arc-cosine kernel $F = n^k J_k(\theta) / 2\pi$.

    Args:
        h: A Gaussian value.
        degree: $k \ge 1$.

    Returns:
        A value that is not Gaussian.
    """
    check_positive("rectified_monomial", degree=degree)
    return emit(RectifiedMonomial(degree), [h], [])
