r"""Gaussian-process regression with a given covariance matrix.

Rasmussen and Williams, *Gaussian Processes for Machine Learning* (2006), chapter 2,
algorithm 2.1. With the NNGP kernel it is the exact Bayesian posterior of an infinitely
wide network (Lee et al., arXiv:1711.00165).
"""

import functools
import math
from typing import TYPE_CHECKING, Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._checks import is_concrete
from .._dtypes import at_least_float32, float_dtype
from .._params import params
from ._gram import Gram

if TYPE_CHECKING:
    from ._descent import Descended
    from ._dynamics import Trained
    from ._mixture import Mixture
    from ._scale_posterior import ScalePosterior
    from ._scale_prior import Prior

# A solve is only as good as its products: no TF32 on GPU, no bfloat16 on TPU.
einsum = functools.partial(jnp.einsum, precision="highest")


@params
class Posterior:
    """A Gaussian process given training data, made by `condition`.

    `noise` and `jitter` are absolute variances: the matrix factored is
    `k_train + (noise + jitter) I`.
    """

    cholesky: Array  # (n, n), lower: L
    whitened: Array  # (n,) or (n, outputs): L^-1 y
    weights: Array  # (n,) or (n, outputs): L^-T L^-1 y
    noise: Array  # ()
    jitter: Array  # (), 0 unless the matrix was not positive definite as given


@params
class Predictive:
    """Gaussian predictions at test points; the outputs are independent."""

    mean: Array  # (n_test,) or (n_test, outputs)
    variance: Array | None = None  # (n_test,), the same for every output
    covariance: Array | None = None  # (n_test, n_test), the same for every output


def as_square(where: str, name: str, k: ArrayLike) -> Array:
    """Returns `k` in the dtype to compute in; `ValueError` unless it is (n, n)."""
    shape = jnp.shape(k)
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(
            f"{where}: `{name}` must have shape (n, n) with n >= 1, got {shape}."
        )
    k = jnp.asarray(k)
    return k.astype(at_least_float32(float_dtype(k)))


def as_targets(where: str, name: str, y: ArrayLike, like: Array) -> Array:
    """Returns `y` in the dtype of `like`, (n, n), if it is (n,) or (n, outputs)."""
    n, shape = len(like), jnp.shape(y)
    if len(shape) not in (1, 2) or shape[0] != n:
        raise ValueError(
            f"{where}: `{name}` must have shape ({n},) or ({n}, outputs), got {shape}."
        )
    return jnp.asarray(y, like.dtype)


# One program, where it is not traced into a larger one: it compiles in less time.
@jax.jit
def add_diagonal(matrix: Array, value: Array) -> Array:
    """Returns `matrix + value I`."""
    return matrix + value * jnp.eye(len(matrix), dtype=matrix.dtype)


def check_scalar(
    where: str, name: str, value: ArrayLike, *, positive: bool | None
) -> None:
    """Raises unless `value` is one number in range (`None`: any), as far as known."""
    if isinstance(value, (str, bytes)) or value is None:
        raise TypeError(f"{where}: `{name}` must be a number, got {value!r}.")
    shape = jnp.shape(value)
    if shape != ():
        raise ValueError(
            f"{where}: `{name}` must have shape () (use jax.vmap for several), "
            f"got {shape}."
        )
    if is_concrete(value):
        number = np.asarray(value).item()
        low = {True: 0 < number, False: 0 <= number, None: -np.inf < number}[positive]
        if not low or not number < np.inf:
            wanted = {True: " and positive", False: " and not negative", None: ""}
            raise ValueError(
                f"{where}: `{name}` must be finite{wanted[positive]}, got {number}."
            )


@jax.custom_jvp
@jax.jit
def _factor(a: Array) -> tuple[Array, Array]:
    """Cholesky factor of the first `a + jitter I` that has one, and that jitter."""
    # 0, then powers of ten from about the rounding unit to 1e-3 of the mean diagonal.
    first = math.ceil(math.log10(jnp.finfo(a.dtype).eps))
    relative = np.append(0.0, 10.0 ** np.arange(first, -2))
    ladder = jnp.asarray(relative, a.dtype) * jnp.mean(jnp.diagonal(a))

    def failed(state):
        tried, cholesky = state
        return (tried < len(relative)) & jnp.isnan(cholesky).any()

    def attempt(state):
        tried, _ = state
        return tried + 1, jnp.linalg.cholesky(add_diagonal(a, ladder[tried]))

    tried, cholesky = jax.lax.while_loop(failed, attempt, (0, jnp.full_like(a, np.nan)))
    jitter = jnp.where(jnp.isnan(cholesky).any(), np.nan, ladder[tried - 1])
    return cholesky, jitter


