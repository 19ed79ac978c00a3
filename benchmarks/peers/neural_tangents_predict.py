"""The neural-tangents side of `predict.py`: runs in the peer's own environment.

It is started by that script and answers its commands (`_harness.serve`).
"""

import os
import sys
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


class Predictions(NamedTuple):
    """Mean and covariance of trained networks and of the Bayesian posterior."""

    trained_mean: object
    trained_covariance: object
    posterior_mean: object
    posterior_covariance: object


def build(spec):
    """Returns the peer's prediction, which keeps its factorizations after one call."""
    import neural_tangents as nt
    from neural_tangents import stax

    layers = []
    for _ in range(spec["depth"]):
        dense = stax.Dense(512, W_std=spec["w_std"], b_std=spec["b_std"])
        layers += [dense, stax.Relu()]
    _, _, kernel = stax.serial(*layers, stax.Dense(1, W_std=1.0))
    made = []

    def predict(x, y, x_test):
        if not made:
            make = nt.predict.gradient_descent_mse_ensemble
            made.append(
                make(kernel, x, y, diag_reg=spec["noise"], diag_reg_absolute_scale=True)
            )
        got = made[0](t=spec["t"], x_test=x_test, get=("nngp", "ntk"), compute_cov=True)
        return Predictions(
            got.ntk.mean, got.ntk.covariance, got.nngp.mean, got.nngp.covariance
        )

    return predict, ()


def main():
    import _harness
    import neural_tangents  # noqa: F401  (its import belongs to the time to be ready)

    packages = ("neural-tangents", "tensorflow")
    _harness.serve(build, packages, Predictions._fields, whole=False)


if __name__ == "__main__":
    main()
