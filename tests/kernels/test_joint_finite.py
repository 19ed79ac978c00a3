"""Dependent branches and shared parameters: finite networks; what is refused."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker

from .joint_networks import (
    STEPS,
    WIDTH,
    X,
    layer,
    recurrent,
    shared_gate,
    sigmoid,
    twice,
)
from .monte_carlo import assert_monte_carlo

# --- finite networks ---------------------------------------------------------


def gru_like(h):
    z, n = layer(h), layer(h)
    state = ker.tanh(layer(h))
    return ker.dense(sigmoid(z) * state + ker.tanh(n) * sigmoid(-z), WIDTH)


def overlapping(h):
    u = layer(h)
    a, b = ker.relu(u) + ker.tanh(u), ker.gelu(u)
    narrow = ker.dense(h, WIDTH // 2)
    one = ker.concatenate([a, b])
    other = ker.concatenate([narrow, ker.erf(narrow), a])
    return ker.dense(one + other, WIDTH)


def pooled(h):
    u = ker.conv(h, WIDTH, (2,), w_std=1.2, b_std=0.1, name="C")
    v = ker.conv(ker.relu(ker.conv(h, 3, (1,))), WIDTH, (2,), w_std=1.2, b_std=0.1)
    w = ker.conv(ker.relu(u) + u * ker.erf(v), WIDTH, (2,), b_std=0.1, padding="VALID")
    h = ker.avg_pool(w + ker.conv(u, WIDTH, (2,), padding="VALID"), (2,))
    flat = ker.dense(ker.flatten(w) + ker.flatten(ker.erf(w)), WIDTH)
    return flat + ker.dense(ker.global_avg_pool(h), WIDTH)


def normalised(h):
    u = layer(h)
    r = ker.relu(u)
    return ker.dense(ker.layer_norm(r) + 0.5 * ker.dropout(r, rate=0.5) - u, WIDTH)


FINITE = {
    "written out": (lambda h: ker.dense(twice(layer(h)) + layer(h), WIDTH), X),
    "recurrent": (
        lambda h: ker.dense(recurrent(ker, h, ker.relu, mean=True), WIDTH),
        STEPS,
    ),
    "gated linear unit": (
        lambda h: ker.dense(layer(h) * sigmoid(layer(h)), WIDTH),
        X,
    ),
    "shared gate": (lambda h: ker.dense(shared_gate(h, 5), WIDTH), X),
    "gates that add up to one": (gru_like, X),
    "concatenations that overlap": (overlapping, X),
    "positions": (pooled, STEPS),
    "function of two": (
        lambda h: ker.dense(ker.relu(ker.tanh(layer(h)) + layer(h)), WIDTH),
        X,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FINITE)
def test_monte_carlo(name, key):
    network, x = FINITE[name]
    x = jnp.asarray(x, jnp.float32)
    gram = ker.infinite(network)(x)
    kernels = (gram.nngp, gram.ntk)
    assert_monte_carlo(network, x, kernels, width=WIDTH, draws=300, key=key)


@pytest.mark.slow
def test_monte_carlo_of_dropout(key):
    x = jnp.asarray(X[:3], jnp.float32)
    gram = ker.infinite(normalised)(x)
    kernels = (gram.nngp, gram.ntk)
    assert_monte_carlo(
        normalised, x, kernels, width=WIDTH, draws=500, key=key, dropout=True
    )


# --- what is refused ---------------------------------------------------------


def test_refusals():
    def hidden(h, name=None):
        return ker.dense(h, 8, name=name)

    def refuse(network, match, error=ValueError, x=X):
        with pytest.raises(error, match=match):
            ker.infinite(network)(x)

    refuse(
        lambda h: hidden(h, "W") + ker.dense(hidden(h), 8, w_std=2.0, name="W"),
        "dense: operations that share the parameter 'W' must have the same options and",
    )
    refuse(
        lambda h: hidden(ker.relu(hidden(h, "W")), "W"),
        "dense: operations that share the parameter 'W' must have inputs of one number",
    )

    def dropped(h):
        u = hidden(h, "first")
        return ker.dropout(u, rate=0.5) * u

    refuse(dropped, "multiply: branches that both depend on first must be coordinate")

    def many(h):
        a, b, c = hidden(h), hidden(h), hidden(h)
        return ker.tanh(a * b + c)

    refuse(many, "tanh: its kernel is an expectation over 6 dep", NotImplementedError)

    def attentive(h):
        return ker.attention(hidden(h, "W") + hidden(ker.relu(hidden(h)), "W"), 8)

    refuse(
        attentive, "attention: a network with dependent branches", NotImplementedError
    )

    def joined_first(h):
        u = ker.conv(h, 8, (1,))
        joined, flat = ker.concatenate([ker.flatten(u)]), ker.flatten(u)
        return joined + flat

    def flat_first(h):
        u = ker.conv(h, 8, (1,))
        flat, joined = ker.flatten(u), ker.concatenate([ker.flatten(u)])
        return joined + flat

    unknown = "a sum of it with another value that has coordinates of several laws"
    refuse(joined_first, f"flatten: {unknown}", NotImplementedError, STEPS)
    refuse(flat_first, f"concatenate: {unknown}", NotImplementedError, STEPS)
    kernel = ker.infinite(lambda h: hidden(h, "W") + ker.relu(hidden(h, "W")))
    state = ker.infinite(lambda h: hidden(h)).state(X)
    for arg in (X, state):
        with pytest.raises(NotImplementedError, match="kernel: a network with depend"):
            kernel.state(arg)
    masked = ker.infinite(
        functools.partial(recurrent, ker, function=ker.erf, mean=True)
    )
    with pytest.raises(NotImplementedError, match="kernel: `mask1` must be None for"):
        masked(STEPS, mask1=np.ones((3, 3), bool))
    assert kernel(X[:0]).ntk.shape == (0, 0)
    assert kernel(X[:1]).ntk.shape == (1, 1)
