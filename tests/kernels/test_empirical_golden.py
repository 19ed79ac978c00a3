"""Empirical kernels and expansions against the golden values."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker

from . import networks
from .networks import assert_near

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "empirical.npz"


@pytest.mark.parametrize("method", ["jacobian", "vector_products", "structured"])
def test_golden_ntk(method):
    arrays = np.load(GOLDEN)
    with jax.enable_x64(True):
        f, params = golden_network(arrays)
        x1, x2 = (jnp.asarray(arrays[f"inputs/{v}"]) for v in ("v1", "v2"))
        for form, name in ((True, "trace"), ("diagonal", "diag"), (False, "full")):
            options = {"method": method, "trace_outputs": form}
            got = networks.ntk(f, params, x1, x2, **options)
            assert_near(got, arrays[f"empirical/ntk_{name}"])


def golden_network(arrays):
    """Dense 7, erf, dense 5, GELU, dense 3, in the NTK parameterisation."""
    stds = ((1.3, 0.2), (1.1, 0.1), (0.9, 0.3))
    params = [
        (jnp.asarray(arrays[f"empirical/W{i}"]), jnp.asarray(arrays[f"empirical/b{i}"]))
        for i in range(3)
    ]

    def f(params, h):
        for i, ((w, b), (w_std, b_std)) in enumerate(zip(params, stds, strict=True)):
            h = w_std / np.sqrt(h.size) * (h @ w) + b_std * b[0]
            if i < 2:
                h = jax.lax.erf(h) if i == 0 else jax.nn.gelu(h, approximate=False)
        return h

    return f, params


def test_other_golden_values():
    arrays = np.load(GOLDEN)
    with jax.enable_x64(True):
        f, params = golden_network(arrays)
        x1, x2 = (jnp.asarray(arrays[f"inputs/{v}"]) for v in ("v1", "v2"))
        nngp = ker.empirical_nngp(f, params, x1, x2)
        assert_near(nngp, arrays["empirical/nngp_trace"])
        vector = jnp.asarray(arrays["empirical/vp_cotangent"])
        for tile in (None, 2):
            product = ker.ntk_vector_product(f, params, x1, x2, vector, tile=tile)
            assert_near(product, arrays["empirical/vp"])
        moved = jax.tree.map(lambda p: p + 0.1 * jnp.sign(p), params)
        for name, expanded in (
            ("linearized_f", ker.linearize(f, params)),
            ("taylor2_f", ker.taylor_expand(f, params, degree=2)),
        ):
            got = jax.vmap(expanded, (None, 0))(moved, x1)
            assert_near(got, arrays[f"empirical/{name}"])
