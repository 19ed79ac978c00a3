"""Layers on graphs: pure functions of their parameters and one graph."""

from ._compile_floyd_warshall import compile_floyd_warshall as compile_floyd_warshall
from ._floyd_block import (
    FloydBlockParams as FloydBlockParams,
    floyd_block_apply as floyd_block_apply,
    floyd_block_init as floyd_block_init,
)
from ._floydnet import (
    FloydNetParams as FloydNetParams,
    floydnet_apply as floydnet_apply,
    floydnet_init as floydnet_init,
)
from ._pivotal_attention import pivotal_attention as pivotal_attention
