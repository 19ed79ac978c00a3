r"""Sparse variational classification under a scale mixture, by minibatches.

Lee, Yun, Yang and Lee, *Scale Mixtures of Neural Network Gaussian Processes*
(arXiv:2107.01408), section 3. The model is that of `sample_classifier`; $u_c$ are the
latent values of class $c$ at $M$ inducing points with kernel $K = K_{zz} = L L^\top$:

$$q(s) = IG(a', b'), \qquad q(u_c \mid s) = N(\mu_c,\ s S_c).$$
"""

import functools

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import digamma, gammaln
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import check_option, check_positive, check_shape
from .._params import params
from ._classifier import as_labels, as_rows, softmax_log_prob
from ._gp import as_square, check_scalar, einsum, factor, nngp_of
from ._gram import Gram
from ._scale_prior import Delta, InverseGamma, Prior, check_prior, scale_rule


@params
class VariationalParams:
    r"""The approximation $q(u, s)$, made by `variational_init`.

    Either `log_std` is there, for $S_c = \mathrm{diag}(d_c^2)$, or `factor`, for
    $S_c = L R_c R_c^\top L^\top$. Without a prior on the scale there is no $q(s)$.
    """

    mean: Array  # (classes, M): m_c = L^-1 mu_c
    log_std: Array | None  # (classes, M): log d_c
    factor: Array | None  # (classes, M, M): R_c below, log of R_c on the diagonal
    log_a: Array | None  # (): log a'
    log_b: Array | None  # (): log b'


def variational_init(
    k_inducing: Float[ArrayLike, "inducing inducing"] | Gram,
    num_classes: int,
    *,
    prior: Prior | None = None,
    covariance: str = "diagonal",
) -> VariationalParams:
    r"""Starts an approximation with mean 0 and as close to the prior as it can be.

    With `covariance="full"` that is the prior itself; with `"diagonal"` (the paper's)
    the variances are $1 / (K^{-1})_{ii}$, and so small where inducing points are alike.
    The mean is stored as $L^{-1} \mu_c$ for the sake of optimisers: the family is the
    same. $q(s)$ is the prior if that is an `InverseGamma`; otherwise $\log s$ has its
    mean and about its variance under the prior.

    Args:
        k_inducing: Covariance of the inducing points, shape `(inducing, inducing)`; a
            `Gram` means its `nngp`.
        num_classes: Number of classes, at least 2.
        prior: Prior of the scale, which must reach from 0 to infinity; `None` and a
            `Delta` leave nothing to learn about it.
        covariance: `"diagonal"` or `"full"`; with full the number of parameters and
            the time of a bound grow with `classes inducing^2`.

    Returns:
        Parameters for `variational_bound` and an optimiser, in the dtype of
            `k_inducing`, at least float32.

    Raises:
        TypeError: `prior` is of the wrong kind, or `num_classes` not an int.
        ValueError: A shape, an option or the prior does not fit, or (outside `jit`) the
            matrix has no Cholesky factor.
    """
    where = "variational_init"
    k = as_square(where, "k_inducing", nngp_of(k_inducing))
    num_classes = _as_classes(where, num_classes)
    check_option(where, "covariance", covariance, ("diagonal", "full"))
    _check_support(where, prior)
    cholesky, _ = factor(where, "k_inducing", k)
    log_std = r = None
    if covariance == "full":
        r = jnp.zeros((num_classes, *k.shape), k.dtype)
    else:
        log_std = -jnp.log(_precision(cholesky)) / 2
        log_std = jnp.broadcast_to(log_std, (num_classes, len(k)))
    log_a, log_b = _match(prior, k.dtype)
    return VariationalParams(
        mean=jnp.zeros((num_classes, len(k)), k.dtype),
        log_std=log_std,
        factor=r,
        log_a=log_a,
        log_b=log_b,
    )


