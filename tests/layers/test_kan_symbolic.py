import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
import scipy.optimize
import scipy.special
import sympy
from jax.flatten_util import ravel_pytree

from jaxarch.layers import (
    KANLayerParams,
    KANParams,
    SymbolicKANParams,
    kan_apply,
    kan_formula,
    kan_init,
    kan_prune,
    kan_symbolic,
    symbolic_kan_apply,
)

# A place inside the domain of each function, and it in NumPy or SciPy.
FUNCTIONS = {
    "x": lambda u: u,
    "x^2": np.square,
    "x^3": lambda u: u**3,
    "x^4": lambda u: u**4,
    "1/x": lambda u: 1 / u,
    "1/x^2": lambda u: u**-2,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "tanh": np.tanh,
    "sigmoid": scipy.special.expit,
    "gaussian": lambda u: np.exp(-(u**2)),
    "1/(1+x^2)": lambda u: 1 / (1 + u**2),
    "arcsin": np.arcsin,
    "arctan": np.arctan,
    "arctanh": np.arctanh,
    "j0": scipy.special.j0,
}


batch = jax.jit(jax.vmap(symbolic_kan_apply, (None, 0)))


def one_edge_each(names, a=1.0, b=0.0, dtype=np.float64):
    """A layer of one input whose outputs are the functions."""
    n = len(names)
    return SymbolicKANParams(
        a=(jnp.full((1, n), a, dtype),),
        b=(jnp.full((1, n), b, dtype),),
        c=(jnp.ones((1, n), dtype),),
        d=(jnp.zeros((n,), dtype),),
        functions=((tuple(names),),),
        num_products=(0,),
        arity=2,
    )


def splines(*functions, intervals=60, dtype=np.float64):
    """A layer of one input whose edges interpolate functions on [-1, 1]."""
    knots = -1 + 2 / intervals * np.arange(-3, intervals + 4)
    x = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    basis = scipy.interpolate.BSpline.design_matrix(np.sort(x), knots, 3).toarray()
    values = np.stack([f(np.sort(x)) for f in functions], -1)
    coefficients = np.linalg.lstsq(basis, values)[0]
    layer = KANLayerParams(
        coefficients=jnp.asarray(coefficients[:, None], dtype),
        residual=None,
        bias=None,
        frequencies=None,
        phases=None,
        basis="bspline",
        degree=3,
        domain=(-1.0, 1.0),
        activation=None,
    )
    return KANParams(layers=(layer,), num_products=(0,), arity=2)


def test_functions_are_those_of_numpy_and_scipy():
    u = np.linspace(0.01, 0.99, 50)
    with jax.enable_x64(True):
        params = one_edge_each(FUNCTIONS)
        got = batch(params, jnp.asarray(u[:, None]))
        far = one_edge_each(["j0"], a=85.0)
        bessel = batch(far, jnp.asarray(u[:, None]))
    want = np.stack([f(u) for f in FUNCTIONS.values()], -1)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(bessel[:, 0], scipy.special.j0(85 * u), atol=1e-12)


def test_values_and_gradients_are_finite_everywhere():
    params = one_edge_each(FUNCTIONS, dtype=np.float32)
    places = jnp.asarray([0.0, -0.0, 1.0, -1.0, 1.5, -3.0, np.pi / 2, 1e-30, 1e4, -1e4])

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def both(params, x):
        return symbolic_kan_apply(params, x), jax.jacrev(
            symbolic_kan_apply, argnums=(0, 1)
        )(params, x)

    for leaf in jax.tree.leaves(both(params, places[:, None])):
        assert bool(jnp.isfinite(leaf).all())


EDGES = {
    "sin": lambda x: 2 * np.sin(3 * x + 0.5),
    "exp": lambda x: np.exp(-2 * x) - 1,
    "gaussian": lambda x: -3 * np.exp(-4 * (x - 0.3) ** 2),
    "x^2": lambda x: (x - 0.4) ** 2,
    "j0": lambda x: scipy.special.j0(20 * x),
}


