r"""Finite networks whose wide limit is a scale mixture of NNGPs.

Lee, Yun, Yang and Lee, *Scale Mixtures of Neural Network Gaussian Processes*
(arXiv:2107.01408), section 3: the variance of the last layer is itself random, one draw
for a whole network.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._dtypes import at_least_float32
from ._combine import Scale
from ._finite import Model
from ._graph import Graph
from ._pool import Linear
from ._positions import Flatten, Index
from ._scale_prior import Prior, check_prior
from ._weights import Weighted


def scale_mixture_init(
    key: PRNGKeyArray, model: Model, x: Float[Array, "*example"], *, prior: Prior
) -> tuple[tuple[Any, ...], Float[Array, ""]]:
    r"""Draws parameters of a network with a random scale of its last layer.

    One $s \sim H$ for the whole network; then the parameters that `model.init` draws,
    those of the last layer (its weight and its bias) multiplied by $\sqrt s$. The
    output is linear in these, so at any width $f = \sqrt s\,f_0$, and at large width

    $$f \mid s \sim GP(0, s K), \qquad s \sim H$$

    with $K$ the NNGP kernel of the architecture: for an inverse gamma $H$ a Student-t
    process.

    Gradient descent on such a network sees the tangent kernel
    $\Theta_s = L + s\,(\Theta - L)$, where $L$ is what the last layer adds to $\Theta$
    ($K$ times its learning rate in the NTK parameterisation): the gradients in the last
    layer do not depend on its own scale, those below it carry a factor $\sqrt s$. Given
    $s$, a wide network trained by gradient flow is therefore what `train` and `predict`
    give for `Gram(nngp=s * K, ntk=L + s * (Theta - L))`. Over networks it is the
    mixture of these Gaussians over the *prior*, and not over $s \mid y$, since $s$ is
    drawn before training and kept. Where the last layer alone is trained (`ntk=L`) the
    mean does not depend on $s$, and the covariance is proportional to it.

    Args:
        key: A JAX key.
        model: A network from `finite`. From its last parameterised layer, a `dense` or
            a convolution with parameters of its own, linear operations alone may lead
            to the output: pools, `flatten`, `index`, `image_resize`, `aggregate`, and
            multiplication by a number.
        x: One example, or its shape and dtype, as for `model.init`.
        prior: The density of $s$, such as `InverseGamma(a, b)`.

    Returns:
        The parameters, for `model.apply`, in the dtype of `x`; and $s$, shape `()`, in
        float32 or wider. `jax.vmap` over keys draws an ensemble.

    Raises:
        TypeError: `model` or `prior` is of the wrong kind.
        ValueError: The output of `model` is not linear in a last layer alone, a
            number of `prior` is out of range, or `x` does not fit.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> model = ker.finite(lambda h: ker.dense(ker.relu(ker.dense(h, 64)), 1))
        >>> prior = ker.InverseGamma(2.0, 2.0)
        >>> params, s = ker.scale_mixture_init(
        ...     jax.random.key(0), model, jnp.ones(3), prior=prior
        ... )
        >>> model.apply(params, jnp.ones(3)).shape
        (1,)
    """
    if not isinstance(model, Model):
        raise TypeError(
            "scale_mixture_init: `model` must be a Model from `finite`, got "
            f"{type(model).__name__}."
        )
    check_prior("scale_mixture_init", prior)
    last = _last_layer(model.graph)
    init_key, scale_key = jax.random.split(key)
    params = model.init(init_key, x)
    dtype = at_least_float32(x.dtype)
    prior = jax.tree.map(lambda a: jnp.asarray(a, dtype), prior)
    s = prior.sample(scale_key, shape=(), dtype=dtype)
    scaled = jax.tree.map(
        lambda p: (jnp.sqrt(s) * p.astype(dtype)).astype(p.dtype), params[last]
    )
    return (*params[:last], scaled, *params[last + 1 :]), s


def _last_layer(graph: Graph) -> int:
    """Position in the params of the layer in which the output is linear."""
    where = "scale_mixture_init: the output of `model` must be linear in a last layer"
    node = graph.nodes[-1]
    while isinstance(node.operation, (Linear, Scale, Flatten, Index)):
        (below,) = node.args
        node = graph.nodes[below]
    layer = node.operation
    if not isinstance(layer, Weighted):
        raise ValueError(
            f"{where}, a `dense` or a convolution, with pools, flatten, index, "
            f"image_resize, aggregate or a number after it; got {layer.name}."
        )
    names = [n.operation.parameter for n in graph.nodes]
    if (uses := names.count(layer.label)) > 1:
        raise ValueError(
            f"{where} with parameters of its own, got {layer.name} with the name "
            f"{layer.label!r}, which {uses} operations share."
        )
    return list(dict.fromkeys(n for n in names if n is not None)).index(layer.label)
