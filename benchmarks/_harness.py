"""Timing side by side: worker processes and paired repetitions.

Each contender is a long-lived process of its own (its own Python, its own JAX) that
answers JSON lines, so that repetitions alternate A B A B in time while the others are
idle, and so that a ratio is formed from neighbours in time. Nothing here imports JAX
before `serve` does, and nothing here needs a newer JAX than a peer has.
"""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import metadata

import numpy as np

# A repetition lasts at least this long: shorter calls are repeated within it.
_MIN_SECONDS = 0.02


def summary(samples):
    """Median, minimum and maximum of `samples`."""
    return {
        "median": statistics.median(samples),
        "min": min(samples),
        "max": max(samples),
        "repeats": len(samples),
    }


def paired_ratio(numerator, denominator):
    """Summary of the ratios of repetitions taken one after the other."""
    return summary([a / b for a, b in zip(numerator, denominator, strict=True)])


def summaries(samples):
    """Summaries of the repetitions that `Sides.repeat` returns for one program."""
    return {kind: summary([s[kind] for s in samples]) for kind in ("wall_s", "cpu_s")}


def progress(text):
    print(text, file=sys.stderr, flush=True)


class WorkerError(RuntimeError):
    """A worker could not do what it was asked, or died."""


class Worker:
    """A process that runs `serve`, seen from the script that compares them."""

    def __init__(self, command):
        env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
        # Compile times are of a compiler that starts from nothing, and two processes
        # must fit on one GPU.
        env.pop("JAX_COMPILATION_CACHE_DIR", None)
        env.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        self._log = tempfile.TemporaryFile("w+")
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [str(c) for c in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=env,
        )
        try:
            self.info = self._answer()
        except WorkerError:
            self.close()
            raise
        self.info["ready_s"] = time.perf_counter() - start

    def ask(self, do, **arguments):
        """Sends one command and waits for its answer."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(self._tail()) from error
        return self._answer()

    def close(self):
        # End of input ends `serve`; one that does not listen any more is killed.
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._tail())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _tail(self):
        self._log.seek(0)
        return "the process ended:\n" + self._log.read()[-2000:]


class Sides:
    """The contenders, by name: started, set up, timed in turns, measured, closed.

    `commands` maps a name to a command line. The first side must start; another that
    does not is left out with a note. Arrays go to them and come back as files.
    """

    def __init__(self, commands):
        self.workers, self.info = {}, {}
        self._directory = tempfile.TemporaryDirectory()
        for side, command in commands.items():
            progress(f"starting {side}")
            try:
                self.workers[side] = Worker(command)
            except (OSError, WorkerError) as error:
                if not self.workers:
                    raise
                progress(f"{side} does not start, so it is left out: {error}")
                continue
            self.info[side] = self.workers[side].info

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers.values():
            worker.close()
        self._directory.cleanup()

    def path(self, name):
        """A file that all sides can read, gone when they are closed."""
        return f"{self._directory.name}/{name}"

    def save(self, name, arrays):
        """Writes arrays where the sides read them; returns the paths."""
        paths = [self.path(f"{name}{i}.npy") for i in range(len(arrays))]
        for path, array in zip(paths, arrays, strict=True):
            np.save(path, array)
        return paths

    def setup(self, side, name, **request):
        """Sets a program up; returns its compile times, or `{"error": ...}`.

        The first one also gives `first_result`: seconds from the start of the process
        to its first value, which is what a user waits for.
        """
        progress(f"{name}: {side}")
        try:
            found = self.workers[side].ask("setup", name=name, **request)
        except WorkerError as error:
            progress(str(error))
            return {"error": str(error)}
        parts = ("build_s", "lower_s", "compile_s", "first_run_s")
        seconds = self.info[side]["ready_s"] + sum(found[part] for part in parts)
        first = {"program": name, "seconds": seconds}
        self.info[side].setdefault("first_result", first)
        return found

    def repeat(self, programs, repeats):
        """Times every `(name, side)` once, in turns, `repeats` times over."""
        samples = {program: [] for program in programs}
        for _ in range(repeats):
            for name, side in programs:
                samples[name, side].append(self.workers[side].ask("time", name=name))
        return samples

    def values(self, side, name, inputs):
        """The fields that a program gives on other inputs of the same shape."""
        output = self.path(f"{side}.npz")
        self.workers[side].ask("values", name=name, inputs=inputs, output=output)
        with np.load(output) as file:
            return dict(file)

    def drop(self, sides):
        """Makes some sides forget their programs."""
        for side in sides:
            self.workers[side].ask("drop")

    def limits(self, sides=None):
        """Measures what the machine does under some sides, or all; keeps the best."""
        for side in sides or self.workers:
            progress(f"limits: {side}")
            worker = self.workers[side]
            kept = self.info[side].setdefault("limits", {})
            for name, new in worker.ask("limits").items():
                if name not in kept or new["max"] > kept[name]["max"]:
                    kept[name] = new


def serve(build, packages, fields, *, whole=True):
    """Answers commands on standard input until it ends, with JAX.

    `build(spec)` returns a function and its leading arguments; the function is called
    with these, then the input arrays, and returns something with the attributes
    `fields`; or `fields(spec, result)` makes the dict of them. `packages` are reported
    with their versions. Unless `whole`, the function is called as it is, with what it
    compiles and caches by itself; the first run then has all of that.

    Commands (`{"do": ...}`, one JSON object a line, one answer a line):

    - `setup`: `name`, `spec`, `inputs` (.npy files): builds, lowers, compiles and
      runs, each timed; then warms up.
    - `time`: `name`: one repetition, wall and processor seconds a call.
    - `values`: `name`, `inputs`, `output`: runs the compiled program on other inputs
      of the same shape and saves `fields` to `output`, an .npz file.
    - `peak`: the most memory that the process has taken; `limit`: `bytes` it may take.
    - `limits`: what this machine does at best under this JAX.
    - `drop`: forgets all programs.
    """
    stream = answer_stream()
    import jax

    programs = Programs(jax.block_until_ready)

    def load(paths):
        arrays = [jax.numpy.asarray(np.load(p)) for p in paths]
        return jax.block_until_ready(arrays)

    def setup(name, spec, inputs):
        arrays = load(inputs)
        times = [time.perf_counter()]
        function, leading = build(spec)
        cpu = time.process_time()
        times.append(time.perf_counter())
        if whole:
            lowered = jax.jit(function).lower(*leading, *arrays)
            times.append(time.perf_counter())
            compiled = lowered.compile()
            times.append(time.perf_counter())
        else:
            compiled = function
            times += [times[-1]] * 2
        jax.block_until_ready(compiled(*leading, *arrays))
        times.append(time.perf_counter())
        cpu = time.process_time() - cpu
        programs.add(name, lambda *x: compiled(*leading, *x), arrays, spec)
        found = setup_seconds(times)
        if not whole:
            return found | {"temp_bytes": None, "first_run_cpu_s": cpu}
        memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
        temp = None if memory is None else memory.temp_size_in_bytes
        return found | {"temp_bytes": temp, "flops": (cost or {}).get("flops")}

    commands = {
        "setup": setup,
        "time": programs.time,
        "values": lambda name, inputs, output: programs.values(
            name, load(inputs), output, fields
        ),
        "limits": _limits,
        "drop": programs.drop,
    }
    answer(stream, _side(jax, packages), commands)


def answer_stream():
    """Standard output, for the answers alone: other prints go to standard error."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return stream


