"""The entries of spectral convolutions, FNO and losses."""

import functools

import jax.numpy as jnp

from jaxarch import operators as op

from ..entry import Entry

_FIELD = jnp.sin(jnp.arange(84.0)).reshape(7, 6, 2)
_OTHER = jnp.cos(jnp.arange(84.0)).reshape(7, 6, 2)
_FNO = (
    "Li et al. 2021, [arXiv:2010.08895](https://arxiv.org/abs/2010.08895); "
    "neuraloperator 2.0.0"
)


def _errors(prediction, target):
    return (
        op.relative_l2(prediction, target),
        op.relative_h1(prediction, target),
        op.relative_h1(prediction, target, kind="difference", lengths=(1.0, 2.0)),
    )


ENTRIES: tuple[Entry, ...] = (
    Entry(
        package="operators",
        kind="primitive",
        names=("SpectralConvParams", "spectral_conv_init", "spectral_conv_apply"),
        init=op.spectral_conv_init,
        sizes=(2, 3, (4, 5)),
        make=lambda: (op.spectral_conv_apply, (_FIELD,)),
        source=_FNO,
        proof="neuralop's outputs and gradients, 1e-6; sums over modes and points in "
        "one to three dimensions, 1e-13, on domains with ends too; band-limited "
        "functions on n and 2 n points, 1e-13",
        differs="weights are real leaves; integrals over a domain with ends, and no "
        "arrays padded to a period; an odd number of points in an axis but the "
        "last moves neuralop's output by one frequency",
    ),
    Entry(
        package="operators",
        kind="primitive",
        names=("FNOParams", "fno_init", "fno_apply"),
        init=functools.partial(op.fno_init, width=4, num_layers=2),
        sizes=(2, 1, (4, 5)),
        make=lambda: (op.fno_apply, (_FIELD,)),
        source=_FNO,
        proof="outputs on two grids and all gradients of a model of neuralop with its "
        "weights (`fno_from_torch`), 1e-6; order 2 on grids of a domain with ends",
        differs="neuralop's defaults alone: dense weights, real data, no "
        "normalisation; a domain with ends is not padded by cells",
    ),
    Entry(package="operators", kind="function", names=("fno_from_torch",)),
    Entry(
        package="operators",
        kind="function",
        names=("relative_h1", "relative_l2"),
        make=lambda: (_errors, (_FIELD, _OTHER)),
        source="He et al. 2023, [arXiv:2310.19809](https://arxiv.org/abs/2310.19809)",
        proof="the authors' code on grids of 16, 27 and 64 points a side, 1e-6; plane "
        "waves and linear functions, 1e-13",
        differs="per example; the norm by differences is in physical units",
    ),
)
