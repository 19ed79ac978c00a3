"""The covariance of a value, as a record from which a kernel can start."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_rank
from .._dtypes import at_least_float32, float_dtype
from .._params import params, static
from ._covariance import Marginal, Pair


@params
class State:
    """Covariances of one value over pairs of examples; made by `Kernel.state`.

    It carries `1 - cos` and not the covariance alone, so that a kernel that starts from
    it is as accurate as one that started from data. Matrices are `(n1, n2)`, or `(n,)`
    for the pairs (i, i) only.
    """

    v: Array  # 1 - nngp / sqrt(moment1 moment2)
    w: Array | None  # 1 + the same; None: no covariance is negative
    ntk: Array
    moment1: Array  # (n1,) second moment
    moment2: Array  # (n2,)
    mean1: Array | None  # (n1,); None: zero
    mean2: Array | None  # (n2,)
    gaussian: bool = static()  # whether a nonlinearity may follow at once
    features: int | None = static()  # width of the finite network, where it matters
    same: bool = static()  # whether pairs (i, i) are one example

    @property
    def nngp(self) -> Array:
        """The covariance."""
        one, two = jnp.sqrt(self.moment1), jnp.sqrt(self.moment2)
        if self.v.ndim == 1:
            return one * two * (1 - self.v)
        return one[:, None] * two[None, :] * (1 - self.v)

    @classmethod
    def of(cls, one: Marginal, two: Marginal, pair: Pair, gaussian, features, same):
        """Assembles a state at the end of an evaluation."""
        return cls(
            v=pair.v,
            w=pair.w,
            ntk=jnp.broadcast_to(pair.t, pair.v.shape).astype(pair.v.dtype),
            moment1=one.q,
            moment2=two.q,
            mean1=one.mean,
            mean2=two.mean,
            gaussian=gaussian,
            features=features,
            same=same,
        )

    @classmethod
    def from_covariances(
        cls,
        nngp: Float[Array, "n1 n2"],
        moment1: Float[Array, " n1"],
        moment2: Float[Array, " n2"] | None = None,
        *,
        ntk: Float[Array, "n1 n2"] | None = None,
        mean1: Float[Array, " n1"] | None = None,
        mean2: Float[Array, " n2"] | None = None,
        gaussian: bool = True,
        features: int | None = None,
    ) -> "State":
        """Makes a state of a covariance from elsewhere, such as another GP kernel.

        Near-duplicates are then as accurate as `nngp` is.

        Args:
            nngp: Covariance `(n1, n2)`, or `(n,)` for the pairs (i, i) only.
            moment1: Second moment of the first examples, `(n1,)`.
            moment2: Of the second ones; `None` says that both are the same examples.
            ntk: Tangent kernel in the shape of `nngp`; `None` means zero.
            mean1: Mean at the first examples; `None` means zero.
            mean2: Mean at the second examples; taken from `mean1` if both are the same.
            gaussian: Whether the value is Gaussian, so that a nonlinearity may follow.
            features: Width, which `concatenate` and the standard parameterisation use.

        Returns:
            The state.

        Raises:
            ValueError: if shapes disagree.
        """
        where = "State.from_covariances"
        same = moment2 is None
        if same:
            moment2, mean2 = moment1, mean1
        check_rank(where, "moment1", moment1, 1, "(n1,)")
        check_rank(where, "moment2", moment2, 1, "(n2,)")
        n1, n2 = jnp.shape(moment1)[0], jnp.shape(moment2)[0]
        wanted = [(n1, n2), (n1,)] if n1 == n2 else [(n1, n2)]
        for name, k in (("nngp", nngp), ("ntk", ntk)):
            if k is not None and jnp.shape(k) not in wanted:
                raise ValueError(
                    f"{where}: `{name}` must have shape {wanted[0]}, "
                    f"got {jnp.shape(k)}."
                )
        if (mean1 is None) != (mean2 is None):
            raise ValueError(
                f"{where}: `mean1` and `mean2` must both be given or both be left out."
            )
        dtype = at_least_float32(float_dtype(nngp, moment1, moment2))
        nngp, moment1, moment2 = (
            jnp.asarray(a).astype(dtype) for a in (nngp, moment1, moment2)
        )
        one, two = Marginal.of(moment1, mean1), Marginal.of(moment2, mean2)
        if nngp.ndim == 1:
            cosine = nngp * one.inverse * two.inverse
        else:
            cosine = nngp * one.inverse[:, None] * two.inverse[None, :]
        ntk = jnp.zeros_like(nngp) if ntk is None else jnp.asarray(ntk).astype(dtype)
        pair = Pair(1 - cosine, 1 + cosine, ntk)
        return cls.of(one, two, pair, gaussian, features, same)
