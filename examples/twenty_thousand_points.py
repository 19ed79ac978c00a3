# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 20,000 points on a laptop: kill it, resume it
#
# The kernel matrix of 20,000 points has 400 million entries: 1.6 GB for the NNGP, as
# much for the NTK, and a Cholesky factorization needs several times that. Here the
# matrices are computed tile by tile into a directory. We kill the computation in the
# middle, call it again, and fit a Gaussian process to the result with conjugate
# gradients, in a fraction of the memory.
#
# `POINTS` is 6,000, so that the notebook ends within two minutes on two cores, most of
# it compiling. Set the variable `POINTS=20000` in the environment for the real thing.
#
# Needs `pip install "jaxarch[big,examples]"`.

# %%
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import jaxarch
from jaxarch import kernels as ker

POINTS = int(os.environ.get("POINTS", "6000"))
TEST = 1000
TILE = 500  # examples along the side of a tile: what can be lost is four of them
NOISE = 0.3  # standard deviation of a measurement
directory = Path(tempfile.mkdtemp())
start = time.perf_counter()

# %% [markdown]
# ## Data: a landscape, measured with noise
#
# Heights over a square, with ridges that bend. The points are made here, from a fixed
# seed. Their radius is sent along as a third coordinate, which a ReLU network without
# it would have to make from its biases.

# %%
rng = np.random.default_rng(0)


def height(p):
    """The truth."""
    x, y = p[:, 0], p[:, 1]
    return np.sin(3 * x + 2 * np.sin(2 * y)) * np.exp(-0.3 * (x**2 + y**2))


def features(p):
    """Coordinates and a constant length: points on a sphere."""
    third = np.sqrt(8.5 - (p**2).sum(1, keepdims=True))
    return np.concatenate([p, third], axis=1).astype(np.float32)


places = rng.uniform(-2, 2, size=(POINTS + TEST, 2))
x, x_test = features(places[:POINTS]), features(places[POINTS:])
y = (height(places[:POINTS]) + NOISE * rng.normal(size=POINTS)).astype(np.float32)
y_test = height(places[POINTS:])
np.save(directory / "x.npy", x)

# %% [markdown]
# ## The kernel
#
# A network of three hidden layers. It stands in a file, because two processes use it.

# %%
code = """
from jaxarch import kernels as ker

def network(h):
    for _ in range(3):
        h = ker.relu(ker.dense(h, 512, w_std=1.4, b_std=0.1))
    return ker.dense(h, 1, w_std=0.35)

kernel = ker.infinite(network)
"""
exec(code)
print(kernel.graph)  # noqa: F821

# %% [markdown]
# ## Kill it
#
# Another process fills the store. As soon as a quarter of its tiles is on disk, it gets
# the signal that no process can catch.

# %%
store = directory / "gram"
job = code + textwrap.dedent(
    f"""
    import numpy as np
    x = np.load({str(directory / "x.npy")!r})
    ker.gram(kernel, x, store={str(store)!r}, tile={TILE}, progress=False)
    """
)


def num_done():
    """Tiles on disk, by the log."""
    log = store / "log-0.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


rows = -(-POINTS // TILE)
tiles = rows * (rows + 1) // 2
path = str(Path(jaxarch.__file__).parents[1])
process = subprocess.Popen(
    [sys.executable, "-c", job], env=os.environ | {"PYTHONPATH": path}
)
while num_done() < tiles // 4 and process.poll() is None:
    time.sleep(0.002)
process.send_signal(signal.SIGKILL)
process.wait()
before = num_done()
print(f"killed with {before} of {tiles} tiles on disk")

# %% [markdown]
# ## Resume it
#
# The same call. It reads the tiles that are there, compares their checksums, and
# computes the others.

# %%
clock = time.perf_counter()
gram = ker.gram(kernel, x, store=store, tile=TILE)  # noqa: F821
print(gram.ntk, f"after another {time.perf_counter() - clock:.1f} s")
recomputed = num_done() - before
print(f"{recomputed} tiles computed, {before} kept")

# %% [markdown]
# ## Fit
#
# `gram.ntk` reads from disk what it is asked for. `solve` with `method="cg"` holds the
# upper triangle if there is room, and reads it in every step if there is none. (Float32
# is enough because the noise is well above 1e-7 of the largest eigenvalue, about
# `POINTS`; for less noise, make the kernel in float64.)

# %%
clock = time.perf_counter()
solution = ker.solve(gram, y, noise=NOISE**2, kind="ntk", method="cg", tol=1e-3)
seconds = time.perf_counter() - clock
print(f"{int(solution.num_steps)} steps, residual {float(solution.residual):.1e}")
print(f"{seconds:.1f} s")
weights = np.asarray(solution.weights)
cross = ker.gram(kernel, x_test, x, progress=False)  # noqa: F821
predicted = cross.ntk @ weights
error = float(np.sqrt(np.mean((predicted - y_test) ** 2)))
print(f"error on {TEST} new points: {error:.4f}; noise of one measurement: {NOISE}")

# %% [markdown]
# ## What it sees

# %%
side = 60
line = np.linspace(-2, 2, side)
grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
surface = ker.gram(kernel, features(grid), x, progress=False).ntk @ weights  # noqa: F821
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
shown = places[:1500]
points = axes[0].scatter(*shown.T, c=y[: len(shown)], s=4, cmap="cividis")
axes[0].set(title=f"{len(shown)} of {POINTS} measurements", aspect="equal")
image = axes[1].imshow(
    surface.reshape(side, side).T, origin="lower", extent=(-2, 2, -2, 2), cmap="cividis"
)
axes[1].set(title="the fit")
figure.colorbar(image, ax=axes[1], shrink=0.8)
order = np.argsort(places[:POINTS, 0])[:: max(1, POINTS // 200)]
block = gram.ntk[order][:, order]  # a few rows, read from disk
axes[2].imshow(block, cmap="cividis")
axes[2].set(title="the NTK of 200 points, from left to right", xticks=[], yticks=[])
plt.show()

# %%
print(f"{time.perf_counter() - start:.0f} s in all")
assert before < tiles, "it was killed too late"
assert recomputed == tiles - before, (recomputed, tiles, before)
assert error < 0.3 * NOISE, error
