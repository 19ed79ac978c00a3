r"""The covariance of the inputs, $x \cdot x' / n$, and the versine of their angle.

A float32 matrix product gives $1 - \cos$ to 1e-7, which is useless for near-duplicates.
There it is taken from differences, $\tfrac12 |x/|x| - x'/|x'||^2$, and near opposite
inputs from sums.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._angle import safe_reciprocal, safe_sqrt
from ._covariance import Marginal

# Above, a float32 product is off by 1e-6 in the angle at most.
_NEAR = 1e-2
_CHUNK = 512


class Points(NamedTuple):
    """Inputs with what is computed from each alone; the first axis is of examples."""

    x: Float[Array, "n features"]
    unit: Float[Array, "n features"]

    @classmethod
    def of(cls, x: Float[Array, "n features"]) -> "Points":
        """Normalises; a zero input has the direction 0."""
        norm = safe_sqrt((x**2).sum(-1))
        return cls(x, x * safe_reciprocal(norm)[:, None])

    def marginal(self) -> Marginal:
        """Second moment and mean over features."""
        return Marginal.of((self.x**2).mean(-1), self.x.mean(-1))


def versine_pairs(
    a: Float[Array, "n features"], b: Float[Array, "n features"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    r"""$1 - \cos$ and $1 + \cos$ of `a[i]` and `b[i]`, unit vectors or zeros."""
    cosine = (a * b).sum(-1)
    acute = cosine >= 0
    half = ((a - jnp.where(acute, 1, -1).astype(a.dtype)[:, None] * b) ** 2).sum(-1) / 2
    regular = jnp.abs(cosine) > 0.5  # elsewhere (zeros included) nothing is lost
    v = jnp.where(regular, jnp.where(acute, half, 2 - half), 1 - cosine)
    w = jnp.where(regular, jnp.where(acute, 2 - half, half), 1 + cosine)
    return v, w


def versine_matrix(
    a: Float[Array, "n features"],
    b: Float[Array, "m features"],
    same: Bool[Array, "n m"] | None = None,
) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    r"""$1 - \cos$ and $1 + \cos$ of all pairs of unit vectors (or zeros).

    Time O(n m features), as one matrix product, and O(features) more for each pair that
    is nearly parallel. Pairs that `same` marks are known to be equal and left alone.
    """
    cosine = jnp.matmul(a, b.T, precision="highest")
    near = jnp.abs(cosine) > 1 - _NEAR
    if same is not None:
        near = near & ~same
    n, m = near.shape

    def refine(v, w):
        flat = jnp.arange(n * m, dtype=jnp.int32)
        flat = jnp.sort(jnp.where(near.ravel(), flat, n * m))  # the near ones first
        flat = jnp.pad(flat, (0, -n * m % _CHUNK), constant_values=n * m)
        count = near.sum()

        @jax.checkpoint
        def some(carry, index):
            v, w = carry
            i, j = index // m, index % m
            pair = versine_pairs(a.at[i].get(mode="clip"), b.at[j].get(mode="clip"))
            return (
                v.at[i, j].set(pair[0], mode="drop"),
                w.at[i, j].set(pair[1], mode="drop"),
            )

        def step(carry, xs):
            start, index = xs
            return jax.lax.cond(
                start < count, some, lambda carry, _: carry, carry, index
            ), None

        xs = (jnp.arange(0, flat.size, _CHUNK), flat.reshape(-1, _CHUNK))
        return jax.lax.scan(step, (v, w), xs)[0]

    return jax.lax.cond(near.any(), refine, lambda v, w: (v, w), 1 - cosine, 1 + cosine)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def attach(value: Array, factor: Any, a: Array, b: Array, outer: bool) -> Array:
    r"""Returns `value`, to whose tangent that of the input covariance at 0 is added.

    The angle with a zero input does not exist, but the covariance $x \cdot x' / n$ is
    linear there: its tangent times `factor` enters here.

    Args:
        value: What depends on the covariance.
        factor: Derivative of `value` in the input covariance.
        a: First inputs, `(n, features)`.
        b: Second inputs, `(m, features)`, or `(n, features)` if not `outer`.
        outer: Whether `value` is for all pairs and not for `a[i], b[i]` only.
    """
    return value


@attach.defjvp
def _attach_jvp(outer, primals, tangents):
    value, factor, a, b = primals
    dvalue, _, da, db = tangents
    zero_a, zero_b = (a == 0).all(-1), (b == 0).all(-1)

    def tangent(a, b, da, db):
        if not outer:
            slope = ((da * b).sum(-1) + (a * db).sum(-1)) / a.shape[-1]
            return jnp.where(zero_a | zero_b, slope, 0)
        slope = jnp.matmul(da, b.T) + jnp.matmul(a, db.T)
        mask = zero_a[:, None] | zero_b[None, :]
        return jnp.where(mask, slope / a.shape[-1], 0)

    def nothing(a, b, da, db):
        x1, x2 = a[:, 0] + da[:, 0], b[:, 0] + db[:, 0]
        like = (
            x1[:, None] + x2[None] if outer else x1 + x2
        )  # varies where `tangent` does
        return jnp.where(False, like, 0)

    any_zero = zero_a.any() | zero_b.any()
    slope = jax.lax.cond(any_zero, tangent, nothing, a, b, da, db)
    return value, dvalue + factor * slope
