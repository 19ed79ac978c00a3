"""The neural-tangents side of `ntk_dense.py`: runs in the peer's own environment.

It is started by that script and answers its commands (`_harness.serve`).
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def build(network):
    """Returns the peer's kernel of `network` as `(function, leading arguments)`."""
    from neural_tangents import stax

    activation = {"relu": stax.Relu, "erf": stax.Erf}[network["activation"]]
    layers = []
    for _ in range(network["depth"]):
        dense = stax.Dense(512, W_std=network["w_std"], b_std=network["b_std"])
        layers += [dense, activation()]
    last = stax.Dense(1, W_std=network["last_w_std"], b_std=network["b_std"])
    _, _, kernel = stax.serial(*layers, last)
    return lambda x1, x2=None: kernel(x1, x2, ("nngp", "ntk")), ()


def main():
    import _harness
    import neural_tangents  # noqa: F401  (its import belongs to the time to be ready)

    packages = ("neural-tangents", "tensorflow")
    _harness.serve(build, packages, fields=("nngp", "ntk"))


if __name__ == "__main__":
    main()
