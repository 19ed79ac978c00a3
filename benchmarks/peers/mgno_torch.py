"""The PyTorch side of `mgno.py`: the authors' `MgNO_DC`, from a checkout of theirs.

It is started by that script and answers its commands (`_torch.serve`), with one thread.
"""

import sys
import types
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

import _torch


def official():
    """Their module of models; what it imports beside torch, it does not call here."""
    for name, attribute in (("torchinfo", "summary"), ("utilities3", "count_params")):
        module = types.ModuleType(name)
        setattr(module, attribute, None)
        sys.modules[name] = module
    sys.path.insert(0, sys.argv[1])
    import models

    return models


def build(spec, device):
    """Returns a function of a batch; its weights go to, or come from, a file."""
    import torch

    levels = [list(steps) for steps in spec["levels"]]
    torch.manual_seed(0)
    model = official().MgNO_DC(spec["layers"], spec["width"], 1, 1, levels).to(device)
    path = Path(spec["weights"])
    if path.exists():
        with np.load(path) as file:
            model.load_state_dict({k: torch.from_numpy(a) for k, a in file.items()})
    else:
        np.savez(path, **{k: a.cpu().numpy() for k, a in model.state_dict().items()})
    nchw = spec["layout"] == "nchw"
    layout = torch.contiguous_format if nchw else torch.channels_last
    model = model.to(memory_format=layout)

    def run(u):
        u = u.permute(0, 3, 1, 2).contiguous(memory_format=layout)
        if spec["task"] == "forward":
            with torch.no_grad():
                return model(u).permute(0, 2, 3, 1)
        model.zero_grad()
        value = (model(u) ** 2).mean()
        value.backward()
        return value.detach(), [p.grad for p in model.parameters()]

    return run


def fields(spec, result):
    """What the sides are compared by: the output, or the norms of all gradients."""
    if spec["task"] == "forward":
        return {"output": result.cpu().numpy()}
    value, gradient = result
    norms = sorted(float(g.norm()) for g in gradient)
    return {"output": np.asarray([float(value), *norms])}


if __name__ == "__main__":
    _torch.serve(build, packages=(), fields=fields, threads=1)
