r"""Where a function uses its parameters linearly, read from its jaxpr.

In $y = W h$ the gradient of an output in $W$ is $\sum_m a_m \otimes b_m$, with $a$ the
inputs of the layer and $b$ the cotangents of what it returns (Novak, Sohl-Dickstein,
Schoenholz, arXiv:2206.08720, section 3.3, "structured derivatives"). `find_uses` lists
the equations of that kind. Everything else that a parameter enters gives it up: its
gradient is then formed whole.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal, primitives as prim
from jaxtyping import Array

from .._jaxprs import scan_arguments

INLINED = {prim.jit_p: "jaxpr", prim.remat_p: "jaxpr", prim.closed_call_p: "call_jaxpr"}


class View(NamedTuple):
    """A value that is a parameter with its axes permuted, reshaped or scaled.

    `path` is what was reshaped on the way; after it the axes are numbered anew. `outer`
    are axes that enclosing scans run over, `axes` those of this value, so numbered.
    """

    leaf: int
    path: tuple[Any, ...]
    outer: tuple[int, ...]
    axes: tuple[int, ...]
    scales: tuple["Site", ...] = ()  # equations that multiply by one number


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """An equation of a (nested) jaxpr whose input is recorded by `read`."""

    where: tuple[int, ...]  # index of the equation in each of the nested jaxprs
    scans: tuple[tuple[int, bool], ...]  # around it: length, whether over the parameter
    read: Callable[[Sequence[Any]], Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Use(Site):
    r"""An equation linear in a parameter: $G_b = \sum_m a_{bm} \otimes b_{bm}$.

    `key` says which axes of the parameter `a` and `b` index, in which order.
    """

    leaf: int
    key: tuple[Any, ...]  # path, axes shared, axes of a, axes of b
    shape: tuple[int, int, int, int]  # b (shared), m (summed), axes of a, axes of b
    place: Callable[[Array], Array]  # (b, m, n) to the shape of the equation's output
    scales: tuple[Site, ...]
    gather: bool = False  # `a` is a row index (1, m, 1) and stands for its unit vector

    @property
    def full(self) -> tuple[int, int, int, int]:
        """`shape` with all steps of the enclosing scans."""
        b, m, k, n = self.shape
        for length, over in self.scans:
            b, m = (b * length, m) if over else (b, m * length)
        return b, m, k, n

    @property
    def swapped(self) -> tuple[Any, ...]:
        """The key of a use in which `a` and `b` have changed places."""
        path, shared, a, b = self.key
        return path, shared, b, a


def find_uses(jaxpr: Any, num_leaves: int) -> dict[int, list[Use]]:
    """Lists the uses of the first `num_leaves` inputs of a closed jaxpr.

    Returns:
        The uses of each leaf that has no other use; uses of one leaf have one key, or
        keys that are `swapped`.
    """
    search = _Search()
    views = [
        View(i, (), (), tuple(range(v.aval.ndim))) if i < num_leaves else None
        for i, v in enumerate(jaxpr.jaxpr.invars)
    ]
    search.give_up(search.walk(jaxpr.jaxpr, views, (), ()))
    found: dict[int, list[Use]] = {}
    for use in search.uses:
        found.setdefault(use.leaf, []).append(use)
    for leaf, uses in found.items():
        if not all(uses[0].key in (use.key, use.swapped) for use in uses):
            search.given_up.add(leaf)
    return {leaf: us for leaf, us in found.items() if leaf not in search.given_up}


class _Search:
    def __init__(self):
        self.uses: list[Use] = []
        self.given_up: set[int] = set()

    def give_up(self, views: Sequence[View | None]) -> None:
        self.given_up |= {view.leaf for view in views if view is not None}

    def walk(self, jaxpr, views, where, scans) -> list[View | None]:
        """Follows views through a jaxpr; returns those of its outputs."""
        known = {v: view for v, view in zip(jaxpr.invars, views, strict=True) if view}

        def view_of(v):
            return None if isinstance(v, Literal) else known.get(v)

        for i, eqn in enumerate(jaxpr.eqns):
            views = [view_of(v) for v in eqn.invars]
            if any(views):
                outs = self.equation(eqn, views, (*where, i), scans)
                known.update(
                    (v, o) for v, o in zip(eqn.outvars, outs, strict=True) if o
                )
        return [view_of(v) for v in jaxpr.outvars]

    def equation(self, eqn, views, where, scans) -> list[View | None]:
        nothing: list[View | None] = [None] * len(eqn.outvars)
        if eqn.primitive in INLINED:
            return self.walk(jaxpr_of(eqn), views, where, scans)
        if eqn.primitive is prim.scan_p:
            self.scan(eqn, views, where, scans)
            return nothing
        if eqn.primitive in (prim.mul_p, prim.div_p, prim.neg_p):
            return [self.scaled(eqn, views, where, scans)]
        if eqn.primitive in _MOVES and views[0] and not any(views[1:]):
            if (moved := _MOVES[eqn.primitive](eqn, views[0])) is not None:
                return [moved]
        for operand, view in enumerate(views):
            if view is None:
                continue
            parts = None
            if eqn.primitive in _USES:
                parts = _USES[eqn.primitive](eqn, view, operand)
            if parts is None:
                self.give_up([view])
                continue
            use = Use(
                where=where, scans=scans, leaf=view.leaf, scales=view.scales, **parts
            )
            self.uses.append(use)
        return nothing

    def scan(self, eqn, views, where, scans) -> None:
        """Constants are used at each step; what is scanned has one slice a step."""
        consts, carry = scan_arguments(eqn)
        self.give_up(views[consts : consts + carry])
        inner: list[View | None] = [*views[:consts], *[None] * carry]
        for view in views[consts + carry :]:
            if view is not None:
                outer, *axes = view.axes
                view = view._replace(outer=(*view.outer, outer), axes=tuple(axes))
            inner.append(view)
        body = jaxpr_of(eqn)
        # Two searches: within one step a leaf is met by either kind of loop.
        for over in (False, True):
            chosen = [
                v if i >= consts and over or i < consts and not over else None
                for i, v in enumerate(inner)
            ]
            if any(chosen):
                around = (*scans, (eqn.params["length"], over))
                self.give_up(self.walk(body, chosen, where, around))

    def scaled(self, eqn, views, where, scans) -> View | None:
        """A parameter times, or over, one number that is not itself a view of it."""
        if eqn.primitive is prim.neg_p:
            site = Site(where, scans, lambda x: -jnp.ones((), x[0].dtype))
            return views[0]._replace(scales=(*views[0].scales, site))
        shapes = [v.aval.shape for v in eqn.invars]
        for i, other in ((0, 1), (1, 0)):
            divides = eqn.primitive is prim.div_p
            if views[i] and shapes[other] == () and not (divides and i == 1):
                self.give_up([views[other]])
                if shapes[i] == () and views[other]:
                    break

                def read(x, other=other, divides=divides):
                    return 1 / x[other] if divides else x[other]

                site = Site(where, scans, read)
                return views[i]._replace(scales=(*views[i].scales, site))
        self.give_up(views)
        return None


# --- parameters moved about ------------------------------------------------------


def _transpose(eqn, view: View) -> View:
    return view._replace(axes=tuple(view.axes[i] for i in eqn.params["permutation"]))


def _reshape(eqn, view: View) -> View:
    shape = eqn.outvars[0].aval.shape
    outer, rank = len(view.outer), len(shape)
    return view._replace(
        path=(*view.path, (view.outer, view.axes, shape)),
        outer=tuple(range(outer)),
        axes=tuple(range(outer, outer + rank)),
    )


def _expand(eqn, view: View) -> View | None:
    """`broadcast_in_dim` where it only inserts axes of length 1."""
    same_size = eqn.invars[0].aval.size == eqn.outvars[0].aval.size
    return _reshape(eqn, view) if same_size else None


def _convert(eqn, view: View) -> View | None:
    return view if jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating) else None


_MOVES: dict[Any, Callable[..., View | None]] = {
    prim.transpose_p: _transpose,
    prim.reshape_p: _reshape,
    prim.squeeze_p: _reshape,
    prim.broadcast_in_dim_p: _expand,
    prim.convert_element_type_p: _convert,
    prim.copy_p: lambda eqn, view: view,
}


# --- equations linear in a parameter ---------------------------------------------


def _sizes(shape, axes) -> tuple[int, ...]:
    return tuple(shape[i] for i in axes)


def _dot(eqn, view: View, operand: int) -> dict[str, Any]:
    """`dot_general`: `a` is the other operand, contracted with the parameter."""
    contract, batch = eqn.params["dimension_numbers"]
    w, h = operand, 1 - operand
    w_shape, h_shape = eqn.invars[w].aval.shape, eqn.invars[h].aval.shape

    def by_axis(pairs):  # in the order of the parameter's own axes
        pairs = sorted(pairs, key=lambda p: view.axes[p[0]])
        return [i for i, _ in pairs], [j for _, j in pairs]

    k_w, k_h = by_axis(zip(contract[w], contract[h], strict=True))
    b_w, b_h = by_axis(zip(batch[w], batch[h], strict=True))
    free_w = [i for i in range(len(w_shape)) if i not in {*contract[w], *batch[w]}]
    free_h = [i for i in range(len(h_shape)) if i not in {*contract[h], *batch[h]}]
    n_w = sorted(free_w, key=lambda i: view.axes[i])
    b, m, k, n = (
        _sizes(h_shape, b_h),
        _sizes(h_shape, free_h),
        _sizes(h_shape, k_h),
        _sizes(w_shape, n_w),
    )
    # The output has the axes (batch, lhs free, rhs free); the probe (b_w, m, n_w).
    b_out = [b_w.index(i) for i in batch[w]]
    m_out = [len(b) + i for i in range(len(m))]
    n_out = [len(b) + len(m) + n_w.index(i) for i in free_w]
    order = [*b_out, *(n_out + m_out if w == 0 else m_out + n_out)]
    shape = tuple(map(math.prod, (b, m, k, n)))

    def axes(own):
        return tuple(view.axes[i] for i in own)

    def read(x):
        return lax.transpose(x[h], [*b_h, *free_h, *k_h]).reshape(shape[:3])

    return {
        "key": (view.path, (*view.outer, *axes(b_w)), axes(k_w), axes(n_w)),
        "shape": shape,
        "read": read,
        "place": lambda probe: lax.transpose(probe.reshape(*b, *m, *n), order),
    }


def _conv(eqn, view: View, operand: int) -> dict[str, Any] | None:
    """`conv_general_dilated`: `a` are the patches of the input."""
    params = eqn.params
    if operand != 1 or params["batch_group_count"] != 1:
        return None
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    w_shape, out_shape = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
    out_axis, in_axis, *window = numbers.rhs_spec
    batch, features, *space = numbers.out_spec
    k = math.prod(_sizes(w_shape, (in_axis, *window)))
    m = math.prod(_sizes(out_shape, (batch, *space)))
    n = w_shape[out_axis] // groups
    order = [batch, *space, features]

    def read(x):
        patches = lax.conv_general_dilated_patches(
            x[0],
            _sizes(w_shape, window),
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            numbers,
            precision=lax.Precision.HIGHEST,
        )
        patches = lax.transpose(patches, order).reshape(m, groups, k)
        return jnp.swapaxes(patches, 0, 1)

    def place(probe):
        out = jnp.swapaxes(probe, 0, 1).reshape(_sizes(out_shape, order))
        return lax.transpose(out, [order.index(i) for i in range(len(order))])

    a = tuple(view.axes[i] for i in (in_axis, *window))
    key = (view.path, (*view.outer, ("groups", groups)), a, (view.axes[out_axis],))
    return {"key": key, "shape": (groups, m, k, n), "read": read, "place": place}


def _gather(eqn, view: View, operand: int) -> dict[str, Any] | None:
    """`gather` of whole rows (an embedding): `a` is the row's unit vector."""
    numbers, mode = eqn.params["dimension_numbers"], eqn.params["mode"]
    w_shape, index_shape = (v.aval.shape for v in eqn.invars)
    rows = lax.GatherScatterMode
    m_shape = index_shape[:-1]
    rank = len(m_shape) + len(w_shape) - 1
    if (
        operand != 0
        or numbers.start_index_map != (0,)
        or numbers.collapsed_slice_dims != (0,)
        or numbers.operand_batching_dims
        or numbers.offset_dims != tuple(range(len(m_shape), rank))
        or tuple(eqn.params["slice_sizes"]) != (1, *w_shape[1:])
    ):
        return None

    def read(x):
        index = x[1].reshape(1, -1, 1)
        if mode == rows.CLIP:
            return jnp.clip(index, 0, w_shape[0] - 1)
        return jnp.where((index >= 0) & (index < w_shape[0]), index, -1)

    return _rows(view, w_shape, m_shape, read)


