"""Arrays of the golden file: values of the authors' code, NetworkX and NumPy."""

from ..golden_cases import readers

names, case = readers("graph.npz")
