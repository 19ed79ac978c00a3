"""The PyTorch side of `fno.py`: runs in the peer's own environment, with one thread."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

import _torch


class Result(NamedTuple):
    """The outputs, and the gradient of a matrix that all layers are behind."""

    output: Any
    gradient: Any


def build(spec, device):
    """Returns a function of a batch of inputs with channels last."""
    import torch
    from neuralop.models import FNO

    with np.load(spec["weights"]) as file:
        weights = {k: torch.from_numpy(file[k]) for k in file.files}
    num_modes = weights["fno_blocks.convs.0.weight.tensor"].shape[2]
    model = FNO((num_modes, num_modes), 1, 1, spec["width"])
    found = model.state_dict()
    model.load_state_dict({**found, **weights})
    assert set(weights) == {k for k in found if not k.startswith("_")}
    model = model.to(device)

    def forward(u):
        with torch.no_grad():
            out = model(u.movedim(-1, 1)).movedim(1, -1)
        return Result(out, torch.zeros(()))

    def backward(u):
        model.zero_grad(set_to_none=True)
        out = model(u.movedim(-1, 1)).movedim(1, -1)
        (out**2).sum().backward()
        return Result(out.detach(), model.lifting.fcs[1].weight.grad[..., 0])

    return backward if spec["backward"] else forward


if __name__ == "__main__":
    packages = ("neuraloperator",)
    _torch.serve(build, packages=packages, fields=Result._fields, threads=1)
