"""The entries of `jaxarch.kernels`."""

import jax
import jax.numpy as jnp

from jaxarch import kernels as ker

from .entry import Entry

_X = jnp.asarray([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5], [-0.75, 1.5, 0.25]])


_Y = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [0.5, -0.5]])


_POINTS = 0.5 * _X[:2] + 0.1


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


_JACOT = (
    "Jacot, Gabriel, Hongler 2018, [arXiv:1806.07572](https://arxiv.org/abs/1806.07572)"
)


_LEE = "Lee et al. 2019, [arXiv:1902.06720](https://arxiv.org/abs/1902.06720)"


_SCALE_MIXTURES = (
    "Lee, Yun, Yang, Lee 2022, [arXiv:2107.01408](https://arxiv.org/abs/2107.01408)"
)


ENTRIES = (
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
)
