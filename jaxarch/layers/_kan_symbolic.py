r"""KANs whose edges are named functions: fitting them, applying them, their formula.

Sources: Z. Liu et al., "KAN: Kolmogorov-Arnold Networks", arXiv:2404.19756, section
2.5.1 (symbolification by affine fits); Z. Liu et al., "KAN 2.0: Kolmogorov-Arnold
Networks Meet Science", arXiv:2408.10205 (the choice by fit and complexity).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import check_option, check_shape
from .._params import params, static
from ._kan import Grid, KANParams, multiply
from ._kan_prune import activations, check_inputs
from ._symbol_fit import AffineFit, fit_symbol
from ._symbols import LARGEST, SYMBOLS

LIBRARY = tuple(SYMBOLS)
ZERO = "0"  # the function of an edge that does not vary
CONSTANT = 1e-6  # of a layer's largest standard deviation: such an edge is constant


@params
class SymbolicKANParams:
    r"""A network whose edges are affine images of named functions.

    $$y_o = d_o + \sum_i c_{io}\, f_{io}(a_{io} x_i + b_{io})$$

    in each layer, then the products of `KANParams`. All four are trained.
    """

    a: tuple[Array, ...]  # (in, out), for each layer
    b: tuple[Array, ...]  # (in, out)
    c: tuple[Array, ...]  # (in, out)
    d: tuple[Array, ...]  # (out,)
    functions: tuple[tuple[tuple[str, ...], ...], ...] = static()  # f, by layer and i
    num_products: tuple[int, ...] = static()
    arity: int = static()


def kan_symbolic(
    params: KANParams,
    x: Float[Array, "samples n_in"],
    *,
    library: Sequence[str] = LIBRARY,
    complexity_weight: float = 2.0,
    tolerance: float = 1e-7,
    grid: Grid = None,
    squash: Callable[[Array], Array] | None = None,
) -> tuple[SymbolicKANParams, tuple[dict[str, Any], ...]]:
    r"""Fits every edge by an affine image of one function of a library.

    $$\phi(x) \approx c\, f(a x + b) + d$$

    For each candidate $f$, a search over a grid of $(a, b)$ with the best $(c, d)$ for
    each, then Levenberg-Marquardt from the best few, in float64, over a sample of the
    edge. A candidate whose domain does not hold the sample is left out. The one with
    the least

    $$\log_2(1 - R^2 + \epsilon) + w\,\text{complexity}$$

    is chosen. The mean of an edge that does not vary goes to $d$, under the name `"0"`.

    Prune first: what has no clear function gets one of these all the same. Train the
    result on the data: an error in the fit of one edge is then made good by others.

    This reads values, on the host: it cannot be traced. Its result has no NaN.

    Args:
        params: Parameters of a network.
        x: A sample of inputs, shape `(samples, n_in)`.
        library: Names among `"x"`, `"x^2"`, `"x^3"`, `"x^4"`, `"1/x"`, `"1/x^2"`,
            `"sqrt"`, `"exp"`, `"log"`, `"abs"`, `"sin"`, `"cos"`, `"tan"`, `"tanh"`,
            `"sigmoid"`, `"gaussian"` ($e^{-x^2}$), `"1/(1+x^2)"`, `"arcsin"`,
            `"arctan"`, `"arctanh"` and `"j0"` (the Bessel function $J_0$).
        complexity_weight: $w$, in bits. A unit of complexity must halve $1 - R^2$ so
            many times.
        tolerance: $\epsilon$: fits are not told apart below it. About the square of the
            relative error of the network.
        grid: As in `kan_apply`.
        squash: As in `kan_apply`, for functions of single numbers; it becomes a part of
            the edges.

    Returns:
        The network of named functions, and a report with an entry for each edge that
        varies: its `"layer"`, `"edge"` (input, output), chosen `"function"`, its
        `"r_squared"` and `"complexity"`, and the `"candidates"`, best first, as
        `(name, r_squared, score)`.

    Raises:
        ValueError: If `x` or `grid` does not fit `params`, or `library` is empty or has
            an unknown name.
    """
    where = "kan_symbolic"
    if not library:
        raise ValueError(f"{where}: `library` must have a name.")
    for index, name in enumerate(library):
        check_option(where, f"library[{index}]", name, SYMBOLS)
    check_inputs(where, params, x, grid)
    found, report = [], []
    for index, sample in enumerate(activations(params, x, grid, squash)):
        inputs, edges = (np.asarray(a, np.float64) for a in sample)
        _, n_in, n_out = edges.shape
        edges = np.where(np.isfinite(edges).all(0), edges, 0)
        a, b, c = (np.full((n_in, n_out), v) for v in (1.0, 0.0, 0.0))
        bias = params.layers[index].bias
        d = edges.mean(0).sum(0) + (0 if bias is None else np.asarray(bias, np.float64))
        names = np.full((n_in, n_out), ZERO, object)
        spread = edges.std(0)
        for i, o in np.argwhere(spread > CONSTANT * spread.max()):
            h, phi = inputs[:, i], edges[:, i, o]
            if not np.isfinite(h).all() or h.min() == h.max():
                continue
            fits = [(name, fit_symbol(SYMBOLS[name], h, phi)) for name in library]
            ranked = sorted(
                _scored(name, fit, complexity_weight, tolerance)
                for name, fit in fits
                if fit is not None
            )
            if not ranked:
                continue
            _, _, name, fit = ranked[0]
            names[i, o], a[i, o], b[i, o], c[i, o] = name, fit.a, fit.b, fit.c
            d[o] += fit.d - phi.mean()
            report.append(
                {
                    "layer": index,
                    "edge": (int(i), int(o)),
                    "function": name,
                    "r_squared": fit.r_squared,
                    "complexity": SYMBOLS[name].complexity,
                    "candidates": tuple(
                        (name, fit.r_squared, score) for score, _, name, fit in ranked
                    ),
                }
            )
        found.append((a, b, c, d, tuple(map(tuple, names.tolist()))))
    dtype = params.layers[0].coefficients.dtype
    *numbers, functions = zip(*found, strict=True)
    a, b, c, d = (tuple(jnp.asarray(n, dtype) for n in column) for column in numbers)
    symbolic = SymbolicKANParams(
        a=a,
        b=b,
        c=c,
        d=d,
        functions=functions,
        num_products=params.num_products,
        arity=params.arity,
    )
    return symbolic, tuple(report)


def symbolic_kan_apply(
    params: SymbolicKANParams, x: Float[Array, " n_in"]
) -> Float[Array, " n_out"]:
    """Applies a network of named functions to one example.

    Args:
        params: Parameters from `kan_symbolic`.
        x: One example, shape `(n_in,)`.

    Returns:
        The output, shape `(n_out,)`, in the promoted dtype of `x` and `params`. It is
        finite where `x` is and the parameters are moderate: beyond its domain a
        function such as the logarithm is constant, and its slope there is 0.

    Raises:
        ValueError: If `x` has the wrong shape.
    """
    check_shape("symbolic_kan_apply", "x", x, params.a[0].shape[:1])
    for index, functions in enumerate(params.functions):
        u = params.a[index] * x[:, None] + params.b[index]
        y = jnp.asarray(params.d[index], u.dtype)
        by_name: dict[str, list[tuple[int, int]]] = {}
        for i, row in enumerate(functions):
            for o, name in enumerate(row):
                by_name.setdefault(name, []).append((i, o))
        by_name.pop(ZERO, None)
        for name, edges in by_name.items():
            i, o = np.array(edges).T
            values = SYMBOLS[name].function(jnp, u[i, o])
            y = y.at[o].add(params.c[index][i, o] * values)
        x = multiply(y, params.num_products[index], params.arity)
    return x


def kan_formula(
    params: SymbolicKANParams,
    *,
    names: Sequence[str] | None = None,
    digits: int | None = 4,
) -> tuple[Any, ...]:
    """Writes a network of named functions as expressions of SymPy.

    Needs `sympy` (`pip install "jaxarch[symbolic]"`).

    Args:
        params: Parameters from `kan_symbolic`, best trained on the data before.
        names: The names of the inputs; None for `x_1`, `x_2` and so on.
        digits: Decimals to round all numbers to; None to round none.

    Returns:
        One expression for each output.

    Raises:
        ValueError: If `names` has another length than there are inputs.
    """
    import sympy

    n_in = params.a[0].shape[0]
    names = [f"x_{i + 1}" for i in range(n_in)] if names is None else names
    if len(names) != n_in:
        raise ValueError(
            f"kan_formula: `names` must have {n_in} entries, got {len(names)}."
        )
    nodes: list[Any] = [sympy.Symbol(name, real=True) for name in names]
    for index, functions in enumerate(params.functions):
        a, b, c = (np.asarray(n[index], float) for n in (params.a, params.b, params.c))
        outputs = [sympy.Float(d) for d in np.asarray(params.d[index], float)]
        for i, row in enumerate(functions):
            for o, name in enumerate(row):
                if name == ZERO:
                    continue
                u = sympy.expand_mul(a[i, o] * nodes[i] + b[i, o])
                outputs[o] += c[i, o] * _formula(sympy, name, u)
        products = params.num_products[index]
        first = len(outputs) - products * params.arity
        nodes = outputs[:first] + [
            sympy.Mul(*outputs[start : start + params.arity])
            for start in range(first, len(outputs), params.arity)
        ]
    return tuple(_rounded(sympy, node, digits) for node in nodes)


def _scored(
    name: str, fit: AffineFit, weight: float, tolerance: float
) -> tuple[float, float, str, AffineFit]:
    """What a fit is sorted by; among equals (sine and cosine) the smallest shift."""
    missing = max(1 - fit.r_squared, 0)
    score = math.log2(missing + tolerance) + weight * SYMBOLS[name].complexity
    return round(score, 1), abs(fit.b), name, fit


def _formula(sympy: Any, name: str, u: Any) -> Any:
    if name == "exp":  # the constant in front, where it may cancel others
        constant, rest = u.as_coeff_Add()
        if abs(constant) < LARGEST:
            return sympy.exp(constant) * sympy.exp(rest)
    return SYMBOLS[name].formula(sympy, u)


def _rounded(sympy: Any, expression: Any, digits: int | None) -> Any:
    if digits is None:
        return expression

    # First without the numbers that round to 0, so that the others meet before they
    # are rounded: (1.25 x + 1e-9) 0.8 y is 1.0 x y.
    def rounded(number: Any) -> Any:
        short = round(float(number), digits)
        return sympy.Integer(short) if short.is_integer() else sympy.Float(short)

    numbers = expression.atoms(sympy.Float)
    small = {n: sympy.S.Zero for n in numbers if abs(n) < 0.5 * 10.0**-digits}
    expression = expression.xreplace(small)
    return expression.xreplace({n: rounded(n) for n in expression.atoms(sympy.Float)})
