import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxarch.transforms import (
    _predict_performance as own,
    chain_text,
    predict_performance,
)
from jaxarch.transforms._text_features import KINDS, features

WIDTHS = (3, 40, 8, 17, 5, 80, 12, 29)


def text(width, name="tanh"):
    return (
        f"dot_general(8, Param[8,{width}])(contract=0:0) --> {name}(prev) "
        f"--> dot_general(prev, Param[{width},2])(contract=0:0) --> Out:2"
    )


OLD = [text(n, "tanh" if k % 2 else "sin") for k, n in enumerate(WIDTHS)]
NEW = [text(n, name) for n in (4, 10, 100) for name in ("tanh", "sin")]
SCORES = np.array([0.3, 0.9, 0.42, 0.81, 0.33, 0.96, 0.5, 0.87])


LOOP = """\
conv_general_dilated(1x8x8x1, Param[3,3,1,4])(window=3,padding=1) --> Value1:1x8x8x4
scan(Carry1=Value1, Param[5,4,4])(length=5) --> Value2:1x8x8x4 {
  dot_general(Carry1, Param[4,4])(contract=3:0) --> max(prev, 0) --> Next1:1x8x8x4
}
reduce_sum(Value2)(axes=[1,2]) --> dot_general(prev, Param[4,10])(contract=1:0) \
--> Out:1x10"""


def test_features_by_hand():
    found = features(LOOP)
    turns = {kind: {k: np.expm1(n) for k, n in found[kind].items()} for kind in KINDS}
    assert turns["operation"] == pytest.approx(
        {
            "conv_general_dilated": 1,
            "scan": 1,
            "dot_general": 6,
            "max": 5,
            "reduce_sum": 1,
        }
    )
    assert turns["pair"] == pytest.approx(
        {
            "conv_general_dilated dot_general": 5,
            "dot_general max": 5,
            "max reduce_sum": 1,
            "reduce_sum dot_general": 1,
        }
    )
    assert turns["attribute"] == pytest.approx(
        {
            "conv_general_dilated window=3": 1,
            "conv_general_dilated padding=1": 1,
            "scan length=5": 1,
            "dot_general contract=3:0": 5,
            "reduce_sum axes=[1,2]": 1,
            "dot_general contract=1:0": 1,
        }
    )
    numbers = 9 * 4 + 5 * 16 + 40
    assert turns["size"] == pytest.approx(
        {
            "depth": 1 + 5 * 2 + 2,
            "layers": 1 + 5 + 1,
            "parameters": numbers,
            "parameters a layer": numbers / 7,
            "first fan-in": 9,
            "last fan-in": 4,
            "least fan-in": 4,
            "most fan-in": 9,
            "elements": 256 + 256 + 5 * 256 + 10,
            "least elements": 10,
            "most elements": 256,
        }
    )


def test_a_loop_counts_as_its_turns():
    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    def layer(x, w):
        return jnp.tanh(x @ w), None

    def looped(p, x):
        return jax.lax.scan(layer, x, p)[0]

    def unrolled(p, x):
        for w in p:
            x, _ = layer(x, w)
        return x

    loop = features(chain_text(looped, shape(5, 8, 8), shape(8)))
    turns = features(chain_text(unrolled, [shape(8, 8)] * 5, shape(8)))
    assert loop["operation"].pop("scan") == np.log1p(1)
    assert loop["operation"] == turns["operation"]
    for name in ("depth", "layers", "parameters", "first fan-in", "most elements"):
        assert loop["size"][name] == turns["size"][name], name


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ("dot_general --> add --> Value\nexp --> Out", {"operation", "pair", "size"}),
        ("dot_general --> add --> Value:3x2", {"operation", "pair", "size"}),
        ("a text about networks", {"operation", "pair", "size"}),
        ("", {"size"}),
    ],
)
def test_features_of_what_is_left(given, kinds):
    found = features(given)
    assert {kind for kind in KINDS if found[kind]} == kinds
    assert all(np.isfinite(n) for kind in found.values() for n in kind.values())


def covariance(scales, inner):
    """The kernel of the docstring in NumPy, with the closed form of ReLU."""
    k = np.einsum("g,gij->ij", np.exp(2 * scales[:4]), inner) + np.exp(2 * scales[4])
    size = np.sqrt(np.diagonal(k))
    cosine = np.clip(k / np.outer(size, size), -1, 1)
    angle = np.arccos(cosine)
    relu = np.outer(size, size) * (np.sin(angle) + (np.pi - angle) * cosine)
    return k + np.exp(2 * scales[5]) * relu / (2 * np.pi)


