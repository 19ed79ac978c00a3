r"""Convolutions, with shared or local weights, and transposed ones.

Novak et al., *Bayesian Deep Convolutional Networks with Many Channels are Gaussian
Processes* (arXiv:1810.05148); Garriga-Alonso et al. (arXiv:1808.05587); Arora et al.
(arXiv:1904.11955). For positions $p, p'$ and a window of $N$ entries $\tau$,

$$k'(p, p') = \frac{\sigma_w^2}N \sum_\tau k(p + \tau, p' + \tau) + \sigma_b^2.$$
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import check_option, check_positive
from .._params import params
from ._angle import half_angle
from ._covariance import Covariance, Marginal, Pair, norm
from ._graph import Number, Shape, Symbol, emit
from ._weights import Weighted, check_scales
from ._window import Window, spatial_tuple


@params
class ConvParams:
    """Parameters of one convolution."""

    weight: Array  # (*window, in, out); local: (*space, *window, in, out)
    bias: Array | None  # (out,); local: (*space, out)


@dataclasses.dataclass(frozen=True)
class Conv(Weighted):
    """Rules of `conv`, `conv_transpose` and `conv_local`."""

    positional = True

    label: str
    kind: str
    width: int
    window: Window
    bias: bool
    parameterization: str
    s: tuple[float, float]

    @property
    def name(self) -> str:  # pyright: ignore
        """What the user called."""
        return self.kind

    def _statics(self) -> list[str]:
        window = self.window
        statics = [f"window={window.sizes}"]
        strides = window.dilation or window.strides
        statics += [f"strides={strides}"] if max(strides) > 1 else []
        statics += [f"padding={window.padding!r}"] if window.padding != "SAME" else []
        return statics

    def _split(self, numbers: Sequence[Number]) -> tuple[Any, Any, Any]:
        w_std, b_std, learning_rate = super()._split(numbers)
        return jnp.abs(w_std), b_std, learning_rate

    def shape(self, *args: Shape) -> Shape:
        """One position a window."""
        (h,) = args
        if len(h.space) != len(self.window.sizes):
            raise ValueError(
                f"{self.kind}: `h` must have {len(self.window.sizes)} axes of "
                f"positions, as many as `window`, got positions {h.space}."
            )
        space = self.window.out(h.space)
        if min(space) < 1:
            raise ValueError(
                f"{self.kind}: `window` {self.window.sizes} with padding 'VALID' must "
                f"fit into the positions of `h`, got {h.space}."
            )
        return Shape(space, round(self.s[1] * self.width))

    def needs(self, full: bool) -> bool:
        """Filters of their own at each position correlate no two positions."""
        return full and self.kind != "conv_local"

    def mixes(self, full: bool) -> bool:
        """Steps change offsets, and a circle has no room for the zeros outside."""
        plain = max(self.window.strides) == 1 and not self.window.dilation
        plain = plain and self.window.padding != "CIRCULAR"
        return full and (self.kind == "conv_local" or not plain)

    def mask(self, *masks, shapes) -> Array | None:
        """All positions under a VALID window; see `Window.mask`."""
        (mask,), (shape,) = masks, shapes
        if mask is None:
            return None
        return self.window.mask(self.kind, mask, shape.space, self.window.taps)

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        r"""$q = w^2 \bar q + b^2$."""
        (h,), (shape,) = args, shapes
        w_std, b_std, _ = self._scales(numbers)
        total = self.window.sum(h.root**2, shape.space)
        return Marginal.of(w_std**2 / self.window.taps * total + b_std**2)

    def pair(self, numbers, *args: Covariance, out1, out2, shapes, rules) -> Pair:
        """Equation (1) of `_covariance.py` for the entries of the window and the bias.

        A position outside has the weight 0.
        """
        (h,), (shape,) = args, shapes
        w_std, b_std, learning_rate = self._scales(numbers)
        scale = w_std / math.sqrt(self.window.taps)
        # A quotient, which XLA computes once for all pairs; a product it would repeat.
        size1, size2 = (jnp.where(out.root > 0, out.root, 1) for out in (out1, out2))
        standard = self.parameterization == "standard"
        b1, b2 = b_std * out1.inverse, b_std * out2.inverse
        apart = jnp.broadcast_to((b1 - b2) ** 2 / 2, norm(out1, out2).shape)
        zero = jnp.zeros_like(apart)
        start = (
            apart,
            None if h.w is None else apart + 2 * b1 * b2,
            zero,
            zero if standard else None,
        )

        def step(sums, root1, root2, taken):
            v, w, t, k = sums
            v_tap, w_tap, t_tap = taken
            s1, s2 = scale * root1 / size1, scale * root2 / size2
            gap, weight = (s1 - s2) ** 2 / 2, s1 * s2
            v = v + gap + weight * v_tap
            w = None if w is None else w + gap + weight * w_tap
            t = t + t_tap
            k = None if k is None else k + root1 * root2 * (1 - v_tap)
            return v, w, t, k

        pairs = (h.v, h.w, jnp.broadcast_to(h.t, h.v.shape))
        v, w, t, k = self.window.fold(
            step, start, h.one.root, h.two.root, pairs, shape.space, rules.layout
        )
        half, v = half_angle(v)
        if not standard:
            own = norm(out1, out2) * (1 - v)
        else:
            own = shape.width / self.s[0] * k + (1.0 if self.bias else 0.0)
        return Pair(v, w, learning_rate * own + scale**2 * t, None, half)

    def init(self, key, numbers, shapes, dtype) -> ConvParams:
        """The filter and a bias, or those of each position."""
        (shape,), out = shapes, self.shape(*shapes)
        local = out.space if self.kind == "conv_local" else ()
        weight, bias = self._draw(
            key,
            numbers,
            dtype,
            weight=(*local, *self.window.sizes, shape.width, out.width),
            bias=(*local, out.width),
            fan_in=self.window.taps * shape.width,
        )
        return ConvParams(weight=weight, bias=bias)

    def apply(self, numbers, params: ConvParams, *args: Array, key) -> Array:
        """The convolution of one example `(*space, features)`."""
        (x,), window = args, self.window
        w_std, b_std, _ = self._split(numbers)
        ndim, space = len(window.sizes), x.shape[:-1]
        x = window.pad(x, space, (0,))
        if self.kind == "conv_local":
            patches = jax.lax.conv_general_dilated_patches(
                jnp.moveaxis(x, -1, 0)[None], window.sizes, window.strides, "VALID"
            )[0]  # (in * taps, *space)
            patches = patches.reshape(x.shape[-1], window.taps, -1)
            weight = params.weight.reshape(-1, window.taps, *params.weight.shape[-2:])
            y = jnp.einsum("itp,ptio->po", patches, weight)
            y = y.reshape(*window.out(space), -1)
        else:
            letters = "DHW"[-ndim:] if ndim <= 3 else "ABCDEFGH"[:ndim]
            y = jax.lax.conv_general_dilated(
                x[None],
                params.weight,
                window.strides,
                "VALID",
                dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            )[0]
        fan_in = window.taps * x.shape[-1]
        ntk = self.parameterization == "ntk"
        y = y * (w_std / math.sqrt(fan_in) if ntk else 1 / math.sqrt(self.s[0]))
        return self._add_bias(y, params.bias, b_std)


def _conv(
    kind,
    h,
    features,
    window,
    strides,
    padding,
    w_std,
    b_std,
    parameterization,
    s,
    learning_rate,
    name,
):
    """Checks the options and records the operation."""
    check_positive(kind, features=features)
    sizes = (window,) if isinstance(window, int) else tuple(window)
    sizes = spatial_tuple(kind, "window", sizes, max(len(sizes), 1))
    strides = spatial_tuple(kind, "strides", strides, len(sizes))
    paddings = ("SAME", "VALID", "CIRCULAR")
    transposed = kind == "conv_transpose"
    check_option(kind, "padding", padding, paddings[:2] if transposed else paddings)
    check_scales(kind, parameterization, s)
    if not isinstance(h, Symbol):
        raise TypeError(
            f"{kind}: `h` must be a value of the network being recorded, "
            f"got {type(h).__name__}."
        )
    ones = (1,) * len(sizes)
    operation = Conv(
        f"{kind}#{h._recorder.fresh()}" if name is None else name,
        kind,
        features,
        Window(sizes, ones, padding, strides)
        if transposed
        else Window(sizes, strides, padding),
        b_std is not None,
        parameterization,
        (float(s[0]), float(s[1])),
    )
    bias = [] if b_std is None else [b_std]
    return emit(operation, [h], [w_std, *bias, learning_rate])


def conv(
    h: Symbol,
    features: int,
    window: Sequence[int] | int,
    *,
    strides: Sequence[int] | int = 1,
    padding: str = "SAME",
    w_std: Number = 1.0,
    b_std: Number | None = 0.0,
    parameterization: str = "ntk",
    s: tuple[float, float] = (1.0, 1.0),
    learning_rate: Number = 1.0,
    name: str | None = None,
) -> Symbol:
    r"""A convolution over any number of axes of positions.

    The covariance of positions $p, p'$ becomes

    $$k'(p, p') = \frac{\sigma_w^2}N \sum_\tau k(sp + \tau, sp' + \tau) + \sigma_b^2$$

    over the $N$ entries of the window, positions outside counting as 0. The tangent
    kernel becomes $t' = \eta\,k' + \sigma_w^2 \bar t$ with the same mean, and in the
    standard parameterisation
    $t' = \eta\,(\tfrac{nN}{s_0}\bar k + 1) + \sigma_w^2\bar t$; see `dense`.

    Args:
        h: A value with positions, `(*space, features)`.
        features: Channels of the finite network, before the factor `s[1]`.
        window: Size of the window, an int an axis.
        strides: Steps between windows, one int or an int an axis.
        padding: `"SAME"` (zeros outside), `"VALID"` or `"CIRCULAR"`.
        w_std: $\sigma_w$; the weights have the variance $\sigma_w^2 / (nN)$.
        b_std: $\sigma_b$; `None` leaves the bias out.
        parameterization: `"ntk"` or `"standard"`.
        s: Width scales of the input and the output in the standard parameterisation.
        learning_rate: $\eta$, the learning rate of this layer relative to the others.
        name: Names the parameter; see `dense`.

    Returns:
        A Gaussian value with a position a window.

    Raises:
        ValueError: if an option is unknown; when the kernel is called, if the positions
            of `h` do not fit.
    """
    return _conv(
        "conv",
        h,
        features,
        window,
        strides,
        padding,
        w_std,
        b_std,
        parameterization,
        s,
        learning_rate,
        name,
    )


def conv_transpose(
    h: Symbol,
    features: int,
    window: Sequence[int] | int,
    *,
    strides: Sequence[int] | int = 1,
    padding: str = "SAME",
    w_std: Number = 1.0,
    b_std: Number | None = 0.0,
    parameterization: str = "ntk",
    s: tuple[float, float] = (1.0, 1.0),
    learning_rate: Number = 1.0,
    name: str | None = None,
) -> Symbol:
    r"""A transposed convolution: `conv` over inputs with `strides - 1` zeros between.

    The sum of `conv` runs over those entries of the window that meet an input; the
    weights keep the variance $\sigma_w^2 / (nN)$.

    Args:
        h: A value with positions.
        features: Channels of the finite network, before the factor `s[1]`.
        window: Size of the window.
        strides: Steps between inputs; `"SAME"` gives this multiple of the positions.
        padding: `"SAME"` or `"VALID"`.
        w_std: $\sigma_w$.
        b_std: $\sigma_b$; `None` leaves the bias out.
        parameterization: `"ntk"` or `"standard"`.
        s: Width scales of the input and the output in the standard parameterisation.
        learning_rate: $\eta$, the learning rate of this layer relative to the others.
        name: Names the parameter; see `dense`.

    Returns:
        A Gaussian value.

    Raises:
        ValueError: as in `conv`.
    """
    return _conv(
        "conv_transpose",
        h,
        features,
        window,
        strides,
        padding,
        w_std,
        b_std,
        parameterization,
        s,
        learning_rate,
        name,
    )


def conv_local(
    h: Symbol,
    features: int,
    window: Sequence[int] | int,
    *,
    strides: Sequence[int] | int = 1,
    padding: str = "SAME",
    w_std: Number = 1.0,
    b_std: Number | None = 0.0,
    parameterization: str = "ntk",
    s: tuple[float, float] = (1.0, 1.0),
    learning_rate: Number = 1.0,
    name: str | None = None,
) -> Symbol:
    r"""A convolution with weights and a bias of their own at each position.

    As `conv` where $p = p'$, and independent elsewhere: $k'(p, p') = 0$.

    Args:
        h: A value with positions.
        features: Channels of the finite network, before the factor `s[1]`.
        window: Size of the window.
        strides: Steps between windows.
        padding: `"SAME"`, `"VALID"` or `"CIRCULAR"`.
        w_std: $\sigma_w$.
        b_std: $\sigma_b$; `None` leaves the bias out.
        parameterization: `"ntk"` or `"standard"`.
        s: Width scales of the input and the output in the standard parameterisation.
        learning_rate: $\eta$, the learning rate of this layer relative to the others.
        name: Names the parameter; see `dense`.

    Returns:
        A Gaussian value.

    Raises:
        ValueError: as in `conv`.
    """
    return _conv(
        "conv_local",
        h,
        features,
        window,
        strides,
        padding,
        w_std,
        b_std,
        parameterization,
        s,
        learning_rate,
        name,
    )
