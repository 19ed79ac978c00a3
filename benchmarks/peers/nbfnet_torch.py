"""The PyTorch side of `nbfnet.py`: runs in the peer's own environment.

It is started by that script and answers its commands, as `_harness.serve` does for JAX.
One thread, so that processor times are of one core's work; two operations of PyTorch
that reduce messages, of which the script reports both.
"""

import json
import math
import os
import platform
import sys
import time
import traceback

import numpy as np
import torch

_MIN_SECONDS = 0.02


def build(spec):
    """Returns a function of (x, relations, cotangent)."""
    senders, receivers, types = (
        torch.from_numpy(np.load(spec["edges"][k]).astype(np.int64))
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
                return {"out": forward(x, relations)}
        out = forward(x, relations)
        of_x, of_relations = torch.autograd.grad(out, (x, relations), cotangent)
        return {"out": out.detach(), "of_x": of_x, "of_relations": of_relations}

    return run


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    programs = {}

    def reply(answer):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    def load(paths):
        x, relations, cotangent = (torch.from_numpy(np.load(p)) for p in paths)
        return x.requires_grad_(), relations.requires_grad_(), cotangent

    def setup(name, spec, inputs):
        arrays = load(inputs)
        times = [time.perf_counter()]
        function = build(spec)
        times.append(time.perf_counter())
        function(*arrays)
        times.append(time.perf_counter())
        function(*arrays)
        seconds = time.perf_counter() - times[-1]
        count = max(1, math.ceil(_MIN_SECONDS / seconds))
        programs[name] = function, arrays, count
        return {
            "build_s": times[1] - times[0],
            "lower_s": 0.0,
            "compile_s": 0.0,
            "first_run_s": times[2] - times[1],
            "temp_bytes": None,
        }

    def repetition(name):
        function, arrays, count = programs[name]
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(count):
            function(*arrays)
        wall = time.perf_counter() - start
        cpu = time.process_time() - cpu
        return {"wall_s": wall / count, "cpu_s": cpu / count}

    def values(name, inputs, output):
        found = programs[name][0](*load(inputs))
        np.savez(output, **{k: a.numpy() for k, a in found.items()})
        return {}

    def drop():
        programs.clear()
        return {}

    commands = {"setup": setup, "time": repetition, "values": values, "drop": drop}
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    reply(
        {
            "python": platform.python_version(),
            "versions": versions,
            "backend": "cpu",
            "device": "cpu",
            "devices": 1,
        }
    )
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply(commands[request.pop("do")](**request))
        except Exception:
            reply({"error": traceback.format_exc(limit=-4)})


if __name__ == "__main__":
    main()
