r"""Any smooth scalar function, by its Hermite expansion.

With $a_k(q) = \mathbb E f(\sqrt q z) h_k(z)$ for normalised Hermite polynomials $h_k$
and $\rho = k / \sqrt{q_1 q_2}$ (Mehler's formula),

$$F = \sum_k a_k(q_1)\,a_k(q_2)\,\rho^k,$$

and $\dot F$ is the same sum for $f'$. A sum of $K$ terms is off by at most
$\sqrt{R(q_1) R(q_2)}$, where $R(q) = \mathbb E f^2 - \sum_{k<K} a_k^2$ is known: this
is the error estimate. How many terms matter depends on the variances (tanh needs 65,
225 and 813 for 1e-10 at variance 1, 4 and 16), so the sum runs in blocks, and those
below rounding are skipped. What 1536 terms cannot represent is NaN, never a wrong
number.

The coefficients are trapezoid sums, which converge geometrically here; Gauss-Hermite
weights from eigenvectors break down beyond 64 nodes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._angle import safe_sqrt
from ._graph import Symbol, emit
from ._nonlinearity import Nonlinearity

_TERMS = 1536
_BLOCK = 32
_RANGE = 14.0
_NODES = 801


def _mish(x: Array) -> Array:
    return x * jnp.tanh(jax.nn.softplus(x))


_NAMED: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "mish": _mish,
}


@functools.cache
def _hermite_rule() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, weights and the products of weights with $h_k$, `(nodes, terms)`."""
    z = np.linspace(-_RANGE, _RANGE, _NODES)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    columns = [weight, z * weight]
    for k in range(1, _TERMS - 1):
        columns.append(
            (z * columns[k] - math.sqrt(k) * columns[k - 1]) / math.sqrt(k + 1)
        )
    return z, weight, np.stack(columns, axis=1)


def _coefficients(f: Callable, root: Array) -> tuple[Array, Array, Array]:
    """Coefficients `(terms, n)`, second moment and the share of it that they miss."""
    z, weight, table = _hermite_rule()
    dtype = root.dtype
    values = f(jnp.multiply.outer(root, jnp.asarray(z, dtype)))
    a = jnp.matmul(values, jnp.asarray(table, dtype), precision="highest")
    second = jnp.matmul(values**2, jnp.asarray(weight, dtype), precision="highest")
    missed = second - (a**2).sum(-1)
    return jnp.moveaxis(a, -1, 0), second, missed


def _tolerance(dtype) -> float:
    """The missed share of the second moment beyond which the result is NaN."""
    return 1e-4 if jnp.dtype(dtype).itemsize < 8 else 1e-8


Coefficients = tuple[Array, ...]  # of a function and of its derivative


def expand_moments(f: Callable, q: Array) -> tuple[Array, Array, Coefficients]:
    r"""$\mathbb E f^2$ (NaN if the terms miss too much of it), the mean, coefficients.

    Args:
        f: A function of arrays that acts on each number alone.
        q: Variances.
    """
    root = safe_sqrt(q)
    a, second, missed_a = _coefficients(f, root)
    b, slope, missed_b = _coefficients(jnp.vectorize(jax.grad(f)), root)
    tolerance = _tolerance(q.dtype)
    bad = (missed_a > tolerance * second) | (missed_b > tolerance * slope)
    second = jnp.where(jax.lax.stop_gradient(bad), jnp.nan, second)
    return second, a[0], (a, b)


def series(one: Coefficients, two: Coefficients, rho: Array) -> tuple[Array, Array]:
    r"""$F$ and $\dot F$ of two functions, by Horner's scheme in blocks.

    From the highest block that matters down.
    """
    (a1, b1), (a2, b2) = one, two
    tolerance = jnp.finfo(rho.dtype).eps / 8

    def needed(x1, x2):
        axes = tuple(range(1, x1.ndim))
        bound = jnp.abs(x1).max(axes) * jnp.abs(x2).max(axes)
        tail = jnp.cumsum(bound.reshape(-1, _BLOCK).sum(-1)[::-1])
        return tail > tolerance * tail[-1]

    def blocks(x):
        return x.reshape(-1, _BLOCK, *x.shape[1:])[::-1]

    def horner(sums, coefficients):
        f, fd = sums
        x1, x2, y1, y2 = coefficients
        for k in reversed(range(_BLOCK)):
            f = f * rho + x1[k] * x2[k]
            fd = fd * rho + y1[k] * y2[k]
        return f, fd

    def step(sums, xs):
        wanted, *coefficients = xs
        return jax.lax.cond(
            wanted, horner, lambda sums, _: sums, sums, coefficients
        ), None

    wanted = jax.lax.stop_gradient(needed(a1, a2) | needed(b1, b2))
    zero = jnp.zeros_like(rho)
    xs = (wanted, *map(blocks, (a1, a2, b1, b2)))
    (f, fd), _ = jax.lax.scan(step, (zero, zero), xs)
    return f, fd


