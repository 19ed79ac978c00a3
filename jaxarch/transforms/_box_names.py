"""How the boxes of a diagram are called, and of which kind they are."""

import collections
from collections.abc import Sequence

from ._circuit import Source, Step, View
from ._primitives import ELEMENTWISE, REDUCTIONS, SCANS, WINDOWS

CHEAP = ELEMENTWISE | REDUCTIONS | SCANS | {"broadcast_in_dim"}
LINEAR = frozenset(("conv_general_dilated", "dot_general", "ragged_dot"))
CUTS = frozenset(("slice", "split"))
_WIRING = CUTS | {"broadcast_in_dim", "concatenate", "reshape"}
_SIGNS = {
    "add": "+",
    "add_any": "+",
    "div": "\u00f7",
    "integer_pow": "power",
    "logistic": "sigmoid",
    "mul": "\u00d7",
    "neg": "negate",
    "pow": "power",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_prod": "product of",
    "reduce_sum": "sum",
    "select_n": "where",
    "slice": "split",
    "sub": "\u2212",
}
_SILENT = frozenset(("broadcast_in_dim", "reshape", "iota"))
_TOKENS = 3  # names on a box


def named_functions(steps: Sequence[Step]) -> set[str]:
    """Functions of the user that are worth a name: of several cheap equations only."""
    kinds: dict[str, list[bool]] = collections.defaultdict(list)
    for step in steps:
        kinds[step.origin[1]].append(step.kind in CHEAP)
    return {
        name for name, cheap in kinds.items() if name and len(cheap) > 1 and all(cheap)
    }


def _looks_up(steps: Sequence[Step]) -> bool:
    return steps[-1].kind == "gather" and isinstance(steps[-1].ins[0], Source)


def kind_of(steps: Sequence[Step]) -> str:
    """The kind of a box (`Box.kind`) of some equations."""
    kinds = [step.kind for step in steps]
    if kinds[0] in ("open", "close"):
        return kinds[0]
    if any(kind in LINEAR for kind in kinds) or _looks_up(steps):
        return "linear"
    if all(kind in _WIRING for kind in kinds):
        return "wiring"
    data = [[isinstance(v, View) for v in step.ins] for step in steps]
    linear = all(
        step.kind in ("add", "sub", "neg", *_SILENT)
        or (step.kind == "mul" and sum(d) == 1)
        or (step.kind == "div" and d == [True, False])
        or step.kind in ("reduce_sum", "reduce_window_sum")
        or (step.kind == "gather" and d[0] and not d[1])
        for step, d in zip(steps, data, strict=True)
    )
    if any(step.ties.acted for step in steps):
        return "linear" if linear else "nonlinear"
    return "sum" if linear else "map"


def label_of(
    steps: Sequence[Step], known: set[str], loops: Sequence[str]
) -> tuple[str, str]:
    """Names a box.

    Args:
        steps: its equations.
        known: the functions of the user whose names may be used.
        loops: how each loop is named.

    Returns:
        What is written beside it, and all that it does.
    """
    kinds = [step.kind for step in steps]
    if kinds[0] in ("open", "close"):
        text = loops[steps[0].frames[-1]]
        return (text, "") if kinds[0] == "open" else ("", "")
    (main, *_) = [s for s in steps if s.kind in LINEAR] or [None]
    if main is not None:
        return _linear(main), ", ".join(kinds)
    if _looks_up(steps):
        return "look up", ", ".join(kinds)
    tokens: list[str] = []
    for step in steps:
        token = _token(step, known)
        if token and (not tokens or tokens[-1] != token):
            tokens.append(token)
    if "reduce_sum" in kinds and {"rsqrt", "sqrt"} & set(kinds):
        tokens = _normalisation(steps, tokens)
    elif {"reduce_max", "exp", "reduce_sum", "div"} <= set(kinds):
        if not any("softmax" in token for token in tokens):
            tokens = ["softmax"]
    short = tokens[:_TOKENS] + ["\u2026"] * (len(tokens) > _TOKENS)
    return ", ".join(short), ", ".join(kinds)


def _normalisation(steps: Sequence[Step], tokens: Sequence[str]) -> list[str]:
    """Its name, by the user's word for it, and the activations that come after."""
    named = [t for t in tokens if "norm" in t and t not in ("norm", "normalize")]
    last = max(k for k, step in enumerate(steps) if step.kind in ("rsqrt", "sqrt"))
    after = [step.origin[0] for step in steps[last:]]
    after = [name.replace("_", " ") for name in dict.fromkeys(after) if name]
    first = named[0] if named else "normalise"
    return [first, *(name for name in after if name != first)]


def _token(step: Step, known: set[str]) -> str:
    function, own = step.origin
    if step.kind in _SILENT and step.kind != "reshape":
        return ""
    if own in known:
        return own.strip("_").replace("_", " ")
    if function:
        return function.replace("_", " ")
    if step.kind in WINDOWS:
        return _window(step)
    if step.kind == "gather":
        return "look up"
    sign = _SIGNS.get(step.kind, step.kind.replace("_", " "))
    numbers = [v.text for v in step.ins if isinstance(v, Source) and v.text]
    if len(sign) == 1 and len(numbers) == 1 and len(step.ins) == 2:
        return f"{sign} {numbers[0]}"
    return sign


def _window(step: Step) -> str:
    assert step.eqn is not None
    sizes = [n for n in step.eqn.params["window_dimensions"] if n != 1]
    kind = {"reduce_window_max": "max", "reduce_window_sum": "sum"}.get(step.kind)
    strides = {s for s in step.eqn.params["window_strides"] if s != 1}
    every = f" / {max(strides)}" if strides else ""
    return f"{kind or 'window'} pool " + "\u00d7".join(map(str, sizes)) + every


def _linear(step: Step) -> str:
    if step.eqn is not None and step.kind == "conv_general_dilated":
        params = step.eqn.params
        rhs = params["dimension_numbers"].rhs_spec
        shape: tuple = getattr(step.eqn.invars[1].aval, "shape", ())
        window = "\u00d7".join(str(shape[d]) for d in rhs[2:])
        strides = set(params["window_strides"]) - {1}
        spread = set(params["lhs_dilation"]) - {1}
        name = "conv" if params["feature_group_count"] == 1 else "grouped conv"
        if 1 < params["feature_group_count"] == int(shape[rhs[0]]):
            name = "depthwise conv"
        every = f" / {max(strides)}" if strides else ""
        return f"{name} {window}{every}" + f" \u00b7 {max(spread, default=1)}" * bool(
            spread
        )
    weighted = any(isinstance(v, Source) for v in step.ins)
    return "linear" if weighted else "product"
