"""Least-squares classification: which of several Gaussian outputs is the largest.

Rasmussen and Williams, *Gaussian Processes for Machine Learning* (2006), section 6.5.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._checks import check_rank, check_shape
from .._dtypes import at_least_float32, float_dtype


def class_probabilities(
    mean: Float[ArrayLike, "n classes"], variance: Float[ArrayLike, " n"]
) -> Float[Array, "n classes"]:
    r"""Probability that each output is the largest of independent Gaussian outputs.

    For one example with means $\mu$ and standard deviation $\sigma$ of every output:

    $$P(c) = \int \phi(z) \prod_{j \ne c} \Phi\Big(z + \frac{\mu_c - \mu_j}{\sigma}\Big)
        \, dz.$$

    A trapezoid rule of 233 nodes, placed about the largest mean, converges
    geometrically: in float64 its relative error is below 1e-12 for up to 1,000 classes
    and 1e-9 for 10,000, against a sixteen times finer rule. That holds for
    probabilities down to 1e-60 too, so that their logarithm may be scored. (In float32
    it is 1e-5, down to 1e-30.) Rows sum to 1 within that error and are not normalised.
    A variance of 0, or one within the rounding of the means, gives the limit: the
    indicator of the largest mean, ties sharing equally, with finite gradients. Time
    O(233 n classes), memory O(n classes).

    Args:
        mean: Predicted means, shape `(n, classes)`.
        variance: Predicted variances, shape `(n,)`.

    Returns:
        Probabilities, shape `(n, classes)`, in the dtype of `mean`.

    Raises:
        ValueError: A shape does not fit.
    """
    check_rank("class_probabilities", "mean", mean, 2, "(n, classes)")
    check_shape("class_probabilities", "variance", variance, jnp.shape(mean)[:1])
    mean = jnp.asarray(mean)
    dtype = float_dtype(mean)
    work = at_least_float32(dtype)
    return _largest(mean.astype(work), jnp.asarray(variance, work)).astype(dtype)


@jax.jit
def _largest(mean: Array, variance: Array) -> Array:
    # In units of sigma, at x = max(mu) + sigma u: z_j = u + gap_j. But for 1e-19 the
    # largest output lies at |u| < 9; nodes down to -20 serve the small probabilities.
    step = 0.125
    nodes = jnp.asarray(np.arange(-20, 9 + step, step), mean.dtype)
    top = jax.lax.stop_gradient(mean.max(1, keepdims=True))
    # Below the rounding of the means sigma counts as 0; as exactly 0 it would be 0 / 0.
    info = jnp.finfo(mean.dtype)
    width = jax.lax.stop_gradient(top - mean.min(1, keepdims=True))
    floor = width * info.eps + float(info.tiny) ** 0.5
    sigma = jnp.sqrt(jnp.maximum(variance[:, None], info.tiny))
    sigma = jnp.maximum(sigma, floor)
    gap = jnp.minimum((top - mean) / sigma, 100)  # the probability at 100 is exp(-2500)

    @jax.checkpoint
    def add(total, node):
        z = gap + node
        log_cdf = log_ndtr(z)
        log_pdf = -(z * z + math.log(2 * math.pi)) / 2
        others = log_cdf.sum(1, keepdims=True) - log_cdf
        return total + step * jnp.exp(log_pdf + others), None

    return jax.lax.scan(add, jnp.zeros_like(mean), nodes)[0]
