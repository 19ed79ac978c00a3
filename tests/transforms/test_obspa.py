"""Optimal brain surgery against least squares."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxarch import transforms as tr

from .models import conv, model, numbers, reseed

reseed(__name__)


def two_layers(p, x):
    return jnp.tanh(jnp.dot(x, p["w"])) @ p["v"]


PARAMS = {"v": numbers(6, 3), "w": numbers(4, 6)}
X = numbers(40, 4)


def least_squares(hidden, v, kept, damping):
    """The weights on the kept channels that change the output least, and the change."""
    level = damping * np.trace(hidden.T @ hidden) / hidden.shape[1]
    rows = np.concatenate([hidden, np.sqrt(level) * np.eye(hidden.shape[1])])
    new, *_ = np.linalg.lstsq(rows[:, kept], rows @ v, rcond=None)
    return new, np.sum((rows[:, kept] @ new - rows @ v) ** 2)


def test_what_is_left_solves_least_squares():
    kept = [0, 2, 3, 5]
    small, apply, report = tr.obspa(
        two_layers, PARAMS, X, keep={"v[0]": kept}, data=(X,), damping=1e-3
    )
    w, v = (np.asarray(PARAMS[k], np.float64) for k in ("w", "v"))
    want, _ = least_squares(np.tanh(np.asarray(X, np.float64) @ w), v, kept, 1e-3)
    np.testing.assert_allclose(small["v"], want, rtol=2e-4, atol=1e-5)
    np.testing.assert_array_equal(small["w"], PARAMS["w"][:, jnp.array(kept)])
    assert report.difference < 1e-6
    assert apply(small, X).shape == (40, 3)


def test_channels_go_by_the_least_change():
    kept = tr.obspa(two_layers, PARAMS, X, keep=5 / 6, data=(X,)).report.kept["v[0]"]
    w, v = (np.asarray(PARAMS[k], np.float64) for k in ("w", "v"))
    hidden = np.tanh(np.asarray(X, np.float64) @ w)
    best = min(
        itertools.combinations(range(6), 5),
        key=lambda kept: least_squares(hidden, v, list(kept), 1e-2)[1],
    )
    np.testing.assert_array_equal(kept, best)


@pytest.mark.slow
def test_a_convolution_is_adjusted_over_its_whole_window():
    def f(p, x):
        return conv(jax.nn.relu(conv(x, p["w"])), p["v"], 2)

    params = {"v": numbers(3, 3, 5, 4), "w": numbers(3, 3, 2, 5)}
    x, kept = numbers(8, 8, 8, 2), [0, 1, 4]
    small = tr.obspa(f, params, x, keep={"v[2]": kept}, data=(x,), damping=1e-3).params
    hidden = jax.nn.relu(conv(x, params["w"]))
    patches = lax.conv_general_dilated_patches(
        hidden, (3, 3), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    rows = np.asarray(patches, np.float64).reshape(-1, 5 * 9)
    v = np.asarray(params["v"], np.float64).transpose(2, 0, 1, 3).reshape(45, 4)
    inside = np.concatenate([np.arange(9) + 9 * c for c in kept])
    want, _ = least_squares(rows, v, inside, 1e-3)
    got = np.asarray(small["v"]).transpose(2, 0, 1, 3).reshape(27, 4)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [False, True])
def test_it_harms_a_network_less_than_magnitude_does(noise):
    made = model("vit")
    images = numbers(16, 8, 8, 3)
    options = {"key": jax.random.key(0)} if noise else {"data": (images,)}
    dense = made.apply(made.params, images)

    def harm(pruned):
        return np.abs(pruned.apply(pruned.params, images) - dense).mean()

    by_surgery = tr.obspa(made.apply, made.params, *made.args, keep=0.7, **options)
    by_norm = tr.prune(made.apply, made.params, *made.args, keep=0.7)
    assert by_surgery.report.parameters == by_norm.report.parameters
    assert harm(by_surgery) < 0.3 * harm(by_norm)


def test_errors():
    with pytest.raises(
        ValueError, match="obspa: needs `data` to calibrate on, or a `key"
    ):
        tr.obspa(two_layers, PARAMS, X, keep=0.5)
    with pytest.raises(ValueError, match=r"obspa: there is no group 'u\[0\]'"):
        tr.obspa(two_layers, PARAMS, X, keep={"u[0]": 0.5}, data=(X,))
