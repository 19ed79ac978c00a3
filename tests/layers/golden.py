"""Values that other implementations gave, in float64.

SciPy 1.17.1 (`bspline_*`), pykan ecde4ec, efficient-kan 7b6ce1c, fast-kan, ChebyKAN and
jaxKAN 9763fa3 (0.3.7; its parameters are float32).
"""

import pathlib

import numpy as np

_FILE = np.load(pathlib.Path(__file__).parent.parent / "golden" / "layers.npz")


def arrays(entry):
    """The arrays of one entry by their names."""
    prefix = f"{entry}/"
    return {
        name.removeprefix(prefix): np.asarray(_FILE[name], np.float64)
        for name in _FILE.files
        if name.startswith(prefix)
    }
