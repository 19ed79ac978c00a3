"""What a method is predicted to cost, from shapes alone.

A cost is the floating-point operations plus `_PER_BYTE` for each byte of an array that
is written or read outside a matrix product. One number fits processors well enough:
machines of today do 10 to 40 operations while they move a byte. On two cores of a CPU,
where a gradient of a wide network is a large array, this is what decides.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.extend.core import primitives as prim

from ._uses import Use, find_uses, sub_jaxprs

_PER_BYTE = 20.0


class Cost(NamedTuple):
    """Operations (bytes moved included) and memory of parts of the work."""

    left: float = 0.0  # operations for each example of `x1`
    right: float = 0.0  # for each example of `x2`
    pair: float = 0.0  # for each pair
    example_bytes: float = 0.0  # held for an example of either side
    pair_bytes: float = 0.0  # held for a pair

    def __add__(self, other: "Cost") -> "Cost":  # pyright: ignore
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def total(self, n1: int, n2: int, symmetric: bool) -> float:
        """Operations for all pairs."""
        sides = n1 * self.left + (0 if symmetric else n2 * self.right)
        return sides + n1 * n2 * self.pair


def of_jaxpr(jaxpr: Any) -> tuple[float, float]:
    """Floating-point operations of one evaluation, and bytes of all it computes."""
    flops = size = 0.0
    for eqn in jaxpr.eqns:
        inner = sub_jaxprs(eqn)
        for sub, times in inner:
            below = of_jaxpr(sub)
            flops, size = flops + times * below[0], size + times * below[1]
        if inner:
            continue
        out = sum(v.aval.size for v in eqn.outvars if hasattr(v.aval, "size"))
        flops += out * _flops_an_entry(eqn)
        size += sum(_nbytes(v.aval) for v in eqn.outvars)
    return flops, size


def _nbytes(aval: Any) -> int:
    return getattr(aval, "size", 0) * getattr(getattr(aval, "dtype", 0), "itemsize", 0)


def _flops_an_entry(eqn) -> float:
    if eqn.primitive is prim.dot_general_p:
        (contract, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2.0 * math.prod(shape[i] for i in contract)
    if eqn.primitive is prim.conv_general_dilated_p:
        weight = eqn.invars[1].aval.shape
        out_axis = eqn.params["dimension_numbers"].rhs_spec[0]
        return 2.0 * math.prod(weight) / weight[out_axis]
    return 1.0


class Problem(NamedTuple):
    """What the predictions need to know."""

    jaxpr: Any  # of one example
    leaves: list[jax.ShapeDtypeStruct]  # float parameters
    outputs: int
    itemsize: int
    form: str  # "full", "diagonal" or "trace"
    sizes: tuple[int, int]
    symmetric: bool

    @property
    def pairs_of_outputs(self) -> int:
        """Products of outputs that are formed for a pair of examples."""
        return self.outputs ** (2 if self.form == "full" else 1)

    @property
    def entries(self) -> int:
        """Numbers in the result for a pair of examples."""
        return 1 if self.form == "trace" else self.pairs_of_outputs


def factored(use: Use, others: list[Use], problem: Problem) -> Cost:
    """A use taken in factors, with its products with all uses of its parameter."""
    b, m, k, n = use.full
    a_size = b * m * (1 if use.gather else k)
    held = problem.itemsize * (a_size + problem.outputs * b * m * n)
    flops = inner_bytes = 0.0
    for other in others:
        wide = 1.0 if use.key == other.key else problem.outputs
        blocks = b * m * other.full[1]
        own = 1 if use.gather and other.gather else 2 * k
        flops += blocks * (wide * own + 2 * problem.pairs_of_outputs * n)
        blocks_held = wide + (
            1 if problem.form == "trace" and wide == 1 else problem.pairs_of_outputs
        )
        inner_bytes += problem.itemsize * blocks * blocks_held
    return Cost(
        left=2 * _PER_BYTE * held,
        right=2 * _PER_BYTE * held,
        pair=flops + 2 * _PER_BYTE * inner_bytes,
        example_bytes=held,
        pair_bytes=inner_bytes,
    )


def whole(leaf: jax.ShapeDtypeStruct, uses: list[Use], problem: Problem) -> Cost:
    """A parameter whose gradients are formed."""
    size = math.prod(leaf.shape)
    held = problem.outputs * size * problem.itemsize
    flops = sum(2.0 * problem.outputs * math.prod(use.full) for use in uses)
    side = flops + 3 * _PER_BYTE * held
    pair = 2.0 * problem.pairs_of_outputs * size
    return Cost(side, side, pair, 2 * held, problem.itemsize * problem.entries)


def _backward(problem: Problem) -> Cost:
    """Values and cotangents of an example, which every method needs."""
    flops, size = of_jaxpr(problem.jaxpr.jaxpr)
    sweeps = 1 + problem.outputs
    side = sweeps * (flops + _PER_BYTE * size)
    result = problem.itemsize * problem.entries
    return Cost(side, side, _PER_BYTE * result, sweeps * size, 2 * result)


def has_custom_vjp(jaxpr: Any) -> bool:
    """Whether a forward derivative may be missing."""
    return any(
        eqn.primitive is prim.custom_vjp_call_p
        or any(has_custom_vjp(inner) for inner, _ in sub_jaxprs(eqn))
        for eqn in jaxpr.eqns
    )


def choose_uses(problem: Problem, *, every: bool) -> dict[int, list[Use]]:
    """The parameters to take in factors: all that can be, or those where it pays."""
    found = find_uses(problem.jaxpr, len(problem.leaves))
    if every:
        return found

    def pays(leaf):
        parts = [factored(use, found[leaf], problem) for use in found[leaf]]
        formed = whole(problem.leaves[leaf], found[leaf], problem)
        n1, n2 = problem.sizes
        total = sum(part.total(n1, n2, problem.symmetric) for part in parts)
        return total < formed.total(n1, n2, problem.symmetric)

    return {leaf: uses for leaf, uses in found.items() if pays(leaf)}


def predict(problem: Problem, chosen: Mapping[int, list[Use]] | None) -> Cost:
    """The cost with the parameters `chosen` in factors; `None`: vector products."""
    cost = _backward(problem)
    found = find_uses(problem.jaxpr, len(problem.leaves))
    if chosen is None:
        return cost + _vector_products(problem)
    for i, leaf in enumerate(problem.leaves):
        if i in chosen:
            for use in chosen[i]:
                cost = cost + factored(use, chosen[i], problem)
        else:
            cost = cost + whole(leaf, found.get(i, []), problem)
    return cost


def _vector_products(problem: Problem) -> Cost:
    """Gradients on one side, pushed forward through every example of the other."""
    size = sum(math.prod(leaf.shape) for leaf in problem.leaves)
    held = problem.outputs * size * problem.itemsize
    flops, values = of_jaxpr(problem.jaxpr.jaxpr)
    right = problem.outputs * flops + 3 * _PER_BYTE * held
    pair = problem.outputs * (2 * flops + 2 * _PER_BYTE * values)
    result = problem.itemsize * problem.outputs**2
    return Cost(right, right, pair, 2 * held, problem.outputs * values + result)
