"""The finite networks of `empirical_ntk.py`, as plain functions of one example.

Both sides build them from the same description and the same draws.
"""

from typing import NamedTuple

import numpy as np


class Result(NamedTuple):
    """What both sides return."""

    ntk: object


def build(spec):
    """Returns `(f, params)` of a network description."""
    import jax.numpy as jnp

    builders = {"mlp": _mlp, "conv": _conv, "embedding": _embedding, "rnn": _rnn}
    f, params = builders[spec["kind"]](spec, np.random.default_rng(0))
    return f, [jnp.asarray(p, jnp.float32) for p in params]


def inputs(spec, points):
    """Two sets of inputs."""
    rng = np.random.default_rng(1)
    shape = (points, *spec["input"])
    if spec["kind"] == "embedding":
        return [rng.integers(0, spec["rows"], shape).astype(np.int32) for _ in "ab"]
    return [rng.standard_normal(shape).astype(np.float32) for _ in "ab"]


def _normal(rng, *shape):
    return rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))


def _mlp(spec, rng):
    import jax.numpy as jnp

    widths = (*spec["input"], *spec["hidden"], spec["outputs"])
    params = []
    for m, n in zip(widths[:-1], widths[1:], strict=True):
        params += [_normal(rng, m, n), np.zeros(n)]

    def f(params, x):
        for i in range(0, len(params), 2):
            x = x @ params[i] + params[i + 1]
            if i < len(params) - 2:
                x = jnp.maximum(x, 0)
        return x

    return f, params


def _conv(spec, rng):
    """Convolutions 3 by 3 of stride 2, then a mean over positions and a dense layer."""
    import jax.numpy as jnp
    from jax import lax

    widths = (spec["input"][-1], *spec["hidden"])
    params = [_normal(rng, 3, 3, m, n) for m, n in zip(widths, widths[1:])]  # noqa: B905
    params.append(_normal(rng, widths[-1], spec["outputs"]))

    def f(params, x):
        x = x[None]
        for w in params[:-1]:
            x = lax.conv_general_dilated(
                x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jnp.maximum(x, 0)
        return x.mean((0, 1, 2)) @ params[-1]

    return f, params


def _embedding(spec, rng):
    """A table, a mean over tokens, two dense layers."""
    import jax.numpy as jnp

    (hidden,) = spec["hidden"]
    params = [rng.standard_normal((spec["rows"], hidden)), _normal(rng, hidden, hidden)]
    params.append(_normal(rng, hidden, spec["outputs"]))

    def f(params, x):
        h = params[0][x].mean(0)
        return jnp.tanh(h @ params[1]) @ params[2]

    return f, params


def _rnn(spec, rng):
    """A recurrent network by `scan`, and a dense layer."""
    import jax.numpy as jnp
    from jax import lax

    (hidden,) = spec["hidden"]
    params = [_normal(rng, hidden, hidden), _normal(rng, spec["input"][-1], hidden)]
    params.append(_normal(rng, hidden, spec["outputs"]))

    def f(params, x):
        def step(h, row):
            return jnp.tanh(h @ params[0] + row @ params[1]), None

        return lax.scan(step, jnp.zeros(hidden), x)[0] @ params[2]

    return f, params
