import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.layers import (
    KANLayerParams,
    KANParams,
    kan_apply,
    kan_edge_norms,
    kan_init,
    kan_mask,
    kan_prune,
    kan_regularizer,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "kan_interpretation.npz"
SIZES = (2, (3, 1), 2)


def golden(name):
    with np.load(GOLDEN) as file:
        return {
            key.split("/")[1]: file[key] for key in file.files if key.startswith(name)
        }


def network(key, sizes=SIZES, **options):
    """Random parameters, none of them zero; biases too. Few functions: they compile."""
    options = {"num_intervals": 2, "degree": 2} | options
    shapes = jax.eval_shape(lambda key: kan_init(key, sizes, **options), key)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes
    )


def sample(count=40, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (count, 2)), dtype)


def replace_layer(params, index, **fields):
    layers = list(params.layers)
    layers[index] = dataclasses.replace(layers[index], **fields)
    return dataclasses.replace(params, layers=tuple(layers))


def without_edges(params, index, inputs, outputs, value=0.0):
    """Makes edges constant: B-splines sum to one."""
    layer = params.layers[index]
    return replace_layer(
        params,
        index,
        coefficients=layer.coefficients.at[:, inputs, outputs].set(value),
        residual=layer.residual.at[inputs, outputs].set(0.0),
    )


@pytest.mark.slow
@jax.jit
def outputs(params, x):
    return jax.vmap(lambda x: kan_apply(params, x))(x)


def test_norms_and_regularizer_of_pykan():
    want = golden("pykan_2_31_1")
    with jax.enable_x64(True):
        layers = [
            KANLayerParams(
                coefficients=jnp.asarray(
                    (want[f"coef{i}"] * want[f"scale_sp{i}"][..., None]).transpose(
                        2, 0, 1
                    )
                ),
                residual=jnp.asarray(want[f"scale_base{i}"]),
                bias=None,
                frequencies=None,
                phases=None,
                basis="bspline",
                degree=3,
                domain=(-1.0, 1.0),
                activation="silu",
            )
            for i in range(2)
        ]
        params = KANParams(layers=tuple(layers), num_products=(1, 0), arity=2)
        x, grid = jnp.asarray(want["x"]), (want["grid0"], want["grid1"])
        y = jax.vmap(lambda x: kan_apply(params, x, grid=grid))(x)
        np.testing.assert_allclose(y, want["y"], rtol=1e-12)
        for statistic, name in (
            ("std", "edge_actscale"),
            ("relative_std", "acts_scale"),
            ("mean_abs", "mean_abs"),
        ):
            norms = kan_edge_norms(params, x, grid=grid, statistic=statistic)
            for i in range(2):
                np.testing.assert_allclose(norms[i].T, want[f"{name}{i}"], rtol=1e-12)
        norms = kan_edge_norms(params, x, grid=grid)
        penalty = kan_regularizer(norms, l1=1.0, entropy=2.0)
        np.testing.assert_allclose(penalty, want["reg_l1_1_entropy_2"], rtol=1e-12)


def test_regularizer_of_pykan():
    want = golden("pykan_reg_2_5_1")
    with jax.enable_x64(True):
        for scale, name in (
            ("acts_scale_spline", "reg_spline_n"),
            ("acts_scale", "reg_sum"),
        ):
            norms = [jnp.asarray(want[f"{scale}{i}"].T) for i in range(2)]
            penalty = kan_regularizer(norms, l1=1.0, entropy=2.0)
            np.testing.assert_allclose(penalty, want[name], rtol=1e-12)


def test_gradient_of_the_regularizer_is_finite_at_dead_edges(key):
    params = jax.tree.map(jnp.zeros_like, network(key, (2, 2)))
    x = sample(dtype=jnp.float32)

    @jax.jit
    @jax.value_and_grad
    def penalty(params):
        return sum(
            kan_regularizer(kan_edge_norms(params, x, statistic=statistic))
            for statistic in ("std", "mean_abs", "relative_std")
        )

    value, slopes = penalty(params)
    assert value == 0
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(slopes))


def test_norm_of_one_sample_is_zero(key):
    norms = kan_edge_norms(network(key), jnp.ones((1, 2)))
    np.testing.assert_array_equal(norms[0], 0)


