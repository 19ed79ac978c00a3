"""Composable architecture primitives as pure JAX functions."""

from . import (
    graph as graph,
    kernels as kernels,
    layers as layers,
    operators as operators,
    transforms as transforms,
)

__version__ = "0.1.0"
