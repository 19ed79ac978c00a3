"""What an entry of the registry says."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

SUBPACKAGES = ("graph", "kernels", "layers", "operators", "transforms")
KINDS = (
    "primitive",
    "record",
    "function",
    "kernel",
    "transform",
    "training rule",
)
STATES = ("proved", "our choice", "not reproduced")
CHECKS = (
    "bfloat16",
    "export",
    "float32",
    "float64",
    "grad",
    "jit",
    "pickle",
    "pmap",
    "shard_map",
    "vmap",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One system: its public names, how to run it small, and what is known of it."""

    package: str  # one of SUBPACKAGES
    kind: str  # one of KINDS
    names: tuple[str, ...]  # every public name that belongs to it
    # A zero-argument function that gives (callable, float32 arguments); all arguments
    # are pytrees of arrays. Module-level callables pickle. A primitive leaves the
    # params out: the tests put `init(key, *sizes)` in front of the arguments. Gradients
    # are compared with differences, so stay off kinks (a kernel's `x1 == x2`).
    make: Callable[[], tuple[Callable, tuple]] | None = None
    init: Callable | None = None
    sizes: tuple = ()
    skip: frozenset[str] = frozenset()  # checks that do not apply: names of CHECKS
    # docs/systems.md, in Markdown; an entry without a source has no row there.
    source: str = ""
    proof: str = ""
    differs: str = ""
    state: str = "proved"  # one of STATES

    def __str__(self) -> str:
        return f"{self.package}.{self.names[-1]}"

    @functools.cache  # noqa: B019
    def call(self) -> tuple[Callable, tuple, tuple]:
        """Gives (callable, arguments, the `in_axes` that batch it)."""
        assert self.make is not None
        function, args = self.make()
        in_axes = (0,) * len(args)
        if self.kind == "primitive":
            args = (self.params(), *args)
            in_axes = (None, *in_axes)
        return function, args, in_axes

    def params(self, **options: Any) -> Any:
        """Gives the params of a primitive."""
        assert self.init is not None
        return self.init(jax.random.key(0), *self.sizes, **options)
