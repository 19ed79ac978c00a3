"""Bare params, no framework: orbax and pickle take them and the optimiser's state."""

import jax
import pytest

from ..registry import PRIMITIVES
from .conformance import check_training, save_and_restore


@pytest.mark.parametrize("entry", PRIMITIVES, ids=str)
def test_plain(entry, tmp_path):
    apply, (params, *inputs), _ = entry.call()
    want = jax.jit(apply)(params, *inputs)
    check_training(apply, params, inputs, want, tmp_path)


@pytest.mark.parametrize("entry", PRIMITIVES, ids=str)
def test_restores_the_params_class(entry, tmp_path):
    _, (params, *_), _ = entry.call()
    restored = save_and_restore(params, tmp_path)
    assert type(restored).__name__ == entry.names[0]
    assert jax.tree.structure(restored) == jax.tree.structure(params)
