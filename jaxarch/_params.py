"""The one decorator for parameters and records: a frozen dataclass that is a pytree."""

import dataclasses
import functools
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


@dataclass_transform(
    frozen_default=True,
    kw_only_default=True,
    eq_default=False,
    field_specifiers=(static, dataclasses.field),
)
def params(cls=None, *, kw_only=True):
    """Makes `cls` a frozen dataclass that JAX treats as a pytree.

    Array fields are leaves; fields declared with `static()` are part of the structure.
    There is no `==` (a generated one raises on arrays), and `jax.export` takes the
    class, its static fields going through JSON. Fields are keyword-only, but where
    `kw_only=False`.
    """
    if cls is None:
        return functools.partial(params, kw_only=kw_only)
    cls = dataclasses.dataclass(frozen=True, kw_only=kw_only, eq=False)(cls)
    cls = jax.tree_util.register_dataclass(cls)
    jax.export.register_pytree_node_serialization(
        cls,
        serialized_name=f"{cls.__module__}.{cls.__qualname__}",
        serialize_auxdata=_to_json,
        deserialize_auxdata=_from_json,
    )
    return cls
