"""The entries of DeepONet and its variants."""

import functools

import jax.numpy as jnp

from jaxarch import operators as ops

from ..entry import Entry

_U = jnp.asarray([0.5, -1.0, 2.0])
_Y = jnp.asarray([[0.2, 0.4], [-0.3, 0.9]])
_BASIS = jnp.asarray([[0.5, -1.0], [0.25, 1.5]])


def _deeponet(params, u, y):
    return ops.deeponet_apply(params, u, y, activation=jnp.tanh)


def _pod_deeponet(params, basis, u, y):
    return ops.pod_deeponet_apply(params, basis, u, y=y, activation=jnp.tanh)


def _mionet(params, u, v, y):
    return ops.mionet_apply(params, (u, v), y, activation=jnp.tanh)


def _wave(u, y):
    return jnp.sin(jnp.multiply.outer(y[:, 0], u)) * y[:, 1:]


def _derivatives(u, y):
    return ops.coordinate_derivatives(functools.partial(_wave, u), y)


_DEEPONET = "Lu et al. 2019, [arXiv:1910.03193](https://arxiv.org/abs/1910.03193)"
_COMPARISON = "Lu et al. 2021, [arXiv:2111.05512](https://arxiv.org/abs/2111.05512)"

ENTRIES: tuple[Entry, ...] = (
    Entry(
        package="operators",
        kind="primitive",
        names=("DeepONetParams", "deeponet_init", "deeponet_apply"),
        init=functools.partial(ops.deeponet_init, num_outputs=2),
        sizes=((3, 4, 4), (2, 4, 4)),
        make=lambda: (_deeponet, (_U, _Y)),
        source=_DEEPONET,
        proof="values and gradients of DeepXDE 1.15.0, 1e-6, unaligned, aligned and "
        "with all four kinds of several outputs; stacked branches against loops",
        differs="initial weights are those of `mlp_init`; any functions as branch and "
        "trunk; `benchmarks/deeponet_antiderivative.py` has the paper's experiment",
    ),
    Entry(
        package="operators",
        kind="primitive",
        names=("PODDeepONetParams", "pod_deeponet_init", "pod_deeponet_apply"),
        init=ops.pod_deeponet_init,
        sizes=((3, 4, 4), (2, 2)),
        make=lambda: (_pod_deeponet, (_BASIS, _U, _Y)),
        source=_COMPARISON,
        proof="values and gradients of DeepXDE 1.15.0, 1e-6; loops with a trunk",
        differs="the basis is an argument, no parameter; the mean is added by `mean=`",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("pod_basis",),
        source=_COMPARISON,
        proof="modes of known amplitudes, 1e-12",
    ),
    Entry(
        package="operators",
        kind="primitive",
        names=("MIONetParams", "mionet_init", "mionet_apply"),
        init=ops.mionet_init,
        sizes=(((3, 4), (2, 4)), (2, 4)),
        make=lambda: (_mionet, (_U, _U[:2], _Y)),
        source="Jin, Meng, Lu 2022, "
        "[arXiv:2202.06137](https://arxiv.org/abs/2202.06137)",
        proof="values and gradients of DeepXDE 1.15.0, 1e-6; every way to merge "
        "against loops",
        differs="any number of functions",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("coordinate_derivatives",),
        make=lambda: (_derivatives, (_U, _Y)),
        source="Wang, Wang, Perdikaris 2021, "
        "[arXiv:2103.10974](https://arxiv.org/abs/2103.10974)",
        proof="closed forms, 1e-12; an antiderivative learnt from its equation alone",
    ),
    Entry(
        package="operators",
        kind="function",
        names=(
            "deeponet_from_torch",
            "mionet_from_torch",
            "pod_deeponet_from_torch",
        ),
    ),
    Entry(
        package="operators",
        kind="function",
        names=("antiderivative_dataset", "pendulum_dataset"),
        source=_DEEPONET,
        proof="SciPy's splines and `solve_ivp`; a manufactured solution; statistics",
        differs="fields are polynomials through Chebyshev points, integrated exactly",
    ),
)
