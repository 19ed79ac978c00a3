"""Gradients where the angle has none: equal, opposite and zero inputs.

There the NTK of a kinked map has a cone, whose derivative is taken to be the mean of
its one-sided ones. Central differences of the float64 kernel measure just that.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker

_RNG = np.random.default_rng(0)
A, B, C = _RNG.normal(size=(3, 3))
# generic, equal to it, opposite, parallel, another, one near that, zero
POINTS = np.stack([A, A, -A, 2 * A, B, B + 1e-2 * C, 0 * A]).astype(np.float32)
NUM, FEATURES = POINTS.shape
WEIGHTS = _RNG.normal(size=(2, NUM, NUM))
HYPER = (1.25, 0.75)  # w_std and the factor of every b_std
STEP = 1e-6


def layers(nonlinearity, depth, b_std):
    def network(h, w_std, factor):
        b = None if b_std is None else factor * b_std
        for _ in range(depth):
            h = nonlinearity(ker.dense(h, 8, w_std=w_std, b_std=b))
        return ker.dense(h, 1, w_std=w_std, b_std=b)

    return network


def residual(h, w_std, factor):
    h = ker.dense(h, 8, w_std=w_std, b_std=factor * 0.3)
    u = ker.relu(ker.dense(ker.relu(h), 8, w_std=w_std)) + ker.layer_norm(h, eps=0.1)
    return ker.dense(u, 1, w_std=w_std)


# Networks, and whether they have a gradient at a zero input too.
CASES = {
    "linear": (layers(lambda h: h, 1, None), True),
    "relu": (layers(ker.relu, 2, None), False),
    "relu, bias": (layers(ker.relu, 2, 0.3), True),
    "deep relu": (layers(ker.relu, 6, None), False),
    "absolute": (layers(ker.absolute, 2, None), False),
    "leaky_relu": (layers(ker.leaky_relu, 1, None), True),
    "tanh": (layers(ker.tanh, 1, None), True),
    "erf": (layers(ker.erf, 1, None), True),
    "elu, bias": (layers(ker.elu, 1, 0.3), True),
    "rectified_monomial": (
        layers(functools.partial(ker.rectified_monomial, degree=2), 1, None),
        True,
    ),
    "residual": (residual, True),
}
IN_FULL = ("linear", "relu, bias", "residual")  # symmetric and diagonal paths too
IN_FLOAT32 = ("linear", "relu")


def gradients(network, dtype, paths=("cross", "symmetric", "diagonal")):
    """Gradients of weighted sums of K(x, y), K(x) and diag K(x): those in `paths`."""
    x, weights = jnp.asarray(POINTS, dtype), jnp.asarray(WEIGHTS, dtype)
    hyper = tuple(jnp.asarray(number, dtype) for number in HYPER)

    def weigh(hyper, weights, *args, **options):
        gram = ker.infinite(lambda h: network(h, *hyper))(*args, **options)
        return (gram.nngp * weights[0]).sum() + (gram.ntk * weights[1]).sum()

    def cross(x, y, hyper):
        return weigh(hyper, weights, x, y)

    def symmetric(x, hyper):
        return weigh(hyper, weights, x)

    def diagonal(x, hyper):
        return weigh(hyper, weights[:, 0], x, diagonal=True)

    compute = {
        "cross": lambda: jax.jit(jax.grad(cross, (0, 1, 2)))(x, x, hyper),
        "symmetric": lambda: jax.jit(jax.grad(symmetric, (0, 1)))(x, hyper),
        "diagonal": lambda: jax.jit(jax.grad(diagonal, (0, 1)))(x, hyper),
    }
    return {path: compute[path]() for path in paths}


def differences(network):
    """The same by central differences of every entry."""
    x = POINTS.astype(np.float64)
    moves = STEP * np.concatenate([np.zeros((1, FEATURES)), np.eye(FEATURES)])
    moved = np.stack([x[:, None] + moves, x[:, None] - moves]).reshape(-1, FEATURES)

    def evaluate(hyper):
        """Entries (kernel, sign, i, move, j), and the diagonal without j."""
        kernel = ker.infinite(lambda h: network(h, *hyper))
        grams = kernel(moved, x), kernel(moved, diagonal=True)
        shape = (2, 2, NUM, 1 + FEATURES)
        return (
            np.stack([g.nngp, g.ntk]).reshape(*shape, *g.ntk.shape[1:]) for g in grams
        )

    def slope(plus, minus):
        return (plus - minus) / (2 * STEP)

    k, own = (slope(a[:, 0], a[:, 1])[:, :, 1:] for a in evaluate(HYPER))
    first = np.einsum("kij,kidj->id", WEIGHTS, k)
    second = np.einsum("kij,kjdi->jd", WEIGHTS, k)
    # In K(x) both arguments of a diagonal entry move.
    index = np.arange(NUM)
    diagonal = WEIGHTS[:, index, index]
    apart = first + second - 2 * np.einsum("ki,kidi->id", diagonal, k)
    both = apart + np.einsum("ki,kid->id", diagonal, own)
    own = np.einsum("ki,kid->id", WEIGHTS[:, 0], own)

    hyper = []
    for step in STEP * np.eye(2):
        k, d = (
            slope(plus, minus)[:, 0, :, 0]
            for plus, minus in zip(
                evaluate(HYPER + step), evaluate(HYPER - step), strict=True
            )
        )
        cross = (k * WEIGHTS).sum()
        change = (diagonal * (d - k[:, index, index])).sum()
        hyper.append([cross, cross + change, (WEIGHTS[:, 0] * d).sum()])
    hyper = np.array(hyper)
    return {
        "cross": (first, second, hyper[:, 0]),
        "symmetric": (both, hyper[:, 1]),
        "diagonal": (own, hyper[:, 2]),
    }


def check(got, want, at_zero, tolerance):
    for path in got:
        for gradient, reference in zip(got[path], want[path], strict=True):
            gradient = np.stack([np.asarray(g) for g in gradient])
            assert np.isfinite(gradient).all()
            error = np.abs(gradient - reference)
            if reference.ndim == 2 and not at_zero:
                error = error[:-1]
            assert error.max() < tolerance * np.abs(reference).max(), path


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=() if c == "linear" else pytest.mark.slow) for c in CASES],
)
def test_differences(case):
    network, at_zero = CASES[case]
    with jax.enable_x64(True):
        want = differences(network)
        paths = ("cross", "symmetric", "diagonal") if case in IN_FULL else ("cross",)
        check(gradients(network, np.float64, paths), want, at_zero, 1e-6)
    if case in IN_FLOAT32:
        check(gradients(network, np.float32), want, at_zero, 1e-5)
