"""Pruned functions against the ones that they were cut from."""

import dataclasses
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.test_util import check_grads

from jaxarch import transforms as tr

from ..registry import PRIMITIVES
from .models import MODELS, EquinoxGPT, model, numbers, reseed

reseed(__name__)


def zeroed_by_hand(annotation, params, kept):
    """Zeroes parameters by reading the axes of the annotation, position by position."""
    leaves = []
    for leaf, axes in zip(jax.tree.leaves(params), annotation.param_axes, strict=True):
        leaf = np.array(leaf)
        for k, axis in enumerate(axes):
            for position, atoms in enumerate(spelled(axis, annotation.sizes)):
                if any(i not in kept[a] for a, i in atoms if a in kept):
                    leaf[(slice(None),) * k + (position,)] = 0
        leaves.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def spelled(axis, sizes):
    """For each position of an axis, the (atom, index) that it consists of."""
    places = []
    for term in axis:
        rows = [()]
        for factor in term:
            if isinstance(factor, tuple):
                inner = spelled(factor, sizes)
            else:
                inner = [((factor, i),) for i in range(sizes[factor])]
            rows = [(*row, *more) for row in rows for more in inner]
        places += rows
    return places


def check_groups(f, params, args, most=5e-6):
    """Prunes each free group to two thirds; compares with zeros in the old function."""
    annotation = tr.annotate(f, params, *args)
    apply = jax.jit(f)
    for group in tr.groups(annotation):
        if group.kind == "window":
            kept = np.arange(group.size - 1)
        else:
            kept = np.flatnonzero(np.arange(group.size) % 3 != 1)
        small, smaller, report = tr.prune(
            f, params, *args, keep={group.name: kept}, check=False
        )
        old = zeroed_by_hand(annotation, params, {group.atom: set(kept.tolist())})
        want, got = apply(old, *args), jax.jit(smaller)(small, *args)
        worst = 0.0
        for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
            assert a.shape == b.shape
            assert np.isfinite(b).all()
            scale = max(1.0, np.abs(a).max())
            worst = max(worst, np.abs(np.asarray(a) - b).max() / scale)
        sizes = sum(map(np.size, jax.tree.leaves(small)))
        assert report.parameters == (sum(map(np.size, jax.tree.leaves(params))), sizes)
        if group.state == "exact":
            assert worst < most, group
        else:
            assert worst > 1e-4, group  # or the flag would be wrong
            assert report.approximate == (group,)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_zeroed_equals_pruned(name):
    made = model(name)
    check_groups(made.apply, made.params, made.args)


@pytest.mark.slow
@pytest.mark.parametrize("entry", PRIMITIVES, ids=str)
def test_zeroed_equals_pruned_for_every_primitive_of_ours(entry):
    apply, (params, *args), _ = entry.call()
    check_groups(apply, params, args)


def mlp(p, x):
    return (
        jax.nn.relu(
            jnp.dot(x, p["w"]) + jnp.broadcast_to(p["b"], (*x.shape[:-1], p["b"].size))
        )
        @ p["v"]
    )


X = numbers(3)
PARAMS = {"b": numbers(8), "v": numbers(8, 2), "w": numbers(3, 8)}


def test_the_largest_stay():
    norms = np.sqrt(
        PARAMS["b"] ** 2 + (PARAMS["v"] ** 2).sum(1) + (PARAMS["w"] ** 2).sum(0)
    )
    best = np.sort(np.argsort(norms)[-4:])
    small, _, report = tr.prune(mlp, PARAMS, numbers(3), keep=0.5)
    np.testing.assert_array_equal(report.kept["b[0]"], best)
    np.testing.assert_array_equal(small["w"], PARAMS["w"][:, best])
    np.testing.assert_array_equal(small["v"], PARAMS["v"][best])


def test_the_small_function_is_one_of_jax():
    small, apply, _ = tr.prune(mlp, PARAMS, numbers(3), keep=0.5)
    x = numbers(5, 3)
    want = mlp(small, x)  # this function does not know its width
    np.testing.assert_allclose(jax.vmap(apply, (None, 0))(small, x), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(apply)(small, x), want, rtol=1e-6)  # other shape
    check_grads(lambda p: apply(p, x[0]), (small,), 2, atol=1e-2, rtol=1e-2)
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (small, x[0])
    )
    loaded = export.deserialize(export.export(jax.jit(apply))(*shapes).serialize())
    np.testing.assert_allclose(loaded.call(small, x[0]), want[0], rtol=1e-6)
    assert pickle.loads(pickle.dumps(small)).keys() == small.keys()