def answer(stream, info, commands):
    """Writes `info`, then answers commands on standard input until it ends."""
    commands = {"peak": _peak, "limit": _limit} | commands

    def reply(found):
        stream.write(json.dumps(found) + "\n")
        stream.flush()

    reply(info)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply(commands[request.pop("do")](**request))
        except Exception:
            reply({"error": traceback.format_exc(limit=-4)})


class Programs:
    """What was set up, by name; `wait` returns when a result is there."""

    def __init__(self, wait):
        self._wait, self._programs = wait, {}

    def add(self, name, function, arrays, spec):
        """Keeps `function` of `arrays`, warm, and how often a repetition calls it."""

        def call(arrays=arrays):
            return self._wait(function(*arrays))

        call()
        _, seconds = _clock(call, 1)
        count = max(1, math.ceil(_MIN_SECONDS / seconds))
        self._programs[name] = call, count, spec

    def time(self, name):
        call, count, _ = self._programs[name]
        call()  # the side before this one had the caches
        cpu, wall = _clock(call, count)
        return {"wall_s": wall, "cpu_s": cpu}

    def values(self, name, arrays, output, fields):
        call, _, spec = self._programs[name]
        result = call(arrays)
        if callable(fields):
            found = fields(spec, result)
        else:
            found = {f: np.asarray(getattr(result, f)) for f in fields}
        np.savez(output, **found)
        return {}

    def drop(self):
        self._programs.clear()
        return {}


def setup_seconds(times):
    """The parts of a set-up, from the times between them."""
    parts = ("build_s", "lower_s", "compile_s", "first_run_s")
    gaps = [b - a for a, b in zip(times[:-1], times[1:], strict=True)]
    return dict(zip(parts, gaps, strict=True))


def _peak():
    """The most memory that this process has taken."""
    import resource  # Windows has none

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_bytes": kilobytes * (1 if sys.platform == "darwin" else 1024)}


def _limit(bytes):
    """From now on this process fails where it would take more memory."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (bytes, bytes))
    return {}


def _clock(call, count):
    """Processor and wall seconds of one of `count` calls."""
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(count):
        call()
    wall = time.perf_counter() - start
    return (time.process_time() - cpu) / count, wall / count


def _side(jax, packages):
    device = jax.devices()[0]
    names = (*packages, "jax", "jaxlib", "numpy")
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in names},
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
    }


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _limits(repeats=7):
    """GFLOP/s of a float32 matrix product of size 1024; GB/s read and written."""
    import jax
    import jax.numpy as jnp

    def seconds(function, *arrays):
        compiled = jax.jit(function).lower(*arrays).compile()
        jax.block_until_ready(compiled(*arrays))
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arrays))
            times.append(time.perf_counter() - start)
        return times

    a = jax.random.normal(jax.random.key(0), (1024, 1024), jnp.float32)
    matmul = seconds(jnp.matmul, a, a)
    v = jnp.ones((2**26,), jnp.float32)
    stream = seconds(lambda v: v * 1.0001 + 1.0, v)
    return {
        "matmul_gflops": summary([2 * 1024**3 / t / 1e9 for t in matmul]),
        "stream_gb_per_s": summary([2 * v.nbytes / t / 1e9 for t in stream]),
    }
