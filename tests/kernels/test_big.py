"""`gram` in memory and over the devices of a mesh."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxarch import kernels as ker
from jaxarch.kernels import _big, _progress

from .relu_recursion import relu_kernels

ROOT = pathlib.Path(__file__).parents[2]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 5)).astype("f4")
Y = RNG.normal(size=(21, 5)).astype("f4")
# A dense layer: k = 4 x.x' / 5 + 0.25, for both kernels; and a ReLU network.
LINEAR = ker.infinite(lambda h: ker.dense(h, 1, w_std=2.0, b_std=0.5))
RELU = ker.infinite(
    lambda h: ker.dense(
        ker.relu(ker.dense(h, 8, w_std=1.5, b_std=0.1)), 1, w_std=1.5, b_std=0.1
    )
)


def affine(a, b):
    """The same, quick to compile."""
    k = 0.8 * jnp.matmul(a, b.T, precision="highest") + 0.25
    return ker.Gram(nngp=k, ntk=k)


def linear(a, b):
    return 0.8 * np.float64(a) @ np.float64(b).T + 0.25


def close(got, want, tolerance=1e-6):
    got = np.asarray(got, np.float64)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def assert_mirrored(k, tile):
    """Off the diagonal, tiles are equal to the bit; on it, as their kernel has them."""
    k = np.asarray(k)
    for i in range(0, len(k), tile):
        rest = i + tile
        np.testing.assert_array_equal(k[i:rest, rest:], k[rest:, i:rest].T)


def make_mesh(count, **options):
    return jax.make_mesh((count,), ("rows",), devices=jax.devices()[:count], **options)


def run(script, *args, devices=1, **env):
    """Starts a Python of its own."""
    env = os.environ | env | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    flags = os.environ.get("XLA_FLAGS", "")
    env["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("tile", [1, 7, 16, 48, 100, None])
def test_tiles_of_one_set_make_the_whole_matrix(tile):
    got = ker.gram(affine, X, tile=tile, progress=False)
    assert isinstance(got.ntk, np.ndarray)
    for k in (got.nngp, got.ntk):
        close(k, linear(X, X))
        assert_mirrored(k, tile or len(X))


@pytest.mark.parametrize("tile", [7, 30, None])
def test_tiles_of_two_sets_make_the_whole_matrix(tile):
    got = ker.gram(affine, X, Y, tile=tile, progress=False)
    close(got.nngp, linear(X, Y))
    close(got.ntk, linear(X, Y))


@pytest.mark.slow
def test_a_network_in_tiles_matches_the_recursion():
    got = ker.gram(RELU, X, tile=20, progress=False)
    nngp, ntk = relu_kernels(X, X, depth=1, w_std=1.5, b_std=0.1)
    close(got.nngp, np.float64(nngp), 1e-6)
    close(got.ntk, np.float64(ntk), 1e-6)
    assert ker.gram(RELU, X, tile=20, progress=False, ntk=False).ntk is None


def test_only_the_upper_triangle_is_computed():
    calls = []

    def count(a, b):
        jax.debug.callback(lambda: calls.append(1))
        return ker.Gram(nngp=a @ b.T)

    ker.gram(count, X, tile=12, progress=False)
    jax.effects_barrier()
    assert len(calls) == 4 * 5 / 2


def test_examples_of_any_rank_dtype_and_a_plain_function():
    def product(a, b):
        return ker.Gram(nngp=jnp.einsum("ihw,jhw->ij", a, b, precision="highest"))

    images = RNG.normal(size=(10, 3, 2))
    with jax.enable_x64(True):
        got = ker.gram(product, images, tile=4, progress=False)
    assert got.ntk is None
    assert got.nngp.dtype == np.float64
    close(got.nngp, np.einsum("ihw,jhw->ij", images, images), 1e-15)
    assert ker.gram(affine, jnp.bfloat16(X), progress=False).ntk.dtype == jnp.bfloat16
    close(
        ker.gram(LINEAR, np.arange(6).reshape(3, 2), progress=False).ntk,
        2 * np.arange(6).reshape(3, 2) @ np.arange(6).reshape(3, 2).T + 0.25,
    )


def test_dropout_masks_are_shared_on_the_diagonal_of_one_set():
    kernel = ker.infinite(lambda h: ker.dense(ker.dropout(h, rate=0.5), 1))
    got = ker.gram(kernel, X, tile=20, progress=False).nngp
    own = (X.astype(float) ** 2).mean(1)
    close(np.diagonal(got), 2 * own)
    off = X.astype(float) @ X.T / 5
    close(got - np.diag(np.diagonal(got)), off - np.diag(np.diagonal(off)))


# Memory.


def test_tiles_shrink_to_the_memory_limit(monkeypatch):
    sides = []
    build = _big.Tiles.build.__func__

    def spy(cls, kernel, x1, x2, tiling, devices, **options):
        sides.append(tiling.tile)
        return build(cls, kernel, x1, x2, tiling, devices, **options)

    monkeypatch.setattr(_big.Tiles, "build", classmethod(spy))
    x = RNG.normal(size=(300, 5)).astype("f4")

    def product(a, b):
        return ker.Gram(nngp=a @ b.T)

    limit = 4 * 300 * 300 + 100_000
    got = ker.gram(product, x, memory_limit=limit, progress=False)
    close(got.nngp, np.float64(x) @ x.T)
    assert sides[0] == 300
    # Two results at a time fit in what the matrix leaves, with little to spare.
    assert 30 <= sides[-1] < 112


def test_too_little_memory_is_refused_with_the_need():
    message = r"`memory_limit` must be at least the 18.4 kB needed .*, got 10 kB"
    with pytest.raises(ValueError, match=message):
        ker.gram(LINEAR, X, memory_limit=10_000, progress=False)
    with pytest.raises(ValueError, match="with tiles of 48 x 48"):
        ker.gram(LINEAR, X, tile=48, memory_limit=20_000, progress=False)
    with pytest.raises(ValueError, match="needed in memory.*got 10 kB"):
        ker.gram(affine, X, mesh=make_mesh(4), memory_limit=10_000)


def test_an_accelerator_has_a_limit_of_its_own(monkeypatch):
    monkeypatch.setattr(_big, "device_free_memory", lambda device: 2)

    class Device:
        platform = "gpu"

    def fit(limit):
        class Fake:
            memory = (1000, 500)

            @classmethod
            def build(cls, *args, **options):
                return cls()

        monkeypatch.setattr(_big, "Tiles", Fake)
        limits = (np.inf, limit)
        return _big.fit_tiles(
            None, X, None, None, [Device()], ntk=True, fixed=0, limits=limits
        )

    assert fit(2000).memory == (1000, 500)
    with pytest.raises(ValueError, match="the 2 kB needed on each device.*1 x 1"):
        fit(1999)
    assert _big.memory_limits("gram", None, None)[1] == 1


def test_free_memory_is_that_of_the_machine():
    free = _progress.free_memory()
    assert free is None or 1e6 < free < 1e15
    assert _progress.device_free_memory(jax.devices("cpu")[0]) is None

    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 100, "bytes_in_use": 30}

    assert _progress.device_free_memory(Device()) == 70
    texts = [_progress.bytes_text(n) for n in (5, 12_300, 4.5e6, 4e9)]
    assert texts == ["5 B", "12.3 kB", "4.5 MB", "4.00 GB"]


# Progress.


def test_progress(capfd, monkeypatch):
    ker.gram(affine, X, tile=16)
    shown = capfd.readouterr().err
    assert "6/6" in shown
    assert "tile/s" in shown
    ker.gram(affine, X, tile=16, progress=False)
    assert not capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    close(ker.gram(affine, X, tile=16).ntk, linear(X, X))
    assert not capfd.readouterr().err


# Devices and processes.


@pytest.mark.parametrize(
    ("count", "options"), [(1, {}), (3, {}), (4, {"axis_types": (AxisType.Auto,)})]
)
def test_mesh(count, options):
    mesh = make_mesh(count, **options)
    got = ker.gram(affine, X, mesh=mesh)
    for k in (got.nngp, got.ntk):
        close(k, linear(X, X))
        shapes = {shard.data.shape for shard in k.addressable_shards}
        assert shapes == {(48 // count, 48)}
    close(ker.gram(affine, X, Y, mesh=mesh).ntk, linear(X, Y))


def test_mesh_of_two_axes():
    mesh = jax.make_mesh((2, 2), ("a", "b"))
    got = ker.gram(affine, X, mesh=mesh).nngp
    close(got, linear(X, X))
    assert got.addressable_shards[0].data.shape == (12, 48)


EIGHT = """
import sys, jax, numpy as np
from jaxarch import kernels as ker
kernel = ker.infinite(lambda h: ker.dense(h, 1, w_std=2.0, b_std=0.5))
x = np.load(sys.argv[1])
mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
assert jax.device_count() == 8
whole = ker.gram(kernel, x, mesh=mesh).ntk
assert {s.data.shape for s in whole.addressable_shards} == {(6, 48)}
stored = ker.gram(kernel, x, mesh=mesh, store=sys.argv[2], tile=7, progress=False)
np.savez(sys.argv[3], whole=whole, stored=stored.ntk)
"""


@pytest.mark.slow
def test_eight_devices(tmp_path):
    np.save(tmp_path / "x.npy", X)
    out = tmp_path / "out.npz"
    process = run(EIGHT, tmp_path / "x.npy", tmp_path / "store", out, devices=8)
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    with np.load(out) as found:
        for k in (found["whole"], found["stored"]):
            close(k, linear(X, X))


TWO = """
import sys, jax, numpy as np
rank, port, x, store, out = int(sys.argv[1]), *sys.argv[2:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
from jaxarch import kernels as ker
kernel = ker.infinite(lambda h: ker.dense(h, 1, w_std=2.0, b_std=0.5))
x = np.load(x)
mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
assert (jax.process_count(), jax.local_device_count()) == (2, 2)
mine = ker.gram(kernel, x, mesh=mesh).ntk
rows = {s.index[0].start or 0: np.asarray(s.data) for s in mine.addressable_shards}
stored = ker.gram(kernel, x, mesh=mesh, store=store, tile=7, progress=False)
both = np.asarray(stored.ntk)
first = jax.make_mesh((2,), ("rows",), devices=jax.devices()[:2])
try:
    ker.gram(kernel, x, mesh=first if rank else mesh, store=store + "-2",
             tile=48, progress=False, memory_limit=10)
except ValueError as error:
    print(error)
np.savez(out, stored=both, starts=list(rows), rows=np.stack(list(rows.values())))
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    np.save(tmp_path / "x.npy", X)
    store = tmp_path / "store"
    outs = [tmp_path / f"out{rank}.npz" for rank in range(2)]
    started = [
        run(TWO, rank, port, tmp_path / "x.npy", store, out, devices=2)
        for rank, out in enumerate(outs)
    ]
    texts = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], texts
    assert "`mesh` must hold devices of this process alone or of every" in texts[1]
    whole = np.full((48, 48), np.nan)
    for out in outs:
        with np.load(out) as found:
            close(found["stored"], linear(X, X))
            for start, rows in zip(found["starts"], found["rows"], strict=True):
                whole[start : start + 12] = rows
    close(whole, linear(X, X))
    # Each process wrote about half of the 28 tiles, and none was written twice.
    logs = [(store / f"log-{rank}.jsonl").read_text().splitlines() for rank in range(2)]
    assert [len(log) for log in logs] == [14, 14]
    assert len(set(logs[0]) | set(logs[1])) == 28


