"""The PyTorch side of `nbfnet.py`: runs in the peer's own environment.

It is started by that script and answers its commands (`_torch.serve`). One thread, so
that processor times are of one core's work; two operations of PyTorch that reduce
messages, of which the script reports both.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

import _torch


class Result(NamedTuple):
    """What a run gives."""

    out: Any
    of_x: Any = 0
    of_relations: Any = 0


def build(spec, device):
    """Returns a function of (x, relations, cotangent)."""
    import torch

    senders, receivers, types = (
        torch.from_numpy(np.load(spec["edges"][k]).astype(np.int64)).to(device)
        for k in ("senders", "receivers", "types")
    )
    num_nodes = spec["num_nodes"]
    lengths = torch.bincount(receivers, minlength=num_nodes)

    def reduce(messages):
        if spec["operation"] == "index_add":
            start = messages.new_zeros(num_nodes, messages.shape[1])
            return start.index_add(0, receivers, messages)
        return torch.segment_reduce(messages, "sum", lengths=lengths, axis=0)

    def forward(x, relations):
        messages = x.index_select(0, senders) * relations.index_select(0, types)
        return reduce(messages)

    def run(x, relations, cotangent):
        if not spec["backward"]:
            with torch.no_grad():
                return Result(forward(x, relations))
        x, relations = (a.detach().requires_grad_() for a in (x, relations))
        out = forward(x, relations)
        gradients = torch.autograd.grad(out, (x, relations), cotangent)
        return Result(out.detach(), *gradients)

    return run


if __name__ == "__main__":
    _torch.serve(build, packages=(), fields=Result._fields, threads=1)
