"""Networks with a random scale of their last layer: laws before and after training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxarch import kernels as ker

IMAGE = jnp.asarray(np.random.default_rng(2).normal(size=(4, 4, 2)), jnp.float32)
VECTOR = jnp.asarray([0.5, -1.0, 2.0])


def two_layers(h, width=16, features=1, **last):
    h = ker.erf(ker.dense(h, width, w_std=1.4, b_std=0.3))
    return ker.dense(h, features, w_std=1.2, b_std=0.2, **last)


def shared_below(h):
    """The third operation with parameters, whose own are the second in the tuple."""
    for _ in range(2):
        h = ker.relu(ker.dense(h, 3, name="shared"))
    return ker.dense(h, 2)


def convolved(h, conv, after):
    return after(conv(ker.relu(ker.conv(h, 3, (3, 3))), 2, (2, 2), b_std=0.3))


# A network, an example, and which of its params are those of the last layer.
NETWORKS = {
    "dense": (two_layers, VECTOR, 1),
    "one layer": (functools.partial(ker.dense, features=2), VECTOR, 0),
    "standard": (
        functools.partial(two_layers, parameterization="standard", s=(2.0, 3.0)),
        VECTOR,
        1,
    ),
    "residual, no bias, times 3": (
        lambda h: 3.0 * ker.dense(ker.erf(h + ker.dense(h, 3)), 2, b_std=None),
        VECTOR,
        1,
    ),
    "shared below": (shared_below, VECTOR, 1),
    "conv, pool": (
        functools.partial(convolved, conv=ker.conv, after=ker.global_avg_pool),
        IMAGE,
        1,
    ),
    "conv_local, flatten": (
        functools.partial(convolved, conv=ker.conv_local, after=ker.flatten),
        IMAGE,
        1,
    ),
    "conv_transpose, pool, index": (
        functools.partial(
            convolved,
            conv=ker.conv_transpose,
            after=lambda h: ker.index(ker.avg_pool(h, (2, 2)), 0),
        ),
        IMAGE,
        1,
    ),
    "attention, dense": (
        lambda h: ker.dense(
            ker.flatten(ker.attention(h, 4, num_heads=2, key_features=3)), 2
        ),
        IMAGE[0],
        1,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_layer_is_multiplied(name, key):
    """One factor sqrt(s) on its parameters, hence on the output, and nothing else."""
    network, x, last = NETWORKS[name]
    model = ker.finite(network)

    @jax.jit
    def draw(key, s):
        params, drawn = ker.scale_mixture_init(key, model, x, prior=ker.Delta(s))
        return params, model.apply(params, x), drawn

    one, want, _ = draw(key, 1.0)
    four, got, s = draw(key, 4.0)
    assert s == 4
    assert jax.tree.structure(four) == jax.tree.structure(one)
    for i, (p, q) in enumerate(zip(four, one, strict=True)):
        factor = 2 if i == last else 1
        jax.tree.map(
            lambda p, q, c=factor: np.testing.assert_allclose(p, c * q, rtol=1e-6), p, q
        )
    np.testing.assert_allclose(got, 2 * want, rtol=1e-5, atol=1e-6)


def test_takes_the_model_of_a_kernel(key):
    model = ker.finite(ker.infinite(two_layers))
    (_, one), _ = ker.scale_mixture_init(key, model, VECTOR, prior=ker.Delta(1.0))
    (_, nine), _ = ker.scale_mixture_init(key, model, VECTOR, prior=ker.Delta(9.0))
    np.testing.assert_array_equal(nine.weight, 3 * one.weight)


def log_gamma(s):
    return jnp.log(s) - s


PRIORS = {
    "half-Cauchy": (ker.HalfCauchy(0.5), scipy.stats.halfcauchy(scale=0.5)),
    "own": (ker.ScalePrior(log_gamma), scipy.stats.gamma(2.0)),
}
MODEL_SMALL = ker.finite(two_layers)


@pytest.mark.parametrize("name", PRIORS)
def test_scales_follow_the_prior(name, key):
    prior, law = PRIORS[name]

    @jax.jit
    @jax.vmap
    def draw(key):
        params, s = ker.scale_mixture_init(key, MODEL_SMALL, VECTOR, prior=prior)
        return s, (params[1].weight ** 2).mean(), (params[0].weight ** 2).mean()

    s, last, first = draw(jax.random.split(key, 500))
    assert scipy.stats.kstest(np.asarray(s), law.cdf).pvalue > 0.01
    # The weights know it: 16 of them estimate their variance to sqrt(2 / 16).
    ratio = np.log(last / s)
    assert abs(ratio.mean() + 1 / 16) < 4 * ratio.std() / np.sqrt(len(s))
    assert abs(np.corrcoef(np.log(s), np.log(first))[0, 1]) < 4 / np.sqrt(len(s))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes_and_jit(dtype):
    with jax.enable_x64(dtype == "float64"):
        key, x = jax.random.key(0), jnp.ones(3, dtype)
        prior = ker.HalfCauchy(jnp.asarray(1.5))
        params, s = ker.scale_mixture_init(key, MODEL_SMALL, x, prior=prior)
        assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        assert s.dtype == ("float64" if dtype == "float64" else "float32")
        jitted = jax.jit(ker.scale_mixture_init)(key, MODEL_SMALL, x, prior=prior)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(
                np.asarray(a, float), np.asarray(b, float), rtol=1e-2
            ),
            jitted,
            (params, s),
        )


def test_a_shape_is_enough(key):
    x = jax.ShapeDtypeStruct((3,), jnp.float32)
    params, _ = ker.scale_mixture_init(key, MODEL_SMALL, x, prior=ker.HalfCauchy(1.0))
    assert params[0].weight.shape == (16, 3)


def test_legacy_keys():
    legacy = jax.random.key_data(jax.random.key(0))
    params, _ = ker.scale_mixture_init(
        legacy, MODEL_SMALL, VECTOR, prior=ker.Delta(1.0)
    )
    assert np.isfinite(params[0].weight).all()


# --- refusals ---------------------------------------------------------------------


def gated(h):
    return ker.dense(h, 2) * ker.dense(h, 2)


def used_twice(h):
    h = ker.relu(ker.dense(h, 3, name="W"))
    return ker.dense(h, 3, name="W")


REFUSED = {
    "nonlinearity": (lambda h: ker.relu(ker.dense(h, 2)), "linear in .*; got relu"),
    "two layers": (lambda h: ker.dense(h, 2) + ker.dense(h, 2), "; got add"),
    "product": (gated, "; got multiply"),
    "layer_norm": (lambda h: ker.layer_norm(ker.dense(h, 2)), "; got layer_norm"),
    "dropout": (lambda h: ker.dropout(ker.dense(h, 2), rate=0.5), "; got dropout"),
    "attention": (
        lambda h: ker.attention(ker.conv(h, 4, (1,)), 4, num_heads=2, key_features=3),
        "; got attention",
    ),
    "no layer": (lambda h: 2.0 * h, "; got input"),
    "shared": (used_twice, "got dense with the name 'W', which 2 operations share"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name, key):
    network, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"scale_mixture_init: .*{message}"):
        ker.scale_mixture_init(key, ker.finite(network), VECTOR, prior=ker.Delta(1.0))


def test_refuses_other_arguments(key):
    with pytest.raises(TypeError, match="`model` must be a Model .* got function"):
        ker.scale_mixture_init(key, two_layers, VECTOR, prior=ker.Delta(1.0))  # pyright: ignore
    with pytest.raises(TypeError, match="scale_mixture_init: `prior` must be .* float"):
        ker.scale_mixture_init(key, MODEL_SMALL, VECTOR, prior=1.0)  # pyright: ignore
    with pytest.raises(ValueError, match="scale_mixture_init: `prior.a` .* positive"):
        ker.scale_mixture_init(
            key, MODEL_SMALL, VECTOR, prior=ker.InverseGamma(0.0, 1.0)
        )
    with pytest.raises(ValueError, match="`x` must have shape"):
        ker.scale_mixture_init(key, MODEL_SMALL, POINTS, prior=ker.Delta(1.0))


# --- at initialisation ------------------------------------------------------------

POINTS = jnp.asarray([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]])
WIDE = functools.partial(two_layers, width=4096, features=2)


@pytest.fixture(scope="module")
def drawn():
    """Outputs of 2000 networks of width 4096, `(2000, points, outputs)`."""
    model = ker.finite(WIDE)

    def draw(key):
        params, _ = ker.scale_mixture_init(
            key, model, POINTS[0], prior=ker.InverseGamma(1.5, 1.5)
        )
        return jax.vmap(model.apply, (None, 0))(params, POINTS)

    keys = jax.random.split(jax.random.key(3), 2000)
    draw_all = jax.jit(lambda keys: jax.lax.map(draw, keys, batch_size=20))
    return np.asarray(draw_all(keys), np.float64)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, -1.0), (0.7, 1.2)])
def test_wide_networks_are_a_student_t_process(drawn, weights):
    """Kolmogorov-Smirnov; the Gaussians with their variance and with K are rejected."""
    k = np.asarray(ker.infinite(WIDE)(POINTS).nngp, np.float64)
    combined = np.einsum("p,npo->no", weights, drawn)[:, 0]
    variance = np.asarray(weights) @ k @ np.asarray(weights)
    t = scipy.stats.t(df=3, scale=np.sqrt(variance))  # IG(1.5, 1.5): b / a = 1
    assert scipy.stats.kstest(combined, t.cdf).pvalue > 0.01
    for scale in (t.std(), np.sqrt(variance)):
        normal = scipy.stats.norm(scale=scale)
        assert scipy.stats.kstest(combined, normal.cdf).pvalue < 1e-3


def test_one_scale_for_a_whole_network(drawn):
    """Outputs, and inputs of zero covariance, are uncorrelated but not independent."""
    k = np.asarray(ker.infinite(WIDE)(POINTS).nngp, np.float64)
    residual = drawn[:, 1, 0] - k[0, 1] / k[0, 0] * drawn[:, 0, 0]
    for one, two in (
        (drawn[:, 0, 0], drawn[:, 0, 1]),
        (drawn[:, 0, 0], drawn[:, 1, 1]),
        (drawn[:, 0, 0], residual),
    ):
        assert scipy.stats.spearmanr(one, two).pvalue > 0.01
        squares = scipy.stats.spearmanr(one**2, two**2)
        assert squares.statistic > 0.1
        assert squares.pvalue < 1e-3


# --- after training ---------------------------------------------------------------

X = np.random.default_rng(5).normal(size=(6, 4)).astype(np.float32)
TRAIN, TEST = slice(0, 4), slice(4, 6)
Y = jnp.asarray([1.5, -1.0, 0.5, -2.0])
TRAINED = ker.InverseGamma(1.5, 1.0)


def hidden_relu(h):
    h = ker.relu(ker.dense(h, 512, w_std=1.5, b_std=0.3))
    return ker.dense(h, 1, w_std=1.2, b_std=0.2)


MODEL = ker.finite(hidden_relu)


@jax.jit
def descend(keys, rates, step, num_steps):
    """Outputs at the test points of networks trained in steps, and their scales."""

    def one(key):
        params, s = ker.scale_mixture_init(key, MODEL, X[0], prior=TRAINED)

        def outputs(params, x):
            return jax.vmap(MODEL.apply, (None, 0))(params, x)[:, 0]

        def loss(params):
            return ((outputs(params, X[TRAIN]) - Y) ** 2).sum() / (2 * len(Y))

        def update(_, params):
            return tuple(
                jax.tree.map(lambda p, g, rate=rate: p - step * rate * g, *pair)
                for rate, *pair in zip(
                    rates, params, jax.grad(loss)(params), strict=True
                )
            )

        return outputs(jax.lax.fori_loop(0, num_steps, update, params), X[TEST]), s

    return jax.lax.map(one, keys, batch_size=20)


def ensemble(rates, step, num_steps):
    keys = jax.random.split(jax.random.key(7), 1500)
    f, s = descend(keys, rates, step, num_steps)
    return np.asarray(f, np.float64), np.asarray(s, np.float64)


@functools.partial(jax.jit, static_argnames=("ntk_of",))
def moments(ntk_of, s, time):
    """Means and variances at the test points for each of `s`, `(len(s), 2)`."""
    k = ker.infinite(hidden_relu)(X)

    def one(s):
        gram = ker.Gram(nngp=s * k.nngp, ntk=ntk_of(s, k))
        inside, across, beyond = (
            jax.tree.map(lambda k, rows=rows, cols=cols: k[rows, cols], gram)
            for rows, cols in ((TRAIN, TRAIN), (TEST, TRAIN), (TEST, TEST))
        )
        found = ker.predict(ker.train(inside, Y, t=time), across, beyond)
        return found.mean, found.variance

    return jax.vmap(one)(s)


def descended(s, k):
    return k.nngp + s * (k.ntk - k.nngp)


def plain(s, k):
    return k.ntk


def whole(s, k):
    return s * k.ntk


def last(s, k):
    return k.nngp


def gaussians(ntk_of, s, time=None):
    mean, variance = moments(ntk_of, jnp.asarray(s, jnp.float32), time)
    return np.asarray(mean, np.float64), np.sqrt(np.asarray(variance, np.float64))


def mixture_pvalue(values, point, ntk_of, time=None):
    """Kolmogorov-Smirnov of `values` against the mixture over the prior."""
    quantiles = (np.arange(400) + 0.5) / 400
    s = scipy.stats.invgamma(TRAINED.a, scale=TRAINED.b).ppf(quantiles)
    mean, deviation = (m[:, point] for m in gaussians(ntk_of, s, time))

    def cdf(f):
        return scipy.stats.norm.cdf(f[:, None], mean, deviation).mean(1)

    return scipy.stats.kstest(values, cdf).pvalue


@pytest.mark.slow
def test_descent_gives_the_mixture():
    """Gradient descent with small steps, stopped early; all layers are trained."""
    time = 2.0
    f, s = ensemble((1.0, 1.0), time / 400, 400)
    for point in (0, 1):
        values = f[:, point]
        assert mixture_pvalue(values, point, descended, time) > 0.01
        normal = scipy.stats.norm(values.mean(), values.std())
        assert scipy.stats.kstest(values, normal.cdf).pvalue < 1e-3

    def given(ntk_of):
        """Of the law given s, among the small ones and among the large ones."""
        mean, deviation = gaussians(ntk_of, s, time)
        z, small = (f - mean) / deviation, s < np.median(s)
        parts = [z[rows, point] for rows in (small, ~small) for point in (0, 1)]
        return min(scipy.stats.kstest(part, "norm").pvalue for part in parts)

    assert given(descended) > 0.01
    assert given(plain) < 1e-6  # a tangent kernel that the scale leaves alone
    assert given(whole) < 1e-6  # one that is multiplied by it


@pytest.mark.slow
def test_descent_of_the_last_layer_gives_a_student_t():
    """Its mean is that of the Gaussian process, and its scale matrix b / a times."""
    f, _ = ensemble((0.0, 1.0), 1.0, 200)
    (mean,), (deviation,) = gaussians(last, [TRAINED.b / TRAINED.a])
    for point in (0, 1):
        t = scipy.stats.t(2 * TRAINED.a, mean[point], deviation[point])
        assert scipy.stats.kstest(f[:, point], t.cdf).pvalue > 0.01
        normal = scipy.stats.norm(mean[point], t.std())
        assert scipy.stats.kstest(f[:, point], normal.cdf).pvalue < 1e-3
        assert mixture_pvalue(f[:, point], point, last) > 0.01
