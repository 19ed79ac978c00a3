"""Arrays of the golden file: values of MgNO, neuraloperator and DeepXDE."""

from ..golden_cases import readers

names, case = readers("operators.npz")
