"""What the parameters of a primitive say about an architecture, in few words.

An allow-list: precision, shardings, names and the like are how a program is run, and
change from one version of JAX to the next.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ._walk import Equation

_WINDOW = (
    "window_dimensions",
    "window_strides",
    "padding",
    "base_dilation",
    "window_dilation",
)
# Primitive -> the parameters to write. Others have none.
_WRITTEN: Mapping[str, tuple[str, ...]] = {
    "all_gather": ("axis_name", "all_gather_dimension"),
    "approx_top_k": ("k", "reduction_dimension"),
    "argmax": ("axes",),
    "argmin": ("axes",),
    "bitcast_convert_type": ("new_dtype",),
    "broadcast_in_dim": ("shape", "broadcast_dimensions"),
    "concatenate": ("dimension",),
    "convert_element_type": ("new_dtype",),
    "cumlogsumexp": ("axis", "reverse"),
    "cummax": ("axis", "reverse"),
    "cummin": ("axis", "reverse"),
    "cumprod": ("axis", "reverse"),
    "cumsum": ("axis", "reverse"),
    "dynamic_slice": ("slice_sizes",),
    "expand_dims": ("dimensions",),
    "fft": ("fft_type", "fft_lengths"),
    "gather": ("slice_sizes",),
    "integer_pow": ("y",),
    "iota": ("shape", "dimension"),
    "pad": ("padding_config",),
    "reduce": ("dimensions",),
    "reduce_precision": ("exponent_bits", "mantissa_bits"),
    "reduce_window": _WINDOW,
    "reduce_window_max": _WINDOW,
    "reduce_window_min": _WINDOW,
    "reduce_window_sum": _WINDOW,
    "reshape": ("new_sizes",),
    "rev": ("dimensions",),
    "round": ("rounding_method",),
    "scan": ("length", "reverse"),
    "select_and_gather_add": _WINDOW,
    "select_and_scatter_add": _WINDOW,
    "slice": ("start_indices", "limit_indices", "strides"),
    "sort": ("dimension", "num_keys"),
    "split": ("sizes", "axis"),
    "squeeze": ("dimensions",),
    "top_k": ("k", "axis"),
    "transpose": ("permutation",),
    "triangular_solve": ("left_side", "lower", "transpose_a", "unit_diagonal"),
    **{
        f"reduce_{kind}": ("axes",)
        for kind in ("and", "max", "min", "or", "prod", "sum", "xor")
    },
}
# Of a window, numbers that are the same along every axis are written once.
_ONCE = frozenset((*_WINDOW, "dilation", "input_dilation", "strides", "window"))
_NEUTRAL = frozenset(("base_dilation", "dilation", "input_dilation", "window_dilation"))


def attributes(eqn: Equation) -> str:
    """Writes what is worth knowing of an equation: "window=3,strides=2"."""
    special = _SPECIAL.get(eqn.name)
    if special is not None:
        found = special(eqn)
    else:
        names = _WRITTEN.get(eqn.name, ())
        found = {name: eqn.params.get(name) for name in names}
    parts = []
    for name, value in found.items():
        if value is None or value is False:
            continue
        text = _plain(value, once=name in _ONCE)
        if not (name in _NEUTRAL and text == "1"):
            parts.append(f"{name}={text}")
    return ",".join(parts)


def _dot_general(eqn: Equation) -> dict[str, Any]:
    contracted, batch = eqn.params["dimension_numbers"]
    return {"contract": _sides(contracted), "batch": _sides(batch)}


def _sides(axes: tuple) -> str | None:
    """Axes of the two operands: "1:0", or "[1,2]:[0,1]" of several."""
    if not axes[0]:
        return None
    return ":".join(map(_plain, axes))


def _convolution(eqn: Equation) -> dict[str, Any]:
    params = eqn.params
    spatial = params["dimension_numbers"].rhs_spec[2:]
    groups, batch_groups = (
        params[f"{kind}_group_count"] for kind in ("feature", "batch")
    )
    return {
        "window": tuple(eqn.in_avals[1].shape[i] for i in spatial),
        "strides": params["window_strides"],
        "padding": params["padding"],
        "input_dilation": params["lhs_dilation"],
        "dilation": params["rhs_dilation"],
        "groups": groups if groups != 1 else None,
        "batch_groups": batch_groups if batch_groups != 1 else None,
    }


_SPECIAL: Mapping[str, Callable[[Equation], dict[str, Any]]] = {
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
}


def _plain(value: Any, *, once: bool = False) -> str:
    if isinstance(value, tuple | list):
        parts = [_plain(part, once=once) for part in value]
        if len(parts) == 1 or (once and len(set(parts)) == 1):
            return parts[0]
        return f"[{','.join(parts)}]"
    if isinstance(value, type):  # as a new dtype may be given
        value = np.dtype(value)
    return str(getattr(value, "name", value))  # dtypes and enumerations have names
