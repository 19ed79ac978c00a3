"""`gram` with a store: resumed, damaged, refused, read."""

import functools
import json
import pickle
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker
from jaxarch.kernels import _store, _store_gram

from .test_big import LINEAR, X, Y, affine, assert_mirrored, close, linear, run

pytest.importorskip("tensorstore")
gram = functools.partial(ker.gram, tile=7, progress=False)
stored = functools.partial(gram, affine, X, digest="0.8 a.b + 0.25")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished store, only read."""
    store = tmp_path_factory.mktemp("whole")
    return stored(store=store)


def log_lines(store):
    return [s for log in store.glob("log-*") for s in log.read_text().splitlines()]


def chunks(store, kind="ntk"):
    return sorted(p for p in (store / kind / "c").rglob("*") if p.is_file())


def contents(store):
    """Every chunk by name."""
    return {
        str(p.relative_to(store)): p.read_bytes()
        for kind in ("nngp", "ntk")
        for p in chunks(store, kind)
    }


# Reading.


def test_store_of_one_set(whole):
    want = linear(X, X)
    for k in (whole.nngp, whole.ntk):
        assert (k.shape, k.ndim, len(k), k.dtype) == ((48, 48), 2, 48, np.float32)
        assert k.nbytes == 4 * 48 * 48
        close(k, want)
        assert_mirrored(k, 7)
        assert "shape=(48, 48)" in repr(k)
    assert np.asarray(whole.ntk, np.float64).dtype == np.float64
    # 7 rows of tiles: the triangle is on disk, and nothing else.
    assert len(chunks(_path(whole))) == 28
    assert len(log_lines(_path(whole))) == 28


def _path(gram):
    return _store.Path(gram.ntk.store)


@pytest.mark.parametrize(
    "index",
    [
        3,
        -1,
        slice(5, 30, 3),
        (slice(40, None), slice(0, 9)),
        (slice(None, None, -5), 47),
        (2, 2),
        np.array([47, 0, 20]),
        np.arange(48) % 5 == 0,
        (slice(4, 4), slice(None)),
    ],
    ids=str,
)
def test_reading_is_that_of_numpy(whole, index):
    want = np.asarray(whole.ntk)[index]
    got = whole.ntk[index]
    assert got.shape == want.shape
    np.testing.assert_array_equal(got, want)


def test_index_arrays_choose_rows_and_columns(whole):
    rows, columns = [0, 40, 11], [47, 3]
    want = np.asarray(whole.ntk)[np.ix_(rows, columns)]
    np.testing.assert_array_equal(whole.ntk[rows, columns], want)


def test_reading_touches_only_the_tiles_that_it_needs(whole, monkeypatch):
    touched = []
    start = ker.StoredMatrix.start
    monkeypatch.setattr(
        ker.StoredMatrix, "start", lambda m, i: touched.append(i) or start(m, i)
    )
    whole.ntk[8:15, 22:27]
    assert touched == [(1, 3), (2, 3)]


def test_a_store_is_taken_wherever_a_matrix_is(whole):
    y = X[:, 0]
    got = ker.condition(whole, y, noise=0.5).weights
    want = np.linalg.solve(linear(X, X) + 0.5 * np.eye(48), y)
    close(got, want, 1e-5)
    again = pickle.loads(pickle.dumps(whole.ntk))
    np.testing.assert_array_equal(again[5], whole.ntk[5])
    opened = ker.StoredMatrix.open(_path(whole), "nngp")
    np.testing.assert_array_equal(opened[5], whole.nngp[5])


def test_zarr_metadata_says_nan_where_nothing_is_stored(whole):
    meta = json.loads((_path(whole) / "ntk" / "zarr.json").read_text())
    assert (meta["zarr_format"], meta["fill_value"]) == (3, "NaN")
    assert meta["chunk_grid"]["configuration"]["chunk_shape"] == [7, 7]


def test_two_sets_a_kernel_and_the_tile_of_the_store(tmp_path):
    got = gram(LINEAR, X, Y, store=tmp_path, ntk=False)
    assert got.ntk is None
    close(got.nngp, linear(X, Y))
    close(got.nngp[45:, 19:], linear(X[45:], Y[19:]))
    lines = len(log_lines(tmp_path))
    again = ker.gram(LINEAR, X, Y, store=tmp_path, ntk=False, progress=False)
    assert again.nngp.tiling.tile == 7
    assert len(log_lines(tmp_path)) == lines == 21


def test_store_over_devices(tmp_path, whole):
    mesh = jax.make_mesh((4,), ("rows",))
    stored(store=tmp_path, mesh=mesh)
    assert contents(tmp_path) == contents(_path(whole))


# Going on.

CHILD = """
import os, signal, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
from jaxarch import kernels as ker
kernel = ker.infinite(lambda h: ker.dense(h, 1, w_std=2.0, b_std=0.5))
real, left = os.fsync, int(sys.argv[3])
def fsync(handle):
    global left
    left -= os.readlink(f"/proc/self/fd/{handle}").endswith("jsonl")
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(handle)
os.fsync = fsync
ker.gram(kernel, np.load(sys.argv[1]), store=sys.argv[2], tile=7, progress=False)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_run_goes_on_and_ends_identical(tmp_path):
    store, want, x = tmp_path / "killed", tmp_path / "whole", tmp_path / "x.npy"
    np.save(x, X)
    process = run(CHILD, x, store, 9)
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL
    before = log_lines(store)
    assert 9 <= len(before) <= 10  # the tenth may have been written and not forced
    assert len(chunks(store)) < 28
    gram(LINEAR, X, store=store)
    # What had a line was not computed again; what had none was, once.
    after = log_lines(store)
    assert len(after) == 28
    assert after[: len(before)] == before
    gram(LINEAR, X, store=want)
    assert contents(store) == contents(want)


