"""Refined and adapted grids: pykan's and jaxKAN's values, and what must not change."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.layers import (
    bspline_basis,
    kan_adapt,
    kan_apply,
    kan_init,
    kan_layer_adapt,
    kan_layer_edges,
    kan_layer_init,
    kan_layer_refine,
    kan_refine,
)

from .golden import arrays
from .test_kan_layer import spline_layer


def test_golden_pykan():
    golden = arrays("pykan_update_grid")
    x, before = golden["x"], golden["grid_before"]
    with jax.enable_x64(True):
        basis = [
            np.asarray(
                bspline_basis(
                    x[:, i],
                    num_intervals=5,
                    degree=3,
                    domain=(-1, 1),
                    knots=jnp.asarray(before[i]),
                )
            )
            for i in range(4)
        ]
        # The file has the splines' values; 512 of them tell the coefficients.
        coefficients = [
            np.linalg.lstsq(b, golden["spline_before"][:, :, i])[0]
            for i, b in enumerate(basis)
        ]
        params = spline_layer(np.stack(coefficients, 1))
        adapted, grid = kan_layer_adapt(params, x, grid=jnp.asarray(before))
        edges = jax.jit(jax.vmap(lambda x: kan_layer_edges(adapted, x, grid=grid)))(
            jnp.asarray(x)
        )
    np.testing.assert_allclose(grid, golden["grid_after"], rtol=0, atol=1e-12)
    want = np.moveaxis(golden["coef_after"], -1, 0)
    np.testing.assert_allclose(adapted.coefficients, want, rtol=0, atol=1e-12)
    want = golden["spline_after"].swapaxes(1, 2)
    np.testing.assert_allclose(edges, want, rtol=0, atol=1e-12)


def test_golden_jaxkan():
    golden = arrays("jaxkan_update_grid_3_to_6")
    with jax.enable_x64(True):
        params = spline_layer(np.transpose(golden["c0"], (2, 1, 0)))
        adapted, grid = kan_layer_adapt(
            params,
            golden["x"],
            uniform_fraction=0.05,
            margin=0.01,
            num_intervals=6,
            grid=jnp.asarray(golden["grid0"]),
        )
    np.testing.assert_allclose(grid, golden["grid1"], rtol=0, atol=1e-12)
    want = np.transpose(golden["c1"], (2, 1, 0))
    np.testing.assert_allclose(adapted.coefficients, want, rtol=0, atol=1e-6)


def outputs(params, x, grid=None):
    return np.asarray(jax.jit(jax.vmap(lambda x: kan_apply(params, x, grid=grid)))(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "atol"),
    # The issue of the peers is 5 to 61 % of the function.
    [(jnp.float32, 1e-6), (jnp.float64, 1e-14)],
)
def test_refinement_keeps_the_function(dtype, atol):
    with jax.enable_x64(True):
        params = kan_init(jax.random.key(0), (2, (2, 1), 1), init="power", dtype=dtype)
        x = jax.random.uniform(jax.random.key(1), (300, 2), dtype, -1, 1)
        want = outputs(params, x)
        assert np.abs(want).max() > 0.1
        finer, none = kan_refine(params, 10)
        finest, _ = kan_refine(finer, 30)
        assert none is None
        assert finest.layers[0].num_intervals == 30
        np.testing.assert_allclose(outputs(finer, x), want, rtol=0, atol=atol)
        np.testing.assert_allclose(outputs(finest, x), want, rtol=0, atol=2 * atol)
        adapted, grid = kan_adapt(params, x)
        want = outputs(adapted, x, grid)
        finer, grid = kan_refine(adapted, 15, grid=grid)
        assert grid[0].shape == (2, 22)
        np.testing.assert_allclose(outputs(finer, x, grid), want, rtol=0, atol=atol)


def test_refinement_to_another_number_is_close():
    with jax.enable_x64(True):
        # Splines of a smooth function: 5 to 7 intervals is a new approximation.
        x = jnp.linspace(-1, 1, 200)
        basis = bspline_basis(x, num_intervals=5, degree=3, domain=(-1, 1))
        params = spline_layer(np.linalg.lstsq(basis, np.sin(2 * x))[0][:, None, None])
        finer, _ = kan_layer_refine(params, 7)
        got = jax.vmap(lambda x: kan_layer_edges(finer, x)[0, 0])(x[:, None])
        old = jax.vmap(lambda x: kan_layer_edges(params, x)[0, 0])(x[:, None])
    assert np.abs(got - old).max() < 1e-3


def test_adaptation_is_the_best_fit():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = kan_layer_init(
            jax.random.key(0), 2, 3, residual=None, init="power", dtype=jnp.float64
        )
        x = jnp.asarray(np.clip(rng.normal(size=(400, 2)) * 0.4, -1, 1))
        adapted, grid = kan_layer_adapt(params, x, uniform_fraction=0.1)
        old = np.asarray(jax.vmap(lambda x: kan_layer_edges(params, x))(x))
        new = np.asarray(jax.vmap(lambda x: kan_layer_edges(adapted, x, grid=grid))(x))
        for i in range(2):
            basis = bspline_basis(
                x[:, i], num_intervals=5, degree=3, domain=(-1, 1), knots=grid[i]
            )
            best = basis @ np.linalg.lstsq(basis, old[:, i])[0]
            np.testing.assert_allclose(new[:, i], best, atol=1e-12)
    # The knots are quantiles, nine parts to one.
    ordered = np.sort(np.asarray(x[:, 0]))
    uniform = np.linspace(ordered[0], ordered[-1], 6)
    want = 0.9 * ordered[[0, 80, 160, 240, 320, 399]] + 0.1 * uniform
    np.testing.assert_allclose(grid[0, 3:-3], want, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("samples", ["one value", "two values", "few"])
def test_awkward_samples(samples):
    x = {
        "one value": np.full((50, 2), 0.3),
        "two values": np.repeat([[0.0, 1.0], [1.0, -1.0]], 25, 0),
        "few": np.array([[0.1, 0.2], [0.3, -0.5]]),
    }[samples].astype(np.float32)
    params = kan_init(jax.random.key(0), (2, 3, 1), init="power")
    before = outputs(params, jnp.asarray(x))
    for fraction in (0.0, 0.02):
        adapted, grid = kan_adapt(params, x, uniform_fraction=fraction)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((adapted, grid)))
        after = outputs(adapted, jnp.asarray(x), grid)
        assert np.isfinite(after).all()
        if fraction:
            # Fewer values than coefficients: they are met exactly.
            np.testing.assert_allclose(after, before, atol=2e-5)
        gradient = jax.grad(lambda x, a=adapted, g=grid: kan_apply(a, x, grid=g)[0])(
            jnp.asarray(x[0])
        )
        assert np.isfinite(gradient).all()


def test_under_jit():
    params = kan_init(jax.random.key(0), (2, 3, 1))
    x = jax.random.uniform(jax.random.key(1), (100, 2))
    adapted, grid = jax.jit(kan_adapt)(params, x)
    finer, finer_grid = jax.jit(lambda p, g: kan_refine(p, 10, grid=g))(adapted, grid)
    got, want = outputs(finer, x, finer_grid), outputs(adapted, x, grid)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_products_and_squash_are_followed():
    params = kan_init(jax.random.key(0), (2, (1, 1), 1), init="power")
    x = 3 * jax.random.normal(jax.random.key(1), (200, 2))
    _, grid = kan_adapt(params, x, squash=jnp.tanh)
    # The first layer's knots span the squashed sample.
    first = grid[0][:, 3:-3]
    np.testing.assert_allclose(first[:, -1], jnp.tanh(x).max(0), atol=1e-6)
    assert grid[1].shape == (2, 12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda p, x: kan_layer_adapt(p, x[:, :1]),
            ValueError,
            "kan_layer_adapt: `x` must have shape (samples, 2) with at least one",
        ),
        (
            lambda p, x: kan_layer_adapt(p, x[:0]),
            ValueError,
            "at least one sample, got (0, 2).",
        ),
        (
            lambda p, x: kan_layer_adapt(p, x[0]),
            ValueError,
            "kan_layer_adapt: `x` must have shape (samples, 2), got (2,).",
        ),
        (
            lambda p, x: kan_layer_adapt(p, x, uniform_fraction=1.5),
            ValueError,
            "`uniform_fraction` must be in [0, 1], got 1.5.",
        ),
        (
            lambda p, x: kan_layer_adapt(p, x, margin=-1.0),
            ValueError,
            "`margin` must not be negative, got -1.0.",
        ),
        (
            lambda p, x: kan_layer_refine(p, 0),
            ValueError,
            "kan_layer_refine: `num_intervals` must be at least 1, got 0.",
        ),
        (
            lambda p, x: kan_layer_refine(p, 2.5),
            TypeError,
            "kan_layer_refine: `num_intervals` must be an int, got float.",
        ),
        (
            lambda p, x: kan_layer_refine(p, 10, grid=jnp.zeros((2, 3))),
            ValueError,
            "kan_layer_refine: `grid` must have shape (2, 12), got (2, 3).",
        ),
        (
            lambda p, x: kan_layer_refine(dataclasses.replace(p, basis="relu"), 10),
            ValueError,
            "kan_layer_refine: `params` must have the basis 'bspline', got 'relu'.",
        ),
    ],
)
def test_errors(call, error, message):
    params = kan_layer_init(jax.random.key(0), 2, 3)
    with pytest.raises(error, match=re.escape(message)):
        call(params, jnp.zeros((5, 2)))
