"""Float32 NNGP and NTK of deep ReLU networks at and near coinciding inputs."""

import functools

import numpy as np
import pytest

from jaxarch import kernels as ker

from .relu_recursion import relu_kernels

DISTANCES = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 0.0]
TOLERANCE = {10: 3e-6, 50: 2e-5}
W_STD = float(np.float32(np.sqrt(2)))
B_STD = float(np.float32(0.1))


def relu_network(h, depth, b_std):
    for _ in range(depth):
        h = ker.relu(ker.dense(h, 8, w_std=W_STD, b_std=b_std))
    return ker.dense(h, 1, w_std=W_STD, b_std=b_std)


def clusters(num_points, copies, features=16, seed=0):
    """Points, and copies of each in float32 at every one of `DISTANCES`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_points, 1, 1, features))
    step = rng.normal(size=(num_points, len(DISTANCES), copies, features))
    step *= np.linalg.norm(x, axis=-1, keepdims=True)
    step /= np.linalg.norm(step, axis=-1, keepdims=True)
    near = x + step * np.array(DISTANCES)[:, None, None]
    x, near = x.astype(np.float32), near.astype(np.float32)
    return x[:, 0, 0], near.reshape(-1, features)


def check(gram, x1, x2, depth, b_std, *, tolerance, diagonal=False):
    """Errors relative to sqrt(k11 k22), in float64 at the same rounded numbers."""
    reference = functools.partial(relu_kernels, depth=depth, w_std=W_STD, b_std=b_std)
    want = reference(x1, x2, diagonal=diagonal)
    norm1, norm2 = (np.sqrt(reference(x, x, diagonal=True)) for x in (x1, x2))
    norm = norm1 * norm2 if diagonal else norm1[..., None] * norm2[:, None]
    for got, k, scale in zip((gram.nngp, gram.ntk), want, norm, strict=True):
        assert got.dtype == np.float32
        assert (np.abs(np.asarray(got) - k) / scale).max() < tolerance


depths = pytest.mark.parametrize(
    "depth", [10, pytest.param(50, marks=pytest.mark.slow)]
)
biases = pytest.mark.parametrize("b_std", [None, B_STD], ids=["no bias", "bias"])


@depths
@biases
def test_matrix(depth, b_std):
    kernel = ker.infinite(lambda h: relu_network(h, depth, b_std))
    x1, x2 = clusters(40, 8)  # two tiles of columns
    check(kernel(x1, x2), x1, x2, depth, b_std, tolerance=TOLERANCE[depth])


@depths
@biases
def test_symmetric(depth, b_std):
    kernel = ker.infinite(lambda h: relu_network(h, depth, b_std))
    _, x = clusters(40, 1)  # 2 x 2 tiles
    gram = kernel(x)
    check(gram, x, x, depth, b_std, tolerance=TOLERANCE[depth])
    for k in (gram.nngp, gram.ntk):
        np.testing.assert_array_equal(k, k.T)


@depths
@biases
def test_pairs(depth, b_std):
    kernel = ker.infinite(lambda h: relu_network(h, depth, b_std))
    x1, x2 = clusters(40, 8)
    x1 = np.repeat(x1, len(x2) // len(x1), axis=0)
    gram = kernel(x1, x2, diagonal=True)
    check(gram, x1, x2, depth, b_std, tolerance=TOLERANCE[depth], diagonal=True)


def test_data_with_a_mean():
    """At cosines near 0.9 the float32 product of 784 features is off by 1e-6 itself."""
    kernel = ker.infinite(lambda h: relu_network(h, 10, B_STD))
    x1, x2 = (x + np.float32(3) for x in clusters(20, 2, features=784))
    check(kernel(x1, x2), x1, x2, 10, B_STD, tolerance=5e-6)
