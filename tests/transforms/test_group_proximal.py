"""The group lasso: the analytic operator, and the optimum it must lead to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxarch import transforms as tr
from jaxarch.transforms._dhspg import zero_groups
from jaxarch.transforms._group_proximal import group_proximal

from .models import numbers, reseed

reseed(__name__)

X = numbers(7, 3)
PARAMS = {"v": numbers(6, 2), "w": numbers(3, 6)}
DIRECTION = {"v": numbers(6, 2), "w": numbers(3, 6)}
DEEP = {"w0": numbers(3, 4), "w1": numbers(4, 5), "w2": numbers(5, 2)}


def apply(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"]


def deep(p, x):
    return jnp.tanh(jnp.tanh(x @ p["w0"]) @ p["w1"]) @ p["w2"]


ANNOTATION = tr.annotate(apply, PARAMS, X)
rule = functools.partial(group_proximal, ANNOTATION)


def stacked(p):
    """The parameters of each of the six channels, shape (6, 5)."""
    return np.concatenate([np.asarray(p["v"]), np.asarray(p["w"]).T], axis=1)


def stepped(tx, params, direction):
    updates, _ = jax.jit(tx.update)(direction, tx.init(params), params)
    return optax.apply_updates(params, updates)


def test_disjoint_groups_are_soft_thresholded():
    found = stacked(stepped(rule(learning_rate=0.3, penalty=2.0), PARAMS, DIRECTION))
    z = stacked(PARAMS).astype(np.float64) - 0.3 * stacked(DIRECTION)
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    wanted = np.maximum(0, 1 - 0.3 * 2.0 * np.sqrt(5) / norm) * z
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert 0 < (found == 0).all(1).sum() < 6


def test_the_step_minimises_what_the_proximal_operator_does():
    found = stacked(stepped(rule(learning_rate=0.3, penalty=1.0), PARAMS, DIRECTION))
    z = stacked(PARAMS) - 0.3 * stacked(DIRECTION)

    def objective(x):
        penalty = np.sqrt(5) * np.linalg.norm(x, axis=-1).sum(-1)
        return ((x - z) ** 2).sum((-2, -1)) / 2 + 0.3 * penalty

    around = found + 0.05 * np.random.default_rng(0).normal(size=(200, 6, 5))
    assert (objective(around) > objective(found)).all()


def test_the_optimum_of_a_quadratic():
    """Of |x - c|^2 / 2 and the penalty: c, each channel shrunk by the weight."""
    tx = rule(learning_rate=0.5, penalty=0.4)

    def step(carry, _):
        params, state = carry
        direction = jax.tree.map(jnp.subtract, params, DIRECTION)
        updates, state = tx.update(direction, state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda c: jax.lax.scan(step, c, length=60))
    (params, state), _ = run((PARAMS, tx.init(PARAMS)))
    c = stacked(DIRECTION).astype(np.float64)
    norm = np.linalg.norm(c, axis=1, keepdims=True)
    wanted = np.maximum(0, 1 - 0.4 * np.sqrt(5) / norm) * c
    np.testing.assert_allclose(stacked(params), wanted, atol=1e-5)
    assert state.count == 60


def test_where_groups_overlap_the_factors_are_multiplied():
    annotation = tr.annotate(deep, DEEP, X)
    tx = group_proximal(annotation, learning_rate=0.2, penalty=0.8)
    found = stepped(tx, DEEP, jax.tree.map(jnp.zeros_like, DEEP))
    w0, w1, w2 = (np.asarray(DEEP[k], np.float64) for k in ("w0", "w1", "w2"))
    first = np.sqrt((w0**2).sum(0) + (w1**2).sum(1))
    second = np.sqrt((w1**2).sum(0) + (w2**2).sum(1))
    a = np.maximum(0, 1 - 0.16 * np.sqrt(8) / first)
    b = np.maximum(0, 1 - 0.16 * np.sqrt(6) / second)
    np.testing.assert_allclose(found["w0"], w0 * a, atol=1e-6)
    np.testing.assert_allclose(found["w1"], w1 * a[:, None] * b, atol=1e-6)
    np.testing.assert_allclose(found["w2"], w2 * b[:, None], atol=1e-6)


def test_to_first_order_it_is_a_gradient_step_on_the_penalty():
    annotation = tr.annotate(deep, DEEP, X)

    def penalty(p):
        first = jnp.sqrt((p["w0"] ** 2).sum(0) + (p["w1"] ** 2).sum(1)).sum()
        second = jnp.sqrt((p["w1"] ** 2).sum(0) + (p["w2"] ** 2).sum(1)).sum()
        return np.float32(np.sqrt(8)) * first + np.float32(np.sqrt(6)) * second

    slope, zeros = jax.grad(penalty)(DEEP), jax.tree.map(jnp.zeros_like, DEEP)
    errors = []
    for rate in (0.04, 0.02, 0.01):
        tx = group_proximal(annotation, learning_rate=rate, penalty=1.0)
        found = stepped(tx, DEEP, zeros)
        errors.append(
            max(
                np.abs(found[k] - (DEEP[k] - np.float32(rate) * slope[k])).max()
                for k in DEEP
            )
        )
    ratios = np.divide(errors[:-1], errors[1:])
    np.testing.assert_allclose(ratios, 4, rtol=0.1)  # the difference is O(rate^2)


def test_what_vanishes_is_cut_exactly():
    params = {"v": PARAMS["v"], "w": PARAMS["w"].at[:, 2].set(0)}
    params["v"] = params["v"].at[2].set(1e-3)
    zeros = jax.tree.map(jnp.zeros_like, params)
    params = stepped(rule(learning_rate=0.1, penalty=0.5), params, zeros)
    keep = zero_groups(ANNOTATION, params)
    assert {name: list(kept) for name, kept in keep.items()} == {
        "v[0]": [0, 1, 3, 4, 5]
    }
    assert tr.prune(apply, params, X, keep=keep).report.difference < 1e-6


def test_schedules_chains_and_16_bits():
    rate = optax.linear_schedule(0.0, 0.1, 10)
    tx = optax.chain(optax.trace(0.9), rule(learning_rate=rate, penalty=rate))
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), PARAMS)
    state = tx.init(params)
    updates, state = jax.jit(tx.update)(params, state, params)
    assert not np.any(np.asarray(updates["w"], np.float32))  # the rate begins at 0
    updates, _ = jax.jit(tx.update)(params, state, params)
    assert np.any(np.asarray(updates["w"], np.float32))
    assert updates["w"].dtype == jnp.bfloat16


def test_what_is_refused(monkeypatch):
    with pytest.raises(
        ValueError, match="group_proximal: `penalty` must not be negati"
    ):
        rule(learning_rate=0.1, penalty=-1.0)
    with pytest.raises(ValueError, match=r"group_proximal: group 'v.1.' is frozen: an"):
        rule(learning_rate=0.1, penalty=1.0, groups=["v[1]"])
    tx = rule(learning_rate=0.1, penalty=1.0)
    with pytest.raises(ValueError, match="group_proximal: the update needs `params`"):
        tx.update(PARAMS, tx.init(PARAMS))
    with pytest.raises(
        ValueError, match="group_proximal: `params` must have the struc"
    ):
        tx.init(PARAMS["w"])
    monkeypatch.setitem(__import__("sys").modules, "optax", None)
    with pytest.raises(ImportError, match="group_proximal: needs optax"):
        rule(learning_rate=0.1, penalty=1.0)
