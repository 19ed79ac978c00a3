"""`solve` against dense linear algebra in NumPy."""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker
from jaxarch.kernels._pivoted import pivoted_cholesky, preconditioner
from jaxarch.kernels._progress import bar

lineax = pytest.importorskip("lineax")
pytest.importorskip("tensorstore")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(45, 3))
Y = RNG.normal(size=(45, 2))
NOISE = 0.1
solve = functools.partial(ker.solve, noise=NOISE, progress=False)


def product(a, b):
    """`exp(a.b / 3)` and twice as much."""
    k = jnp.exp(jnp.matmul(a, b.T, precision="highest") / 3)
    return ker.Gram(nngp=k, ntk=2 * k)


def matrix(x=X):
    return np.exp(x @ x.T / 3)


def wanted(factor=1.0, y=Y, noise=NOISE):
    return np.linalg.solve(factor * matrix() + noise * np.eye(45), y)


def close(got, want, tolerance):
    got = np.asarray(got, np.float64)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    with jax.enable_x64(True):
        ker.gram(product, X, store=path, tile=8, digest="exp", progress=False)
    return path


def stored(store):
    kinds = {kind: ker.StoredMatrix.open(store, kind) for kind in ("nngp", "ntk")}
    return ker.Gram(**kinds)


@pytest.mark.parametrize("y", [Y, Y[:, 0]], ids=["outputs", "vector"])
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("method", ["cholesky", "cg"])
@pytest.mark.parametrize("held", ["memory", "kept", "half", "read", "recomputed"])
def test_every_way_matches_numpy(store, held, method, kind, y):
    options = {"method": method, "kind": kind, "rank": 15}
    if method == "cg" and kind == "nngp" and y.ndim == 1:
        pytest.skip("three of the four cases suffice")
    with jax.enable_x64(True):
        if held == "memory":
            k = ker.Gram(nngp=matrix(), ntk=2 * matrix())
        elif held == "recomputed":
            k = product
            options |= {"x": X, "tile": 8}
        else:
            k = stored(store)
            if method == "cg":  # 21 tiles of 512 bytes
                limits = {"kept": 10**6, "half": 10 * 512, "read": 1}
                options["memory_limit"] = limits[held]
        got = solve(k, y, **options)
        got = jax.tree.map(np.asarray, got)
    assert got.weights.dtype == np.float64
    assert got.residual.shape == got.num_steps.shape == y.shape[1:]
    close(got.weights, wanted({"nngp": 1, "ntk": 2}[kind], y), 1e-7)
    assert (got.residual < 2e-8).all()
    assert ((got.num_steps > 0) == (method == "cg")).all()


@pytest.mark.slow
def test_float32_and_a_kernel():
    kernel = ker.infinite(lambda h: ker.dense(h, 1, w_std=1.0, b_std=1.0))
    x, y = X.astype("f4"), Y.astype("f4")
    want = np.linalg.solve(X @ X.T / 3 + 1 + NOISE * np.eye(45), Y)
    for method in ("cholesky", "cg"):
        got = solve(kernel, y, x=x, method=method, tile=20)
        assert got.weights.dtype == np.float32
        close(got.weights, want, 1e-3)
    got = solve(jnp.bfloat16(np.eye(3)), np.ones(3), method="cg", noise=1)
    assert got.weights.dtype == np.float32
    close(got.weights, np.full(3, 0.5), 1e-4)


def test_the_residual_is_that_of_the_weights():
    with jax.enable_x64(True):
        got = solve(matrix(), Y, method="cg", tol=1e-3)
    left = Y - (matrix() + NOISE * np.eye(45)) @ np.asarray(got.weights)
    want = np.linalg.norm(left, axis=0) / np.linalg.norm(Y, axis=0)
    # What is left is itself a difference of numbers near 1.
    np.testing.assert_allclose(got.residual, want, rtol=0, atol=1e-13)
    assert (want < 2e-3).all()


def test_the_preconditioner_saves_steps():
    # The spectrum falls from 60 to 1e-6, against a noise of 1e-4.
    with jax.enable_x64(True):
        plain, better = (
            solve(matrix(), Y[:, 0], noise=1e-4, method="cg", rank=rank, tol=1e-6)
            for rank in (1, 40)
        )
        want = wanted(noise=1e-4, y=Y[:, 0])
    assert int(better.num_steps) * 3 < int(plain.num_steps)
    close(better.weights, want, 1e-4)


