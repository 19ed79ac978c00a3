r"""Polynomials of a Gaussian.

With normalised Hermite polynomials $h_l$ and $z^j = \sum_l M_{jl} h_l(z)$,
$f(\sqrt q z) = \sum_l q^{l/2}\,\hat a_l(q)\,h_l(z)$ where
$\hat a_l(q) = \sum_j c_j M_{jl} q^{(j - l)/2}$ is a polynomial, so that

$$F = \sum_l \hat a_l(q_1)\,\hat a_l(q_2)\,k^l.$$

There is no square root in it: it is smooth in everything, also at $q = 0$.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import check_positive
from ._graph import Number, Symbol, emit
from ._nonlinearity import Nonlinearity


@dataclasses.dataclass(frozen=True)
class Polynomial(Nonlinearity):
    """Rules of `polynomial`, `monomial` and `hermite`; a number for each power."""

    label: str
    powers: tuple[int, ...]

    @property
    def name(self) -> str:  # pyright: ignore
        """What the user called."""
        return self.label

    @property
    def numbers(self) -> tuple[str, ...]:  # pyright: ignore
        """The coefficients."""
        return tuple(f"x^{j}" for j in self.powers)

    def __str__(self) -> str:
        return ", ".join(self.numbers)

    @property
    def centred(self) -> bool:
        """Odd polynomials are."""
        return all(j % 2 for j in self.powers)

    def moments(self, numbers, q):
        r"""$\sum_l q^l \hat a_l^2$, and $\hat a_0$."""
        weights = []
        for l in range(max(self.powers) + 1):  # noqa: E741
            terms = [
                c * _hermite_moment(j, l) * q ** ((j - l) // 2)
                for j, c in zip(self.powers, numbers, strict=True)
                if j >= l and (j - l) % 2 == 0
            ]
            weights.append(sum(terms, jnp.zeros_like(q)))
        second = sum(a**2 * q**l for l, a in enumerate(weights))  # noqa: E741
        return second, None if self.centred else weights[0], tuple(weights)

    def dual(self, numbers, h):
        """Horner's scheme for $F$ and its derivative in $k$."""
        k = h.k
        f, fd = jnp.zeros_like(k), jnp.zeros_like(k)
        for a1, a2 in zip(h.one.weights[::-1], h.two.weights[::-1], strict=True):
            fd = fd * k + f
            f = f * k + a1 * a2
        return f, fd

    def apply(self, numbers, params, *args: Array, key) -> Array:
        """The map."""
        (x,) = args
        terms = zip(self.powers, numbers, strict=True)
        return sum((c * x**j for j, c in terms), jnp.zeros_like(x))


def _hermite_moment(j: int, l: int) -> float:  # noqa: E741
    r"""$M_{jl} = \mathbb E z^j h_l(z)$."""
    m = (j - l) // 2
    return math.factorial(j) / (2**m * math.factorial(m) * math.sqrt(math.factorial(l)))


def polynomial(h: Symbol, coefficients: Sequence[Number]) -> Symbol:
    r"""$\sum_j c_j x^j$.

    Args:
        h: A Gaussian value.
        coefficients: $c_0, c_1, \dots$, numbers or tracers.

    Returns:
        A value that is not Gaussian.

    Raises:
        ValueError: if there is no coefficient.
    """
    coefficients = list(coefficients)
    if not coefficients:
        raise ValueError("polynomial: `coefficients` must not be empty, got [].")
    powers = tuple(range(len(coefficients)))
    return emit(Polynomial("polynomial", powers), [h], coefficients)


def monomial(h: Symbol, *, degree: int) -> Symbol:
    r"""$x^k$ for a degree $k \ge 1$."""
    check_positive("monomial", degree=degree)
    return emit(Polynomial("monomial", (degree,)), [h], [1.0])


def hermite(h: Symbol, *, degree: int) -> Symbol:
    r"""The normalised Hermite polynomial $h_k(x) = \mathrm{He}_k(x) / \sqrt{k!}$.

    At unit variance $F = k^{\text{degree}}$; other variances are evaluated exactly too.
    """
    check_positive("hermite", degree=degree)
    basis = np.polynomial.hermite_e.herme2poly([0.0] * degree + [1.0])
    basis = basis / math.sqrt(math.factorial(degree))
    powers = tuple(range(degree % 2, degree + 1, 2))
    return emit(Polynomial("hermite", powers), [h], [float(basis[j]) for j in powers])
