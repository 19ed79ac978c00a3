"""Cases of a golden file: arrays named `case/array`."""

import pathlib

import numpy as np


def readers(file):
    """Gives `names(prefix)` and `case(name)` of `tests/golden/FILE`."""
    path = pathlib.Path(__file__).parent / "golden" / file

    def names(prefix):
        with np.load(path) as arrays:
            found = {k.split("/")[0] for k in arrays.files}
        return sorted(name for name in found if name.startswith(prefix))

    def case(name):
        """The arrays of one case by their names within it."""
        with np.load(path) as arrays:
            found = [k for k in arrays.files if k.startswith(name + "/")]
            return {k.removeprefix(name + "/"): arrays[k] for k in found}

    return names, case
