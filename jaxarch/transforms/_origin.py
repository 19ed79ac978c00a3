"""By which function of the user or of JAX an equation was made."""

import os
from collections.abc import Sequence

import jax
from jax.extend.core import JaxprEqn

# Functions of JAX by whose names their equations are known.
_KNOWN = frozenset(
    [name for name in dir(jax.nn) if not name.startswith("_")]
    + "clip cumprod cumsum max mean median min norm ptp quantile std var".split()
    + "bernoulli categorical gumbel normal truncated_normal uniform".split()
)
# Names of functions that say nothing.
_PLAIN = frozenset(
    """apply body call f fn forward fun func inner model net network step wrapped
    wrapper""".split()
)
_JAX = os.path.dirname(os.path.abspath(jax.__file__)) + os.sep


def origin(eqn: JaxprEqn, calls: Sequence[str]) -> tuple[str, str]:
    """Names the functions that an equation belongs to.

    Args:
        eqn: any equation.
        calls: names of the calls that it stands in, the innermost last.

    Returns:
        The function of JAX that the user called, `"softmax"`, and the function that
        called it; "" where it is not known or says nothing.
    """
    traceback = getattr(eqn.source_info, "traceback", None)
    known = own = ""
    for frame in getattr(traceback, "frames", ()):
        name = frame.function_name.rpartition(".")[2]
        if not frame.file_name.startswith((_JAX, "<")):
            own = name
            break
        if name.lstrip("_") in _KNOWN:
            known = name.lstrip("_")
    for name in calls:
        if not known and name.lstrip("_") in _KNOWN:
            known = name.lstrip("_")
    if own.startswith(("__", "<")) or own in _PLAIN:
        own = ""
    return known, own