def loss(scales, inner, y):
    k = covariance(scales, inner) + np.exp(2 * scales[6]) * np.eye(len(y))
    _, logdet = np.linalg.slogdet(k)
    evidence = y @ np.linalg.solve(k, y) + logdet + len(y) * np.log(2 * np.pi)
    return (evidence + ((scales + 1) ** 2).sum()) / 2


@pytest.fixture(scope="module")
def fitted():
    """The inner products, the targets, and the scales that our optimiser found."""
    inner = own.inner_products(OLD, NEW)
    n = len(OLD)
    y = (SCORES - SCORES.mean()) / SCORES.std()
    scales = own.fit(
        jnp.asarray(inner[:, :n, :n], jnp.float32), jnp.asarray(y, jnp.float32)
    )
    parts = scales.kinds, scales.constant, scales.network, scales.noise
    return inner, y, np.concatenate([np.atleast_1d(np.asarray(p)) for p in parts])


def test_scales_are_those_of_the_highest_evidence(fitted):
    inner, y, scales = fitted
    old = inner[:, : len(y), : len(y)]
    best = scipy.optimize.minimize(loss, np.full(7, -1.0), (old, y), method="BFGS")
    assert loss(scales, old, y) < best.fun + 1e-3  # 120 steps of Adam in float32
    np.testing.assert_allclose(scales, best.x, atol=0.05)


def test_predictions_are_those_of_a_gaussian_process(fitted):
    inner, y, scales = fitted
    n = len(y)
    k = covariance(scales, inner)
    noise = np.exp(2 * scales[6])
    weights = np.linalg.solve(k[:n, :n] + noise * np.eye(n), k[:n, n:]).T
    mean = SCORES.mean() + SCORES.std() * weights @ y
    variance = np.diagonal(k)[n:] - (weights * k[n:, :n]).sum(1) + noise
    found = predict_performance(OLD, SCORES, NEW)
    np.testing.assert_allclose(found.mean, mean, atol=1e-4)
    np.testing.assert_allclose(found.variance, SCORES.var() * variance, rtol=1e-3)


def test_it_learns_that_width_helps_and_forgets_order():
    found = predict_performance(OLD, SCORES, NEW)
    by_width = np.asarray(found.mean).reshape(3, 2)
    assert (np.diff(by_width, axis=0) > 0).all()
    order = np.random.default_rng(0).permutation(len(OLD))
    again = predict_performance([OLD[i] for i in order], SCORES[order], NEW[::-1])
    np.testing.assert_allclose(again.mean[::-1], found.mean, atol=1e-4)
    units = predict_performance(OLD, list(100 * SCORES - 7), NEW)
    np.testing.assert_allclose(units.mean, 100 * found.mean - 7, rtol=1e-4)
    np.testing.assert_allclose(units.variance, 1e4 * found.variance, rtol=1e-4)


def test_texts_that_tell_nothing():
    """Equal texts have the mean of their scores; no warning, no number that is not."""
    with jax.debug_nans(True):
        found = predict_performance([OLD[0]] * 8, SCORES, [OLD[0], "something else"])
    np.testing.assert_allclose(found.mean, SCORES.mean(), atol=1e-3)
    assert (np.asarray(found.variance) > 0.5 * SCORES.var()).all()
    same = predict_performance(OLD, np.full(8, 0.5), NEW)
    np.testing.assert_allclose(same.mean, 0.5, atol=1e-4)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (
            ("a", [1.0], ["a"]),
            TypeError,
            "`texts` must be a sequence of strings, got on",
        ),
        ((["a"], [1.0], "a"), TypeError, "`new_texts` must be a sequence of strings"),
        (([1], [1.0], ["a"]), TypeError, "`texts` must be strings, got int"),
        (([], [], ["a"]), ValueError, "`texts` must not be empty"),
        ((["a"], [1.0], []), ValueError, "`new_texts` must not be empty"),
        ((["a"], [1.0, 2.0], ["a"]), ValueError, r"shape \(1,\), one .*, got \(2,\)"),
        ((["a"], [[1.0]], ["a"]), ValueError, r"shape \(1,\), one .*, got \(1, 1\)"),
        (
            (["a", "b"], [1.0, np.nan], ["a"]),
            ValueError,
            "`scores` must be finite, got nan at 1",
        ),
    ],
)
def test_errors(args, error, message):
    with pytest.raises(error, match=f"predict_performance: .*{message}"):
        predict_performance(*args)
