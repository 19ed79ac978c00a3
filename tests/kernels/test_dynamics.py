"""Training dynamics against the flow, matrix exponentials and the golden file."""

import functools
import re

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from jaxarch import kernels as ker

from .relu_reference import absolute, golden_problem, load_golden

N, N_TEST = 5, 3
TIMES = [None, 0.0, 1.0, 10.0, 1000.0]  # of the golden file, in its order


def close(got, want, tolerance):
    scale = max(np.abs(want).max(), 1e-300)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)


def problem(outputs=2, rank=None, seed=0):
    """Grams of N training and N_TEST test points, targets, and the joint matrices."""
    rng = np.random.default_rng(seed)
    total = N + N_TEST
    x = rng.normal(size=(2, total, total if rank is None else rank))
    nngp, ntk = x @ x.transpose(0, 2, 1) / 3
    y = rng.normal(size=(N, outputs) if outputs else N)
    return *cut(nngp, ntk), y, nngp, ntk


def cut(nngp, ntk):
    train, test = slice(None, N), slice(N, None)
    blocks = (train, train), (test, train), (test, test)
    return [ker.Gram(nngp=nngp[block], ntk=ntk[block]) for block in blocks]


def response(matrix, time):
    """`(1 - exp(-time M)) / M` as a block of an exponential."""
    n = len(matrix)
    zero = np.zeros((n, n))
    return expm(np.block([[-time * matrix, time * np.eye(n)], [zero, zero]]))[:n, n:]


def ensemble(nngp, ntk, y, time, noise):
    """Mean and covariance: f_* - A f(X) + A y for jointly Gaussian f(X), f_*."""
    matrix = ntk[:N, :N] + noise * np.eye(N)
    a = ntk[N:, :N] @ response(matrix, time)
    mix = np.hstack([-a, np.eye(N_TEST)])
    return a @ y, mix @ nngp @ mix.T


def fit(grams, y, **options):
    gram, k_test_train, k_test = grams
    return ker.predict(ker.train(gram, y, **options), k_test_train, k_test)


# The golden file.


@pytest.mark.parametrize("index", range(5))
def test_golden_ensemble(index):
    arrays, entries = load_golden()
    entry = entries["predict/ensemble"]
    *grams, y = golden_problem()
    options = {"t": TIMES[index], "learning_rate": entry["learning_rate"]}
    noise = absolute(entry["diag_reg"], grams[0].ntk)
    with jax.enable_x64(True):
        got = fit(grams, y, noise=noise, **options)
    name = f"predict/ensemble/t{index}_ntk"
    close(got.mean, arrays[f"{name}_mean"], 1e-12)
    close(got.covariance, arrays[f"{name}_cov"], 1e-12)
    if index == 0:
        close(got.mean, arrays["predict/gp_inference/ntk_mean"], 1e-12)
        close(got.covariance, arrays["predict/gp_inference/ntk_cov"], 1e-12)


@pytest.mark.parametrize("index", range(5))
def test_golden_last_layer(index):
    # The peer's "nngp" regime trains the last layer; its start carries the noise.
    arrays, entries = load_golden()
    entry = entries["predict/ensemble"]
    *grams, y = golden_problem()
    k, k_star, k_test = (gram.nngp for gram in grams)
    noise = absolute(entry["diag_reg"], k)
    grams = (
        ker.Gram(nngp=k + noise * np.eye(len(k)), ntk=k),
        ker.Gram(nngp=k_star, ntk=k_star),
        ker.Gram(nngp=k_test),
    )
    options = {"t": TIMES[index], "learning_rate": entry["learning_rate"]}
    with jax.enable_x64(True):
        got = fit(grams, y, noise=noise, **options)
    close(got.mean, arrays[f"predict/ensemble/t{index}_nngp_mean"], 1e-12)
    close(got.covariance, arrays[f"predict/ensemble/t{index}_nngp_cov"], 1e-12)


