"""Bases against SciPy, the values of other implementations, and their moments."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from scipy.special import eval_chebyt, eval_legendre

from jaxarch import layers

from .golden import arrays

X = np.linspace(-1.2, 1.5, 23)
FREQUENCIES, PHASES = np.array([0.3, -2.0, 5.0]), np.array([0.0, 1.0, -0.5])


def test_polynomials():
    n = np.arange(8)
    with jax.enable_x64(True):
        chebyshev = layers.chebyshev_basis(jnp.asarray(X), degree=7)
        legendre = layers.legendre_basis(jnp.asarray(X), degree=7)
        constant = layers.chebyshev_basis(jnp.asarray(X), degree=0)
    # Largest value: T_7(1.5) = 421.
    np.testing.assert_allclose(chebyshev, eval_chebyt(n, X[:, None]), atol=1e-11)
    np.testing.assert_allclose(legendre, eval_legendre(n, X[:, None]), atol=1e-11)
    assert constant.shape == (23, 1)


def layer_output(basis, golden):
    """The output that a layer makes of a basis (batch, in, m) and golden parameters."""
    y = np.einsum("bim,oim->bo", basis, golden["p_c_basis"])
    return y + golden["p_bias"]


@pytest.mark.parametrize("name", ["Chebyshev", "Legendre", "RBF", "Sine"])
def test_golden_jaxkan(name):
    golden = arrays(f"jaxkan_{name}Layer_4_3_D5")
    with jax.enable_x64(True):
        x = jnp.asarray(golden["x"])
        match name:
            case "Chebyshev":  # without T_0, of tanh x
                basis = layers.chebyshev_basis(jnp.tanh(x), degree=5)[..., 1:]
            case "Legendre":
                basis = layers.legendre_basis(jnp.tanh(x), degree=5)[..., 1:]
            case "RBF":
                basis = layers.rbf_basis(x, num_centers=5, domain=(-2, 2), width=2**0.5)
            case "Sine":
                parameters = (
                    jnp.asarray(golden[f"p_{n}"][:, 0]) for n in ("omega", "phase")
                )
                basis = layers.sine_basis(x, *parameters)
    # The peer's frequencies are float32, and so are its means and deviations.
    atol = 1e-6 if name == "Sine" else 1e-12
    np.testing.assert_allclose(basis, golden["basis"], rtol=0, atol=atol)
    np.testing.assert_allclose(layer_output(basis, golden), golden["y"], atol=1e-6)


def test_golden_jaxkan_fourier():
    golden = arrays("jaxkan_FourierLayer_4_3_D5")
    with jax.enable_x64(True):
        basis = layers.fourier_basis(jnp.asarray(golden["x"]), num_frequencies=5)
    want = np.concatenate(golden["basis"], -1)
    np.testing.assert_allclose(basis, want, rtol=0, atol=1e-12)
    coefficients = np.concatenate([golden["p_c_cos"], golden["p_c_sin"]], -1)
    golden["p_c_basis"] = coefficients
    np.testing.assert_allclose(layer_output(basis, golden), golden["y"], atol=1e-6)


def test_golden_fast_kan():
    golden = arrays("fastkan_layer_4_3")
    x = golden["x"]
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    normal = (x - mean) / np.sqrt(variance + 1e-5)
    normal = normal * golden["layernorm_weight"] + golden["layernorm_bias"]
    with jax.enable_x64(True):
        basis = layers.rbf_basis(jnp.asarray(normal), num_centers=8, domain=(-2, 2))
        silu = np.asarray(jax.nn.silu(jnp.asarray(x)))
        basis = np.asarray(basis)
    y = basis.reshape(16, -1) @ golden["spline_linear_weight"].T
    y += silu @ golden["base_linear_weight"].T + golden["base_linear_bias"]
    np.testing.assert_allclose(y, golden["y"], rtol=0, atol=1e-12)


def test_golden_chebykan():
    golden = arrays("chebykan_layer_4_3_deg5")
    with jax.enable_x64(True):
        basis = layers.chebyshev_basis(jnp.tanh(jnp.asarray(golden["x"])), degree=5)
    y = np.einsum("bim,iom->bo", basis, golden["coeffs"])
    np.testing.assert_allclose(y, golden["y"], rtol=0, atol=1e-12)


def test_sines_are_standardised():
    frequencies, phases = np.array([1e-4, 0.3, -2.0, 9.0]), np.array([0.2, 0, 1, -0.5])
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    weights /= weights.sum()
    with jax.enable_x64(True):
        basis = np.asarray(layers.sine_basis(nodes, frequencies, phases))
    # At 1e-4 the numerator cancels to 1e-12; the variance does not.
    np.testing.assert_allclose(weights @ basis, 0, atol=1e-9)
    np.testing.assert_allclose(weights @ basis**2, 1, rtol=1e-8)


def test_sines_without_variance():
    with jax.enable_x64(True):

        def basis(x, frequencies, phases):
            return layers.sine_basis(x, frequencies, phases)

        args = jnp.linspace(-1, 1, 3), jnp.zeros(2), jnp.asarray([0.0, 0.7])
        assert not basis(*args).any()
        jacobians = jax.jacrev(basis, (0, 1, 2))(*args)
        assert all(np.isfinite(j).all() for j in jacobians)


@pytest.mark.parametrize(
    ("kind", "energy"),
    # Integrals of the squares; the Mexican hat is normalised.
    [
        ("mexican_hat", 1.0),
        ("morlet", np.sqrt(np.pi) / 2 * (1 + np.exp(-25))),
        ("derivative_of_gaussian", np.sqrt(np.pi) / 2),
    ],
)
def test_wavelets(kind, energy):
    def psi(u):
        basis = layers.wavelet_basis(u, jnp.ones(1), jnp.zeros(1), kind=kind)
        return float(basis[0])

    with jax.enable_x64(True):
        square, _ = scipy.integrate.quad(lambda u: psi(u) ** 2, -12, 12, limit=200)
        mean, _ = scipy.integrate.quad(psi, -12, 12, limit=200)
        moved = layers.wavelet_basis(
            jnp.asarray(X), jnp.asarray(FREQUENCIES), jnp.asarray(PHASES), kind=kind
        )
        want = [
            [psi(w * x + p) for w, p in zip(FREQUENCIES, PHASES, strict=True)]
            for x in X[:3]
        ]
    np.testing.assert_allclose(square, energy, rtol=1e-10)
    # Morlet's mean is not zero but e^{-12.5}, as for everyone.
    assert abs(mean) < 1e-5
    np.testing.assert_allclose(moved[:3], want, rtol=1e-12, atol=1e-15)


def test_the_shannon_wavelet_is_a_band():
    # Its Fourier transform is 1 for 1/2 < |f| < 1 and 0 elsewhere.
    step = 0.125
    u = step * np.arange(-(2**13), 2**13)
    with jax.enable_x64(True):
        psi = layers.wavelet_basis(
            jnp.asarray(u), jnp.ones(1), jnp.zeros(1), kind="shannon"
        )[:, 0]
    spectrum = step * np.abs(np.fft.fft(psi))
    frequency = np.abs(np.fft.fftfreq(len(u), step))
    inside = (frequency > 0.55) & (frequency < 0.95)
    outside = (frequency < 0.45) | (frequency > 1.05)
    np.testing.assert_allclose(spectrum[inside], 1, atol=0.02)  # cut at 1024
    np.testing.assert_allclose(spectrum[outside], 0, atol=0.02)


def test_relu_bumps():
    num_intervals, degree, low, high = 4, 2, -1.0, 1.0
    h = (high - low) / num_intervals
    start = low + h * (np.arange(num_intervals + degree) - degree)
    end = start + h * (degree + 1)
    rise, fall = np.maximum(X[:, None] - start, 0), np.maximum(end - X[:, None], 0)
    want = (rise * fall) ** 2 * 16 / (end - start) ** 4
    with jax.enable_x64(True):
        got = layers.relu_basis(
            jnp.asarray(X),
            num_intervals=num_intervals,
            degree=degree,
            domain=(low, high),
        )
        middle = layers.relu_basis(
            jnp.asarray((start + end) / 2),
            num_intervals=num_intervals,
            degree=degree,
            domain=(low, high),
        )
    np.testing.assert_allclose(got, want, atol=1e-14)
    np.testing.assert_allclose(np.diagonal(middle), 1, rtol=1e-14)


MAKERS = {
    "chebyshev": lambda x: layers.chebyshev_basis(x, degree=4),
    "legendre": lambda x: layers.legendre_basis(x, degree=4),
    "fourier": lambda x: layers.fourier_basis(x, num_frequencies=2),
    "rbf": lambda x: layers.rbf_basis(x, num_centers=3, domain=(-1, 1)),
    "relu": lambda x: layers.relu_basis(x, num_intervals=3, degree=2, domain=(-1, 1)),
    "sine": lambda x: layers.sine_basis(
        x, *(jnp.asarray(a, x.dtype) for a in (FREQUENCIES, PHASES))
    ),
    **{
        kind: lambda x, kind=kind: layers.wavelet_basis(
            x, *(jnp.asarray(a, x.dtype) for a in (FREQUENCIES, PHASES)), kind=kind
        )
        for kind in ("mexican_hat", "morlet", "derivative_of_gaussian", "shannon")
    },
}


@pytest.mark.parametrize("name", MAKERS)
def test_derivatives_and_16_bits(name):
    basis = MAKERS[name]
    with jax.enable_x64(True):
        # 0.1 is the middle of a wavelet.
        x = np.linspace(-0.9, 1.1, 5)
        x[2] = 0.1
        step = 1e-6

        @jax.jit
        def orders(x):
            def slope(x):
                return jax.jvp(basis, (x,), (jnp.ones_like(x),))

            return jax.jvp(slope, (x,), (jnp.ones_like(x),))

        _, got = orders(x)
        (after, _), (before, _) = orders(x + step), orders(x - step)
        for derivative, a, b in zip(got, after, before, strict=True):
            size = np.abs(derivative).max()
            np.testing.assert_allclose(
                derivative, (a - b) / (2 * step), rtol=0, atol=1e-7 * size
            )
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(orders(0 * x)))
        x = jnp.asarray(x)
        want = basis(x.astype(jnp.bfloat16).astype(jnp.float64))
        parameters = name in ("sine", *list(MAKERS)[6:])
        got = basis(x.astype(jnp.bfloat16))
    assert got.dtype == jnp.bfloat16
    # Frequencies, too, are rounded to 8 bits; the fastest is 5.
    atol = 2**-8 * (8 if parameters else 1) * max(1, np.abs(want).max())
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=atol)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: layers.chebyshev_basis(x, degree=-1),
            "chebyshev_basis: `degree` must be at least 0, got -1.",
        ),
        (
            lambda x: layers.legendre_basis(x, degree=-1),
            "legendre_basis: `degree` must be at least 0, got -1.",
        ),
        (
            lambda x: layers.fourier_basis(x, num_frequencies=0),
            "fourier_basis: `num_frequencies` must be at least 1, got 0.",
        ),
        (
            lambda x: layers.rbf_basis(x, num_centers=1, domain=(0, 1)),
            "rbf_basis: `num_centers` must be at least 2, got 1.",
        ),
        (
            lambda x: layers.rbf_basis(x, num_centers=2, domain=(0, 1), width=0.0),
            "rbf_basis: `width` must be positive, got 0.0.",
        ),
        (
            lambda x: layers.relu_basis(x, num_intervals=2, degree=1, domain=(1, 1)),
            "relu_basis: `domain` must be two finite numbers (low, high), low < high",
        ),
        (
            lambda x: layers.sine_basis(x, jnp.ones(2), jnp.ones(3)),
            "sine_basis: `frequencies` and `phases` must be vectors of one length, got "
            "shapes (2,) and (3,).",
        ),
        (
            lambda x: layers.wavelet_basis(x, jnp.ones(2), jnp.ones(2), kind="haar"),
            "wavelet_basis: `kind` must be one of 'mexican_hat', ",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(jnp.zeros(2))
