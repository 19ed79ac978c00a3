"""The entries of multigrid operators and MgNO."""

import functools

import jax.numpy as jnp

from jaxarch import operators as op

from ..entry import Entry

_MGNO = "He et al. 2023 (MgNO), [arXiv:2310.19809](https://arxiv.org/abs/2310.19809)"
_GRID = (
    jnp.sin(jnp.arange(9.0)).reshape(3, 3, 1) + jnp.cos(jnp.arange(3.0))[:, None, None]
)

ENTRIES = (
    Entry(
        package="operators",
        kind="primitive",
        names=("MultigridParams", "multigrid_init", "multigrid_apply"),
        init=functools.partial(op.multigrid_init, levels=((1, 0), (1, 1))),
        sizes=(1, 2),
        make=lambda: (op.multigrid_apply, (_GRID,)),
        source=f"{_MGNO}, section 4",
        proof="networks of the authors' code, outputs and gradients 1e-6; with "
        "classical stencils, the textbook convergence of a Poisson solver; linearity; "
        "shifts",
        differs="any size of grid; boundaries hold on the way up, where the authors' "
        "code has zeros",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("poisson_multigrid_params",),
        source="Trottenberg, Oosterlee, Schüller 2001, *Multigrid*, chapter 2",
        proof="at most 0.15 a V(2, 2) cycle at 33 to 513 points a side, Dirichlet, "
        "Neumann and periodic; eigenfunctions of the discrete operator, 1e-11",
        differs="the two Jacobi steps have different weights",
    ),
    Entry(
        package="operators",
        kind="record",
        names=("MultigridLevelParams", "SmootherParams"),
    ),
    Entry(
        package="operators",
        kind="primitive",
        names=("MgNOParams", "mgno_init", "mgno_apply"),
        init=functools.partial(
            op.mgno_init, width=2, num_layers=2, levels=((1, 0), (1, 1))
        ),
        sizes=(1, 1),
        make=lambda: (op.mgno_apply, (_GRID,)),
        source=f"{_MGNO}, section 3",
        proof="`MgNO_DC` and `MgNO_DC_smooth` of the authors' code, outputs and input "
        "gradients 1e-6, norms of all weight gradients 1e-4",
        differs="any size of grid; biases may be functions, as in the paper but not in "
        "the authors' code",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("MgNOLayerParams", "mgno_from_torch"),
    ),
)