@_factor.defjvp
def _factor_jvp(primals, tangents):
    """`dL = L Phi(L^-1 dA L^-T)`; Phi: the lower triangle with half the diagonal."""
    (a,), (da,) = primals, tangents
    cholesky, jitter = _factor(a)
    da = (da + da.T) / 2
    inner = solve_triangular(cholesky, da, lower=True)
    inner = solve_triangular(cholesky, inner.T, lower=True)
    phi = jnp.tril(inner) - jnp.diag(jnp.diagonal(inner)) / 2
    return (cholesky, jitter), (
        einsum("ij,jk->ik", cholesky, phi),
        jnp.zeros_like(jitter),
    )


def factor(where: str, name: str, a: Array) -> tuple[Array, Array]:
    """`_factor`, and a `ValueError` if it failed and the numbers can be read."""
    cholesky, jitter = _factor(a)
    if is_concrete(jitter) and np.isnan(jitter):
        raise ValueError(
            f"{where}: `{name}` must be positive definite, got a matrix with NaN or "
            f"with no Cholesky factor in {a.dtype} even after adding 1e-3 of its mean "
            "diagonal; build the Gram in float64 (jax.enable_x64)."
        )
    return cholesky, jitter


@jax.jit
def solve(cholesky: Array, b: Array) -> Array:
    """Returns `(L L')^-1 b`."""
    half = solve_triangular(cholesky, b, lower=True)
    return solve_triangular(cholesky, half, trans="T", lower=True)


@overload
def condition(
    k_train: ArrayLike | Gram,
    y: ArrayLike,
    *,
    noise: ArrayLike,
    prior: None = None,
    noise_scaled: bool = True,
) -> Posterior: ...
@overload
def condition(
    k_train: ArrayLike | Gram,
    y: ArrayLike,
    *,
    noise: ArrayLike,
    prior: "Prior",
    noise_scaled: bool = True,
) -> "ScalePosterior": ...
def condition(
    k_train: Float[ArrayLike, "n n"] | Gram,
    y: Float[ArrayLike, " n"] | Float[ArrayLike, "n outputs"],
    *,
    noise: Float[ArrayLike, ""],
    prior: "Prior | None" = None,
    noise_scaled: bool = True,
) -> "Posterior | ScalePosterior":
    r"""Conditions a zero-mean Gaussian process, or a mixture of them, on observations.

    The model is $y = f(X) + \epsilon$ with $f(X) \sim N(0, K)$ and
    $\epsilon \sim N(0, \sigma^2 I)$, separately for every output. The result holds
    $L L^\top = K + \sigma^2 I$ and $(K + \sigma^2 I)^{-1} y$ (Rasmussen and Williams,
    algorithm 2.1).

    With a `prior` $H$ the process has a random scale that all outputs share,
    $f \mid s \sim GP(0, s K)$ with $s \sim H$ (Lee et al., arXiv:2107.01408), and
    $\epsilon \sim N(0, s \sigma^2 I)$, or $N(0, \sigma^2 I)$ if not `noise_scaled`. An
    inverse gamma has closed forms; for any other prior, and for noise that is not
    scaled, integrals over $\log s$ are done by quadrature. Scaled noise costs nothing
    beside the Cholesky factor; noise that is not takes an eigendecomposition of
    `k_train` and O(n) a node.

    The work is done in the dtype of `k_train`, at least float32; `y` and `noise` are
    converted to it. If the factorization fails it is repeated with a jitter on the
    diagonal: powers of ten from about the rounding unit to 1e-3, relative to the mean
    diagonal. The first that works is used, and `jitter` of the result reports it as an
    absolute variance; derivatives hold it fixed. Inside `jit` a matrix that none of
    them makes positive definite gives NaN throughout. Time O(n^3), once unless jitter
    is needed.

    Args:
        k_train: Covariance of the training points, shape `(n, n)`; a `Gram` means its
            `nngp`.
        y: Observations, shape `(n,)` or `(n, outputs)`.
        noise: Variance of the observation noise, an absolute value, shape `()`;
            positive (not checked where it is traced).
        prior: Of the scale: `InverseGamma`, `BurrXII`, `HalfCauchy`, `LogNormal`,
            `Delta` or `ScalePrior`; `None` means the scale 1.
        noise_scaled: Whether the noise has the random scale too; without a `prior` it
            makes no difference. If not, derivatives of predictions need eigenvalues of
            `k_train` that are all different (those of the evidence do not).

    Returns:
        The posterior, for `predict` and `log_evidence`: a `Posterior`, or with a
        `prior` a `ScalePosterior`.

    Raises:
        TypeError: `prior` is of the wrong kind.
        ValueError: A shape does not fit, `noise` or a number of `prior` is not
            positive, or (outside `jit`) the matrix has no Cholesky factor with any
            jitter, or negative eigenvalues.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> posterior = ker.condition(jnp.eye(3), jnp.ones(3), noise=0.1)
        >>> ker.predict(posterior, jnp.ones((2, 3)), jnp.ones(2)).variance.shape
        (2,)
    """
    k = as_square("condition", "k_train", nngp_of(k_train))
    y = as_targets("condition", "y", y, k)
    check_scalar("condition", "noise", noise, positive=True)
    noise = jnp.asarray(noise, k.dtype)
    if prior is not None:
        from . import _scale_posterior as scale  # which builds upon this file

        scale.check_prior("condition", prior)
        if not noise_scaled:
            return scale.mix_noisy(k, y, noise, prior)
    cholesky, jitter = factor("condition", "k_train + noise I", add_diagonal(k, noise))
    whitened = solve_triangular(cholesky, y, lower=True)
    weights = solve_triangular(cholesky, whitened, trans="T", lower=True)
    posterior = Posterior(
        cholesky=cholesky,
        whitened=whitened,
        weights=weights,
        noise=noise,
        jitter=jitter,
    )
    return posterior if prior is None else scale.mix(posterior, prior)


