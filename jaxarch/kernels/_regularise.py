"""Layer normalisation and dropout.

Ba, Kiros and Hinton, *Layer Normalization* (arXiv:1607.06450); Srivastava et al.,
*Dropout* (JMLR 15, 2014). Their kernels are those of infinite width, where the mean and
the variance over features are those of the law.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._angle import safe_reciprocal
from ._covariance import Covariance, Marginal, Pair, centred_weights, gap, relative
from ._graph import Number, Operation, Shape, Symbol, Value, emit


def _mean(x: Array, axes: tuple[int, ...], mask: Array | None) -> Array:
    """Over those entries along `axes` where `mask` is 1; 0 where there is none."""
    if mask is None:
        return x.mean(axes, keepdims=True)
    count = mask.sum(axes, keepdims=True)
    return (mask * x).sum(axes, keepdims=True) * safe_reciprocal(count)


@dataclasses.dataclass(frozen=True)
class LayerNorm(Operation):
    """Rules of `layer_norm`."""

    name = "layer_norm"
    numbers = ("eps",)

    axes: tuple[int, ...] = (-1,)

    def shape(self, *args: Shape) -> Shape:
        """The axes must include that of the features."""
        (h,) = args
        self._spatial(h)
        return h

    def _spatial(self, shape: Shape) -> tuple[int, ...]:
        """The axes of positions among `axes`."""
        ndim = len(shape.space)
        axes = {axis + ndim + 1 if axis < 0 else axis for axis in self.axes}
        if ndim not in axes or not axes <= set(range(ndim + 1)):
            raise ValueError(
                "layer_norm: `axes` must be axes of one example and include that of "
                f"the features, {ndim} or -1, got {self.axes}."
            )
        return tuple(sorted(axes - {ndim}))

    def infer(self, *args: Value) -> Value:
        """The mean over features goes; that of each coordinate only if all agree."""
        (h,) = args
        return dataclasses.replace(h, centred=h.centred or not h.mixed, raw=False)

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        r"""$c / (c + \epsilon)$ with the variance $c = q - m^2$."""
        return self._marginal(numbers, args, shapes, None)

    def masked_marginal(self, numbers, *args, shapes, masks, out) -> Marginal:
        """The same over the positions of the example."""
        return self._marginal(numbers, args, shapes, masks[0]).present(out)

    def _marginal(self, numbers, args, shapes, mask: Array | None) -> Marginal:
        (h,), (eps,), (shape,) = args, numbers, shapes
        spatial = self._spatial(shape)
        if h.mean is None:
            variance = _mean(h.q, spatial, mask) if spatial else h.q
            inverse = jnp.broadcast_to(jax.lax.rsqrt(variance + eps), h.q.shape)
            return Marginal.of((h.root * inverse) ** 2)._replace(weights=(inverse,))
        if spatial:
            raise NotImplementedError(
                "layer_norm: over positions `h` must have mean zero at each of them, "
                "as after `conv` or `dense`."
            )
        variance = jnp.maximum(h.q - h.mean**2, 0)
        out = Marginal.of(variance / (variance + eps), jnp.zeros_like(h.mean))
        centred, mean = centred_weights(h)
        return out._replace(
            weights=(
                jax.lax.rsqrt(variance + eps),
                centred,
                mean,
                safe_reciprocal(centred),
            )
        )

    def pair(self, numbers, *args: Covariance, out1, out2, shapes, rules) -> Pair:
        """The cosine of the centred parts."""
        (h,) = args
        scale = out1.weights[0] * out2.weights[0]
        if len(out1.weights) == 1:
            v, w = h.v, h.w
        else:
            _, c1, m1, inverse1 = out1.weights
            _, c2, m2, inverse2 = out2.weights
            v = (h.v - gap([(c1, c2), (m1, m2)])) * inverse1 * inverse2
            w = 2 - v
        slope = None if h.slope is None else h.slope * scale
        v, w, slope = relative(out1, out2, v, w, slope, rules)
        return Pair(v, w, h.t * scale, slope)

    def apply(self, numbers, params, *args: Array, key):
        """Subtracts the mean and divides by the standard deviation."""
        return self.masked_apply(numbers, params, *args, key=key, masks=(None,))

    def masked_apply(self, numbers, params, *args, key, masks):
        """The same over the positions of the example."""
        (x,), (eps,), (mask,) = args, numbers, masks
        mask = None if mask is None else jnp.broadcast_to(mask[..., None], x.shape)
        centred = x - _mean(x, self.axes, mask)
        variance = _mean(centred**2, self.axes, mask)
        return centred * jax.lax.rsqrt(variance + eps)


@dataclasses.dataclass(frozen=True)
class Dropout(Operation):
    """Rules of `dropout`."""

    name = "dropout"
    numbers = ("rate",)

    def infer(self, *args: Value) -> Value:
        """The mask is a source of its own, and no mixture with 0 is Gaussian."""
        return dataclasses.replace(args[0], gaussian=False, raw=False)

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        """$q / (1 - p)$."""
        (h,), (rate,) = args, numbers
        return Marginal.of(h.q / (1 - rate), h.mean)

    def pair(self, numbers, *args: Covariance, out1, out2, shapes, rules) -> Pair:
        """Two examples have independent masks; an example has one with itself."""
        (h,), (rate,) = args, numbers
        if rules.same is True:
            return Pair(h.v, h.w, h.t / (1 - rate), h.slope)
        v = rate + (1 - rate) * h.v
        w = None if h.w is None else rate + (1 - rate) * h.w
        if rules.same is False:
            return Pair(v, w, h.t, h.slope)
        v = jnp.where(rules.same, h.v, v)
        w = None if w is None else jnp.where(rules.same, h.complement, w)
        return Pair(v, w, jnp.where(rules.same, h.t / (1 - rate), h.t), h.slope)

    def apply(self, numbers, params, *args: Array, key):
        """Drops each coordinate with probability `rate`; without a key, none."""
        (x,), (rate,) = args, numbers
        if key is None:
            return x
        keep = jax.random.bernoulli(key, 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), 0)


def layer_norm(
    h: Symbol, *, eps: Number = 1e-12, axes: Sequence[int] = (-1,)
) -> Symbol:
    r"""Layer normalisation over features, without trained scale and shift.

    $$k' = \frac{k - m m'}{\sqrt{(c + \epsilon)(c' + \epsilon)}}, \qquad
      t' = \frac{t}{\sqrt{(c + \epsilon)(c' + \epsilon)}}, \qquad c = q - m^2.$$

    Args:
        h: Any value; a Gaussian one stays Gaussian.
        eps: Added to the variance.
        axes: Axes of one example `(*space, features)` to normalise over; the features
            are among them.

    Returns:
        A value of mean 0 and variance 1 over these axes.
    """
    return emit(LayerNorm(tuple(axes)), [h], [eps])


def dropout(h: Symbol, *, rate: Number) -> Symbol:
    r"""Dropout in training: each coordinate is 0 with probability `rate`.

    Others are divided by $1 - p$. Only an example paired with itself feels it:
    $k' = k / (1 - p)$ and $t' = t / (1 - p)$ there. Such pairs are the diagonal of
    `kernel(x)`, and `kernel(x, diagonal=True)`.

    Args:
        h: Any value.
        rate: $p$, the probability to DROP, in [0, 1).

    Returns:
        A value that is not Gaussian.

    Raises:
        ValueError: if `rate` is a number outside [0, 1).
    """
    if isinstance(rate, (int, float)) and not 0 <= rate < 1:
        raise ValueError(f"dropout: `rate` must be in [0, 1), got {rate}.")
    return emit(Dropout(), [h], [rate])
