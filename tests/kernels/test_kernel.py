"""The kernel as a function: its paths, transformations, dtypes and refusals."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P

from jaxarch import kernels as ker

from . import textbook

_RNG = np.random.default_rng(0)
X1, X2 = _RNG.normal(size=(8, 3)), _RNG.normal(size=(6, 3))
X1[5] = X1[2]
X2[3] = X1[1]
SINGLE = X1.astype(np.float32), X2.astype(np.float32)


def network(h, ops=ker, w_std=1.4, b_std=0.2):
    h = ops.dense(h, 16, w_std=w_std, b_std=b_std)
    h = h + ops.dense(ops.relu(h), 16, w_std=w_std, b_std=b_std)
    return ops.dense(ops.relu(h), 1, w_std=w_std)


KERNEL = ker.infinite(network)


def stacked(gram):
    return np.stack([np.asarray(gram.nngp), np.asarray(gram.ntk)])


def by_textbook(x, **options):
    value = network(textbook.inputs(x), textbook, **options)
    return np.stack([value.k, value.t])


def close(got, want, tolerance=1e-14):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def test_paths_agree():
    both = by_textbook(np.concatenate([X1, X2]))
    with jax.enable_x64(True):
        cross = stacked(KERNEL(X1, X2))
        square = stacked(KERNEL(X1))
        same = stacked(KERNEL(X1, X1))
        own = stacked(KERNEL(X1, diagonal=True))
        pairs = stacked(KERNEL(X1[:6], X2, diagonal=True))
        only = KERNEL(X1, X2, ntk=False)
    # The textbook has no digit to spare where points are equal.
    distinct = (X1[:, None] != X2).any(-1)
    close(cross[:, distinct], both[:, :8, 8:][:, distinct])
    close(same, square)
    np.testing.assert_array_equal(square, square.swapaxes(1, 2))
    close(own, np.diagonal(both[:, :8, :8], axis1=1, axis2=2))
    close(own, np.diagonal(square, axis1=1, axis2=2), 1e-15)
    close(square[:, 5], square[:, 2], 1e-15)
    close(pairs, np.diagonal(cross, axis1=1, axis2=2))
    close(only.nngp, cross[0], 1e-15)
    assert only.ntk is None


@pytest.mark.parametrize(("n1", "n2"), [(7, None), (8, None), (7, 11), (1, 6), (6, 1)])
def test_tiles_of_any_size(monkeypatch, n1, n2):
    """9 pairs in a tile: edges that do not divide, tiles on and off the diagonal."""
    monkeypatch.setattr("jaxarch.kernels._vector._TILE", {"cpu": 9})
    x = np.random.default_rng(2).normal(size=(n1 + (n2 or 0), 5))
    x1, x2 = x[:n1], None if n2 is None else x[n1:]
    both = by_textbook(x)
    want = both if n2 is None else both[:, :n1, n1:]
    with jax.enable_x64(True):
        got = stacked(KERNEL(x1, x2))
    close(got, want)
    if n2 is None:
        np.testing.assert_array_equal(got, got.swapaxes(1, 2))


@pytest.mark.parametrize(("n1", "n2"), [(0, 6), (8, 0), (0, None)])
def test_empty(n1, n2):
    x1, x2 = SINGLE[0][:n1], None if n2 is None else SINGLE[1][:n2]
    gram = KERNEL(x1, x2)
    assert gram.nngp.shape == gram.ntk.shape == (n1, n1 if n2 is None else n2)


def test_empty_diagonal():
    assert KERNEL(SINGLE[0][:0], diagonal=True).ntk.shape == (0,)


def test_positive_definite():
    """800 points in 100 clusters of width 1e-3: Cholesky without any jitter."""
    rng = np.random.default_rng(1)
    x = np.repeat(rng.normal(size=(100, 8)), 8, axis=0)
    x += 1e-3 * rng.normal(size=x.shape)
    with jax.enable_x64(True):
        for k in stacked(KERNEL(x)):
            assert np.isfinite(np.linalg.cholesky(k)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes(dtype):
    tolerance = 8 * float(jnp.finfo(dtype).eps)
    with jax.enable_x64(dtype == "float64"):
        x1, x2 = (jnp.asarray(x).astype(dtype) for x in SINGLE)
        gram = KERNEL(x1, x2)
        assert gram.nngp.dtype == gram.ntk.dtype == jnp.dtype(dtype)
        rounded = np.concatenate([np.asarray(x).astype(np.float64) for x in (x1, x2)])
        got = stacked(gram).astype(np.float64)
    distinct = (rounded[:8, None] != rounded[None, 8:]).any(-1)
    close(got[:, distinct], by_textbook(rounded)[:, :8, 8:][:, distinct], tolerance)


def test_integers_become_the_default_float():
    gram = KERNEL(np.array([[1, 2, 3], [3, 2, 1]]))
    assert gram.nngp.dtype == np.float32


# --- transformations -----------------------------------------------------------------

_COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: _COMPILED.append("backend_compile" in event)
)


def compilations():
    return sum(_COMPILED)


def test_new_numbers_do_not_compile_again():
    def evaluate(w_std):
        kernel = ker.infinite(functools.partial(network, w_std=w_std, b_std=0.2))
        return jax.block_until_ready(kernel(*SINGLE))

    before = compilations()
    ker.infinite(functools.partial(ker.dense, features=7))(np.ones((2, 7), np.float32))
    assert compilations() > before  # they are seen
    evaluate(1.1)
    count = compilations()
    for w_std in (0.5, 2, 1.7):
        evaluate(w_std)
    assert compilations() == count
    evaluate(jnp.float32(1.3))  # an array is another type, and compiles once
    count = compilations()
    evaluate(jnp.float32(1.9))
    assert compilations() == count
    close(evaluate(1.1).ntk, evaluate(jnp.float32(1.1)).ntk, 1e-6)


def test_a_kernel_is_an_argument_of_jit():
    traced = []

    @jax.jit
    def evaluate(kernel, x):
        traced.append(kernel)
        return kernel(x).ntk

    for w_std in (1.1, 1.4, 1.7):
        got = evaluate(ker.infinite(functools.partial(network, w_std=w_std)), SINGLE[0])
        close(got, by_textbook(X1, w_std=w_std)[1], 1e-5)
    assert len(traced) == 1


def test_vmap_over_sets():
    sets = jnp.asarray(np.stack([X1[:4], X1[2:6], X1[4:]]))
    got = jax.vmap(lambda x: KERNEL(x, jnp.asarray(X2)))(sets)
    assert got.ntk.shape == (3, 4, 6)
    for i, x in enumerate(sets):
        close(stacked(got)[:, i], stacked(KERNEL(x, SINGLE[1])), 1e-6)


def test_vmap_over_hyperparameters():
    def nngp(w_std):
        return ker.infinite(functools.partial(network, w_std=w_std))(SINGLE[0]).nngp

    scales = jnp.asarray([1.1, 1.4])
    for got, w_std in zip(jax.vmap(nngp)(scales), scales, strict=True):
        close(got, by_textbook(X1, w_std=float(w_std))[0], 1e-5)


def test_gradients_in_every_number():
    def loss(numbers):
        w_std, b_std, alpha, rate, factor, eps, learning_rate = numbers

        def network(h):
            h = ker.dense(h, 8, w_std=w_std, b_std=b_std, learning_rate=learning_rate)
            h = factor * ker.dropout(ker.leaky_relu(h, alpha=alpha), rate=rate)
            return ker.dense(ker.layer_norm(h, eps=eps), 1)

        gram = ker.infinite(network)(X1[:5], diagonal=True)
        return jnp.sin(gram.nngp).sum() + jnp.cos(gram.ntk).sum()

    with jax.enable_x64(True):
        numbers = jnp.asarray([1.3, 0.4, 0.2, 0.3, 0.7, 0.1, 0.6])
        got = jax.jit(jax.grad(loss))(numbers)
        value = jax.jit(loss)
        want = [
            (value(numbers + step) - value(numbers - step)) / 2e-6
            for step in 1e-6 * jnp.eye(7)
        ]
        close(got, np.array(want), 1e-8)
        assert (got != 0).all()


def test_shard_map_over_rows():
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))

    def rows(x1, x2):
        return KERNEL(x1, x2).ntk

    mapped = jax.shard_map(
        rows, mesh=mesh, in_specs=(P("rows"), P()), out_specs=P("rows")
    )
    x1, x2 = map(jnp.asarray, SINGLE)
    close(jax.jit(mapped)(x1, x2), KERNEL(x1, x2).ntk, 1e-6)


def gated(h):
    h = ker.gelu(ker.dense(h, 16, b_std=0.1))
    h = ker.dense(h, 16)
    return ker.dense(ker.erf(h) * h, 1)


def convolutional(h):
    h = ker.relu(ker.conv(h, 16, (3,), b_std=0.1))
    return ker.dense(ker.global_avg_pool(ker.relu(ker.conv(h, 16, (3,)))), 1)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        pytest.param(gated, (3,), marks=pytest.mark.slow),
        (convolutional, (5, 2)),
    ],
)
def test_gradient_inside_shard_map(network, shape):
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    kernel = ker.infinite(network)
    rng = np.random.default_rng(0)
    x1, x2 = (rng.normal(size=(n, *shape)).astype(np.float32) for n in (4, 3))
    x1[2] = 0

    def slopes(x1, x2):
        return jax.grad(lambda x: kernel(x, x2).ntk.sum())(x1)

    mapped = jax.shard_map(
        slopes, mesh=mesh, in_specs=(P("rows"), P()), out_specs=P("rows")
    )
    close(jax.jit(mapped)(x1, x2), jax.jit(slopes)(x1, x2), 1e-5)


def test_sharded_inputs():
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, P("rows"))
    x1, x2 = map(jnp.asarray, SINGLE)
    close(KERNEL(jax.device_put(x1, rows), x2).ntk, KERNEL(x1, x2).ntk, 1e-6)


def test_pmap():
    x1, x2 = map(jnp.asarray, SINGLE)
    got = jax.pmap(lambda x: KERNEL(x, x2).ntk)(x1.reshape(4, 2, 3))
    close(got.reshape(8, 6), KERNEL(x1, x2).ntk, 1e-6)


def smooth(x):
    return jnp.cos(x) + x


def test_pickle():
    kernel = ker.infinite(lambda h: ker.elementwise(ker.dense(h, 4), smooth, name="s"))
    for before in (KERNEL, kernel):
        after = pickle.loads(pickle.dumps(before))
        assert after.graph == before.graph
        assert after.numbers == before.numbers
        assert jax.tree.structure(after) == jax.tree.structure(before)
    gram = pickle.loads(pickle.dumps(KERNEL(*SINGLE)))
    close(gram.ntk, KERNEL(*SINGLE).ntk, 0)


def test_export():
    """A program with the kernel inside, and its `Gram` as output."""
    x1, x2 = map(jnp.asarray, SINGLE)
    exported = jax.export.export(jax.jit(lambda x1, x2: KERNEL(x1, x2)))(x1, x2)
    loaded = jax.export.deserialize(exported.serialize())
    got = loaded.call(x1, x2)
    assert isinstance(got, ker.Gram)
    close(stacked(got), stacked(KERNEL(x1, x2)), 1e-6)


def test_plan():
    """Bytes are those of the compiled program; operations grow with the pairs."""
    kernel = ker.infinite(lambda h: ker.dense(ker.relu(ker.dense(h, 8)), 1))
    small, large = kernel.plan((256, 784)), kernel.plan((1024, 784))
    assert small.result_bytes == 2 * 256**2 * 4
    assert large.flops > 2 * 1024**2 * 784 / 2  # the products above the diagonal
    assert 8 < large.flops / small.flops < 20
    assert kernel.plan((1024, 784), (9, 784), ntk=False).result_bytes == 4 * 1024 * 9
    # What no machine holds is no hindrance.
    assert kernel.plan((10**6, 784)).result_bytes == 8 * 10**12
    assert kernel.plan((10**6, 784), diagonal=True).result_bytes == 8 * 10**6


def test_plan_of_positions():
    def convolve(h):
        return ker.relu(ker.conv(h, 4, (3, 3)))

    def network(h):
        h = ker.avg_pool(convolve(h), (2, 2))
        return ker.dense(ker.flatten(convolve(h)), 1)

    plan = ker.infinite(network).plan((3, 8, 8, 2), dtype=jnp.float32)
    assert plan.pairs == (64**2, 64**2, 64**2, 16, 16, 16, 1, 1)
    lines = str(plan).splitlines()
    assert lines[3].split() == "h3 (4, 4, 4) 16 pairs of positions avg_pool".split()
    assert lines[-1].startswith("result 72 B, temporary ")
    flat = ker.infinite(lambda h: ker.dense(ker.flatten(convolve(h)), 1))
    assert flat.plan((3, 8, 8, 2)).flops < plan.flops / 10
