"""What jaxprs are made of, told by shapes and types alone in every version of JAX."""

from collections.abc import Sequence

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def opened(jaxpr: Jaxpr | ClosedJaxpr) -> tuple[Jaxpr, Sequence]:
    """Gives a jaxpr and its constants, whether it came closed or not."""
    if isinstance(jaxpr, ClosedJaxpr):
        return jaxpr.jaxpr, jaxpr.consts
    return jaxpr, ()


def called(eqn: JaxprEqn) -> Jaxpr | ClosedJaxpr:
    """Gives the one jaxpr that the equation of a call holds."""
    (jaxpr,) = (p for p in eqn.params.values() if isinstance(p, Jaxpr | ClosedJaxpr))
    return jaxpr


def scan_arguments(eqn: JaxprEqn) -> tuple[int, int]:
    """Counts the constants and the carried values of a scan, which lead its arguments.

    They keep their rank within, where what is scanned loses its first axis.
    """
    jaxpr, _ = opened(eqn.params["jaxpr"])

    def same(outer: Sequence, inner: Sequence) -> int:
        return sum(
            len(v.aval.shape) == len(w.aval.shape)
            for v, w in zip(outer, inner, strict=True)
        )

    carried = same(eqn.outvars, jaxpr.outvars)
    return same(eqn.invars, jaxpr.invars) - carried, carried
