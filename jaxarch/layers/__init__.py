"""Feature layers: pure functions of their parameters and one example."""

from ._mlp import (
    MLPParams as MLPParams,
    mlp_apply as mlp_apply,
    mlp_init as mlp_init,
)