def _slice(eqn, view: View, operand: int) -> dict[str, Any] | None:
    """`dynamic_slice` of one whole row, which is what a scalar index makes."""
    w_shape = eqn.invars[0].aval.shape
    whole = tuple(eqn.params["slice_sizes"]) == (1, *w_shape[1:])
    if operand != 0 or not w_shape or not whole:
        return None

    def read(x):
        return jnp.clip(x[1], 0, w_shape[0] - 1).reshape(1, 1, 1)

    return _rows(view, w_shape, (1,), read)


def _rows(view: View, w_shape, m_shape, read) -> dict[str, Any]:
    n = w_shape[1:]
    return {
        "key": (view.path, view.outer, view.axes[:1], view.axes[1:]),
        "shape": (1, math.prod(m_shape), w_shape[0], math.prod(n)),
        "read": read,
        "place": lambda probe: probe.reshape(*m_shape, *n),
        "gather": True,
    }


_USES: dict[Any, Callable[..., dict[str, Any] | None]] = {
    prim.dot_general_p: _dot,
    prim.conv_general_dilated_p: _conv,
    prim.gather_p: _gather,
    prim.dynamic_slice_p: _slice,
}


def jaxpr_of(eqn) -> Any:
    """The one jaxpr inside an equation that is followed."""
    inner = eqn.params[INLINED.get(eqn.primitive, "jaxpr")]
    return getattr(inner, "jaxpr", inner)


def sub_jaxprs(eqn) -> list[tuple[Any, int]]:
    """The jaxprs in an equation and how often each runs."""
    found = []
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(inner := getattr(one, "jaxpr", one), "eqns"):
                found.append((inner, eqn.params.get("length", 1)))
    return found
