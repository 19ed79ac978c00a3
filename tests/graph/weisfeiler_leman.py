"""Named graphs, and the folklore Weisfeiler-Leman test as integers, not floats."""

import itertools

import networkx as nx
import numpy as np


def rook():
    """The 4 x 4 rook's graph, strongly regular (16, 6, 2, 2)."""
    return nx.line_graph(nx.complete_bipartite_graph(4, 4))


def shrikhande():
    """The Shrikhande graph, strongly regular (16, 6, 2, 2)."""
    steps = [(0, 1), (0, 3), (1, 0), (3, 0), (1, 1), (3, 3)]
    cells = list(itertools.product(range(4), repeat=2))
    edges = [((i, j), ((i + a) % 4, (j + b) % 4)) for i, j in cells for a, b in steps]
    return nx.Graph(edges)


def cfi(base, twisted):
    """Cai, Fuerer and Immerman's graph over `base`, without vertices for its edges.

    A vertex `v` becomes its even sets of edges; those of neighbours are joined where
    they agree on the edge between them, or disagree on one twisted edge.
    """
    edges = [frozenset(e) for e in base.edges]
    gadgets = [
        (v, frozenset(chosen))
        for v in base
        for size in range(0, base.degree(v) + 1, 2)
        for chosen in itertools.combinations([e for e in edges if v in e], size)
    ]
    graph = nx.Graph()
    graph.add_nodes_from(gadgets)
    for (v, s), (w, t) in itertools.combinations(gadgets, 2):
        edge = frozenset((v, w))
        if edge in edges and ((edge in s) == (edge in t)) != (
            twisted and edge == edges[0]
        ):
            graph.add_edge((v, s), (w, t))
    return graph


def subgraphs(graph):
    """Counts of the circuits of six nodes at most, of cliques and of K(3, 3)."""
    adjacency = nx.to_numpy_array(graph, dtype=int)
    powers = [np.linalg.matrix_power(adjacency, k).trace() for k in range(7)]
    cliques = sum(1 for c in nx.enumerate_all_cliques(graph) if len(c) == 4)
    common = [
        int((adjacency[i] & adjacency[j] & adjacency[k]).sum())
        for i, j, k in itertools.combinations(range(len(adjacency)), 3)
    ]
    return *powers, cliques, sum(c * (c - 1) * (c - 2) for c in common)


def kinds(graph):
    """0 for no edge, 1 for an edge, 2 for a node with itself."""
    adjacency = nx.to_numpy_array(graph, dtype=int)
    return adjacency + 2 * np.eye(len(adjacency), dtype=int)


def distinguishes(first, second, order=2):
    """Whether the folklore test of dimension `order` tells two graphs apart.

    Both are refined together: the colour of a tuple becomes its own and the multiset,
    over pivots, of the colours of the tuples with the pivot in place of each entry.
    """
    graphs = [kinds(first), kinds(second)]
    colours = [
        np.array(
            [
                hash(tuple(kind[a, b] for a in nodes for b in nodes))
                for nodes in np.ndindex((len(kind),) * order)
            ]
        ).reshape((len(kind),) * order)
        for kind in graphs
    ]
    number = 0
    while True:
        names = {}
        for g, colour in enumerate(colours):
            new = np.empty_like(colour)
            for nodes in np.ndindex(colour.shape):
                lines = [
                    colour[(*nodes[:m], slice(None), *nodes[m + 1 :])]
                    for m in range(order)
                ]
                seen = tuple(
                    sorted(zip(*(line.tolist() for line in lines), strict=True))
                )
                new[nodes] = names.setdefault((colour[nodes], seen), len(names))
            colours[g] = new
        counts = [np.bincount(c.ravel(), minlength=len(names)) for c in colours]
        if not np.array_equal(*counts):
            return True
        if len(names) == number:
            return False
        number = len(names)