@pytest.mark.parametrize("index", range(5))
def test_golden_one_network(index):
    arrays, entries = load_golden()
    entry = entries["predict/mse"]
    gram, k_test_train, _, y = golden_problem()
    noise = absolute(entry["diag_reg"], gram.ntk)
    f0, f0_test = (arrays[f"predict/mse/fx_{name}_0"] for name in ("train", "test"))
    # The peer's outputs at training points follow the regularised kernel.
    regularised = ker.Gram(nngp=gram.nngp, ntk=gram.ntk + noise * np.eye(len(y)))
    options = {"t": TIMES[index], "learning_rate": entry["learning_rate"]}
    with jax.enable_x64(True):
        trained = ker.train(gram, y, noise=noise, f0=f0, **options)
        test = ker.predict(trained, k_test_train, f0=f0_test)
        train = ker.predict(trained, regularised, f0=f0)
    close(test.mean, arrays[f"predict/mse/t{index}_test"], 1e-12)
    close(train.mean, arrays[f"predict/mse/t{index}_train"], 1e-12)
    assert test.variance is None


def test_golden_max_learning_rate():
    arrays, entries = load_golden()
    gram, _, _, y = golden_problem()
    assert y.size == entries["predict/max_learning_rate"]["y_train_size"]
    with jax.enable_x64(True):
        got = float(ker.max_learning_rate(gram, num_outputs=y.shape[1]))
        same = float(ker.max_learning_rate(gram.ntk, num_outputs=y.shape[1]))
    # The peer adds 1e-12 to the eigenvalue.
    np.testing.assert_allclose(got, arrays["predict/max_learning_rate"], rtol=1e-12)
    assert same == got


# The flow.


@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize("outputs", [None, 2])
def test_one_network_follows_the_flow_of_its_parameters(outputs, noise):
    rng = np.random.default_rng(1)
    jacobian = rng.normal(size=(N + N_TEST, 8))
    shape = (outputs,) if outputs else ()
    f0, y = rng.normal(size=(N + N_TEST, *shape)), rng.normal(size=(N, *shape))

    def descend(_, flat):
        moved = flat.reshape(8, *shape)
        residual = f0[:N] + jacobian[:N] @ moved - y
        gradient = (jacobian[:N].T @ residual + noise * moved) / y.size
        return -gradient.ravel()

    start = np.zeros(8 * (outputs or 1))
    options = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-13}
    moved = solve_ivp(descend, (0, 6.0), start, **options).y[:, -1]
    want = f0 + jacobian @ moved.reshape(8, *shape)

    ntk = jacobian @ jacobian.T
    gram, k_test_train, _ = cut(ntk, ntk)
    with jax.enable_x64(True):
        trained = ker.train(gram, y, t=12, learning_rate=0.5, noise=noise, f0=f0[:N])
        test = ker.predict(trained, k_test_train, f0=f0[N:])
        train = ker.predict(trained, gram, f0=f0[:N])
    close(test.mean, want[N:], 1e-10)
    close(train.mean, want[:N], 1e-10)


@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize("time", [0.0, 1e-9, 0.3, 20.0])
@pytest.mark.parametrize("rank", [None, 2])
def test_ensemble_matches_the_exponential(rank, time, noise):
    *grams, y, nngp, ntk = problem(rank=rank)  # rank 2: three eigenvalues are 0
    mean, covariance = ensemble(nngp, ntk, y, time, noise)
    with jax.enable_x64(True):
        got = fit(grams, y, t=time * y.size, noise=noise)
        diagonal = ker.Gram(nngp=np.diagonal(grams[2].nngp))
        vector = fit((*grams[:2], diagonal), y, t=time * y.size, noise=noise)
    close(got.mean, mean, 1e-12)
    close(got.covariance, covariance, 1e-12)
    close(got.variance, np.diagonal(covariance), 1e-12)
    close(vector.variance, np.diagonal(covariance), 1e-12)
    assert vector.covariance is None


def test_the_start_is_the_prior_and_the_end_is_converged():
    *grams, y, nngp, ntk = problem()
    with jax.enable_x64(True):
        start = fit(grams, y, t=0.0)
        late, end = fit(grams, y, t=1e9), fit(grams, y)
    np.testing.assert_array_equal(start.mean, np.zeros((N_TEST, 2)))
    close(start.covariance, nngp[N:, N:], 1e-15)
    a = ntk[N:, :N] @ np.linalg.inv(ntk[:N, :N])
    mix = np.hstack([-a, np.eye(N_TEST)])
    for got in (late, end):
        close(got.mean, a @ y, 1e-10)
        close(got.covariance, mix @ nngp @ mix.T, 1e-10)


