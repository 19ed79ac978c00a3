"""One walk over the equations of a jaxpr, which every reading of it shares.

A jaxpr is a list of equations, some of which hold further jaxprs. A reading gives a
rule for each primitive, and `walk` carries values of any kind (axes, numbers, zeros)
through the equations in their order. Calls (`jit`, `checkpoint`, functions with
derivatives of their own) are entered as if they were written out, unless the reading
has a rule for them; loops and branches are for the rules, which go on into them by
`Equation.walk`.
"""

import dataclasses
import os
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from .._jaxprs import called, opened

# These hold one jaxpr, whose arguments are theirs.
CALLS = frozenset(
    (
        "checkpoint",
        "closed_call",
        "composite",
        "core_call",
        "custom_jvp_call",
        "custom_lin",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "eval_jaxpr",
        "jit",
        "pjit",
        "remat",
        "remat2",
    )
)
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_JAX = os.path.dirname(os.path.abspath(jax.__file__)) + os.sep
_INSTALLED = sysconfig.get_paths()["purelib"] + os.sep

# rule(equation, *values of its arguments) -> values of its results
Rule = Callable[..., Sequence[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rules:
    """A reading of a jaxpr: what each primitive does to the values it is given.

    Attributes:
        primitives: for each name of a primitive, `rule(equation, *values)`, which
            returns one value for each result.
        constant: `constant(array)` gives the value of a literal or of an array that
            the function closed over.
        other: the rule of every primitive without one; `None` refuses it.
        record: where it is not `None`, `record[equation.path]` becomes the pair of
            lists (values of the arguments, values of the results).
    """

    primitives: Mapping[str, Rule]
    constant: Callable[[Any], Any]
    other: Rule | None = None
    record: dict[tuple, tuple[list, list]] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """An equation as a rule sees it.

    Attributes:
        eqn: the equation of JAX.
        path: where it stands: its index in the outermost jaxpr, then the name of the
            jaxpr within it and an index there, and so on. It is the same in every walk
            of one jaxpr.
        rules: the reading under way.
    """

    eqn: JaxprEqn
    path: tuple[int | str, ...]
    rules: Rules

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.eqn.primitive.name

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the primitive."""
        return self.eqn.params

    @property
    def in_avals(self) -> list:
        """Shapes and dtypes of the arguments."""
        return [v.aval for v in self.eqn.invars]

    @property
    def out_avals(self) -> list:
        """Shapes and dtypes of the results."""
        return [v.aval for v in self.eqn.outvars]

    def walk(
        self, jaxpr: Jaxpr | ClosedJaxpr, values: Sequence, name: str = "jaxpr"
    ) -> list:
        """Walks a jaxpr that belongs to this equation, by the same rules."""
        return walk(jaxpr, self.rules, values, path=(*self.path, name))

    def inline(self, *values: Any) -> list:
        """Walks the jaxpr of a call, as if it were written in the place of the call."""
        return self.walk(called(self.eqn), values)

    def bind(self, *values: Any, **params: Any) -> list:
        """Applies the primitive to arrays, with some of its parameters changed."""
        return bind(self.eqn, *values, **params)

    def __str__(self) -> str:
        shapes = [aval.str_short(short_dtypes=True) for aval in self.in_avals]
        text = f"{self.name}({', '.join(shapes)})"
        line = source_line(self.eqn)
        return f"{text} at {line}" if line else text


def walk(
    jaxpr: Jaxpr | ClosedJaxpr,
    rules: Rules,
    values: Sequence,
    *,
    path: tuple[int | str, ...] = (),
) -> list:
    """Carries values through the equations of a jaxpr by the rules of a reading.

    Args:
        jaxpr: what to read, as `jax.make_jaxpr` gives it.
        rules: what each primitive does to values.
        values: one for each argument of the jaxpr.
        path: where the jaxpr stands within another (`Equation.path`).

    Returns:
        One value for each result of the jaxpr.

    Raises:
        NotImplementedError: a primitive has no rule, and `rules.other` is `None`. This
            and every error of a rule names the equation and, where JAX knows it, the
            line of the source that made it.
    """
    jaxpr, consts = opened(jaxpr)
    assert len(jaxpr.invars) == len(values), (jaxpr, values)
    env = dict(zip(jaxpr.constvars, map(rules.constant, consts), strict=True))
    env.update(zip(jaxpr.invars, values, strict=True))

    def read(v: Any) -> Any:
        return rules.constant(v.val) if isinstance(v, Literal) else env[v]

    for index, eqn in enumerate(jaxpr.eqns):
        equation = Equation(eqn, (*path, index), rules)
        rule = rules.primitives.get(equation.name)
        if rule is None:
            rule = _inline if equation.name in CALLS else rules.other
        if rule is None:
            raise NotImplementedError(f"walk: there is no rule for {equation}.")
        args = [read(v) for v in eqn.invars]
        try:
            results = list(rule(equation, *args))
        except Exception as error:
            if not getattr(error, "__notes__", ()):
                error.add_note(f"In the equation {equation}.")
            raise
        assert len(results) == len(eqn.outvars), (equation, results)
        if rules.record is not None:
            rules.record[equation.path] = (args, results)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _inline(equation: Equation, *values: Any) -> list:
    return equation.inline(*values)


def bind(eqn: JaxprEqn, *values: Any, **params: Any) -> list:
    """Applies the primitive of an equation, with some of its parameters changed.

    A derivative that the function of a call brings along stays with it.
    """
    primitive = eqn.primitive
    params = primitive.get_bind_params({**eqn.params, **params})
    out = primitive.bind(*values, **params)
    return list(out) if primitive.multiple_results else [out]


def source_line(eqn: JaxprEqn) -> str:
    """Gives "file:line" of the user's code that made an equation, or ""."""
    traceback = getattr(eqn.source_info, "traceback", None)
    frames = getattr(traceback, "frames", ())
    lines = [
        (frame.file_name, f"{frame.file_name}:{frame.line_num}")
        for frame in frames
        if not frame.file_name.startswith((_OURS, _JAX, "<"))
    ]
    own = [line for name, line in lines if not name.startswith(_INSTALLED)]
    return (own or [line for _, line in lines] or [""])[0]
