"""The entries of `jaxarch.layers`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxarch import layers

from .entry import Entry

_X = jnp.asarray([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5], [-0.75, 1.5, 0.25]])


_Y = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [0.5, -0.5]])


_SPLINES = layers.KANParams(
    layers=tuple(
        layers.KANLayerParams(
            coefficients=jnp.cos(jnp.arange(3.0 * i * o) + i).reshape(3, i, o),
            residual=jnp.sin(jnp.arange(1.0 * i * o) + 1).reshape(i, o),
            bias=0.1 * jnp.arange(1.0 * o),
            frequencies=None,
            phases=None,
            basis="bspline",
            degree=2,
            domain=(-2.0, 2.0),
            activation="silu",
        )
        for i, o in ((3, 3), (2, 1))
    ),
    num_products=(1, 0),
    arity=2,
)


def _sparse(params, x):
    edges = [jnp.ones(p.coefficients.shape[1:], bool) for p in params.layers]
    norms = layers.kan_edge_norms(layers.kan_mask(params, edges), x)
    return norms, layers.kan_regularizer(norms)


_NAMED = layers.SymbolicKANParams(
    a=(0.5 + 0.1 * _Y, jnp.asarray([[0.7], [-0.4]])),
    b=(0.1 * _Y, jnp.asarray([[0.1], [0.2]])),
    c=(1.0 - 0.2 * _Y, jnp.asarray([[1.5], [-0.5]])),
    d=(jnp.asarray([0.3, -0.2]), jnp.asarray([0.1])),
    functions=(
        (("sin", "0"), ("x^2", "exp"), ("j0", "tanh")),
        (("gaussian",), ("arctan",)),
    ),
    num_products=(0, 0),
    arity=2,
)


_KAN = "Liu et al. 2024, [arXiv:2404.19756](https://arxiv.org/abs/2404.19756)"


_POOL = (
    {"basis": "bspline", "num_intervals": 2},
    {"basis": "chebyshev", "degree": 2},
)


def _selective():
    init = functools.partial(layers.selectable_kan_init, pool=_POOL)
    params = layers.selectable_kan_select(init(jax.random.key(0), 3, 2))
    gates = jnp.asarray([[0.5, -0.5], [0.2, 0.9]])
    return dataclasses.replace(params, gates=gates), jnp.asarray([0.5, -0.6, 0.2])


def _select(params, x):
    y = layers.selectable_kan_apply(params, x, temperature=0.5)
    spread = layers.selectable_kan_spread(params, x)
    return y, spread, layers.selectable_kan_entropy(params)


_SKAN = "Yang et al. 2024 (S-KAN), [arXiv:2408.08338](https://arxiv.org/abs/2408.08338)"


_SAMPLE = jnp.asarray([[0.1, -0.7], [0.9, 0.3], [-0.4, 0.6], [-0.8, -0.2], [0.5, 0.0]])


def _kan_layer():
    return layers.kan_layer_init(
        jax.random.key(0), 2, 3, num_intervals=2, degree=2, init="power"
    )


def _refine(params):
    return layers.kan_layer_refine(params, 4)[0].coefficients


def _adapt(params, x):
    adapted, grid = layers.kan_layer_adapt(params, x, uniform_fraction=0.1)
    return adapted.coefficients, grid


def _bspline(x):
    return layers.bspline_basis(x, num_intervals=3, degree=3, domain=(-1, 1))


def _bases(x, frequencies, phases):
    return (
        layers.chebyshev_basis(x, degree=3),
        layers.legendre_basis(x, degree=3),
        layers.fourier_basis(x, num_frequencies=2),
        layers.rbf_basis(x, num_centers=3, domain=(-1, 1)),
        layers.relu_basis(x, num_intervals=2, degree=2, domain=(-1, 1)),
        layers.sine_basis(x, frequencies, phases),
        layers.wavelet_basis(x, frequencies, phases, kind="shannon"),
    )


ENTRIES = (
    Entry(
        package="layers",
        kind="primitive",
        names=("KANLayerParams", "kan_layer_init", "kan_layer_apply"),
        init=layers.kan_layer_init,
        sizes=(2, 3),
        make=lambda: (layers.kan_layer_apply, (jnp.asarray([0.35, -0.9]),)),
        source="Liu et al. 2024 (KAN), [arXiv:2404.19756]"
        "(https://arxiv.org/abs/2404.19756), section 2; initial values: Rigas et al. "
        "2025, [arXiv:2509.03417](https://arxiv.org/abs/2509.03417)",
        proof="layers of pykan, efficient-kan (with gradients), fast-kan and ChebyKAN, "
        "1e-12, and of jaxKAN, whose parameters are float32, 1e-6; variances of the "
        "initial values by quadrature, 4 standard errors",
        differs="one matrix product for the sum over inputs and functions; scales of "
        "splines and masks belong into the coefficients",
    ),
    Entry(
        package="layers",
        kind="primitive",
        names=("KANParams", "kan_init", "kan_apply"),
        # Outputs that one step of an optimiser does not take beyond zero.
        init=functools.partial(layers.kan_init, init="power"),
        sizes=((2, (1, 1), 3),),
        make=lambda: (layers.kan_apply, (jnp.asarray([0.35, -0.9]),)),
        source="Liu et al. 2024 (KAN), [arXiv:2404.19756]"
        "(https://arxiv.org/abs/2404.19756), section 2.2; product nodes: Liu et al. "
        "2024 (KAN 2.0), [arXiv:2408.10205](https://arxiv.org/abs/2408.10205), section "
        "2",
        proof="a network of efficient-kan, 1e-12; product nodes against a loop",
        differs="no scales and biases of nodes besides those of the layers; grids are "
        "not parameters",
    ),
    Entry(
        package="layers",
        kind="primitive",
        names=("KANConvParams", "kan_conv_init", "kan_conv_apply"),
        init=layers.kan_conv_init,
        sizes=(2, 3, (2, 2)),
        make=lambda: (layers.kan_conv_apply, (0.3 * jnp.ones((3, 3, 2)),)),
        source="Bodner et al. 2024 (Convolutional KANs), [arXiv:2406.13155]"
        "(https://arxiv.org/abs/2406.13155), section 3",
        proof="a loop over windows in one to three dimensions, strides and dilations, "
        "1e-12",
        differs="positions beyond the edge add nothing: zeros are padded after the "
        "functions and not before",
    ),
    Entry(
        package="layers",
        kind="function",
        names=("kan_layer_edges",),
        make=lambda: (
            layers.kan_layer_edges,
            (_kan_layer(), jnp.asarray([0.35, -0.9])),
        ),
    ),
    Entry(
        package="layers",
        kind="function",
        names=("kan_layer_refine", "kan_refine"),
        make=lambda: (_refine, (_kan_layer(),)),
        source="Liu et al. 2024 (KAN), [arXiv:2404.19756]"
        "(https://arxiv.org/abs/2404.19756), section 2.4 (grid extension)",
        proof="from 5 to 10, 15 and 30 intervals the function changes by less than "
        "1e-6 in float32, 1e-14 in float64, on uniform and adapted grids",
        differs="least squares at points inside each new interval in place of a sample",
    ),
    Entry(
        package="layers",
        kind="function",
        names=("kan_layer_adapt", "kan_adapt"),
        make=lambda: (_adapt, (_kan_layer(), _SAMPLE)),
        # Knots are order statistics, whose derivative differences do not see at ties.
        skip=frozenset({"bfloat16", "grad"}),
        source="Liu et al. 2024 (KAN), [arXiv:2404.19756]"
        "(https://arxiv.org/abs/2404.19756), appendix (grids from samples)",
        proof="knots and coefficients of pykan, 1e-12, and of jaxKAN, 1e-6; the least "
        "squares of NumPy, 1e-12; samples of one value and of two points",
        differs="takes samples of any rank, and inputs that never vary",
    ),
    Entry(
        package="layers",
        kind="function",
        names=("bspline_basis",),
        make=lambda: (_bspline, (jnp.asarray([0.35, -0.9, 1.3]),)),
        source="Schoenberg 1946 (closed form); de Boor 1978, *A Practical Guide to "
        "Splines*, chapters IX and X (recursion)",
        proof="SciPy's B-splines and their derivatives of every order, 1e-12, at knots "
        "and outside too; partition of unity; derivatives in the knots by differences",
        differs="symmetric closed forms for degrees 1 to 5 on uniform knots",
    ),
    Entry(
        package="layers",
        kind="function",
        names=(
            "chebyshev_basis",
            "fourier_basis",
            "legendre_basis",
            "rbf_basis",
            "relu_basis",
            "sine_basis",
            "wavelet_basis",
        ),
        make=lambda: (
            _bases,
            (
                jnp.asarray([0.35, -0.9]),
                jnp.asarray([0.5, 2.0]),
                jnp.asarray([0.25, 1.0]),
            ),
        ),
        source="ChebyKAN, [arXiv:2405.07200](https://arxiv.org/abs/2405.07200); "
        "FastKAN, [arXiv:2405.06721](https://arxiv.org/abs/2405.06721); ActNet, "
        "[arXiv:2410.01990](https://arxiv.org/abs/2410.01990) (sine); Wav-KAN, "
        "[arXiv:2405.12832](https://arxiv.org/abs/2405.12832); ReLU-KAN, "
        "[arXiv:2406.02075](https://arxiv.org/abs/2406.02075)",
        proof="SciPy's polynomials; layers of ChebyKAN and fast-kan, 1e-12, and of "
        "jaxKAN, 1e-6; moments of sines and wavelets by quadrature; the spectrum of "
        "the Shannon wavelet",
        differs="the Shannon wavelet is not cut by a window; the variance of a sine "
        "does not cancel",
    ),
    Entry(
        package="layers",
        kind="primitive",
        names=("MLPParams", "mlp_init", "mlp_apply"),
        init=layers.mlp_init,
        sizes=((3, 4, 4, 4, 2),),
        make=lambda: (layers.mlp_apply, (jnp.asarray([0.5, -1.0, 2.0]),)),
        source="He, Zhang, Ren, Sun 2015, [arXiv:1502.01852]"
        "(https://arxiv.org/abs/1502.01852), section 2.2 (initial weights)",
        proof="a looped NumPy version, 1e-13; the mean square of the outputs over "
        "500 draws, 4 standard errors",
        differs="equal hidden layers are one stacked array run by a scan",
    ),
    Entry(
        package="layers",
        kind="function",
        names=("kan_edge_norms", "kan_mask", "kan_regularizer"),
        make=lambda: (_sparse, (_SPLINES, 0.4 * _X)),  # off the knots
        source=f"{_KAN}, section 2.5.1",
        proof="values of pykan 0.2.8, with a product node, 1e-12",
        differs="the entropy is that of pykan's code; finite gradients at dead edges",
    ),
    Entry(
        package="layers",
        kind="transform",
        names=("kan_prune",),
        source=f"{_KAN}, section 2.5.1",
        proof="dead edges and nodes, products too, go without a change of the output, "
        "1e-12; scores by hand",
        differs="what goes leaves its mean in a bias; no layer is ever empty",
    ),
    Entry(
        package="layers",
        kind="transform",
        names=(
            "SymbolicKANParams",
            "kan_formula",
            "kan_symbolic",
            "symbolic_kan_apply",
        ),
        make=lambda: (layers.symbolic_kan_apply, (_NAMED, 0.3 * _X[0])),
        source=f"{_KAN}, section 2.5.1; Liu et al. 2024, "
        "[arXiv:2408.10205](https://arxiv.org/abs/2408.10205) (fit and complexity)",
        proof="functions of NumPy, SciPy and SymPy, 1e-12; five edges named; formulas "
        "recovered from trained networks",
        differs="functions are finite beyond their domains; edges alone are fitted, "
        "training is the user's",
    ),
    Entry(package="layers", kind="transform", names=("kan_plot",)),
    Entry(
        package="layers",
        kind="primitive",
        names=("SelectableKANParams", "selectable_kan_init", "selectable_kan_apply"),
        init=functools.partial(layers.selectable_kan_init, pool=_POOL),
        sizes=(3, 2),
        make=lambda: (layers.selectable_kan_apply, (jnp.asarray([0.5, -0.6, 0.2]),)),
        source=_SKAN,
        proof="one-hot gates are the KAN layer of one basis, to the bit; a NumPy "
        "version, 1e-13",
        differs="the paper's formula was not at hand: a softmax over the pool for each "
        "node",
        state="our choice",
    ),
    Entry(
        package="layers",
        kind="function",
        names=(
            "selectable_kan_entropy",
            "selectable_kan_prune",
            "selectable_kan_select",
            "selectable_kan_spread",
        ),
        make=lambda: (_select, _selective()),
        source=f"{_SKAN} (stages); Krogh, Vedelsby 1994 (spread)",
        proof="five targets, each in the span of one basis of the pool: chosen from "
        "four seeds each; pruned layers are those of one-hot gates, 1e-13",
        differs="gates are no parameters in the first stage; the spread as a penalty, "
        "without which the loss does not choose",
        state="our choice",
    ),
    Entry(
        package="layers",
        kind="primitive",
        names=(
            "SelectableKANConvParams",
            "selectable_kan_conv_init",
            "selectable_kan_conv_apply",
        ),
        init=functools.partial(layers.selectable_kan_conv_init, pool=_POOL),
        sizes=(1, 2, (2,)),
        make=lambda: (
            layers.selectable_kan_conv_apply,
            (jnp.asarray([[0.5], [-0.6], [0.2]]),),
        ),
        source=_SKAN,
        proof="the layer of every window in a loop, 1e-12, in every stage",
        differs="one choice for each channel",
        state="our choice",
    ),
    Entry(package="layers", kind="function", names=("selectable_kan_conv_spread",)),
)
