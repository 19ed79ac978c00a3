"""Every public thing by its kind: ONE entry drives the generic tests and the docs.

`tests/test_registry.py` and `tests/interop/` run what an entry makes, and
`docs/make_systems.py` writes `docs/systems.md` from its words. To add a primitive, add
an entry; to cover another subpackage, add its name to `SUBPACKAGES`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxarch import graph as gr, kernels as ker, layers

SUBPACKAGES = ("graph", "kernels", "layers")

KINDS = (
    "primitive",
    "record",
    "function",
    "kernel",
    "transform",
    "training rule",
)
STATES = ("proved", "our choice", "not reproduced")
CHECKS = (
    "bfloat16",
    "export",
    "float32",
    "float64",
    "grad",
    "jit",
    "pickle",
    "pmap",
    "shard_map",
    "vmap",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One system: its public names, how to run it small, and what is known of it."""

    package: str  # one of SUBPACKAGES
    kind: str  # one of KINDS
    names: tuple[str, ...]  # every public name that belongs to it
    # A zero-argument function that gives (callable, float32 arguments); all arguments
    # are pytrees of arrays. Module-level callables pickle. A primitive leaves the
    # params out: the tests put `init(key, *sizes)` in front of the arguments. Gradients
    # are compared with differences, so stay off kinks (a kernel's `x1 == x2`).
    make: Callable[[], tuple[Callable, tuple]] | None = None
    init: Callable | None = None
    sizes: tuple = ()
    skip: frozenset[str] = frozenset()  # checks that do not apply: names of CHECKS
    # docs/systems.md, in Markdown; an entry without a source has no row there.
    source: str = ""
    proof: str = ""
    differs: str = ""
    state: str = "proved"  # one of STATES

    def __str__(self) -> str:
        return f"{self.package}.{self.names[-1]}"

    @functools.cache  # noqa: B019
    def call(self) -> tuple[Callable, tuple, tuple]:
        """Gives (callable, arguments, the `in_axes` that batch it)."""
        assert self.make is not None
        function, args = self.make()
        in_axes = (0,) * len(args)
        if self.kind == "primitive":
            args = (self.params(), *args)
            in_axes = (None, *in_axes)
        return function, args, in_axes

    def params(self, **options: Any) -> Any:
        """Gives the params of a primitive."""
        assert self.init is not None
        return self.init(jax.random.key(0), *self.sizes, **options)


_X = jnp.asarray([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5], [-0.75, 1.5, 0.25]])
_Y = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [0.5, -0.5]])
_POINTS = 0.5 * _X[:2] + 0.1


def _relational():
    return gr.Graph.from_edges(
        [0, 0, 1, 2, 2, 1],
        [1, 2, 2, 0, 1, 1],
        num_nodes=4,
        edge_types=[0, 1, 0, 1, 0, 1],
        num_relations=2,
        weights=[0.5, 0.25, 0.75, 0.3, 0.6, 0.9],
    ).pad(num_edges=8)


def _pass_messages(graph, x, relations, boundary):
    return tuple(
        gr.message_pass(graph, x, relations, boundary, message=m, aggregate=a)
        for m, a in (("distmult", "pna"), ("transe", "sum"))
    )


def _messages():
    x = jnp.sin(jnp.arange(16.0)).reshape(4, 2, 2)
    return _pass_messages, (_relational(), x, x[:2] + 1, jnp.cos(x))


def _paths(graph, boundary):
    return tuple(
        gr.bellman_ford(graph, boundary, semiring, num_steps=3)
        for semiring in (gr.MIN_PLUS, gr.SUM_TIMES, gr.LOG_SUM_EXP)
    )


def _walks(graph):
    ranks = gr.personalized_pagerank(graph, 0, num_steps=20)
    return ranks, gr.katz_index(graph, 0, beta=0.3, num_steps=20)


def _network(h):
    h = ker.dense(h, 8, w_std=1.5, b_std=0.5)
    h = h + ker.dense(ker.relu(h), 8, w_std=1.2, b_std=0.1)
    return ker.dense(ker.erf(h), 1)