def variational_bound(
    params: VariationalParams,
    k_inducing: Float[ArrayLike, "inducing inducing"] | Gram,
    k_batch_inducing: Float[ArrayLike, "batch inducing"] | Gram,
    k_batch: Float[ArrayLike, " batch"] | Gram,
    labels: Int[ArrayLike, " batch"],
    *,
    key: PRNGKeyArray,
    num_data: float,
    prior: Prior | None = None,
    num_draws: int = 8,
) -> Float[Array, ""]:
    r"""Estimates the lower bound of the log evidence from a minibatch.

    $$\frac{N}{B} \sum_{i=1}^B E_q[\log p(y_i \mid f_i)]
        - \sum_c E_{q(s)} KL\big(N(\mu_c, s S_c) \,\|\, N(0, s K)\big)
        - KL(q(s) \,\|\, H),$$

    $$\sum_c E_{q(s)} KL = \tfrac12 \sum_c \Big[\log\frac{|K|}{|S_c|} - M
        + \mathrm{tr}(K^{-1} S_c) + \frac{a'}{b'} \mu_c^\top K^{-1} \mu_c\Big].$$

    The expectation is the mean over draws of $s$ (by `jax.random.loggamma`, which is
    differentiable in $a'$) and of $f$, which given $s$ is Gaussian at every point:

    $$f_{ic} \mid s \sim N\big(k_i^\top K^{-1} \mu_c,\ s\,(k_{ii} - k_i^\top K^{-1} k_i
        + k_i^\top K^{-1} S_c K^{-1} k_i)\big).$$

    The rest is in closed form, but $E_q \log H$ for a prior that is no `InverseGamma`,
    a quadrature in $\log s$. The value is unbiased, so that its expectation is never
    above the log evidence. Draw a minibatch afresh each step, maximise with any
    optimiser, and take the gradient through the kernels too in order to learn the
    inducing points and the kernel. Time O(M^3 + B M^2) with diagonal, O(M^3 + C B M^2)
    with full covariances, and O(B C) a draw.

    The authors' code has the same trace and mean terms; they are this divergence only
    where $q(u \mid s)$ scales with $s$, as it does here.

    Args:
        params: The approximation.
        k_inducing: Covariance of the inducing points, shape `(inducing, inducing)`; a
            `Gram` means its `nngp`, here and below.
        k_batch_inducing: Kernel of the minibatch (rows) and the inducing points, shape
            `(batch, inducing)`.
        k_batch: Variances of the minibatch, shape `(batch,)`.
        labels: Classes of the minibatch, shape `(batch,)`.
        key: Of the draws.
        num_data: Number of training points $N$, shape `()`.
        prior: The prior that `variational_init` was given.
        num_draws: Draws of the scale and of all latent values.

    Returns:
        The estimate, shape `()`, in nats, in the dtype of `k_inducing`.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: A shape, the prior or `num_data` does not fit, or (outside `jit`) a
            label is out of range or the matrix has no Cholesky factor.
    """
    where = "variational_bound"
    cholesky, rows, variances = _kernels(
        where,
        params,
        k_inducing,
        ("k_batch_inducing", k_batch_inducing),
        ("k_batch", k_batch),
    )
    labels = as_labels(where, labels, len(rows), len(params.mean))
    check_scalar(where, "num_data", num_data, positive=True)
    check_positive(where, num_draws=num_draws)
    _check_support(where, prior)
    _check_scale(where, params, prior)
    f = _draw(params, cholesky, rows, variances, prior, key, num_draws)
    expected = softmax_log_prob(f, labels).mean()
    weight = jnp.asarray(num_data, f.dtype) / len(rows)
    return weight * expected - _divergence(params, cholesky, prior)


