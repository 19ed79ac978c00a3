"""What empirical kernels, expansions and their averages refuse, by name."""

import re

import jax
import numpy as np
import pytest

from jaxarch import kernels as ker

X = np.ones((2, 3), np.float32)
W = np.ones((4, 3), np.float32)


def matmul(w, x):
    return w @ x


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"f": 3}, TypeError, "`f` must be a function .* got int"),
        ({"params": {"a": 1}}, ValueError, "`params` must hold at least one array"),
        ({"params": W + 1j}, ValueError, "`params` must be real, got complex"),
        ({"x1": np.float32(1)}, ValueError, r"`x1` must have shape \(n, ...\).*\(\)"),
        ({"x1": {}}, ValueError, r"`x1` must have shape \(n, ...\).*\[\]"),
        ({"x2": np.ones(())}, ValueError, r"`x2` must have shape \(n, ...\)"),
        (
            {"x1": (X, X[:1])},
            ValueError,
            r"`x1` must have shape \(n, ...\).*\[\(2, 3\), \(1, 3\)\]",
        ),
        (
            {"x2": X[:, :2]},
            ValueError,
            r"`x2` must be like one of `x1`, float32\[3\], got float32\[2\]",
        ),
        (
            {"x2": X[:1], "diagonal": True},
            ValueError,
            "with `diagonal` `x2` must have the 2 examples of `x1`, got 1",
        ),
        ({"f": lambda w, x: (w @ x,)}, TypeError, "`f` must return one array"),
        (
            {"f": lambda w, x: (w @ x).astype(complex)},
            TypeError,
            "real floating.*complex64",
        ),
        ({"f": lambda w, x: w[:0] @ x}, ValueError, r"one number, got shape \(0,\)"),
        ({"trace_outputs": "mean"}, ValueError, "`trace_outputs`.*got 'mean'"),
        ({"trace_outputs": 2}, TypeError, "`trace_outputs` must be a bool.*got int"),
        ({"tile": 0}, ValueError, "`tile` must be at least 1, got 0"),
        ({"memory_limit": 0.5}, TypeError, "`memory_limit` must be an int, got float"),
    ],
)
@pytest.mark.parametrize("function", [ker.empirical_ntk, ker.empirical_nngp])
def test_bad_arguments(function, change, error, message):
    arguments = {"f": matmul, "params": W, "x1": X, "x2": X} | change
    if change.keys() & {"x1"}:
        arguments["x2"] = None
    where = [arguments.pop(k) for k in ("f", "params", "x1", "x2")]
    with pytest.raises(error, match=f"{function.__name__}: .*{message}"):
        function(*where, **arguments)


def test_bad_method():
    with pytest.raises(ValueError, match="empirical_ntk: `method`.*got 'fast'"):
        ker.empirical_ntk(matmul, W, X, method="fast")


def test_bad_vector():
    message = r"ntk_vector_product: `vector` must have shape \(2, 4\).*got \(2,\)"
    with pytest.raises(ValueError, match=message):
        ker.ntk_vector_product(matmul, W, X, None, np.ones(2))


def test_bad_expansions():
    with pytest.raises(TypeError, match="linearize: `f` must be a function"):
        ker.linearize(None, W)
    with pytest.raises(TypeError, match="`degree` must be an int, got float"):
        ker.taylor_expand(matmul, W, degree=1.0)
    with pytest.raises(ValueError, match="`degree` must be at least 0, got -1"):
        ker.taylor_expand(matmul, W, degree=-1)
    expanded = ker.linearize(matmul, W)
    with pytest.raises(ValueError, match="linearize: .* must have the structure"):
        expanded([W], X[0])
    message = re.escape("must have the shapes of those expanded at, (4, 3), got (3,)")
    with pytest.raises(ValueError, match=message):
        expanded(W[0], X[0])


def test_bad_arguments_of_monte_carlo():
    model = ker.finite(lambda h: ker.dense(h, 1))
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="`model` must have .*got int without `init`"):
        ker.monte_carlo(3, key, X, None, 4)
    with pytest.raises(ValueError, match="`num_samples` must be at least 2, got 1"):
        ker.monte_carlo(model, key, X, None, 1)
    with pytest.raises(TypeError, match="`num_samples` must be an int, got float"):
        ker.monte_carlo(model, key, X, None, 2.0)
    with pytest.raises(ValueError, match="monte_carlo: `method`.*got 'fast'"):
        ker.monte_carlo(model, key, X, None, 2, method="fast")
    with pytest.raises(ValueError, match="monte_carlo: an example of `x2` must be"):
        ker.monte_carlo(model, key, X, X[:, :1], 2)