def dead_network(key):
    """Dead: edge (0, 0); node 1, which nothing enters; node 2, which nothing reads."""
    params = network(key, dtype=jnp.float64)
    params = without_edges(params, 0, 0, 0, 0.7)
    params = without_edges(params, 0, slice(None), 1, -0.3)
    return without_edges(params, 1, 2, slice(None))


def test_dead_edges_and_nodes_leave_the_output_unchanged(key):
    with jax.enable_x64(True):
        params, x = dead_network(key), sample()
        smaller, grid, report = kan_prune(params, x, edge_threshold=1e-9)
        assert grid is None
        assert report["nodes"] == ((0, 3), (0, 1))
        assert smaller.num_products == (1, 0)
        assert [p.coefficients.shape for p in smaller.layers] == [(4, 2, 3), (4, 2, 2)]
        np.testing.assert_array_equal(
            report["edges"][0], [[False, True, True], [True] * 3]
        )
        assert [n.shape for n in report["norms"]] == [(2, 5), (4, 2)]
        assert not smaller.layers[0].coefficients[:, 0, 0].any()
        np.testing.assert_allclose(outputs(smaller, x), outputs(params, x), atol=1e-12)
        # Not on the sample alone: the inputs of the dead parts do not matter.
        other = sample(7) * 0.5
        np.testing.assert_allclose(
            outputs(smaller, other), outputs(params, other), atol=1e-12
        )


def test_dead_product_goes(key):
    with jax.enable_x64(True):
        params = network(key, dtype=jnp.float64)
        # One factor is 0: so is the product, though its other factor varies.
        params = without_edges(params, 0, slice(None), 4)
        params = replace_layer(params, 0, bias=params.layers[0].bias.at[4].set(0.0))
        x = sample()
        smaller, _, report = kan_prune(params, x, edge_threshold=1e-9)
        assert report["nodes"][0] == (0, 1, 2)
        assert smaller.num_products == (0, 0)
        np.testing.assert_allclose(outputs(smaller, x), outputs(params, x), atol=1e-12)


def test_grid_comes_back_smaller(key):
    with jax.enable_x64(True):
        params, x = dead_network(key), sample()
        knots = np.random.default_rng(3).uniform(-0.2, 0.2, (6, 7))
        knots += np.linspace(-4, 4, 7)
        grid = (jnp.asarray(knots[:2]), jnp.asarray(knots[2:]))
        smaller, kept, _ = kan_prune(params, x, edge_threshold=1e-9, grid=grid)
        assert [knots.shape for knots in kept] == [(2, 7), (2, 7)]
        np.testing.assert_array_equal(kept[1], grid[1][np.array([0, 3])])
        want = jax.vmap(lambda x: kan_apply(params, x, grid=grid))(x)
        got = jax.vmap(lambda x: kan_apply(smaller, x, grid=kept))(x)
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_squash_is_part_of_the_network(key):
    with jax.enable_x64(True):
        params, x = dead_network(key), 3 * sample()
        smaller, _, _ = kan_prune(params, x, edge_threshold=1e-9, squash=jnp.tanh)
        want = jax.vmap(lambda x: kan_apply(params, x, squash=jnp.tanh))(x)
        got = jax.vmap(lambda x: kan_apply(smaller, x, squash=jnp.tanh))(x)
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_bias_appears_where_it_is_needed(key):
    with jax.enable_x64(True):
        params, x = network(key, bias=False, dtype=jnp.float64), 0.1 * sample()
        params = without_edges(params, 0, 0, 0, 0.7)
        smaller, _, _ = kan_prune(params, x, edge_threshold=1e-9)
        want = [0.7, 0, 0, 0, 0]
        np.testing.assert_allclose(smaller.layers[0].bias, want, atol=1e-12)
        assert smaller.layers[1].bias is None
        np.testing.assert_allclose(outputs(smaller, x), outputs(params, x), atol=1e-12)


