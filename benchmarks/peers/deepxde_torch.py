"""The DeepXDE side of `deeponet.py`: runs in the peer's own environment.

It is started by that script and answers its commands (`_torch.serve`).
"""

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ["DDE_BACKEND"] = "pytorch"
sys.path.append(str(Path(__file__).resolve().parents[1]))

import _torch
import numpy as np


class Result(NamedTuple):
    """The values, and the gradients in the parameters, in the order of the inputs."""

    values: Any
    gradients: Any


def build(spec, device):
    """Returns a function of the parameters, the functions and the points."""
    import deepxde
    import torch

    name = "DeepONet" if spec["points"] is None else "DeepONetCartesianProd"
    sizes = list(spec["branch"]), list(spec["trunk"])
    net = getattr(deepxde.nn, name)(*sizes, "relu", "Glorot normal").to(device)
    parameters = [
        getattr(layer, part)
        for network in (net.branch, net.trunk)
        for part in ("weight", "bias")
        for layer in network.linears
    ]
    parameters.append(net.b[0])

    def load(values):
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)

    loaded = []

    def run(*arrays):
        *values, u, y = arrays
        if not loaded:  # once: all calls have the same parameters
            load(values)
            loaded.append(True)
        if not spec["backward"]:
            with torch.no_grad():
                return Result(flat(net((u, y))), [])
        net.zero_grad()
        out = net((u, y))
        (out**2).mean().backward()
        return Result(flat(out.detach()), [p.grad for p in parameters])

    def flat(out):
        return out[:, 0] if spec["points"] is None else out

    return run


def fields(spec, result):
    """The arrays of a result by name."""
    found = {f"gradient {i}": np.asarray(g) for i, g in enumerate(result.gradients)}
    return found | {"values": np.asarray(result.values)}


if __name__ == "__main__":
    _torch.serve(build, packages=("deepxde",), fields=fields)
