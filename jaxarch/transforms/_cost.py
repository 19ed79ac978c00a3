"""Floating-point operations and bytes of equations, counted from their shapes.

The counts follow XLA's own: two for each multiplication that is added, one for each
entry of an elementwise operation, window positions in the padding of a convolution left
out; exponentials and the like are counted one each too, which XLA lists apart.
"""

import math
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from .._jaxprs import called, opened
from ._primitives import ELEMENTWISE, REDUCTIONS, SCANS, WINDOWS
from ._walk import CALLS

_MOVES = frozenset(
    """bitcast_convert_type copy copy_p layout_constraint name pcast pvary
    sharding_constraint stop_gradient""".split()
)


def flops(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """Counts the operations of a jaxpr; a `while` loop counts as one turn."""
    return sum(equation_flops(eqn) for eqn in opened(jaxpr)[0].eqns)


def equation_flops(eqn: JaxprEqn) -> int:
    """Counts the operations of one equation, with those of the jaxprs within it."""
    name, params = eqn.primitive.name, eqn.params
    if name in CALLS:
        return flops(called(eqn))
    if name == "scan":
        return params["length"] * flops(params["jaxpr"])
    if name == "while":
        return flops(params["cond_jaxpr"]) + flops(params["body_jaxpr"])
    if name == "cond":
        return max(flops(branch) for branch in params["branches"])
    out = math.prod(_shape(eqn.outvars[0])) if eqn.outvars else 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * out * math.prod(_shape(eqn.invars[0])[i] for i in contracted)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if name in REDUCTIONS or name in SCANS:
        return math.prod(_shape(eqn.invars[0])) - out * (name in REDUCTIONS)
    if name in WINDOWS:
        return out * (math.prod(params["window_dimensions"]) - 1)
    if name in ELEMENTWISE and name not in _MOVES:
        return out
    return 0


def equation_bytes(eqn: JaxprEqn) -> int:
    """Counts the bytes that an equation reads and writes if nothing is fused."""
    return sum(_bytes(v.aval) for v in (*eqn.invars, *eqn.outvars))


def _convolution(eqn: JaxprEqn) -> int:
    lhs, rhs = (_shape(v) for v in eqn.invars)
    params = eqn.params
    numbers = params["dimension_numbers"]
    out = _shape(eqn.outvars[0])
    pairs = 1
    for k in range(len(params["window_strides"])):
        pairs *= _window_pairs(
            lhs[numbers.lhs_spec[2 + k]],
            rhs[numbers.rhs_spec[2 + k]],
            out[numbers.out_spec[2 + k]],
            params["window_strides"][k],
            params["padding"][k][0],
            params["lhs_dilation"][k],
            params["rhs_dilation"][k],
        )
    batch, channels = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
    return 2 * batch * channels * rhs[numbers.rhs_spec[1]] * pairs


def _window_pairs(
    size: int, window: int, out: int, stride: int, low: int, spread: int, dilation: int
) -> int:
    """Counts (result, window) positions that meet an entry of the input."""
    at = stride * np.arange(out)[:, None] - low + dilation * np.arange(window)
    inside = (at >= 0) & (at <= spread * (size - 1)) & (at % spread == 0)
    return int(inside.sum())


def _shape(v: Any) -> tuple[int, ...]:
    return getattr(v.aval, "shape", ())


def _bytes(aval: Any) -> int:
    size = math.prod(getattr(aval, "shape", ()))
    return size * getattr(getattr(aval, "dtype", None), "itemsize", 0)
