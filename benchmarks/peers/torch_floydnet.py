"""The PyTorch side of `floydnet.py`: runs in the peer's own environment.

It is started by that script and answers its commands. Attention and block are those of
the FloydNet repository, written anew as einsums.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import _harness
import numpy as np
import torch
from torch.nn import functional as nnf


def attention(q, k_jk, k_ij, v_jk, v_ij):
    """Pivotal attention of `(heads, n, n, dim)` arrays."""
    q = q / math.sqrt(2 * q.shape[-1])
    scores = torch.einsum("hikd,hijd->hikj", q, k_ij)
    scores = scores + torch.einsum("hikd,hjkd->hikj", q, k_jk)
    weights = torch.softmax(scores, -1)
    out = torch.einsum("hikj,hijd->hikd", weights, v_ij)
    return out + torch.einsum("hikj,hjkd->hikd", weights, v_jk)


def block(x, mix, qkv, project, expand, contract):
    """A block with affine norms, which at first are the identity, and SiLU."""
    heads, dim, channels = qkv.shape[1:]
    mixed = x + nnf.linear(x.transpose(0, 1), mix)
    rows = nnf.linear(mixed, qkv.reshape(-1, channels))
    rows = rows.unflatten(-1, (5, heads, dim)).permute(2, 3, 0, 1, 4)
    y = attention(*rows).permute(1, 2, 0, 3).flatten(-2)
    x = x + nnf.linear(y, project.reshape(channels, -1))
    return x + nnf.linear(nnf.silu(nnf.linear(x, expand)), contract)


def load(spec, paths):
    arrays = [torch.from_numpy(np.load(path)) for path in paths]
    if spec["kind"] == "attention":
        arrays = [a.permute(2, 0, 1, 3).contiguous() for a in arrays]
    return arrays


def build(spec):
    function = {"attention": attention, "block": block}[spec["kind"]]

    def forward(*arrays):
        with torch.no_grad():
            return (function(*arrays[:-1]),)

    def both(*arrays):
        *arrays, cotangent = arrays
        arrays = [a.detach().requires_grad_() for a in arrays]
        y = function(*arrays)
        return y.detach(), *torch.autograd.grad(y, arrays, cotangent)

    return both if spec["backward"] else forward


def memory(field):
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{field}:")[1].split()[0])


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    programs = {}

    def setup(name, spec, inputs):
        arrays, run, start = load(spec, inputs), build(spec), time.perf_counter()
        run(*arrays)
        first = time.perf_counter() - start
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        before = memory("VmRSS")
        run(*arrays)
        peak = memory("VmHWM") - before
        _, seconds = _harness._clock(lambda: run(*arrays), 1)
        count = max(1, math.ceil(_harness._MIN_SECONDS / seconds))
        programs[name] = spec, run, arrays, count
        times = {"build_s": 0.0, "lower_s": 0.0, "compile_s": 0.0, "first_run_s": first}
        return times | {"temp_bytes": peak}

    def repetition(name):
        _, run, arrays, count = programs[name]
        cpu, wall = _harness._clock(lambda: run(*arrays), count)
        return {"wall_s": wall, "cpu_s": cpu}

    def values(name, inputs, output):
        spec, run, _, _ = programs[name]
        found = [a.numpy() for a in run(*load(spec, inputs))]
        if spec["kind"] == "attention":
            found = [np.moveaxis(a, 0, 2) for a in found]
        fields = {"y": found[0]}
        if spec["backward"]:
            fields["gradient"] = found[1]
        np.savez(output, **fields)
        return {}

    def drop():
        programs.clear()
        return {}

    def reply(answer):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    commands = {"setup": setup, "time": repetition, "values": values, "drop": drop}
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    reply({"versions": versions, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply(commands[request.pop("do")](**request))
        except Exception as error:
            reply({"error": repr(error)})


if __name__ == "__main__":
    main()
