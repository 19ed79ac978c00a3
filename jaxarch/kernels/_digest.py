"""A digest of a computation: what must agree before its stored tiles may be reused.

SHA-256 over the graph, its numbers as they are computed with, the data, the dtype, the
tiling and which matrices are kept. Text is canonical, so the digest is the same in
every process and on every machine.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from ._graph import Graph, Number

_CHUNK = 1 << 24  # bytes hashed at a time, so that no copy of the data is made


def sha256(*texts: str) -> str:
    """Returns the digest of `texts` in hexadecimal."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def digest_array(x: ArrayLike) -> str:
    """Returns the digest of an array's shape, dtype and values."""
    x = np.asarray(x)
    found = hashlib.sha256(f"{x.shape} {x.dtype.name}".encode())
    rows = max(1, _CHUNK // max(1, x[:1].nbytes)) if x.ndim else 1
    for start in range(0, len(x) if x.ndim else 1, rows):
        part = np.ascontiguousarray(x[start : start + rows] if x.ndim else x)
        found.update(part.view(np.uint8).data if part.size else b"")
    return found.hexdigest()


def digest_graph(graph: Graph) -> str:
    """Returns the digest of an architecture without its numbers.

    Raises:
        ValueError: an operation holds a function without a name.
    """
    lines = [f"{_describe(node.operation)} {node.args}" for node in graph.nodes]
    return sha256(*lines)


def digest_numbers(numbers: tuple[tuple[Number, ...], ...], dtype: Any) -> str:
    """Returns the digest of an architecture's numbers in the dtype computed with."""
    values = [[np.asarray(n).astype(dtype).tobytes().hex() for n in o] for o in numbers]
    return sha256(repr(values))


def _describe(value: Any) -> str:
    """Canonical text of an operation and of what its fields may hold."""
    if value is None or isinstance(value, (bool, int, str)):
        return repr(value)
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_describe, value))})"
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(map(_describe, value)))}}}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        texts = []
        for field in dataclasses.fields(value):
            held = getattr(value, field.name)
            if callable(held):
                _check_named(value, held)
                held = "function"
            texts.append(f"{field.name}={_describe(held)}")
        return f"{type(value).__qualname__}({', '.join(texts)})"
    if isinstance(value, np.ndarray) or hasattr(value, "__array__"):
        return digest_array(value)  # pyright: ignore[reportArgumentType]
    raise TypeError(f"gram: no digest is defined for {type(value).__name__}.")


def _check_named(operation: Any, function: Any) -> None:
    if getattr(operation, "named", False):
        return
    label = getattr(function, "__name__", type(function).__name__)
    name = getattr(operation, "name", type(operation).__name__)
    raise ValueError(
        "gram: with `store` every function in `kernel` must have a name, got "
        f"`{name}` of {label} without one; write {name}(h, {label}, name=...)."
    )
