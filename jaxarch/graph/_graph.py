"""Graphs whose edges carry a relation: arrays in the orders that the kernels walk."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from .._checks import check_positive
from .._params import params, static
from . import _convert
from ._accumulate import AxisName


@params
class Graph:
    r"""A directed multigraph with relations on its edges, as a small pytree.

    Edges are stored by ascending receiver, in the given order among those of one
    receiver, since a message pass adds up each receiver's messages; `by_sender` lists
    them by ascending sender, as its gradient walks them. Arrays with one entry an edge
    (`weights`, the gradient with respect to them, an `edge_mask`) are in the stored
    order, and `edge_ids` says where each edge was in the input:
    `values[graph.edge_ids]` brings a NumPy array of the input's order into it.

    Constructors and methods run on the host and check values; inside `jit` a graph is
    data. Other weights: `dataclasses.replace(graph, weights=weights)`. The number of
    nodes and of relations are static: graphs padded to the same sizes share compiled
    programs, and stack along a leading axis for `vmap`.

    A masked or padding edge counts nowhere: in no degree, sum, mean, maximum or
    minimum.
    """

    senders: Array  # (edges,)
    receivers: Array  # (edges,), ascending
    edge_types: Array  # (edges,), in [0, num_relations)
    weights: Array | None  # (edges,), or None: all 1
    mask: Array | None  # (edges,), False where an edge does not count; None: all do
    node_mask: Array | None  # (nodes,), False at padding; None: there is none
    by_sender: Array  # (edges,), positions of the edges by ascending sender
    edge_ids: Array  # (edges,), the index of each edge in the input
    num_nodes: int = static()
    num_relations: int = static()
    part_size: int | None = static(default=None)  # edges a part, after `split`

    @classmethod
    def from_edges(
        cls,
        senders: ArrayLike,
        receivers: ArrayLike,
        *,
        num_nodes: int,
        edge_types: ArrayLike | None = None,
        num_relations: int = 1,
        weights: ArrayLike | None = None,
    ) -> "Graph":
        """Builds a graph from the two ends of its edges, on the host.

        Args:
            senders: The node that each edge leaves, shape `(edges,)`, integers.
            receivers: The node that each edge enters, shape `(edges,)`, integers.
            num_nodes: The number of nodes.
            edge_types: The relation of each edge, shape `(edges,)`, integers below
                `num_relations`; all 0 if None.
            num_relations: The number of relations.
            weights: A number for each edge, shape `(edges,)`; all 1 if None.

        Returns:
            The graph, without masks.

        Raises:
            ValueError: If there is no edge, shapes differ, a node or a relation is out
                of range, or a weight is NaN.
            TypeError: If nodes or relations are not integers.

        Examples:
            >>> graph = Graph.from_edges([0, 2, 1], [2, 1, 0], num_nodes=3)
            >>> graph.receivers.tolist(), graph.edge_ids.tolist()
            ([0, 1, 2], [2, 1, 0])
        """
        where = "Graph.from_edges"
        check_positive(where, num_nodes=num_nodes, num_relations=num_relations)
        s = _indices(where, "senders", senders, num_nodes, "num_nodes")
        num_edges = len(s)
        if num_edges == 0:
            raise ValueError(f"{where}: the graph must have an edge, got none.")
        r = _indices(where, "receivers", receivers, num_nodes, "num_nodes")
        if edge_types is None:
            edge_types = np.zeros(num_edges, np.int32)
        t = _indices(where, "edge_types", edge_types, num_relations, "num_relations")
        w = None if weights is None else np.asarray(weights)
        for name, a in {"receivers": r, "edge_types": t, "weights": w}.items():
            if a is not None and a.shape != (num_edges,):
                raise ValueError(
                    f"{where}: `{name}` must have shape ({num_edges},) as `senders`, "
                    f"got {a.shape}."
                )
        if w is not None:
            if not jnp.issubdtype(w.dtype, jnp.floating):
                w = w.astype(np.float32)
            if np.isnan(w).any():
                edge = int(np.flatnonzero(np.isnan(w))[0])
                raise ValueError(
                    f"{where}: `weights` must be numbers, got NaN at edge {edge}."
                )
        return _stored(cls, s, r, t, w, np.arange(num_edges), num_nodes, num_relations)

    @classmethod
    def from_triples(
        cls, triples: ArrayLike, *, num_nodes: int, num_relations: int
    ) -> "Graph":
        """Builds a graph from facts (head, relation, tail), on the host.

        Args:
            triples: Integers, shape `(edges, 3)`: each row is the node that the edge
                leaves, its relation and the node that it enters. Some data sets have
                other columns first.
            num_nodes: The number of nodes.
            num_relations: The number of relations.

        Returns:
            The graph, edge by edge (`add_inverse` adds the other directions).

        Raises:
            ValueError: As `Graph.from_edges`, or if the rows are not triples.
            TypeError: As `Graph.from_edges`.

        Examples:
            >>> graph = Graph.from_triples([[0, 1, 2]], num_nodes=3, num_relations=2)
            >>> graph.senders.tolist(), graph.edge_types.tolist()
            ([0], [1])
        """
        rows = np.asarray(triples)
        if rows.size == 0:
            rows = np.zeros((0, 3), np.int32)
        if rows.ndim != 2 or rows.shape[1] != 3:
            raise ValueError(
                "Graph.from_triples: `triples` must have shape (edges, 3), got "
                f"{rows.shape}."
            )
        return cls.from_edges(
            rows[:, 0],
            rows[:, 2],
            num_nodes=num_nodes,
            edge_types=rows[:, 1],
            num_relations=num_relations,
        )

    @classmethod
    def from_jraph(cls, graph: Any, *, num_relations: int | None = None) -> "Graph":
        """Builds a graph from a `jraph.GraphsTuple` or what looks like one.

        Args:
            graph: Anything with the attributes `senders`, `receivers`, `n_node` and
                `edges`, which is None, integers (relations), floats (weights), or a
                mapping with `edge_types`, `weights` or both. Several graphs in one
                tuple become one graph of several components.
            num_relations: The number of relations; by default one more than the
                largest.

        Returns:
            The graph.

        Raises:
            ValueError: As `Graph.from_edges`, or if `edges` is something else.
        """
        return cls.from_edges(**_convert.from_jraph(graph, num_relations))

    @classmethod
    def from_networkx(
        cls,
        graph: Any,
        *,
        weight: str = "weight",
        edge_type: str = "type",
        num_relations: int | None = None,
    ) -> "Graph":
        """Builds a graph from a NetworkX graph.

        Args:
            graph: A NetworkX graph of any class. Node i of the result is the i-th of
                its nodes; an undirected edge becomes two, a loop one.
            weight: The edge attribute to take as weight; 1 where an edge has none, and
                no weights where no edge has one.
            edge_type: The edge attribute to take as relation; 0 where there is none.
            num_relations: The number of relations; by default one more than the
                largest.

        Returns:
            The graph.

        Raises:
            ValueError: As `Graph.from_edges`.
            TypeError: As `Graph.from_edges`.
        """
        arguments = _convert.from_networkx(graph, weight, edge_type, num_relations)
        return cls.from_edges(**arguments)

    @classmethod
    def from_scipy(cls, matrices: Any) -> "Graph":
        """Builds a graph from SciPy sparse matrices.

        Args:
            matrices: One square sparse matrix, or a sequence of them, one a relation.
                A stored entry (u, v) is an edge from u to v with that weight, zeros
                included.

        Returns:
            The graph.

        Raises:
            ValueError: If a matrix is not square or two differ in size, or as
                `Graph.from_edges`.
        """
        return cls.from_edges(**_convert.from_scipy(matrices))

    def add_inverse(self) -> "Graph":
        """Adds the other direction of each edge under a relation of its own.

        Edge (u, r, v) adds (v, r + num_relations, u) with the same weight and mask;
        its `edge_ids` is that of the edge plus the number of edges.

        Returns:
            A graph of twice the edges and twice the relations.

        Raises:
            ValueError: If the graph is split.
        """
        self._check_whole("add_inverse")
        ids = np.asarray(self.edge_ids)
        s, r, t = (
            np.asarray(a) for a in (self.senders, self.receivers, self.edge_types)
        )
        twice = {
            name: None if a is None else np.concatenate([np.asarray(a)] * 2)
            for name, a in {"weights": self.weights, "mask": self.mask}.items()
        }
        both = _stored(
            type(self),
            np.concatenate([s, r]),
            np.concatenate([r, s]),
            np.concatenate([t, t + self.num_relations]),
            twice["weights"],
            np.concatenate([ids, ids + len(ids)]),
            self.num_nodes,
            2 * self.num_relations,
            mask=twice["mask"],
        )
        return dataclasses.replace(both, node_mask=self.node_mask)

    def pad(
        self, *, num_nodes: int | None = None, num_edges: int | None = None
    ) -> "Graph":
        """Adds nodes and masked edges up to the given sizes.

        Args:
            num_nodes: Nodes of the result; those added come last and have no edges.
            num_edges: Edges of the result; those added come last, lead from the last
                node to itself and are masked.

        Returns:
            The padded graph, with `mask` and `node_mask`.

        Raises:
            ValueError: If a size is smaller than the graph, or the graph is split.
        """
        self._check_whole("pad")
        sizes = {
            "num_nodes": (num_nodes, self.num_nodes),
            "num_edges": (num_edges, len(self.senders)),
        }
        for name, (wanted, now) in sizes.items():
            if wanted is not None and wanted < now:
                raise ValueError(
                    f"Graph.pad: `{name}` must be at least {now}, got {wanted}."
                )
        nodes, edges = (now if n is None else n for n, now in sizes.values())
        old_edges = len(self.senders)

        def extend(a: Any, size: int, fill: Any) -> Array:
            return jnp.asarray(np.append(a, np.full(size - len(a), fill, a.dtype)))

        def mask(old: Any, old_size: int, size: int) -> Array:
            old = np.ones(old_size, bool) if old is None else np.asarray(old)
            return extend(old, size, False)

        more = np.arange(old_edges, edges, dtype=np.int32)
        return dataclasses.replace(
            self,
            senders=extend(np.asarray(self.senders), edges, nodes - 1),
            receivers=extend(np.asarray(self.receivers), edges, nodes - 1),
            edge_types=extend(np.asarray(self.edge_types), edges, 0),
            weights=None
            if self.weights is None
            else extend(np.asarray(self.weights), edges, 0),
            mask=mask(self.mask, old_edges, edges),
            node_mask=mask(self.node_mask, self.num_nodes, nodes),
            by_sender=jnp.asarray(np.append(self.by_sender, more)),
            edge_ids=jnp.asarray(np.append(self.edge_ids, more)),
            num_nodes=nodes,
        )

    def split(self, num_parts: int) -> "Graph":
        """Cuts the edges into equal parts for as many devices.

        The parts are runs of the stored edges, one behind the other, so that a
        `PartitionSpec` of one mesh axis gives each device a part with all nodes; what
        the last ones lack is filled up with masked edges, as by `pad`. The graph is
        then for `message_pass` and `bellman_ford` with `axis_name`, inside
        `jax.shard_map`, alone:

            mesh = jax.make_mesh((8,), ("edges",), axis_types=(AxisType.Auto,))
            run = functools.partial(message_pass, axis_name="edges", message="distmult",
                                    aggregate="pna")
            run = jax.shard_map(run, mesh=mesh, in_specs=(P("edges"), P(), P(), P()),
                                out_specs=P())
            out = jax.jit(run)(graph.split(8), x, relation_features, boundary)

        with `P` for `PartitionSpec`. Gradients are those of the whole graph; those of
        the weights are in parts too.

        Args:
            num_parts: The number of parts, as many as the axis has devices.

        Returns:
            The graph in parts. `by_sender` counts within each part, and `node_mask` is
            there once a part.

        Raises:
            TypeError: If `num_parts` is not an int.
            ValueError: If `num_parts` is below 1, or the graph is split already.
        """
        check_positive("Graph.split", num_parts=num_parts)
        self._check_whole("split")
        size = -(-len(self.senders) // num_parts)
        if num_parts * size == len(self.senders):
            whole = self
        else:
            padded = self.pad(num_edges=num_parts * size)
            whole = dataclasses.replace(padded, node_mask=self.node_mask)
        senders = np.asarray(whole.senders).reshape(num_parts, size)
        order = np.argsort(senders, axis=1, kind="stable")
        nodes = self.node_mask
        return dataclasses.replace(
            whole,
            by_sender=jnp.asarray(order.reshape(-1).astype(np.int32)),
            node_mask=None if nodes is None else jnp.tile(nodes, num_parts),
            part_size=size,
        )

    def to_jraph(self) -> _convert.GraphsTuple:
        """Converts to a tuple with the fields of `jraph.GraphsTuple`, in their order.

        `jraph.GraphsTuple(*graph.to_jraph())` makes one of jraph's. Masked edges and
        padding nodes are left out; `edges` is a mapping with `edge_types` and, where
        there are any, `weights`.
        """
        self._check_whole("to_jraph")
        return _convert.to_jraph(self)

    def to_networkx(self) -> Any:
        """Converts to a `networkx.MultiDiGraph` with the attributes type and weight.

        Masked edges and padding nodes are left out; an edge without weight has no such
        attribute. Needs NetworkX.
        """
        self._check_whole("to_networkx")
        return _convert.to_networkx(self)

    def to_scipy(self) -> list:
        """Converts to SciPy's `csr_array`, one a relation.

        Entry (u, v) is the sum of the weights of the edges from u to v. Masked edges
        and padding nodes are left out. Needs SciPy.
        """
        self._check_whole("to_scipy")
        return _convert.to_scipy(self)

    def _check_whole(self, method: str) -> None:
        if self.part_size is not None:
            raise ValueError(
                f"Graph.{method}: the graph must be whole, got one in parts of "
                f"{self.part_size} edges."
            )


def check_parts(where: str, graph: Graph, axis_name: AxisName) -> None:
    """Raises `ValueError` unless `graph` is whole or, with an axis, one part of many.

    A gradient, which walks `by_sender`, would be wrong without a sign of it.
    """
    edges, size = len(graph.senders), graph.part_size
    if axis_name is None and size is not None:
        raise ValueError(
            f"{where}: `graph` must be whole without `axis_name`, got one in parts of "
            f"{size} edges."
        )
    if axis_name is not None and size != edges:
        got = "a whole one" if size is None else f"parts of {size}"
        raise ValueError(
            f"{where}: with `axis_name` a device must hold one part of "
            f"`graph.split(devices)`, got {edges} edges of {got}."
        )


def _stored(
    cls: type[Graph],
    senders: np.ndarray,
    receivers: np.ndarray,
    edge_types: np.ndarray,
    weights: np.ndarray | None,
    edge_ids: np.ndarray,
    num_nodes: int,
    num_relations: int,
    *,
    mask: np.ndarray | None = None,
) -> Graph:
    """A graph whose edges come in any order."""
    order = np.argsort(receivers, kind="stable")
    senders = senders[order]

    def integers(a: np.ndarray) -> Array:
        # 32 bits are enough for the indices of any array that fits in memory here.
        return jnp.asarray(a.astype(np.int32))

    return cls(
        senders=integers(senders),
        receivers=integers(receivers[order]),
        edge_types=integers(edge_types[order]),
        weights=None if weights is None else jnp.asarray(weights[order]),
        mask=None if mask is None else jnp.asarray(mask[order]),
        node_mask=None,
        by_sender=integers(np.argsort(senders, kind="stable")),
        edge_ids=integers(edge_ids[order]),
        num_nodes=num_nodes,
        num_relations=num_relations,
    )


def _indices(
    where: str, name: str, values: ArrayLike, bound: int, bound_name: str
) -> np.ndarray:
    """Integers below `bound`, one axis; an empty list has no dtype yet."""
    a = np.asarray(values)
    if a.ndim != 1:
        raise ValueError(f"{where}: `{name}` must have shape (edges,), got {a.shape}.")
    if a.size and not np.issubdtype(a.dtype, np.integer):
        raise TypeError(f"{where}: `{name}` must be integers, got {a.dtype}.")
    outside = np.flatnonzero((a < 0) | (a >= bound))
    if outside.size:
        edge = int(outside[0])
        raise ValueError(
            f"{where}: `{name}` must be in [0, {bound}) (`{bound_name}`), got "
            f"{a[edge]} at edge {edge}."
        )
    return a
