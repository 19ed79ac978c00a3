"""`floyd_block_init` and `floyd_block_apply` against the authors' blocks."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.graph import floyd_block_apply, floyd_block_init

ARRAYS = np.load(pathlib.Path(__file__).parent.parent / "golden" / "floydnet.npz")
CASES = {
    "pre_ln": ({"norm": "layer"}, jax.nn.relu),
    "post_ln": ({"norm": "layer", "norm_position": "post"}, jax.nn.relu),
    "pre_affine_silu": ({"norm": "affine"}, jax.nn.silu),
    "pre_rms_noffn": (
        {"norm": "rms", "expansion": None, "symmetric_mix": False},
        jax.nn.relu,
    ),
}


def golden_params(case, params):
    """Fills `params` with the arrays of a PyTorch block."""
    start = f"floyd_block_{case}/p/0."
    p = {k.removeprefix(start): v for k, v in ARRAYS.items() if k.startswith(start)}
    # The rows are q, k_ij, k_jk, v_ij, v_jk there.
    rows = np.array([0, 2, 1, 4, 3])
    heads = params.qkv.shape[1:3]
    filled = {
        "mix": p.get("c_mix.weight"),
        "mix_bias": p.get("c_mix.bias"),
        "qkv": p["c_qkv.weight"].reshape(5, *heads, -1)[rows],
        "qkv_bias": p["c_qkv.bias"].reshape(5, *heads)[rows],
        "project": p["c_proj.weight"].reshape(-1, *heads),
        "project_bias": p["c_proj.bias"],
        "expand": p.get("ffn.0.weight"),
        "expand_bias": p.get("ffn.0.bias"),
        "contract": p.get("ffn.2.weight"),
        "contract_bias": p.get("ffn.2.bias"),
        "contract_scale": p.get("ffn_scale"),
        "norm_scales": (p["norm1.weight"], p.get("norm2.weight")),
        "norm_biases": (p.get("norm1.bias"), p.get("norm2.bias")),
    }
    want = jax.tree.map(jnp.asarray, type(params)(
        **filled, norm=params.norm, norm_position=params.norm_position
    ))  # fmt: skip
    assert jax.tree.structure(want) == jax.tree.structure(params)
    shapes = [[a.shape for a in jax.tree.leaves(tree)] for tree in (want, params)]
    assert shapes[0] == shapes[1]
    return want


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    options, activation = CASES[case]
    arrays = {
        k: ARRAYS[f"floyd_block_{case}/{k}"]
        for k in ("x", "y", "cot", "gx", "mask")
        if f"floyd_block_{case}/{k}" in ARRAYS
    }
    with jax.enable_x64(True):
        shape = functools.partial(
            floyd_block_init, channels=12, num_heads=3, bias=True, dtype="float64"
        )
        params = jax.eval_shape(lambda k: shape(k, **options), jax.random.key(0))
        params = golden_params(case, params)
        masks = ~jnp.asarray(arrays.get("mask", np.zeros((2, 1, 1, 1, 6), bool)))

        @jax.jit
        def run(x, cotangent):
            def apply(x):
                block = functools.partial(
                    floyd_block_apply, params, activation=activation, block_size=4
                )
                return jax.vmap(lambda x, mask: block(x, mask=mask))(x, masks)

            y, back = jax.vjp(apply, x)
            return y, *back(cotangent)

        y, gx = run(jnp.asarray(arrays["x"]), jnp.asarray(arrays["cot"]))
    np.testing.assert_allclose(y, arrays["y"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(gx, arrays["gx"], rtol=0, atol=1e-9)


def test_starts_as_the_identity(key):
    x = jnp.sin(jnp.arange(72.0)).reshape(3, 3, 8)
    params = floyd_block_init(key, 8, num_heads=2)
    np.testing.assert_array_equal(floyd_block_apply(params, x), x)
    # Xavier: uniform with variance 2 / (fan in + fan out), here 6 layers of one size.
    wide = floyd_block_init(key, 128, num_heads=4)
    for weight, variance in ((wide.qkv, 1 / (3 * 128)), (wide.expand, 2 / (5 * 128))):
        assert weight.size > 5e4
        np.testing.assert_allclose(weight.var(), variance, rtol=0.02)
        np.testing.assert_allclose(abs(weight).max(), (3 * variance) ** 0.5, rtol=1e-3)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (
            {"channels": 9, "num_heads": 2},
            ValueError,
            "`channels` must be a multiple of `num_heads` = 2, got 9.",
        ),
        (
            {"channels": 8, "num_heads": 2, "order": 3, "symmetric_mix": True},
            ValueError,
            "`symmetric_mix` needs pairs (`order=2`), got `order=3`.",
        ),
        (
            {"channels": 8, "num_heads": 2, "norm": "batch"},
            ValueError,
            "`norm` must be one of 'affine', 'layer', 'rms', 'none', got 'batch'.",
        ),
        (
            {"channels": 8, "num_heads": 2, "norm_position": "in"},
            ValueError,
            "`norm_position` must be one of 'pre', 'post', got 'in'.",
        ),
        (
            {"channels": 8, "num_heads": 2.0},
            TypeError,
            "`num_heads` must be an int, got float.",
        ),
        (
            {"channels": 8, "num_heads": 2, "expansion": 0},
            ValueError,
            "`expansion` must be at least 1, got 0.",
        ),
        (
            {"channels": 8, "num_heads": 2, "dtype": jnp.int32},
            ValueError,
            "`dtype` must be a real floating dtype, got int32.",
        ),
    ],
)
def test_init_errors(key, kwargs, error, message):
    with pytest.raises(error, match=f"^{re.escape('floyd_block_init: ' + message)}$"):
        floyd_block_init(key, **kwargs)


@pytest.mark.parametrize("shape", [(3, 8), (3, 4, 8), (3, 3, 7), (2, 3, 3, 8)])
def test_apply_errors(key, shape):
    params = floyd_block_init(key, 8, num_heads=2)
    message = (
        "floyd_block_apply: `x` must have shape (n, n, 8) (one graph; use jax.vmap for "
        f"a batch), got {shape}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        floyd_block_apply(params, jnp.ones(shape))
