"""Graphs with relations: path problems, message passing and FloydNet."""

from ._bellman_ford import (
    bellman_ford as bellman_ford,
    katz_index as katz_index,
    most_reliable_path as most_reliable_path,
    personalized_pagerank as personalized_pagerank,
    shortest_path as shortest_path,
    widest_path as widest_path,
)
from ._compile_dfs import DFSState as DFSState, compile_dfs as compile_dfs
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
from ._graph import Graph as Graph
from ._message_pass import message_pass as message_pass
from ._pivotal_attention import pivotal_attention as pivotal_attention
from ._semiring import (
    LOG_SUM_EXP as LOG_SUM_EXP,
    MAX_MIN as MAX_MIN,
    MAX_TIMES as MAX_TIMES,
    MIN_PLUS as MIN_PLUS,
    SUM_TIMES as SUM_TIMES,
    Semiring as Semiring,
    log_sum_exp as log_sum_exp,
)
