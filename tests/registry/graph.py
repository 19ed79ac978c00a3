"""The entries of `jaxarch.graph`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxarch import graph as gr

from .entry import Entry

_X = jnp.asarray([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5], [-0.75, 1.5, 0.25]])


def _relational():
    return gr.Graph.from_edges(
        [0, 0, 1, 2, 2, 1],
        [1, 2, 2, 0, 1, 1],
        num_nodes=4,
        edge_types=[0, 1, 0, 1, 0, 1],
        num_relations=2,
        weights=[0.5, 0.25, 0.75, 0.3, 0.6, 0.9],
    ).pad(num_edges=8)


def _pass_messages(graph, x, relations, boundary):
    return tuple(
        gr.message_pass(graph, x, relations, boundary, message=m, aggregate=a)
        for m, a in (("distmult", "pna"), ("transe", "sum"))
    )


def _messages():
    x = jnp.sin(jnp.arange(16.0)).reshape(4, 2, 2)
    return _pass_messages, (_relational(), x, x[:2] + 1, jnp.cos(x))


def _score_links(params, graph):
    return gr.nbfnet_apply(params, graph, jnp.asarray([0, 2]), jnp.asarray([1, 0]))


def _lose(scores):
    return gr.self_adversarial_loss(scores[0], scores, temperature=0.5)


def _paths(graph, boundary):
    return tuple(
        gr.bellman_ford(graph, boundary, semiring, num_steps=3)
        for semiring in (gr.MIN_PLUS, gr.SUM_TIMES, gr.LOG_SUM_EXP)
    )


def _walks(graph):
    ranks = gr.personalized_pagerank(graph, 0, num_steps=20)
    return ranks, gr.katz_index(graph, 0, beta=0.3, num_steps=20)


_PAIRS = jnp.sin(jnp.arange(120.0)).reshape(5, 3, 2, 2, 2)  # five (3, 2, heads, dim)


def _attend_pairs(q, k_jk, k_ij, v_jk, v_ij):
    square = (k_jk[:2], k_ij[:, :2]), (v_jk[:2], v_ij[:, :2])
    return gr.pivotal_attention(q, *square, block_size=1)


def _shortest_paths(w):
    x = jnp.stack([w, jnp.ones_like(w), jnp.eye(3, dtype=w.dtype)], -1)
    params = gr.compile_floyd_warshall(3, scale=2.0, dtype=w.dtype)
    return gr.floydnet_apply(params, x)


def _search(graph):
    step = gr.compile_dfs()
    return jax.lax.scan(
        lambda s, _: (step(graph, s), s.current), gr.DFSState.start(graph), length=8
    )


def _compiled(lengths, num_layers=2):
    return gr.compile_bellman_ford(
        lengths, bound=4.0, num_layers=num_layers, dtype=lengths.dtype
    )


def _distances(graph, lengths):
    graph = dataclasses.replace(graph, weights=None)
    heads = jnp.asarray([0, 2])
    reached = gr.compile_bfs(2, num_layers=2, dtype=lengths.dtype)
    return tuple(
        gr.nbfnet_apply(params, graph, heads, 0 * heads)
        for params in (reached, _compiled(lengths))
    )


def _traces():
    graph = dataclasses.replace(_relational(), weights=None)
    graphs = jax.tree.map(lambda a: jnp.stack([a, a]), graph)
    heads = jnp.asarray([[0, 2], [1, 0]])
    params = _compiled(jnp.asarray([0.5, 1.25]))
    traces = gr.AlgorithmTraces.of(params, graphs, heads, 0 * heads)
    return gr.faithfulness, (gr.compile_bfs(2, num_layers=2), traces)


_MIND_THE_GAP = (
    "Saldyt, Kambhampati 2025, [arXiv:2505.18623](https://arxiv.org/abs/2505.18623)"
)
_NBFNET = "Zhu et al. 2021, [arXiv:2106.06935](https://arxiv.org/abs/2106.06935)"


ENTRIES = (
    Entry(
        package="graph",
        kind="function",
        names=("pivotal_attention",),
        make=lambda: (_attend_pairs, tuple(_PAIRS)),
        source="FloydNet, [arXiv:2601.19094](https://arxiv.org/abs/2601.19094)",
        proof="values of the authors' code, 1e-10, pairs and triples, masks and cap; "
        "looped NumPy; `jax.nn.dot_product_attention` for single nodes",
        differs="any number of nodes; blocks of pivots; heads behind the nodes; a mask "
        "is True where a pivot takes part",
    ),
    Entry(
        package="graph",
        kind="primitive",
        names=("FloydBlockParams", "floyd_block_init", "floyd_block_apply"),
        init=functools.partial(gr.floyd_block_init, num_heads=2, bias=True),
        sizes=(4,),
        make=lambda: (
            gr.floyd_block_apply,
            (_PAIRS.reshape(-1)[:36].reshape(3, 3, 4),),
        ),
        source="FloydNet, [arXiv:2601.19094](https://arxiv.org/abs/2601.19094)",
        proof="four stacks of the authors' blocks, 1e-10, and their gradients, 1e-9; "
        "permutations of the nodes",
        differs="triples; no dropout",
    ),
    Entry(
        package="graph",
        kind="primitive",
        names=("FloydNetParams", "floydnet_init", "floydnet_apply"),
        init=functools.partial(
            gr.floydnet_init, num_blocks=2, num_heads=2, readout="node"
        ),
        sizes=(4, 4, 2),
        make=lambda: (
            gr.floydnet_apply,
            (_PAIRS.reshape(-1)[:36].reshape(3, 3, 4),),
        ),
        source="FloydNet, [arXiv:2601.19094](https://arxiv.org/abs/2601.19094)",
        proof="sums of states in NumPy, 1e-12; permutations; padding changes nothing; "
        "it tells apart the named graphs that two- and three-dimensional folklore "
        "Weisfeiler-Leman do, and no others",
        differs="any features of pairs; a head from `mlp_init`; triples; no diffusion "
        "inputs",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("compile_floyd_warshall",),
        make=lambda: (_shortest_paths, (jnp.abs(_X),)),
        source="Floyd 1962, *Algorithm 97: Shortest Path*; FloydNet, [arXiv:2601.19094]"
        "(https://arxiv.org/abs/2601.19094)",
        proof="NetworkX: within the stated bound at three scales, 1e-12 for integer "
        "lengths",
        differs="the parameters are ours; squares in place of single pivots",
        state="our choice",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("compile_bellman_ford", "compile_bfs"),
        make=lambda: (_distances, (_relational(), jnp.asarray([0.5, 1.25]))),
        skip=frozenset({"grad"}),  # reverse mode only, as `message_pass`
        source=f"{_MIND_THE_GAP}; the layers of Neural Bellman-Ford Networks",
        proof="every step of the CLRS benchmark with 16 and 64 nodes, bit by bit and "
        "1e-12, and its predecessors; NetworkX, directed and not, all heads",
        differs="the parameters are ours, of NBFNet's layers with a maximum where the "
        "paper's are of attention",
        state="our choice",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("AlgorithmTraces", "faithfulness"),
        make=_traces,
        skip=frozenset({"grad"}),
        source=_MIND_THE_GAP,
        proof="0 for an algorithm in any coordinates, not for random networks nor for "
        "another algorithm; least squares by NumPy, 1e-10",
        differs="the error of a linear reading of the states, where the paper has "
        "predictions of hints and attention coefficients",
        state="our choice",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("DFSState", "compile_dfs"),
        make=lambda: (_search, (_relational(),)),
        skip=frozenset({"grad"}),  # a search has no derivative
        source="Cormen et al., *Introduction to Algorithms*; CLRS, [arXiv:2205.15659]"
        "(https://arxiv.org/abs/2205.15659)",
        proof="predecessors of the CLRS benchmark with 16 and 64 nodes; NetworkX step "
        "by step, directed and undirected",
        differs="the step is ours",
        state="our choice",
    ),
    Entry(
        package="graph",
        kind="record",
        names=("Graph",),
        source="Ours",
        proof="NetworkX, SciPy and jraph's fields there and back; the edges as a set",
        state="our choice",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("message_pass",),
        make=_messages,
        # The check takes forward mode too, which a rule for reverse mode refuses; the
        # golden layers hold every gradient.
        skip=frozenset({"grad"}),
        source=f"{_NBFNET}, section 3.2; Corso et al. 2020, "
        "[arXiv:2004.05718](https://arxiv.org/abs/2004.05718), section 2.2 (PNA)",
        proof="16 layers of the authors' PyTorch code, outputs 1e-10 and all gradients "
        "1e-9; lists of messages in NumPy, 1e-13; edges on eight devices and in two "
        "processes as on one, 1e-12",
        differs="tied extrema share a gradient evenly; masked edges count nowhere; the "
        "second moment of transe is that of x + r also where the authors' fused kernel "
        "takes x^2 + r^2",
    ),
    Entry(
        package="graph",
        kind="primitive",
        names=("NBFNetParams", "nbfnet_init", "nbfnet_apply"),
        init=functools.partial(gr.nbfnet_init, num_layers=2),
        sizes=(2, 4),
        make=lambda: (_score_links, (_relational(),)),
        skip=frozenset({"grad"}),  # as `message_pass`
        source=f"{_NBFNET}, sections 3.2 and 3.3",
        proof="five models of the authors' PyTorch code: scores and loss 1e-10, all "
        "gradients 1e-9, ranks; permutations; padding and masks change nothing",
        differs="equal layers only; removed edges are masked; the read-out starts from "
        "He's weights",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("nbfnet_states",),
        source=f"{_NBFNET}, section 3.2",
        proof="as `nbfnet_apply`, which reads them; a state depends on the head only "
        "where a walk reaches",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("top_paths",),
        source=f"{_NBFNET}, section 4.4",
        proof="all walks, weighed by differences of the score; the paths of five "
        "models of the authors' code, equal sets, weights 1e-10",
        differs="each layer has its own derivatives; theirs sum those of later layers, "
        "which the test undoes",
    ),
    Entry(
        package="graph",
        kind="training rule",
        names=("self_adversarial_loss",),
        make=lambda: (_lose, (_X,)),
        # The weights of the negatives are constants to the gradient.
        skip=frozenset({"grad"}),
        source="Sun et al. 2019, [arXiv:1902.10197](https://arxiv.org/abs/1902.10197)",
        proof="the loss in NumPy, 1e-13, and its derivative; five models of the "
        "authors' code, 1e-10",
    ),
    Entry(
        package="graph",
        kind="function",
        names=(
            "filtered_ranks",
            "known_tails",
            "ranking_metrics",
            "remove_query_edges",
            "sample_negative_tails",
        ),
        source=f"{_NBFNET}, section 3.3; Teru et al. 2020, "
        "[arXiv:1911.06962](https://arxiv.org/abs/1911.06962)",
        proof="loops over sets; ranks, masks and removed edges of five models of the "
        "authors' code; hits among 50 by simulation",
        differs="removed edges are a mask",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("bellman_ford",),
        make=lambda: (
            _paths,
            (_relational(), jnp.asarray([[0.0], [1.5], [0.7], [9.0]])),
        ),
        source=f"{_NBFNET}, section 3.1; Baras, Theodorakopoulos 2010",
        proof="all walks of at most 4 edges by enumeration, 1e-12",
        differs="a tolerance, forward mode only, besides a number of steps",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("shortest_path", "widest_path", "most_reliable_path"),
        source=f"{_NBFNET}, table 1",
        proof="NetworkX on graphs of 200 nodes, 1e-10; all simple paths of a small one",
        differs="where there is no path to be wide the capacity is minus infinity",
    ),
    Entry(
        package="graph",
        kind="function",
        names=("katz_index", "personalized_pagerank"),
        make=lambda: (_walks, (_relational(),)),
        source=f"{_NBFNET}, table 1; Katz 1953; Page et al. 1999",
        proof="linear solves and NetworkX on graphs of 200 nodes, 1e-10",
        differs="PageRank is normalised, which is what dangling nodes that return to "
        "the source amount to",
    ),
    Entry(
        package="graph",
        kind="record",
        names=(
            "LOG_SUM_EXP",
            "MAX_MIN",
            "MAX_TIMES",
            "MIN_PLUS",
            "SUM_TIMES",
            "Semiring",
            "log_sum_exp",
        ),
        source=f"{_NBFNET}, table 1; soft extrema: ours",
        proof="all walks of at most 4 edges by enumeration, 1e-12; the two shortest "
        "walks by a semiring without a scatter",
    ),
)