def variational_predict(
    params: VariationalParams,
    k_inducing: Float[ArrayLike, "inducing inducing"] | Gram,
    k_test_inducing: Float[ArrayLike, "n_test inducing"] | Gram,
    k_test: Float[ArrayLike, " n_test"] | Gram,
    *,
    key: PRNGKeyArray,
    prior: Prior | None = None,
    num_draws: int = 256,
) -> Float[Array, "n_test classes"]:
    r"""Probabilities of the classes at test points: the mean softmax over draws of q.

    Args:
        params: The approximation.
        k_inducing: Covariance of the inducing points, shape `(inducing, inducing)`; a
            `Gram` means its `nngp`, here and below.
        k_test_inducing: Kernel of test points (rows) and inducing points, shape
            `(n_test, inducing)`.
        k_test: Variances of the test points, shape `(n_test,)`.
        key: Of the draws.
        prior: A `Delta` if `variational_init` was given one; any other prior has left
            its q(s) in `params` and is not needed.
        num_draws: Draws of the scale and of all latent values.

    Returns:
        Probabilities, shape `(n_test, classes)`, in the dtype of `k_inducing`.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: A shape or the prior does not fit, or (outside `jit`) the matrix has
            no Cholesky factor.
    """
    where = "variational_predict"
    cholesky, rows, variances = _kernels(
        where,
        params,
        k_inducing,
        ("k_test_inducing", k_test_inducing),
        ("k_test", k_test),
    )
    check_positive(where, num_draws=num_draws)
    if params.log_a is None or prior is not None:
        _check_support(where, prior)
        _check_scale(where, params, prior)
    f = _draw(params, cholesky, rows, variances, prior, key, num_draws)
    return jax.nn.softmax(f).mean(0)


@functools.partial(jax.jit, static_argnames="num_draws")
def _draw(params, cholesky, rows, variances, prior, key, num_draws):
    """Draws f (draws, points, classes), independently at every point given s."""
    projection = solve_triangular(cholesky, rows.T, lower=True)  # L^-1 k_i
    mean = einsum("mi,cm->ic", projection, params.mean)
    rest = jnp.maximum(variances - (projection * projection).sum(0), 0)
    if params.factor is None:
        back = solve_triangular(cholesky, projection, trans="T", lower=True)  # K^-1 k_i
        spread = einsum("mi,cm->ic", back * back, jnp.exp(2 * params.log_std))
    else:
        half = einsum("mi,cmr->icr", projection, _lower(params.factor))
        spread = (half * half).sum(-1)
    # The square root has no slope at 0, which only a point of variance 0 has.
    tiny = jnp.finfo(mean.dtype).tiny
    std = jnp.sqrt(jnp.maximum(rest[:, None] + spread, tiny))
    key_s, key_f = jax.random.split(key)
    scale = _draw_scale(key_s, params, prior, num_draws, mean.dtype)
    noise = jax.random.normal(key_f, (num_draws, *mean.shape), mean.dtype)
    return mean[None] + jnp.sqrt(scale)[:, None, None] * std[None] * noise


def _draw_scale(key, params, prior, num_draws, dtype):
    if params.log_a is None:
        return jnp.full(num_draws, 1 if prior is None else prior.s, dtype)
    a = jnp.exp(params.log_a)
    return jnp.exp(params.log_b - jax.random.loggamma(key, a, (num_draws,), dtype))


@jax.jit
def _divergence(params, cholesky, prior):
    """The two Kullback-Leibler terms of the bound."""
    inverse_scale, of_scale = _scale_terms(params, prior, cholesky.dtype)
    if params.factor is None:
        log_det = 2 * jnp.log(jnp.diagonal(cholesky)).sum()
        log_ratio = len(params.mean) * log_det - 2 * params.log_std.sum()
        trace = (_precision(cholesky) * jnp.exp(2 * params.log_std).sum(0)).sum()
    else:
        r = _lower(params.factor)
        log_ratio = -2 * _diagonals(params.factor).sum()
        trace = (r * r).sum()
    square = inverse_scale * (params.mean * params.mean).sum()
    return (log_ratio - params.mean.size + trace + square) / 2 + of_scale


