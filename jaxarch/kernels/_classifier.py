r"""Classification with a softmax likelihood under a scale mixture, by sampling.

Lee, Yun, Yang and Lee, *Scale Mixtures of Neural Network Gaussian Processes*
(arXiv:2107.01408), section 3: $f_c \mid s \sim GP(0, s K)$ for every class $c$, one
$s \sim H$ for all of them, and $y_i \sim \mathrm{softmax}(f(x_i))$. The latent values
move by elliptical slice sampling (Murray, Adams and MacKay, arXiv:1001.0175), the scale
by its exact conditional or by a slice update (Neal 2003, *Slice sampling*).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import check_option, check_positive, check_shape, is_concrete
from .._params import params
from ._gp import as_square, einsum, factor, nngp_of
from ._gram import Gram
from ._scale_prior import Delta, InverseGamma, Prior, check_prior, scale_rule


@params
class ClassifierSamples:
    """A Markov chain over the latent values and the scale of a classifier.

    Latent values at the training points are `cholesky @ whitened[i]`. `jitter` is what
    was added to the diagonal, as in `Posterior`.
    """

    cholesky: Array  # (n, n), lower: L
    whitened: Array  # (samples, n, classes): L^-1 f
    scale: Array  # (samples,): s
    log_likelihood: Array  # (samples,): log p(y | f)
    jitter: Array  # (), 0 unless the matrix was not positive definite as given


def sample_classifier(
    key: PRNGKeyArray,
    k_train: Float[ArrayLike, "n n"] | Gram,
    labels: Int[ArrayLike, " n"],
    *,
    num_classes: int,
    prior: Prior | None = None,
    update: str = "exact",
    num_samples: int = 1000,
    num_warmup: int = 500,
    thin: int = 1,
) -> ClassifierSamples:
    r"""Samples latent values and scale of a softmax classifier given its labels.

    $$s \sim H, \qquad f_c \mid s \sim N(0, s K), \quad c = 1, \dots, C, \qquad
        p(y_i = c \mid f) = \frac{e^{f_{ic}}}{\sum_k e^{f_{ik}}}.$$

    With $K = L L^\top$ and $f = \sqrt s\, L z$, one step of the chain is an elliptical
    slice update of $z \sim N(0, I)$ given $s$, then one of $s$:

    - `update="exact"`, for an `InverseGamma(a, b)` alone: a draw from
      $s \mid f \sim IG(a + nC/2,\ b + \tfrac12 \sum_c f_c^\top K^{-1} f_c)$. It holds
      $f$ fixed, so that one step changes $\log s$ by about $\sqrt{2 / (nC)}$ and no
      more: with hundreds of labels and ten classes the scale takes many steps to find
      its place.
    - `update="slice"`, for any prior: a slice update of $\log s$ with $z$ fixed, so
      that $f$ moves with $s$: slow where the labels determine $f$.

    The scale does not move for a `Delta`, nor without a prior, where it is 1. The chain
    starts where the prior density of $\log s$ is largest, with $z$ a draw from its
    prior. blackjax (the extra `jaxarch[bayes]`) takes the steps, in JAX's default
    floating dtype; results are in that of `k_train`, at least float32. Under `vmap`
    over keys the chains run side by side. Time O(n^3) once, then O(n^2 C) for each
    proposal of the elliptical slice, a handful a step.

    Args:
        key: Of the whole chain.
        k_train: Covariance of the training points, shape `(n, n)`; a `Gram` means its
            `nngp`. If it has no Cholesky factor, jitter is added as in `condition`.
        labels: Classes 0 to `num_classes - 1`, shape `(n,)`.
        num_classes: Number of classes $C$, at least 2.
        prior: Prior $H$ of the scale; `None` means a scale of 1.
        update: `"exact"` or `"slice"`.
        num_samples: Samples to keep.
        num_warmup: Steps before the first of them.
        thin: Steps from one sample to the next.

    Returns:
        The samples, in the order of the chain, for `predict_classes`.

    Raises:
        ImportError: blackjax is not installed.
        TypeError: `prior` or `labels` is of the wrong kind, or a number not an int.
        ValueError: A shape or an option does not fit, `update="exact"` with a prior
            that is no `InverseGamma`, or (outside `jit`) a label is out of range or the
            matrix has no Cholesky factor.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> samples = ker.sample_classifier(
        ...     jax.random.key(0), jnp.eye(3), jnp.array([0, 1, 1]), num_classes=2,
        ...     num_samples=10, num_warmup=10)
        >>> samples.whitened.shape
        (10, 3, 2)
    """
    where = "sample_classifier"
    k = as_square(where, "k_train", nngp_of(k_train))
    labels = as_labels(where, labels, len(k), num_classes)
    check_option(where, "update", update, ("exact", "slice"))
    check_positive(where, num_samples=num_samples, thin=thin)
    if num_warmup != 0:
        check_positive(where, num_warmup=num_warmup)
    if prior is not None:
        check_prior(where, prior)
    fixed = prior is None or isinstance(prior, Delta)
    if update == "exact" and not fixed and not isinstance(prior, InverseGamma):
        raise ValueError(
            f'{where}: `update` must be "slice" for a {type(prior).__name__} (only an '
            'InverseGamma has an exact conditional), got "exact".'
        )
    _blackjax()
    cholesky, jitter = factor(where, "k_train", k)
    # blackjax draws its uniform numbers in the default dtype, whatever the position's.
    work = jnp.result_type(float)
    whitened, scale, log_likelihood = _chain(
        key,
        cholesky.astype(work),
        labels,
        jax.tree.map(lambda a: jnp.asarray(a, work), prior),
        num_classes=num_classes,
        update=None if fixed else update,
        num_samples=num_samples,
        num_warmup=num_warmup,
        thin=thin,
    )
    return ClassifierSamples(
        cholesky=cholesky,
        whitened=whitened.astype(k.dtype),
        scale=scale.astype(k.dtype),
        log_likelihood=log_likelihood.astype(k.dtype),
        jitter=jitter,
    )


def predict_classes(
    samples: ClassifierSamples,
    k_test_train: Float[ArrayLike, "n_test n"] | Gram,
    k_test: Float[ArrayLike, " n_test"] | Gram,
    *,
    key: PRNGKeyArray,
    num_draws: int = 1,
) -> Float[Array, "n_test classes"]:
    r"""Probabilities of the classes at test points, averaged over a chain.

    For every sample it draws, at each test point by itself,

    $$f_* \mid f, s \sim N\big(K_* K^{-1} f,\ s\,(k_{**} - K_* K^{-1} K_*^\top)\big)$$

    and averages $\mathrm{softmax}(f_*)$. Time O(n^2 n_test) once, then O(n n_test C)
    for each sample.

    Args:
        samples: What `sample_classifier` returned.
        k_test_train: Kernel of test points (rows) and training points, shape
            `(n_test, n)`; a `Gram` means its `nngp`.
        k_test: Variances of the test points, shape `(n_test,)`; a `Gram` of pairs means
            its `nngp`.
        key: Of the draws.
        num_draws: Draws for each sample.

    Returns:
        Probabilities, shape `(n_test, classes)`, in the dtype of `samples`.

    Raises:
        TypeError: `samples` is not a `ClassifierSamples`, or `num_draws` not an int.
        ValueError: A shape does not fit, or `num_draws` is below 1.
    """
    where = "predict_classes"
    if not isinstance(samples, ClassifierSamples):
        raise TypeError(
            f"{where}: `samples` must be a ClassifierSamples, got "
            f"{type(samples).__name__}."
        )
    check_positive(where, num_draws=num_draws)
    k_star = as_rows(where, "k_test_train", k_test_train, samples.cholesky)
    k_test = nngp_of(k_test)
    check_shape(where, "k_test", k_test, (len(k_star),))
    return _average(samples, k_star, jnp.asarray(k_test, k_star.dtype), key, num_draws)


@functools.partial(jax.jit, static_argnames="num_draws")
def _average(samples, k_star, k_test, key, num_draws):
    projection = solve_triangular(samples.cholesky, k_star.T, lower=True)  # L^-1 K*'
    variance = jnp.maximum(k_test - (projection * projection).sum(0), 0)
    num_samples, _, num_classes = samples.whitened.shape
    shape = (num_draws, len(k_test), num_classes)

    def add(total, sample):
        key, whitened, scale = sample
        mean = einsum("nt,nc->tc", projection, whitened)
        noise = jax.random.normal(key, shape, mean.dtype)
        f = mean[None] + jnp.sqrt(scale * variance)[None, :, None] * noise
        return total + jax.nn.softmax(f).mean(0), None

    keys = jax.random.split(key, num_samples)
    total = jnp.zeros(shape[1:], variance.dtype)
    total, _ = jax.lax.scan(add, total, (keys, samples.whitened, samples.scale))
    return total / num_samples


@functools.partial(
    jax.jit,
    static_argnames=("num_classes", "update", "num_samples", "num_warmup", "thin"),
)
def _chain(
    key, cholesky, labels, prior, *, num_classes, update, num_samples, num_warmup, thin
):
    """Runs the chain over (z, log s, log likelihood); `update=None` holds s."""
    shape, dtype = (len(cholesky), num_classes), cholesky.dtype
    blackjax = _blackjax()
    mean, variance = (
        jnp.zeros(math.prod(shape), dtype),
        jnp.ones(math.prod(shape), dtype),
    )

    def latent(z):
        return einsum("ij,jc->ic", cholesky, z)

    def step(state, key):
        z, log_s, value = state
        key_z, key_s = jax.random.split(key)
        elliptical = blackjax.elliptical_slice(
            lambda z: softmax_log_prob(jnp.exp(log_s / 2) * latent(z), labels),
            mean=mean,
            cov=variance,
        )
        # blackjax accepts what is strictly above the level. Rounding can put the level
        # at the value itself, above all else within reach: it would try for ever.
        below = value - 8 * jnp.finfo(dtype).eps * jnp.abs(value)
        state = elliptical.init(z)._replace(logdensity=below)
        (z, value), _ = elliptical.step(key_z, state)
        if update == "exact":
            log_s, z = _exact(key_s, prior, log_s, z)
        if update == "slice":
            log_s, value = _slice(blackjax, key_s, prior, log_s, latent(z), labels)
        return z, log_s, value

    key_z, key_chain = jax.random.split(key)
    z = jax.random.normal(key_z, shape, dtype)
    log_s = jnp.zeros((), dtype)
    if prior is not None:
        u, log_weight = scale_rule(prior, jnp.zeros_like, dtype)
        log_s = u[jnp.argmax(log_weight)]
    value = softmax_log_prob(jnp.exp(log_s / 2) * latent(z), labels)

    def sample(state, key_and_steps):
        key, num_steps = key_and_steps
        state = jax.lax.fori_loop(
            0, num_steps, lambda i, s: step(s, jax.random.fold_in(key, i)), state
        )
        z, log_s, value = state
        return state, (jnp.exp(log_s / 2) * z, jnp.exp(log_s), value)

    # The warm-up is part of the way to the first sample: the step compiles once.
    num_steps = np.full(num_samples, thin, np.int32)
    num_steps[0] += num_warmup
    keys = jax.random.split(key_chain, num_samples)
    state = z, log_s, value
    return jax.lax.scan(sample, state, (keys, jnp.asarray(num_steps)))[1]


# blackjax has no Gibbs step for a conditional that can be drawn from.
def _exact(key, prior, log_s, z):
    """Draws `s | f` for an inverse gamma; f, and so `sqrt(s) z`, stays."""
    shape = prior.a + z.size / 2
    rate = prior.b + jnp.exp(log_s) * (z * z).sum() / 2
    drawn = jnp.log(rate) - jax.random.loggamma(key, shape, (), z.dtype)
    return drawn, jnp.exp((log_s - drawn) / 2) * z


def _slice(blackjax, key, prior, log_s, latent, labels):
    """Updates log s given z, where `f = sqrt(s) latent`."""

    def log_density(u):
        f = jnp.exp(u / 2) * latent
        return prior.log_prob(jnp.exp(u)) + u + softmax_log_prob(f, labels)

    univariate = blackjax.coordinate_slice(
        log_density, interval=blackjax.mcmc.slice.stepping_out
    )
    state, _ = univariate.step(key, univariate.init(log_s))
    log_s = state.position
    return log_s, softmax_log_prob(jnp.exp(log_s / 2) * latent, labels)


def softmax_log_prob(f: Array, labels: Array) -> Array:
    """Returns `sum_i log softmax(f_i)[labels_i]` over the last two axes of f."""
    chosen = jnp.take_along_axis(
        jax.nn.log_softmax(f), jnp.broadcast_to(labels[:, None], (*f.shape[:-1], 1)), -1
    )
    return chosen.sum((-2, -1))


def as_labels(where: str, labels: ArrayLike, n: int, num_classes: int) -> Array:
    """Returns `labels` as an array if they are (n,) classes, in range if known."""
    check_positive(where, num_classes=num_classes)
    if num_classes < 2:
        raise ValueError(f"{where}: `num_classes` must be at least 2, got 1.")
    check_shape(where, "labels", labels, (n,))
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{where}: `labels` must be integers, got {labels.dtype}.")
    if is_concrete(labels):
        known = np.asarray(labels)
        low, high = known.min(), known.max()
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"{where}: `labels` must be from 0 to {num_classes - 1}, got {low} to "
                f"{high}."
            )
    return labels


def as_rows(where: str, name: str, k: Any, like: Array) -> Array:
    """Returns a kernel between new points (rows) and those of `like`, (n, n)."""
    k = nngp_of(k)
    n, shape = len(like), jnp.shape(k)
    if len(shape) != 2 or shape[1] != n or not shape[0]:
        raise ValueError(
            f"{where}: `{name}` must have shape (points, {n}) with points >= 1 (rows "
            f"are the new points), got {shape}."
        )
    return jnp.asarray(k, like.dtype)


def _blackjax() -> Any:
    try:
        import blackjax
    except ImportError as error:
        raise ImportError(
            "sample_classifier: needs blackjax, which the extra `jaxarch[bayes]` "
            "installs."
        ) from error
    return blackjax
