"""Arrays of the golden file: values of MgNO, neuraloperator and DeepXDE."""

import pathlib

import numpy as np

_FILE = pathlib.Path(__file__).parent.parent / "golden" / "operators.npz"


def names(prefix):
    with np.load(_FILE) as file:
        return sorted({k.split("/")[0] for k in file.files if k.startswith(prefix)})


def case(name):
    """The arrays of one case by their names within it."""
    with np.load(_FILE) as file:
        found = [k for k in file.files if k.startswith(name + "/")]
        return {k.removeprefix(name + "/"): file[k] for k in found}