def test_edges_are_named():
    with jax.enable_x64(True):
        params = splines(*EDGES.values())
        x = np.linspace(-1, 1, 300)[:, None]
        symbolic, report = kan_symbolic(params, jnp.asarray(x))
        got = batch(symbolic, jnp.asarray(x))
    assert symbolic.functions == ((tuple(EDGES),),)
    for name, entry in zip(EDGES, report, strict=True):
        assert entry["function"] == name == entry["candidates"][0][0]
        assert entry["r_squared"] > 1 - 1e-6
    assert [entry["edge"] for entry in report] == [(0, o) for o in range(len(EDGES))]
    want = np.concatenate([f(x) for f in EDGES.values()], -1)
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_library_and_weight_choose():
    with jax.enable_x64(True):
        params = splines(lambda x: np.sin(0.2 * x))
        x = jnp.linspace(-1, 1, 100)[:, None]
        for options, name in (
            ({"library": ("tanh", "x^3")}, "tanh"),
            ({"library": ("x", "sin"), "complexity_weight": 0.0}, "sin"),
            ({"library": ("x", "sin"), "tolerance": 1e-2}, "x"),
        ):
            symbolic, _ = kan_symbolic(params, x, **options)
            assert symbolic.functions == (((name,),),)


def test_constant_and_broken_edges():
    """Never NaN: constants become biases, what is not finite is left out."""
    with jax.enable_x64(True):
        params = splines(np.sin, lambda x: 0 * x + 3, np.cos)
        layer = params.layers[0]
        layer = dataclasses.replace(
            layer,
            coefficients=layer.coefficients.at[5, 0, 2].set(jnp.nan),
            bias=jnp.asarray([0.0, 1.0, 2.0]),
        )
        params = dataclasses.replace(params, layers=(layer,))
        x = jnp.linspace(-1, 1, 50)[:, None]
        symbolic, report = kan_symbolic(params, x, library=("x", "sin"))
        assert symbolic.functions == ((("sin", "0", "0"),),)
        assert len(report) == 1
        np.testing.assert_allclose(symbolic.d[0], [0, 4, 2], atol=1e-6)
        for sample in (x[:1], 0 * x):  # one point, no spread
            symbolic, report = kan_symbolic(params, sample)
            assert not report
            assert symbolic.functions == ((("0", "0", "0"),),)
            for leaf in jax.tree.leaves(symbolic):
                assert bool(jnp.isfinite(leaf).all())
        _, everything = kan_symbolic(
            splines(lambda x: np.sign(x) * 1e-3), x, library=("log", "1/x^2", "sqrt")
        )
        assert all(np.isfinite(f[1:]).all() for f in everything[0]["candidates"])


def least_squares(apply, params, x, y):
    """Levenberg-Marquardt of SciPy."""
    start, unravel = ravel_pytree(params)

    def output(theta, x):
        return apply(unravel(theta), x)[0]

    @jax.jit
    def both(theta):
        outputs = jax.vmap(output, (None, 0))(theta, x)
        return outputs - y, jax.vmap(jax.grad(output), (None, 0))(theta, x)

    found = scipy.optimize.least_squares(
        lambda theta: np.asarray(both(theta)[0]),
        np.asarray(start),
        lambda theta: np.asarray(both(theta)[1]),
        method="lm",
        max_nfev=100,
    )
    return unravel(jnp.asarray(found.x))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "function", "functions"),
    [
        ((2, (0, 1)), lambda x, y: x * y, None),
        (
            (2, 1, 1),
            lambda x, y: np.exp(np.sin(np.pi * x) + y**2),
            ((("sin",), ("x^2",)), (("exp",),)),
        ),
    ],
    ids=["x y", "exp(sin(pi x) + y^2)"],
)
def test_formula_is_recovered(sizes, function, functions):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = rng.uniform(-1, 1, (400, 2))
        y = function(*x.T)
        params = jax.jit(
            lambda key: kan_init(
                key, sizes, num_intervals=8, domain=(-1.5, 1.5), dtype=jnp.float64
            )
        )(jax.random.key(1))
        params = least_squares(kan_apply, params, jnp.asarray(x), y)
        params, _, _ = kan_prune(params, jnp.asarray(x))
        symbolic, _ = kan_symbolic(params, jnp.asarray(x))
        symbolic = least_squares(symbolic_kan_apply, symbolic, jnp.asarray(x), y)
        (formula,) = kan_formula(symbolic, names=("x", "y"), digits=None)
    names = {name for row in symbolic.functions[0] for name in row}
    if functions is None:
        assert names == {"x", "0"}
    else:
        found = symbolic.functions
        assert [["sin" if f == "cos" else f for f in row] for row in found[0]] == [
            list(row) for row in functions[0]
        ]
        assert found[1] == functions[1]
    # As a formula, beyond the box too.
    value = sympy.lambdify(sympy.symbols("x y", real=True), formula, "numpy")
    new = rng.uniform(-1.5, 1.5, (200, 2))
    np.testing.assert_allclose(value(*new.T), function(*new.T), rtol=1e-6, atol=1e-6)


