r"""Sums, products, multiples and concatenations of values.

For branches with disjoint sources (`_cross.py` has the others), at every coordinate,
$\mathbb E(a + b)(a' + b') = k_a + k_b + m_a m_b' + m_b m_a'$ and
$\mathbb E a b\,a' b' = k_a k_b$. The means matter: without them
$\mathrm{relu}(u) + \mathrm{relu}(W\,\mathrm{relu}(u))$ is more than half off.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ._covariance import (
    Covariance,
    Marginal,
    Pair,
    centred_weights,
    direct_sum,
    gap,
    relative,
    vanish,
)
from ._graph import Number, Operation, Shape, Symbol, Value, emit


def _same_space(where: str, shapes: Sequence[Shape]) -> tuple[int, ...]:
    spaces = {shape.space for shape in shapes}
    if len(spaces) > 1:
        raise ValueError(
            f"{where}: the branches must have one shape of positions, "
            f"got {', '.join(str(shape.space) for shape in shapes)}."
        )
    return shapes[0].space


def _same_shape(where: str, shapes: Sequence[Shape]) -> Shape:
    known = {shape.features for shape in shapes if shape.features is not None}
    if len(known) > 1:
        raise ValueError(
            f"{where}: the branches must have one number of features, "
            f"got {', '.join(str(shape.features) for shape in shapes)}."
        )
    return Shape(_same_space(where, shapes), known.pop() if known else None)


def mixed_means(values: Sequence[Value]) -> bool:
    """Whether the product of two means says nothing of the mean of the products."""
    return all(value.mixed and not value.centred for value in values)


def _sum_of(slopes) -> Array | float | None:
    slopes = [s for s in slopes if s is not None]
    return sum(slopes) if slopes else None


@dataclasses.dataclass(frozen=True)
class Add(Operation):
    """Rules of `h1 + h2`."""

    name = "add"

    def infer(self, *args: Value) -> Value:
        """A sum of Gaussians of one network is Gaussian."""
        a, b = args
        if mixed_means(args) and "input" in a.sources | b.sources:
            raise ValueError(
                "add: one of the branches must have coordinates of one law or of mean "
                "zero, got two that are an input or a concatenation."
            )
        return Value(
            a.sources | b.sources,
            gaussian=a.gaussian and b.gaussian,
            centred=a.centred and b.centred,
            mixed=a.mixed or b.mixed,
        )

    def shape(self, *args: Shape) -> Shape:
        """Both branches have it."""
        return _same_shape("add", args)

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        """$q_a + q_b + 2 m_a m_b$."""
        a, b = args
        if a.mean is None or b.mean is None:
            out = Marginal.of(a.q + b.q, b.mean if a.mean is None else a.mean)
            return out._replace(weights=(a.root * out.inverse, b.root * out.inverse))
        mean = a.mean + b.mean
        out = Marginal.of(a.q + b.q + 2 * a.mean * b.mean, mean)
        weights = [a.root * out.inverse, b.root * out.inverse, mean * out.inverse]
        return out._replace(
            weights=(*weights, *centred_weights(a), *centred_weights(b))
        )

    def pair(self, numbers, *args: Covariance, out1, out2, shapes, rules) -> Pair:
        r"""Equation (1); with two means the parts are both centred parts and the mean.

        A branch that is split into its centred part and its mean,
        $\sigma = (c, \mu)$, has $c c' v_c = v - \tfrac12|\sigma - \sigma'|^2$.
        """
        a, b = args
        if len(out1.weights) == 2:
            (a1, b1), (a2, b2) = out1.weights, out2.weights
            v, w = direct_sum([(a1, a2, a.v, a.w), (b1, b2, b.v, b.w)])
        else:
            a1, b1, m1, ac1, am1, bc1, bm1 = out1.weights
            a2, b2, m2, ac2, am2, bc2, bm2 = out2.weights
            v = (
                gap([(a1 * ac1, a2 * ac2), (b1 * bc1, b2 * bc2), (m1, m2)])
                + a1 * a2 * (a.v - gap([(ac1, ac2), (am1, am2)]))
                + b1 * b2 * (b.v - gap([(bc1, bc2), (bm1, bm2)]))
            )
            w = 2 - v
        v, w, slope = relative(out1, out2, v, w, _sum_of([a.slope, b.slope]), rules)
        return Pair(v, w, a.t + b.t, slope)

    def apply(self, numbers, params, *args: Array, key):
        """The sum."""
        return args[0] + args[1]


@dataclasses.dataclass(frozen=True)
class Multiply(Operation):
    """Rules of `h1 * h2`."""

    name = "multiply"

    def infer(self, *args: Value) -> Value:
        """A product is not Gaussian, and is centred if a factor is."""
        a, b = args
        if a.mixed and b.mixed:
            raise ValueError(
                "multiply: one of the branches must have coordinates of one law, "
                "got two that are an input or a concatenation."
            )
        return Value(
            a.sources | b.sources,
            centred=a.centred or b.centred,
            mixed=a.mixed or b.mixed,
        )

    def shape(self, *args: Shape) -> Shape:
        """Both factors have it."""
        return _same_shape("multiply", args)

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        """$q_a q_b$ and $m_a m_b$."""
        a, b = args
        if a.mean is None or b.mean is None:
            return Marginal.of(a.q * b.q)
        return Marginal.of(a.q * b.q, a.mean * b.mean)

    def pair(self, numbers, *args: Covariance, out1, out2, shapes, rules) -> Pair:
        """The cosines multiply; $t = t_a k_b + k_a t_b$."""
        a, b = args
        v = a.v + b.v - a.v * b.v
        if a.w is None and b.w is None:
            w = None
        else:  # two forms of 1 + cos cos', each exact near -1 on its side
            aw, bw = a.complement, b.complement
            w = jnp.where(a.v < 1, a.v + bw - a.v * bw, aw + b.v - aw * b.v)
        ka, kb = rules.attach(a.k, a.slope), rules.attach(b.k, b.slope)
        slope = _sum_of(
            [
                None if a.slope is None else a.slope * b.k,
                None if b.slope is None else b.slope * a.k,
            ]
        )
        v, w, slope = relative(out1, out2, v, w, slope, rules)
        return Pair(v, w, a.t * kb + ka * b.t, slope)

    def apply(self, numbers, params, *args: Array, key):
        """The product."""
        return args[0] * args[1]


@dataclasses.dataclass(frozen=True)
class Scale(Operation):
    """Rules of `0.5 * h`."""

    name = "scale"
    numbers = ("factor",)

    def infer(self, *args: Value) -> Value:
        """A multiple has the law of its argument."""
        return dataclasses.replace(args[0], raw=False)

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        """$c^2 q$ and $c m$."""
        (h,), (c,) = args, numbers
        return Marginal.of(c**2 * h.q, None if h.mean is None else c * h.mean)

    def pair(self, numbers, *args: Covariance, out1, out2, shapes, rules) -> Pair:
        """The cosine stays."""
        (h,), (c,) = args, numbers
        slope = None if h.slope is None else c**2 * h.slope
        return Pair(h.v, h.w, c**2 * h.t, vanish(slope, out1, out2))

    def apply(self, numbers, params, *args: Array, key):
        """The multiple."""
        return numbers[0] * args[0]


@dataclasses.dataclass(frozen=True)
class Concatenate(Operation):
    """Rules of `concatenate`."""

    name = "concatenate"

    def infer(self, *args: Value) -> Value:
        """Branches may depend on each other: no coordinate mixes two of them."""
        return Value(
            frozenset().union(*(a.sources for a in args)),
            centred=all(a.centred for a in args),
            mixed=True,
        )

    def shape(self, *args: Shape) -> Shape:
        """The sum of the widths."""
        space = _same_space("concatenate", args)
        widths = [a.features for a in args]
        return Shape(space, None if None in widths else sum(widths))  # pyright: ignore

    def _fractions(self, shapes: Sequence[Shape]) -> list[float]:
        widths = [shape.features for shape in shapes if shape.features is not None]
        if len(widths) < len(shapes):
            raise ValueError(
                "concatenate: every branch needs a known number of features; "
                "give the `State` its `features`."
            )
        return [f / sum(widths) for f in widths]

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        """Averages weighted by width."""
        fractions = self._fractions(shapes)
        q: Any = sum(f * a.q for f, a in zip(fractions, args, strict=True))
        means = [
            f * a.mean
            for f, a in zip(fractions, args, strict=True)
            if a.mean is not None
        ]
        mean: Any = sum(means) if means else None
        out = Marginal.of(q, mean)
        return out._replace(
            weights=tuple(
                f**0.5 * a.root * out.inverse
                for f, a in zip(fractions, args, strict=True)
            )
        )

    def pair(self, numbers, *args: Covariance, out1, out2, shapes, rules) -> Pair:
        """Equation (1)."""
        fractions = self._fractions(shapes)
        v, w = direct_sum(
            [
                (s1, s2, a.v, a.w)
                for s1, s2, a in zip(out1.weights, out2.weights, args, strict=True)
            ]
        )
        slope = _sum_of(
            [
                None if a.slope is None else f * a.slope
                for f, a in zip(fractions, args, strict=True)
            ]
        )
        v, w, slope = relative(out1, out2, v, w, slope, rules)
        t = sum(f * a.t for f, a in zip(fractions, args, strict=True))
        return Pair(v, w, t, slope)

    def apply(self, numbers, params, *args: Array, key):
        """The concatenation."""
        return jnp.concatenate(args, axis=-1)


def add(h1: Symbol, h2: Symbol) -> Symbol:
    r"""`h1 + h2`, $k = k_{11} + k_{12} + k_{21} + k_{22}$, $t$ likewise.

    The branches may depend on each other; of independent ones, $k_{12} = m_1 m_2'$ with
    their means.
    """
    return emit(Add(), [h1, h2], [])


def multiply(h1: Symbol, h2: Symbol) -> Symbol:
    r"""`h1 * h2`, coordinate by coordinate.

    For independent branches $k = k_1 k_2$ and $t = t_1 k_2 + k_1 t_2$. Dependent ones
    must be coordinatewise functions of Gaussian values, five together on both sides of
    a pair at most: their product is integrated, see `Kernel.quadrature_error`.
    """
    return emit(Multiply(), [h1, h2], [])


def scale(h: Symbol, factor: Number) -> Symbol:
    """`factor * h`."""
    return emit(Scale(), [h], [factor])


def concatenate(branches: Sequence[Symbol]) -> Symbol:
    r"""Joins values along their features.

    $$k = \sum_i \frac{n_i}{\sum_j n_j} k_i, \qquad
      t = \sum_i \frac{n_i}{\sum_j n_j} t_i,$$

    with $n_i$ the features of branch $i$. Branches may share parameters and inputs.

    Args:
        branches: One or more values.

    Returns:
        A value whose coordinates are not all of one law: a `dense` may follow, a
        nonlinearity may not.

    Raises:
        ValueError: if there is no branch.
    """
    branches = list(branches)
    if not branches:
        raise ValueError("concatenate: `branches` must not be empty, got [].")
    return emit(Concatenate(), branches, [])
