r"""Gradients in factors: what one example contributes to the empirical NTK.

Novak, Sohl-Dickstein, Schoenholz, *Fast Finite Width Neural Tangent Kernel* (ICML 2022,
arXiv:2206.08720), section 3.3. A zero probe is added to the output of every equation
that is linear in a parameter. The cotangent of the probe is $b$, the recorded input of
the equation is $a$, and the gradient of output $o$ is $\sum_m a_m \otimes b_{om}$, so
that its inner product with that of another example is

$$\sum_{m m'} (a_m \cdot a'_{m'}) (b_{om} \cdot b'_{o'm'})$$

and neither gradient is formed. Parameters without that structure are differentiated as
usual, and their gradients multiplied.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import (
    ClosedJaxpr,
    Jaxpr,
    Literal,
    jaxpr_as_fun,
    primitives as prim,
)
from jaxtyping import Array

from .._dtypes import at_least_float32
from .._jaxprs import scan_arguments
from ._function import Function, basis, vary
from ._gp import einsum
from ._uses import INLINED, Site, Use, jaxpr_of


class Factors(NamedTuple):
    """The gradient of every output, for a batch of examples.

    Of `rows` an entry is a parameter's list of `(a, b)` with shapes (n, b, m, k) and
    (n, outputs, b, m, n_out); of `whole` one is a gradient (n, outputs, size).
    """

    rows: dict[int, list[tuple[Array, Array]]]
    whole: list[Array]


class Plan(NamedTuple):
    """Which parameters are taken in factors, and how the function is evaluated."""

    function: Function
    jaxpr: Any  # closed, of function(floats, arrays, x) for one example
    uses: dict[int, list[Use]]
    out: jax.ShapeDtypeStruct


def factors(plan: Plan, floats: Sequence[Array], arrays: Any, x: Any) -> Factors:
    """Differentiates the function at a batch of examples."""
    return jax.vmap(lambda one: _one(plan, floats, arrays, one))(x)


def _one(plan: Plan, floats, arrays, x) -> Factors:
    order = [use for uses in plan.uses.values() for use in uses]
    sites = [site for use in order for site in (use, *use.scales)]
    dtype = at_least_float32(plan.out.dtype)
    probes = []
    for use in order:
        b, m, _, n = use.shape
        lengths = [length for length, _ in use.scans]
        zeros = jnp.zeros((*lengths, b, m, n), _out_dtype(plan.jaxpr, use))
        probes.append(vary(zeros, floats, x))
    rest = [i for i in range(len(floats)) if i not in plan.uses]

    def run(probes, differentiated):
        leaves = list(floats)
        for i, leaf in zip(rest, differentiated, strict=True):
            leaves[i] = leaf
        if not order:
            return plan.function(leaves, arrays, x), []
        given = dict(zip(order, probes, strict=True))
        (out,), seen = _evaluate(
            plan.jaxpr.jaxpr,
            plan.jaxpr.consts,
            jax.tree.leaves((leaves, arrays, x)),
            _Sites(given),
        )
        return out, [seen[site] for site in sites]

    _, pull, seen = jax.vjp(run, probes, [floats[i] for i in rest], has_aux=True)
    seen = dict(zip(sites, seen, strict=True))
    cotangents, whole = jax.vmap(pull)(basis(plan.out, floats, x))
    fold = dict(zip(order, cotangents, strict=True))
    rows = {}
    for leaf, uses in plan.uses.items():
        one_hot = not all(use.gather for use in uses)
        rows[leaf] = [
            (
                _inputs(use, seen, dtype, one_hot),
                _fold(fold[use], use, 1).astype(dtype),
            )
            for use in uses
        ]
    outputs = math.prod(plan.out.shape)
    flat = [g.reshape(outputs, -1).astype(dtype) for g in whole]
    return Factors(rows, flat)


def _inputs(use: Use, seen: dict[Site, Array], dtype, one_hot: bool) -> Array:
    a = seen[use]
    if use.gather and one_hot:
        a = jax.nn.one_hot(a[..., 0], use.shape[2], dtype=dtype)
    elif not use.gather:
        a = a.astype(dtype)
    for site in use.scales:
        scale = jnp.asarray(seen[site]).astype(dtype)
        a = a * scale.reshape(scale.shape + (1,) * (a.ndim - scale.ndim))
    return _fold(a, use, 0)


def _fold(value: Array, use: Use, lead: int) -> Array:
    """Joins the axes of scans, after `lead` others, with those of a step: (b, m, ...).

    Steps over slices of the parameter join what its gradient shares, steps at which it
    is constant join the sum.
    """
    for depth in reversed(range(len(use.scans))):
        _, over = use.scans[depth]
        at = lead + depth
        if not over:
            value = jnp.moveaxis(value, at, at + 1)
            at += 1
        shape = value.shape
        value = value.reshape(*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
    return value


def _out_dtype(jaxpr, use: Use):
    inner = jaxpr.jaxpr
    for i in use.where[:-1]:
        inner = jaxpr_of(inner.eqns[i])
    return inner.eqns[use.where[-1]].outvars[0].aval.dtype


# --- evaluation with probes -------------------------------------------------------


class _Sites:
    """Probes and sites below one (nested) jaxpr."""

    def __init__(self, probes: dict[Use, Array], where: tuple[int, ...] = ()):
        self.probes, self.where = probes, where

    def below(self, i: int) -> "_Sites | None":
        """Those inside equation `i`; `None` where there are none."""
        here = (*self.where, i)
        depth = len(here)
        probes = {
            use: probe
            for use, probe in self.probes.items()
            if any(s.where[:depth] == here for s in (use, *use.scales))
        }
        return _Sites(probes, here) if probes else None

    def here(self) -> list[Site]:
        """The sites that are this equation."""
        sites = {s: None for use in self.probes for s in (use, *use.scales)}
        return [s for s in sites if s.where == self.where]


def _evaluate(jaxpr, consts, args, sites: _Sites) -> tuple[list[Array], dict]:
    """Runs a jaxpr with probes added; returns its outputs and what sites recorded."""
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    seen: dict[Site, Array] = {}

    def read(v):
        return v.val if isinstance(v, Literal) else env[v]

    for i, eqn in enumerate(jaxpr.eqns):
        values = [read(v) for v in eqn.invars]
        inner = sites.below(i)
        if inner is None:
            outs = _bind(jaxpr, eqn, values)
        elif found := inner.here():
            outs = _bind(jaxpr, eqn, values)
            for site in found:
                seen[site] = site.read(values)
                if isinstance(site, Use):
                    outs = [outs[0] + site.place(inner.probes[site])]
        else:
            run = _scan if eqn.primitive is prim.scan_p else _inline
            outs, below = run(eqn, values, inner)
            seen |= below
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars], seen


def _bind(jaxpr, eqn, values) -> list[Any]:
    """Evaluates one equation as a program of its own, custom derivatives included."""
    known = {
        v: x
        for v, x in zip(eqn.invars, values, strict=True)
        if not isinstance(v, Literal)
    }
    one = Jaxpr((), list(known), eqn.outvars, [eqn], eqn.effects, jaxpr.debug_info)
    return jaxpr_as_fun(ClosedJaxpr(one, ()))(*known.values())


def _consts(eqn) -> Sequence[Any]:
    return getattr(eqn.params[INLINED.get(eqn.primitive, "jaxpr")], "consts", ())


def _inline(eqn, values, sites: _Sites):
    return _evaluate(jaxpr_of(eqn), _consts(eqn), values, sites)


def _scan(eqn, values, sites: _Sites):
    """A scan whose steps take their part of the probes and give what they recorded."""
    num_consts, num_carry = scan_arguments(eqn)
    consts, rest = values[:num_consts], values[num_consts:]
    carry, xs = rest[:num_carry], rest[num_carry:]
    uses, kept = list(sites.probes), []

    def step(carry, scanned):
        xs, probes = scanned
        here = _Sites(dict(zip(uses, probes, strict=True)), sites.where)
        inputs = [*consts, *carry, *xs]
        outs, seen = _evaluate(jaxpr_of(eqn), _consts(eqn), inputs, here)
        kept[:] = seen
        return outs[:num_carry], (outs[num_carry:], list(seen.values()))

    carry, (ys, recorded) = lax.scan(
        step,
        carry,
        (xs, list(sites.probes.values())),
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    return [*carry, *ys], dict(zip(kept, recorded, strict=True))


# --- inner products ---------------------------------------------------------------

# Axes: i, j examples; o, p outputs; b shared; m, l summed; k, n contracted.


def contract(plan: Plan, one: Factors, two: Factors, form: str) -> Array:
    """The tangent kernel of two batches of examples.

    Returns:
        (i, j), (i, j, o) or (i, j, o, p) for the forms trace, diagonal and full; the
        trace is the sum over outputs.
    """
    total: Any = 0.0
    for left, right in zip(one.whole, two.whole, strict=True):
        # A whole gradient is a product of itself and 1.
        b1, b2 = left[:, :, None, None], right[:, :, None, None]
        total = total + _join(None, _outer(b1, b2, form), form)
    for leaf, uses in plan.uses.items():
        rows = all(use.gather for use in uses)
        for u, left in zip(uses, one.rows[leaf], strict=True):
            for v, right in zip(uses, two.rows[leaf], strict=True):
                if u.key != v.key:
                    total = total + _crossed(left, right, form)
                    continue
                inner = (_equal if rows else _inner)(left[0], right[0])
                outer = _outer(left[1], right[1], form)
                total = total + _join(inner, outer, form)
    return jnp.einsum(_RESULT[form], total)


_RESULT = {"full": "iojp->ijop", "diagonal": "oij->ijo", "trace": "ij->ij"}


def _products(x: Array, y: Array) -> Array:
    """(b, *x, k) and (b, *y, k) to (b, *x, *y).

    One product of two plain matrices is several times faster on a CPU than the same
    with its axes apart.
    """
    b, k = x.shape[0], x.shape[-1]
    rows, columns = math.prod(x.shape[1:-1]), math.prod(y.shape[1:-1])
    flat = einsum("bxk,byk->bxy", x.reshape(b, rows, k), y.reshape(b, columns, k))
    return flat.reshape(b, *x.shape[1:-1], *y.shape[1:-1])


def _inner(a1: Array, a2: Array) -> Array:
    """(i, b, m, k) and (j, b, l, k) to (b, i, m, j, l)."""
    return _products(jnp.swapaxes(a1, 0, 1), jnp.swapaxes(a2, 0, 1))


def _equal(a1: Array, a2: Array) -> Array:
    """The same for unit vectors, given by their index (-1: the zero vector)."""
    a1 = jnp.swapaxes(a1[..., 0], 0, 1)[:, :, :, None, None]
    a2 = jnp.swapaxes(a2[..., 0], 0, 1)[:, None, None, :, :]
    return (a1 == a2) & (a1 >= 0)


def _outer(b1: Array, b2: Array, form: str) -> Array:
    """(i, o, b, m, n) and (j, p, b, l, n) to the products that `form` needs."""
    x, y = (jnp.einsum(_ORDER[form], b) for b in (b1, b2))
    if form == "trace":  # the sum over outputs belongs to the product: (b, i, m, j, l)
        o, n = x.shape[3:]
        return _products(*(z.reshape(*z.shape[:3], o * n) for z in (x, y)))
    if form == "diagonal":  # (o, b, i, m, j, l)
        o, b = x.shape[:2]
        z = _products(*(z.reshape(o * b, *z.shape[2:]) for z in (x, y)))
        return z.reshape(o, b, *z.shape[1:])
    return _products(x, y)  # (b, i, o, m, j, p, l)


_ORDER = {"trace": "iobmn->bimon", "diagonal": "iobmn->obimn", "full": "iobmn->biomn"}


def _join(inner: Array | None, outer: Array, form: str) -> Array:
    """Sums over b, m and l."""
    if form == "full":
        if inner is not None:
            inner = inner[:, :, None, :, :, None, :]
        axes = (0, 3, 6)
    elif form == "diagonal":
        inner, axes = inner if inner is None else inner[None], (1, 3, 5)
    else:
        axes = (0, 2, 4)
    return (outer if inner is None else inner.astype(outer.dtype) * outer).sum(axes)


def _crossed(left, right, form: str) -> Array:
    """One gradient has `a` where the other has `b` (a matrix and its transpose)."""
    (a1, b1), (a2, b2) = left, right
    inner = einsum("ibmk,jpblk->pbimjl", a1, b2)
    outer = einsum("iobmn,jbln->obimjl", b1, a2)
    if form == "full":
        return einsum("pbimjl,obimjl->iojp", inner, outer)
    if form == "diagonal":
        return einsum("obimjl,obimjl->oij", inner, outer)
    return einsum("obimjl,obimjl->ij", inner, outer)
