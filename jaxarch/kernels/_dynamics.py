r"""Training dynamics of infinitely wide networks in closed form.

Jacot, Gabriel and Hongler, *Neural tangent kernel* (arXiv:1806.07572); Lee et al.,
*Wide neural networks of any depth evolve as linear models under gradient descent*
(arXiv:1902.06720), section 2.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._checks import check_positive, check_shape, is_concrete
from .._params import params
from ._gp import (
    Predictive,
    add_diagonal,
    as_cross,
    as_square,
    as_targets,
    as_test,
    check_scalar,
    einsum,
    factor,
    predict_from,
    solve,
    spread,
)
from ._gram import Gram


@params
class Trained:
    r"""Infinitely wide networks after training, made by `train`.

    In the symbols of `train`, $B$ is kept as the Cholesky factor of $M$ where training
    went to convergence, and otherwise as $M$, its eigendecomposition and the time.
    """

    weights: Array  # (n,) or (n, outputs): B y, or B (y - f0)
    nngp: Array | None  # (n, n): K; None for one network, whose outputs were given
    cholesky: Array | None = None  # (n, n): of M + jitter I
    jitter: Array | None = None  # (), an absolute value, 0 unless M needed one
    matrix: Array | None = None  # (n, n): M
    eigenvalues: Array | None = None  # (n,)
    eigenvectors: Array | None = None  # (n, n), in columns
    time: Array | None = None  # (): learning_rate t / N


def train(
    gram: Gram,
    y: Float[ArrayLike, " n"] | Float[ArrayLike, "n outputs"],
    *,
    t: Float[ArrayLike, ""] | None = None,
    learning_rate: Float[ArrayLike, ""] = 1.0,
    noise: Float[ArrayLike, ""] = 0.0,
    f0: Float[ArrayLike, " n"] | Float[ArrayLike, "n outputs"] | None = None,
) -> Trained:
    r"""Trains infinitely wide networks by gradient flow on the squared loss.

    Each network $f$ starts at random parameters $\theta_0$ and follows, for the time
    $\eta t$ with $N$ = `y.size` and $\lambda$ = `noise`,

    $$\dot\theta = -\nabla_\theta \Big[ \frac{1}{2N} \sum (f(X) - y)^2
        + \frac{\lambda}{2N} |\theta - \theta_0|^2 \Big].$$

    So `noise` is weight decay towards the initial parameters, equal to a variance added
    to the diagonal of the NTK. Since $f$ is linear in $\theta$, the parameters stay in
    $\theta_0 + J^\top a$ with $J$ the Jacobian on $X$, $\Theta = J J^\top$ (the NTK),
    $M = \Theta + \lambda I$ and $\dot a = -(M a - (y - f_0(X))) / N$. The outputs at
    test points are then

    $$f_* = f_{0*} + \Theta_* B\, (y - f_0(X)), \qquad
        B = M^{-1} \big( I - e^{-\eta t M / N} \big).$$

    Over random $\theta_0$ the outputs at the start are Gaussian with mean 0 and
    covariance $K$ (the NNGP), so that `predict` gives, with $A = \Theta_* B$,

    $$\mu_* = A y, \qquad
        \Sigma_* = K_{**} + A K A^\top - A K_*^\top - K_* A^\top.$$

    Where `f0` is given there is one network and `predict` gives its outputs $f_*$. On
    the training points, `predict(trained, gram)` gives the outputs with the decay
    acting. Training the last layer alone is `Gram(nngp=k, ntk=k)`; with `noise` added
    to the diagonal of that `nngp` too it converges to the posterior of `condition`.

    For many times use `jax.vmap` over `t` on a function that trains and predicts: one
    eigendecomposition serves them all. Time O(n^3): a Cholesky factorization for
    `t=None`, with jitter as in `condition`, and otherwise an eigendecomposition, of
    which eigenvalues below 0 (rounding) count as 0. $B$ and its derivatives are
    accurate to rounding also where an eigenvalue or `t` is 0. First derivatives are
    right where eigenvalues coincide; second ones are NaN there.

    Args:
        gram: Both kernels of the training points, `(n, n)` each. For one network only
            the `ntk` is read.
        y: Targets, shape `(n,)` or `(n, outputs)`.
        t: Number of steps of size `learning_rate`, shape `()`, finite and not negative
            (not checked where it is traced); `None` trains to convergence.
        learning_rate: Size of a step, shape `()`.
        noise: Strength of the decay, an absolute variance, shape `()`, not negative
            (not checked where it is traced).
        f0: Outputs at the training points of one network before training, in the shape
            of `y`; `None` means all networks, drawn at random.

    Returns:
        The trained networks, for `predict`.

    Raises:
        TypeError: `gram` is not a `Gram`.
        ValueError: A shape does not fit, a kernel is missing, a number is out of range,
            or (outside `jit`, at convergence) `ntk + noise I` is not positive definite.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> gram = ker.Gram(nngp=jnp.eye(2), ntk=2 * jnp.eye(2))
        >>> trained = ker.train(gram, jnp.ones(2), t=10, learning_rate=0.1)
        >>> ker.predict(trained, gram, gram).covariance.shape
        (2, 2)
    """
    if not isinstance(gram, Gram):
        raise TypeError(f"train: `gram` must be a Gram, got {type(gram).__name__}.")
    ntk = as_square("train", "gram.ntk", kernel_of("train", "gram", gram, "ntk"))
    y = as_targets("train", "y", y, ntk)
    scalars = {"t": t, "learning_rate": learning_rate, "noise": noise}
    for name, value in scalars.items():
        if value is not None:
            check_scalar("train", name, value, positive=False)
    nngp = None
    if f0 is None:
        nngp = as_square("train", "gram.nngp", kernel_of("train", "gram", gram, "nngp"))
        check_shape("train", "gram.nngp", nngp, ntk.shape)
        nngp = nngp.astype(ntk.dtype)
    else:
        check_shape("train", "f0", f0, y.shape)
        y = y - jnp.asarray(f0, y.dtype)
    matrix = add_diagonal(ntk, jnp.asarray(noise, ntk.dtype))
    if t is None:
        cholesky, jitter = factor("train", "gram.ntk + noise I", matrix)
        weights = solve(cholesky, y)
        return Trained(weights=weights, nngp=nngp, cholesky=cholesky, jitter=jitter)
    time = jnp.asarray(t, y.dtype) * jnp.asarray(learning_rate, y.dtype) / y.size
    eigenvalues, eigenvectors = jnp.linalg.eigh(matrix)
    spectrum = matrix, eigenvalues, eigenvectors, time
    weights = _respond(*spectrum, y.reshape(len(y), -1)).reshape(y.shape)
    return Trained(
        weights=weights,
        nngp=nngp,
        matrix=matrix,
        eigenvalues=eigenvalues,
        eigenvectors=eigenvectors,
        time=time,
    )


@predict_from.register
def _(posterior: Trained, k_test_train, k_test, f0) -> Predictive:
    trained, dtype = posterior, posterior.weights.dtype
    if not isinstance(k_test_train, Gram):
        raise TypeError(
            "predict: `k_test_train` must be a Gram for a Trained, got "
            f"{type(k_test_train).__name__}."
        )
    ntk_star = kernel_of("predict", "k_test_train", k_test_train, "ntk")
    ntk_star = as_cross("k_test_train.ntk", ntk_star, trained.weights)
    mean = einsum("tn,n...->t...", ntk_star, trained.weights)

    if trained.nngp is None:  # one network
        if f0 is None:
            raise ValueError(
                "predict: `f0` must be the outputs at the test points before training, "
                f"shape {mean.shape}, since `train` had `f0`; got None."
            )
        if k_test is not None:
            raise ValueError(
                "predict: `k_test` must be None for one network, whose outputs have no "
                f"variance, got {type(k_test).__name__}."
            )
        check_shape("predict", "f0", f0, mean.shape)
        return Predictive(mean=jnp.asarray(f0, dtype) + mean)

    if f0 is not None:
        raise ValueError(
            "predict: `f0` must be None where `train` had none, got shape "
            f"{jnp.shape(f0)}."
        )
    if k_test is None:
        return Predictive(mean=mean)
    if not isinstance(k_test, Gram):
        raise TypeError(
            "predict: `k_test` must be a Gram for a Trained, got "
            f"{type(k_test).__name__}."
        )
    k_star = kernel_of("predict", "k_test_train", k_test_train, "nngp")
    k_star = as_cross("k_test_train.nngp", k_star, trained.weights)
    check_shape("predict", "k_test_train.nngp", k_star, ntk_star.shape)
    k_test = as_test("k_test", kernel_of("predict", "k_test", k_test, "nngp"), k_star)
    if trained.cholesky is not None:
        a = solve(trained.cholesky, ntk_star.T).T
    else:
        spectrum = trained.matrix, trained.eigenvalues, trained.eigenvectors
        a = _respond(*spectrum, trained.time, ntk_star.T).T
    assert trained.nngp is not None
    return spread(mean, _variance(a, trained.nngp, k_star, k_test))


@jax.jit
def _variance(a: Array, nngp: Array, k_star: Array, k_test: Array) -> Array:
    """`k_test + A K A' - A k_star' - k_star A'`, or the diagonal for a vector."""
    a_k = einsum("tn,nm->tm", a, nngp)
    if k_test.ndim == 1:
        return k_test + (a * (a_k - 2 * k_star)).sum(1)
    a_k_star = einsum("tn,sn->ts", a, k_star)
    return k_test + einsum("tn,sn->ts", a_k, a) - a_k_star - a_k_star.T


def max_learning_rate(
    k_train: Float[ArrayLike, "n n"] | Gram,
    *,
    num_outputs: int = 1,
    momentum: float = 0.0,
) -> Float[Array, ""]:
    r"""Largest step for which gradient descent on the loss of `train` converges.

    $$\eta_{\max} = \frac{2 (1 + m) N}{\lambda_{\max}(\Theta)}, \qquad
        N = n \cdot \text{outputs},$$

    since a step multiplies the error by $I - \eta \Theta / N$; with momentum $m$ the
    bound is that of the heavy-ball method. `train` follows the flow, which converges at
    any rate: this is for networks trained by steps. With weight decay pass
    `ntk + noise I`. Time O(n^3).

    Args:
        k_train: NTK of the training points, shape `(n, n)`; a `Gram` means its `ntk`.
        num_outputs: Number of outputs of the network.
        momentum: Momentum in [0, 1).

    Returns:
        The learning rate, shape `()`.

    Raises:
        TypeError: `num_outputs` is not an int.
        ValueError: A shape does not fit, or a number is out of range.
    """
    check_positive("max_learning_rate", num_outputs=num_outputs)
    if is_concrete(momentum) and not 0 <= momentum < 1:
        raise ValueError(
            f"max_learning_rate: `momentum` must be in [0, 1), got {momentum}."
        )
    if isinstance(k_train, Gram):
        k_train = kernel_of("max_learning_rate", "k_train", k_train, "ntk")
    k = as_square("max_learning_rate", "k_train", k_train)
    size = len(k) * num_outputs
    return 2 * (1 + momentum) * size / jnp.linalg.eigvalsh(k)[-1]


def kernel_of(where: str, name: str, gram: Gram, field: str) -> Array:
    """Returns one kernel of `gram`; `ValueError` if it is not there."""
    kernel = getattr(gram, field)
    if kernel is None:
        raise ValueError(f"{where}: `{name}` must hold the {field}, got {field}=None.")
    return kernel


@jax.custom_jvp
@jax.jit
def _respond(
    matrix: Array, eigenvalues: Array, eigenvectors: Array, time: Array, b: Array
) -> Array:
    """`B b` for `B = (1 - exp(-time M)) / M`; b is (n, columns)."""
    rate = time * _phi(time * jnp.maximum(eigenvalues, 0))
    coefficients = einsum("ji,jk->ik", eigenvectors, b)
    return einsum("ij,jk->ik", eigenvectors, rate[:, None] * coefficients)


@_respond.defjvp
def _respond_jvp(primals, tangents):
    """`dB = V (G * (V' dM V)) V'`, G the divided differences (Daleckii and Krein).

    The eigendecomposition is a function of the matrix, whose tangent therefore says
    all. Unlike those of the eigenvectors, it exists where eigenvalues coincide.
    """
    matrix, eigenvalues, v, time, b = primals
    d_matrix, _, _, d_time, db = tangents
    x = time * jnp.maximum(eigenvalues, 0)
    divided = time * time * _phi_divided(x[:, None], x[None, :])
    d_matrix = (d_matrix + d_matrix.T) / 2
    d_matrix = einsum("ji,jk,kl->il", v, d_matrix, v)
    coefficients = einsum("ji,jk->ik", v, b)
    moved = einsum("ij,jk->ik", divided * d_matrix, coefficients)
    moved = moved + (d_time * jnp.exp(-x))[:, None] * coefficients
    out = _respond(matrix, eigenvalues, v, time, b)
    tangent = einsum("ij,jk->ik", v, moved)
    return out, tangent + _respond(matrix, eigenvalues, v, time, db)


@jax.custom_jvp
def _phi(x: Array) -> Array:
    """`(1 - exp(-x)) / x` for x >= 0."""
    safe = jnp.where(x > 0, x, 1)
    return jnp.where(x > 0, -jnp.expm1(-safe) / safe, 1)


@_phi.defjvp
def _phi_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return _phi(x), _phi_divided(x, x) * dx


@jax.jit
def _phi_divided(x: Array, y: Array) -> Array:
    """`(phi(x) - phi(y)) / (x - y)` for x, y >= 0; the derivative where they are equal.

    Above 1 it is `(exp(-low) phi(high - low) - phi(low)) / high`, which does not
    cancel; below, the series of phi, where the powers become
    `h_k = sum_i x^i y^(k-i) = x h_(k-1) + y^k`.
    """
    high, low = jnp.maximum(x, y), jnp.minimum(x, y)
    small = high < 1
    far_high, far_low = jnp.where(small, 1, high), jnp.where(small, 0, low)
    far = jnp.exp(-far_low) * _phi(far_high - far_low) - _phi(far_low)
    u, w = jnp.where(small, high, 0), jnp.where(small, low, 0)
    power, h, near = jnp.ones_like(u), jnp.ones_like(u), jnp.full_like(u, -0.5)
    factorial = 2.0
    for k in range(1, 18):
        factorial *= k + 2
        power = power * w
        h = u * h + power
        near = near + (-1) ** (k + 1) * h / factorial
    return jnp.where(small, near, far / far_high)
