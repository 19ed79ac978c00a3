"""Every public thing by its kind: ONE entry drives the generic tests and the docs.

`tests/test_registry.py` and `tests/interop/` run what an entry makes, and
`docs/make_systems.py` writes `docs/systems.md` from its words. To add a primitive, add
an entry to the file of its package; to cover another package, add a file and its name
to `SUBPACKAGES`.
"""

from . import graph, kernels, layers, operators, transforms
from .entry import (
    CHECKS as CHECKS,
    KINDS as KINDS,
    STATES as STATES,
    SUBPACKAGES as SUBPACKAGES,
    Entry as Entry,
)

ENTRIES = (
    *graph.ENTRIES,
    *kernels.ENTRIES,
    *layers.ENTRIES,
    *operators.ENTRIES,
    *transforms.ENTRIES,
)
PRIMITIVES = tuple(entry for entry in ENTRIES if entry.kind == "primitive")
