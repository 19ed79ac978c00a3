"""Masks: padding an input changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker
from jaxarch.kernels._graph import Shape
from jaxarch.kernels._mask import masks_of
from jaxarch.kernels._plan import shapes_of

from . import textbook_masks
from .monte_carlo import assert_monte_carlo

RNG = np.random.default_rng(0)
SCALES = {"w_std": 1.4, "b_std": 0.3}


def padded(space, sizes, garbage):
    """Examples `(n, *space, 2)` of given sizes with garbage elsewhere, and the mask."""
    sizes = np.array(sizes)
    x = np.random.default_rng(1).normal(size=(len(sizes), *space, 2)) + 0.3
    mask = textbook_masks.marks(space, sizes)
    return np.where(mask[..., None], x, garbage), mask, sizes


SEQUENCES = padded((7,), [[6], [4], [7], [4]], np.nan)
IMAGES = padded((5, 6), [[5, 6], [4, 4], [4, 2]], np.nan)


def conv_relu(ops, h, window=(3,), **options):
    return ops.relu(ops.conv(h, 4, window, **SCALES, **options))


def sequence(ops, h):
    """Residual branches, windows with and without zeros beyond the edge, a pool.

    Some windows of the pool lie over the end of an example.
    """
    h = ops.conv(h, 4, (3,), **SCALES)
    h = h + ops.conv(ops.relu(h), 4, (2,), **SCALES)
    h = ops.avg_pool(ops.erf(ops.layer_norm(h, eps=0.1)), (2,), strides=1)
    h = conv_relu(ops, h, (2,), padding="VALID")
    return ops.dense(ops.global_avg_pool(ops.dense(h, 4, **SCALES)), 1, **SCALES)


def attentive(ops, h, mechanism="softmax"):
    scales = {"w_query_std": 1.3, "w_key_std": 0.8, "w_out_std": 1.2, "b_std": 0.2}
    h = ops.attention(conv_relu(ops, h), 4, mechanism=mechanism, **scales)
    h = ops.attention(ops.erf(h), 4, mechanism=mechanism, **scales)
    return ops.global_sum_pool(ops.erf(h))


def image(ops, h):
    h = ops.avg_pool(conv_relu(ops, h, (3, 2)), (2, 2))
    h = conv_relu(ops, h, (1, 2), padding="SAME")
    return ops.dense(ops.global_avg_pool(h), 1)


def flat(ops, h):
    h = conv_relu(ops, conv_relu(ops, h, (3, 2)), (2, 1), padding="VALID")
    return ops.dense(ops.flatten(ops.dropout(h, rate=0.2)), 1, **SCALES)


def strided(ops, h):
    h = conv_relu(ops, h, (3, 2), strides=(2, 1), padding="VALID")
    h = ops.conv_transpose(h, 4, (2, 3), strides=(1, 2), padding="VALID", **SCALES)
    h = ops.sum_pool(ops.relu(h), (2, 2), strides=(1, 2), padding="SAME")
    h = ops.conv_transpose(h, 4, (3, 2), strides=(2, 1), **SCALES)
    h = ops.relu(ops.conv_local(ops.relu(h), 4, (2, 2), **SCALES))
    return ops.global_avg_pool(h)


def normalised(ops, h):
    h = ops.layer_norm(ops.conv(h, 4, (3, 2), **SCALES), eps=0.1, axes=(0, 1, 2))
    return conv_relu(ops, h, (2, 2))


NETWORKS = {
    "sequence": (sequence, SEQUENCES),
    "softmax": (attentive, SEQUENCES),
    "relu": (functools.partial(attentive, mechanism="relu"), SEQUENCES),
    "identity": (functools.partial(attentive, mechanism="identity"), SEQUENCES),
    "image": (image, IMAGES),
    "flat": (flat, IMAGES),
    "strided": (strided, IMAGES),
    "normalised": (normalised, IMAGES),
}
# Under its windows over the end of an example `avg_pool` averages what there is.
IN_FULL = ("softmax", "image")
QUICK = ("sequence", "softmax")
# Compiling is what these tests spend their time on.
FAST = {"xla_backend_optimization_level": 0}


@functools.cache
def compiled(name):
    """A function to both kernels as one array."""
    kernel = ker.infinite(lambda h: NETWORKS[name][0](ker, h))

    @functools.partial(jax.jit, compiler_options=FAST, static_argnames="diagonal")
    def run(x1, x2=None, mask1=None, mask2=None, diagonal=False):
        gram = kernel(x1, x2, mask1=mask1, mask2=mask2, diagonal=diagonal)
        return jnp.stack([gram.nngp, gram.ntk])

    return run


@functools.cache
def reference(name):
    """`(2, n, n)` or `(2, n, n, *space, *space)`."""
    network, (x, _, sizes) = NETWORKS[name]
    value = network(textbook_masks, textbook_masks.inputs(x, sizes)).value
    pair = np.stack([value.k, value.t]).swapaxes(2, 3)
    return pair.reshape(2, len(x), len(x), *value.space, *value.space)


def close(got, want, tolerance):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in NETWORKS
    ],
)
def test_against_full_matrices(name):
    """Sequences and images of different sizes, with NaN where they are padded."""
    _, (x, mask, sizes) = NETWORKS[name]
    with jax.enable_x64(True):
        got = compiled(name)(x, mask1=mask)
        close(got, reference(name), 1e-12)
        if name in IN_FULL:  # and as what is there alone, without any mask
            same = np.flatnonzero((sizes == sizes[1]).all(1))
            alone = x[same][(slice(None), *map(slice, sizes[1]))]
            close(got[:, same][:, :, same], compiled(name)(alone), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sequence", "flat"])
def test_other_paths(name):
    """Different masks on both sides, diagonals, float32."""
    _, (x, mask, _) = NETWORKS[name]
    run, want, n = compiled(name), reference(name), np.arange(len(x))
    with jax.enable_x64(True):
        close(run(x, mask1=mask, diagonal=True), want[:, n, n], 1e-12)
        got = run(x[:2], x[1:], mask[:2], mask[1:])
        apart = n[:2, None] != n[1:]  # dropout; roots of rounding at angle 0
        close(got[:, apart], want[:, :2, 1:][:, apart], 1e-12)
        got = run(x[:2], x[1:3], mask[:2], mask[1:3], diagonal=True)
        close(got, want[:, n[:2], n[1:3]], 1e-12)
    single = run(x.astype(np.float32), mask1=mask)
    close(single, want, 2e-6)
    assert single.dtype == np.float32


def test_one_mask():
    """Sums and averages of the data: what `mask1` leaves, and everything of `x2`."""
    x, mask, sizes = SEQUENCES
    y = np.random.default_rng(2).normal(size=(2, *x.shape[1:]))
    sums = np.where(mask[..., None], x, 0).sum(1)
    want = sums @ y.sum(1).T / 2
    means = want / sizes / 7
    with jax.enable_x64(True):
        total = ker.infinite(ker.global_sum_pool)
        close(total(x, y, mask1=mask).nngp, want, 1e-12)
        close(total(y, x, mask2=mask).nngp, want.T, 1e-12)
        average = ker.infinite(ker.global_avg_pool)
        close(average(x, y, mask1=mask).nngp, means, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"scaling": "sqrt", "mechanism": "identity", "embedding": "concat"},
        {"mechanism": "absolute", "embedding": "sum"},
    ],
    ids=["sqrt", "linear"],
)
def test_embeddings(options):
    """Absent positions have none; as what is there alone."""

    def network(h):
        h = ker.attention(h, 4, embed_values=True, b_std=0.2, **options)
        return ker.global_avg_pool(ker.relu(h))

    x, mask = (a[[1, 3]] for a in SEQUENCES[:2])
    with jax.enable_x64(True):
        run = jax.jit(ker.infinite(network).__call__, compiler_options=FAST)
        got, want = run(x, mask1=mask), run(x[:, :4])
        close(got.nngp, want.nngp, 1e-12)
        close(got.ntk, want.ntk, 1e-12)


def windows():
    """Operations, and whether each has as many results as without padding."""
    for window, strides in [((3,), 1), ((2,), 1), ((3,), 2), ((1,), 3), ((4,), 2)]:
        for padding in ("SAME", "VALID"):
            options = {"strides": strides, "padding": padding}
            yield lambda h, w=window, o=options: ker.conv(h, 2, w, **o)
            yield lambda h, w=window, o=options: ker.conv_local(h, 2, w, **o)
            yield lambda h, w=window, o=options: ker.conv_transpose(h, 2, w, **o)
        options = {"strides": strides, "padding": "SAME"}
        yield lambda h, w=window, o=options: ker.sum_pool(h, w, **o)
    yield lambda h: ker.index(h, slice(1, None, 2))
    yield lambda h: ker.conv(h, 2, (3,)) + ker.conv(h, 2, (1,))


def test_as_many_positions_as_without_padding():
    mask = jnp.asarray(np.arange(9)[:, None] < np.arange(4, 10), jnp.float32)
    for network in windows():
        graph = ker.infinite(network).graph
        got = masks_of(graph, shapes_of(graph, Shape((9,), 2)), mask)[-1]
        alone = [shapes_of(graph, Shape((n,), 2))[-1].space[0] for n in range(4, 10)]
        want = np.arange(max(alone)) < np.array(alone)[:, None]
        np.testing.assert_array_equal(got, want.T)


@pytest.mark.slow
def test_no_position_is_left():
    """An example without any position: zeros, also where averages divide by 0."""

    def network(h):
        h = ker.avg_pool(ker.conv(h, 4, (3,), **SCALES), (2,))
        return ker.global_avg_pool(h) + ker.global_avg_pool(ker.attention(h, 4))

    x = jnp.ones((2, 4, 1))
    mask = jnp.asarray([[True] * 4, [False] * 4])

    def total(x, mask):
        gram = ker.infinite(lambda h: ker.dense(network(h), 1))(x, mask1=mask)
        return gram.ntk.sum(), gram

    gradient, gram = jax.jit(jax.grad(total, has_aux=True), compiler_options=FAST)(
        x, mask
    )
    for k in (gram.nngp, gram.ntk):
        assert k[0, 0] > 0
        np.testing.assert_array_equal(k[1], 0)
    assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_gradients():
    """Those of what is there alone, and 0 at what is not, be it NaN."""

    def network(ops, h):
        h = ops.layer_norm(ops.conv(h, 4, (3,), **SCALES))
        h = ops.attention(ops.avg_pool(ops.erf(h), (2,)), 4, w_key_std=2.0)
        return ops.dense(ops.global_avg_pool(ops.relu(h)), 1)

    (x, mask, _), weights = SEQUENCES, np.array([[0.7, -0.4], [1.1, 0.3]])

    @functools.partial(jax.jit, compiler_options=FAST)
    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def gradient(x1, x2, w_std, *masks):
        def build(h):
            return w_std * network(ker, h)

        masks = dict(zip(("mask1", "mask2"), masks, strict=False))
        gram = ker.infinite(build)(x1, x2, **masks)
        return (jnp.sin(gram.nngp) * weights).sum() + (gram.ntk * weights).sum()

    with jax.enable_x64(True):
        one, two, w_std = x[[1, 3]], x[[3, 1]] + 0.1, jnp.asarray(1.3)
        masks = mask[[1, 3]], mask[[3, 1]]
        got = gradient(one, two, w_std, *masks)
        for g, here in zip(got[:2], masks, strict=True):
            np.testing.assert_array_equal(g[~here], 0)
        want = gradient(one[:, :4], two[:, :4], w_std)
        for g, w in zip(got[:2], want[:2], strict=True):
            close(g[:, :4], w, 1e-10)
        close(got[2], want[2], 1e-12)
        others = gradient(x[:2], x[2:], w_std, mask[:2], mask[2:])
        assert all(np.isfinite(g).all() for g in others)


# --- finite networks ---------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax", "relu", "image", "normalised"])
def test_finite_networks_of_what_is_there(name, key):
    network, (x, mask, sizes) = NETWORKS[name]
    model = ker.finite(lambda h: network(ker, h))
    x = jnp.asarray(x, jnp.float32)
    params = model.init(key, x[0])
    alone = x[1][tuple(map(slice, sizes[1]))]
    got = jax.jit(lambda p, x, mask: model.apply(p, x, mask=mask))(
        params, x[1], mask[1]
    )
    want = jax.jit(model.apply)(params, alone)
    if got.ndim > 1:
        assert not got[~mask[1]].any()
        got = got[tuple(map(slice, want.shape[:-1]))]
    close(got, want, 1e-6)


WIDTH = 64


@pytest.mark.slow
def test_monte_carlo(key):
    """Windows over the end of an example too."""

    def network(h):
        h = ker.relu(ker.conv(h, WIDTH, (2,), w_std=1.3, b_std=0.2))
        h = ker.attention(ker.avg_pool(h, (2,), strides=1), WIDTH, b_std=0.2)
        return ker.dense(ker.global_avg_pool(ker.relu(h)), WIDTH, w_std=1.1)

    x, mask = (jnp.asarray(a[:3, :6]) for a in SEQUENCES[:2])
    x = jnp.where(mask[..., None], x, 7).astype(jnp.float32)
    gram = ker.infinite(network)(x, mask1=mask)
    kernels = (gram.nngp, gram.ntk)
    assert_monte_carlo(network, x, kernels, width=WIDTH, draws=200, key=key, mask=mask)


# --- refusals ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "match", "network"),
    [
        (
            NotImplementedError,
            "image_resize: has no kernel with masks",
            lambda h: ker.flatten(ker.image_resize(h, (3,))),
        ),
        (
            NotImplementedError,
            "conv: padding='CIRCULAR' has no kernel with masks",
            lambda h: ker.flatten(ker.conv(h, 4, (3,), padding="CIRCULAR")),
        ),
        (
            NotImplementedError,
            "avg_pool: padding='CIRCULAR' has no kernel with masks",
            lambda h: ker.flatten(ker.avg_pool(h, (2,), padding="CIRCULAR")),
        ),
    ],
)
def test_refused_operations(error, match, network):
    x, mask, _ = SEQUENCES
    with pytest.raises(error, match=match):
        ker.infinite(network)(x, mask1=mask)
    with pytest.raises(error, match=match):
        ker.finite(network).apply((), x[0], mask=mask[0])


def test_refused_masks():
    x, mask, _ = SEQUENCES
    kernel = ker.infinite(lambda h: ker.flatten(h))
    dense = ker.infinite(lambda h: ker.dense(h, 1))
    with pytest.raises(ValueError, match="`mask2` must be None where `x2` is"):
        kernel(x, mask1=mask, mask2=mask)
    with pytest.raises(
        ValueError, match=r"kernel: `mask1` must have shape \(4, 7\), o"
    ):
        kernel(x, mask1=mask[:, 1:])
    with pytest.raises(
        ValueError, match=r"kernel: `mask2` must have shape \(2, 7\), o"
    ):
        kernel(x, x[:2], mask2=mask)
    with pytest.raises(TypeError, match="`mask1` must be a bool array, got float32"):
        kernel(x, mask1=np.ones((4, 7), np.float32))
    with pytest.raises(ValueError, match="masks must be None for a network without op"):
        dense(np.ones((2, 3)), mask1=np.ones(2, bool))
    state = dense.state(np.ones((2, 3)))
    with pytest.raises(ValueError, match="`mask1` and `mask2` must be left out with a"):
        dense(state, mask1=np.ones(2, bool))
    with pytest.raises(ValueError, match=r"apply: `mask` must have shape \(7,\), one"):
        ker.finite(kernel).apply((), x[0], mask=mask)
