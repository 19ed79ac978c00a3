r"""Nonlinearities whose dual $F = \mathbb E f(u) f(u')$ has a closed form.

Each is three short functions: the map, its mean and $F$; the derivative kernel is the
derivative of $F$. In all of them $S = q_1 + q_2$ and $d = q_1 q_2 - c^2$.

Sources: Williams (1997) for `erf`; Tsuchida, Pearce, van der Heide, Roosta and
Gallagher (arXiv:2002.08517) for `gelu`; Daniely, Frostig and Singer (arXiv:1602.05897)
and Han et al. (arXiv:2209.04121) for the rest. Every one is checked against
quadrature to 1e-10 in the tests.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._angle import angle, safe_sqrt
from ._graph import Number, Symbol, emit
from ._nonlinearity import FORMS, ClosedForm, Form


@jax.custom_jvp
def _arctan(c: Array, e: Array) -> Array:
    r"""$\mathrm{atan2}(c, \sqrt e)$ for $e > 0$, without the library's slow `atan2`."""
    r = jnp.sqrt(c**2 + e)
    small = e / (r * (r + jnp.abs(c)))  # 1 - |cos|
    theta, _ = angle(
        jnp.where(c >= 0, small, 2 - small), jnp.where(c >= 0, 2 - small, small)
    )
    return math.pi / 2 - theta


@_arctan.defjvp
def _arctan_jvp(primals, tangents):
    (c, e), (dc, de) = primals, tangents
    root = jnp.sqrt(e)
    return _arctan(c, e), (root * dc - c * de / (2 * root)) / (c**2 + e)


# --- erf ---------------------------------------------------------------------


# JAX 0.12 refuses its own derivatives of these two inside `jax.shard_map`.


@jax.custom_jvp
def _erf(x: Array) -> Array:
    return jax.lax.erf(x)


@jax.custom_jvp
def _erfc(x: Array) -> Array:
    return jax.lax.erfc(x)


def _bell(primals, tangents):
    (x,), (dx,) = primals, tangents
    return 2 / math.sqrt(math.pi) * jnp.exp(-(x**2)) * dx


_erf.defjvp(lambda x, dx: (_erf(*x), _bell(x, dx)))
_erfc.defjvp(lambda x, dx: (_erfc(*x), -_bell(x, dx)))


def _erf_dual(q1, q2, c, d, a, b, shift):
    e = 1 + 2 * b**2 * (q1 + q2) + 4 * b**4 * d
    return a**2 * (2 / math.pi) * _arctan(2 * b**2 * c, e) + shift**2


FORMS["erf_shifted"] = Form(
    apply=lambda x, a, b, shift: a * _erf(b * x) + shift,
    mean=lambda q, a, b, shift: jnp.broadcast_to(shift, q.shape).astype(q.dtype),
    dual=_erf_dual,
    numbers=("a", "b", "c"),
)
FORMS["erf"] = Form(
    apply=lambda x, a, b: a * _erf(b * x),
    mean=None,
    dual=lambda q1, q2, c, d, a, b: _erf_dual(q1, q2, c, d, a, b, 0.0),
    numbers=("a", "b"),
)


# --- gelu --------------------------------------------------------------------


def _gelu_dual(q1, q2, c, d):
    p = (1 + q1) * (1 + q2)
    e = 1 + q1 + q2 + d  # p - c^2
    root = jnp.sqrt(e)
    ratio = (c**2 + q1 * q2 * e) / (p * root)
    return c / 4 + (ratio + c * _arctan(c, e)) / (2 * math.pi)


FORMS["gelu"] = Form(
    apply=lambda x: x * _erfc(-x / math.sqrt(2)) / 2,
    mean=lambda q: q / jnp.sqrt(2 * math.pi * (1 + q)),
    dual=_gelu_dual,
)


# --- trigonometric and exponential -------------------------------------------


def _waves(q1, q2, c, b):
    s = (q1 + q2) / 2
    return jnp.exp(-(b**2) * (s - c)), jnp.exp(-(b**2) * (s + c))


def _sin_dual(q1, q2, c, d, a, b, phase):
    near, far = _waves(q1, q2, c, b)
    return a**2 / 2 * (near - jnp.cos(2 * phase) * far)


def _cos_dual(q1, q2, c, d, a, b, phase):
    near, far = _waves(q1, q2, c, b)
    return a**2 / 2 * (near + jnp.cos(2 * phase) * far)


FORMS["sin"] = Form(
    apply=lambda x, a, b, phase: a * jnp.sin(b * x + phase),
    mean=lambda q, a, b, phase: a * jnp.exp(-(b**2) * q / 2) * jnp.sin(phase),
    dual=_sin_dual,
    numbers=("a", "b", "c"),
)
FORMS["cos"] = Form(
    apply=lambda x, a, b, phase: a * jnp.cos(b * x + phase),
    mean=lambda q, a, b, phase: a * jnp.exp(-(b**2) * q / 2) * jnp.cos(phase),
    dual=_cos_dual,
    numbers=("a", "b", "c"),
)
FORMS["rbf"] = Form(
    apply=lambda x, gamma: (
        math.sqrt(2) * jnp.sin(jnp.sqrt(2 * gamma) * x + math.pi / 4)
    ),
    mean=lambda q, gamma: jnp.exp(-gamma * q),
    dual=lambda q1, q2, c, d, gamma: jnp.exp(-gamma * (q1 + q2 - 2 * c)),
    numbers=("gamma",),
    nonnegative=True,
)
FORMS["exp"] = Form(
    apply=lambda x, a, b: a * jnp.exp(b * x),
    mean=lambda q, a, b: a * jnp.exp(b**2 * q / 2),
    dual=lambda q1, q2, c, d, a, b: a**2 * jnp.exp(b**2 * ((q1 + q2) / 2 + c)),
    numbers=("a", "b"),
    nonnegative=True,
)
FORMS["gaussian"] = Form(
    apply=lambda x, a, b: a * jnp.exp(b * x**2),
    mean=lambda q, a, b: a / jnp.sqrt(1 - 2 * b * q),
    dual=lambda q1, q2, c, d, a, b: (
        a**2 * jax.lax.rsqrt(1 - 2 * b * (q1 + q2) + 4 * b**2 * d)
    ),
    numbers=("a", "b"),
    nonnegative=True,
)