def _regress(k_train, k_test_train, k_test, y):
    posterior = ker.condition(k_train, y, noise=0.1)
    predictive = ker.predict(posterior, k_test_train, k_test)
    return predictive, ker.log_evidence(posterior)


def _mix(k_train, k_test_train, k_test, y, prior):
    posterior = ker.condition(k_train, y, noise=0.1, prior=prior)
    mixture = ker.predict(posterior, k_test_train, k_test, noisy=True)
    outputs = mixture.mean, mixture.variance, mixture.cdf(mixture.mean + 0.1)
    return ker.log_evidence(posterior), outputs


def _train(gram, y):
    trained = ker.train(gram, y, t=2.0, noise=0.1)
    return ker.predict(trained, gram, gram).mean


def _logistic(f, y):
    return -jnp.mean(jax.nn.log_sigmoid(y * f))


def _descend(k, y, f0):
    network = ker.gradient_descent(
        _logistic, k, y, t=2.0, learning_rate=0.5, momentum=0.5, noise=0.1, f0=f0
    )
    return network.outputs, ker.predict(network, k, f0=f0).mean


_WEIGHTS = (0.3 * _X @ _X, jnp.asarray([[0.5, -0.25, 1.0], [1.0, 0.75, -0.5]]))


def _two_layers(params, x):
    return params[1] @ jnp.sin(params[0] @ x)


def _empirical(params, x1, x2):
    ntk = ker.empirical_ntk(_two_layers, params, x1, x2, method="structured")
    nngp = ker.empirical_nngp(_two_layers, params, x1, x2)
    return ntk, ker.ntk_vector_product(_two_layers, params, x1, x2, _Y), nngp


def _covariances():
    k = _X @ _X.T / 3 + 0.5 * jnp.eye(3)
    return k, 0.5 * k[:2], jnp.diagonal(k)[:2], _Y


_LABELS = jnp.asarray([0, 1, 1])
_PRIOR = ker.InverseGamma(2.0, 1.0)


def _sample(k_train, k_test_train, k_test):
    samples = ker.sample_classifier(
        jax.random.key(0),
        k_train,
        _LABELS,
        num_classes=2,
        prior=_PRIOR,
        num_samples=3,
        num_warmup=2,
    )
    p = ker.predict_classes(samples, k_test_train, k_test, key=jax.random.key(1))
    return samples, p


def _bound(params, k, k_cross, k_points):
    key = jax.random.key(0)
    bound = ker.variational_bound(
        params, k, k_cross, k_points, _LABELS[:2], key=key, num_data=3, prior=_PRIOR
    )
    return bound, ker.variational_predict(params, k, k_cross, k_points, key=key)


def _variational():
    k, k_cross, k_points, _ = _covariances()
    params = ker.variational_init(k, 2, prior=_PRIOR, covariance="full")
    return _bound, (params, k, k_cross, k_points)


_IMAGES = jnp.asarray([0.5, -1.0, 2.0, 0.3, 1.5, 0.2, -0.7, 1.0]).reshape(2, 2, 2, 1)


def _convolutional(h):
    h = ker.relu(ker.conv(h, 4, (2, 2), w_std=1.4, b_std=0.2))
    return ker.dense(ker.global_avg_pool(h), 1)


def _shared(h):
    u = ker.dense(h, 3, w_std=0.5, b_std=0.2, name="V")
    v = ker.dense(ker.relu(u), 3, w_std=0.5, b_std=0.2, name="V")
    return ker.dense(ker.erf(v) * u + ker.relu(v), 1)


def _graph(h):
    h = ker.aggregate(ker.dense(h, 4, b_std=0.2), ([0, 1, 1, 0], [1, 0, 1, 0]))
    return ker.dense(ker.flatten(ker.relu(h)), 1)


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


_JACOT = (
    "Jacot, Gabriel, Hongler 2018, [arXiv:1806.07572](https://arxiv.org/abs/1806.07572)"
)
_LEE = "Lee et al. 2019, [arXiv:1902.06720](https://arxiv.org/abs/1902.06720)"