def test_a_line_that_was_cut_off_is_computed_again(tmp_path, whole):
    stored(store=tmp_path)
    log = tmp_path / "log-0.jsonl"
    text = log.read_text()
    for cut in (text[:-1], text[:-9], text[:-60] + '{"tile": \n'):
        log.write_text(cut)
        stored(store=tmp_path)
        assert _store.read_logs(tmp_path) == _store.read_logs(_path(whole))
    assert contents(tmp_path) == contents(_path(whole))


def flip(path):
    data = bytearray(path.read_bytes())
    data[17] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def swap(path):
    path.write_bytes(path.with_name("4").read_bytes())


@pytest.mark.parametrize("damage", [flip, truncate, swap, _store.Path.unlink])
def test_a_damaged_tile_is_found_and_computed_again(tmp_path, whole, damage):
    stored(store=tmp_path)
    damage(tmp_path / "ntk" / "c" / "1" / "3")
    matrix = ker.StoredMatrix.open(tmp_path, "ntk")
    message = r"tile \(1, 3\) of `ntk` in .* is damaged.*the call of gram"
    with pytest.raises(ValueError, match=message):
        matrix[22, 8]
    close(matrix[:7], linear(X[:7], X))
    lines = len(log_lines(tmp_path))
    stored(store=tmp_path)
    assert len(log_lines(tmp_path)) == lines + 1
    assert contents(tmp_path) == contents(_path(whole))


def test_an_unfinished_tile_is_not_read(tmp_path):
    stored(store=tmp_path)
    log = tmp_path / "log-0.jsonl"
    kept = [s for s in log.read_text().splitlines() if "[1, 3]" not in s]
    log.write_text("\n".join(kept) + "\n")
    with pytest.raises(ValueError, match=r"tile \(1, 3\) of `ntk` .* is not finished"):
        np.asarray(ker.StoredMatrix.open(tmp_path, "ntk"))


def test_progress_counts_from_what_is_there(tmp_path, capfd):
    stored(store=tmp_path)
    assert not capfd.readouterr().err
    (tmp_path / "ntk" / "c" / "1" / "3").unlink()
    stored(store=tmp_path, progress=True)
    shown = capfd.readouterr().err
    assert "check: 100%" in shown
    assert "27/28" in shown
    assert "28/28" in shown


# Other computations.


def digest_of(store):
    return json.loads((store / "gram.json").read_text())["digest"]


def network(w_std=2.0, b_std=0.5, activation=ker.relu):
    return ker.infinite(
        lambda h: ker.dense(activation(ker.dense(h, 8, w_std=w_std)), 1, b_std=b_std)
    )


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"x1": X[:-1]}, "data"),
        ({"x1": X + np.float32(1e-3)}, "data"),
        ({"x2": X}, "data"),
        ({"x1": X.astype(np.float16)}, "numbers, data, dtype"),
        ({"kernel": network(b_std=0.50001)}, "numbers"),
        ({"kernel": network(activation=ker.erf)}, "kernel, numbers"),
        ({"kernel": affine, "digest": "a"}, "kernel, numbers"),
        ({"tile": 8}, "tile"),
        ({"ntk": False}, "kinds"),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_another_computation_is_refused_with_both_digests(tmp_path, change, part):
    def claim(store, kernel=None, x1=X, x2=None, tile=7, ntk=True, digest=None):
        # As `gram` does, without compiling and computing.
        kernel = network() if kernel is None else kernel
        kinds = ("nngp", "ntk")[: 1 + ntk]
        dtype = np.dtype(x1.dtype)
        parts = _store_gram._parts(kernel, x1, x2, kinds, dtype, digest)
        tiling = ker._tiles.Tiling((len(x1), len(X)), tile, x2 is None)
        _store_gram._claim(store, parts, tiling, kinds, dtype)

    one, two = tmp_path / "one", tmp_path / "two"
    claim(one)
    claim(one)
    if part == "numbers, data, dtype":
        part = "data, dtype"
    claim(two, **change)
    message = f"{digest_of(two)}, got .*one of digest {digest_of(one)}; .*in {part}\\."
    with pytest.raises(ValueError, match=message):
        claim(one, **change)


