"""Graphs of other packages: duck-typed, imported only where one must be made."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from ._graph import Graph


class GraphsTuple(NamedTuple):
    """The fields of `jraph.GraphsTuple`, in their order."""

    nodes: Any
    edges: Any
    receivers: Any
    senders: Any
    globals: Any
    n_node: Any
    n_edge: Any


def from_jraph(graph: Any, num_relations: int | None) -> dict[str, Any]:
    """The arguments of `Graph.from_edges` for a tuple of jraph's fields."""
    edges = graph.edges
    if edges is None:
        edges = {}
    elif not isinstance(edges, Mapping):
        a = np.asarray(edges)
        integer = np.issubdtype(a.dtype, np.integer)
        if a.ndim != 1 or not (integer or jnp.issubdtype(a.dtype, jnp.floating)):
            raise ValueError(
                "Graph.from_jraph: `edges` must be None, shape (edges,) of integers "
                "(relations) or floats (weights), or a mapping with `edge_types` or "
                f"`weights`, got {a.dtype} of shape {a.shape}."
            )
        edges = {"edge_types" if integer else "weights": a}
    if unknown := sorted(edges.keys() - {"edge_types", "weights"}):
        raise ValueError(
            "Graph.from_jraph: `edges` must have keys among 'edge_types' and "
            f"'weights', got {unknown}."
        )
    edge_types = edges.get("edge_types")
    return {
        "senders": np.asarray(graph.senders),
        "receivers": np.asarray(graph.receivers),
        "num_nodes": int(np.sum(np.asarray(graph.n_node))),
        "edge_types": edge_types,
        "num_relations": _num_relations(edge_types, num_relations),
        "weights": edges.get("weights"),
    }


def to_jraph(graph: "Graph") -> GraphsTuple:
    """A tuple of jraph's fields: one graph."""
    senders, receivers, edge_types, weights, num_nodes = _real(graph)
    edges = {"edge_types": edge_types}
    if weights is not None:
        edges["weights"] = weights
    return GraphsTuple(
        nodes=None,
        edges=edges,
        receivers=receivers,
        senders=senders,
        globals=None,
        n_node=np.array([num_nodes], np.int32),
        n_edge=np.array([len(senders)], np.int32),
    )


def from_networkx(
    graph: Any, weight: str, edge_type: str, num_relations: int | None
) -> dict[str, Any]:
    """The arguments of `Graph.from_edges` for a NetworkX graph."""
    index = {node: i for i, node in enumerate(graph)}
    edges = [(index[u], index[v], data) for u, v, data in graph.edges(data=True)]
    if not graph.is_directed():
        edges += [(v, u, data) for u, v, data in edges if u != v]
    edge_types = np.array([data.get(edge_type, 0) for *_, data in edges])
    weights = None
    if any(weight in data for *_, data in edges):
        weights = np.array([data.get(weight, 1.0) for *_, data in edges])
    return {
        "senders": np.array([u for u, _, _ in edges], np.int32),
        "receivers": np.array([v for _, v, _ in edges], np.int32),
        "num_nodes": len(index),
        "edge_types": edge_types,
        "num_relations": _num_relations(edge_types, num_relations),
        "weights": weights,
    }


def to_networkx(graph: "Graph") -> Any:
    """A `networkx.MultiDiGraph`."""
    import networkx as nx

    senders, receivers, edge_types, weights, num_nodes = _real(graph)
    made = nx.MultiDiGraph()
    made.add_nodes_from(range(num_nodes))
    columns = [a.tolist() for a in (senders, receivers, edge_types)]
    if weights is not None:
        columns.append(weights.tolist())
    for u, v, *attributes in zip(*columns, strict=True):
        made.add_edge(u, v, **dict(zip(("type", "weight"), attributes, strict=False)))
    return made


def from_scipy(matrices: Any) -> dict[str, Any]:
    """The arguments of `Graph.from_edges` for sparse matrices, one a relation."""
    if hasattr(matrices, "tocoo"):
        matrices = [matrices]
    coo = [m.tocoo() for m in matrices]
    if not coo:
        raise ValueError("Graph.from_scipy: `matrices` must not be empty.")
    shape = coo[0].shape
    for i, m in enumerate(coo):
        if m.shape != (shape[0], shape[0]):
            raise ValueError(
                f"Graph.from_scipy: `matrices[{i}]` must have shape "
                f"{(shape[0], shape[0])}, got {m.shape}."
            )
    return {
        "senders": np.concatenate([m.row for m in coo]),
        "receivers": np.concatenate([m.col for m in coo]),
        "num_nodes": shape[0],
        "edge_types": np.repeat(np.arange(len(coo)), [m.nnz for m in coo]),
        "num_relations": len(coo),
        "weights": np.concatenate([m.data for m in coo]),
    }


def to_scipy(graph: "Graph") -> list:
    """SciPy's `csr_array`, one a relation."""
    from scipy import sparse

    senders, receivers, edge_types, weights, num_nodes = _real(graph)
    if weights is None:
        weights = np.ones(len(senders), np.float32)

    def one(relation: int) -> Any:
        own = edge_types == relation
        entries = weights[own], (senders[own], receivers[own])
        return sparse.coo_array(entries, shape=(num_nodes, num_nodes)).tocsr()

    return [one(relation) for relation in range(graph.num_relations)]


def _real(graph: "Graph") -> tuple:
    """The edges that count, and the number of nodes that are no padding."""
    mask = slice(None) if graph.mask is None else np.asarray(graph.mask)
    edges = (graph.senders, graph.receivers, graph.edge_types, graph.weights)
    num_nodes = graph.num_nodes
    if graph.node_mask is not None:
        num_nodes = int(np.asarray(graph.node_mask).sum())
    return *(None if a is None else np.asarray(a)[mask] for a in edges), num_nodes


def _num_relations(edge_types: Any, given: int | None) -> int:
    if given is not None:
        return given
    if edge_types is None or not np.size(edge_types):
        return 1
    return max(int(np.max(edge_types)) + 1, 1)
