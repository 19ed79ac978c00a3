"""The neural-tangents side of `ntk_conv.py`: runs in the peer's own environment.

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

    layers = []
    for _ in range(network["depth"]):
        conv = stax.Conv(
            64, (3, 3), W_std=network["w_std"], b_std=network["b_std"], padding="SAME"
        )
        layers += [conv, stax.Relu()]
    last = stax.GlobalAvgPool() if network["pool"] else stax.Flatten()
    _, _, kernel = stax.serial(*layers, last, stax.Dense(1, W_std=1.0, b_std=None))
    return lambda x1, x2=None: kernel(x1, x2, ("nngp", "ntk")), ()


def main():
    import _harness
    import neural_tangents  # noqa: F401  (its import belongs to the time to be ready)

    packages = ("neural-tangents", "tensorflow")
    _harness.serve(build, packages, fields=("nngp", "ntk"))


if __name__ == "__main__":
    main()