@jax.custom_jvp
def safe_root(x):
    return jnp.sqrt(jnp.maximum(x, 0))


@safe_root.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    root = safe_root(x)
    return root, jnp.where(x > 0, t / (2 * jnp.where(x > 0, root, 1)), 7 * t)


@jax.custom_vjp
def doubled_slope(x, scale):
    return scale * jnp.tanh(x)


doubled_slope.defvjp(
    lambda x, scale: (doubled_slope(x, scale), (x, scale)),
    lambda kept, g: (2 * g * kept[1] * (1 - jnp.tanh(kept[0]) ** 2), 3 * jnp.sum(g)),
)


@pytest.mark.parametrize("reverse", [False, True])
def test_derivatives_that_a_function_brings_along_stay(reverse):
    def f(p, x):
        h = doubled_slope(x @ p["w"], p["s"]) if reverse else safe_root(x @ p["w"])
        return (h @ p["v"]).sum()

    params = {"s": numbers(), "v": numbers(8, 2), "w": numbers(3, 8).at[:, 2].set(0)}
    x, kept = numbers(3), [0, 2, 3, 7]
    small, apply, _ = tr.prune(f, params, x, keep={"v[0]": kept})
    want, got = jax.grad(f)(params, x), jax.grad(apply)(small, x)
    np.testing.assert_allclose(got["w"], want["w"][:, np.array(kept)], rtol=1e-5)
    if reverse:  # the written derivative of `scale` sums over the cotangents
        rows = np.asarray(params["v"]).sum(1)[kept]
        np.testing.assert_allclose(got["s"], 3 * rows.sum(), rtol=1e-5)
    else:
        seven = 7 * x * params["v"][2].sum()
        np.testing.assert_allclose(got["w"][:, 1], seven, rtol=1e-5)


def test_numbers_made_from_indices_stay_with_their_indices():
    def f(p, x):
        h = x @ p["w"] + jnp.arange(8.0)
        h = h * jax.random.normal(jax.random.key(3), (8,)) + jnp.asarray(NUMBERS)
        return jnp.tanh(h) @ p["v"]

    params = {"v": numbers(8, 2), "w": numbers(3, 8)}
    x, kept = numbers(3), [1, 4, 6]
    small, apply, _ = tr.prune(f, params, x, keep={"v[0]": kept})
    made = jax.random.normal(jax.random.key(3), (8,))
    x, w, made = (np.asarray(a) for a in (x, params["w"], made))
    h = (x @ w + np.arange(8)) * made + NUMBERS
    want = np.tanh(h[kept]) @ np.asarray(small["v"])
    np.testing.assert_allclose(apply(small, x), want, rtol=1e-5)


NUMBERS = np.linspace(-1, 1, 8, dtype=np.float32)


@pytest.mark.slow
def test_code_that_knows_its_width_is_not_run_again():
    # Traced again with smaller arrays, this would attend with two features a head.
    made = model("vit")
    small, apply, report = tr.prune(
        made.apply, made.params, *made.args, keep={"blocks/0/out[0].0": [0, 3]}
    )
    assert report.difference < 1e-6
    want = apply(small, *made.args)
    assert np.abs(made.apply(made.params, *made.args) - want).max() > 1e-3
    with pytest.raises(TypeError, match="reshape|split|shape"):
        made.apply(small, *made.args)
    # Twice the images: read again with the old arrays, cut in the same places.
    images = jnp.concatenate([made.args[0]] * 2)
    np.testing.assert_allclose(apply(small, images)[2:], want, rtol=1e-5, atol=1e-6)


def test_padding_shrinks_with_what_reads_it():
    def f(p, x):
        return jnp.pad(x @ p["w"], (3, 2), constant_values=0.5) @ p["v"]

    params = {"v": numbers(11, 2), "w": numbers(3, 6)}
    keep = {"v[0].0": [2], "w[1]": [0, 4], "v[0].2": [0]}
    small, apply, report = tr.prune(f, params, X, keep=keep)
    assert report.difference < 1e-6
    np.testing.assert_array_equal(small["v"], params["v"][np.array([2, 3, 7, 9])])
    x, w, v = (np.asarray(a) for a in (X, params["w"], small["v"]))
    want = np.concatenate([[0.5], x @ w[:, [0, 4]], [0.5]]) @ v
    np.testing.assert_allclose(apply(small, X), want, rtol=1e-5)


