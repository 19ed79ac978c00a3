"""Graphs with relations: semiring path problems and message passing."""

from ._bellman_ford import (
    bellman_ford as bellman_ford,
    katz_index as katz_index,
    most_reliable_path as most_reliable_path,
    personalized_pagerank as personalized_pagerank,
    shortest_path as shortest_path,
    widest_path as widest_path,
)
from ._graph import Graph as Graph
from ._message_pass import message_pass as message_pass
from ._semiring import (
    LOG_SUM_EXP as LOG_SUM_EXP,
    MAX_MIN as MAX_MIN,
    MAX_TIMES as MAX_TIMES,
    MIN_PLUS as MIN_PLUS,
    SUM_TIMES as SUM_TIMES,
    Semiring as Semiring,
    log_sum_exp as log_sum_exp,
)