def test_without_decay_training_points_are_fitted():
    *_, y, nngp, ntk = problem()
    gram = cut(nngp, ntk)[0]
    with jax.enable_x64(True):
        got = ker.predict(ker.train(gram, y), gram, gram)
    close(got.mean, y, 1e-12)
    assert np.abs(got.covariance).max() < 1e-12 * nngp.max()


def test_training_the_last_layer_converges_to_the_posterior():
    *_, y, nngp, _ = problem()
    gram, k_test_train, k_test = cut(nngp, nngp)
    start = ker.Gram(nngp=gram.nngp + 0.3 * np.eye(N), ntk=gram.ntk)
    with jax.enable_x64(True):
        got = fit((start, k_test_train, k_test), y, noise=0.3)
        posterior = ker.condition(gram, y, noise=0.3)
        want = ker.predict(posterior, k_test_train, k_test)
    jax.tree.map(functools.partial(close, tolerance=1e-12), got, want)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_max_learning_rate_is_where_descent_turns_unstable(momentum):
    ntk = problem()[-1][:N, :N]
    with jax.enable_x64(True):
        limit = float(ker.max_learning_rate(ntk, num_outputs=2, momentum=momentum))
    # Heavy ball: e_(k+1) = (1 + m - rate l / N) e_k - m e_(k-1).
    eigenvalues, eye = np.diag(np.linalg.eigvalsh(ntk)), np.eye(N)
    growth = []
    for rate in (0.999 * limit, 1.001 * limit):
        step = (1 + momentum) * eye - rate * eigenvalues / (2 * N)
        matrix = np.block([[step, -momentum * eye], [eye, 0 * eye]])
        growth.append(np.abs(np.linalg.eigvals(matrix)).max())
    assert growth[0] < 1 < growth[1]


# Transformations.


def test_vmap_over_times_shares_one_eigendecomposition():
    *grams, y, _, _ = problem()
    times = np.array([0.0, 0.5, 3.0, 1e4])

    def at(t):
        return fit(grams, y, t=t, learning_rate=2.0, noise=0.1)

    with jax.enable_x64(True):
        got = jax.jit(jax.vmap(at))(times)
        wants = [at(t) for t in times]
        text = str(jax.make_jaxpr(jax.vmap(at))(times))
    for i, want in enumerate(wants):
        jax.tree.map(lambda a, b, i=i: close(a[i], b, 1e-13), got, want)
    shapes = re.findall(r"f64\[([\d,]+)\][^\n]*= eigh\[", text)
    assert shapes == [f"{N},{N}"]


