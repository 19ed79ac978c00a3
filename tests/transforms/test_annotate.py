"""What `annotate` finds in networks of many kinds, and in single operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxarch import transforms as tr

from .models import MODELS, model, numbers


@pytest.mark.parametrize("name", MODELS)
def test_groups_of_a_network_are_what_its_author_would_say(name):
    made = model(name)
    annotation = tr.annotate(made.apply, made.params, *made.args)
    groups = tr.groups(annotation)
    found = {g.name: (g.size, g.state) for g in groups if g.kind != "window"}
    assert found == made.free
    assert not annotation.unknown


def test_every_member_of_a_group_is_listed():
    made = model("lstm")
    annotation = tr.annotate(made.apply, made.params, *made.args)
    (group,) = tr.groups(annotation)
    members = {("b", 0), ("out", 0), ("wh", 0), ("wh", 1), ("wx", 1)}
    assert set(group.members) == members
    assert annotation.group("wh[1]") is group
    frozen = {g.name: g.reason for g in annotation.groups if g.state == "frozen"}
    assert frozen == {
        "out[1]": "an axis of the output",
        "wx[0]": "an axis of the input args[0]",
    }
    assert str(group).startswith("b[0]: 8 width, exact: b[0], out[0], wh[0]")


def states(f, params, *args):
    return {
        g.name: (g.size, g.state, g.reason)
        for g in tr.annotate(f, params, *args).groups
    }


def hidden(act):
    """The state of the group between two layers with `act` between them."""
    params = {"v": numbers(6, 2), "w": numbers(3, 6)}
    f = lambda p, x: act(x @ p["w"]) @ p["v"]  # noqa: E731
    return states(f, params, numbers(3))["v[0]"]


def softmax_by_sums(h):
    return jnp.exp(h) / jnp.exp(h).sum()


@pytest.mark.parametrize(
    ("act", "size", "state", "reason"),
    [
        (jnp.tanh, 6, "exact", ""),
        (jax.nn.sigmoid, 6, "exact", ""),  # the rows of `v` are zero
        (jax.nn.gelu, 6, "exact", ""),
        (lambda h: jnp.clip(h, -1, 1), 6, "exact", ""),
        (lambda h: h / jnp.sqrt((h**2).sum() + 1), 6, "exact", ""),
        (lambda h: h - h.mean(), 6, "exact", ""),
        (
            lambda h: jnp.where(
                jax.random.bernoulli(jax.random.key(0), 0.5, (6,)), h, 0.0
            ),
            6,
            "exact",
            "",
        ),
        (lambda h: jnp.fft.ifft(h).real, 6, "frozen", "mixed by fft"),
        (lambda h: h @ jnp.outer(h, h), 6, "exact", ""),
        (
            lambda h: h * (jax.nn.sigmoid(h) @ jnp.exp(h)),
            6,
            "approximate",
            "dot_general sums over values that are not 0",
        ),
        (lambda h: h * jnp.where(h > 0, h, 1.0).sum(), 6, "approximate", "reduce_sum"),
        (lambda h: h * jnp.where(h > 0, h, -h).sum(), 6, "exact", ""),
        (lambda h: h * jnp.concatenate([h, jnp.ones(2)]).sum(), 6, "exact", ""),
        (
            lambda h: h * jnp.concatenate([h, jnp.exp(h)]).sum(),
            6,
            "approximate",
            "reduce_sum",
        ),
        (jnp.sort, 6, "frozen", "in the order of sort"),
        (jnp.cumsum, 6, "frozen", "in the order of cumsum"),
        (lambda h: h[::-1], 6, "frozen", "in the order of rev"),
        (softmax_by_sums, 6, "approximate", "reduce_sum goes over"),
        (lambda h: h / h.max(), 6, "approximate", "reduce_max goes over"),
        (lambda h: (h - h.mean()) / h.std(), 6, "approximate", "reduce_sum goes over"),
        (lambda h: h * (h - h.mean()).std(), 6, "approximate", "reduce_sum goes over"),
        (lambda h: h[h.argmax()] * h, 6, "frozen", "indexed by argmax"),
        (lambda h: 1 / h, 6, "approximate", "div is not finite where"),
        (lambda h: jnp.log(h), 6, "approximate", "log is not finite where"),
        (lambda h: jnp.linalg.qr(jnp.outer(h, h))[0][0], 6, "frozen", "mixed by qr"),
    ],
)
def test_a_hidden_layer_is_free_as_its_nonlinearity_allows(act, size, state, reason):
    got = hidden(act)
    assert got[:2] == (size, state)
    assert got[2].startswith(reason)


def test_a_slice_splits_a_layer_into_a_sum_of_groups():
    params = {"v": numbers(6, 2), "w": numbers(3, 6)}
    found = states(
        lambda p, x: jnp.tanh((x @ p["w"])[:4]) @ p["v"][:4], params, numbers(3)
    )
    assert found["v[0].0"][:2] == (4, "exact")
    assert found["v[0].1"][:2] == (2, "exact")  # used nowhere


def test_a_rotation_of_halves_ties_them():
    # Rotary positions: (a, b) -> (a cos - b sin, b cos + a sin), tables from iota.
    def f(p, x):
        def rotate(h):
            a, b = jnp.split(h, 2, axis=-1)
            angle = jnp.arange(5.0)[:, None] / 10.0 ** jnp.arange(4.0)[None]
            c, s = jnp.cos(angle), jnp.sin(angle)
            return jnp.concatenate([a * c - b * s, b * c + a * s], -1)

        return rotate(x @ p["q"]) @ rotate(x @ p["k"]).T

    params = {"k": numbers(3, 8), "q": numbers(3, 8)}
    found = states(f, params, numbers(5, 3))
    assert found["k[1]"][:2] == (4, "exact")
    half = tr.prune(f, params, numbers(5, 3), keep={"k[1]": [1, 3]})
    assert half.params["q"].shape == (3, 4)
    assert half.report.difference < 1e-6


def test_scattered_and_gathered_channels():
    # Positions are indexed; channels pass through, as in a KV cache or a graph.
    def f(p, x, index):
        h = jnp.zeros((7, 6)).at[index].add(x @ p["w"])
        h = h.at[0].set(h[1]) + p["table"]
        return h[index] @ p["v"] + (p["few"][index] @ p["u"])

    params = {"table": numbers(7, 6), "v": numbers(6, 2), "w": numbers(3, 6)}
    params |= {"few": numbers(9, 5), "u": numbers(5, 2)}
    args = numbers(4, 3), jnp.asarray([0, 2, 2, 5])
    found = states(f, params, *args)
    assert found["table[1]"][:2] == (6, "exact")
    assert found["few[1]"][:2] == (5, "exact")
    assert found["few[0]"] == (9, "frozen", "indexed by gather")
    rows = [v[1:] for name, v in found.items() if name.startswith("table[0]")]
    assert set(rows) == {("frozen", "indexed by scatter")}
    assert tr.prune(f, params, *args, keep=0.5).report.difference < 1e-6


def test_an_unknown_primitive_freezes_what_it_touches_and_is_named():
    def host(h):
        shape = jax.ShapeDtypeStruct(h.shape, h.dtype)
        return jax.pure_callback(np.tanh, shape, h)

    params = {"u": numbers(4, 2), "v": numbers(6, 4), "w": numbers(3, 6)}
    f = lambda p, x: jnp.tanh(host(x @ p["w"]) @ p["v"]) @ p["u"]  # noqa: E731
    annotation = tr.annotate(f, params, numbers(3))
    assert annotation.unknown == {"pure_callback": 1}
    assert annotation.group("v[0]").state == "frozen"
    assert "pure_callback" in annotation.group("v[0]").reason
    assert annotation.group("u[0]").state == "exact"
    pruned = tr.prune(f, params, numbers(3), keep=0.5)
    assert "unknown primitive pure_callback, 1 times: frozen" in str(pruned.report)
    assert pruned.params["w"].shape == (3, 6)
    assert pruned.params["u"].shape == (2, 2)


def test_loops_and_branches():
    def f(p, x, n):
        def turn(state):
            i, h = state
            h = lax.cond(i % 2 == 0, jnp.tanh, lambda h: jnp.abs(h) - h, h @ p["m"])
            return i + 1, h

        _, h = lax.while_loop(lambda s: s[0] < n, turn, (0, x @ p["w"]))
        return h @ p["v"]

    params = {"m": numbers(6, 6) / 3, "v": numbers(6, 2), "w": numbers(3, 6)}
    assert states(f, params, numbers(3), 4)["m[0]"][:2] == (6, "exact")
    assert tr.prune(f, params, numbers(3), 4, keep=0.5).report.difference < 1e-6


def test_depth_is_exact_only_where_a_removed_layer_changes_nothing():
    def deep(step):
        def f(p, x):
            return lax.scan(lambda h, w: (step(h, w), None), x @ p["in"], p["w"])[0]

        params = {"in": numbers(3, 4), "w": numbers(5, 4, 4)}
        return states(f, params, numbers(3))["w[0]"]

    assert deep(lambda h, w: h + jnp.tanh(h @ w)) == (5, "exact", "")
    assert deep(lambda h, w: jnp.tanh(h @ w))[1] == "approximate"
    assert deep(lambda h, w: h + jax.nn.sigmoid(h @ w))[1] == "approximate"


def test_a_constant_in_the_place_of_a_parameter():
    w, v = numbers(3, 6), numbers(6, 2)
    with pytest.raises(
        ValueError,
        match=r"annotate: `f` makes no use of `params`, but closes over constants "
        r"float32\[3, 6\], float32\[6, 2\]; pass what may be pruned as `params`\.",
    ):
        tr.annotate(lambda p, x: jnp.tanh(x @ w) @ v, {"w": w}, numbers(3))
    # Beside a parameter it is cut along.
    half = tr.prune(lambda p, x: jnp.tanh(x @ w) @ p, v, numbers(3), keep=0.5)
    assert half.params.shape == (3, 2)
    assert half.report.difference < 1e-6


def test_errors():
    f = lambda p, x: p["w"] * x  # noqa: E731
    with pytest.raises(
        ValueError, match="annotate: `params` must hold arrays, got none"
    ):
        tr.annotate(f, {}, 1.0)
    with pytest.raises(
        TypeError, match="annotate: `params` at 'w/act' must be an array, got function"
    ):
        tr.annotate(f, {"w": {"act": test_errors}}, 1.0)
    with pytest.raises(
        TypeError, match=r"annotate: `args\[0\]\['n'\]` must be an array"
    ):
        tr.annotate(f, {"w": 1.0}, {"n": "three"})
    made = model("transformer")
    annotation = tr.annotate(made.apply, made.params, *made.args)
    with pytest.raises(
        ValueError, match="there is no group 'layers'; the free ones are"
    ):
        annotation.group("layers")
    with pytest.raises(
        ValueError,
        match=r"the axis 'layers/out\[1\]' is made of several groups: "
        r"'layers/out\[1\].0', 'layers/out\[1\].1'",
    ):
        annotation.group("layers/out[1]")
