import dataclasses
import re

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

from jaxarch.layers import kan_init, kan_mask, kan_plot

mpl.use("Agg")  # before pyplot
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def network(key):
    """Two inputs, a sum and a product, one output; all edges alike but for noise."""
    shapes = jax.eval_shape(lambda key: kan_init(key, (2, (1, 1), 1)), key)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(-1, 1, (50, 2)), jnp.float32)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes
    ), x


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def texts(axes):
    return sorted(text.get_text() for text in axes.texts)


def test_every_edge_has_its_function(network):
    params, x = network
    axes = kan_plot(params, x)
    assert len(axes.child_axes) == 2 * 3 + 2
    inset = axes.child_axes[0]
    (line,) = inset.lines
    xs, values = line.get_data()
    np.testing.assert_allclose([xs.min(), xs.max()], [x[:, 0].min(), x[:, 0].max()])
    assert (np.diff(xs) >= 0).all()
    assert np.isfinite(values).all()
    assert texts(axes) == ["$x_{1}$", "$x_{2}$", "$y$"]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert len(crosses) == 1
    axes.figure.canvas.draw()


def test_pruned_edges_are_not_drawn_and_names_are(network):
    params, x = network
    edges = [np.ones((2, 3), bool), np.ones((2, 1), bool)]
    edges[0][1, 0] = False
    _, own = plt.subplots()
    axes = kan_plot(
        kan_mask(params, edges), x, names=("p", "q"), output_names=["out"], axes=own
    )
    assert axes is own
    assert len(axes.child_axes) == 2 * 3 + 2 - 1
    assert texts(axes) == ["out", "p", "q"]


def test_opacity_follows_the_norm(network):
    params, x = network
    layer = params.layers[1]
    weak = dataclasses.replace(
        layer,
        coefficients=layer.coefficients.at[:, 0].multiply(0.01),
        residual=layer.residual.at[0].multiply(0.01),
    )
    params = dataclasses.replace(params, layers=(params.layers[0], weak))
    faint, strong = kan_plot(params, x).child_axes[-2:]
    assert faint.lines[0].get_alpha() < strong.lines[0].get_alpha()
    assert strong.lines[0].get_alpha() == pytest.approx(np.tanh(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("p",)}, "kan_plot: `names` must have 2 entries, got 1."),
        (
            {"output_names": ("p", "q")},
            "kan_plot: `output_names` must have 1 entries, got 2.",
        ),
    ],
)
def test_errors(network, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kan_plot(*network, **options)
