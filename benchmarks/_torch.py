"""`_harness.serve` for functions of PyTorch: the same commands, the same answers."""

import os
import platform
import time
from importlib import metadata

import _harness
import numpy as np


def serve(build, packages, fields, *, threads=None):
    """Answers commands on standard input until it ends, with PyTorch.

    It is `_harness.serve` with tensors, on a GPU if there is one. `build(spec, device)`
    returns a function of the inputs; `packages` are those reported beside torch. The
    first run includes whatever the function compiles by itself. Unless `threads`
    is given, PyTorch gets those that XLA takes: one for each processor that the process
    may use.
    """
    stream = _harness.answer_stream()
    import torch

    torch.set_num_threads(threads or _processors())
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def wait(result):
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    def load(paths):
        return [torch.from_numpy(np.load(path)).to(device) for path in paths]

    programs = _harness.Programs(wait)

    def setup(name, spec, inputs):
        arrays = wait(load(inputs))
        times = [time.perf_counter()]
        function = build(spec, device)
        times += [time.perf_counter()] * 3  # nothing is lowered or compiled before
        wait(function(*arrays))
        times.append(time.perf_counter())
        programs.add(name, function, arrays, spec)
        return _harness.setup_seconds(times) | {"temp_bytes": None, "flops": None}

    commands = {
        "setup": setup,
        "time": programs.time,
        "values": lambda name, inputs, output: programs.values(
            name, load(inputs), output, fields
        ),
        "drop": programs.drop,
    }
    info = {
        "python": platform.python_version(),
        "versions": {p: metadata.version(p) for p in (*packages, "torch", "numpy")},
        "backend": {"cuda": "gpu"}.get(device, device),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "devices": max(1, torch.cuda.device_count()),
        "threads": torch.get_num_threads(),
    }
    _harness.answer(stream, info, commands)


def _processors():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
