"""The entries of `jaxarch.operators`, a file for each family."""

from . import datasets, deeponet, function_space, multigrid, spectral

ENTRIES = (
    *multigrid.ENTRIES,
    *spectral.ENTRIES,
    *deeponet.ENTRIES,
    *function_space.ENTRIES,
    *datasets.ENTRIES,
)
