"""NNGP and NTK of deep ReLU networks, in the widest float that NumPy has."""

import numpy as np


def relu_kernels(x1, x2, *, depth, w_std, b_std, diagonal=False):
    """(dense, relu) `depth` times and a dense layer; `b_std=None` means no bias.

    At the rounded inputs, with 1 - cosine from differences at the first layer and
    everything else by the textbook formulas.
    """
    wide = np.longdouble
    x1, x2 = np.asarray(x1, wide), np.asarray(x2, wide)
    if diagonal:
        one, two = x1, x2
    else:
        one, two = x1[:, None], x2[None]
    w2, b2 = wide(w_std) ** 2, wide(b_std or 0) ** 2
    n = x1.shape[-1]
    q1, q2, k = (one**2).sum(-1) / n, (two**2).sum(-1) / n, (one * two).sum(-1) / n
    t = np.zeros_like(k)
    for layer in range(depth + 1):
        q1, q2, k = w2 * q1 + b2, w2 * q2 + b2, w2 * k + b2
        t = k + w2 * t
        if layer == depth:
            return k, t
        norm = np.sqrt(q1 * q2)
        equal = (one == two).all(-1)
        cosine = np.where(equal, 1, np.clip(k / np.where(norm > 0, norm, 1), -1, 1))
        theta = np.arccos(cosine)
        slope = (1 - theta / np.pi) / 2
        t = t * slope
        k = norm * np.sin(theta) / (2 * np.pi) + k * slope
        q1, q2 = q1 / 2, q2 / 2
    raise AssertionError
