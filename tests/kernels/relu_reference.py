"""NNGP and NTK of the two-hidden-layer ReLU network of the golden predictions."""

import json
import pathlib

import numpy as np

from jaxarch.kernels import Gram

GOLDEN_DIR = pathlib.Path(__file__).parents[1] / "golden"


def load_golden():
    """The arrays of the golden file, and its entries by name."""
    arrays = dict(np.load(GOLDEN_DIR / "kernels.npz"))
    entries = json.loads((GOLDEN_DIR / "kernels.json").read_text())["entries"]
    return arrays, {entry["name"]: entry for entry in entries}


def relu_gram(x1, x2):
    """Dense(1.4, 0.2), ReLU, Dense(1.4, 0.2), ReLU, Dense(1.1): its Gram, in NumPy."""
    w2, b2 = 1.4**2, 0.2**2
    q1, q2, k = (
        w2 * s / x1.shape[1] + b2
        for s in ((x1 * x1).sum(1), (x2 * x2).sum(1), x1 @ x2.T)
    )
    equal = (x1[:, None] == x2).all(-1)
    ntk = k
    for w2, b2 in ((1.4**2, 0.2**2), (1.1**2, 0.0)):
        norm = np.sqrt(q1[:, None] * q2)
        angle = np.where(equal, 0, np.arccos(np.clip(k / norm, -1, 1)))
        slope = (np.pi - angle) / (2 * np.pi)
        k = w2 * (norm * np.sin(angle) / (2 * np.pi) + k * slope) + b2
        ntk = k + w2 * slope * ntk
        q1, q2 = w2 * q1 / 2 + b2, w2 * q2 / 2 + b2
    return Gram(nngp=k, ntk=ntk)


def golden_problem():
    """Grams train-train, test-train, test-test and the targets of the golden file."""
    arrays, _ = load_golden()
    x, y, x_test = (arrays[f"inputs/{name}"] for name in ("xtr", "ytr", "xte"))
    return relu_gram(x, x), relu_gram(x_test, x), relu_gram(x_test, x_test), y


def absolute(diag_reg, k):
    """The peer's regularisation, relative to the mean diagonal, as a variance."""
    return diag_reg * np.trace(k) / len(k)