@overload
def predict(
    posterior: "ScalePosterior",
    k_test_train: ArrayLike | Gram,
    k_test: ArrayLike | Gram | None = None,
    *,
    f0: ArrayLike | None = None,
    noisy: bool = False,
) -> "Mixture": ...
@overload
def predict(
    posterior: "Posterior | Trained | Descended",
    k_test_train: ArrayLike | Gram,
    k_test: ArrayLike | Gram | None = None,
    *,
    f0: ArrayLike | None = None,
    noisy: bool = False,
) -> Predictive: ...
def predict(
    posterior: "Posterior | ScalePosterior | Trained | Descended",
    k_test_train: Float[ArrayLike, "n_test n"]
    | Float[ArrayLike, "n_test n outputs outputs"]
    | Gram,
    k_test: Float[ArrayLike, " n_test"]
    | Float[ArrayLike, "n_test n_test"]
    | Gram
    | None = None,
    *,
    f0: Float[ArrayLike, " n_test"] | Float[ArrayLike, "n_test outputs"] | None = None,
    noisy: bool = False,
) -> "Predictive | Mixture":
    r"""Predicts at test points, from what `condition` or a training returned.

    From `condition`, with $K_*$ the covariance of test and training points:

    $$\mu_* = K_* (K + \sigma^2 I)^{-1} y, \qquad
      \Sigma_* = K_{**} - K_* (K + \sigma^2 I)^{-1} K_*^\top.$$

    That is the distribution of the noise-free function, or if `noisy` of new
    observations of it. From a `ScalePosterior` it is a `Mixture` of such ones. From
    `train`, the distribution over trained networks, and from `gradient_descent` the
    outputs of one network, for which see there. Results are in the dtype of
    `posterior`. Time O(n n_test) for the mean, O(n^2 n_test) for the variance.

    Args:
        posterior: What `condition`, `train` or `gradient_descent` returned.
        k_test_train: Kernel of test points (rows) and training points, shape
            `(n_test, n)`; for a `Posterior` a `Gram` means its `nngp`, for a `Trained`
            it must be a `Gram` with both kernels, for a `Descended` it means its `ntk`
            and may also be an array `(n_test, n, outputs, outputs)`.
        k_test: Kernel of the test points: a vector `(n_test,)` asks for the variance,
            a matrix `(n_test, n_test)` for the covariance too, `None` for the mean
            alone. A `Gram` means its `nngp`; for a `Trained` it must be a `Gram`.
        f0: The outputs at the test points, before training, of the one network whose
            outputs were given to `train` or `gradient_descent`: shape `(n_test,)` or
            `(n_test, outputs)`. Required there, refused elsewhere.
        noisy: Whether to predict new noisy observations, and not the function; for what
            `condition` returned.

    Returns:
        A `Mixture` from a `ScalePosterior`; otherwise a `Predictive`: `mean`, in shape
            `(n_test,)` or `(n_test, outputs)` like the targets, after an axis of times
            if a `Descended` has one; `variance` `(n_test,)`, not below 0; and
            `covariance` `(n_test, n_test)`.

    Raises:
        TypeError: `posterior` or a kernel is of the wrong kind.
        ValueError: A shape does not fit, a kernel is missing, or `f0` or `k_test` is
            not what this `posterior` needs.
    """
    predictions = predict_from(posterior, k_test_train, k_test, f0)
    if not noisy:
        return predictions
    return observed_from(posterior, predictions)