# Bad input.


def test_bad_arguments():
    gram = functools.partial(ker.gram, progress=False)
    with pytest.raises(TypeError, match="`kernel` must be a Kernel or a function"):
        gram(X, X)
    with pytest.raises(ValueError, match=r"`x1` must have shape \(n, ...\).*\(0, 5\)"):
        gram(LINEAR, X[:0])
    with pytest.raises(ValueError, match=r"`x2` must hold examples of shape \(5,\)"):
        gram(LINEAR, X, X[:, :3])
    with pytest.raises(ValueError, match="`tile` must be at least 1, got 0"):
        gram(LINEAR, X, tile=0)
    with pytest.raises(ValueError, match="`memory_limit` must be at least 1"):
        gram(LINEAR, X, memory_limit=0)
    with pytest.raises(ValueError, match="`digest` must be None without `store`"):
        gram(LINEAR, X, digest="a")
    with pytest.raises(ValueError, match="`tile` must be None with a `mesh`.*got 3"):
        gram(LINEAR, X, tile=3, mesh=make_mesh(2))
    with pytest.raises(ValueError, match="the mesh's 4 devices in examples, got 47"):
        gram(LINEAR, X[:47], mesh=make_mesh(4))
    with pytest.raises(TypeError, match="must return a Gram, got"):
        gram(lambda a, b: a @ b.T, X)
    with pytest.raises(ValueError, match=r"of shape \(1, 1\) for a tile, got \(1,\)"):
        gram(lambda a, b: ker.Gram(nngp=a.sum(1)), X)
    with pytest.raises(TypeError, match="being traced; call it outside of jit"):
        jax.jit(lambda x: gram(LINEAR, x).nngp)(X)
