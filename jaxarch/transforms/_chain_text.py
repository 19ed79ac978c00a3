"""A text of any function, in the format of ONNX-Net, for language models and kernels.

Qin, Auras, Cohen, Crowley, Moeller, Ericsson and Lukasik, *ONNX-Net: Towards Universal
Representations and Instant Performance Prediction for Neural Architectures*
(arXiv:2510.04938): the encoding that their repository (shiwenqin/ONNX-Net) calls
`chain_slim`, of a jaxpr in place of an ONNX graph.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .._jaxprs import opened, scan_arguments
from ._chain_attributes import attributes as written
from ._chain_nodes import Block, Node, Printer, Value, sizes_text
from ._walk import Equation, Rules, walk

# They change where or how a value is held, and not what it is.
_SAME = frozenset(
    """copy copy_p device_put layout_constraint name optimization_barrier pcast pvary
    sharding_constraint stop_gradient""".split()
)
# Of parameters they are no part of the architecture: another layout is as good.
_LAYOUT = frozenset("expand_dims reshape slice squeeze transpose".split())


def chain_text(
    f: Callable,
    params: Any,
    *example_args: Any,
    shapes: bool = True,
    attributes: bool = True,
    inputs: bool = True,
) -> str:
    """Writes what a function computes, as a text of chained operations.

    Each line is a chain: operations of which each uses the one before, which nothing
    else uses, and no other computed value. `prev` is the result of the operation
    before, `Param[3,8]` an array of parameters, `5x3` an argument, and the last name of
    a line, `Value1:5x8`, its result. Where several values meet, a new line begins.
    Loops and branches are blocks in braces: of a `scan` its body, in which `Carry1`
    becomes `Next1`; of a `while` its condition and its body; of a `cond` its branches.

    Nothing is run. The text depends on what is computed alone, and not on names, on the
    order of parameters, or on whether parts are jitted: calls are written out, results
    that nothing uses left out, and so are conversions between floating dtypes and the
    layout of parameters. Two arrays of one shape have one text, so that tied weights
    cannot be told from equal shapes.

    It differs from ONNX-Net in that its operations are those of JAX; that attributes
    are an allow-list without neutral ones; that a value with several uses is always
    named (there a chain may run past it); that an operation on an argument of the
    function may begin a chain; that every line has a shape; and by its blocks.

    Args:
        f: `f(params, *args)`, any function that JAX can trace.
        params: a pytree, of whose leaves arrays and `jax.ShapeDtypeStruct` are
            parameters, and others are given to `f` as they are. A function that has
            closed over its parameters takes `()`: arrays within it are parameters too.
        example_args: the other arguments, likewise; their arrays are inputs.
        shapes: whether results have shapes.
        attributes: whether operations have attributes.
        inputs: whether operations have operands, and values have numbers. Without
            all three it is the `chain_slim_base` of ONNX-Net's ablation, with one of
            them its `outshape`, `param` and `input`.

    Returns:
        The text.

    Raises:
        TypeError: `f` is not a function.

    Examples:
        >>> import jax.numpy as jnp
        >>> f = lambda p, x: jnp.tanh(x @ p["w"] + p["b"])
        >>> params = {"w": jnp.ones((3, 8)), "b": jnp.ones(8)}
        >>> print(chain_text(f, params, jnp.ones(3), attributes=False))
        dot_general(3, Param[3,8]) --> add(prev, Param[8]) --> tanh(prev) --> Out:8
    """
    if not callable(f):
        raise TypeError(f"chain_text: `f` must be a function, got {type(f).__name__}.")
    leaves, tree = jax.tree.flatten((params, example_args))
    is_array = [hasattr(x, "shape") and hasattr(x, "dtype") for x in leaves]

    def of_arrays(arrays: Sequence) -> Any:
        left = iter(arrays)
        values = [
            next(left) if array else x
            for array, x in zip(is_array, leaves, strict=True)
        ]
        params, args = jax.tree.unflatten(tree, values)
        return jax.tree.leaves(f(params, *args))

    arrays = [x for x, array in zip(leaves, is_array, strict=True) if array]
    jaxpr = jax.make_jaxpr(of_arrays)(arrays)
    weights = sum(is_array[: len(jax.tree.leaves(params))])
    values = [
        _weight(x.shape) if k < weights else Value(x.shape, sizes_text(x.shape))
        for k, x in enumerate(arrays)
    ]
    reader = _Reader()
    results = walk(jaxpr, reader.rules, values)
    names = (
        ["Out"] if len(results) == 1 else [f"Out{k + 1}" for k in range(len(results))]
    )
    block = reader.close(list(zip(names, results, strict=True)))
    return Printer(shapes, attributes, inputs).text(block)


class _Reader:
    """The reading of a jaxpr that collects nodes (`_chain_nodes.py`)."""

    def __init__(self):
        self.nodes: list[Node] = []
        self.rules = Rules(
            primitives={"scan": self.scan, "while": self.while_, "cond": self.cond},
            constant=_constant,
            other=self.other,
        )

    def close(
        self, results: list[tuple[str, Value]], carried: Sequence[Value] = ()
    ) -> Block:
        """Ends a block, without the nodes that nothing uses."""
        used = {id(value) for _, value in results}
        nodes = []
        for node in reversed(self.nodes):
            if node.effects or any(id(value) in used for value in node.results):
                nodes.append(node)
                used.update(id(value) for value in node.operands)
        return Block(nodes[::-1], results, list(carried))

    def block(
        self,
        eqn: Equation,
        jaxpr: Any,
        values: Sequence[Value],
        stems: Sequence[str] = (),
        carried: Sequence[Value] = (),
    ) -> Block:
        outer, self.nodes = self.nodes, []
        results = eqn.walk(jaxpr, values)
        stems = [*stems, *["Result"] * (len(results) - len(stems))]
        found = self.close(list(zip(stems, results, strict=True)), carried)
        self.nodes = outer
        return found

    def add(self, eqn: Equation, operands: Sequence[Value], **fields: Any) -> list:
        results = [Value(getattr(aval, "shape", ())) for aval in eqn.out_avals]
        node = Node(eqn.name, operands, written(eqn), results, **fields)
        node.effects = bool(eqn.eqn.effects)
        self.nodes.append(node)
        return results

    def scan(self, eqn: Equation, *ins: Value) -> list:
        consts, carries = scan_arguments(eqn.eqn)
        first = consts + carries
        carried = _carried(ins[consts:first])
        slices = [
            _weight(v.shape[1:]) if v.weight else Value(v.shape[1:], stem="Slice")
            for v in ins[first:]
        ]
        values = [*ins[:consts], *carried, *slices]
        stems = ["Next"] * carries
        body = self.block(eqn, eqn.params["jaxpr"], values, stems, [*carried, *slices])
        given = [
            *[None] * consts,
            *carried,
            *(s if not s.text else None for s in slices),
        ]
        return self.add(eqn, ins, blocks=[body], given=given)

    def while_(self, eqn: Equation, *ins: Value) -> list:
        test, body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carried = _carried(ins[test + body :])
        jaxprs = (eqn.params[f"{part}_jaxpr"] for part in ("cond", "body"))
        blocks = [
            self.block(eqn, next(jaxprs), [*ins[:test], *carried], (), carried),
            self.block(
                eqn,
                next(jaxprs),
                [*ins[test : test + body], *carried],
                ["Next"] * len(carried),
                carried,
            ),
        ]
        given = [*[None] * (test + body), *carried]
        return self.add(eqn, ins, blocks=blocks, given=given)

    def cond(self, eqn: Equation, *ins: Value) -> list:
        branches = eqn.params["branches"]
        blocks = [self.block(eqn, branch, ins[1:]) for branch in branches]
        return self.add(eqn, ins, blocks=blocks)

    def other(self, eqn: Equation, *ins: Value) -> list:
        same = self.same(eqn, *ins)
        if same is not None:
            return same
        blocks = []
        for name in sorted(eqn.params):
            held = eqn.params[name]
            for jaxpr in held if isinstance(held, tuple | list) else (held,):
                if name == "update_jaxpr" or not _is_jaxpr(jaxpr):
                    continue  # the name of a scatter says how it updates
                shapes = [getattr(v.aval, "shape", ()) for v in opened(jaxpr)[0].invars]
                values = [Value(shape, sizes_text(shape)) for shape in shapes]
                blocks.append(self.block(eqn, jaxpr, values))
        return self.add(eqn, ins, blocks=blocks)

    def same(self, eqn: Equation, *ins: Value) -> list | None:
        """The results of an equation that is not worth a word, else `None`."""
        if eqn.name in _SAME:
            return list(ins)
        if not ins or len(eqn.out_avals) != 1:
            return None
        old, new = eqn.in_avals[0], eqn.out_avals[0]
        (first, *_), shape = ins, getattr(new, "shape", ())
        if eqn.name == "convert_element_type":
            # From bool it is the same numbers; from float to int it is not.
            kinds = [_kind(aval.dtype) for aval in (old, new)]
            return [first] if kinds[0] in ("b", kinds[1]) else None
        if eqn.name == "reshape" and first.shape == shape:
            return [first]
        if first.number and eqn.name in ("broadcast_in_dim", "reshape"):
            return [dataclasses.replace(first, shape=shape, spread=True)]
        if not first.weight or first.spread:
            return None
        if eqn.name == "broadcast_in_dim":
            return [_spread(_trailing(first.shape, eqn), shape)]
        if eqn.name not in _LAYOUT:
            return None
        if _without_ones(shape) == _without_ones(first.shape):
            return [_spread(_leading_ones(shape), shape)]
        return [_weight(shape)]


def _constant(value: Any) -> Value:
    if np.shape(value):
        return _weight(np.shape(value))
    return Value((), _literal(value), number=True)


def _literal(value: Any) -> str:
    try:
        number = np.asarray(value).item()
    except TypeError:  # the key of a random generator
        return "Key"
    return f"{number:.6g}" if isinstance(number, float) else str(number)


def _carried(values: Sequence[Value]) -> list[Value]:
    return [Value(value.shape, stem="Carry") for value in values]


def _weight(shape: Sequence[int]) -> Value:
    text = f"Param[{','.join(map(str, shape))}]"
    return Value(tuple(shape), text, weight=True)


def _spread(shape: Sequence[int], to: tuple[int, ...]) -> Value:
    """A parameter as it stands beside others that NumPy would broadcast it to."""
    value = _weight(shape)
    return dataclasses.replace(value, shape=to, spread=tuple(shape) != to)


def _kind(dtype: Any) -> str:
    """One letter; "V" of bfloat16 and its like, which are floats."""
    kind = getattr(dtype, "kind", "O")
    return {"V": "f", "u": "i"}.get(kind, kind)


def _trailing(shape: tuple[int, ...], eqn: Equation) -> tuple[int, ...]:
    """The shape that NumPy would broadcast to the same: (8,), or (8, 1) along a row."""
    found = [1] * len(eqn.params["shape"])
    for axis, size in zip(eqn.params["broadcast_dimensions"], shape, strict=True):
        found[axis] = size
    return _leading_ones(found)


def _leading_ones(shape: Sequence[int]) -> tuple[int, ...]:
    first = next((k for k, size in enumerate(shape) if size != 1), len(shape))
    return tuple(shape[first:])


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _is_jaxpr(value: Any) -> bool:
    return hasattr(opened(value)[0], "eqns")
