"""What is left of a jaxpr for a text: operations in chains, and how to write them."""

import collections
import dataclasses
from collections.abc import Sequence

from ._primitives import ELEMENTWISE


@dataclasses.dataclass(eq=False)
class Value:
    """An operand. `text` is empty until it is named after its `stem`."""

    shape: tuple[int, ...]
    text: str = ""
    stem: str = "Value"
    weight: bool = False  # a parameter as it came, or in another layout
    number: bool = False  # a literal
    spread: bool = False  # one of the two, repeated to its shape or with axes of size 1


@dataclasses.dataclass(eq=False)
class Block:
    """Nodes in their order, and what leaves: pairs of a stem or name and a value."""

    nodes: list["Node"]
    results: list[tuple[str, Value]]
    carried: list[Value] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Node:
    """An operation; `given` says which carried value an operand starts."""

    name: str
    operands: Sequence[Value]
    attributes: str
    results: list[Value]
    blocks: Sequence[Block] = ()
    given: Sequence[Value | None] = ()
    effects: bool = False


def sizes_text(shape: Sequence[int]) -> str:
    """Writes a shape as ONNX-Net does: "5x3"."""
    return "x".join(map(str, shape)) or "scalar"


class Printer:
    """Names values in the order in which the text comes to them."""

    def __init__(self, shapes: bool, attributes: bool, inputs: bool):
        self.shapes, self.attributes, self.inputs = shapes, attributes, inputs
        self.counts: collections.Counter = collections.Counter()

    def text(self, block: Block) -> str:
        return "\n".join(self.lines(block))

    def lines(self, block: Block) -> list[str]:
        for value in block.carried:
            self.name(value)
        own = {id(value): node for node in block.nodes for value in node.results}
        again = []
        for stem, value in block.results:
            name = stem if stem.startswith("Out") else self.fresh(stem)
            if id(value) in own and not value.text:
                value.text = name
            else:
                again.append((value, name))
        lines = []
        for chain in _chains(block, own):
            lines += self.chain(chain)
        if self.inputs:
            lines += [f"{v.text} --> {self.with_shape(name, v)}" for v, name in again]
        return lines

    def chain(self, chain: Sequence[Node]) -> list[str]:
        words, prev = [], None
        for node in chain:
            word = node.name
            if self.inputs:
                word += f"({', '.join(self.operands(node, prev))})"
            if self.attributes and node.attributes:
                word += f"({node.attributes})"
            words.append(word)
            prev = node.results[0] if len(node.results) == 1 else None
        results = [self.with_shape(self.name(v), v) for v in chain[-1].results]
        lines = [" --> ".join([*words, ", ".join(results) or "Nothing"])]
        for block in chain[-1].blocks:
            lines[-1] += " {"
            lines += [f"  {line}" for line in self.lines(block)]
            lines.append("}")
        return lines

    def operands(self, node: Node, prev: Value | None) -> list[str]:
        given = node.given or [None] * len(node.operands)
        words = []
        for value, carried in zip(node.operands, given, strict=True):
            word = "prev" if value is prev else value.text
            if value.spread and node.name not in ELEMENTWISE:
                word = f"{word}:{sizes_text(value.shape)}"
            if carried is not None:
                word = f"{self.name(carried)}={word}"
            words.append(word)
        return words

    def name(self, value: Value) -> str:
        if not value.text:
            value.text = self.fresh(value.stem)
        return value.text

    def fresh(self, stem: str) -> str:
        if not self.inputs:
            return stem
        self.counts[stem] += 1
        return f"{stem}{self.counts[stem]}"

    def with_shape(self, name: str, value: Value) -> str:
        return f"{name}:{sizes_text(value.shape)}" if self.shapes else name


def _chains(block: Block, own: dict[int, Node]) -> list[list[Node]]:
    """The nodes of a block in chains.

    A node within a chain waits for the one before it alone. So a chain may stand where
    its first node stood, and what it needs is above it.
    """
    users = collections.defaultdict(set)
    for node in block.nodes:
        for value in node.operands:
            users[id(value)].add(node)
    leaving = {id(value) for _, value in block.results}

    def following(node: Node) -> Node | None:
        if len(node.results) != 1 or node.blocks or id(node.results[0]) in leaving:
            return None
        if len(users[id(node.results[0])]) != 1:
            return None
        (user,) = users[id(node.results[0])]
        needed = {own[id(v)] for v in user.operands if id(v) in own}
        alone = len(needed) == 1 and len(user.results) == 1 and not user.blocks
        return user if alone else None

    after = {node: following(node) for node in block.nodes}
    inner = set(after.values())
    chains = []
    for node in block.nodes:
        if node in inner:
            continue
        chain = [node]
        while (following_node := after[chain[-1]]) is not None:
            chain.append(following_node)
        chains.append(chain)
    return chains
