"""The operations of `jaxarch.kernels` in NumPy, by their textbook formulas.

A network written as `network(ops, h)` runs with `ops=jaxarch.kernels` and with this
module: here `h` holds full matrices over one set of points, `k` the covariance and `t`
the tangent kernel, and the mean `m` of each point.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Value:
    k: np.ndarray
    t: np.ndarray
    m: np.ndarray
    features: int

    def __add__(self, other):
        cross = np.outer(self.m, other.m)
        return Value(
            self.k + other.k + cross + cross.T,
            self.t + other.t,
            self.m + other.m,
            self.features,
        )

    def __mul__(self, other):
        if isinstance(other, Value):
            return Value(
                self.k * other.k,
                self.t * other.k + self.k * other.t,
                self.m * other.m,
                self.features,
            )
        return Value(
            other**2 * self.k, other**2 * self.t, other * self.m, self.features
        )

    __rmul__ = __mul__

    def __truediv__(self, number):
        return self * (1 / number)

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -other


def inputs(x):
    """The value of the argument of a network."""
    n, features = x.shape
    return Value(x @ x.T / features, np.zeros((n, n)), x.mean(1), features)


def _like(h, k, slope, m=0.0):
    return Value(k, h.t * slope, np.full(len(k), 1.0) * m, h.features)


def dense(
    h,
    features,
    *,
    w_std=1.0,
    b_std=0.0,
    parameterization="ntk",
    s=(1.0, 1.0),
    learning_rate=1.0,
):
    k = w_std**2 * h.k + (b_std or 0) ** 2
    own = k
    if parameterization == "standard":
        own = h.features / s[0] * h.k + (b_std is not None)
    t = learning_rate * own + w_std**2 * h.t
    return Value(k, t, np.zeros(len(k)), round(features * s[1]))


def _angles(h):
    norm = np.sqrt(np.diag(h.k))
    theta = np.arccos(np.clip(h.k / np.outer(norm, norm), -1, 1))
    np.fill_diagonal(theta, 0)
    return norm, theta


def relu(h):
    norm, theta = _angles(h)
    slope = (np.pi - theta) / (2 * np.pi)
    k = np.outer(norm, norm) * np.sin(theta) / (2 * np.pi) + h.k * slope
    return _like(h, k, slope, norm / np.sqrt(2 * np.pi))


def absolute(h):
    norm, theta = _angles(h)
    slope = 1 - 2 * theta / np.pi
    k = np.outer(norm, norm) * np.sin(theta) * 2 / np.pi + h.k * slope
    return _like(h, k, slope, norm * np.sqrt(2 / np.pi))


def erf(h):
    scale = 1 + 2 * np.diag(h.k)
    outer = np.outer(scale, scale)
    k = 2 / np.pi * np.arcsin(2 * h.k / np.sqrt(outer))
    return _like(h, k, 4 / np.pi / np.sqrt(outer - 4 * h.k**2))


def exp(h):
    q = np.diag(h.k)
    k = np.exp((q[:, None] + q) / 2 + h.k)
    return _like(h, k, k, np.exp(q / 2))


def layer_norm(h, *, eps=1e-12):
    k = h.k - np.outer(h.m, h.m)
    scale = 1 / np.sqrt(np.diag(k) + eps)
    outer = np.outer(scale, scale)
    return Value(k * outer, h.t * outer, np.zeros(len(k)), h.features)


def dropout(h, *, rate):
    factor = np.where(np.eye(len(h.k)), 1 / (1 - rate), 1)
    return Value(h.k * factor, h.t * factor, h.m, h.features)


def concatenate(branches):
    width = sum(h.features for h in branches)
    k, t, m = (
        sum(h.features / width * getattr(h, name) for h in branches)
        for name in ("k", "t", "m")
    )
    return Value(k, t, m, width)
