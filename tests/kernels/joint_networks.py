"""Networks with dependent branches and shared parameters, and their inputs."""

import jax
import numpy as np

from jaxarch import kernels as ker

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5))
X[3] = X[0]
STEPS = RNG.normal(size=(3, 3, 3))  # sequences
WIDTH = 64


def layer(h, **options):
    return ker.dense(h, WIDTH, w_std=1.3, b_std=0.2, **options)


def sigmoid(h):
    return ker.elementwise(h, jax.nn.sigmoid)


def twice(h):
    u = ker.relu(h) + 0.5 * h
    return ker.relu(u) + ker.absolute(u)


def recurrent(ops, h, function, *, mean):
    """Three steps of h = f(W h + U x + b), the last or the sum of all states."""

    def take(t):
        x = ops.index(h, t)
        return ops.dense(x, WIDTH, w_std=1.2, b_std=0.3, name="U")

    state = take(0)
    total = function(state)
    for t in range(1, 3):
        state = ops.dense(function(state), WIDTH, w_std=1.4, name="W") + take(t)
        total = total + function(state)
    return ops.dense(total if mean else function(state), 1, w_std=0.8)


def shared_gate(h, features):
    """Products and sums of two Gaussians that share the matrix V."""
    u = layer(h, name="V")
    v = ker.dense(h, features)
    w = layer(v, name="V")
    return ker.dense(ker.tanh(u) * sigmoid(w) + u * w, 1)
