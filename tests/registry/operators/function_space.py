"""The entries of layers on functions, whatever their sampling."""

import functools

import jax
import jax.numpy as jnp

from jaxarch import operators as op
from jaxarch.layers import mlp_apply, mlp_init

from ..entry import Entry

_U = jnp.sin(jnp.arange(72.0)).reshape(6, 6, 2)  # a function on a grid
_POINTS = jnp.stack([jnp.linspace(0.0, 1.0, 7) ** 2, jnp.cos(jnp.arange(7.0))], -1)
_CLOUD = jnp.sin(jnp.arange(14.0)).reshape(7, 2), _POINTS, jnp.linspace(0.1, 0.3, 7)
_HEADS = jnp.sin(jnp.arange(126.0)).reshape(3, 7, 3, 2)  # q, k and v of three heads

_PRINCIPLED = "Berner et al. 2025, [arXiv:2506.10973](https://arxiv.org/abs/2506.10973)"
_LOCAL = (
    "Liu-Schiaffini et al. 2024, [arXiv:2402.16845](https://arxiv.org/abs/2402.16845)"
)


def _measures(u, x):
    weights = op.grid_weights(u.shape[:-1], boundary="dirichlet", dtype=u.dtype)
    places = op.grid_points(u.shape[:-1], boundary="dirichlet", dtype=u.dtype)
    return (
        op.integrate(u + places, weights),
        op.domain_mean(u, weights),
        op.domain_mean(u),
        op.trapezoid_weights(x),
        op.trapezoid_weights(x, period=1.25),
    )


def _regrid(u):
    padded = op.domain_pad(u, 0.4)
    return (
        op.resample(u, (9, 4)),
        op.resample(u, (9, 4), boundary="neumann"),
        op.domain_unpad(padded, (5, 6)),
        padded,
    )


def _pointwise(params, u, weights, scale):
    v = op.pointwise(functools.partial(mlp_apply, params, activation=jnp.tanh), u)
    normed = op.instance_norm(v, weights, scale=scale, bias=scale)
    return normed, op.instance_norm(v), op.fourier_positions(u, 2)


def _make_pointwise():
    params = mlp_init(jax.random.key(1), (2, 4, 2))
    weights = op.grid_weights((6, 6), boundary="neumann")
    return _pointwise, (params, _U, weights, jnp.asarray([0.5, 2.0]))


def _integrate_kernel(params, u, y, weights):
    # A smooth activation: gradients are compared with differences.
    kernel = functools.partial(mlp_apply, activation=jnp.tanh)
    return op.kernel_integral_apply(params, u, y, weights, radius=0.8, kernel=kernel)


def _expand(params, tokens):
    return op.patch_expand_apply(params, tokens, shape=(6, 5))


def _attend(q, k, v, weights):
    return tuple(
        op.attention_integral(q, k, v, weights, kind=kind)
        for kind in ("softmax", "galerkin", "fourier")
    )


