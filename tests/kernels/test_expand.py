"""Expansions of a function in its parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxarch import kernels as ker

from . import networks
from .networks import assert_near


def test_expansions_have_the_derivatives_of_the_function():
    f, params, x1, *_ = networks.case(networks.mlp)
    with jax.enable_x64(True):
        x = x1[0]
        direction = jax.tree.map(jnp.cos, params)

        def at(t, g):
            return g(jax.tree.map(lambda p, d: p + t * d, params, direction), x)

        # A polynomial: equal to its interpolant through degree + 1 points.
        expansions = {
            0: ker.taylor_expand(f, params, degree=0),
            1: ker.linearize(f, params),
            3: ker.taylor_expand(f, params, degree=3),
        }
        for degree, expanded in expansions.items():
            nodes = np.linspace(-1, 1, degree + 1)
            values = np.stack([at(t, expanded) for t in nodes])
            coefficients = np.polyfit(nodes, values, degree)
            np.testing.assert_allclose(
                at(1.7, expanded),
                sum(c * 1.7 ** (degree - i) for i, c in enumerate(coefficients)),
                rtol=1e-10,
            )
            # And near the origin it differs from f by the next order alone.
            small = [np.abs(at(t, f) - at(t, expanded)).max() for t in (1e-2, 2e-2)]
            order = np.log2(small[1] / small[0])
            assert abs(order - (degree + 1)) < 0.15


def test_linearised_function_has_the_kernel_of_the_function():
    f, params, x1, x2, full = networks.case(networks.mlp)
    with jax.enable_x64(True):
        elsewhere = jax.tree.map(lambda p: p + 0.3, params)
        got = ker.empirical_ntk(
            ker.linearize(f, params), elsewhere, x1, x2, trace_outputs=False
        )
    assert_near(got, full)
