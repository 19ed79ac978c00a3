r"""Gradient descent of wide networks on any loss, integrated as a flow of outputs.

Lee et al., *Wide neural networks of any depth evolve as linear models under gradient
descent* (arXiv:1902.06720), section 2.2. With momentum it is the second-order flow of
which the heavy ball (Polyak 1964, *Some methods of speeding up the convergence of
iteration methods*) is the discretisation with unit time step.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._checks import check_positive, check_shape, is_concrete
from .._dtypes import at_least_float32, float_dtype
from .._params import params
from ._dynamics import kernel_of
from ._gp import Predictive, check_scalar, einsum, predict_from
from ._gram import Gram


@params
class Descended:
    """One wide network along gradient descent, made by `gradient_descent`.

    `times` and the arrays beside it have a leading axis of times if `t` had one.
    """

    times: Array  # () or (times,): t
    outputs: Array  # (n,) or (n, outputs): f(X)
    weights: Array  # like `outputs`: a, with parameters theta_0 + J' a
    f0: Array | None  # (n,) or (n, outputs): f_0(X); None where it was 0


def gradient_descent(
    loss: Callable[[Array, Any], Array],
    k_train: Float[ArrayLike, "n n"] | Float[ArrayLike, "n n outputs outputs"] | Gram,
    y: ArrayLike,
    *,
    t: Float[ArrayLike, ""] | Float[ArrayLike, " times"],
    learning_rate: Float[ArrayLike, ""] = 1.0,
    momentum: Float[ArrayLike, ""] | None = None,
    noise: Float[ArrayLike, ""] = 0.0,
    f0: Float[ArrayLike, " n"] | Float[ArrayLike, "n outputs"] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 65_536,
    solver: Any = None,
    adjoint: Any = None,
) -> Descended:
    r"""Trains one infinitely wide or linearised network on any loss.

    In time $t$, counted in steps of size $\eta$ = `learning_rate`, the parameters
    follow, with $N$ the number of outputs at training points and $\lambda$ = `noise`,

    $$\dot\theta = -\eta \nabla_\theta E, \qquad E = L(f(X), y)
        + \frac{\lambda}{2N} |\theta - \theta_0|^2.$$

    The network is linear in them, so they stay in $\theta_0 + J^\top a$, where $J$ is
    the Jacobian on $X$ and $\Theta = J J^\top$ (the NTK) is `k_train`:

    $$\dot a = -\eta\, g, \qquad
        g = \frac{\partial L}{\partial f}(f(X), y) + \frac{\lambda}{N} a, \qquad
        f(X) = f_0(X) + \Theta a, \qquad f_* = f_{0*} + \Theta_* a.$$

    A step with momentum $m$ is $\theta_{k+1} = \theta_k + m (\theta_k - \theta_{k-1})
    - \eta \nabla E$, or $\theta_{k+1} - 2 \theta_k + \theta_{k-1} = -(1 - m) (\theta_k
    - \theta_{k-1}) - \eta \nabla E$: a unit step of the flow

    $$\ddot a = -(1 - m)\, \dot a - \eta\, g, \qquad \dot a(0) = 0,$$

    which is integrated in its place. Its slow rates are $\eta / (1 - m)$ times those of
    the loss, and $m = 0$ is not the flow without momentum. neural-tangents has the same
    flow, in units of $t \sqrt\eta$.

    For the squared loss `sum((f - y)**2) / (2 * y.size)` without momentum this is
    `train`, which has the closed form. The mean over random networks is not the flow
    from 0 for any other loss: give each network's `f0`.

    `diffrax` (the extra `jaxarch[train]`) integrates $f(X)$ and $a$ in the dtype of
    `k_train`, at least float32, and steps on every time of `t`. Pass the same `loss`
    object again, and it does not compile again. Time: a product with `k_train`, O(n^2
    outputs), at each of six evaluations a step; the number of steps grows with
    $\eta t$ times the largest curvature. Derivatives are those of the steps
    taken: reverse mode, with the checkpoints of diffrax. For forward mode pass
    `adjoint=diffrax.ForwardMode()`.

    Args:
        loss: `loss(f, y)` gives a number, shape `()`; any differentiable function of
            the outputs `f` at all training points. It should carry its own mean.
        k_train: NTK of the training points: `(n, n)`, the same for every output, or
            `(n, n, outputs, outputs)`; a `Gram` means its `ntk`.
        y: What `loss` takes, `n` rows. In the shape of `f0` it is converted to the
            dtype computed in; otherwise (labels) it is passed on as it is.
        t: Number of steps of size `learning_rate`, shape `()`, or several numbers
            `(times,)` in any order; finite and not negative (not checked where it is
            traced).
        learning_rate: Size of a step, shape `()`.
        momentum: Momentum in [0, 1), shape `()`; `None` is descent without.
        noise: Strength of the decay towards the initial parameters as in `train`,
            shape `()`, not negative.
        f0: Outputs at the training points before training, `(n,)` or `(n, outputs)`;
            `None` means 0, in the shape of `y`.
        rtol: Relative error of a step. By default 1e-10 in float64, 1e-6 in float32.
        atol: Absolute error of a step, in units of outputs. By default as `rtol`.
        max_steps: Largest number of steps, those refused included.
        solver: A solver of diffrax; `None` is `diffrax.Tsit5()`.
        adjoint: An adjoint of diffrax; `None` is its `RecursiveCheckpointAdjoint()`.

    Returns:
        Outputs at the training points and what `predict` needs for others, at each of
            `t`. If `max_steps` did not suffice everything is NaN inside `jit`.

    Raises:
        ImportError: diffrax is not installed.
        TypeError: `loss` is not callable, or `max_steps` not an int.
        ValueError: A shape does not fit, a number is out of range, the loss is not a
            number, or (outside `jit`) `max_steps` did not suffice.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> loss = lambda f, y: -jnp.mean(jax.nn.log_sigmoid(y * f))
        >>> y = jnp.asarray([1.0, -1.0])
        >>> network = ker.gradient_descent(loss, jnp.eye(2), y, t=jnp.arange(2.0))
        >>> ker.predict(network, jnp.ones((3, 2))).mean.shape  # times, n_test
        (2, 3)
    """
    where = "gradient_descent"
    if not callable(loss):
        raise TypeError(
            f"{where}: `loss` must be a function of (f, y), got {type(loss).__name__}."
        )
    if isinstance(k_train, Gram):
        k_train = kernel_of(where, "k_train", k_train, "ntk")
    k = _as_kernel(k_train)
    f, y = _as_outputs(k, y, f0)
    times = _as_times(t).astype(k.dtype)
    scalars = {"learning_rate": learning_rate, "noise": noise}
    if momentum is not None:
        scalars["momentum"] = momentum
    for name, value in scalars.items():
        check_scalar(where, name, value, positive=False)
    if momentum is not None and is_concrete(momentum) and np.asarray(momentum) >= 1:
        raise ValueError(f"{where}: `momentum` must be in [0, 1), got {momentum}.")
    check_positive(where, max_steps=max_steps)
    value = jax.eval_shape(loss, f, y)
    if getattr(value, "shape", None) != ():
        raise ValueError(f"{where}: `loss(f, y)` must have shape (), got {value}.")
    diffrax = _diffrax()

    default = 1e-10 if k.dtype == np.dtype("float64") else 1e-6
    rtol = default if rtol is None else rtol
    atol = rtol if atol is None else atol
    rate = jnp.asarray(learning_rate, k.dtype)
    decay = jnp.asarray(noise, k.dtype) / f.size
    state, friction = (f, jnp.zeros_like(f)), None
    if momentum is not None:
        state = state, (jnp.zeros_like(f), jnp.zeros_like(f))
        friction = 1 - jnp.asarray(momentum, k.dtype)
    args = loss, k, y, rate, decay, friction
    ordered = jnp.sort(times.reshape(-1))
    controller = diffrax.ClipStepSizeController(
        diffrax.PIDController(rtol=rtol, atol=atol),
        # Interpolation between steps would be less accurate than the steps are.
        step_ts=jax.lax.stop_gradient(ordered),
    )
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_flow),
        diffrax.Tsit5() if solver is None else solver,
        t0=jnp.zeros((), k.dtype),
        t1=ordered[-1],
        dt0=None,
        y0=state,
        args=args,
        saveat=diffrax.SaveAt(ts=ordered),
        stepsize_controller=controller,
        adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        max_steps=max_steps,
        throw=False,
    )
    done = solution.result == diffrax.RESULTS.successful
    if is_concrete(done) and not done:
        raise ValueError(
            f"{where}: `max_steps` must suffice to reach t={np.max(times)}, got "
            f"{max_steps}; where the loss is finite, allow more, raise `rtol`, or "
            "choose an implicit `solver`."
        )
    # diffrax takes nothing for a function of an end at 0; the flow has a slope there.
    slope = _flow(None, state, args)
    ys = jax.tree.map(functools.partial(_mend, ordered), solution.ys, state, slope)
    saved = ys if momentum is None else ys[0]
    place = jnp.argsort(jnp.argsort(times.reshape(-1))).reshape(times.shape)
    outputs, weights = (jnp.where(done, a[place], jnp.nan) for a in saved)
    return Descended(
        times=times, outputs=outputs, weights=weights, f0=None if f0 is None else f
    )


@predict_from.register
def _(posterior: Descended, k_test_train, k_test, f0) -> Predictive:
    network = posterior
    if isinstance(k_test_train, Gram):
        k_test_train = kernel_of("predict", "k_test_train", k_test_train, "ntk")
    shape = network.outputs.shape[network.times.ndim :]
    got = jnp.shape(k_test_train)
    wanted = f"(n_test, {shape[0]})"
    fits = len(got) == 2
    if len(shape) == 2:
        wanted += f" or (n_test, {shape[0]}, {shape[1]}, {shape[1]})"
        fits = fits or (len(got) == 4 and got[2:] == shape[1:] * 2)
    if not fits or got[1] != shape[0]:
        raise ValueError(
            f"predict: `k_test_train` must have shape {wanted} (rows are test points), "
            f"got {got}."
        )
    if k_test is not None:
        raise ValueError(
            "predict: `k_test` must be None for one network, whose outputs have no "
            f"variance, got {type(k_test).__name__}."
        )
    weights = network.weights
    k_star = jnp.asarray(k_test_train, weights.dtype)
    moved = (
        _apply(k_star, weights)
        if not network.times.ndim
        else jax.vmap(functools.partial(_apply, k_star))(weights)
    )
    start = (len(k_star), *shape[1:])
    if network.f0 is None:
        if f0 is not None:
            raise ValueError(
                "predict: `f0` must be None where `gradient_descent` had none, got "
                f"shape {jnp.shape(f0)}."
            )
        return Predictive(mean=moved)
    if f0 is None:
        raise ValueError(
            "predict: `f0` must be the outputs at the test points before training, "
            f"shape {start}, since `gradient_descent` had `f0`; got None."
        )
    check_shape("predict", "f0", f0, start)
    f0 = jnp.asarray(f0, weights.dtype)
    return Predictive(mean=moved + jnp.broadcast_to(f0, moved.shape))


def _flow(t, state, args):
    """The time derivative of `(f, a)`, or of that and its velocity."""
    del t
    loss, k, y, rate, decay, friction = args
    f, a = state if friction is None else state[0]
    force = -rate * (jax.grad(loss)(f, y) + decay * a)
    forces = _apply(k, force), force
    if friction is None:
        return forces
    velocity = state[1]
    return velocity, jax.tree.map(lambda q, v: q - friction * v, forces, velocity)


def _mend(times: Array, saved: Array, start: Array, slope: Array) -> Array:
    """`saved`, with `start + t slope` where t is 0: the same value with a slope."""
    t = times.reshape(-1, *(1,) * start.ndim)
    start, slope = start[None], slope[None]
    return jnp.where(t == 0, start + t * slope, saved)


def _apply(k: Array, a: Array) -> Array:
    """`K a` for the weights of one time."""
    if k.ndim == 4:
        return einsum("ijab,jb->ia", k, a)
    return einsum("ij,j...->i...", k, a)


def _as_kernel(k: ArrayLike) -> Array:
    """Returns `k_train` in the dtype to compute in."""
    shape = jnp.shape(k)
    square = len(shape) == 2 or (len(shape) == 4 and shape[2] == shape[3])
    if not square or shape[0] != shape[1] or not shape[0]:
        raise ValueError(
            "gradient_descent: `k_train` must have shape (n, n) or (n, n, outputs, "
            f"outputs) with n >= 1, got {shape}."
        )
    k = jnp.asarray(k)
    return k.astype(at_least_float32(float_dtype(k)))


def _as_outputs(k: Array, y: ArrayLike, f0: ArrayLike | None) -> tuple[Array, Array]:
    """Returns the outputs before training and `y`, both as `loss` takes them."""
    n, shape = len(k), jnp.shape(y)
    name, of = ("y", shape) if f0 is None else ("f0", jnp.shape(f0))
    if len(of) not in (1, 2) or of[0] != n:
        raise ValueError(
            f"gradient_descent: `{name}` must have shape ({n},) or ({n}, outputs), "
            f"got {of}."
        )
    if k.ndim == 4 and of[1:] != k.shape[2:3]:
        raise ValueError(
            f"gradient_descent: `{name}` must have shape {(n, *k.shape[2:3])} for a "
            f"`k_train` of shape {k.shape}, got {of}."
        )
    if not shape or shape[0] != n:
        raise ValueError(
            f"gradient_descent: `y` must have {n} rows, got shape {shape}."
        )
    y = jnp.asarray(y)
    if shape == of or jnp.issubdtype(y.dtype, jnp.floating):
        y = y.astype(k.dtype)
    f = jnp.zeros(of, k.dtype) if f0 is None else jnp.asarray(f0, k.dtype)
    return f, y


def _as_times(t: ArrayLike) -> Array:
    """Returns `t`, shape () or (times,)."""
    shape = jnp.shape(t)
    if len(shape) > 1 or shape == (0,):
        raise ValueError(
            f"gradient_descent: `t` must have shape () or (times,), got {shape}."
        )
    times = jnp.asarray(t)
    if is_concrete(times):
        values = np.asarray(times)
        if not ((0 <= values) & (values < np.inf)).all():
            raise ValueError(
                f"gradient_descent: `t` must be finite and not negative, got {t}."
            )
    return times


def _diffrax() -> Any:
    try:
        import diffrax
    except ImportError as error:
        raise ImportError(
            "gradient_descent: needs diffrax, which the extra `jaxarch[train]` "
            "installs."
        ) from error
    return diffrax
