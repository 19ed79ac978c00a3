"""MgNO: the authors' outputs and gradients, symmetries, any grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import operators as op

from . import golden

BOUNDARY = {"mgno_dc_a": "dirichlet", "mgno_smooth_b": "neumann"}
RTLAYERS = {"mgno_dc_a": 2, "mgno_smooth_b": 3}


def official(name, dtype):
    case = golden.case(name)
    weights = {k[2:]: a.astype(dtype) for k, a in case.items() if k.startswith("w/")}
    return case, weights, op.mgno_from_torch(weights, boundary=BOUNDARY[name])


@pytest.mark.parametrize("name", sorted(BOUNDARY))
def test_official_weights_give_the_official_outputs_and_gradients(name):
    case, weights, params = official(name, np.float32)
    x = jnp.moveaxis(jnp.asarray(case["in0"]), 1, -1)

    def energy(params, x):
        y = jax.vmap(op.mgno_apply, (None, 0))(params, x)
        return (y**2).sum(), y

    run = jax.jit(jax.value_and_grad(energy, (0, 1), has_aux=True))
    (_, y), (by_params, by_x) = run(params, x)
    np.testing.assert_allclose(np.moveaxis(y, -1, 1), case["out"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.moveaxis(by_x, -1, 1), case["gin0"], atol=1e-6)
    # The norm of the gradient of every array, as the authors' code has them in order.
    # (The smooth network has two transposed convolutions that it never uses.)
    norms = dict(zip(weights, case["gw_norms"], strict=True))
    used = {n: norm for n, norm in norms.items() if norm > 0}
    got = jax.tree.map(jnp.linalg.norm, unstacked(by_params))
    assert len(got) == len(used)
    np.testing.assert_allclose(sorted(got), sorted(used.values()), rtol=1e-4)


def unstacked(params):
    num_others = params.others.bias.shape[0]
    others = [
        jax.tree.map(lambda a, i=i: a[i], params.others) for i in range(num_others)
    ]
    leaves = jax.tree.leaves((params.first, others, params.projection))
    return [leaf.ravel() for leaf in leaves]
