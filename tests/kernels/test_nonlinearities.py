"""Every nonlinearity against quadrature: dual, derivative kernel and mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker

from .quadrature import MAPS, Map, dual, moment

VARIANCES = [(0.1, 0.1), (1, 1), (4, 4), (16, 16), (0.1, 16), (4, 1)]
CORRELATIONS = [-1, -0.9, -0.3, 0, 0.5, 0.95, 1]
PAIRS = [(q1, q2, rho) for q1, q2 in VARIANCES for rho in CORRELATIONS]


def bump(x):
    return jnp.cos(x) + x * jnp.arctan(x / 2)


BUMP = Map(
    lambda x: np.cos(x) + x * np.arctan(x / 2),
    lambda x: -np.sin(x) + np.arctan(x / 2) + 2 * x / (4 + x**2),
)

CASES = [
    ("abrelu", {"a": -0.3, "b": 1.2}),
    ("absolute", {}),
    ("cos", {"a": 0.9, "b": 0.7, "c": 0.2}),
    ("elu", {}),
    ("elu", {"alpha": 0.4}),
    ("erf", {}),
    ("erf", {"a": 1.3, "b": 0.7, "c": 0.4}),
    ("exp", {"a": 0.8, "b": 1.0}),
    ("gabor", {}),
    ("gaussian", {"a": 1.1, "b": -0.6}),
    ("gelu", {}),
    ("hermite", {"degree": 3}),
    ("hermite", {"degree": 4}),
    ("leaky_relu", {"alpha": 0.1}),
    ("mish", {}),
    ("monomial", {"degree": 1}),
    ("monomial", {"degree": 5}),
    ("polynomial", {"coefficients": (0.1, 0.7, -0.3, 0.2)}),
    ("rbf", {"gamma": 0.4}),
    ("rectified_monomial", {"degree": 1}),
    ("rectified_monomial", {"degree": 2}),
    ("rectified_monomial", {"degree": 4}),
    ("relu", {}),
    ("selu", {}),
    ("sigmoid_like", {}),
    ("sign", {}),
    ("silu", {}),
    ("sin", {"a": 1.2, "b": 0.8, "c": 0.3}),
    ("softplus", {}),
    ("tanh", {}),
]


def identify(value):
    if isinstance(value, dict):
        return ",".join(str(v) for v in value.values()) or "-"
    return None


def evaluate(network, pairs, dtype=np.float64):
    """$F$, its derivative kernel, the second moments and means at `pairs`."""
    q1, q2, rho = np.array(pairs, dtype).T
    with jax.enable_x64(dtype == np.float64):
        state = ker.State.from_covariances(
            rho * np.sqrt(q1 * q2), q1, q2, ntk=np.ones_like(q1)
        )
        out = ker.infinite(network).state(state)
        zero = jnp.zeros_like(out.moment1)
        mean = (zero if m is None else m for m in (out.mean1, out.mean2))
        results = out.nngp, out.ntk, out.moment1, out.moment2, *mean
        return [np.asarray(a) for a in results]


def check(network, reference, pairs=PAIRS, dtype=np.float64, tolerance=1e-10):
    """Errors relative to the norms, which also bound the scale of the means."""
    f, fd, *moments = evaluate(network, pairs, dtype)
    squares = {}
    for q in {q for pair in pairs for q in pair[:2]}:
        squares[q] = [
            moment(g, q, kinked=reference.kinked)
            for g in (
                lambda x: reference.f(x) ** 2,
                lambda x: reference.derivative(x) ** 2,
                reference.f,
            )
        ]
    for i, (q1, q2, rho) in enumerate(pairs):
        for got, g, which in ((f, reference.f, 0), (fd, reference.derivative, 1)):
            want = dual(g, q1, q2, rho, kinked=reference.kinked)
            norm = np.sqrt(squares[q1][which] * squares[q2][which])
            assert abs(got[i] - want) <= tolerance * norm, (q1, q2, rho, which)
        for q, second, mean in zip((q1, q2), moments[:2], moments[2:], strict=True):
            want, _, first = squares[q]
            assert abs(second[i] - want) <= tolerance * want, q
            assert abs(mean[i] - first) <= tolerance * np.sqrt(want), q


@pytest.mark.parametrize(("name", "options"), CASES, ids=identify)
def test_quadrature(name, options):
    check(lambda h: getattr(ker, name)(h, **options), MAPS[name](**options))


@pytest.mark.parametrize("name", ["tanh", "silu", "selu", "elu", "gelu", "relu"])
def test_quadrature_float32(name):
    pairs = [pair for pair in PAIRS if max(pair[:2]) <= 4]
    network = getattr(ker, name)
    check(network, MAPS[name](), pairs, np.float32, tolerance=1e-5)


def test_exp_relative():
    """The derivative kernel to 1e-10 of itself, though it spans 14 decades."""
    _, got, *_ = evaluate(ker.exp, PAIRS)
    want = [dual(np.exp, *pair, kinked=False) for pair in PAIRS]
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_gaussian_of_positive_exponent():
    pairs = [pair for pair in PAIRS if max(pair[:2]) <= 1]
    check(lambda h: ker.gaussian(h, b=0.1), MAPS["gaussian"](b=0.1), pairs)
    f, *_ = evaluate(lambda h: ker.gaussian(h, b=0.1), [(4, 1, 0.5), (4, 4, 0.0)])
    assert np.isnan(f).all()  # 4 b q >= 1: the second moment is infinite


def test_exp_normalized():
    gamma, shift = 0.7, -1.0
    got = evaluate(lambda h: ker.exp_normalized(h, gamma=gamma, shift=shift), PAIRS)
    q1, q2, rho = np.array(PAIRS, float).T
    value = np.exp(gamma * (rho + shift))
    np.testing.assert_allclose(got[0], np.sqrt(q1 * q2) * value, rtol=1e-13)
    np.testing.assert_allclose(got[1], gamma * value, rtol=1e-13)


@pytest.mark.parametrize("name", ["relu", "elu", "tanh", "gelu", "monomial", "sign"])
def test_zero_variance(name):
    options = {"degree": 2} if name == "monomial" else {}
    got = evaluate(
        lambda h: getattr(ker, name)(h, **options), [(0, 1, 0), (1, 0, 0), (0, 0, 0)]
    )
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[0], 0, atol=1e-15)


@pytest.mark.parametrize("name", [None, "bump"])
def test_elementwise(name):
    check(lambda h: ker.elementwise(h, bump, name=name), BUMP)


def test_elementwise_agrees_with_the_ready_made():
    ready = evaluate(ker.tanh, PAIRS)
    own = evaluate(lambda h: ker.elementwise(h, jnp.tanh), PAIRS)
    for a, b in zip(ready, own, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "rough",
    [lambda x: jax.nn.relu(x - 0.5), jnp.sign, jnp.abs, jax.nn.selu],
    ids=["shifted relu", "sign", "abs", "selu"],
)
def test_elementwise_refuses_kinks(rough):
    with pytest.raises(ValueError, match="elementwise: `fn` must be smooth"):
        ker.infinite(lambda h: ker.elementwise(h, rough))


def test_elementwise_refuses_what_is_no_function():
    with pytest.raises(
        TypeError, match="elementwise: `fn` must be a function, got flo"
    ):
        ker.infinite(lambda h: ker.elementwise(h, 2.0))


def test_elementwise_is_nan_where_it_cannot_be_right():
    f, fd, *_ = evaluate(ker.tanh, [(1e4, 1e4, 0.5), (1e4, 1, 0.5), (1, 1, 0.5)])
    assert np.isnan(f[:2]).all()
    assert np.isfinite([f[2], fd[2]]).all()


def test_elementwise_error():
    with jax.enable_x64(True):
        variances = np.array([0.0, 0.1, 1.0, 16.0, 100.0, 1e4])
        error = np.asarray(ker.elementwise_error(jnp.tanh, variances))
        single = ker.elementwise_error(jnp.tanh, 1)
        kink = ker.elementwise_error(lambda x: jax.nn.relu(x - 0.5), 1.0)
    assert error.shape == (6,)
    assert abs(error[:3]).max() < 1e-12
    assert error[3] < 1e-10
    assert 1e-8 < error[4] < error[5]
    assert single.shape == ()
    assert 1e-3 < kink < 1
