r"""Duals of scalar maps by quadrature in NumPy: what the engine is compared with.

`MAPS[name](**options)` is a map with its derivative, named as in `jaxarch.kernels`.
Smooth maps take a product of trapezoid rules, which converge geometrically; maps with a
kink at zero take Gauss-Legendre rules in polar coordinates, whose sectors end where one
of the two arguments is zero.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from numpy.polynomial import hermite_e, polynomial
from scipy import special


@dataclasses.dataclass(frozen=True)
class Map:
    f: Callable
    derivative: Callable
    kinked: bool = False


def _abrelu(a, b):
    return Map(
        lambda x: np.where(x < 0, a * x, b * x),
        lambda x: np.where(x < 0, a, b) * np.ones_like(x),
        kinked=True,
    )


def _elu(alpha=1.0, scale=1.0):
    return Map(
        lambda x: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda x: scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0))),
        kinked=True,
    )


def _erf(a=1.0, b=1.0, c=0.0):
    slope = 2 * a * b / np.sqrt(np.pi)
    return Map(
        lambda x: a * special.erf(b * x) + c,
        lambda x: slope * np.exp(-((b * x) ** 2)),
    )


def _sin(a=1.0, b=1.0, c=0.0):
    return Map(lambda x: a * np.sin(b * x + c), lambda x: a * b * np.cos(b * x + c))


def _rbf(gamma=1.0):
    return _sin(np.sqrt(2), np.sqrt(2 * gamma), np.pi / 4)


def _polynomial(coefficients):
    slope = polynomial.polyder(coefficients)
    return Map(
        lambda x: polynomial.polyval(x, coefficients),
        lambda x: polynomial.polyval(x, slope),
    )


def _hermite(degree):
    basis = hermite_e.herme2poly([0] * degree + [1])
    return _polynomial(basis / np.sqrt(special.factorial(degree)))


def _gelu():
    return Map(
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    )


def _silu():
    def derivative(x):
        s = special.expit(x)
        return s + x * s * (1 - s)

    return Map(lambda x: x * special.expit(x), derivative)


def _mish():
    def derivative(x):
        t = np.tanh(np.logaddexp(0, x))
        return t + x * (1 - t**2) * special.expit(x)

    return Map(lambda x: x * np.tanh(np.logaddexp(0, x)), derivative)


MAPS = {
    "abrelu": _abrelu,
    "absolute": lambda: _abrelu(-1.0, 1.0),
    "cos": lambda a=1.0, b=1.0, c=0.0: _sin(a, b, c + np.pi / 2),
    "elu": _elu,
    "erf": _erf,
    "exp": lambda a=1.0, b=1.0: Map(
        lambda x: a * np.exp(b * x), lambda x: a * b * np.exp(b * x)
    ),
    "gabor": lambda: Map(
        lambda x: np.exp(-(x**2)) * np.sin(x),
        lambda x: np.exp(-(x**2)) * (np.cos(x) - 2 * x * np.sin(x)),
    ),
    "gaussian": lambda a=1.0, b=-1.0: Map(
        lambda x: a * np.exp(b * x**2), lambda x: 2 * a * b * x * np.exp(b * x**2)
    ),
    "gelu": _gelu,
    "hermite": _hermite,
    "leaky_relu": lambda alpha=0.01: _abrelu(alpha, 1.0),
    "mish": _mish,
    "monomial": lambda degree: _polynomial([0.0] * degree + [1.0]),
    "polynomial": _polynomial,
    "rbf": _rbf,
    "rectified_monomial": lambda degree: Map(
        lambda x: np.maximum(x, 0) ** degree,
        lambda x: degree * np.where(x > 0, x, 0) ** (degree - 1) * (x > 0),
        kinked=True,
    ),
    "relu": lambda: _abrelu(0.0, 1.0),
    "selu": lambda: _elu(1.6732632423543772, 1.0507009873554805),
    "sigmoid_like": lambda: _erf(0.5, 1 / 2.4020563531719796, 0.5),
    "sign": lambda: Map(np.sign, np.zeros_like, kinked=True),
    "silu": _silu,
    "sin": _sin,
    "softplus": lambda: Map(lambda x: np.logaddexp(0, x), special.expit),
    "tanh": lambda: Map(np.tanh, lambda x: 1 - np.tanh(x) ** 2),
}

# With the exponential at variance 16 the mass is at z = 8.
_Z = np.arange(-224, 225) / 14
_DENSITY = np.exp(-(_Z**2) / 2) / np.sqrt(2 * np.pi) / 14


_unit_legendre = functools.cache(np.polynomial.legendre.leggauss)


def _legendre(nodes, low, high):
    x, weight = _unit_legendre(nodes)
    return low + (high - low) * (x + 1) / 2, weight * (high - low) / 2


def moment(f, q, *, kinked):
    r"""$\mathbb E f(\sqrt q z)$."""
    if not kinked:
        return f(np.sqrt(q) * _Z) @ _DENSITY
    z, weight = _legendre(90, 0, 13)
    weight = weight * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return (f(np.sqrt(q) * z) + f(-np.sqrt(q) * z)) @ weight


def _smooth_dual(f, q1, q2, rho):
    u = np.sqrt(q1) * _Z
    v = np.sqrt(q2) * (rho * _Z[:, None] + np.sqrt(1 - rho**2) * _Z)
    return (f(u) * _DENSITY) @ f(v) @ _DENSITY


def _polar_dual(f, q1, q2, rho):
    theta = np.arccos(rho)
    zeros = np.array([-np.pi / 2, np.pi / 2, theta - np.pi / 2, theta + np.pi / 2])
    zeros = (zeros + np.pi) % (2 * np.pi) - np.pi
    ends = np.sort([-np.pi, *zeros, np.pi])
    r, radial = _legendre(90, 0, 13)
    radial = radial * r * np.exp(-(r**2) / 2) / (2 * np.pi)
    total = 0.0
    for low, high in zip(ends, ends[1:], strict=False):
        phi, weight = _legendre(50, low, high)
        u = np.sqrt(q1) * r * np.cos(phi)[:, None]
        v = np.sqrt(q2) * r * np.cos(phi - theta)[:, None]
        total += weight @ (f(u) * f(v)) @ radial
    return total


def dual(f, q1, q2, rho, *, kinked):
    r"""$\mathbb E f(u) f(v)$ at variances $q_1, q_2$ and correlation $\rho$."""
    return (_polar_dual if kinked else _smooth_dual)(f, q1, q2, rho)
