"""Relative norms against the authors' code and functions whose norms are known."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.operators import relative_h1, relative_l2

from . import golden


@pytest.mark.parametrize("name", golden.names("hsloss"))
@pytest.mark.parametrize(("loss", "key"), [(relative_h1, "h1"), (relative_l2, "l2")])
def test_golden_losses_are_sums_over_the_batch(name, loss, key):
    found = golden.case(name)
    got = jax.vmap(loss)(found["pred"][..., None], found["true"][..., None])
    np.testing.assert_allclose(got.sum(), found[key], rtol=1e-6)


def wave(n, k, *, num_axes, axis, channels=2):
    """The functions sin(2 pi k x + c) of one coordinate at points j / n."""
    x = jnp.arange(n) / n
    f = jnp.sin(2 * jnp.pi * k * x[:, None] + jnp.arange(1.0 * channels)[None])
    shape = [n if a == axis else 1 for a in range(num_axes)]
    return jnp.broadcast_to(f.reshape(*shape, channels), (*[n] * num_axes, channels))


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_spectral_norm_of_waves(num_axes):
    with jax.enable_x64(True):
        u, v = (wave(12, k, num_axes=num_axes, axis=num_axes - 1) for k in (1, 3))
        got = relative_h1(u + v, u)
        np.testing.assert_allclose(got, np.sqrt((1 + 3**2) / (1 + 1)), rtol=1e-13)
        # Frequencies from the maximum on count as the mean does.
        got = relative_h1(u + v, u, max_frequency=3)
        np.testing.assert_allclose(got, np.sqrt(1 / (1 + 1)), rtol=1e-13)


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_difference_norm_of_waves(num_axes):
    n, lengths = 12, (2.0, 3.0, 0.5)[:num_axes]
    with jax.enable_x64(True):
        u = 2 + wave(n, 0, num_axes=num_axes, axis=0, channels=1)  # the constant 2
        for axis in range(num_axes):
            v = wave(n, 2, num_axes=num_axes, axis=axis)[..., :1]
            got = relative_h1(
                u + v, u, kind="difference", boundary="periodic", lengths=lengths
            )
            h = lengths[axis] / n
            rate = 2 * np.sin(2 * np.pi / n) / h  # of differences of exp(2 i 2 pi x)
            want = np.sqrt((1 + rate**2) / 2) / 2
            np.testing.assert_allclose(got, want, rtol=1e-13)


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann"])
def test_difference_norm_of_a_linear_function(boundary):
    with jax.enable_x64(True):
        x, y = jnp.meshgrid(jnp.linspace(0, 2, 5), jnp.linspace(0, 3, 9), indexing="ij")
        v = (3 * x - 0.5 * y)[..., None]
        got = relative_h1(
            v + 1,
            jnp.ones_like(v),
            kind="difference",
            lengths=(2, 3),
            boundary=boundary,
        )
        want = np.sqrt(jnp.mean(v**2) + 3**2 + 0.5**2)
        np.testing.assert_allclose(got, want, rtol=1e-13)


def test_a_scaled_prediction_has_the_error_of_its_scale():
    u = jnp.sin(jnp.arange(40.0)).reshape(5, 8, 1)
    for got in (
        relative_l2(1.25 * u, u),
        relative_h1(1.25 * u, u),
        relative_h1(1.25 * u, u, kind="difference"),
    ):
        np.testing.assert_allclose(got, 0.25, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        relative_l2,
        relative_h1,
        lambda v, u: relative_h1(v, u, kind="difference"),
    ],
)
def test_values_and_gradients_where_a_norm_is_zero(loss):
    u = jnp.sin(jnp.arange(20.0)).reshape(5, 4, 1)
    value, gradients = jax.value_and_grad(loss, (0, 1))(u, u)
    assert value == 0
    assert all((g == 0).all() for g in gradients)

    value, gradients = jax.value_and_grad(loss, (0, 1))(u, 0 * u)
    assert jnp.isfinite(jnp.stack(gradients)).all()
    if loss is relative_l2:
        np.testing.assert_allclose(value, jnp.sqrt(jnp.mean(u**2)), rtol=1e-6)
    np.testing.assert_allclose(value, loss(2 * u, 0 * u) / 2, rtol=1e-6)

    value, gradients = jax.value_and_grad(loss, (0, 1))(0 * u, 0 * u)
    assert value == 0
    assert all((g == 0).all() for g in gradients)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((4,), (4,)), {}, "with one to three axes of space, got (4,)"),
        (((2, 2, 2, 2, 1),) * 2, {}, "axes of space, got (2, 2, 2, 2, 1)"),
        (((3, 4, 1), (4, 1)), {}, "`prediction` must have shape (4, 1) (one example"),
        (((4, 1),) * 2, {"kind": "sobolev"}, "`kind` must be one of 'spectral'"),
        (((4, 1),) * 2, {"boundary": "open"}, "`boundary` must be one of"),
        (((4, 1),) * 2, {"max_frequency": -1}, "`max_frequency` must be at least 0"),
        (
            ((4, 1),) * 2,
            {"lengths": (1, 2)},
            "`lengths` must be a positive number, or 1 of them",
        ),
        (((1, 1),) * 2, {"kind": "difference"}, "at least two points along each axis"),
    ],
)
def test_errors(shapes, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        relative_h1(*map(jnp.ones, shapes), **options)
