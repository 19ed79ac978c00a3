"""Graphs with relations: path problems, message passing, NBFNet and FloydNet."""

from ._bellman_ford import (
    bellman_ford as bellman_ford,
    katz_index as katz_index,
    most_reliable_path as most_reliable_path,
    personalized_pagerank as personalized_pagerank,
    shortest_path as shortest_path,
    widest_path as widest_path,
)
from ._compile_bellman_ford import (
    compile_bellman_ford as compile_bellman_ford,
    compile_bfs as compile_bfs,
)
from ._compile_dfs import DFSState as DFSState, compile_dfs as compile_dfs
from ._compile_floyd_warshall import compile_floyd_warshall as compile_floyd_warshall
from ._faithfulness import (
    AlgorithmTraces as AlgorithmTraces,
    faithfulness as faithfulness,
)
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
from ._link_prediction import (
    filtered_ranks as filtered_ranks,
    known_tails as known_tails,
    ranking_metrics as ranking_metrics,
    remove_query_edges as remove_query_edges,
    sample_negative_tails as sample_negative_tails,
    self_adversarial_loss as self_adversarial_loss,
)
from ._message_pass import message_pass as message_pass
from ._nbfnet import (
    NBFNetParams as NBFNetParams,
    nbfnet_apply as nbfnet_apply,
    nbfnet_init as nbfnet_init,
    nbfnet_states as nbfnet_states,
)
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
from ._top_paths import top_paths as top_paths
