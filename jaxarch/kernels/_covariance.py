r"""The covariances that are carried through an architecture.

A value $h$ of an infinitely wide network has, at each example, the second moment
$q = \mathbb E h^2$ and the mean $m$ (`Marginal`), and at each pair of examples the
covariance $k = \mathbb E h h'$ and the tangent kernel $t$. Float32 loses the angle
between near-duplicates when it is read from $k$, so a pair carries instead (`Pair`)

$$v = 1 - \frac{k}{\sqrt{q q'}}, \qquad w = 1 + \frac{k}{\sqrt{q q'}}.$$

If $h$ is a direct sum of independent parts, with unit vectors of weights
$\sigma, \sigma'$ at the two examples, $\sigma_i = \sqrt{q_i / q}$, then without any
cancellation

$$v = \tfrac12 |\sigma - \sigma'|^2 + \sum_i \sigma_i \sigma_i' v_i. \tag{1}$$

A bias is such a part ($v_i = 0$), and so is a branch of a sum.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from ._angle import half_angle, safe_reciprocal, safe_sqrt
from ._window import Layout


class Marginal(NamedTuple):
    """Per-example moments; arrays end in the axis of examples."""

    q: Array  # second moment
    root: Array  # sqrt(q)
    inverse: Array  # 1 / sqrt(q), 0 where q = 0
    mean: Array | None  # None: zero
    weights: tuple[Array, ...] = ()  # whatever the operation's pair rule needs

    @classmethod
    def of(cls, q: Array, mean: Array | None = None, weights: tuple[Array, ...] = ()):
        """Completes the roots."""
        root = safe_sqrt(q)
        return cls(q, root, safe_reciprocal(root), mean, weights)

    def scaled(self, factor: Array, mean: Array | None = None) -> "Marginal":
        """Moments of a value whose root is `factor >= 0` times this one."""
        root = factor * self.root
        return Marginal(factor**2 * self.q, root, safe_reciprocal(root), mean)

    def present(self, mask: Array | None) -> "Marginal":
        """Zero where `mask` is; `None` keeps everything."""
        if mask is None:
            return self
        mean = None if self.mean is None else jnp.where(mask > 0, self.mean, 0)
        q, root, inverse = (jnp.where(mask > 0, a, 0) for a in self[:3])
        return Marginal(q, root, inverse, mean, self.weights)


def norm(one: Marginal, two: Marginal) -> Array:
    r"""$\sqrt{q q'}$, without a root for an example with itself."""
    return one.q if one is two else one.root * two.root


class Pair(NamedTuple):
    """Per-pair covariance; `w=None` says that no cosine is negative.

    Where an input is zero, $v$ says nothing of how $k$ changes with it: `slope` is the
    derivative of $k$ in the input covariance there (`None`: zero).
    """

    v: Array
    w: Array | None
    t: Array | float
    slope: Array | float | None = None
    half: Array | None = None  # sqrt(v / 2), where a nonlinearity may want it

    def rooted(self) -> "Pair":
        """Adds `half`; see `half_angle`."""
        half, v = half_angle(self.v)
        return self._replace(v=v, half=half)

    def present(self, one: Marginal, two: Marginal) -> "Pair":
        """No angle and no tangent kernel where the norm is zero."""
        here = (one.root > 0) & (two.root > 0)
        return self._replace(
            v=jnp.where(here, self.v, 0),
            w=None if self.w is None else jnp.where(here, self.w, 2),
            t=jnp.where(here, self.t, 0),
            half=None if self.half is None else jnp.where(here, self.half, 0),
        )


class Covariance(NamedTuple):
    """The marginals of the two examples and their pair; `slope` as in `Pair`."""

    one: Marginal
    two: Marginal
    v: Array
    w: Array | None
    t: Array | float
    slope: Array | float | None
    half: Array | None

    @property
    def norm(self) -> Array:
        r"""$\sqrt{q q'}$."""
        return norm(self.one, self.two)

    @property
    def k(self) -> Array:
        r"""$\mathbb E h h'$."""
        return self.norm * (1 - self.v)

    @property
    def complement(self) -> Array:
        """$w$, whether it is carried or not."""
        return 2 - self.v if self.w is None else self.w


class Rules(NamedTuple):
    """What an evaluation tells its operations."""

    same: Any  # the two examples are one and the same; or a mask of such pairs
    attach: Callable[[Array, Any], Array]  # see `_input.py`
    layout: Layout = Layout()


def gap(weights: Sequence[tuple[Array, Array]]) -> Array:
    r"""$\tfrac12 |\sigma - \sigma'|^2$."""
    return sum((a - b) ** 2 for a, b in weights) / 2  # pyright: ignore


def centred_weights(h: Marginal) -> tuple[Array, Array]:
    """Weights of the centred part of `h` and of its mean, relative to its norm."""
    assert h.mean is not None
    return safe_sqrt(h.q - h.mean**2) * h.inverse, h.mean * h.inverse


def direct_sum(
    parts: Sequence[tuple[Array, Array, Array | float, Array | float | None]],
) -> tuple[Array, Array | None]:
    """Equation (1) for parts `(sigma1, sigma2, v, w)`; returns `(v, w)`."""
    apart = gap([(s1, s2) for s1, s2, _, _ in parts])
    v = apart + sum(s1 * s2 * v for s1, s2, v, _ in parts)
    if any(w is None for *_, w in parts):
        if all(w is None or _is_two(w) for *_, w in parts):
            return v, None
        parts = [(s1, s2, v, 2 - v if w is None else w) for s1, s2, v, w in parts]
    return v, apart + sum(s1 * s2 * w for s1, s2, _, w in parts)  # pyright: ignore


def _is_two(w: Any) -> bool:
    return isinstance(w, float) and w == 2.0


def vanish(slope: Any, one: Marginal, two: Marginal) -> Any:
    """Keeps `slope` only where the pair's own norm is still zero."""
    if slope is None:
        return None
    return jnp.where((one.q == 0) | (two.q == 0), slope, 0)


def relative(
    one: Marginal,
    two: Marginal,
    v: Array,
    w: Array | None,
    slope: Any,
    rules: Rules,
) -> tuple[Array, Array | None, Any]:
    """Moves `slope` into `(v, w)` where the norm is not zero; keeps the rest."""
    if slope is not None:
        move = slope * one.inverse * two.inverse
        v = rules.attach(v, -move)
        w = w if w is None else rules.attach(w, move)
    return v, w, vanish(slope, one, two)