_SKAN = "Yang et al. 2024 (S-KAN), [arXiv:2408.08338](https://arxiv.org/abs/2408.08338)"
_SCALE_MIXTURES = (
    "Lee, Yun, Yang, Lee 2022, [arXiv:2107.01408](https://arxiv.org/abs/2107.01408)"
)

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


_PAIRS = jnp.sin(jnp.arange(120.0)).reshape(5, 3, 2, 2, 2)  # five (3, 2, heads, dim)


def _attend_pairs(q, k_jk, k_ij, v_jk, v_ij):
    square = (k_jk[:2], k_ij[:, :2]), (v_jk[:2], v_ij[:, :2])
    return gr.pivotal_attention(q, *square, block_size=1)


def _shortest_paths(w):
    x = jnp.stack([w, jnp.ones_like(w), jnp.eye(3, dtype=w.dtype)], -1)
    params = gr.compile_floyd_warshall(3, scale=2.0, dtype=w.dtype)
    return gr.floydnet_apply(params, x)


_NBFNET = "Zhu et al. 2021, [arXiv:2106.06935](https://arxiv.org/abs/2106.06935)"

ENTRIES = (
    Entry(
        package="graph",
        kind="function",
        names=("pivotal_attention",),
        make=lambda: (_attend_pairs, tuple(_PAIRS)),
        source="FloydNet, [arXiv:2601.19094](https://arxiv.org/abs/2601.19094)",
        proof="values of the authors' code, 1e-10, pairs and triples, masks and cap; "
        "looped NumPy; `jax.nn.dot_product_attention` for single nodes",
        differs="any number of nodes; blocks of pivots; heads behind the nodes; a mask "
        "is True where a pivot takes part",
    ),
    Entry(
        package="graph",
        kind="primitive",
        names=("FloydBlockParams", "floyd_block_init", "floyd_block_apply"),
        init=functools.partial(gr.floyd_block_init, num_heads=2, bias=True),
        sizes=(4,),
        make=lambda: (
            gr.floyd_block_apply,
            (_PAIRS.reshape(-1)[:36].reshape(3, 3, 4),),
        ),
        source="FloydNet, [arXiv:2601.19094](https://arxiv.org/abs/2601.19094)",
        proof="four stacks of the authors' blocks, 1e-10, and their gradients, 1e-9; "
        "permutations of the nodes",
        differs="triples; no dropout",
    ),
    Entry(
        package="graph",
        kind="primitive",
        names=("FloydNetParams", "floydnet_init", "floydnet_apply"),
        init=functools.partial(
            gr.floydnet_init, num_blocks=2, num_heads=2, readout="node"
        ),
        sizes=(4, 4, 2),
        make=lambda: (
            gr.floydnet_apply,
            (_PAIRS.reshape(-1)[:36].reshape(3, 3, 4),),
        ),
        source="FloydNet, [arXiv:2601.19094](https://arxiv.org/abs/2601.19094)",
        proof="sums of states in NumPy, 1e-12; permutations; padding changes nothing; "
        "it tells apart the named graphs that two- and three-dimensional folklore "
        "Weisfeiler-Leman do, and no others",
        differs="any features of pairs; a head from `mlp_init`; triples; no diffusion "
        "inputs",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("compile_floyd_warshall",),
        make=lambda: (_shortest_paths, (jnp.abs(_X),)),
        source="Floyd 1962, *Algorithm 97: Shortest Path*; FloydNet, [arXiv:2601.19094]"
        "(https://arxiv.org/abs/2601.19094)",
        proof="NetworkX: within the stated bound at three scales, 1e-12 for integer "
        "lengths",
        differs="the parameters are ours; squares in place of single pivots",
        state="our choice",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=("Kernel", "infinite"),
        # The Gram of near-duplicates is compared elsewhere; bfloat16 inputs lose it.
        make=lambda: (ker.infinite(_network), (_POINTS, _X)),
        source=f"{_JACOT}; Lee et al. 2018, "
        "[arXiv:1711.00165](https://arxiv.org/abs/1711.00165)",
        proof="values of neural-tangents 0.6.5, 1e-10; Monte Carlo of finite networks; "
        "near-duplicates against a longdouble recursion, 3e-6 in float32 at depth 10",
        differs="carries 1 - cos and not the covariance; means of branches "
        "enter sums; depth is free without biases and with rectifiers only",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=("DenseParams", "Model", "finite"),
        source=_JACOT,
        proof="empirical kernels of eight architectures, 4 standard errors + 5/width",
    ),
    Entry(package="kernels", kind="record", names=("Forecast", "Gram", "State")),
    Entry(
        package="kernels",
        kind="kernel",
        names=("dense",),
        make=lambda: (ker.infinite(_shared), (_POINTS, _X)),
        source=f"{_JACOT}; standard parameterisation: Sohl-Dickstein et al. 2020, "
        "[arXiv:2001.07301](https://arxiv.org/abs/2001.07301)",
        proof="values of neural-tangents 0.6.5, 1e-10, in both parameterisations; "
        "shared layers: recursions and quadrature in NumPy, 1e-10, Monte Carlo",
        differs="a learning rate for each layer; layers of one name share weights",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=("ConvParams", "conv", "conv_local", "conv_transpose"),
        make=lambda: (ker.infinite(_convolutional), (_IMAGES, _IMAGES[::-1] + 0.5)),
        source="Novak et al. 2019, "
        "[arXiv:1810.05148](https://arxiv.org/abs/1810.05148); Garriga-Alonso et al. "
        "2019, [arXiv:1808.05587](https://arxiv.org/abs/1808.05587); Arora et al. "
        "2019, [arXiv:1904.11955](https://arxiv.org/abs/1904.11955)",
        proof="full matrices in NumPy, 1e-12; values of neural-tangents 0.6.5, 1e-10; "
        "Monte Carlo of finite networks",
        differs="pairs of positions are computed offset by offset; which pairs are "
        "needed is decided for each value",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=(
            "avg_pool",
            "flatten",
            "global_avg_pool",
            "global_sum_pool",
            "image_resize",
            "index",
            "sum_pool",
        ),
        source="Novak et al. 2019, "
        "[arXiv:1810.05148](https://arxiv.org/abs/1810.05148), section 3",
        proof="full matrices in NumPy, 1e-12; values of neural-tangents 0.6.5, 1e-10; "
        "Monte Carlo of finite networks",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=("aggregate",),
        make=lambda: (ker.infinite(_graph), (_IMAGES[:, 0], _IMAGES[::-1, 1] + 0.5)),
        source="Du et al. 2019, [arXiv:1905.13192](https://arxiv.org/abs/1905.13192)",
        proof="full matrices in NumPy, 1e-12; Monte Carlo of finite networks",
        differs="dense pattern or edges; one pattern for all examples",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=("AttentionParams", "attention"),
        source="Hron et al. 2020, [arXiv:2006.10540](https://arxiv.org/abs/2006.10540)",
        proof="full matrices in NumPy, 1e-12; values of neural-tangents 0.6.5, 1e-10; "
        "Monte Carlo of finite networks",
        differs="no distance between positions enters their embeddings",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=("relu", "leaky_relu", "absolute", "abrelu", "rectified_monomial"),
        source="Cho, Saul 2009, *Kernel Methods for Deep Learning*, section 2",
        proof="values of neural-tangents 0.6.5 and quadrature in sectors, 1e-10",
        differs="every degree; finite on the diagonal",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=("erf", "sigmoid_like"),
        source="Williams 1997, *Computing with Infinite Networks*, section 3.1",
        proof="values of neural-tangents 0.6.5 and quadrature, 1e-10",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=("gelu",),
        source="Tsuchida, Pearce et al. 2020, "
        "[arXiv:2002.08517](https://arxiv.org/abs/2002.08517)",
        proof="values of neural-tangents 0.6.5 and quadrature, 1e-10",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=(
            "sin",
            "cos",
            "rbf",
            "exp",
            "exp_normalized",
            "gaussian",
            "gabor",
            "sign",
            "hermite",
            "monomial",
            "polynomial",
        ),
        source="Daniely, Frostig, Singer 2016, "
        "[arXiv:1602.05897](https://arxiv.org/abs/1602.05897); Han et al. 2022, "
        "[arXiv:2209.04121](https://arxiv.org/abs/2209.04121)",
        proof="values of neural-tangents 0.6.5 and quadrature, 1e-10",
        differs="Hermite polynomials at every variance, and not at 1 only",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=(
            "elementwise",
            "elementwise_error",
            "mish",
            "silu",
            "softplus",
            "tanh",
        ),
        source="Mehler 1866; Daniely, Frostig, Singer 2016, "
        "[arXiv:1602.05897](https://arxiv.org/abs/1602.05897), section 4 (expansion)",
        proof="quadrature, 1e-10 at variances 0.1 to 16",
        differs="as many terms as matter; NaN where the error estimate is too large",
        state="our choice",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=("elu", "selu"),
        source="Clevert et al. 2015, [arXiv:1511.07289]"
        "(https://arxiv.org/abs/1511.07289); Klambauer et al. 2017, "
        "[arXiv:1706.02515](https://arxiv.org/abs/1706.02515) (the maps)",
        proof="quadrature in sectors with mpmath or fine grids, 1e-10",
        differs="the kernels are ours: radial integrals by erfcx, angles by quadrature",
        state="our choice",
    ),
    Entry(
        package="kernels",
        kind="kernel",
        names=("concatenate", "dropout", "layer_norm"),
        source="Novak et al. 2020, [arXiv:1912.02803]"
        "(https://arxiv.org/abs/1912.02803) (their kernels)",
        proof="values of neural-tangents 0.6.5, 1e-10; Monte Carlo",
        differs="`rate` is the probability to drop; means are tracked",
    ),
    Entry(
        package="kernels",
        kind="function",
        names=("Posterior", "Predictive", "condition", "predict", "log_evidence"),
        make=lambda: (_regress, _covariances()),
        skip=frozenset({"bfloat16"}),  # a Gram in 16 bits is worked on in float32
        source="Rasmussen, Williams 2006, *Gaussian Processes for Machine Learning*, "
        "sections 2.2 and 5.4",
        proof="scipy's multivariate normal; values of neural-tangents 0.6.5, 1e-10",
        differs="one Cholesky with a ladder of jitters, and its own derivative",
    ),
    Entry(
        package="kernels",
        kind="function",
        names=("class_probabilities",),
        make=lambda: (ker.class_probabilities, (_Y, jnp.asarray([0.5, 1.0, 2.0]))),
        source="Rasmussen, Williams 2006, section 6.5 (least-squares classification)",
        proof="adaptive quadrature, 1e-12",
        state="our choice",
    ),
    Entry(
        package="kernels",
        kind="function",
        names=("scale_mixture_init",),
        source="Lee, Yun, Yang, Lee 2022, "
        "[arXiv:2107.01408](https://arxiv.org/abs/2107.01408), section 3",
        proof="Kolmogorov-Smirnov: 2000 networks of width 4096 against the Student-t; "
        "1500 networks after gradient descent against the mixture, and given s",
        differs="any architecture that is linear in its last layer, and any prior",
    ),
    Entry(
        package="kernels",
        kind="function",
        names=("Trained", "train", "max_learning_rate"),
        make=lambda: (
            _train,
            (ker.Gram(nngp=_covariances()[0], ntk=_covariances()[0] * 1.5), _Y),
        ),
        skip=frozenset({"bfloat16"}),
        source=f"{_LEE}, section 2.4 and appendix",
        proof="values of neural-tangents 0.6.5 at five times, 1e-10; matrix "
        "exponentials",
        differs="an absolute `noise`",
    ),
    Entry(
        package="kernels",
        kind="function",
        names=("Descended", "gradient_descent"),
        make=lambda: (_descend, (_covariances()[0], _Y, 0.1 * _Y)),
        # A kernel in 16 bits is worked on in float32. diffrax has one mode of
        # differentiation at a time, no rule for export, and in shard_map it wants
        # check_vma=False.
        skip=frozenset({"bfloat16", "export", "grad", "shard_map"}),
        source=f"{_LEE}, section 2.2",
        proof="values of neural-tangents 0.6.5, 1e-6; `train` for the squared loss, "
        "1e-8; descent on the parameters of a linearised network, first order in its "
        "step; the heavy ball in the limit of small steps",
        differs="keeps the coefficients of the parameters, which give any test points; "
        "weight decay; steps of diffrax",
    ),
    Entry(
        package="kernels",
        kind="function",
        names=(
            "BurrXII",
            "Delta",
            "HalfCauchy",
            "InverseGamma",
            "LogNormal",
            "Mixture",
            "ScalePosterior",
            "ScalePrior",
        ),
        make=lambda: (
            _mix,
            (*_covariances(), ker.BurrXII(jnp.asarray(2.0), jnp.asarray(1.5))),
        ),
        skip=frozenset({"bfloat16"}),  # a Gram in 16 bits is worked on in float32
        source=f"{_SCALE_MIXTURES}, section 3",
        proof="SciPy's multivariate t, 1e-10; quadrature over the scale for six "
        "priors, 1e-10, noise scaled and not",
        differs="a draw has one scale, the authors' sampler one for each coordinate; "
        "an integral over log s in place of importance sampling, which is off by 0.04 "
        "to 0.13 nats; noise outside the scale too",
    ),
    Entry(
        package="kernels",
        kind="function",
        names=("ClassifierSamples", "predict_classes", "sample_classifier"),
        make=lambda: (_sample, _covariances()[:3]),
        # Random numbers differ from dtype to dtype, a slice is not differentiable, and
        # in shard_map a loop that starts from a shared key wants check_vma=False.
        skip=frozenset({"bfloat16", "float32", "grad", "shard_map"}),
        source=f"{_SCALE_MIXTURES}, section 3; Murray, Adams, MacKay 2010, "
        "[arXiv:1001.0175](https://arxiv.org/abs/1001.0175); Neal 2003 (slice)",
        proof="simulation-based calibration of the exact and the slice update of the "
        "scale, p > 0.01, where a wrong exact update gives p < 1e-4; moments by "
        "quadrature, 4 standard errors",
        differs="one scale for all classes; the slices are blackjax's",
    ),
    Entry(
        package="kernels",
        kind="training rule",
        names=(
            "VariationalParams",
            "variational_bound",
            "variational_init",
            "variational_predict",
        ),
        make=_variational,
        # Random numbers differ from dtype to dtype; draws of the scale are
        # differentiable in expectation alone; in shard_map `loggamma` refuses a key
        # that is shared where its parameter is not.
        skip=frozenset({"bfloat16", "float32", "grad", "shard_map"}),
        source=f"{_SCALE_MIXTURES}, section 3",
        proof="divergences by quadrature, 1e-9; the bound by quadrature, 4 standard "
        "errors, and below the evidence; its gradients; the gap after training",
        differs="q(u given s) scales with s, so that the authors' divergence is one; "
        "full covariances too; any prior",
    ),
    Entry(
        package="kernels",
        kind="function",
        names=("empirical_ntk", "empirical_nngp", "ntk_vector_product"),
        make=lambda: (_empirical, (_WEIGHTS, _POINTS, _X)),
        source="Novak, Sohl-Dickstein, Schoenholz 2022, "
        "[arXiv:2206.08720](https://arxiv.org/abs/2206.08720)",
        proof="values of neural-tangents 0.6.5, and gradients taken one at a time for "
        "eight kinds of network, 1e-12 by every method",
        differs="factors or whole gradients, whichever cost less, for each parameter; "
        "embeddings, scan and checkpoint too; custom derivatives and branches are not "
        "looked into",
    ),
    Entry(
        package="kernels",
        kind="transform",
        names=("linearize", "taylor_expand"),
        source=_LEE + ", section 2.2",
        proof="values of neural-tangents 0.6.5, 1e-12; polynomials of their degree, "
        "with a remainder of the next order",
    ),
    Entry(
        package="kernels",
        kind="function",
        names=("StoredMatrix", "gram"),
        source="Gram matrices in tiles: ours, on "
        "[zarr version 3](https://zarr-specs.readthedocs.io/en/latest/v3/core/)",
        proof="closed forms; eight devices, two processes, a killed process that goes "
        "on, damaged tiles: the same bits",
        differs="a log forced to disk after each tile; checksums; a digest of the "
        "computation",
        state="our choice",
    ),
    Entry(
        package="kernels",
        kind="function",
        names=("Solution", "solve"),
        source="Hestenes, Stiefel 1952; Harbrecht, Peters, Schneider 2012 (pivoted "
        "Cholesky); Gardner et al. 2018, "
        "[arXiv:1809.11165](https://arxiv.org/abs/1809.11165), section 4.2",
        proof="numpy.linalg.solve, 1e-7 of the largest weight with `tol` 1e-8",
        differs=r"solves for $\sigma^2 w$; conjugate gradients are lineax's",
    ),
    Entry(
        package="kernels",
        kind="function",
        names=("Estimate", "monte_carlo"),
        source=_LEE + ", section 3 (the comparison); Welford 1962 (the sums)",
        proof="a distribution with known moments; the infinite kernel, 4 standard "
        "errors + 5/width",
        state="our choice",
    ),
    Entry(
        package="graph",
        kind="record",
        names=("Graph",),
        source="Ours",
        proof="NetworkX, SciPy and jraph's fields there and back; the edges as a set",
        state="our choice",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("message_pass",),
        make=_messages,
        # The check takes forward mode too, which a rule for reverse mode refuses; the
        # golden layers hold every gradient.
        skip=frozenset({"grad"}),
        source=f"{_NBFNET}, section 3.2; Corso et al. 2020, "
        "[arXiv:2004.05718](https://arxiv.org/abs/2004.05718), section 2.2 (PNA)",
        proof="16 layers of the authors' PyTorch code, outputs 1e-10 and all gradients "
        "1e-9; lists of messages in NumPy, 1e-13",
        differs="tied extrema share a gradient evenly; masked edges count nowhere; the "
        "second moment of transe is that of x + r also where the authors' fused kernel "
        "takes x^2 + r^2",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("bellman_ford",),
        make=lambda: (
            _paths,
            (_relational(), jnp.asarray([[0.0], [1.5], [0.7], [9.0]])),
        ),
        source=f"{_NBFNET}, section 3.1; Baras, Theodorakopoulos 2010",
        proof="all walks of at most 4 edges by enumeration, 1e-12",
        differs="a tolerance, forward mode only, besides a number of steps",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("shortest_path", "widest_path", "most_reliable_path"),
        source=f"{_NBFNET}, table 1",
        proof="NetworkX on graphs of 200 nodes, 1e-10; all simple paths of a small one",
        differs="where there is no path to be wide the capacity is minus infinity",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("katz_index", "personalized_pagerank"),
        make=lambda: (_walks, (_relational(),)),
        source=f"{_NBFNET}, table 1; Katz 1953; Page et al. 1999",
        proof="linear solves and NetworkX on graphs of 200 nodes, 1e-10",
        differs="PageRank is normalised, which is what dangling nodes that return to "
        "the source amount to",
    ),
    Entry(
        package="graph",
        kind="record",
        names=(
            "LOG_SUM_EXP",
            "MAX_MIN",
            "MAX_TIMES",
            "MIN_PLUS",
            "SUM_TIMES",
            "Semiring",
            "log_sum_exp",
        ),
        source=f"{_NBFNET}, table 1; soft extrema: ours",
        proof="all walks of at most 4 edges by enumeration, 1e-12; the two shortest "
        "walks by a semiring without a scatter",
    ),
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

PRIMITIVES = tuple(entry for entry in ENTRIES if entry.kind == "primitive")
