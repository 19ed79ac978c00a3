"""The one decorator for parameters and records: a frozen dataclass that is a pytree."""

import dataclasses
import json
from typing import Any, dataclass_transform

import jax


def static(**kwargs: Any) -> Any:
    """Declares a static field: a hashable, JSON-able value, no part of the leaves."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def _to_json(auxiliary: Any) -> bytes:
    return json.dumps(auxiliary).encode()


def _from_json(data: bytes) -> Any:
    def tuples(value: Any) -> Any:
        # JSON has no tuples; a list where a tuple was makes the loaded program fail.
        if isinstance(value, list):
            return tuple(tuples(v) for v in value)
        return value

    return tuples(json.loads(data))


def _register(cls: type) -> type:
    cls = jax.tree_util.register_dataclass(cls)
    jax.export.register_pytree_node_serialization(
        cls,
        serialized_name=f"{cls.__module__}.{cls.__qualname__}",
        serialize_auxdata=_to_json,
        deserialize_auxdata=_from_json,
    )
    return cls


@dataclass_transform(
    frozen_default=True,
    kw_only_default=True,
    eq_default=False,
    field_specifiers=(static, dataclasses.field),
)
def params(cls: type) -> type:
    """Makes `cls` a frozen, keyword-only dataclass that JAX treats as a pytree.

    Array fields are leaves; fields declared with `static()` are part of the structure.
    There is no `==` (a generated one raises on arrays), and `jax.export` takes the
    class, its static fields going through JSON.
    """
    return _register(dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls))


@dataclass_transform(
    frozen_default=True, eq_default=False, field_specifiers=(static, dataclasses.field)
)
def positional(cls: type) -> type:
    """`params` for a record of few numbers, which are written in order."""
    return _register(dataclasses.dataclass(frozen=True, eq=False)(cls))
