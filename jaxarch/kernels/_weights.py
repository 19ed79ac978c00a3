"""What the dense layer and the convolutions share: a weight, a bias, their scales."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import check_option
from ._graph import Number, Operation, Value


class Weighted(Operation):
    """A linear map with Gaussian weights and, perhaps, a Gaussian bias.

    Subclasses are frozen dataclasses with at least the fields named here.
    """

    label: str  # names the parameter
    width: int  # features of the result, before the factor `s[1]`
    bias: bool
    parameterization: str
    s: tuple[float, float]

    @property
    def numbers(self) -> tuple[str, ...]:  # pyright: ignore
        """The bias scale is a number only where there is a bias."""
        return ("w_std", *(["b_std"] if self.bias else []), "learning_rate")

    @property
    def parameter(self) -> str:
        """The weights, which make the result a Gaussian family of its own."""
        return self.label

    def infer(self, *args: Value) -> Value:
        """A new Gaussian family, whatever came in."""
        return Value(frozenset([self.label]), gaussian=True, centred=True)

    def _split(self, numbers: Sequence[Number]) -> tuple[Any, Any, Any]:
        """`w_std`, `b_std` (0 without a bias) and the learning rate."""
        return numbers[0], numbers[1] if self.bias else 0.0, numbers[-1]

    def _scales(self, numbers: Sequence[Number]) -> tuple[Any, Any, Any]:
        """`_split` at infinite width, where a trained bias that starts at 0 is tiny.

        Its tangent kernel in the standard parameterisation is 1, and where nothing
        else is, the angles of the layer are those of the bias.
        """
        w_std, b_std, learning_rate = self._split(numbers)
        if self.bias and self.parameterization == "standard":
            b_std = jnp.asarray(b_std)
            least = float(jnp.finfo(b_std.dtype).tiny) ** 0.25
            b_std = jnp.maximum(jnp.abs(b_std), least)
        return w_std, b_std, learning_rate

    def _statics(self) -> list[str]:
        """What a subclass prints of its own."""
        return []

    def __str__(self) -> str:
        statics = [f"features={self.width}", *self._statics()]
        if self.parameterization != "ntk":
            statics.append(f"parameterization={self.parameterization!r}, s={self.s}")
        return ", ".join([*statics, *self.numbers])

    def _draw(
        self,
        key: Array,
        numbers: Sequence[Number],
        dtype: Any,
        *,
        weight: Sequence[int],
        bias: Sequence[int],
        fan_in: int,
    ) -> tuple[Array, Array | None]:
        """A weight and a bias; in the standard parameterisation already scaled."""
        w_std, b_std, _ = self._split(numbers)
        weight_key, bias_key = jax.random.split(key)
        w = jax.random.normal(weight_key, weight, dtype)
        b = jax.random.normal(bias_key, bias, dtype) if self.bias else None
        if self.parameterization == "standard":
            w = (w * w_std / math.sqrt(fan_in / self.s[0])).astype(dtype)
            b = b if b is None else (b * b_std).astype(dtype)
        return w, b

    def _add_bias(self, y: Array, bias: Array | None, b_std: Any) -> Array:
        if bias is None:
            return y
        scaled = b_std * bias if self.parameterization == "ntk" else bias
        return y + jnp.broadcast_to(scaled, y.shape)


def check_scales(where: str, parameterization: str, s: Sequence[float]) -> None:
    """Checks the options `parameterization` and `s`."""
    check_option(where, "parameterization", parameterization, ("ntk", "standard"))
    if len(s) != 2 or min(s) <= 0:
        raise ValueError(f"{where}: `s` must be two positive numbers, got {s!r}.")
    if parameterization == "ntk" and tuple(s) != (1.0, 1.0):
        raise ValueError(
            f"{where}: `s` belongs to parameterization='standard', got {s!r} with "
            "'ntk'."
        )