def test_tiled_channels():
    f = lambda p, x: jnp.tanh(jnp.tile(x @ p["w"], (3,))) @ p["v"]  # noqa: E731
    params = {"v": numbers(18, 2), "w": numbers(3, 6)}
    small, apply, report = tr.prune(f, params, X, keep={"w[1]": [1, 5]})
    assert report.difference < 1e-6
    rows = np.array([1, 5, 7, 11, 13, 17])
    np.testing.assert_array_equal(small["v"], params["v"][rows])
    np.testing.assert_allclose(apply(small, X), f(small, X), rtol=1e-5)


def test_weights_picked_by_a_traced_index():
    def f(p, x, i):
        w = jax.lax.dynamic_index_in_dim(p["w"], i, keepdims=False)
        return jnp.tanh(x @ w) @ p["v"]

    params = {"v": numbers(6, 2), "w": numbers(4, 3, 6)}
    small, apply, _ = tr.prune(f, params, X, 2, keep={"v[0]": [1, 5]})
    want = jnp.tanh(X @ small["w"][3]) @ small["v"]
    assert small["w"].shape == (4, 3, 2)
    np.testing.assert_allclose(jax.jit(apply)(small, X, 3), want, rtol=1e-5)


def test_windows_shrink_to_their_middle():
    made = model("unet")
    small, _, report = tr.prune(
        made.apply, made.params, *made.args, keep={"in[0]": 1 / 3, "in[1]": [1, 2]}
    )
    assert small["in"].shape == (1, 2, 2, 6)
    np.testing.assert_array_equal(small["in"][0], made.params["in"][1, 1:])
    assert report.difference < 1e-6


def test_report_counts_as_xla_does():
    made = model("resnet")
    small, apply, report = tr.prune(made.apply, made.params, *made.args, keep=0.5)

    def xla(f, params):
        return jax.jit(f).lower(params, *made.args).compile().cost_analysis()["flops"]

    np.testing.assert_allclose(report.flops[0], xla(made.apply, made.params), rtol=0.05)
    np.testing.assert_allclose(report.flops[1], xla(apply, small), rtol=0.05)
    assert ("stem", (3, 3, 3, 8), (3, 3, 3, 4)) in report.widths
    assert "times fewer" in str(report)


@pytest.mark.slow
def test_sizes_for_an_equinox_model():
    made = model("equinox_gpt")
    keep = {}
    for i in range(2):
        keep |= {f"attention/{i}/query_proj/weight[0].0": 0.5, f"up/{i}/weight[0]": 0.5}
    small, apply, report = tr.prune(made.apply, made.params, *made.args, keep=keep)
    assert report.config["attention/0"] == {"num_heads": 2, "qk_size": 4, "vo_size": 4}
    assert report.config["up/1"] == {"out_features": 12}
    new = EquinoxGPT(jax.random.key(0))
    for i in range(2):
        sizes = report.config[f"attention/{i}"]
        new.attention[i] = eqx.nn.MultiheadAttention(
            query_size=16, key=jax.random.key(1), **sizes
        )
        for layer in ("up", "down"):
            old = getattr(new, layer)[i]
            sizes = {"in_features": old.in_features, "out_features": old.out_features}
            sizes |= report.config[f"{layer}/{i}"]
            getattr(new, layer)[i] = eqx.nn.Linear(**sizes, key=jax.random.key(1))
    arrays, static = eqx.partition(new, eqx.is_array)
    arrays = jax.tree.unflatten(jax.tree.structure(arrays), jax.tree.leaves(small))
    built = eqx.combine(arrays, static)
    np.testing.assert_allclose(
        built(*made.args), apply(small, *made.args), rtol=1e-5, atol=1e-6
    )


def test_sizes_for_a_flax_model():
    made = model("flax_gpt")
    report = tr.prune(made.apply, made.params, *made.args, keep=0.5, check=False).report
    assert report.config["params/Dense_1"] == {"features": 12}
    attention = "params/MultiHeadDotProductAttention_0"
    assert report.config[f"{attention}/query"] == {"features": (2, 2)}
    assert report.config[f"{attention}/out"] == {"features": 8}
    assert report.config["params/Embed_0"] == {"features": 8}


