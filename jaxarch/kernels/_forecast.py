"""What a kernel will cost, from shapes alone: before anything runs."""

import dataclasses
import math
from typing import Any

import jax

from ._cost import of_jaxpr
from ._graph import Shape
from ._joint import is_joint
from ._plan import plan
from ._progress import bytes_text


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Cost of one evaluation of a kernel; `print` shows it.

    Attributes:
        result_bytes: Size of the matrices.
        temporary_bytes: What the compiled program holds beside inputs and result;
            `None` where the backend does not say.
        flops: Floating-point operations, each elementwise one counted as one. Blocks
            of a loop that a program may skip are counted.
        pairs: For each value, the pairs of positions that are evaluated for a pair of
            examples, in program order.
        text: A line for each value: shape, pairs of positions, operation.
    """

    result_bytes: int
    temporary_bytes: int | None
    flops: float
    pairs: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        held = self.temporary_bytes
        return (
            f"{self.text}\n"
            f"result {bytes_text(self.result_bytes)}, "
            f"temporary {'unknown' if held is None else bytes_text(held)}, "
            f"{self.flops:.2e} operations"
        )


def forecast(function: Any, graph: Any, kernel: Any, *xs: Any) -> Forecast:
    """Traces and compiles `function(kernel, *xs)`, where `xs` are shapes and dtypes."""
    traced = jax.jit(function).trace(kernel, *xs)
    flops, _ = of_jaxpr(traced.jaxpr.jaxpr)
    analysis = traced.lower().compile().memory_analysis()
    x = xs[0]
    shapes, full, _, *_ = plan(graph, Shape(x.shape[1:-1], x.shape[-1]))
    pairs = tuple(
        math.prod(shape.space) ** (1 + wanted)
        for shape, wanted in zip(shapes, full, strict=True)
    )
    joint = ", and of its covariances with other values" if is_joint(graph) else ""
    lines = [
        f"{f'h{i}':<4} {str((*shape.space, shape.features)):<20} "
        f"{count:>12,} pairs of positions{joint}  {node.operation.name}"
        for i, (shape, count, node) in enumerate(
            zip(shapes, pairs, graph.nodes, strict=True)
        )
    ]
    return Forecast(
        result_bytes=sum(a.size * a.dtype.itemsize for a in traced.jaxpr.out_avals),
        temporary_bytes=None if analysis is None else analysis.temp_size_in_bytes,
        flops=flops,
        pairs=pairs,
        text="\n".join(lines),
    )
