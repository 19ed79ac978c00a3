"""Gradient descent on any loss: golden values, `train`, parameters, the heavy ball."""

import functools
import json
import re
import sys

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker

from .relu_reference import GOLDEN_DIR, golden_problem, load_golden

TIMES = np.array([20.0, 1.0])  # of the golden file, out of order


def cross_entropy(f, y):
    return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(f), -1))


def squared(f, y):
    return jnp.sum((f - y) ** 2) / (2 * y.size)


def logistic(f, y):
    return -jnp.mean(jax.nn.log_sigmoid(y * f))


def softmax(f):
    odds = np.exp(f - f.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def classification():
    """Grams, one-hot targets, outputs before training, and golden values."""
    arrays, _ = load_golden()
    values = dict(np.load(GOLDEN_DIR / "descent.npz"))
    k, k_star, *_ = golden_problem()
    f0, f0_test = (arrays[f"predict/mse/fx_{name}_0"] for name in ("train", "test"))
    return k, k_star, values["predict/xent/y_onehot"], f0, f0_test, values


def descend(momentum, k, y, f0, t=TIMES, **options):
    options = {"learning_rate": 0.5, "momentum": momentum, "f0": f0} | options
    return ker.gradient_descent(cross_entropy, k, y, t=t, **options)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_golden(momentum):
    k, k_star, y, f0, f0_test, values = classification()
    (entry,) = json.loads((GOLDEN_DIR / "descent.json").read_text())["entries"]
    assert momentum in entry["momentum"]
    assert sorted(TIMES) == entry["times"]
    with jax.enable_x64(True):
        network = descend(momentum, k, y, f0, learning_rate=entry["learning_rate"])
        test = ker.predict(network, k_star, f0=f0_test)
    # The peer integrates with tolerances of 1.4e-8 a step, which warrants 1e-4 after
    # many steps; its distance from a finer run was found to be 2e-7.
    name = "gd" if momentum is None else "momentum"
    for got, of in ((network.outputs, "train"), (test.mean, "test")):
        for time, index in ((20.0, 1), (1.0, 0)):
            want = values[f"predict/xent/{name}_t{index}_{of}"]
            i = list(TIMES).index(time)
            np.testing.assert_allclose(got[i], want, rtol=0, atol=1e-6)
    assert test.variance is None


def heavy_ball(k, y, f0, momentum, time, step):
    """Heavy-ball descent, with time step 1 where `step` is 1 and finer where less.

    The velocity loses `1 - momentum` and gains a step down the loss, in unit time.
    """
    f, velocity = f0, np.zeros_like(f0)
    for _ in range(round(time / step)):
        force = -0.5 * k @ (softmax(f) - y) / len(y)
        velocity = velocity + step * (force - (1 - momentum) * velocity)
        f = f + step * velocity
    return f


def test_momentum_is_the_heavy_ball_with_fine_steps():
    k, _, y, f0, *_ = classification()
    # The function above, with step 1, is the textbook iteration.
    before, f = f0, f0
    for _ in range(5):
        gradient = (softmax(f) - y) / len(y)
        before, f = f, f + 0.9 * (f - before) - 0.5 * k.ntk @ gradient
    coarse = heavy_ball(k.ntk, y, f0, 0.9, 5, 1)
    np.testing.assert_allclose(coarse, f, rtol=0, atol=1e-12)

    with jax.enable_x64(True):
        got = np.asarray(descend(0.9, k, y, f0).outputs[0])
    ends = [heavy_ball(k.ntk, y, f0, 0.9, 20, step) for step in (2e-3, 1e-3)]
    # First order in the step: half of it, half the error; extrapolated, none.
    errors = [np.abs(end - got).max() for end in ends]
    assert 1.98 < errors[0] / errors[1] < 2.02
    np.testing.assert_allclose(2 * ends[1] - ends[0], got, rtol=0, atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_squared_loss_is_train(noise):
    k, k_star, y, f0, f0_test, _ = classification()
    times = np.array([3.0, 0.0, 1000.0, 30.0])
    options = {"learning_rate": 0.7, "noise": noise}
    with jax.enable_x64(True):
        got = ker.gradient_descent(squared, k, y, t=times, f0=f0, **options)
        got_test = ker.predict(got, k_star, f0=f0_test).mean
        for i, t in enumerate(times):
            trained = ker.train(k, y, t=t, f0=f0, **options)
            train = ker.predict(trained, k, f0=f0).mean
            test = ker.predict(trained, k_star, f0=f0_test).mean
            np.testing.assert_allclose(got.outputs[i], train, rtol=0, atol=1e-8)
            np.testing.assert_allclose(got_test[i], test, rtol=0, atol=1e-8)
            np.testing.assert_allclose(got.weights[i], trained.weights, atol=1e-8)
        # From 0 it is the mean over networks, for this loss.
        centred = ker.gradient_descent(squared, k, y, t=times, **options)
        mean = ker.predict(ker.train(k, y, t=30.0, **options), k_star).mean
        got_mean = ker.predict(centred, k_star).mean[3]
    np.testing.assert_allclose(got_mean, mean, rtol=0, atol=1e-8)


# A finite network.


def mlp(params, x):
    (w1, b1), (w2, b2) = params
    hidden = jnp.tanh(jnp.einsum("ni,ih->nh", x, w1) + b1[None])
    return jnp.einsum("nh,ho->no", hidden, w2) + b2[None]


def finite_network():
    rng = np.random.default_rng(3)
    params = [(rng.normal(size=(2, 16)), rng.normal(size=16))]
    params += [(rng.normal(size=(16, 3)) / 4, rng.normal(size=3))]
    x, x_test = rng.normal(size=(6, 2)), rng.normal(size=(4, 2))
    return (
        jax.tree.map(jnp.asarray, params),
        x,
        x_test,
        np.eye(3)[rng.integers(3, size=6)],
    )


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_parameters_of_a_linearised_network_take_the_same_way(momentum):
    """Descent on parameters with small steps, against the empirical kernel's flow.

    The steps are first order: halving them must halve the distance, and what remains
    after extrapolation is of second order, below 1e-5 where the outputs have moved by
    more than 0.3.
    """
    rate, time, noise = 0.5, 8.0, 0.2
    with jax.enable_x64(True):
        start, x, x_test, y = finite_network()

        def linear(params, x):
            moved = jax.tree.map(lambda a, b: a - b, params, start)
            return sum(jax.jvp(lambda p: mlp(p, x), (start,), (moved,)))

        def objective(params):
            moved = jax.tree.map(lambda a, b: ((a - b) ** 2).sum(), params, start)
            decay = noise / (2 * y.size) * sum(jax.tree.leaves(moved))
            return cross_entropy(linear(params, x), y) + decay

        def train(count):
            step = time / count

            def descend(state, _):
                params, velocity = state
                force = jax.tree.map(lambda g: -rate * g, jax.grad(objective)(params))
                if momentum is None:
                    velocity = force
                else:
                    velocity = jax.tree.map(
                        lambda v, g: v + step * (g - (1 - momentum) * v),
                        velocity,
                        force,
                    )
                params = jax.tree.map(lambda p, v: p + step * v, params, velocity)
                return (params, velocity), None

            still = jax.tree.map(jnp.zeros_like, start)
            (params, _), _ = jax.lax.scan(descend, (start, still), length=count)
            return np.concatenate([linear(params, x), linear(params, x_test)])

        def jacobian(x):
            rows = jax.jacrev(mlp)(start, x)
            leaves = [a.reshape(len(x), 3, -1) for a in jax.tree.leaves(rows)]
            return np.concatenate(leaves, -1)

        j, j_test = jacobian(x), jacobian(x_test)
        k = np.einsum("iap,jbp->ijab", j, j)
        k_star = np.einsum("iap,jbp->ijab", j_test, j)
        f0, f0_test = mlp(start, x), mlp(start, x_test)
        network = descend(momentum, k, y, f0, t=time, learning_rate=rate, noise=noise)
        test = ker.predict(network, k_star, f0=f0_test).mean
        got = np.concatenate([network.outputs, test])
        ends = [train(count) for count in (4000, 8000)]
    assert np.abs(got - np.concatenate([f0, f0_test])).max() > 0.3
    errors = [np.abs(end - got).max() for end in ends]
    assert 1.95 < errors[0] / errors[1] < 2.05
    assert errors[1] < 1e-3
    np.testing.assert_allclose(2 * ends[1] - ends[0], got, rtol=0, atol=1e-5)


# What the flow keeps.


def test_invariants():
    k, k_star, y, f0, f0_test, _ = classification()
    times = np.linspace(0, 40, 21)
    with jax.enable_x64(True):
        plain = descend(None, k, y, f0, t=times)
        heavy = descend(0.9, k, y, f0, t=times)
        for network in (plain, heavy):
            np.testing.assert_allclose(network.outputs[0], f0, rtol=1e-15)
            # The parameters stay in the span of the Jacobian, as steps keep it.
            again = ker.predict(network, k, f0=f0).mean
            np.testing.assert_allclose(network.outputs, again, rtol=0, atol=1e-12)
            # The gradient of the cross-entropy has no part along equal logits.
            total = np.asarray(ker.predict(network, k_star, f0=f0_test).mean).sum(-1)
            want = np.broadcast_to(f0_test.sum(-1), total.shape)
            np.testing.assert_allclose(total, want, rtol=0, atol=1e-12)
        losses = [
            np.array([cross_entropy(f, y) for f in network.outputs])
            for network in (plain, heavy)
        ]
    assert (np.diff(losses[0]) < 0).all()
    # With momentum the loss and the kinetic energy fall, so the loss stays below its
    # start; it does not fall at every time.
    assert (losses[1][1:] < losses[1][0]).all()


def test_one_output_without_an_axis():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    k, y = root @ root.T, np.array([1, -1, 1, -1])

    def slope(f):
        return k @ (y / (1 + np.exp(y * f))) / 4

    f, step = np.zeros(4), 1e-2  # the classical fourth-order method
    for _ in range(200):
        k1 = slope(f)
        k2 = slope(f + step / 2 * k1)
        k3 = slope(f + step / 2 * k2)
        k4 = slope(f + step * k3)
        f = f + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    with jax.enable_x64(True):
        got = ker.gradient_descent(logistic, k, y, t=2.0)
        same = ker.predict(got, k).mean
    assert got.outputs.shape == got.weights.shape == same.shape == (4,)
    np.testing.assert_allclose(got.outputs, f, rtol=0, atol=1e-8)
    np.testing.assert_allclose(same, f, rtol=0, atol=1e-8)


def test_labels_are_passed_on():
    k, _, y, f0, _, values = classification()

    def with_labels(f, labels):
        assert jnp.issubdtype(labels.dtype, jnp.integer)
        picked = jnp.take_along_axis(jax.nn.log_softmax(f), labels[:, None], 1)
        return -jnp.mean(picked)

    with jax.enable_x64(True):
        got = ker.gradient_descent(
            with_labels, k.ntk, y.argmax(1), t=1.0, learning_rate=0.5, f0=f0
        )
    want = values["predict/xent/gd_t0_train"]
    np.testing.assert_allclose(got.outputs, want, rtol=0, atol=1e-6)


# Transformations.


def small():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(3, 4))
    return root @ root.T, rng.normal(size=(3, 2)), rng.normal(size=(3, 2))


def total(args, adjoint=None):
    """A number that all outputs and weights enter with their own factors."""
    k, y, f0, t, options = args
    network = ker.gradient_descent(
        cross_entropy, k, y, t=t, f0=f0, adjoint=adjoint, **options
    )
    factors = jnp.cos(jnp.arange(network.outputs.size, dtype=k.dtype))
    factors = factors.reshape(network.outputs.shape)
    return jnp.vdot(factors, network.outputs) + jnp.vdot(factors, network.weights**2)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [None, 0.6])