@functools.singledispatch
def observed_from(posterior, predictions) -> Any:
    """Adds the noise of new observations to predictions."""
    raise ValueError(
        "predict: `noisy` must be False for what has no noise, got True for a "
        f"{type(posterior).__name__}."
    )


@functools.singledispatch
def predict_from(posterior, k_test_train, k_test, f0) -> Any:
    """Predicts from one kind of record; `_dynamics` adds the other kind."""
    raise TypeError(
        "predict: `posterior` must be a Posterior, a Trained or a Descended, got "
        f"{type(posterior).__name__}."
    )


@predict_from.register
def _(posterior: Posterior, k_test_train, k_test, f0) -> Predictive:
    if f0 is not None:
        raise ValueError(
            "predict: `f0` must be None for a Posterior (only one trained network has "
            f"outputs before training), got shape {jnp.shape(f0)}."
        )
    k_star = as_cross("k_test_train", nngp_of(k_test_train), posterior.cholesky)
    mean = einsum("tn,n...->t...", k_star, posterior.weights)
    if k_test is None:
        return Predictive(mean=mean)
    k_test = as_test("k_test", nngp_of(k_test), k_star)
    half = solve_triangular(posterior.cholesky, k_star.T, lower=True)
    if k_test.ndim == 1:
        return spread(mean, k_test - (half * half).sum(0))
    return spread(mean, k_test - einsum("nt,ns->ts", half, half))


@observed_from.register
def _(posterior: Posterior, predictions: Predictive) -> Predictive:
    if predictions.variance is None:
        return predictions
    covariance = predictions.covariance
    if covariance is not None:
        covariance = add_diagonal(covariance, posterior.noise)
    variance = predictions.variance + posterior.noise
    return Predictive(mean=predictions.mean, variance=variance, covariance=covariance)


def spread(mean: Array, variance: Array) -> Predictive:
    """Returns the record for a variance (n_test,) or a covariance (n_test, n_test)."""
    covariance = None if variance.ndim == 1 else variance
    if covariance is not None:
        variance = jnp.diagonal(covariance)
    # Rounding may leave a tiny negative number where a variance vanishes.
    variance = jnp.maximum(variance, 0)
    return Predictive(mean=mean, variance=variance, covariance=covariance)


def as_cross(name: str, k: ArrayLike, like: Array) -> Array:
    """Returns a test-train kernel in the dtype of `like`, (n, n)."""
    n, shape = len(like), jnp.shape(k)
    if len(shape) != 2 or shape[1] != n:
        raise ValueError(
            f"predict: `{name}` must have shape (n_test, {n}) (rows are test points), "
            f"got {shape}."
        )
    return jnp.asarray(k, like.dtype)


def as_test(name: str, k: ArrayLike, k_star: Array) -> Array:
    """Returns a test-test kernel, a vector or a matrix, in the dtype of `k_star`."""
    n, shape = len(k_star), jnp.shape(k)
    if shape not in ((n,), (n, n)):
        raise ValueError(
            f"predict: `{name}` must have shape ({n},) for variances or ({n}, {n}) for "
            f"the covariance, got {shape}."
        )
    return jnp.asarray(k, k_star.dtype)


def nngp_of(k: ArrayLike | Gram) -> ArrayLike:
    """The matrix that a `Gram` means here."""
    return k.nngp if isinstance(k, Gram) else k


@functools.singledispatch
def log_evidence(posterior: "Posterior | ScalePosterior") -> Float[Array, ""]:
    r"""Log marginal likelihood of the training targets, over all outputs.

    $$\log p(y) = \sum_c -\tfrac12 y_c^\top (K + \sigma^2 I)^{-1} y_c
        - \tfrac12 \log |K + \sigma^2 I| - \tfrac n2 \log 2\pi$$

    (Rasmussen and Williams, equation 2.30). Differentiable in everything that went into
    `condition`: take the gradient of a function that builds the kernel, conditions and
    calls this, in the logarithm of positive parameters. For a scale mixture it is the
    integral of this over the scale, so that its prior may be learnt too.

    Args:
        posterior: What `condition` returned.

    Returns:
        The sum over outputs, shape `()`. A jitter, if one was needed, counts as noise.

    Raises:
        TypeError: `posterior` is not what `condition` returned.
    """
    raise TypeError(
        "log_evidence: `posterior` must be a Posterior or a ScalePosterior, got "
        f"{type(posterior).__name__}."
    )


@log_evidence.register
def _(posterior: Posterior) -> Array:
    whitened = posterior.whitened
    outputs = math.prod(whitened.shape[1:])
    half_log_det = jnp.log(jnp.diagonal(posterior.cholesky)).sum()
    square = (whitened * whitened).sum()
    constant = whitened.size * math.log(2 * math.pi) / 2
    return -square / 2 - outputs * half_log_det - constant
