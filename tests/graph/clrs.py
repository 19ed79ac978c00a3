"""Graphs, outputs and hints of the CLRS benchmark's own algorithms.

`{case}/A`, `W` and `D` are the adjacency of an undirected graph, the lengths of another
(0 where there is no edge) and the adjacency of a directed one; the rest is what
`clrs/_src/algorithms/graphs.py` gives for them: predecessors, and hints step by step.
"""

import pathlib

import numpy as np

_FILE = pathlib.Path(__file__).parent.parent / "golden" / "clrs.npz"
NAMES = tuple(f"n{n}_{i}" for n in (16, 64) for i in range(3))


def case(name):
    """The arrays of one case by their names within it."""
    with np.load(_FILE) as file:
        found = [k for k in file.files if k.startswith(name + "/")]
        return {k.removeprefix(name + "/"): file[k] for k in found}
