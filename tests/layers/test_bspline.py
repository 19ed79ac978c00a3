"""`bspline_basis` against SciPy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.interpolate import BSpline

from jaxarch.layers import bspline_basis

from .golden import arrays

UNIFORM = [(5, 3), (3, 2), (8, 3), (5, 1), (10, 5)]


def scipy_basis(x, knots, degree, order=0):
    """Each function alone, zero outside its own knots."""
    columns = []
    for m in range(len(knots) - degree - 1):
        element = BSpline.basis_element(knots[m : m + degree + 2], extrapolate=False)
        element = element.derivative(order) if order else element
        # SciPy's lone function has its last knot inside, a basis has not.
        inside = x < knots[m + degree + 1]
        columns.append(np.where(inside, np.nan_to_num(element(x)), 0))
    return np.stack(columns, -1)


@pytest.mark.parametrize("given_knots", [False, True])
@pytest.mark.parametrize(("num_intervals", "degree"), UNIFORM)
def test_golden_on_uniform_knots(num_intervals, degree, given_knots):
    golden = arrays(f"bspline_uniform_G{num_intervals}_k{degree}")
    with jax.enable_x64(True):
        basis = functools.partial(
            bspline_basis,
            num_intervals=num_intervals,
            degree=degree,
            domain=(-1, 1),
            knots=jnp.asarray(golden["knots"]) if given_knots else None,
        )
        x = jnp.asarray(golden["x"])
        np.testing.assert_allclose(basis(x), golden["B"], rtol=0, atol=1e-12)
        slope = jax.jit(jax.vmap(jax.jacfwd(basis)))
        # A slope that jumps is compared off the knots.
        off = np.abs(golden["x"][:, None] - golden["knots"]).min(1) > 1e-9
        rows = off if degree == 1 else np.full_like(off, True)
        assert rows.sum() > 60
        np.testing.assert_allclose(slope(x)[rows], golden["dB"][rows], atol=1e-12)
        if "d2B" in golden:
            curvature = jax.jit(jax.vmap(jax.jacrev(jax.jacfwd(basis))))(x)
            np.testing.assert_allclose(curvature, golden["d2B"], atol=1e-12)


def test_golden_on_uneven_knots():
    golden = arrays("bspline_nonuniform_k3")
    with jax.enable_x64(True):
        knots = jnp.asarray(golden["knots"])

        def basis(x):
            return bspline_basis(
                x, num_intervals=5, degree=3, domain=(-1, 1), knots=knots
            )

        x = jnp.asarray(golden["x"])
        np.testing.assert_allclose(basis(x), golden["B"], rtol=0, atol=1e-12)
        slope = jax.jit(jax.vmap(jax.jacfwd(basis)))(x)
        np.testing.assert_allclose(slope, golden["dB"], atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4, 5, 7])
def test_far_outside_and_at_the_edges(degree):
    num_intervals, (low, high) = 4, (-0.5, 2.0)
    step = (high - low) / num_intervals
    knots = low + step * np.arange(-degree, num_intervals + degree + 1)
    x = np.concatenate([np.linspace(-9, 9, 200), [-1e30, 1e30]])
    with jax.enable_x64(True):
        got = bspline_basis(
            jnp.asarray(x),
            num_intervals=num_intervals,
            degree=degree,
            domain=(low, high),
        )
        uneven = bspline_basis(
            jnp.asarray(x),
            num_intervals=num_intervals,
            degree=degree,
            domain=(low, high),
            knots=jnp.asarray(knots),
        )
    want = scipy_basis(x, knots, degree)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)
    np.testing.assert_allclose(uneven, want, rtol=0, atol=1e-13)


@given(low=st.floats(-3, 1), width=st.floats(0.1, 5))
@pytest.mark.parametrize(("num_intervals", "degree"), [(1, 0), (7, 1), (2, 4), (3, 6)])
def test_partition_of_unity(num_intervals, degree, low, width):
    step = width / num_intervals
    x = np.linspace(low, low + width, 50)[:-1]
    knots = low + step * np.arange(-degree, num_intervals + degree + 1)
    with jax.enable_x64(True):
        basis = np.asarray(_with_knots(x, knots, num_intervals, degree))
        if (num_intervals, degree) == (2, 4):
            options = {"num_intervals": 2, "degree": 4, "domain": (low, low + width)}
            np.testing.assert_allclose(bspline_basis(x, **options), basis, atol=1e-13)
    assert basis.shape == (49, num_intervals + degree)
    np.testing.assert_allclose(basis.sum(-1), 1, rtol=1e-13)
    assert basis.min() > -1e-15


@functools.partial(jax.jit, static_argnums=(2, 3))
def _with_knots(x, knots, num_intervals, degree):
    return bspline_basis(
        x, num_intervals=num_intervals, degree=degree, domain=(0, 1), knots=knots
    )


@pytest.mark.parametrize("degree", [3, 4])
def test_derivatives_of_every_order_at_knots(degree):
    num_intervals = 4
    knots = np.linspace(0, 1, num_intervals + 1)
    step = 1 / num_intervals
    extended = step * np.arange(-degree, num_intervals + degree + 1)
    with jax.enable_x64(True):
        function = functools.partial(
            bspline_basis, num_intervals=num_intervals, degree=degree, domain=(0, 1)
        )
        for order in range(degree + 1):
            # The last derivative jumps, and SciPy's is the one from the right too.
            got = jax.jit(jax.vmap(function))(jnp.asarray(knots[:-1]))
            want = scipy_basis(knots[:-1], extended, degree, order)
            np.testing.assert_allclose(got, want, atol=1e-12 * num_intervals**order)
            function = jax.jacfwd(function)


def test_knots_have_a_derivative():
    knots = np.array([-2.0, -1.5, -1.1, -0.6, 0.0, 0.5, 1.1, 1.4, 2.0, 2.2])
    x = np.array([-0.4, 0.2, 0.3, 0.9])
    rng = np.random.default_rng(0)
    direction, step = (rng.normal(size=4), rng.normal(size=10)), 1e-6

    @jax.jit
    def orders(x, knots):
        """The basis, its slope in x, and the derivatives of both along a direction."""

        def slope(x, knots):
            def basis(x):
                return bspline_basis(
                    x, num_intervals=3, degree=3, domain=(0, 1), knots=knots
                )

            return jax.jvp(basis, (x,), (jnp.ones_like(x),))

        return jax.jvp(slope, (x, knots), direction)

    with jax.enable_x64(True):
        _, got = orders(x, knots)
        after, _ = orders(x + step * direction[0], knots + step * direction[1])
        before, _ = orders(x - step * direction[0], knots - step * direction[1])
    for derivative, a, b in zip(got, after, before, strict=True):
        np.testing.assert_allclose(derivative, (a - b) / (2 * step), atol=1e-7)


def test_repeated_knots():
    # Clamped: the first function is 1 at the left end.
    knots = np.array([0.0, 0, 0, 0, 0.5, 1, 1, 1, 1])
    x = np.array([0.0, 0.1, 0.5, 0.99])
    with jax.enable_x64(True):

        def basis(x):
            return bspline_basis(
                x, num_intervals=2, degree=3, domain=(0, 1), knots=jnp.asarray(knots)
            )

        got = basis(jnp.asarray(x))
        slope = jax.jit(jax.vmap(jax.jacfwd(basis)))(jnp.asarray(x))
    want = BSpline.design_matrix(x, knots, 3).toarray()
    np.testing.assert_allclose(got, want, atol=1e-14)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[0], [-6, 6, 0, 0, 0], atol=1e-13)


def test_one_set_of_knots_for_each_entry():
    rng = np.random.default_rng(0)
    knots = np.sort(rng.uniform(-2, 2, (2, 3, 8)))
    x = rng.uniform(-1, 1, (2, 3))
    with jax.enable_x64(True):
        got = bspline_basis(
            jnp.asarray(x),
            num_intervals=3,
            degree=2,
            domain=(-1, 1),
            knots=jnp.asarray(knots),
        )
    want = [[scipy_basis(x[i, j], knots[i, j], 2) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(got, want, atol=1e-14)


@pytest.mark.parametrize(("dtype", "atol"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_16_bits_are_rounded_once(dtype, atol):
    # At many intervals a recursion in 16 bits would lose everything.
    x = jnp.linspace(-1, 1, 100).astype(dtype)
    options = {"num_intervals": 50, "degree": 3, "domain": (-1, 1)}
    got = bspline_basis(x, **options)
    assert got.dtype == dtype
    with jax.enable_x64(True):
        want = bspline_basis(x.astype(jnp.float64), **options)
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_intervals": 0}, ValueError, "`num_intervals` must be at least 1, got 0"),
        (
            {"num_intervals": 1.5},
            TypeError,
            "`num_intervals` must be an int, got float",
        ),
        ({"degree": -1}, ValueError, "`degree` must be at least 0, got -1"),
        (
            {"domain": (1, -1)},
            ValueError,
            "`domain` must be two finite numbers (low, high), low < high, got (1, -1)",
        ),
        ({"domain": 3}, ValueError, "`domain` must be two finite numbers"),
        (
            {"knots": jnp.ones(7)},
            ValueError,
            "`knots` must have shape (8,) or (2, 8), got (7,)",
        ),
    ],
)
def test_errors(options, error, message):
    options = {"num_intervals": 3, "degree": 2, "domain": (-1, 1)} | options
    with pytest.raises(error, match=re.escape(f"bspline_basis: {message}")):
        bspline_basis(jnp.zeros(2), **options)
