"""Scores of channels against sums written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import transforms as tr

from .models import model, numbers, reseed

reseed(__name__)

PARAMS = {"b": numbers(6), "v": numbers(6, 2), "w": numbers(3, 6)}
X, Y = numbers(5, 3), numbers(5, 2)


def apply(p, x):
    return (
        jnp.tanh(jnp.dot(x, p["w"]) + jnp.broadcast_to(p["b"], (*x.shape[:-1], 6)))
        @ p["v"]
    )


def loss(p, x, y):
    return jnp.mean(jnp.sum((apply(p, x) - y) ** 2, -1))


def scores(criterion, params=PARAMS):
    annotation = tr.annotate(apply, params, X)
    return tr.importance(
        annotation, params, criterion=criterion, loss=loss, data=(X, Y)
    )["b[0]"]


def along(tree):
    """Sums over what each channel holds."""
    return tree["b"] + tree["v"].sum(1) + tree["w"].sum(0)


def test_each_criterion():
    gradient = jax.grad(loss)(PARAMS, X, Y)
    products = jax.tree.map(jnp.multiply, PARAMS, gradient)
    sizes = jax.tree.map(jnp.abs, products)
    total = sum(x.sum() for x in jax.tree.leaves(sizes))
    each = [jax.grad(loss)(PARAMS, x[None], y[None]) for x, y in zip(X, Y, strict=True)]
    fisher = jax.tree.map(lambda *g: sum(a**2 for a in g) / 5, *each)
    saliency = jax.tree.map(lambda w, f: w**2 * f / 2, PARAMS, fisher)
    wanted = {
        "l1": along(jax.tree.map(jnp.abs, PARAMS)),
        "l2": jnp.sqrt(along(jax.tree.map(jnp.square, PARAMS))),
        "taylor": jnp.abs(along(products)),
        "snip": along(sizes) / total,
        "obs": along(saliency),
    }
    for criterion, want in wanted.items():
        np.testing.assert_allclose(
            scores(criterion), want, rtol=2e-5, err_msg=criterion
        )


def test_a_shared_axis_counts_all_that_holds_it():
    made = model("lstm")
    annotation = tr.annotate(made.apply, made.params, *made.args)
    p = {k: np.abs(v) for k, v in made.params.items()}
    want = p["wx"].sum(0).reshape(4, 8).sum(0) + p["b"].reshape(4, 8).sum(0)
    want += p["out"].sum(1) + p["wh"].sum(1) + p["wh"].sum(0).reshape(4, 8).sum(0)
    got = tr.importance(annotation, made.params, criterion="l1")["b[0]"]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_integers_among_the_parameters():
    def f(p, x):
        return jnp.tanh(x @ p["w"])[p["order"]] @ p["v"]

    params = {"order": jnp.arange(3), "v": numbers(3, 4), "w": numbers(3, 6)}
    annotation = tr.annotate(
        lambda p, x: f(p, x) @ p["u"], params | {"u": numbers(4, 2)}, X[0]
    )
    assert annotation.group("order[0]").state == "frozen"
    found = tr.importance(
        annotation,
        params | {"u": numbers(4, 2)},
        criterion="snip",
        loss=lambda p, x, y: jnp.mean(f(p, x[0]) @ p["u"] - y[0]),
        data=(X, Y),
    )
    assert set(found) == {"u[0]"}
    assert np.isfinite(found["u[0]"]).all()


def test_errors():
    annotation = tr.annotate(apply, PARAMS, X)
    with pytest.raises(
        ValueError, match="`criterion` must be one of 'l1', 'l2', 'taylor'"
    ):
        tr.importance(annotation, PARAMS, criterion="l0")
    with pytest.raises(
        ValueError, match="'taylor' needs `loss` and `data`, got no loss"
    ):
        tr.importance(annotation, PARAMS, criterion="taylor", data=(X, Y))
    with pytest.raises(ValueError, match="'obs' needs `loss` and `data`, got no data"):
        tr.importance(annotation, PARAMS, criterion="obs", loss=loss)
    with pytest.raises(
        ValueError, match=r"`params` at 'b' must have shape \(6,\), got \(5"
    ):
        tr.importance(annotation, PARAMS | {"b": numbers(5)})
    with pytest.raises(ValueError, match="`params` must have the structure"):
        tr.importance(annotation, {"b": numbers(6)})
