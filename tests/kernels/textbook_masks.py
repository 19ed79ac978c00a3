"""Examples of different sizes in NumPy: `textbook_spatial` without what is absent.

A network written as `network(ops, h)` runs with `ops=jaxarch.kernels` and with this
module. Here a value knows how many positions each example has along each axis; an
operation gives it as many as it would give an example of that size alone, and zeros
elsewhere.
"""

import dataclasses
import math

import numpy as np

from . import textbook_spatial as ops


@dataclasses.dataclass(frozen=True)
class Ragged:
    value: ops.Value
    sizes: np.ndarray  # (n, axes)

    def __add__(self, other):
        return keep(self.value + other.value, self.sizes)

    def __mul__(self, number):
        return keep(self.value * number, self.sizes)

    __rmul__ = __mul__


def marks(space, sizes):
    """Which positions an example has, `(n, *space)`."""
    found = np.ones((len(sizes), *space), bool)
    for i, n in enumerate(space):
        there = np.arange(n) < sizes[:, i, None]
        found &= there.reshape(-1, *[n if j == i else 1 for j in range(len(space))])
    return found


def scaled(value, factor):
    """Multiplies a value by `factor` (n, S)."""
    weights = factor[:, :, None, None] * factor
    k, t = (np.where(weights > 0, weights * a, 0) for a in (value.k, value.t))
    return dataclasses.replace(value, k=k, t=t, m=np.where(factor > 0, value.m, 0))


def keep(value, sizes):
    flat = marks(value.space, sizes).reshape(len(sizes), -1)
    return Ragged(scaled(value, flat.astype(float)), sizes)


def inputs(x, sizes):
    x = np.where(marks(x.shape[1:-1], sizes)[..., None], x, 0)
    return Ragged(ops.inputs(x), sizes)


def _pointwise(name):
    def operation(h, *args, **options):
        with np.errstate(invalid="ignore"):  # absent: 0 / 0
            return keep(getattr(ops, name)(h.value, *args, **options), h.sizes)

    return operation


dense, relu, erf, dropout = map(_pointwise, ("dense", "relu", "erf", "dropout"))


def layer_norm(h, *, eps=1e-12, axes=(-1,)):
    if len(axes) == 1:
        return _pointwise("layer_norm")(h, eps=eps)
    variance = np.einsum("ipip->i", h.value.k) / h.sizes.prod(1)
    factor = 1 / np.sqrt(variance + eps)
    return keep(scaled(h.value, np.tile(factor[:, None], h.value.m.shape[1])), h.sizes)


def _windows(sizes, window, strides, padding):
    if padding == "SAME":
        return -(-sizes // strides)
    return np.maximum((sizes - window) // strides + 1, 0)


def _convolution(name):
    def operation(h, features, window, *, strides=1, padding="SAME", **options):
        value = getattr(ops, name)(
            h.value, features, window, strides=strides, padding=padding, **options
        )
        sizes, window = h.sizes, np.array(window)
        steps = np.broadcast_to(strides, window.shape)
        if name == "conv_transpose":
            more = 0 if padding == "SAME" else np.maximum(window - steps, 0)
            return keep(value, sizes * steps + more)
        return keep(value, _windows(sizes, window, steps, padding))

    return operation


conv, conv_local, conv_transpose = map(
    _convolution, ("conv", "conv_local", "conv_transpose")
)


def _pool(h, window, strides, padding, average):
    value = ops.sum_pool(h.value, window, strides=strides, padding=padding)
    steps = window if strides is None else strides
    steps = np.broadcast_to(steps, (len(window),))
    sizes = np.minimum(-(-h.sizes // steps), value.space)  # those over a position
    count = np.full(value.m.shape, math.prod(window))
    if padding == "VALID":
        flat = marks(h.value.space, h.sizes).reshape(len(h.sizes), -1).astype(float)
        matrices, _ = ops._entries(h.value.space, window, steps, padding)
        count = np.maximum(flat @ sum(matrices).T, 1)
    return keep(scaled(value, 1 / count) if average else value, sizes)


def avg_pool(h, window, *, strides=None, padding="VALID"):
    return _pool(h, window, strides, padding, True)


def sum_pool(h, window, *, strides=None, padding="VALID"):
    return _pool(h, window, strides, padding, False)


def global_sum_pool(h):
    return keep(ops.global_sum_pool(h.value), h.sizes[:, :0])


def global_avg_pool(h):
    pooled = global_sum_pool(h)
    count = h.sizes.prod(1, keepdims=True)
    return keep(scaled(pooled.value, 1 / np.maximum(count, 1)), pooled.sizes)


def flatten(h):
    return keep(ops.flatten(h.value), h.sizes[:, :0])


def attention(h, features, *, mechanism, w_query_std, w_key_std, w_out_std, b_std):
    k, t, n = h.value.k, h.value.t, len(h.sizes)
    keys = marks(h.value.space, h.sizes).reshape(n, -1)
    weights = np.zeros((n, *[keys.shape[1]] * 2))
    for i in range(n):
        own = k[i, :, i][:, keys[i]] * w_query_std * w_key_std
        if mechanism == "softmax":
            own = np.exp(own) / np.exp(own).sum(-1, keepdims=True)
        elif mechanism == "relu":
            own = np.maximum(own, 0)
        weights[i][:, keys[i]] = own
    k, t = (
        w_out_std**2 * np.einsum("iPp,ipjq,jQq->iPjQ", weights, a, weights)
        for a in (k, t)
    )
    new = dataclasses.replace(
        h.value, k=k + b_std**2, t=t + 2 * k + b_std**2, m=0 * h.value.m
    )
    return keep(new, h.sizes)
