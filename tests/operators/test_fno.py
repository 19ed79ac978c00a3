"""Fourier neural operators against a model of neuralop with its weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.operators import fno_apply, fno_from_torch, fno_init

from . import golden


@functools.cache
def found():
    return golden.case("fno_a")


def weights():
    return {k[2:]: v for k, v in found().items() if k.startswith("w/")}


def by_torch_names(params):
    """Arrays of params, or of their gradient, in the order of the model's weights."""
    convs, layers = params.convs, range(len(params.gates))
    for i in layers:
        yield (convs.bias[i],)
        yield (convs.real[i], convs.imag[i])
    for i in layers:
        yield (params.skips[i],)
    for i in layers:
        for weight, bias in zip(params.mlps.weights, params.mlps.biases, strict=True):
            yield (weight[i],)
            yield (bias[i],)
    for i in layers:
        yield (params.gates[i],)
    for mlp in (params.lifting, params.projection):
        for weight, bias in zip(mlp.weights, mlp.biases, strict=True):
            yield (weight,)
            yield (bias,)


@jax.jit
def loss(params, u):
    out = jax.vmap(fno_apply, (None, 0))(params, u)
    return jnp.sum(out**2), out


def test_golden_model_and_gradients():
    params = fno_from_torch(weights(), positions=False)
    u = np.moveaxis(found()["in0"], 1, -1)
    (_, out), (of_params, of_u) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        params, u
    )
    np.testing.assert_allclose(jnp.moveaxis(out, -1, 1), found()["out"], atol=1e-6)
    np.testing.assert_allclose(jnp.moveaxis(of_u, -1, 1), found()["gin0"], atol=1e-7)
    norms = [
        np.sqrt(sum(np.sum(np.square(a)) for a in arrays))
        for arrays in by_torch_names(of_params)
    ]
    np.testing.assert_allclose(norms, found()["gw_norms"], rtol=2e-6)


def test_golden_model_on_a_finer_grid():
    params = fno_from_torch(weights(), positions=False)
    _, out = loss(params, np.moveaxis(found()["in_hi"], 1, -1))
    np.testing.assert_allclose(jnp.moveaxis(out, -1, 1), found()["out_hi"], atol=1e-6)


def test_from_torch_names_what_does_not_fit():
    less = weights()
    del less["lifting.fcs.1.bias"]
    with pytest.raises(ValueError, match=r"have a weight 'lifting.fcs.1.bias', got"):
        fno_from_torch(less)
    with pytest.raises(ValueError, match=r"'fno_blocks.convs.0.weight.tensor', got"):
        fno_from_torch({})
    more = weights() | {"fno_blocks.norm.0.weight": np.ones(6)}
    with pytest.raises(ValueError, match=r"got \['fno_blocks.norm.0.weight'\] besides"):
        fno_from_torch(more)


def one_layer(padding, boundary, space):
    """A model of one layer and no positions."""
    return fno_init(
        jax.random.key(0),
        1,
        1,
        (5,) * len(space),
        width=3,
        num_layers=1,
        positions=False,
        padding=padding,
        boundary=boundary,
        dtype=jnp.float64,
    )


def outputs(params, n, h):
    """The model without its activation on a function of limited support."""
    x = h * np.arange(n)
    u = jnp.exp(-(((x - 0.5) / 0.1) ** 2))[:, None]
    return fno_apply(params, u, activation=lambda h: h)


@pytest.mark.parametrize(
    ("boundary", "padding"),
    [("periodic", 0.0), ("periodic", 0.21), ("dirichlet", 0.0), ("neumann", 0.21)],
)
def test_modes_have_one_period_on_every_grid(boundary, padding):
    """A linear model without bias: the outputs at n and 2 n agree."""
    with jax.enable_x64(True):
        params = one_layer(padding, boundary, (1,))
        lifting = jax.tree.map(lambda b: 0 * b, params.lifting.biases)
        lifting = dataclasses.replace(params.lifting, biases=lifting)
        params = dataclasses.replace(params, lifting=lifting)
        coarse, fine = 32, 64
        if boundary == "periodic":
            a, b = outputs(params, coarse, 1 / coarse), outputs(params, fine, 1 / fine)
        else:
            a = outputs(params, coarse + 1, 1 / coarse)
            b = outputs(params, fine + 1, 1 / fine)
        np.testing.assert_allclose(b[::2], a, atol=1e-10)


def test_outputs_of_functions_that_are_not_periodic_converge():
    """The rule of order 2, through nonlinear layers that jump at the ends."""
    with jax.enable_x64(True):
        params = fno_init(
            jax.random.key(0), 1, 1, (7, 7), width=4, num_layers=3, padding=0.06,
            boundary="dirichlet", dtype=jnp.float64,
        )  # fmt: skip

        def output(n):
            x, y = np.meshgrid(*[np.linspace(0, 1, n)] * 2, indexing="ij")
            out = fno_apply(params, jnp.asarray(np.exp(x) * np.cos(2 * y))[..., None])
            return out[:: (n - 1) // 16, :: (n - 1) // 16]

        best = output(129)
        errors = [float(abs(output(n) - best).max()) for n in (17, 33, 65)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert orders[0] > 1.9
    assert orders[1] > 1.9
    assert errors[0] < 1e-2 * abs(best).max()


def test_positions_are_coordinates_of_the_points():
    """Of two channels, 1 is the coordinate: the model is that of its own input."""
    for boundary, cells in (("periodic", 6), ("neumann", 5)):
        options = {"width": 4, "num_layers": 1, "boundary": boundary}
        params = fno_init(jax.random.key(1), 1, 1, (3,), **options)
        plain = fno_init(jax.random.key(1), 2, 1, (3,), positions=False, **options)
        u = jnp.sin(jnp.arange(6.0))[:, None]
        x = (jnp.arange(6.0) / cells)[:, None]
        want = fno_apply(plain, jnp.concatenate([u, x], -1))
        np.testing.assert_allclose(fno_apply(params, u), want, rtol=1e-6)


def test_the_default_activation_is_gelu_with_finite_derivatives():
    params = fno_init(jax.random.key(0), 1, 1, (3,), width=4, num_layers=2)
    u = jnp.asarray([0.0, 1.0, -1.0, 30.0, -30.0, 0.5])[:, None]
    gelu = functools.partial(jax.nn.gelu, approximate=False)
    want, of_want = jax.value_and_grad(
        lambda u: fno_apply(params, u, activation=gelu).sum()
    )(u)
    got, of_got = jax.value_and_grad(lambda u: fno_apply(params, u).sum())(u)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(of_got, of_want, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": -0.1}, "`padding` must be at least 0, got -0.1"),
        ({"boundary": "open"}, "`boundary` must be one of 'dirichlet'"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, got 0"),
        ({"dtype": jnp.int32}, "`dtype` must be a real floating dtype"),
    ],
)
def test_init_errors(key, options, message):
    with pytest.raises(ValueError, match=message):
        fno_init(key, 1, 1, (3,), **options)


def test_shape_errors(key):
    params = fno_init(key, 2, 1, (3, 3), width=4)
    with pytest.raises(ValueError, match=r"fno_apply: `u` must have shape \(n, n, 2\)"):
        fno_apply(params, jnp.ones((6, 6, 4)))