def test_gradients(momentum):
    k, y, f0 = small()
    times = np.array([1.5, 0.0, 0.7])
    options = {"learning_rate": 0.7, "noise": 0.2, "momentum": momentum}
    with jax.enable_x64(True):
        args = jax.tree.map(jnp.asarray, (k, y, f0, times, options))
        got = jax.jit(jax.grad(total))(args)
        run = jax.jit(total)
        rng = np.random.default_rng(4)
        moves = jax.tree.map(lambda a: rng.normal(size=a.shape), args)
        # A negative time is refused: at 0 the slope in time is known instead.
        moves[3][1] = 0
        ahead, behind = (
            run(jax.tree.map(lambda a, d, s=s: a + s * 1e-4 * d, args, moves))
            for s in (1, -1)
        )
        slope = sum(
            jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), got, moves))
        )
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-4, rtol=1e-6)
    flow = -0.7 * k @ (softmax(f0) * y.sum(-1, keepdims=True) - y) / 3
    factors = np.cos(np.arange(6, 12)).reshape(3, 2)
    want = 0 if momentum else (factors * flow).sum()
    np.testing.assert_allclose(got[3][1], want, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_forward_mode():
    k, y, f0 = small()
    options = {"learning_rate": 0.7}
    with jax.enable_x64(True):
        args = jax.tree.map(jnp.asarray, (k, y, f0, 1.5, options))
        ones = jax.tree.map(jnp.ones_like, args)

        @jax.jit
        def slope(args):
            forward = functools.partial(total, adjoint=diffrax.ForwardMode())
            return jax.jvp(forward, (args,), (ones,))[1]

        run = jax.jit(total)
        ahead, behind = (
            run(jax.tree.map(lambda a, s=s: a + s, args)) for s in (1e-4, -1e-4)
        )
        np.testing.assert_allclose(slope(args), (ahead - behind) / 2e-4, rtol=1e-6)


def test_vmap_over_rates_inside_jit():
    k, y, f0 = small()

    def at(rate):
        network = ker.gradient_descent(squared, k, y, t=3.0, learning_rate=rate, f0=f0)
        return ker.predict(network, k[:2], f0=f0[:2]).mean

    rates = np.array([0.1, 1.0, 5.0])
    with jax.enable_x64(True):
        got = jax.jit(jax.vmap(at))(rates)
        for one, rate in zip(got, rates, strict=True):
            gram = ker.Gram(nngp=k, ntk=k)
            trained = ker.train(gram, y, t=3.0, learning_rate=rate, f0=f0)
            star = ker.Gram(nngp=k[:2], ntk=k[:2])
            want = ker.predict(trained, star, f0=f0[:2]).mean
            np.testing.assert_allclose(one, want, rtol=0, atol=1e-8)


def test_float32_and_narrower():
    k, k_star, y, f0, f0_test, values = classification()
    network = descend(None, k, y, f0)
    test = ker.predict(network, k_star, f0=f0_test).mean
    assert network.outputs.dtype == network.times.dtype == test.dtype == np.float32
    want = values["predict/xent/gd_t1_test"]
    np.testing.assert_allclose(test[0], want, rtol=0, atol=1e-5)
    narrow = descend(None, jnp.asarray(k.ntk, "bfloat16"), y, f0)
    assert narrow.outputs.dtype == np.float32
    # A bfloat16 kernel is off by 2^-9; the outputs have moved by about 1.
    np.testing.assert_allclose(narrow.outputs, network.outputs, rtol=0, atol=2e-2)


def test_too_few_steps():
    k, y, f0 = small()

    def run(t):
        return ker.gradient_descent(squared, k, y, t=t, max_steps=4).outputs

    message = r"`max_steps` must suffice to reach t=1000.0, got 4; .*implicit `solver`"
    with pytest.raises(ValueError, match=message):
        run(1000.0)
    assert np.isnan(jax.jit(run)(1000.0)).all()


@pytest.mark.slow
def test_an_implicit_solver_goes_far():
    k, y, _ = small()
    with jax.enable_x64(True):
        got = ker.gradient_descent(
            squared, k, y, t=1e9, solver=diffrax.Kvaerno5(), rtol=1e-8, max_steps=500
        )
    np.testing.assert_allclose(got.outputs, y, rtol=0, atol=1e-8)


# Bad input.

EYE, Y = np.eye(3), np.ones((3, 2))
BLOCKS = np.einsum("ij,ab->ijab", np.eye(3), np.eye(2))


def bad(message, *args, error=ValueError, **options):
    options = {"t": 1.0} | options
    with pytest.raises(error, match=f"gradient_descent: {message}"):
        ker.gradient_descent(*args, **options)


def test_bad_arguments():
    bad("`loss` must be a function.*got int", 3, EYE, Y, error=TypeError)
    bad("`k_train` must hold the ntk", squared, ker.Gram(nngp=EYE), Y)
    for k in (np.ones((2, 3)), np.ones(3), np.ones((3, 3, 2, 1)), np.ones((0, 0))):
        got = re.escape(str(k.shape))
        bad(rf"`k_train` must have shape \(n, n\) or .*got {got}", squared, k, Y)
    bad(r"`y` must have shape \(3,\) or \(3, outputs\), got \(2,\)", squared, EYE, Y[0])
    f0 = Y[None]
    bad(r"`f0` must have shape \(3,\) or .*got \(1, 3, 2\)", squared, EYE, Y, f0=f0)
    message = r"`y` must have shape \(3, 2\) for a `k_train` of shape \(3, 3, 2, 2\)"
    bad(message, squared, BLOCKS, Y[:, 0])
    bad(r"`y` must have 3 rows, got shape \(2,\)", squared, EYE, Y[0], f0=Y)
    bad(r"`loss\(f, y\)` must have shape \(\)", jnp.subtract, EYE, Y)
    bad(r"`loss\(f, y\)` must have shape \(\)", lambda f, y: (f, y), EYE, Y)


def test_bad_numbers():
    for t in (-1.0, np.array([1.0, np.inf]), np.nan):
        bad("`t` must be finite and not negative", squared, EYE, Y, t=t)
    for t in (np.ones((2, 2)), np.ones(0)):
        bad(r"`t` must have shape \(\) or \(times,\)", squared, EYE, Y, t=t)
    for name in ("learning_rate", "noise", "momentum"):
        message = f"`{name}` must be finite and not negative, got -1.0"
        bad(message, squared, EYE, Y, **{name: -1.0})
    bad(r"`momentum` must be in \[0, 1\), got 1.0", squared, EYE, Y, momentum=1.0)
    bad("`max_steps` must be at least 1, got 0", squared, EYE, Y, max_steps=0)
    message = "`max_steps` must be an int"
    bad(message, squared, EYE, Y, max_steps=1.5, error=TypeError)


def test_without_diffrax(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    message = r"needs diffrax, which the extra `jaxarch\[train\]` installs"
    bad(message, squared, EYE, Y, error=ImportError)


def test_bad_arguments_of_predict():
    y = jnp.asarray(Y, "float32")
    one, centred = (
        ker.Descended(times=jnp.ones(()), outputs=y, weights=y, f0=f0)
        for f0 in (y, None)
    )
    for k in (np.ones((2, 4)), np.ones(3), np.ones((2, 3, 1, 1))):
        message = r"`k_test_train` must have shape \(n_test, 3\) or \(n_test, 3, 2, 2\)"
        with pytest.raises(ValueError, match=message):
            ker.predict(one, k, f0=Y)
    with pytest.raises(ValueError, match="predict: `k_test_train` must hold the ntk"):
        ker.predict(one, ker.Gram(nngp=EYE))
    with pytest.raises(
        ValueError, match="`k_test` must be None for one network.*ndarr"
    ):
        ker.predict(one, EYE, EYE, f0=Y)
    message = r"`f0` must be the outputs .*shape \(2, 2\), since .*got None"
    with pytest.raises(ValueError, match=message):
        ker.predict(one, EYE[:2])
    with pytest.raises(ValueError, match=r"predict: `f0` must have shape \(2, 2\)"):
        ker.predict(one, EYE[:2], f0=Y)
    message = r"`f0` must be None where `gradient_descent` had none, got shape \(3, 2\)"
    with pytest.raises(ValueError, match=message):
        ker.predict(centred, EYE, f0=Y)