def _scale_terms(params, prior, dtype):
    """`E_q[1 / s]` and `KL(q(s) || H)`."""
    if params.log_a is None:
        s = jnp.asarray(1 if prior is None else prior.s, dtype)
        return 1 / s, jnp.zeros((), dtype)
    log_a, log_b = params.log_a, params.log_b
    a, b = jnp.exp(log_a), jnp.exp(log_b)
    if isinstance(prior, InverseGamma):
        a0, b0 = (jnp.asarray(p, dtype) for p in (prior.a, prior.b))
        divergence = a0 * (log_b - jnp.log(b0)) - gammaln(a) + gammaln(a0)
        divergence += (a - a0) * digamma(a) + (b0 - b) * jnp.exp(log_a - log_b)
    else:
        prior = jax.tree.map(lambda p: jnp.asarray(p, dtype), prior)
        u, log_weight = scale_rule(InverseGamma(a, b), jnp.zeros_like, dtype)
        negative_entropy = (1 + a) * digamma(a) - a - log_b - gammaln(a)
        expected = (jax.nn.softmax(log_weight) * prior.log_prob(jnp.exp(u))).sum()
        divergence = negative_entropy - expected
    return jnp.exp(log_a - log_b), divergence


def _match(prior, dtype):
    """Initial (log a', log b'): the prior's mean and variance of log s."""
    if prior is None or isinstance(prior, Delta):
        return None, None
    if isinstance(prior, InverseGamma):
        return tuple(jnp.log(jnp.asarray(p, dtype)) for p in (prior.a, prior.b))
    u, log_weight = scale_rule(prior, jnp.zeros_like, dtype)
    weight = jax.nn.softmax(log_weight)
    mean = (weight * u).sum()
    variance = (weight * (u - mean) ** 2).sum()
    # log s has mean log b' - psi(a') and variance psi'(a'), about 1 / (a' - 1/2) for
    # large a' and 1 / a'^2 for small.
    a = 1 / variance + 1 / jnp.sqrt(4 + variance)
    return jnp.log(a), mean + digamma(a)


def _precision(cholesky: Array) -> Array:
    """The diagonal of `(L L')^-1`."""
    eye = jnp.eye(len(cholesky), dtype=cholesky.dtype)
    inverse = solve_triangular(cholesky, eye, lower=True)
    return (inverse * inverse).sum(0)


def _lower(r: Array) -> Array:
    """R_c, whose diagonal is positive, from the parameter."""
    return jnp.tril(r, -1) + jax.vmap(jnp.diag)(jnp.exp(_diagonals(r)))


def _diagonals(r: Array) -> Array:
    return jnp.diagonal(r, axis1=1, axis2=2)


def _kernels(where, params, k_inducing, cross, variances):
    """Checks the kernels; returns L, `cross` (rows are points) and `variances`."""
    if not isinstance(params, VariationalParams):
        raise TypeError(
            f"{where}: `params` must be a VariationalParams, got "
            f"{type(params).__name__}."
        )
    k = as_square(where, "k_inducing", nngp_of(k_inducing))
    if len(k) != params.mean.shape[1]:
        raise ValueError(
            f"{where}: `k_inducing` must have shape ({params.mean.shape[1]}, "
            f"{params.mean.shape[1]}) as `params` has, got {k.shape}."
        )
    name, value = cross
    rows = as_rows(where, name, value, k)
    name, value = variances
    value = nngp_of(value)
    check_shape(where, name, value, (len(rows),))
    cholesky, _ = factor(where, "k_inducing", k)
    return cholesky, rows, jnp.asarray(value, k.dtype)


def _as_classes(where: str, num_classes: int) -> int:
    check_positive(where, num_classes=num_classes)
    if num_classes < 2:
        raise ValueError(f"{where}: `num_classes` must be at least 2, got 1.")
    return num_classes


def _check_support(where: str, prior: Prior | None) -> None:
    if prior is None:
        return
    check_prior(where, prior)
    if tuple(prior.support) != (0.0, float("inf")):
        raise ValueError(
            f"{where}: `prior.support` must be (0, inf) (the bound is minus infinity "
            f"where q(s) reaches beyond the prior), got {prior.support}."
        )


def _check_scale(where: str, params: VariationalParams, prior: Prior | None) -> None:
    fixed = prior is None or isinstance(prior, Delta)
    if fixed != (params.log_a is None):
        wanted = "None or a Delta" if params.log_a is None else "a prior on the scale"
        got = "None" if prior is None else type(prior).__name__
        raise ValueError(
            f"{where}: `prior` must be {wanted}, as for the variational_init that made "
            f"`params`, got {got}."
        )
