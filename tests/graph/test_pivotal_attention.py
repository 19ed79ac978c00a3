"""`pivotal_attention` against the authors' values, looped NumPy and plain attention."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxarch.graph import pivotal_attention

ARRAYS = np.load(pathlib.Path(__file__).parent.parent / "golden" / "floydnet.npz")
PAIRS = ("q_ik", "k_jk", "k_ij", "v_jk", "v_ij")
TRIPLES = ("q_ijk", "k_pjk", "k_ipk", "k_ijp", "v_pjk", "v_ipk", "v_ijp")
CASES = {
    "floyd_pa": (PAIRS, {}),
    "floyd_pa_mask": (PAIRS, {}),
    "floyd_pa_cap": (PAIRS, {"softmax_cap": 2.0}),
    "floyd_pa_addmask": (PAIRS, {}),
    "floyd_pa3": (TRIPLES, {}),
}


def grouped(q, *arrays):
    order = len(arrays) // 2
    return q, arrays[:order], arrays[order:]


def attend(arrays, mask=None, bias=None, **options):
    return pivotal_attention(*grouped(*arrays), mask=mask, bias=bias, **options)


def reference(q, keys, values, mask, scale):
    """Pairs by loops, in float64; zeros where no pivot takes part."""
    q, *arrays = (np.asarray(a, np.float64) for a in (q, *keys, *values))
    k_jk, k_ij, v_jk, v_ij = arrays
    y = np.zeros_like(q)
    for i, k, h in np.ndindex(q.shape[:3]):
        pivots = [j for j in range(len(k_jk)) if mask[h, i, k, j]]
        if pivots:
            scores = [
                scale * q[i, k, h] @ (k_ij[i, j, h] + k_jk[j, k, h]) for j in pivots
            ]
            weights = np.exp(np.array(scores) - max(scores))
            weights /= weights.sum()
            y[i, k, h] = sum(
                w * (v_ij[i, j, h] + v_jk[j, k, h])
                for w, j in zip(weights, pivots, strict=True)
            )
    return y


def rectangle(rng, dtype="float64", i=3, k=4, pivots=5, heads=2, dim=3):
    shapes = [(i, k), (pivots, k), (i, pivots), (pivots, k), (i, pivots)]
    return tuple(
        jnp.asarray(rng.normal(size=(*shape, heads, dim)), dtype) for shape in shapes
    )


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("case", CASES)
def test_golden(case, block_size):
    names, options = CASES[case]
    with jax.enable_x64(True):
        options = options | {"block_size": block_size}
        if case == "floyd_pa_mask":
            options["mask"] = ~jnp.asarray(ARRAYS[f"{case}/mask"])
        if case == "floyd_pa_addmask":
            options["bias"] = jnp.asarray(ARRAYS[f"{case}/mask"])
        mapped = {k: v for k, v in options.items() if k in ("mask", "bias")}
        rest = {k: v for k, v in options.items() if k not in mapped}
        arrays = [
            jnp.moveaxis(jnp.asarray(ARRAYS[f"{case}/{n}"]), 1, -2) for n in names
        ]
        got = jax.vmap(lambda a, m: attend(a, **m, **rest))(arrays, mapped)
    want = np.moveaxis(ARRAYS[f"{case}/y"], 1, -2)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)


def test_single_nodes_are_ordinary_attention():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(7, 2, 4)), "float32") for _ in range(3))
    want = jax.nn.dot_product_attention(q, k, v)
    np.testing.assert_allclose(
        pivotal_attention(q, (k,), (v,), block_size=3), want, atol=1e-6
    )


@pytest.mark.parametrize("block_size", [1, 2, 5])
def test_blocks_of_a_rectangle(block_size):
    rng = np.random.default_rng(1)
    mask = rng.random((2, 3, 4, 5)) < 0.6
    mask[..., 0] = False  # a first block without any pivot
    with jax.enable_x64(True):
        arrays = rectangle(rng)
        got = attend(arrays, mask=jnp.asarray(mask), block_size=block_size, scale=40.0)
    want = reference(*grouped(*arrays), mask, 40.0)
    some = np.moveaxis(mask.any(-1), 0, -1)
    np.testing.assert_allclose(got[some], want[some], rtol=1e-13, atol=1e-13)
    # Where no pivot takes part all have the same weight.
    plain = np.ones_like(mask)
    uniform = reference(*grouped(*arrays), plain, 0.0)
    assert not some.all()
    np.testing.assert_allclose(got[~some], uniform[~some], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("block_size", [None, 2])
def test_gradients(block_size):
    rng = np.random.default_rng(2)
    mask = rng.random((1, 3, 1, 5)) < 0.5
    mask[:, 0] = False
    with jax.enable_x64(True):
        arrays = rectangle(rng)
        bias = jnp.asarray(rng.normal(size=(2, 1, 4, 5))).at[0, 0, 1].set(-jnp.inf)

        @jax.jit
        def f(arrays, finite, scale):
            moved = jnp.where(jnp.isinf(bias), bias, finite)
            options = {"bias": moved, "scale": scale, "softmax_cap": 3.0}
            return attend(
                arrays, mask=jnp.asarray(mask), block_size=block_size, **options
            )

        args = arrays, jnp.where(jnp.isinf(bias), 0.0, bias), jnp.asarray(0.7)
        check_grads(f, args, order=1)  # forward and reverse
        gradients = jax.tree.leaves(jax.grad(lambda *a: f(*a).sum(), (0, 1, 2))(*args))
        assert all(np.isfinite(g).all() for g in gradients)


def test_minus_infinity_is_a_mask():
    rng = np.random.default_rng(3)
    arrays = rectangle(rng, "float32")
    mask = jnp.asarray(rng.random((2, 3, 4, 5)) < 0.5)
    bias = jnp.where(mask, 0.0, -jnp.inf)
    np.testing.assert_array_equal(attend(arrays, bias=bias), attend(arrays, mask=mask))


def test_memory_of_scores_does_not_grow_as_the_cube():
    def temporaries(n, block_size):
        arrays = [jax.ShapeDtypeStruct((n, n, 4, 2), jnp.float32)] * 5

        def loss(arrays):
            return attend(arrays, block_size=block_size).sum()

        compiled = jax.jit(jax.value_and_grad(loss)).lower(arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    n = 96
    scores = 4 * 4 * n**3  # bytes
    assert temporaries(n, None) > 1.9 * scores
    assert temporaries(n, 8) < 0.95 * scores


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Roundings of inputs, weights and the output, relative to values of about 3.
    [("bfloat16", 0.05), ("float16", 0.006), ("float32", 1e-6)],
)
def test_dtypes(dtype, tolerance):
    rng = np.random.default_rng(4)
    arrays = rectangle(rng, dtype, pivots=16, dim=8)
    got = attend(arrays, block_size=6)
    assert got.dtype == dtype
    mask = np.ones((2, 3, 4, 16), bool)
    want = reference(*grouped(*arrays), mask, 1 / 4)
    np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=tolerance)


SHAPE = (3, 4, 2, 3)


def call(q=SHAPE, keys=((5, 4, 2, 3), (3, 5, 2, 3)), values=None, **options):
    values = keys if values is None else values
    arrays = (jnp.ones(q), [jnp.ones(s) for s in keys], [jnp.ones(s) for s in values])
    return pivotal_attention(*arrays, **options)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (
            functools.partial(call, q=(3, 4)),
            ValueError,
            "`q` must have shape (n_1, ..., n_r, heads, dim) with r from 1 to 6, got "
            "(3, 4).",
        ),
        (
            functools.partial(call, keys=((5, 4, 2, 3),)),
            ValueError,
            "`keys` must have 2 arrays, one for each node of a tuple of `q`, got 1.",
        ),
        (
            functools.partial(call, values=((5, 4, 2, 3), (3, 6, 2, 3))),
            ValueError,
            "`values[1]` must have shape (3, 5, 2, 3), got (3, 6, 2, 3).",
        ),
        (
            functools.partial(call, mask=jnp.ones((3, 4, 5), bool)),
            ValueError,
            "`mask` must have shape (2, 3, 4, 5), or 1 in place of any of these, got "
            "(3, 4, 5).",
        ),
        (
            functools.partial(call, bias=jnp.ones((2, 3, 4, 4))),
            ValueError,
            "`bias` must have shape (2, 3, 4, 5), or 1 in place of any of these, got "
            "(2, 3, 4, 4).",
        ),
        (
            functools.partial(call, mask=jnp.ones((1, 1, 1, 5))),
            TypeError,
            "`mask` must be boolean, got float32; numbers to add to the scores are "
            "`bias`.",
        ),
        (
            functools.partial(call, softmax_cap=0.0),
            ValueError,
            "`softmax_cap` must be above 0, got 0.0.",
        ),
        (
            functools.partial(call, block_size=0),
            ValueError,
            "`block_size` must be at least 1, got 0.",
        ),
    ],
)
def test_errors(run, error, message):
    with pytest.raises(error, match=f"^{re.escape('pivotal_attention: ' + message)}$"):
        run()