def test_thresholds_of_the_paper(key):
    """Norms 3, 2 and 1 of edges through three nodes, by linear functions."""
    with jax.enable_x64(True):
        params = network(key, (1, 3, 1), residual="identity", dtype=jnp.float64)
        params = jax.tree.map(jnp.zeros_like, params)
        params = replace_layer(params, 0, residual=jnp.asarray([[3.0, 2.0, 1.0]]))
        params = replace_layer(params, 1, residual=jnp.asarray([[1.0], [0.1], [1.0]]))
        x = jnp.asarray([[-1.0], [0.0], [1.0]])  # of standard deviation 1
        norms = kan_edge_norms(params, x)
        np.testing.assert_allclose(norms[0], [[3, 2, 1]], rtol=1e-14)
        np.testing.assert_allclose(norms[1], [[3], [0.2], [1]], rtol=1e-14)
        for edge, node, kept in (
            (0.1, 0.1, (0, 1, 2)),
            (0.1, 0.3, (0, 2)),
            (0.3, 0.0, (0, 2)),
            (0.1, 2.0, (0,)),
        ):
            _, _, report = kan_prune(
                params, x, edge_threshold=edge, node_threshold=node
            )
            assert report["nodes"][0] == kept


def test_everything_pruned_is_the_mean(key):
    with jax.enable_x64(True):
        params, x = network(key, dtype=jnp.float64), sample()
        smaller, _, report = kan_prune(params, x, edge_threshold=np.inf)
        assert report["nodes"] == ((0,), (0, 1))
        assert [p.coefficients.shape for p in smaller.layers] == [(4, 2, 1), (4, 1, 2)]
        want = np.broadcast_to(outputs(params, x).mean(0), (40, 2))
        np.testing.assert_allclose(outputs(smaller, x), want, atol=1e-12)


def test_never_nan(key):
    """The residual of an input that was never finite goes, and so does its edge."""
    params = network(key, dtype=jnp.float32)
    params = replace_layer(
        params, 1, residual=params.layers[1].residual.at[1, 0].set(jnp.nan)
    )
    x = sample(dtype=jnp.float32)
    assert not bool(jnp.isfinite(outputs(params, x)).all())
    smaller, _, report = kan_prune(params, x)
    assert not report["edges"][1][1, 0]
    assert bool(jnp.isfinite(outputs(smaller, x)).all())
    again, _, _ = kan_prune(jax.tree.map(jnp.zeros_like, params), 0 * x)
    assert bool(jnp.isfinite(outputs(again, x)).all())


def test_masked_edges_have_no_gradient(key):
    with jax.enable_x64(True):
        params, x = dead_network(key), sample()
        smaller, _, report = kan_prune(params, x, edge_threshold=1e-9)

        def loss(params):
            return outputs(kan_mask(params, report["edges"]), x).sum()

        np.testing.assert_allclose(loss(smaller), outputs(smaller, x).sum())
        slopes = jax.grad(loss)(smaller).layers[0]
        assert not slopes.coefficients[:, 0, 0].any()
        assert not slopes.residual[0, 0].any()
        assert slopes.coefficients[:, 1, 0].any()
    masked = kan_mask(network(key, (2, 1), residual=None), [np.zeros((2, 1), bool)])
    assert masked.layers[0].residual is None
    assert not masked.layers[0].coefficients.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p, x: kan_edge_norms(p, x, statistic="max"),
            "kan_edge_norms: `statistic` must be one of 'std', 'mean_abs', "
            "'relative_std', got 'max'.",
        ),
        (
            lambda p, x: kan_prune(p, x, statistic="max"),
            "kan_prune: `statistic` must be one of 'std', 'mean_abs', "
            "'relative_std', got 'max'.",
        ),
        (
            lambda p, x: kan_edge_norms(p, x[0]),
            "kan_edge_norms: `x` must have shape (samples, 2), got (2,).",
        ),
        (
            lambda p, x: kan_prune(p, x[:0]),
            "kan_prune: `x` must have shape (samples, 2) with at least one "
            "sample, got (0, 2).",
        ),
        (
            lambda p, x: kan_edge_norms(p, x, grid=(None,)),
            "kan_edge_norms: `grid` must have one entry for each of 2 layers, got 1.",
        ),
        (
            lambda p, x: kan_regularizer(()),
            "kan_regularizer: `norms` must have an entry for each layer.",
        ),
        (
            lambda p, x: kan_mask(p, ()),
            "kan_mask: `edges` must have one entry for each of 2 layers, got 0.",
        ),
        (
            lambda p, x: kan_mask(p, [np.ones((2, 5), bool), np.ones((4, 1), bool)]),
            "kan_mask: `edges[1]` must have shape (4, 2), got (4, 1).",
        ),
    ],
)
def test_errors(key, call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(network(key), sample(dtype=jnp.float32))
