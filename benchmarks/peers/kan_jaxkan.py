"""The jaxKAN side of `kan.py`: runs in the peer's own environment.

It is started by that script and answers its commands (`_harness.serve`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def build(spec):
    """The function of a batch that is timed, and its parameters."""
    import _kan
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jaxkan.models.KAN import KAN

    options = {"G": spec["num_intervals"], "k": spec["degree"]}
    net = KAN(list(spec["sizes"]), "spline", options)
    for layer, params in zip(net.layers, _kan.load(spec), strict=True):
        coefficients = params["coefficients"].transpose(2, 1, 0)
        layer.c_basis = nnx.Param(jnp.asarray(coefficients))
        layer.c_res = nnx.Param(jnp.asarray(params["residual"].T))
    graph, trained, rest = nnx.split(net, nnx.Param, ...)

    def forward(trained, rest, x):
        return nnx.merge(graph, trained, rest)(x)

    def both(trained, rest, x):
        def loss(trained, x):
            return jnp.mean(forward(trained, rest, x) ** 2)

        return jax.value_and_grad(loss, (0, 1))(trained, x)

    return both if spec["gradient"] else forward, (trained, rest)


def read(spec, result):
    """The output, or the gradients in our layout."""
    import numpy as np

    if not spec["gradient"]:
        return {"y": np.asarray(result)}
    _, (params, x) = result
    found = {"x": np.asarray(x)}
    for number in range(len(spec["sizes"]) - 1):
        layer = params["layers"][number]
        coefficients = np.asarray(layer["c_basis"][...]).transpose(2, 1, 0)
        found |= {
            f"coefficients{number}": coefficients,
            f"residual{number}": np.asarray(layer["c_res"][...]).T,
        }
    return found


def main():
    import _harness
    import jaxkan.models.KAN  # noqa: F401  (its import belongs to the time to be ready)

    _harness.serve(build, ("jaxkan", "flax"), read)


if __name__ == "__main__":
    main()