def test_vmap_over_problems():
    problems = [problem(seed=seed)[:4] for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
    with jax.enable_x64(True):
        for t in (None, 2.0):

            def run(*args, t=t):
                return fit(args[:3], args[3], t=t, noise=0.1)

            got = jax.vmap(run)(*stacked)
            for i, one in enumerate(problems):
                jax.tree.map(lambda a, b, i=i: close(a[i], b, 1e-12), got, run(*one))


def outputs_of(ntk, nngp, y, t, noise):
    grams = cut(nngp, ntk)
    got = fit(grams, y, t=t, noise=noise)
    return got.mean, got.covariance


def test_gradients():
    *_, y, nngp, ntk = problem()
    for t in (None, 4.0):

        @jax.jit
        def run(ntk, nngp, y, noise, scale, t=t):
            return outputs_of(ntk, nngp, y, scale if t else None, noise)

        with jax.enable_x64(True):
            args = jax.tree.map(jnp.asarray, (ntk, nngp, y, 0.1, 4.0))
            check_grads(run, args, order=1, modes=["fwd", "rev"])


def test_second_derivative():
    *_, y, nngp, ntk = problem()
    direction = np.diag(np.arange(N + N_TEST)) / N

    def total(s):
        mean, cov = outputs_of(ntk + s * direction, nngp, y, 4.0 * jnp.exp(s), 0.1)
        return jnp.sin(mean).sum() + jnp.sin(cov).sum()

    slope = jax.jit(jax.grad(total))
    with jax.enable_x64(True):
        got = jax.jit(jax.grad(slope))(0.1)
        want = (slope(0.1 + 1e-5) - slope(0.1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(got, want, rtol=1e-7)


@pytest.mark.parametrize("ntk", [np.eye(8), np.zeros((8, 8)), np.ones((8, 8))])
@pytest.mark.parametrize("t", [0.0, 7.0, 1e6])
def test_gradients_where_eigenvalues_coincide_or_vanish(ntk, t):
    *_, y, nngp, _ = problem()
    direction = nngp / np.abs(nngp).max()

    def total(ntk, nngp, y, t, noise):
        return sum(out.sum() for out in outputs_of(ntk, nngp, y, t, noise))

    with jax.enable_x64(True):
        args = jax.tree.map(jnp.asarray, (ntk, nngp, y, t, 0.1))
        got = jax.jit(jax.grad(total, (0, 1, 2, 3, 4)))(*args)
        slope = float(jnp.vdot(got[0], direction))
        forward = float(jax.jvp(lambda k: total(k, *args[1:]), (ntk,), (direction,))[1])
    assert all(np.isfinite(leaf).all() for leaf in got)

    def reference(s):
        moved = ntk + s * direction
        return sum(a.sum() for a in ensemble(nngp, moved, y, t / y.size, 0.1))

    np.testing.assert_allclose(forward, slope, rtol=1e-9, atol=1e-12)
    if t < 1e6:
        want = (reference(1e-4) - reference(-1e-4)) / 2e-4
        np.testing.assert_allclose(slope, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("x64", [True, False])
def test_response_and_its_derivative_to_rounding(x64):
    # With targets I and a diagonal matrix the weights are phi(x_i) on the diagonal, and
    # their derivative towards a matrix of ones is the divided difference of phi.
    dtype = np.float64 if x64 else np.float32
    x = [0, 1e-30, 1e-12, 1e-6, 1e-3, 0.1, 0.9, 0.99999, 1, 1.00001, 1.5, 4, 30, 1e3]
    x = np.array([*x, 1e6], dtype)
    n = len(x)
    with jax.enable_x64(x64):

        def weights(ntk):
            gram = ker.Gram(nngp=ntk, ntk=ntk)
            eye = np.eye(n, dtype=dtype)
            return ker.train(gram, eye, t=1, learning_rate=n * n).weights

        diagonal, ones = jnp.asarray(np.diag(x)), jnp.ones((n, n), dtype)
        phi, slope = jax.jvp(weights, (diagonal,), (ones,))
        phi, slope = np.asarray(phi), np.asarray(slope)

    with mpmath.workdps(150):

        def exact(x):
            return mpmath.mpf(1) if x == 0 else -mpmath.expm1(-x) / x

        def exact_slope(x, y):
            if x != y:
                return (exact(x) - exact(y)) / (x - y)
            if x == 0:
                return mpmath.mpf(-0.5)
            return (mpmath.exp(-x) * (1 + x) - 1) / x**2

        points = [mpmath.mpf(float(v)) for v in x]
        want = np.array([float(exact(a)) for a in points])
        want_slope = [[float(exact_slope(a, b)) for b in points] for a in points]
    tolerance = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(np.diagonal(phi), want, rtol=tolerance)
    np.testing.assert_allclose(slope, want_slope, rtol=tolerance)


@pytest.mark.parametrize("t", [None, 5.0])
def test_float32(t):
    *grams, y, _, _ = problem()
    got = fit(grams, y, t=t, noise=0.5)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype("float32")}
    with jax.enable_x64(True):
        want = fit(grams, y, t=t, noise=0.5)
    jax.tree.map(functools.partial(close, tolerance=1e-5), got, want)


def test_a_singular_ntk_reports_its_jitter():
    ones = np.ones((N, N))
    gram = ker.Gram(nngp=ones, ntk=ones)
    trained = ker.train(gram, np.ones(N))
    assert 0 < trained.jitter < 1e-4
    close(ker.predict(trained, gram).mean, np.ones(N), 1e-4)
    assert ker.train(gram, np.ones(N), noise=0.1).jitter == 0


# Bad input.

EYE = ker.Gram(nngp=np.eye(3), ntk=np.eye(3))
ONE = ker.Gram(nngp=np.ones((2, 3)), ntk=np.ones((2, 3)))
Y = np.ones((3, 2))


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        (ker.Gram(nngp=np.eye(3)), "train: `gram` must hold the ntk, got ntk=None"),
        (
            ker.Gram(nngp=np.ones(3), ntk=np.ones(3)),
            r"train: `gram.ntk` must have shape \(n, n\).*got \(3,\)",
        ),
        (
            ker.Gram(nngp=np.eye(4), ntk=np.eye(3)),
            r"train: `gram.nngp` must have shape \(3, 3\), got \(4, 4\)",
        ),
        (
            ker.Gram(nngp=np.eye(4), ntk=np.eye(4)),
            r"train: `y` must have shape \(4,\) or \(4, outputs\), got \(3, 2\)",
        ),
        (
            ker.Gram(nngp=np.eye(3), ntk=-np.eye(3)),
            r"train: `gram.ntk \+ noise I` must be positive definite.*float64",
        ),
    ],
)
def test_bad_gram(gram, message):
    with pytest.raises(ValueError, match=message):
        ker.train(gram, Y)


def test_a_matrix_is_no_gram():
    with pytest.raises(TypeError, match="train: `gram` must be a Gram, got ndarray"):
        ker.train(np.eye(3), Y)


@pytest.mark.parametrize("name", ["t", "learning_rate", "noise"])
def test_bad_numbers(name):
    for value in (-1.0, np.inf, np.nan):
        message = f"train: `{name}` must be finite and not negative, got {value}"
        with pytest.raises(ValueError, match=re.escape(message)):
            ker.train(EYE, Y, **{name: value})
    message = rf"train: `{name}` must have shape \(\).*vmap.*got \(2,\)"
    with pytest.raises(ValueError, match=message):
        ker.train(EYE, Y, **{name: np.ones(2)})


def test_bad_f0():
    with pytest.raises(ValueError, match=r"train: `f0` must have shape \(3, 2\)"):
        ker.train(EYE, Y, f0=np.ones(3))
    one, many = ker.train(EYE, Y, f0=Y), ker.train(EYE, Y)
    message = r"predict: `f0` must be the outputs .* shape \(2, 2\), .*got None"
    with pytest.raises(ValueError, match=message):
        ker.predict(one, ONE)
    with pytest.raises(ValueError, match=r"predict: `f0` must have shape \(2, 2\)"):
        ker.predict(one, ONE, f0=np.ones(2))
    with pytest.raises(ValueError, match="`k_test` must be None for one network.*Gram"):
        ker.predict(one, ONE, EYE, f0=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"`f0` must be None where .*got shape \(2,\)"):
        ker.predict(many, ONE, f0=np.ones(2))


def test_bad_kernels_of_predict():
    trained = ker.train(EYE, Y)
    message = "`k_test_train` must be a Gram for a Trained, got ndarray"
    with pytest.raises(TypeError, match=message):
        ker.predict(trained, np.ones((2, 3)))
    with pytest.raises(TypeError, match="`k_test` must be a Gram.*got ndarray"):
        ker.predict(trained, ONE, np.ones(2))
    with pytest.raises(ValueError, match="`k_test_train` must hold the ntk"):
        ker.predict(trained, ker.Gram(nngp=ONE.nngp))
    message = r"`k_test_train.ntk` must have shape \(n_test, 3\).*got \(3, 2\)"
    with pytest.raises(ValueError, match=message):
        ker.predict(trained, ker.Gram(nngp=ONE.nngp, ntk=ONE.ntk.T))
    message = r"`k_test_train.nngp` must have shape \(2, 3\), got \(4, 3\)"
    with pytest.raises(ValueError, match=message):
        ker.predict(trained, ker.Gram(nngp=np.ones((4, 3)), ntk=ONE.ntk), EYE)
    with pytest.raises(ValueError, match=r"`k_test` must have shape \(2,\).*\(3, 3\)"):
        ker.predict(trained, ONE, EYE)


def test_bad_arguments_of_max_learning_rate():
    with pytest.raises(ValueError, match=r"`k_train` must have shape \(n, n\)"):
        ker.max_learning_rate(np.ones((2, 3)))
    with pytest.raises(ValueError, match="`k_train` must hold the ntk"):
        ker.max_learning_rate(ker.Gram(nngp=np.eye(3)))
    with pytest.raises(ValueError, match="`num_outputs` must be at least 1, got 0"):
        ker.max_learning_rate(np.eye(3), num_outputs=0)
    with pytest.raises(TypeError, match="`num_outputs` must be an int, got float"):
        ker.max_learning_rate(np.eye(3), num_outputs=1.5)
    for momentum in (-0.1, 1.0):
        message = rf"`momentum` must be in \[0, 1\), got {momentum}"
        with pytest.raises(ValueError, match=message):
            ker.max_learning_rate(np.eye(3), momentum=momentum)
