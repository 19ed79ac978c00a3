"""Which equations of a function make up each of its layers.

The walk notes of each value that it depends on an input, or of which parameters it is
made. An equation that takes both kinds uses those parameters: it opens a row of its
own, or joins the row that made its input where their parameters stand side by side in
the tree and the row has no contraction yet. An equation on inputs alone belongs to the
last row that it takes from, one on parameters alone to the row that uses it first. The
mean and variance that only a normalisation uses belong to the normalisation.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from jax.extend.core import ClosedJaxpr, JaxprEqn

from .._jaxprs import scan_arguments
from ._primitives import REDUCTIONS
from ._walk import Equation, Rules, walk

_HEAVY = frozenset(("conv_general_dilated", "dot_general", "gather", "ragged_dot"))


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """What flows between equations.

    Attributes:
        leaves: the parameters of which it is made, if of nothing else.
        data: whether it depends on an input.
        step: the equation that made it.
    """

    leaves: frozenset[str] = frozenset()
    data: bool = False
    step: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An equation where it is done.

    Attributes:
        eqn: the equation; `None` where a loop takes parameters as its first state.
        times: turns of the loops around it.
        ins: its arguments.
        data: whether one of them depends on an input.
    """

    eqn: JaxprEqn | None
    times: int
    ins: tuple[Value, ...]
    data: bool

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.eqn.primitive.name if self.eqn else ""

    @property
    def leaves(self) -> tuple[str, ...]:
        """The parameters among its arguments."""
        return tuple(sorted(frozenset().union(*(v.leaves for v in self.ins))))


@dataclasses.dataclass(eq=False)
class Row:
    """A layer: `part` of the tree of parameters, and its equations."""

    part: str
    heavy: bool = False
    steps: list[int] = dataclasses.field(default_factory=list)
    leaves: dict[str, None] = dataclasses.field(default_factory=dict)

    def use(self, leaves: Iterable[str]) -> None:
        """Notes that parameters are used here, in the order of their first use."""
        self.leaves.update(dict.fromkeys(leaves))


class Reading:
    """The equations of a function in their order, calls and loops written out.

    Attributes:
        steps: the equations.
        leaving: those that make a result, or the next state of a loop.
        live: for each, whether it has an effect.
    """

    def __init__(self, jaxpr: ClosedJaxpr, paths: Sequence[str]) -> None:
        self.steps: list[Step] = []
        self.leaving: set[int | None] = set()
        self._times = 1
        rules = Rules(
            primitives={"scan": self._scan},
            constant=lambda _: Value(),
            other=self._equation,
        )
        inputs = len(jaxpr.jaxpr.invars) - len(paths)
        values = [Value(frozenset((path,))) for path in paths]
        values += [Value(data=True) for _ in range(inputs)]
        self._leave(walk(jaxpr, rules, values))
        self.live = self._live()

    def _leave(self, values: Iterable[Value]) -> None:
        self.leaving |= {v.step for v in values}

    def _step(self, eqn: JaxprEqn | None, ins: Sequence[Value], count: int):
        data = any(v.data for v in ins) or eqn is None
        leaves = frozenset() if data else frozenset().union(*(v.leaves for v in ins))
        self.steps.append(Step(eqn, self._times, tuple(ins), data))
        return [Value(leaves, data, len(self.steps) - 1) for _ in range(count)]

    def _equation(self, eqn: Equation, *ins: Value) -> list[Value]:
        return self._step(eqn.eqn, ins, len(eqn.out_avals))

    def _scan(self, eqn: Equation, *ins: Value) -> list[Value]:
        consts, carried = scan_arguments(eqn.eqn)
        carry = list(ins[consts : consts + carried])
        if any(v.data for v in ins):
            # After one turn the state is made of all that the loop takes in.
            carry = [v if v.data else self._step(None, [v], 1)[0] for v in carry]
        self._times *= eqn.params["length"]
        inputs = [*ins[:consts], *carry, *ins[consts + carried :]]
        out = eqn.walk(eqn.params["jaxpr"], inputs)
        self._times //= max(eqn.params["length"], 1)
        self._leave(out[:carried])
        return out

    def _live(self) -> list[bool]:
        live = [k in self.leaving for k in range(len(self.steps))]
        for k in reversed(range(len(live))):
            # A loop may keep what it makes for its next turn: nothing there is dropped.
            live[k] = live[k] or self.steps[k].times > 1
            if live[k]:
                for v in self.steps[k].ins:
                    if v.step is not None:
                        live[v.step] = True
        return live

    def rows(self) -> list[Row]:
        """Puts every equation that has an effect into a layer."""
        rows = [Row("(inputs)")]
        at: dict[int | None, int] = {}
        for k, step in enumerate(self.steps):
            if not (step.data and self.live[k]):
                continue
            row = max((at.get(v.step, 0) for v in step.ins if v.data), default=0)
            if step.leaves:
                part, heavy = _part(step.leaves), step.name in _HEAVY
                full = heavy and rows[row].heavy
                if row == 0 or rows[row].part != part or full:
                    row = len(rows)
                    rows.append(Row(part))
                rows[row].heavy |= heavy
            at[k] = row
            rows[row].use(step.leaves)
        statistics = self._statistics()
        users: dict[int | None, set[int]] = {}
        for k, step in reversed(list(enumerate(self.steps))):
            if not self.live[k]:
                continue
            used = users.get(k, set())
            if not step.data:
                if not used:
                    rows.append(Row(_part(step.leaves)))
                    rows[-1].use(step.leaves)
                at[k] = min(used, default=len(rows) - 1)
            elif k in statistics and len(used) == 1 and k not in self.leaving:
                (row,) = used
                at[k] = at[k] if rows[row].heavy else row
            rows[at[k]].steps.append(k)
            for v in step.ins:
                users.setdefault(v.step, set()).add(at[k])
        for row in rows:
            row.steps.sort()
        return [row for row in rows if row.steps]

    def _statistics(self) -> set[int]:
        """Equations on inputs alone with a sum over positions behind them."""
        found: set[int] = set()
        for k, step in enumerate(self.steps):
            made = {v.step for v in step.ins if v.data}
            if step.data and not step.leaves:
                if step.name in REDUCTIONS or made & found:
                    found.add(k)
        return found


def _part(leaves: Iterable[str]) -> str:
    """The part of the tree in which some parameters stand."""
    paths = [leaf.removesuffix("/value").split("/")[:-1] for leaf in leaves]
    if not paths:
        return "(constants)"
    common = []
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return "/".join(common)