def test_zero_targets():
    got = solve(np.eye(4, dtype="f4"), np.zeros(4), method="cg")
    np.testing.assert_array_equal(got.weights, np.zeros(4))
    assert float(got.residual) == 0


# The decomposition.


def test_pivoted_cholesky_interpolates_its_pivots():
    k = matrix()
    rows = []

    def row(i):
        rows.append(i)
        return k[i]

    def factor(rank, stop=0.0):
        rows.clear()
        silent = bar(False, None, what="", unit="")
        found = pivoted_cholesky(
            np.diagonal(k), row, rank=rank, stop=stop, shown=silent
        )
        return found.T

    low = factor(7)
    assert low.shape == (45, 7)
    assert rows[0] == np.diagonal(k).argmax()
    rest = k - low @ low.T
    np.testing.assert_allclose(rest[rows], 0, atol=1e-12 * k.max())
    assert np.linalg.eigvalsh(rest).min() > -1e-12 * k.max()
    # It ends when the trace, or what rounding leaves of it, is reached.
    early = factor(45, stop=1.0)
    assert np.trace(k - early @ early.T) <= 1.0
    assert np.trace(k - factor(early.shape[1] - 1) @ factor(early.shape[1] - 1).T) > 1.0
    k = np.ones((45, 45))
    assert factor(45).shape == (45, 1)


def test_the_preconditioner_is_the_inverse():
    factor = RNG.normal(size=(6, 20))
    w = preconditioner(factor, 0.3)
    want = 0.3 * np.linalg.inv(factor.T @ factor + 0.3 * np.eye(20))
    np.testing.assert_allclose(np.eye(20) - w.T @ w, want, atol=1e-13)


# Progress and bad input.


def test_progress(capfd):
    solve(np.eye(4, dtype="f4"), np.ones(4), method="cg", progress=True)
    shown = capfd.readouterr().err
    assert "pivots" in shown
    assert re.search(r"conjugate gradients: [3-9]product", shown)
    solve(np.eye(4, dtype="f4"), np.ones(4), method="cg")
    assert not capfd.readouterr().err


def test_bad_arguments(store, tmp_path, monkeypatch):
    eye, one = np.eye(4, dtype="f4"), np.ones(4)
    with pytest.raises(ValueError, match="`method` must be one of 'cholesky', 'cg'"):
        solve(eye, one, method="lu")
    with pytest.raises(ValueError, match="`kind` must be one of 'nngp', 'ntk', got"):
        solve(eye, one, kind="k")
    with pytest.raises(ValueError, match="`noise` must be finite and positive, got 0"):
        solve(eye, one, noise=0.0)
    with pytest.raises(ValueError, match="`rank` must be at least 1, got 0"):
        solve(eye, one, rank=0)
    with pytest.raises(ValueError, match=r"`k` must have shape \(n, n\).*\(4, 3\)"):
        solve(eye[:, :3], one)
    with pytest.raises(ValueError, match="`k` must hold the `ntk` asked for, got None"):
        solve(ker.Gram(nngp=eye), one, kind="ntk")
    with pytest.raises(ValueError, match="`x` must be the examples .*, got None"):
        solve(product, Y)
    with pytest.raises(ValueError, match=r"`x` must be None for .*got shape \(4,\)"):
        solve(eye, one, x=one)
    with pytest.raises(ValueError, match=r"`y` must have shape \(4,\) or \(4, out"):
        solve(eye, one[:3], method="cg")
    with pytest.raises(ValueError, match="the 64.8 kB of a Cholesky .*, got 1 kB"):
        solve(stored(store), Y, memory_limit=1000)
    message = r"fall to `tol` = 1.0e-12 .* got .* after 2 of `max_steps` = 2"
    with jax.enable_x64(True), pytest.raises(ValueError, match=message):
        solve(matrix(), Y, method="cg", rank=1, tol=1e-12, max_steps=2)
    only = lambda a, b: ker.Gram(nngp=a @ b.T)  # noqa: E731
    with pytest.raises(ValueError, match="`k` must give an `ntk`, got nngp"):
        solve(only, Y, x=X.astype("f4"), kind="ntk", method="cg")
    two = ker.gram(only, Y, Y, store=tmp_path, digest="a", progress=False)
    with pytest.raises(ValueError, match="a stored matrix of one set with itself"):
        solve(two, Y)
    monkeypatch.setitem(sys.modules, "lineax", None)
    with pytest.raises(ImportError, match=r"method='cg' needs lineax.*\[big\]"):
        solve(eye, one, method="cg")