def _exp_normalized_dual(q1, q2, c, d, gamma, shift):
    norm = safe_sqrt(q1) * safe_sqrt(q2)
    positive = norm > 0
    cosine = jnp.where(positive, c / jnp.where(positive, norm, 1), 0)
    return norm * jnp.exp(gamma * (cosine + shift))


FORMS["exp_normalized"] = Form(
    apply=None,
    mean=lambda q, gamma, shift: safe_sqrt(q) * jnp.exp(gamma * shift / 2),
    dual=_exp_normalized_dual,
    numbers=("gamma", "shift"),
    nonnegative=True,
)


def _gabor_dual(q1, q2, c, d):
    s = q1 + q2
    g = 2 * s + 4 * d + 1
    return (
        jnp.exp(-(s + 4 * d + 2 * c) / (2 * g))
        * jnp.expm1(2 * c / g)
        / (2 * jnp.sqrt(g))
    )


FORMS["gabor"] = Form(
    apply=lambda x: jnp.exp(-(x**2)) * jnp.sin(x), mean=None, dual=_gabor_dual
)


# --- what users call ---------------------------------------------------------


def _apply(form: str, h: Symbol, *numbers: Number) -> Symbol:
    return emit(ClosedForm(form), [h], numbers)


def _is_zero(x: Number) -> bool:
    return isinstance(x, (int, float)) and x == 0


def erf(h: Symbol, *, a: Number = 1.0, b: Number = 1.0, c: Number = 0.0) -> Symbol:
    r"""$a\,\mathrm{erf}(b x) + c$.

    $$F = \frac{2 a^2}{\pi}\arcsin\frac{2 b^2 k}{\sqrt{(1 + 2 b^2 q_1)(1 + 2 b^2 q_2)}}
      + c^2.$$
    """
    if _is_zero(c):
        return _apply("erf", h, a, b)
    return _apply("erf_shifted", h, a, b, c)


def sigmoid_like(h: Symbol) -> Symbol:
    """An `erf` that looks like the logistic function, `(erf(x / 2.402...) + 1) / 2`."""
    return _apply("erf_shifted", h, 0.5, 1 / 2.4020563531719796, 0.5)


def gelu(h: Symbol) -> Symbol:
    r"""$x\,\Phi(x)$, exactly. With $p = (1 + q_1)(1 + q_2)$ and $e = p - k^2$,.

    $$F = \frac k4 + \frac1{2\pi}\Big(\frac{k^2 + q_1 q_2 e}{p\sqrt e}
      + k\,\mathrm{atan2}(k, \sqrt e)\Big).$$
    """
    return _apply("gelu", h)


def sin(h: Symbol, *, a: Number = 1.0, b: Number = 1.0, c: Number = 0.0) -> Symbol:
    r"""$a\sin(b x + c)$.

    $$F = \tfrac{a^2}2\big(e^{-b^2(S/2 - k)} - \cos(2c)\,e^{-b^2(S/2 + k)}\big).$$
    """
    return _apply("sin", h, a, b, c)


def cos(h: Symbol, *, a: Number = 1.0, b: Number = 1.0, c: Number = 0.0) -> Symbol:
    r"""$a\cos(b x + c)$.

    $$F = \tfrac{a^2}2\big(e^{-b^2(S/2 - k)} + \cos(2c)\,e^{-b^2(S/2 + k)}\big).$$
    """
    return _apply("cos", h, a, b, c)


def rbf(h: Symbol, *, gamma: Number = 1.0) -> Symbol:
    r"""$\sqrt2\sin(\sqrt{2\gamma}\,x + \pi/4)$, with $F = e^{-\gamma(S - 2k)}$."""
    return _apply("rbf", h, gamma)


def gaussian(h: Symbol, *, a: Number = 1.0, b: Number = -1.0) -> Symbol:
    r"""$a\,e^{b x^2}$, with $F = a^2 / \sqrt{1 - 2bS + 4 b^2 d}$.

    For $b > 0$ the moments exist while $4 b q < 1$; beyond, the kernel is NaN.
    """
    return _apply("gaussian", h, a, b)


def exp(h: Symbol, *, a: Number = 1.0, b: Number = 1.0) -> Symbol:
    r"""$a\,e^{b x}$, with $F = a^2 e^{b^2(S/2 + k)}$."""
    return _apply("exp", h, a, b)


def exp_normalized(h: Symbol, *, gamma: Number = 1.0, shift: Number = -1.0) -> Symbol:
    r"""The dual $F = n\,e^{\gamma(k/n + s)}$, $n = \sqrt{q_1 q_2}$, which has no map.

    A finite network does not exist: `ker.finite(...).apply` raises
    `NotImplementedError`.
    """
    return _apply("exp_normalized", h, gamma, shift)


def gabor(h: Symbol) -> Symbol:
    r"""$e^{-x^2}\sin x$. With $G = 2S + 4d + 1$,.

    $$F = \frac{e^{2k/G} - 1}{2\sqrt G}\,e^{-(S + 4d + 2k)/(2G)}.$$
    """
    return _apply("gabor", h)
