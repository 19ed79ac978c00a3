"""The entries of the data sets of operators."""

import functools

import jax
import jax.numpy as jnp

from jaxarch import operators as op

from ..entry import Entry

_FNO = "FNO, [arXiv:2010.08895](https://arxiv.org/abs/2010.08895)"
_MGNO = "MgNO, [arXiv:2310.19809](https://arxiv.org/abs/2310.19809)"
_COEFFICIENT = jnp.exp(jax.random.normal(jax.random.key(1), (7, 6, 1)))

_field = functools.partial(
    op.gaussian_random_field, jax.random.key(0), shape=(6, 5), boundary="neumann"
)


ENTRIES: tuple[Entry, ...] = (
    Entry(
        package="operators",
        kind="function",
        names=("gaussian_random_field",),
        # Draws of another dtype are other draws.
        skip=frozenset({"bfloat16", "float32", "float64"}),
        make=lambda: (_field, (jnp.asarray(2.0), jnp.asarray(3.0))),
        source=f"{_FNO}, appendix A.3",
        proof="the covariance operator of every mode, by Monte Carlo; one key is one "
        "function at every resolution",
        differs="products with cosines in place of a transform of noise on the grid, "
        "so that a mode's number does not depend on the grid",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("solve_darcy",),
        skip=frozenset({"shard_map"}),  # where conjugate gradients of JAX do not run
        make=lambda: (op.solve_darcy, (_COEFFICIENT, 1 + _COEFFICIENT**2)),
        source=f"{_FNO}, appendix A.3.2",
        proof="a sparse direct solution (SciPy), 1e-12; order 2 for a manufactured "
        "solution with a smooth and with a jumping coefficient; the maximum principle",
        differs="finite volumes by preconditioned conjugate gradients, which run on "
        "any device",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("darcy_dataset",),
        source=f"{_FNO}, section 5.2; {_MGNO}, section 5",
        proof="the values and the equation; resolutions sample the same functions",
        differs="generated anew; the values of the rough set are our reading of a name",
        state="our choice",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("burgers_dataset",),
        source=f"{_FNO}, section 5.1",
        proof="the solution of Cole and Hopf, 1e-8, and order 4 in the steps; "
        "resolutions sample the same functions",
        differs="generated anew, by exponax; viscosity 0.01, the paper's is 0.1",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("advection_dataset", "diffusion_reaction_dataset"),
        source="DeepONet, [arXiv:1910.03193](https://arxiv.org/abs/1910.03193), "
        "section 4",
        proof="translations of the field; order 2 for a manufactured solution, the "
        "Fourier series of diffusion, the residual of the data",
        differs="generated anew; advection is of periodic Gaussian fields, exact",
        state="our choice",
    ),
)
