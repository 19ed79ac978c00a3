r"""What an architecture will score, told from its text and the scores of others.

The question of ONNX-Net (Qin et al., arXiv:2510.04938), where a language model is
fine-tuned on hundreds of thousands of texts. For some hundreds, here: counts and sizes
from the text (`_text_features.py`) and an exact Gaussian process on them (Rasmussen and
Williams, *Gaussian Processes for Machine Learning* (2006), chapters 2 and 5).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import kernels as ker
from .._params import params
from ._text_features import KINDS, features

_LEAST = 3  # texts that must have a feature: one of fewer only says which text it is
_FARTHEST = 3.0  # standard deviations; a feature beyond is taken to be there
_STEPS, _RATE, _START = 120, 0.1, -1.0


@params
class Scales:
    """Logarithms of standard deviations, of standardised scores."""

    kinds: Array  # (kinds,): what each kind of feature adds linearly
    constant: Array  # ()
    network: Array  # (): of the last weights of the network on top
    noise: Array  # ()


def predict_performance(
    texts: Sequence[str],
    scores: Float[Array, " n"] | Sequence[float],
    new_texts: Sequence[str],
) -> ker.Predictive:
    r"""Predicts the scores of architectures from texts, by a Gaussian process.

    A text gives features $\phi_g(t)$ of four kinds $g$: logarithms of the counts of
    operations, of pairs of them in a row and of their attributes, and of sizes
    (parameters, layers, fan-in, results, the longest path). Each is standardised over
    `texts`. The scores, standardised too, are $f(t) + \epsilon$ with

    $$f = h + v^\top \mathrm{relu}(W h),\quad h = c + \sum_g s_g\, w_g \cdot \phi_g,$$

    a linear model and an infinitely wide network on it: a process with a kernel in
    closed form. The seven scales maximise the evidence of `scores` times a normal prior
    of their logarithms (Adam, a fixed number of steps), so that a kind of features
    that tells nothing counts little. Features that fewer than three of `texts` have are
    left out, and all are kept within three standard deviations, so that no prediction
    runs away where a new text is far from what was seen.

    A score with a ceiling is better given as one without: the logit of an accuracy.
    Nothing is random. Time O(n^3) for each of 120 steps; one program is compiled for
    each number of texts.

    Args:
        texts: of architectures whose scores are known, as `chain_text` writes them.
        scores: their scores, `(n,)`.
        new_texts: of the architectures to predict.

    Returns:
        `mean` and `variance` of the score of each new text, both `(n_new,)`; the
        variance is that of a new score, with its noise.

    Raises:
        TypeError: `texts` or `new_texts` is not a sequence of strings.
        ValueError: one of them is empty, `scores` are not as many as `texts`, or one
            of them is not finite.

    Examples:
        >>> texts = [f"dot_general(8, Param[8,{n}]) --> Out:{n}" for n in range(1, 9)]
        >>> found = predict_performance(texts[:6], [1, 2, 3, 4, 5, 6], texts[6:])
        >>> bool(found.mean[1] > found.mean[0])
        True
    """
    texts, new_texts = _texts("texts", texts), _texts("new_texts", new_texts)
    y = _scores(scores, len(texts))
    n, centre, spread = len(texts), float(y.mean()), float(y.std()) or 1.0
    inner = jnp.asarray(inner_products(texts, new_texts), jnp.float32)
    targets = jnp.asarray((y - centre) / spread, jnp.float32)
    scales = fit(inner[:, :n, :n], targets)
    k = covariance(scales, inner)
    posterior = ker.condition(k[:n, :n], targets, noise=jnp.exp(2 * scales.noise))
    found = ker.predict(posterior, k[n:, :n], jnp.diagonal(k)[n:], noisy=True)
    assert found.variance is not None
    return ker.Predictive(
        mean=centre + spread * found.mean, variance=spread**2 * found.variance
    )


def _texts(name: str, texts: Sequence[str]) -> list[str]:
    where = "predict_performance"
    if isinstance(texts, str):
        raise TypeError(f"{where}: `{name}` must be a sequence of strings, got one.")
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(
                f"{where}: `{name}` must be strings, got {type(text).__name__}."
            )
    if not texts:
        raise ValueError(f"{where}: `{name}` must not be empty.")
    return texts


def _scores(scores: Float[Array, " n"] | Sequence[float], n: int) -> np.ndarray:
    y = np.asarray(scores, np.float64)
    if y.shape != (n,):
        raise ValueError(
            f"predict_performance: `scores` must have shape ({n},), one for each text, "
            f"got {y.shape}."
        )
    if not np.isfinite(y).all():
        raise ValueError(
            "predict_performance: `scores` must be finite, got "
            f"{y[~np.isfinite(y)][0]} at {np.flatnonzero(~np.isfinite(y))[0]}."
        )
    return y


def inner_products(texts: Sequence[str], new_texts: Sequence[str]) -> np.ndarray:
    """Inner products of standardised features, `(kinds, n + n_new, n + n_new)`.

    A kind is divided by the number of its features, so that it has about size 1.
    """
    every = [features(text) for text in (*texts, *new_texts)]
    n, found = len(texts), []
    for kind in KINDS:
        names = sorted({name for text in every[:n] for name in text[kind]})
        x = np.array([[text[kind].get(name, 0.0) for name in names] for text in every])
        old = x[:n]
        frequent = np.count_nonzero(old, 0) >= min(_LEAST, n)
        varied = old.std(0) > 1e-9
        x = x[:, frequent & varied]
        x = (x - x[:n].mean(0)) / x[:n].std(0)
        x = x.clip(-_FARTHEST, _FARTHEST)
        found.append(x @ x.T / max(1, x.shape[1]))
    return np.stack(found)


def covariance(scales: Scales, inner: Array) -> Array:
    """The kernel of the model, without noise: `(n, n)` of `(kinds, n, n)`."""

    def network(h):
        return h + ker.dense(ker.relu(h), 1, w_std=jnp.exp(scales.network))

    linear = jnp.einsum("g,gij->ij", jnp.exp(2 * scales.kinds), inner)
    linear = linear + jnp.exp(2 * scales.constant)
    state = ker.State.from_covariances(linear, jnp.diagonal(linear))
    return ker.infinite(network)(state, ntk=False).nngp


def negative_log_posterior(scales: Scales, inner: Array, y: Array) -> Array:
    """Minus the log evidence and the log prior, which is normal about the start."""
    noise = jnp.exp(2 * scales.noise)
    posterior = ker.condition(covariance(scales, inner), y, noise=noise)
    away = [jnp.sum((a - _START) ** 2) for a in jax.tree.leaves(scales)]
    return sum(away) / 2 - ker.log_evidence(posterior)


@jax.jit
def fit(inner: Array, y: Array) -> Scales:
    """The scales of the highest posterior density, by Adam (arXiv:1412.6980)."""

    def step(carry, t):
        scales, first, second = carry
        slope = jax.grad(negative_log_posterior)(scales, inner, y)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
        second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, second, slope)

        def moved(p, m, v):
            m, v = m / (1 - 0.9**t), v / (1 - 0.99**t)
            return p - _RATE * m / (jnp.sqrt(v) + 1e-8)

        return (jax.tree.map(moved, scales, first, second), first, second), None

    start = jnp.asarray(_START, y.dtype)
    kinds = jnp.full(len(KINDS), start)
    scales = Scales(kinds=kinds, constant=start, network=start, noise=start)
    zero = jax.tree.map(jnp.zeros_like, scales)
    times = jnp.arange(1, _STEPS + 1).astype(y.dtype)
    (scales, _, _), _ = jax.lax.scan(step, (scales, zero, zero), times)
    return scales
