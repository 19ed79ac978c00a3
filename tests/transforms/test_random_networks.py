"""Networks made at random: what is called exact is, and what is not is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax import lax

from jaxarch import transforms as tr

from .test_prune import zeroed_by_hand

ROWS, FEATURES = 3, 4
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "centred": lambda h: h - h.mean(-1, keepdims=True),
    "unit": lambda h: h * lax.rsqrt((h**2).mean(-1, keepdims=True) + 1),
    "normed": lambda h: h / jnp.sqrt(h.var(-1, keepdims=True) + 1),
    "softmax": lambda h: jax.nn.softmax(h, -1),
    "cumsum": lambda h: jnp.cumsum(h, -1) / 4,
    "reversed": lambda h: h[:, ::-1],
    "padded": lambda h: jnp.pad(h, ((0, 0), (0, 2)))[:, 1:-1],
    "rolled": lambda h: jnp.roll(h, 2, -1),
    "kernel": lambda h: jax.nn.sigmoid(h) @ jax.nn.sigmoid(h).T @ h,
    "over rows": lambda h: jax.nn.softmax(h @ h.T, -1) @ h,
    "host": lambda h: jax.pure_callback(
        lambda a: np.sin(np.asarray(a)),
        jax.ShapeDtypeStruct(h.shape, h.dtype),
        h,
        vmap_method="sequential",
    ),
}


@st.composite
def networks(draw):
    """A program: steps that each read earlier values and make one more."""
    widths, steps = [FEATURES], []
    for _ in range(draw(st.integers(2, 7))):
        kinds = ["dense", "act", "join", "split", "loop", "heads", "gate", "embed"]
        kind = draw(st.sampled_from(kinds))
        i = draw(st.sampled_from(range(len(widths))))
        if kind in ("dense", "embed"):
            step = (kind, i, draw(st.sampled_from([4, 6, 8])))
            widths.append(step[2])
        elif kind == "act":
            step = (kind, i, draw(st.sampled_from(sorted(ACTIVATIONS))))
            widths.append(widths[i])
        elif kind == "join":
            step = (kind, i, draw(st.sampled_from(range(len(widths)))))
            widths.append(widths[i] + widths[step[2]])
        elif kind == "split":
            step = (kind, i, draw(st.sampled_from(range(1, max(2, widths[i])))))
            widths.append(step[2])
        elif kind == "gate":
            same = [j for j, w in enumerate(widths) if w == widths[i]]
            step = (kind, i, draw(st.sampled_from(same)))
            widths.append(widths[i])
        else:
            step = (kind, i, 2)
            widths.append(widths[i])
        steps.append(step)
    return tuple(steps), tuple(widths)


def apply(steps, params, x):
    values = [x]
    for step, p in zip(steps, params["steps"], strict=True):
        kind, i, option = step
        h = values[i]
        if kind == "dense":
            h = h @ p["w"] + jnp.broadcast_to(p["b"], (ROWS, option))
        elif kind == "embed":  # rows looked up by what the input says
            index = jnp.argmax(x, -1)
            h = p["table"][index] * jnp.mean(h)
        elif kind == "act":
            h = ACTIVATIONS[option](h)
        elif kind == "join":
            h = jnp.concatenate([h, values[option]], -1)
        elif kind == "split":
            h = h[:, :option]
        elif kind == "gate":
            h = h * jnp.tanh(values[option]) + values[option]
        elif kind == "loop":
            h, _ = lax.scan(lambda c, w: (c + jnp.tanh(c @ w), None), h, p["w"])
        elif h.shape[1] % 2 == 0:
            heads = h.reshape(ROWS, 2, -1)
            scores = jnp.einsum("ihd,jhd->hij", heads, heads)
            h = jnp.einsum("hij,jhd->ihd", jax.nn.softmax(scores, -1), heads)
            h = h.reshape(ROWS, -1)
        values.append(h)
    return jax.nn.relu(values[-1]) @ params["out"]


def params_of(steps, widths):
    numbers = np.random.default_rng(0)

    def weights(*shape):
        scale = np.sqrt(shape[-2] if len(shape) > 1 else 1)
        return jnp.asarray(numbers.normal(size=shape) / scale, jnp.float32)

    made = []
    for kind, i, option in steps:
        if kind == "dense":
            made.append({"b": weights(option), "w": weights(widths[i], option)})
        elif kind == "embed":
            made.append({"table": weights(FEATURES, option)})
        elif kind == "loop":
            made.append({"w": weights(3, widths[i], widths[i])})
        else:
            made.append({})
    return {"out": weights(widths[-1], 2), "steps": made}


def check(network):
    steps, widths = network
    params = params_of(steps, widths)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, FEATURES)), jnp.float32)

    def f(params, x):
        return apply(steps, params, x)

    annotation = tr.annotate(f, params, x)
    used = {s[2] for s in steps if s[0] == "act"}
    assert set(annotation.unknown) <= {"pure_callback"}
    assert not annotation.unknown or "host" in used
    free = [g for g in tr.groups(annotation) if g.state == "exact"]
    keep = {g.name: np.arange(0, g.size, 2) for g in free}
    for kept in [keep, *({name: some} for name, some in keep.items())]:
        if not kept:
            continue
        small, smaller, _ = tr.prune(f, params, x, keep=kept, check=False)
        atoms = {g.atom: set(kept[g.name].tolist()) for g in free if g.name in kept}
        want = f(zeroed_by_hand(annotation, params, atoms), x)
        np.testing.assert_allclose(smaller(small, x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@given(networks())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_every_exact_group_of_a_random_network_is(network):
    check(network)


def test_a_network_with_everything():
    steps = (
        ("dense", 0, 8),
        ("act", 1, "gelu"),
        ("heads", 2, 2),
        ("join", 3, 1),
        ("act", 4, "host"),
        ("dense", 5, 6),
        ("loop", 6, 2),
        ("split", 7, 4),
        ("gate", 8, 0),
        ("embed", 9, 6),
        ("act", 10, "unit"),
    )
    widths = (4, 8, 8, 8, 16, 16, 6, 6, 4, 4, 6, 6)
    check((steps, widths))