def every_function(dtype=np.float64):
    """Two layers with a product: all functions, at moderate numbers."""
    rng, names = np.random.default_rng(3), list(FUNCTIONS)

    def numbers(*shape, low=0.5, high=1.0):
        return jnp.asarray(rng.uniform(low, high, shape), dtype)

    return SymbolicKANParams(
        a=(numbers(2, 11, high=0.7), 0.01 * numbers(10, 1)),
        b=(numbers(2, 11, low=0.1, high=0.2), 0.3 * numbers(10, 1)),
        c=(numbers(2, 11), numbers(10, 1)),
        d=(numbers(11), numbers(1)),
        functions=(
            (tuple(names[:11]), (*names[11:], "0")),
            (("log",), ("exp",), *[("0",)] * 7, ("sqrt",)),
        ),
        num_products=(1, 0),
        arity=2,
    )


def test_formula_is_the_network():
    with jax.enable_x64(True):
        params = every_function()
        x = np.random.default_rng(4).uniform(0.1, 0.9, (20, 2))
        want = batch(params, jnp.asarray(x))
        formulas = kan_formula(params, names=("p", "q"), digits=None)
    value = sympy.lambdify(sympy.symbols("p q", real=True), formulas[0], "scipy")
    np.testing.assert_allclose(value(*x.T), want[:, 0], rtol=1e-12)


def test_formula_is_readable():
    with jax.enable_x64(True):
        params = one_edge_each(["exp"], a=2.0, b=np.log(3))
        # 3 e^(2x), and a shift that is nearly zero.
        params = dataclasses.replace(params, d=(jnp.asarray([1e-9]),))
        (formula,) = kan_formula(params)
        assert str(formula) == "3*exp(2*x_1)"
        (formula,) = kan_formula(one_edge_each(["x^2"], a=1.23456), digits=2)
        assert str(formula) == "1.52*x_1**2"
        product = SymbolicKANParams(
            a=(jnp.ones((2, 2)),),
            b=(jnp.zeros((2, 2)),),
            c=(jnp.asarray([[1.0, 0.0], [0.0, 1.0]]),),
            d=(jnp.zeros(2),),
            functions=((("x", "0"), ("0", "sin")),),
            num_products=(1,),
            arity=2,
        )
        (formula,) = kan_formula(product, names=("u", "v"))
        u, v = sympy.symbols("u v", real=True)
        assert formula == u * sympy.sin(v)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: kan_symbolic(p, jnp.ones((3, 1)), library=()),
            "kan_symbolic: `library` must have a name.",
        ),
        (
            lambda p: kan_symbolic(p, jnp.ones((3, 1)), library=("x", "erf")),
            "kan_symbolic: `library[1]` must be one of "
            + ", ".join(repr(name) for name in FUNCTIONS)
            + ", got 'erf'.",
        ),
        (
            lambda p: kan_symbolic(p, jnp.ones((3, 2))),
            "kan_symbolic: `x` must have shape (samples, 1) with at least one "
            "sample, got (3, 2).",
        ),
        (
            lambda p: symbolic_kan_apply(one_edge_each(["x"], dtype=np.float32), p),
            "symbolic_kan_apply: `x` must have shape (1,) (one example; use jax.vmap "
            "for a batch), got (3, 1).",
        ),
        (
            lambda p: kan_formula(one_edge_each(["x"], dtype=np.float32), names=()),
            "kan_formula: `names` must have 1 entries, got 0.",
        ),
    ],
)
def test_errors(call, message):
    argument = (
        jnp.ones((3, 1))
        if "symbolic_kan_apply" in message
        else splines(np.sin, dtype=np.float32)
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(argument)
