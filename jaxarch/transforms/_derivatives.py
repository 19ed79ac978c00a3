"""Derivatives that a function brings along (`custom_jvp`, `custom_vjp`), as jaxprs."""

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from ._walk import bind


def _differentiable(avals) -> list[int]:
    return [i for i, a in enumerate(avals) if jnp.issubdtype(a.dtype, jnp.inexact)]


def _shapes(avals) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]


def tangent_jaxpr(eqn: JaxprEqn):
    """Gives the forward derivative of a call.

    Returns:
        The jaxpr of (arguments, tangents) -> (results, tangents), and the indices of
        the arguments and of the results that have tangents.
    """
    avals = [v.aval for v in eqn.invars]
    inputs = _differentiable(avals)
    outputs = _differentiable([v.aval for v in eqn.outvars])

    def jvp(*args):
        primals, tangents = args[: len(avals)], args[len(avals) :]

        def of_floats(*floats):
            full = list(primals)
            for i, value in zip(inputs, floats, strict=True):
                full[i] = value
            return tuple(bind(eqn, *full))

        floats = tuple(primals[i] for i in inputs)
        out, out_tangents = jax.jvp(of_floats, floats, tangents)
        return [*out, *(out_tangents[i] for i in outputs)]

    shapes = _shapes(avals)
    tangents = [shapes[i] for i in inputs]
    return jax.make_jaxpr(jvp)(*shapes, *tangents), inputs, outputs


def cotangent_jaxpr(eqn: JaxprEqn):
    """Gives the backward derivative of a call.

    Returns:
        The jaxpr of (arguments, cotangents) -> cotangents of the arguments, and the
        indices of the arguments and of the results that have cotangents.
    """
    avals = [v.aval for v in eqn.invars]
    inputs = _differentiable(avals)
    out_avals = [v.aval for v in eqn.outvars]
    outputs = _differentiable(out_avals)

    def vjp(*args):
        primals, cotangents = args[: len(avals)], args[len(avals) :]

        def floats_of_floats(*floats):
            full = list(primals)
            for i, value in zip(inputs, floats, strict=True):
                full[i] = value
            out = bind(eqn, *full)
            return [out[i] for i in outputs]

        floats = tuple(primals[i] for i in inputs)
        return jax.vjp(floats_of_floats, *floats)[1](list(cotangents))

    cotangents = _shapes([out_avals[i] for i in outputs])
    return jax.make_jaxpr(vjp)(*_shapes(avals), *cotangents), inputs, outputs
