"""Operations with positions in NumPy, by their definitions and on full matrices.

A network written as `network(ops, h)` runs with `ops=jaxarch.kernels` and with this
module: here a value holds `k` and `t` between all positions of all examples, `(n, S, n,
S)`, and nothing is saved, skipped or reordered. Every linear operation is a list of 0/1
matrices, found position by position.
"""

import dataclasses
import itertools
import math

import numpy as np

from . import textbook


@dataclasses.dataclass(frozen=True)
class Value:
    k: np.ndarray
    t: np.ndarray
    m: np.ndarray  # (n, S)
    space: tuple[int, ...]
    features: int

    def _flat(self):
        size = self.m.size
        k, t = (a.reshape(size, size) for a in (self.k, self.t))
        return textbook.Value(k, t, self.m.reshape(-1), self.features)

    def _like(self, flat, features=None):
        k, t = (a.reshape(self.k.shape) for a in (flat.k, flat.t))
        features = self.features if features is None else features
        return Value(k, t, flat.m.reshape(self.m.shape), self.space, features)

    def __add__(self, other):
        return self._like(self._flat() + other._flat())

    def __mul__(self, other):
        other = other._flat() if isinstance(other, Value) else other
        return self._like(self._flat() * other)

    __rmul__ = __mul__


def inputs(x):
    n, *space, channels = x.shape
    x = x.reshape(n, -1, channels)
    k = np.einsum("ipc,jqc->ipjq", x, x) / channels
    return Value(k, np.zeros_like(k), x.mean(-1), tuple(space), channels)


def _pointwise(name):
    def operation(h, *args, **options):
        flat = getattr(textbook, name)(h._flat(), *args, **options)
        return h._like(flat, flat.features)

    return operation


dense, relu, erf, exp, layer_norm, dropout = map(
    _pointwise, ("dense", "relu", "erf", "exp", "layer_norm", "dropout")
)


def _linear(h, matrices, space):
    """The sum over `matrices` of M k M^T, and of M m."""
    k, t = (
        sum(np.einsum("Pp,ipjq,Qq->iPjQ", m, a, m, optimize=True) for m in matrices)
        for a in (h.k, h.t)
    )
    mean = sum(h.m @ m.T for m in matrices)
    return Value(k, t, mean, space, h.features)


def _entries(space, window, strides, padding, dilation=None):
    """One 0/1 matrix (out, in) an entry of the window, and the positions left."""
    windows, outs = [], []
    for i, n in enumerate(space):
        k, s = window[i], strides[i]
        d = 1 if dilation is None else dilation[i]
        long = (n - 1) * d + 1
        if padding == "VALID" and dilation is None:
            low, out = 0, (n - k) // s + 1
        elif dilation is None:
            out = math.ceil(n / s)
            low = max((out - 1) * s + k - n, 0) // 2
        elif padding == "SAME":
            out = n * d
            total = k + d - 2
            low = k - 1 if d > k - 1 else math.ceil(total / 2)
        else:
            out, low = n * d + max(k - d, 0), k - 1
        taps = np.zeros((k, out, n))
        for tap, row in itertools.product(range(k), range(out)):
            where = row * s + tap - low
            if padding == "CIRCULAR":
                taps[tap, row, where % n] = 1
            elif 0 <= where < long and where % d == 0:
                taps[tap, row, where // d] = 1
        windows.append(taps)
        outs.append(out)
    matrices = []
    for chosen in itertools.product(*windows):
        matrix = np.ones((1, 1))
        for part in chosen:
            matrix = np.kron(matrix, part)
        matrices.append(matrix)
    return matrices, tuple(outs)


def _tuple(value, window):
    return (value,) * len(window) if isinstance(value, int) else tuple(value)


def _convolve(
    h, features, window, strides, padding, w_std, b_std, standard, local, dilation
):
    strides = _tuple(strides, window)
    ones = (1,) * len(window)
    matrices, space = (
        _entries(h.space, window, ones, padding, strides)
        if dilation
        else _entries(h.space, window, strides, padding)
    )
    mean = _linear(h, matrices, space)
    taps = math.prod(window)
    b2 = (b_std or 0) ** 2
    k = w_std**2 / taps * mean.k + b2
    own = k
    if standard:
        own = h.features * mean.k + (b_std is not None)
    t = own + w_std**2 / taps * mean.t
    if local:
        same = np.eye(math.prod(space))[None, :, None, :]
        k, t = k * same, t * same
    return Value(k, t, np.zeros_like(mean.m), space, features)


def conv(
    h,
    features,
    window,
    *,
    strides=1,
    padding="SAME",
    w_std=1.0,
    b_std=0.0,
    parameterization="ntk",
):
    standard = parameterization == "standard"
    return _convolve(
        h, features, window, strides, padding, w_std, b_std, standard, False, False
    )


def conv_local(h, features, window, *, strides=1, padding="SAME", w_std=1.0, b_std=0.0):
    return _convolve(
        h, features, window, strides, padding, w_std, b_std, False, True, False
    )


def conv_transpose(
    h, features, window, *, strides=1, padding="SAME", w_std=1.0, b_std=0.0
):
    return _convolve(
        h, features, window, strides, padding, w_std, b_std, False, False, True
    )


def _pool(h, window, strides, padding, scale):
    strides = window if strides is None else _tuple(strides, window)
    matrices, space = _entries(h.space, window, strides, padding)
    return _linear(h, [scale * sum(matrices)], space)


def avg_pool(h, window, *, strides=None, padding="VALID"):
    return _pool(h, window, strides, padding, 1 / math.prod(window))


def sum_pool(h, window, *, strides=None, padding="VALID"):
    return _pool(h, window, strides, padding, 1)


def global_avg_pool(h):
    size = math.prod(h.space)
    return _linear(h, [np.full((1, size), 1 / size)], ())


def global_sum_pool(h):
    return _linear(h, [np.ones((1, math.prod(h.space)))], ())


def aggregate(h, pattern):
    if isinstance(pattern, tuple):
        senders, receivers, weights = pattern
        pattern = np.zeros((*h.space, *h.space))
        for s, r, weight in zip(senders, receivers, weights, strict=True):
            pattern[r, s] += weight
    return _linear(h, [np.asarray(pattern)], h.space)


def flatten(h):
    size = math.prod(h.space)
    k, t = (np.einsum("ipjp->ij", a)[:, None, :, None] / size for a in (h.k, h.t))
    return Value(k, t, h.m.mean(1, keepdims=True), (), size * h.features)


def index(h, *where):
    positions = np.arange(math.prod(h.space)).reshape(h.space)[where]
    matrix = np.eye(math.prod(h.space))[positions.ravel()]
    return _linear(h, [matrix], positions.shape)


def attention(h, features, *, mechanism, w_query_std, w_key_std, w_out_std, b_std):
    size = math.prod(h.space)
    own = np.einsum("ipiq->ipq", h.k) * w_query_std * w_key_std
    if mechanism == "softmax":
        own = np.exp(own - own.max(-1, keepdims=True))
        own /= own.sum(-1, keepdims=True)
    else:
        own = np.maximum(own, 0)
    k, t = (
        w_out_std**2 * np.einsum("iPp,ipjq,jQq->iPjQ", own, a, own) for a in (h.k, h.t)
    )
    t = t + 2 * k + b_std**2
    return Value(k + b_std**2, t, np.zeros((len(k), size)), h.space, features)
