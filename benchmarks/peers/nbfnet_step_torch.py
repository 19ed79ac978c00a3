"""The PyTorch side of `nbfnet_step.py`: runs in the peer's own environment.

It is started by that script and answers its commands (`_torch.serve`), with one thread.
Sums by `index_add`, extrema by `segment_reduce` over edges sorted by receiver, the
fastest of PyTorch's public operations for each in `nbfnet.py`.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

import _torch


class Result(NamedTuple):
    """What a step gives: its loss, and the gradient and new value of a matrix."""

    loss: Any
    gradient: Any
    weight: Any


def build(spec, device):
    """Returns a function of the parameters and a batch of links with negatives."""
    import torch
    from torch.nn import functional as f

    senders, receivers, types = (
        torch.from_numpy(np.load(spec["edges"][k]).astype(np.int64)).to(device)
        for k in ("senders", "receivers", "types")
    )
    num_nodes = spec["num_nodes"]
    lengths = torch.bincount(receivers, minlength=num_nodes)
    messages_in = (lengths + 1).float()[:, None, None]
    logs = messages_in.log()
    scale = logs / logs.mean()
    inverse = 1 / scale.clamp(min=1e-2)

    def received(h, relations, boundary, weight):
        n, q, d = h.shape
        rows = h.reshape(n, -1).index_select(0, senders)
        # Relations are those of all queries here: `dependent=False`.
        m = rows * relations.repeat(1, q).index_select(0, types)
        edge = boundary.reshape(n, -1)
        total = edge.index_add(0, receivers, m)
        square = (edge**2).index_add(0, receivers, m**2)
        top, low = (
            torch.segment_reduce(m, kind, lengths=lengths, axis=0, unsafe=True)
            for kind in ("max", "min")
        )
        top, low = torch.maximum(top, edge), torch.minimum(low, edge)
        total, square, top, low = (
            a.reshape(n, q, d) for a in (total, square, top, low)
        )
        mean = total / messages_in
        deviation = (square / messages_in - mean**2).clamp(min=1e-6).sqrt()
        out = weight.shape[0]
        if spec["operation"] == "whole":
            stats = torch.stack([mean, top, low, deviation], -1)[..., None]
            scales = torch.stack([torch.ones_like(scale), scale, inverse], -1)
            return (stats * scales[..., None, :]).flatten(2) @ weight.T
        stats = torch.cat([mean, top, low, deviation], -1)
        matrix = (
            weight.reshape(out, d, 4, 3).permute(2, 1, 3, 0).reshape(4 * d, 3 * out)
        )
        one, scaled, inverted = (stats @ matrix).chunk(3, -1)
        return one + scale * scaled + inverse * inverted

    def score(params, heads, asked, tails):
        query, relations, weight, bias, norm_scale, norm_bias, *mlp = params
        d = query.shape[-1]
        q = query[asked]
        columns = torch.arange(len(heads), device=device)
        boundary = q.new_zeros(num_nodes, len(heads), d)
        boundary = boundary.index_put((heads, columns), q)
        h = boundary
        for i in range(len(weight)):
            new = h @ weight[i, :, :d].T + bias[i]
            new = new + received(h, relations[i], boundary, weight[i, :, d:])
            h = h + f.layer_norm(new, (d,), norm_scale[i], norm_bias[i]).relu()
        features = h[tails, columns[:, None]]
        features = torch.cat([features, q[:, None].expand(features.shape)], -1)
        w1, w2, b1, b2 = mlp
        return ((features @ w1.T + b1).relu() @ w2.T + b2)[..., 0]

    def run(*arrays):
        *params, heads, asked, tails = arrays
        params = [p.detach().clone().requires_grad_() for p in params]
        optimizer = torch.optim.Adam(params, lr=spec["rate"])
        scores = score(params, heads.long(), asked.long(), tails.long())
        negatives = scores[:, 1:]
        weights = negatives.detach().softmax(-1)
        hard = (weights * f.softplus(negatives)).sum(-1)
        loss = (f.softplus(-scores[:, 0]) + hard).mean() / 2
        loss.backward()
        optimizer.step()
        weight = params[2]
        return Result(loss.detach(), weight.grad, weight.detach())

    return run


if __name__ == "__main__":
    _torch.serve(build, packages=(), fields=Result._fields, threads=1)