ENTRIES = (
    Entry(
        package="operators",
        kind="function",
        names=(
            "grid_points",
            "grid_weights",
            "trapezoid_weights",
            "integrate",
            "domain_mean",
        ),
        make=lambda: (_measures, (_U, _POINTS[:, 0])),
        source=_PRINCIPLED,
        proof="integrals in closed form at their orders; SciPy's trapezoidal rule",
        differs="one set of functions for grids, uneven grids and clouds",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("resample", "domain_pad", "domain_unpad"),
        make=lambda: (_regrid, (_U,)),
        source=_PRINCIPLED,
        proof="SciPy's Fourier resampling and polynomials; a spectral filter on padded "
        "grids agrees at shared points, on grids padded by pixels not",
        differs="the padded grid is periodic with the spacing of the grid",
        state="our choice",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("pointwise", "instance_norm", "fourier_positions"),
        make=_make_pointwise,
        source=_PRINCIPLED,
        proof="commutes with subsampling; means in closed form at the order of the "
        "quadrature; layer normalisation over pixels, with its weights, and encodings "
        "of indices fail the same test",
    ),
    Entry(
        package="operators",
        kind="primitive",
        names=(
            "DifferentialConvParams",
            "differential_conv_init",
            "differential_conv_apply",
        ),
        init=op.differential_conv_init,
        sizes=(2, 3),
        make=lambda: (op.differential_conv_apply, (_U,)),
        source=f"{_LOCAL}, section 3.1",
        proof="loops; constants give 0, a sine its directional derivative, at order 1 "
        "and 2 up to every boundary; a plain convolution collapses to a map at each "
        "point",
        differs="functions continue beyond an end evenly or oddly, where the authors' "
        "code pads with zeros; one to three dimensions",
    ),
    Entry(
        package="operators",
        kind="primitive",
        names=("LocalIntegralParams", "local_integral_init", "local_integral_apply"),
        init=functools.partial(op.local_integral_init, radius=0.4),
        sizes=(2, 3),
        make=lambda: (op.local_integral_apply, (_U,)),
        source=f"{_LOCAL}, section 3.2",
        proof="loops; SciPy's splines; the integral in closed form at the order of the "
        "splines",
        differs="splines on a box, which are products over the axes, where the authors "
        "have hats on the rings of a disc",
        state="our choice",
    ),
    Entry(
        package="operators",
        kind="primitive",
        names=("KernelIntegralParams", "kernel_integral_init", "kernel_integral_apply"),
        init=functools.partial(op.kernel_integral_init, hidden=(4,)),
        sizes=(2, 3),
        make=lambda: (_integrate_kernel, _CLOUD),
        source="Li et al. 2020, [arXiv:2003.03485](https://arxiv.org/abs/2003.03485); "
        f"{_PRINCIPLED}",
        proof="loops; an integral in closed form at the order of the quadrature on "
        "even and uneven grids; a point twice with half its weight; sums without "
        "weights and over nearest neighbours fail the same test",
        differs="a smooth window by default, for the order of the quadrature",
    ),
    Entry(
        package="operators",
        kind="record",
        names=("RadiusNeighbors", "radius_neighbors"),
        source=_PRINCIPLED,
        proof="SciPy's k-d tree",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("attention_integral",),
        make=lambda: (_attend, (*_HEADS, _CLOUD[2])),
        source="Kovachki et al. 2021, [arXiv:2108.08481]"
        "(https://arxiv.org/abs/2108.08481); Cao 2021, [arXiv:2105.14995]"
        "(https://arxiv.org/abs/2105.14995)",
        proof="loops; `jax.nn.dot_product_attention` for equal weights; a point twice "
        "with half its weight; uneven grids, where softmax without weights fails",
    ),
    Entry(
        package="operators",
        kind="primitive",
        names=(
            "AttentionIntegralParams",
            "attention_integral_init",
            "attention_integral_apply",
        ),
        init=functools.partial(op.attention_integral_init, num_heads=2),
        sizes=(2, 3),
        make=lambda: (op.attention_integral_apply, (_CLOUD[0], _CLOUD[2])),
        source=_PRINCIPLED,
        proof="as `attention_integral`",
    ),
    Entry(
        package="operators",
        kind="primitive",
        names=("PatchEmbedParams", "patch_embed_init", "patch_embed_apply"),
        init=functools.partial(op.patch_embed_init, patch_size=0.5, num_basis=2),
        sizes=(2, 3),
        make=lambda: (op.patch_embed_apply, (_U,)),
        source=f"{_PRINCIPLED}, section 4",
        proof="moments of polynomials in closed form and of smooth functions by "
        "SciPy's quadrature, at order 4; patches of pixels fail the same test",
        differs="moments of a patch where the paper resamples its pixels",
        state="our choice",
    ),
    Entry(
        package="operators",
        kind="primitive",
        names=("PatchExpandParams", "patch_expand_init", "patch_expand_apply"),
        init=functools.partial(op.patch_expand_init, patch_size=0.5, num_basis=2),
        sizes=(3, 2),
        make=lambda: (
            _expand,
            (jnp.cos(jnp.arange(12.0)).reshape(2, 2, 3),),
        ),
        source=f"{_PRINCIPLED}, section 4",
        proof="NumPy's Legendre polynomials at each point; equal at shared points",
        state="our choice",
    ),
    Entry(
        package="operators",
        kind="function",
        names=("ResolutionReport", "resolution_report"),
        source=_PRINCIPLED,
        proof="functions of known orders, with every verdict, at shared and at other "
        "points, to the floor of float32",
        differs="where an output comes from is measured too: a convolution of pixels "
        "converges, but to a map at each point",
        state="our choice",
    ),
)
