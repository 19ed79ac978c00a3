"""Composable architecture primitives as pure JAX functions."""

from . import kernels as kernels, layers as layers

__version__ = "0.1.0"
