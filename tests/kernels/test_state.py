"""Kernels that start where another one ended, or from a covariance from elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker

_RNG = np.random.default_rng(0)
X1, X2 = _RNG.normal(size=(5, 3)) + 0.4, _RNG.normal(size=(4, 3))
X1[3] = X1[1]
ROUNDING = 1e-12


def lower(h):
    h = ker.dense(h, 12, w_std=1.4, b_std=0.2)
    return ker.dense(ker.relu(h), 16, w_std=1.3)


def upper(h):
    h = ker.concatenate([ker.relu(h), ker.gelu(ker.dense(h, 16, b_std=0.3))])
    return ker.dense(h, 8, parameterization="standard", b_std=0.1)


def lower_with_mean(h):
    """Ends in a value that is not Gaussian and has a mean."""
    return ker.dropout(ker.relu(lower(h)), rate=0.3)


def upper_with_dropout(h):
    h = ker.layer_norm(h + ker.relu(ker.dense(h, 16)), eps=0.1)
    return ker.dense(ker.dropout(h, rate=0.2), 1)


def stacked(value):
    return np.stack([np.asarray(value.nngp), np.asarray(value.ntk)])


def close(got, want, tolerance=ROUNDING):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize(
    ("first", "second"),
    [(lower, upper), (lower_with_mean, upper_with_dropout)],
    ids=["plain", "mean and dropout"],
)
@pytest.mark.parametrize("path", ["cross", "symmetric", "diagonal", "pairs"])
def test_two_halves_make_the_whole(first, second, path):
    args, options = {
        "cross": ((X1, X2), {}),
        "symmetric": ((X1,), {}),
        "diagonal": ((X1,), {"diagonal": True}),
        "pairs": ((X1[:4], X2), {"diagonal": True}),
    }[path]
    whole = ker.infinite(lambda h: second(first(h)))
    halves = ker.infinite(first), ker.infinite(second)
    with jax.enable_x64(True):
        want = stacked(whole(*args, **options))
        state = halves[0].state(*args, **options)
        close(stacked(state), stacked(halves[0](*args, **options)))
        close(stacked(halves[1](state)), want)
        close(stacked(halves[1].state(state)), want)
        assert halves[1](state, ntk=False).ntk is None


def test_a_state_is_as_accurate_as_data():
    """In float32 near-duplicates keep their angle from one kernel to the next."""
    x = X1[:3].astype(np.float32)
    near = x + 1e-4 * X2[:3].astype(np.float32)
    first, second = ker.infinite(lower), ker.infinite(upper)
    with jax.enable_x64(True):
        args = x.astype(np.float64), near.astype(np.float64)
        want = stacked(second(first.state(*args)))
    close(stacked(second(first.state(x, near))), want, 1e-6)


def test_state_knows_what_it_is():
    state = ker.infinite(lower).state(X1, X2)
    assert state.gaussian
    assert not state.same
    assert state.features == 16
    assert state.mean1 is None
    state = ker.infinite(lower_with_mean).state(X1)
    assert not state.gaussian
    assert state.same
    assert state.mean1.shape == (5,)


def test_from_covariances_is_the_same_state():
    with jax.enable_x64(True):
        second = ker.infinite(upper)
        for args in ((X1, X2), (X1,)):
            state = ker.infinite(lower).state(*args)
            own = state.moment2 if len(args) == 2 else None
            made = ker.State.from_covariances(
                state.nngp, state.moment1, own, ntk=state.ntk, features=16
            )
            # An angle that comes from k alone is good to 1e-8 where it is zero.
            close(stacked(second(made)), stacked(second(state)), 1e-7)


def test_from_covariances_of_a_stationary_kernel():
    """Arc-cosine features of a Gaussian process with the RBF covariance."""
    k = np.exp(-((X1[:, None] - X2) ** 2).sum(-1) / 2)
    state = ker.State.from_covariances(k, np.ones(5), np.ones(4), mean1=None)
    got = ker.infinite(ker.relu)(state).nngp
    theta = np.arccos(np.clip(k, -1, 1))
    close(got, (np.sin(theta) + (np.pi - theta) * k) / (2 * np.pi), 1e-6)


def test_states_are_pytrees():
    state = ker.infinite(lower).state(X1, X2)
    second = ker.infinite(upper)
    got = jax.jit(lambda state: second(state).ntk)(state)
    close(got, second(state).ntk, 1e-6)
    scaled = jax.tree.map(lambda a: 1.0 * a, state)
    assert jax.tree.structure(scaled) == jax.tree.structure(state)


def test_what_is_refused():
    kernel = ker.infinite(upper)
    state = ker.infinite(lower_with_mean).state(X1)
    match = r"kernel: the input of `relu` must be Gaussian, got the data"
    with pytest.raises(ValueError, match=match):
        kernel(state)
    gaussian = ker.infinite(lower).state(X1)
    match = "kernel: `x2` and `diagonal` must be left out with a `State`"
    with pytest.raises(ValueError, match=match):
        kernel(gaussian, X2)
    with pytest.raises(ValueError, match=match):
        kernel(gaussian, diagonal=True)


def test_unknown_features_are_refused_where_they_matter():
    state = ker.State.from_covariances(np.eye(2), np.ones(2))
    joined = ker.infinite(lambda h: ker.concatenate([h, ker.relu(h)]))
    with pytest.raises(ValueError, match="concatenate: every branch needs a known num"):
        joined(state)
    standard = ker.infinite(lambda h: ker.dense(h, 1, parameterization="standard"))
    match = "dense: parameterization='standard' needs the number of features of its"
    with pytest.raises(ValueError, match=match):
        standard(state)


def test_from_covariances_checks_shapes():
    make, one = ker.State.from_covariances, jnp.ones
    where = "State.from_covariances: "
    for args, options, match in [
        ((one((2, 3)), one(2), one(2)), {}, r"`nngp` must have shape \(2, 2\), got"),
        ((one((2, 3)), one(2)), {}, r"`nngp` must have shape \(2, 2\), got \(2, 3\)"),
        ((one((2, 3)), one((2, 1)), one(3)), {}, r"`moment1` must have shape \(n1,\)"),
        ((one((2, 3)), one(2), one((3, 1))), {}, r"`moment2` must have shape \(n2,\)"),
        ((one((2, 2)), one(2)), {"ntk": one(3)}, r"`ntk` must have shape \(2, 2\), g"),
        ((one((2, 3)), one(2), one(3)), {"mean1": one(2)}, "`mean1` and `mean2` must"),
    ]:
        with pytest.raises(ValueError, match=where + match):
            make(*args, **options)