def test_a_wrong_store_is_refused_and_left_alone(tmp_path):
    stored(store=tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"got .* of digest {digest_of(tmp_path)}"):
        gram(LINEAR, X, store=tmp_path)
    assert contents(tmp_path) == before


def test_what_a_digest_depends_on(tmp_path):
    """The way numbers are held, and the process, do not matter."""

    def digest(kernel, x=X):
        parts = _store_gram._parts(kernel, x, None, ("ntk",), np.dtype("f4"), None)
        return tuple(parts.values())

    assert digest(network(2.0)) == digest(network(jnp.float32(2.0)))
    assert digest(network()) == digest(network(), np.asfortranarray(X))
    assert digest(network()) != digest(network(b_std=None))


def cube(x):
    return jnp.tanh(x) ** 3


def test_an_unnamed_function_has_no_digest(tmp_path):
    def kernel(**name):
        return network(activation=lambda h: ker.elementwise(h, cube, **name))

    message = r"must have a name, got `elementwise` of cube .*name="
    with pytest.raises(ValueError, match=message):
        gram(kernel(), X, store=tmp_path)

    def digest(name):
        return ker._digest.digest_graph(kernel(name=name).graph)

    assert digest("cubed tanh") == digest("cubed tanh") != digest("another")
    assert not list(tmp_path.iterdir())


def test_digests_of_composed_functions_and_of_patterns():
    def digest(function):
        def read(h):
            u = ker.dense(h, 3, name="u")
            return ker.dense(ker.flatten(function(u)), 1, name="v")

        return ker._digest.digest_graph(ker.infinite(read).graph)

    written = [
        lambda u: ker.relu(u) + u,
        lambda u: ker.absolute(u) + u,
        lambda u: ker.aggregate(u, ([0, 1], [1, 0])),
        lambda u: ker.aggregate(u, ([0, 1], [1, 1])),
        lambda u: ker.aggregate(u, np.eye(2)),
    ]
    assert len({digest(function) for function in written}) == len(written)
    assert digest(written[2]) == digest(written[2])
    with pytest.raises(ValueError, match="must have a name, got `elementwise` of cube"):
        digest(lambda u: u * ker.elementwise(u, cube))


def test_bad_arguments(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`digest` must be given .* None for affine"):
        gram(affine, X, store=tmp_path)
    with pytest.raises(ValueError, match="`digest` must be None for a Kernel"):
        gram(LINEAR, X, store=tmp_path, digest="a")
    with pytest.raises(ValueError, match="`memory_limit` must be at least the"):
        stored(store=tmp_path, memory_limit=10)
    with pytest.raises(TypeError, match="no digest is defined for object"):
        ker._digest._describe(object())
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"a new or empty directory.*'thesis.tex'"):
        stored(store=tmp_path)
    with pytest.raises(ValueError, match="must be a directory that gram made"):
        ker.StoredMatrix.open(tmp_path, "ntk")
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(ImportError, match=r"jaxarch\[big\]"):
        stored(store=tmp_path)


def test_there_is_no_such_matrix(tmp_path):
    gram(affine, X, store=tmp_path, digest="a", ntk=False)
    with pytest.raises(ValueError, match=r"`kind` must be one of \['nngp'\], got 'nt"):
        ker.StoredMatrix.open(tmp_path, "ntk")


def test_what_a_graph_may_hold_is_described():
    describe = ker._digest._describe
    values = [None, True, 1, 1.0, "1", b"1", (1, 2), ((1,), 2), frozenset("ab")]
    values.append(np.ones(2))
    texts = [describe(value) for value in values]
    assert len(set(texts)) == len(values)
    assert describe([1, 2]) == describe((1, 2))
    assert describe(frozenset("ba")) == describe(frozenset("ab"))
    assert describe(np.ones(2)) != describe(np.zeros(2))
    assert ker._digest.digest_array(np.float32(1)) != ker._digest.digest_array(
        np.float32(2)
    )
