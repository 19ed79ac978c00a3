r"""The dense layer: a product with a Gaussian matrix.

Jacot, Gabriel and Hongler, *Neural Tangent Kernel* (arXiv:1806.07572); Lee et al.,
*Deep Neural Networks as Gaussian Processes* (arXiv:1711.00165). The standard
parameterisation follows Sohl-Dickstein et al. (arXiv:2001.07301), in which $s$ scales
the width while the learning rate stays that of the width $n$ written down.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array

from .._checks import check_positive
from .._params import params
from ._angle import half_angle
from ._covariance import (
    Covariance,
    Marginal,
    Pair,
    Rules,
    direct_sum,
    norm,
    relative,
)
from ._graph import Number, Shape, Symbol, emit
from ._weights import Weighted, check_scales


@params
class DenseParams:
    """Parameters of one dense layer."""

    weight: Array  # (out, in)
    bias: Array | None  # (out,)


@dataclasses.dataclass(frozen=True)
class Dense(Weighted):
    """Rules of `dense`."""

    name = "dense"

    width: int
    bias: bool
    parameterization: str
    s: tuple[float, float]
    label: str

    def shape(self, *args: Shape) -> Shape:
        """The width of the finite network, `s[1]` times the one written."""
        return Shape(args[0].space, round(self.s[1] * self.width))

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        """$q = w^2 q + b^2$."""
        (h,) = args
        w_std, b_std, _ = self._scales(numbers)
        if not self.bias:
            return h.scaled(jnp.abs(w_std))
        scaled = w_std * h.root  # and not q: see `half_angle` for the reason
        out = Marginal.of(scaled**2 + b_std**2)
        return out._replace(weights=(scaled * out.inverse, b_std * out.inverse))

    def pair(
        self,
        numbers,
        *args: Covariance,
        out1: Marginal,
        out2: Marginal,
        shapes,
        rules: Rules,
    ) -> Pair:
        """$k' = w^2 k + b^2$, with the tangent kernel of the parameterisation."""
        (h,) = args
        w_std, _, learning_rate = self._scales(numbers)
        v, w = h.v, h.w
        if self.bias:
            (h1, b1), (h2, b2) = out1.weights, out2.weights
            v, w = direct_sum([(h1, h2, v, w), (b1, b2, 0.0, 2.0)])
        slope = None if h.slope is None else w_std**2 * h.slope
        v, w, slope = relative(out1, out2, v, w, slope, rules)
        half, v = half_angle(v)
        if self.parameterization == "ntk":
            own = rules.attach(norm(out1, out2) * (1 - v), slope)
        else:
            if shapes[0].features is None:
                raise ValueError(
                    "dense: parameterization='standard' needs the number of features "
                    "of its input; give the `State` its `features`."
                )
            scale = shapes[0].features / self.s[0]
            own = scale * rules.attach(h.k, h.slope) + (1.0 if self.bias else 0.0)
        return Pair(v, w, learning_rate * own + w_std**2 * h.t, slope, half)

    def init(self, key, numbers, shapes, dtype) -> DenseParams:
        """A matrix and a vector."""
        n, width = shapes[0].width, self.shape(*shapes).width
        weight, bias = self._draw(
            key, numbers, dtype, weight=(width, n), bias=(width,), fan_in=n
        )
        return DenseParams(weight=weight, bias=bias)

    def apply(self, numbers, params: DenseParams, *args: Array, key) -> Array:
        r"""$y = w W x / \sqrt{n} + b\,\beta$, or $W x / \sqrt{s_0} + \beta$."""
        (x,) = args
        w_std, b_std, _ = self._split(numbers)
        y = x @ params.weight.T
        if self.parameterization == "ntk":
            y = w_std / math.sqrt(x.shape[-1]) * y
        else:
            y = y / math.sqrt(self.s[0])
        return self._add_bias(y, params.bias, b_std)


def dense(
    h: Symbol,
    features: int,
    *,
    w_std: Number = 1.0,
    b_std: Number | None = 0.0,
    parameterization: str = "ntk",
    s: tuple[float, float] = (1.0, 1.0),
    learning_rate: Number = 1.0,
    name: str | None = None,
) -> Symbol:
    r"""A dense layer, the only operation here with parameters.

    The covariance becomes $k' = \sigma_w^2 k + \sigma_b^2$. The tangent kernel becomes,
    in the NTK parameterisation $y = \sigma_w W x / \sqrt n + \sigma_b \beta$ with
    standard normal $W, \beta$,

    $$t' = \eta\,k' + \sigma_w^2 t,$$

    and in the standard one, $y = W x / \sqrt{s_0} + \beta$ with
    $W_{ij} \sim N(0, \sigma_w^2 s_0 / n)$ and $\beta_i \sim N(0, \sigma_b^2)$,

    $$t' = \eta\,(\tfrac{n}{s_0} k + 1) + \sigma_w^2 t,$$

    where $n$ is the number of features of `h` and the 1 is there if there is a bias.

    Args:
        h: Any value.
        features: Width of the finite network, before the factor `s[1]`.
        w_std: $\sigma_w$.
        b_std: $\sigma_b$; `None` leaves the bias out. In the standard parameterisation
            0 is the limit of small ones: a bias that starts at 0 is still trained.
        parameterization: `"ntk"` or `"standard"`.
        s: Width scales of the input and the output in the standard parameterisation.
        learning_rate: $\eta$, the learning rate of this layer relative to the others.
        name: Names the parameter; layers of one name share it, and must agree in all
            options, numbers and in the features of their inputs.

    Returns:
        A Gaussian value, independent of every other given its input's covariance.

    Raises:
        ValueError: if an option is unknown, or if layers of one `name` differ.
    """
    check_positive("dense", features=features)
    check_scales("dense", parameterization, s)
    if not isinstance(h, Symbol):
        raise TypeError(
            "dense: `h` must be a value of the network being recorded, "
            f"got {type(h).__name__}."
        )
    label = f"dense#{h._recorder.fresh()}" if name is None else name
    operation = Dense(
        features,
        b_std is not None,
        parameterization,
        (float(s[0]), float(s[1])),
        label,
    )
    bias = [] if b_std is None else [b_std]
    return emit(operation, [h], [w_std, *bias, learning_rate])
