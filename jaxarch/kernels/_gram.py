"""What an infinite-width kernel returns: the NNGP and NTK matrices of two sets."""

from jaxtyping import Array

from .._params import params


@params
class Gram:
    """The two kernels of an architecture between two sets of inputs.

    `nngp` is the covariance of an output over random networks, `ntk` the inner product
    of its gradients in the parameters. Different outputs are independent and alike.
    """

    nngp: Array  # (n1, n2), or (n,) where only the pairs (x1[i], x2[i]) were asked for
    ntk: Array | None = None  # the same shape; None where it was not asked for