@pytest.mark.slow
def test_one_fraction_leaves_approximate_groups_alone():
    made = model("transformer")
    call = [made.apply, made.params, *made.args]
    small, _, report = tr.prune(*call, keep=0.5)
    assert small["embedding"].shape == (11, 16)
    assert not report.approximate
    assert report.difference < 1e-5
    small, _, report = tr.prune(*call, keep=0.5, approximate=True)
    assert small["embedding"].shape == (11, 8)
    assert [g.name for g in report.approximate] == ["embedding[1]"]
    assert report.difference > 1e-3
    assert "approximate: reduce_sum goes over" in str(report)


def test_a_difference_is_refused():
    made = tr.prune(mlp, PARAMS, numbers(3), keep=0.5)
    wrong = made._replace(apply=lambda p, x: made.apply(p, x) + 1e-3)
    assert tr.check_exact(wrong, PARAMS, numbers(3)) > 1e-4
    broken = made._replace(apply=lambda p, x: made.apply(p, x) / 0)
    assert tr.check_exact(broken, PARAMS, numbers(3)) == np.inf
    with pytest.raises(ValueError, match=r"differs by 0.0e.00 of the largest output"):
        tr.prune(mlp, PARAMS, numbers(3), keep=0.5, tolerance=-1.0)


@pytest.mark.slow
def test_bfloat16_and_float64():
    made = model("lstm")
    for dtype, most in ((jnp.bfloat16, 0.03), (jnp.float64, 1e-14)):
        with jax.enable_x64(dtype == jnp.float64):
            params, args = jax.tree.map(
                lambda a, d=dtype: jnp.asarray(a, d), (made.params, made.args)
            )
            report = tr.prune(
                made.apply, params, *args, keep=0.5, tolerance=most
            ).report
            assert report.difference < most


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"w[1]": 1.5}, r"`keep` of group 'w\[1\]' must be a fraction in \(0, 1\]"),
        (
            0,
            r"group 'b\[0\]' must be a fraction in \(0, 1\] or indices, got 0",
        ),
        ({"v[1]": 0.5}, r"group 'v\[1\]' is frozen: an axis of the output"),
        ({"w[0]": 0.5}, r"group 'w\[0\]' is frozen: an axis of the input args\[0\]"),
        ({"u[0]": 0.5}, r"there is no group 'u\[0\]'; the free ones are 'b\[0\]'"),
        (
            {"b[0]": [0, 8]},
            r"must be different indices below 8, at least one, got \[0, 8",
        ),
        ({"b[0]": [1, 1]}, "must be different indices below 8"),
        ({"b[0]": []}, "must be different indices below 8"),
    ],
)
def test_what_cannot_be_kept(keep, message):
    with pytest.raises(ValueError, match=r"^prune: .*" + message):
        tr.prune(mlp, PARAMS, numbers(3), keep=keep)


def test_errors():
    made = model("unet")
    with pytest.raises(ValueError, match="must be neighbours, being a window"):
        tr.prune(made.apply, made.params, *made.args, keep={"in[0]": [0, 2]})
    with pytest.raises(ValueError, match="prune: no group is free"):
        tr.prune(lambda p, x: x @ p, numbers(3, 2), numbers(3), keep=0.5)
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    with pytest.raises(TypeError, match="check_exact: `args` must be arrays"):
        tr.prune(mlp, PARAMS, shape, keep=0.5)
    small, apply, report = tr.prune(mlp, PARAMS, shape, keep=0.5, check=False)
    assert report.difference is None
    with pytest.raises(
        ValueError, match=r"`params` at 'b' must have shape \(4,\), got \(8"
    ):
        apply(PARAMS, numbers(3))
    with pytest.raises(ValueError, match="`params` must have the structure"):
        apply(small["b"], numbers(3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.kept = {}
    # Flattened with the data, a width cannot change on its own.
    flat = lambda p, x: jnp.outer(p["w"], x).reshape(-1)[:6] @ p["v"]  # noqa: E731
    params = {"v": numbers(6, 2), "w": numbers(6)}
    cut = tr.prune(flat, params, numbers(1), keep={"v[0]": [0, 2, 5]})
    with pytest.raises(
        ValueError, match="with arguments of these shapes the parameters"
    ):
        cut.apply(cut.params, numbers(2))
