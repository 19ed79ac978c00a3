"""KAN layers against efficient-kan, pykan and jaxKAN, and against loops."""

import dataclasses
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.layers import (
    KANLayerParams,
    bspline_basis,
    fourier_basis,
    kan_layer_apply,
    kan_layer_edges,
    kan_layer_init,
    legendre_basis,
    wavelet_basis,
)
from jaxarch.layers._kan_layer import BASES

from .golden import arrays


def spline_layer(coefficients, *, residual=None, bias=None, degree=3):
    """B-splines on (-1, 1) from arrays (num_basis, in, out) and (in, out)."""
    return KANLayerParams(
        coefficients=jnp.asarray(coefficients),
        residual=None if residual is None else jnp.asarray(residual),
        bias=None if bias is None else jnp.asarray(bias),
        frequencies=None,
        phases=None,
        basis="bspline",
        degree=degree,
        domain=(-1.0, 1.0),
        activation=None if residual is None else "silu",
    )


def batched(params, x, **options):
    return jax.jit(jax.vmap(lambda x: kan_layer_apply(params, x, **options)))(x)


@pytest.mark.parametrize("on_grid", [False, True])
def test_golden_efficient_kan(on_grid):
    golden = arrays("efficient_kan_KANLinear_4_3")
    with jax.enable_x64(True):
        x = jnp.asarray(golden["x"])
        grid = jnp.asarray(golden["grid"]) if on_grid else None

        @jax.jit
        @jax.value_and_grad
        def loss(arguments):
            base, spline, scaler, x = arguments
            params = spline_layer(
                jnp.transpose(spline * scaler[..., None], (2, 1, 0)), residual=base.T
            )
            apply = jax.vmap(lambda x: kan_layer_apply(params, x, grid=grid))
            return jnp.sum(apply(x) ** 2)

        names = ("base_weight", "spline_weight", "spline_scaler")
        arguments = (*(jnp.asarray(golden[name]) for name in names), x)
        value, gradients = loss(arguments)
        params = spline_layer(
            (golden["spline_weight"] * golden["spline_scaler"][..., None]).T.swapaxes(
                1, 1
            ),
            residual=golden["base_weight"].T,
        )
        y = batched(params, x, grid=grid)
    np.testing.assert_allclose(y, golden["y"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(value, (golden["y"] ** 2).sum(), rtol=1e-12)
    for got, name in zip(gradients, ("base", "spline", "scaler", "x"), strict=True):
        want = golden["gx" if name == "x" else f"g_{name}"]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-11, err_msg=name)


def test_golden_pykan():
    golden = arrays("pykan_KANLayer_4_3")
    scale = golden["mask"] * golden["scale_sp"]
    with jax.enable_x64(True):
        params = spline_layer(
            np.moveaxis(golden["coef"] * scale[..., None], -1, 0),
            residual=golden["mask"] * golden["scale_base"],
        )
        x, grid = jnp.asarray(golden["x"]), jnp.asarray(golden["grid"])
        y = batched(params, x, grid=grid)
        edges = jax.vmap(lambda x: kan_layer_edges(params, x, grid=grid))(x)
    np.testing.assert_allclose(y, golden["y"], rtol=0, atol=1e-12)
    postacts = golden["postacts"].swapaxes(1, 2)  # (batch, in, out)
    np.testing.assert_allclose(edges, postacts, rtol=0, atol=1e-12)


def test_golden_jaxkan():
    golden = arrays("jaxkan_SplineLayer_4_3")
    coefficients = golden["p_c_basis"] * golden["p_c_spl"][..., None]
    with jax.enable_x64(True):
        params = spline_layer(
            np.transpose(coefficients, (2, 1, 0)),
            residual=golden["p_c_res"].T,
            bias=golden["p_bias"],
        )
        y = batched(params, jnp.asarray(golden["x"]), grid=jnp.asarray(golden["grid"]))
    np.testing.assert_allclose(y, golden["y"], rtol=0, atol=1e-6)


def test_golden_jaxkan_without_residual():
    # A Fourier layer: one period is the domain.
    golden = arrays("jaxkan_FourierLayer_4_3_D5")
    coefficients = np.concatenate([golden["p_c_cos"], golden["p_c_sin"]], -1)
    with jax.enable_x64(True):
        params = dataclasses.replace(
            spline_layer(np.transpose(coefficients, (2, 1, 0)), bias=golden["p_bias"]),
            basis="fourier",
            domain=(-math.pi, math.pi),
        )
        y = batched(params, jnp.asarray(golden["x"]))
    np.testing.assert_allclose(y, golden["y"], rtol=0, atol=1e-6)


# All functions in one product, in two, and one for each.
@pytest.mark.parametrize(("n_in", "num_intervals"), [(3, 5), (40, 20), (600, 4)])
def test_a_sum_over_edges(n_in, num_intervals, key):
    params = kan_layer_init(key, n_in, 2, num_intervals=num_intervals, init="power")
    params = dataclasses.replace(params, bias=jnp.asarray([0.5, -1.0]))
    x = np.linspace(-1.1, 1.2, n_in)
    silu = x / (1 + np.exp(-x))
    with jax.enable_x64(True):
        basis = np.asarray(
            bspline_basis(
                jnp.asarray(x), num_intervals=num_intervals, degree=3, domain=(-1, 1)
            )
        )
        wide = jax.tree.map(lambda a: a.astype(jnp.float64), params)
        y = jax.jit(kan_layer_apply)(wide, jnp.asarray(x))
        remat = jax.jit(lambda p, x: kan_layer_apply(p, x, remat=True))(
            wide, jnp.asarray(x)
        )
        edges = jax.jit(kan_layer_edges)(wide, jnp.asarray(x))
    c = np.asarray(params.coefficients, np.float64)
    r = np.asarray(params.residual, np.float64)
    want = np.stack(
        [
            [r[i, o] * silu[i] + c[:, i, o] @ basis[i] for o in range(2)]
            for i in range(n_in)
        ]
    )
    np.testing.assert_allclose(edges, want, atol=1e-13)
    np.testing.assert_allclose(y, want.sum(0) + [0.5, -1.0], atol=1e-12)
    np.testing.assert_allclose(remat, y, atol=1e-13)


@pytest.mark.parametrize(
    ("basis", "expected"),
    [
        ("legendre", lambda p, x: legendre_basis((x - 1) / 2, degree=3)),
        (
            "fourier",
            lambda p, x: fourier_basis(jnp.pi * (x - 1) / 2, num_frequencies=5),
        ),
        (
            "morlet",
            lambda p, x: wavelet_basis(x, p.frequencies, p.phases, kind="morlet"),
        ),
    ],
)
def test_other_bases_live_on_the_domain(basis, expected, key):
    with jax.enable_x64(True):
        params = kan_layer_init(
            key, 2, 3, basis=basis, domain=(-1, 3), residual="identity", dtype=float
        )
        x = jnp.asarray([-0.3, 2.5])
        want = jnp.einsum("im,mio->o", expected(params, x), params.coefficients)
        want = want + x @ params.residual
        np.testing.assert_allclose(kan_layer_apply(params, x), want, atol=1e-13)


def test_wavelets_start_on_a_lattice(key):
    params = kan_layer_init(
        key, 1, 1, basis="mexican_hat", num_intervals=3, domain=(0, 4)
    )
    centers = -params.phases / params.frequencies
    np.testing.assert_allclose(centers, [0, 2, 4], atol=1e-6)
    np.testing.assert_allclose(params.frequencies, 0.5)


def moments(basis, degree, num_intervals):
    """E[b^2], E[b'^2] over (-1, 1) and all functions, by Gauss-Legendre panels."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    x = np.concatenate([(nodes + 1 + 2 * j) / 100 - 1 for j in range(100)])
    weights = np.tile(weights, 100) / 200
    b, slope = basis(x)
    return weights @ (b**2).mean(-1), weights @ (slope**2).mean(-1)


@pytest.mark.parametrize("init", ["default", "power", "lecun", "glorot"])
def test_initial_scales(init):
    n_in, n_out, g, k = 100, 90, 5, 3
    params = kan_layer_init(jax.random.key(3), n_in, n_out, init=init)
    count = g + k + 1

    @jax.jit
    def spline(x):
        def basis(x):
            return bspline_basis(x, num_intervals=g, degree=k, domain=(-1, 1))

        return jax.jvp(basis, (x,), (jnp.ones_like(x),))

    @jax.jit
    def silu(x):
        values, slopes = jax.jvp(jax.nn.silu, (x,), (jnp.ones_like(x),))
        return values[:, None], slopes[:, None]

    gain = math.sqrt(1 / 3)

    def scale(basis):
        b2, slope2 = moments(basis, k, g)
        if init == "lecun":
            return gain / math.sqrt(n_in * count * b2)
        return gain * math.sqrt(2 / (n_in * count * b2 + n_out * count * slope2))

    if init == "default":
        wanted = 0.1 / math.sqrt(n_in), math.sqrt(2 / (n_in + n_out))
    elif init == "power":
        wanted = (1 / math.sqrt(count * n_in),) * 2
    else:
        wanted = scale(spline), scale(silu)
    for drawn, want in zip((params.coefficients, params.residual), wanted, strict=True):
        # Four standard errors of a standard deviation over that many draws.
        rtol = 4 / math.sqrt(2 * drawn.size)
        np.testing.assert_allclose(np.std(drawn), want, rtol=rtol)
        assert abs(np.mean(drawn)) < 4 * want / math.sqrt(drawn.size)
    assert not params.bias.any()


@pytest.mark.parametrize("basis", BASES)
def test_every_basis_runs_and_differentiates(basis, key):
    params = kan_layer_init(key, 2, 3, basis=basis, num_intervals=4)
    has_phases = basis in (
        "sine",
        "mexican_hat",
        "morlet",
        "derivative_of_gaussian",
        "shannon",
    )
    assert (params.frequencies is not None) == has_phases
    x = jnp.asarray([0.0, 3.0])  # the second is outside the domain
    gradients = jax.jit(jax.grad(lambda p, x: kan_layer_apply(p, x).sum(), (0, 1)))
    chex.assert_tree_all_finite(gradients(params, x))


def test_options(key):
    params = kan_layer_init(key, 2, 3, residual=None, bias=False, num_intervals=4)
    assert params.residual is None
    assert params.bias is None
    assert params.num_intervals == 4
    assert params.coefficients.shape == (7, 2, 3)
    half = kan_layer_init(key, 2, 3, dtype=jnp.bfloat16)
    full = kan_layer_init(key, 2, 3)
    chex.assert_trees_all_equal(
        half, jax.tree.map(lambda a: a.astype(jnp.bfloat16), full)
    )


def flops(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def test_vmap_costs_what_a_batch_by_hand_costs(key):
    params = kan_layer_init(key, 16, 8)
    x = jax.random.uniform(key, (32, 16), minval=-1)

    def by_hand(params, x):
        basis = bspline_basis(x, num_intervals=5, degree=3, domain=(-1, 1))
        y = jnp.einsum("bim,mio->bo", basis, params.coefficients)
        return y + jax.nn.silu(x) @ params.residual + params.bias[None]

    by_vmap = jax.vmap(kan_layer_apply, (None, 0))
    np.testing.assert_allclose(by_vmap(params, x), by_hand(params, x), atol=1e-6)
    for wrap in (
        lambda f: f,
        lambda f: jax.grad(lambda p, x: (f(p, x) ** 2).sum(), (0, 1)),
    ):
        ratio = flops(wrap(by_vmap), params, x) / flops(wrap(by_hand), params, x)
        assert ratio < 1.1  # the residual is a product of its own


def test_remat_needs_less_memory(key):
    params = kan_layer_init(key, 64, 64)
    x = jnp.zeros((4096, 64))

    def temporary(remat):
        def loss(params, x):
            y = jax.vmap(lambda x: kan_layer_apply(params, x, remat=remat))(x)
            return (y**2).sum()

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(params, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(True) < 0.5 * temporary(False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"in_features": 0}, ValueError, "`in_features` must be at least 1, got 0"),
        ({"degree": 2.0}, TypeError, "`degree` must be an int, got float"),
        ({"domain": (0, 0)}, ValueError, "`domain` must be two finite numbers"),
        ({"basis": "haar"}, ValueError, "`basis` must be one of 'bspline', "),
        ({"residual": "relu"}, ValueError, "`residual` must be one of 'silu', "),
        ({"init": "he"}, ValueError, "`init` must be one of 'default', "),
        ({"dtype": jnp.int32}, ValueError, "`dtype` must be a real floating dtype"),
        (
            {"basis": "rbf", "num_intervals": 1},
            ValueError,
            "`num_intervals` must be at least 2 for 'rbf', got 1.",
        ),
    ],
)
def test_init_errors(options, error, message, key):
    arguments = {"in_features": 2, "out_features": 3} | options
    with pytest.raises(error, match=re.escape(f"kan_layer_init: {message}")):
        kan_layer_init(key, **arguments)


@pytest.mark.parametrize("function", [kan_layer_apply, kan_layer_edges])
def test_apply_errors(function, key):
    params = kan_layer_init(key, 2, 3)
    name = function.__name__
    with pytest.raises(
        ValueError,
        match=re.escape(f"{name}: `x` must have shape (2,) (one example; use"),
    ):
        function(params, jnp.zeros((7, 2)))
    with pytest.raises(
        ValueError,
        match=re.escape(f"{name}: `grid` must have shape (2, 12), got (12,)"),
    ):
        function(params, jnp.zeros(2), grid=jnp.zeros(12))
    params = kan_layer_init(key, 2, 3, basis="rbf")
    message = f"{name}: `grid` must be None for the basis 'rbf'"
    with pytest.raises(ValueError, match=re.escape(message)):
        function(params, jnp.zeros(2), grid=jnp.zeros((2, 12)))