@dataclasses.dataclass(frozen=True)
class Expansion(Nonlinearity):
    """Rules of `elementwise` and of the smooth functions that are ready-made."""

    label: str
    fn: Callable | None = None
    named: bool = False  # whether the user gave the label, which then stands for `fn`

    @property
    def name(self) -> str:  # pyright: ignore
        """The function's."""
        return self.label if self.fn is None else "elementwise"

    def __str__(self) -> str:
        return "" if self.fn is None else self.label

    @property
    def centred(self) -> bool:
        """Only `tanh` is known to be odd."""
        return self.label == "tanh" and self.fn is None

    @property
    def _function(self) -> Callable:
        return _NAMED[self.label] if self.fn is None else self.fn

    def moments(self, numbers, q):
        """The coefficients of $f$ and $f'$ are the weights."""
        second, mean, weights = expand_moments(self._function, q)
        return second, None if self.centred else mean, weights

    def dual(self, numbers, h):
        """The series."""
        return series(h.one.weights, h.two.weights, 1 - h.v)

    def apply(self, numbers, params, *args: Array, key) -> Array:
        """The map."""
        return self._function(args[0])


def elementwise_error(fn: Callable[[Array], Array], variance) -> Array:
    r"""Estimates how well `elementwise` represents a function.

    Args:
        fn: A function of one number.
        variance: Variance of its Gaussian argument, any shape.

    Returns:
        The share $1 - \sum_k a_k^2 / \mathbb E f^2$ of the second moment that 1536
        Hermite coefficients miss, or that of $f'$ if it is larger, in the shape of
        `variance`. It bounds the relative error of $F$ (of $\dot F$). A value near
        rounding is 0 for all purposes.
    """
    variance = jnp.asarray(variance)
    if not jnp.issubdtype(variance.dtype, jnp.floating):
        variance = variance * 1.0
    root = safe_sqrt(variance)
    fn = jnp.vectorize(fn)
    shares = []
    for f in (fn, jnp.vectorize(jax.grad(lambda x: fn(x)))):
        _, second, missed = _coefficients(f, root)
        shares.append(missed / jnp.where(second > 0, second, 1))
    return jnp.maximum(*shares)


def _refuse_rough(fn: Callable, label: str) -> None:
    with jax.ensure_compile_time_eval():
        error = float(elementwise_error(fn, jnp.float32(1.0)))
    tolerance = _tolerance(jnp.float32)
    if not error < tolerance:
        raise ValueError(
            f"elementwise: `fn` must be smooth: {_TERMS} Hermite terms of {label} or "
            f"of its derivative must miss less than {tolerance:.0e} of its second "
            f"moment at variance 1, got {error:.1e}. Write kinks with `abrelu`."
        )


def elementwise(
    h: Symbol, fn: Callable[[Array], Array], *, name: str | None = None
) -> Symbol:
    r"""Any smooth function of one number, by its Hermite expansion.

    Time is O(K) per pair, with K the terms that are not below rounding. The error is
    1e-10 and better while the terms suffice (tanh: up to variance 16); where the 1536
    terms miss more than 1e-8 of the second moment (1e-4 in float32), at large variances
    or for a function with a kink, the kernel is NaN. `elementwise_error` estimates it.

    Args:
        h: A Gaussian value.
        fn: A function of a number that JAX can differentiate, best a module-level one:
            a fresh lambda compiles again and does not pickle.
        name: Stands for the function in printed graphs and in the digest of a stored
            Gram (`gram`), which is refused without it. Another function needs another
            name.

    Returns:
        A value that is not Gaussian.

    Raises:
        ValueError: if `fn` has a kink or a jump, seen by its slow decay.
    """
    if not callable(fn):
        raise TypeError(
            f"elementwise: `fn` must be a function, got {type(fn).__name__}."
        )
    label = name or getattr(fn, "__name__", "fn")
    _refuse_rough(fn, label)
    return emit(Expansion(label, fn, name is not None), [h], [])


def tanh(h: Symbol) -> Symbol:
    r"""$\tanh x$, by its Hermite expansion."""
    return emit(Expansion("tanh"), [h], [])


def silu(h: Symbol) -> Symbol:
    r"""$x / (1 + e^{-x})$, by its Hermite expansion."""
    return emit(Expansion("silu"), [h], [])


def softplus(h: Symbol) -> Symbol:
    r"""$\log(1 + e^x)$, by its Hermite expansion."""
    return emit(Expansion("softplus"), [h], [])


def mish(h: Symbol) -> Symbol:
    r"""$x\tanh(\log(1 + e^x))$, by its Hermite expansion."""
    return emit(Expansion("mish"), [h], [])
