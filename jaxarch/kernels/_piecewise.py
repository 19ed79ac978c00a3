r"""`elu` and `selu`: linear above zero, exponential below.

A Hermite series of such a map needs thousands of terms. In polar coordinates
$u = \sqrt{q_1} R\cos\varphi$, $u' = \sqrt{q_2} R\cos(\varphi - \theta)$ the kinks are
rays, and in each sector the radial integral is known: with

$$M_n(x) = \int_0^\infty R^n e^{-R^2/2 + xR}\,dR, \quad
  M_0(x) = \sqrt{\pi/2}\,\mathrm{erfcx}(-x/\sqrt2), \quad
  M_1 = 1 + x M_0, \quad M_2 = M_0 + x M_1,$$

what is left is an analytic function of the angle, for Gauss-Legendre quadrature.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._angle import angle, safe_sqrt
from ._graph import Number, Symbol, emit
from ._nonlinearity import Nonlinearity

_SELU = (1.6732632423543772, 1.0507009873554805)
_NODES = {4: 16, 8: 40}
_DEGREE = {4: 14, 8: 34}


def _erfcx_reference(x: float) -> float:
    if x < 6:
        return math.exp(x * x) * math.erfc(x)
    term = total = 1.0
    for k in range(1, 30):
        term *= -(2 * k - 1) / (2 * x * x)
        total += term
    return total / (x * math.sqrt(math.pi))


@functools.cache
def _erfcx_coefficients(itemsize: int) -> tuple[float, ...]:
    r"""$(1 + 2x)\,\mathrm{erfcx}(x)$ in $(x - 3.75)/(x + 3.75)$, highest first."""
    y = np.cos(np.pi * (np.arange(96) + 0.5) / 96)
    x = 3.75 * (1 + y) / (1 - y)
    values = [(1 + 2 * t) * _erfcx_reference(t) for t in x]
    chebyshev = np.polynomial.chebyshev
    fit = chebyshev.chebfit(y, values, _DEGREE[itemsize])
    return tuple(map(float, chebyshev.cheb2poly(fit)[::-1]))


def _erfcx(x: Array) -> Array:
    r"""$e^{x^2}\mathrm{erfc}(x)$ for $x \ge 0$."""
    y = 1 - 7.5 / (x + 3.75)
    value = jnp.zeros_like(x)
    for c in _erfcx_coefficients(x.dtype.itemsize):
        value = value * y + c
    return value / (1 + 2 * x)


def _radial(x: Array) -> tuple[Array, Array, Array]:
    r"""$M_0, M_1, M_2$ for $x \le 0$."""
    m0 = math.sqrt(math.pi / 2) * _erfcx(-x / math.sqrt(2))
    m1 = 1 + x * m0
    return m0, m1, m0 + x * m1


@dataclasses.dataclass(frozen=True)
class PiecewiseExponential(Nonlinearity):
    r"""Rules of $\lambda\,(x^+ + \alpha(e^{x^-} - 1))$."""

    label: str

    @property
    def name(self) -> str:  # pyright: ignore
        """What the user called."""
        return self.label

    @property
    def numbers(self) -> tuple[str, ...]:  # pyright: ignore
        """Those of `selu` are part of its name."""
        return ("alpha",) if self.label == "elu" else ()

    def _constants(self, numbers):
        return _SELU if self.label == "selu" else (numbers[0], 1.0)

    def moments(self, numbers, q):
        r"""By $\mathbb E e^{tu} 1_{u<0} = \mathrm{erfcx}(t\sqrt{q/2})/2$."""
        alpha, scale = self._constants(numbers)
        root = safe_sqrt(q)
        once = _erfcx(root / math.sqrt(2)) / 2
        twice = _erfcx(root * math.sqrt(2)) / 2
        second = q / 2 + alpha**2 * (twice - 2 * once + 0.5)
        mean = root / math.sqrt(2 * math.pi) + alpha * (once - 0.5)
        # At variance 0 rounding leaves -1e-16, whose root would be NaN.
        return scale**2 * jnp.maximum(second, 0), scale * mean, ()

    def dual(self, numbers, h):
        """Sector $(+,+)$ in closed form, the others by quadrature."""
        alpha, scale = self._constants(numbers)
        theta, j = angle(h.v, h.w, h.half)
        root1, root2 = h.one.root, h.two.root
        positive = math.pi * (1 - h.v) + j  # sin + (pi - theta) cos
        nodes, weights = np.polynomial.legendre.leggauss(_NODES[theta.dtype.itemsize])

        def mixed(above, below):
            """One map's argument positive, `above R`, the other's negative."""
            _, m1, m2 = _radial(-below)
            return alpha * above * (m2 - math.sqrt(math.pi / 2)), alpha * m1

        def step(sums, node):
            x, weight = node
            f, fd = sums
            psi = x * theta / 2
            plus, minus = jnp.sin(theta / 2 + psi), jnp.sin(theta / 2 - psi)
            f1, d1 = mixed(root1 * plus, root2 * minus)
            f2, d2 = mixed(root2 * minus, root1 * plus)
            psi = x * (math.pi - theta) / 2
            a = -root1 * jnp.cos(psi + theta / 2)
            b = -root2 * jnp.cos(psi - theta / 2)
            at_a, at_b, at_both = (_radial(x) for x in (a, b, a + b))
            f3 = (a + b) * at_both[0] - a * at_a[0] - b * at_b[0]  # M_1 - 1 = x M_0
            f3, d3 = alpha**2 * f3, alpha**2 * at_both[1]
            narrow, wide = weight * theta / 2, weight * (math.pi - theta) / 2
            f = f + narrow * (f1 + f2) + wide * f3
            return (f, fd + narrow * (d1 + d2) + wide * d3), None

        xs = (jnp.asarray(nodes, theta.dtype), jnp.asarray(weights, theta.dtype))
        start = (h.norm * positive, math.pi - theta)
        (f, fd), _ = jax.lax.scan(step, start, xs)
        return scale**2 / (2 * math.pi) * f, scale**2 / (2 * math.pi) * fd

    def apply(self, numbers, params, *args: Array, key) -> Array:
        """The map."""
        alpha, scale = self._constants(numbers)
        (x,) = args
        return scale * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


def elu(h: Symbol, *, alpha: Number = 1.0) -> Symbol:
    r"""$x$ above zero and $\alpha(e^x - 1)$ below, to 1e-10 up to variance 16."""
    return emit(PiecewiseExponential("elu"), [h], [alpha])


def selu(h: Symbol) -> Symbol:
    r"""The self-normalising `elu` of Klambauer et al. (arXiv:1706.02515)."""
    return emit(PiecewiseExponential("selu"), [h], [])
