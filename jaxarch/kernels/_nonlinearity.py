r"""Coordinatewise maps of Gaussians: what is common to all of them.

For $(u, u')$ jointly Gaussian with variances $q_1, q_2$ and covariance $c$,

$$F(q_1, q_2, c) = \mathbb E f(u) f(u'), \qquad
  \dot F = \mathbb E f'(u) f'(u') = \partial F / \partial c,$$

the covariance becomes $F$ and the tangent kernel $t\,\dot F$.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._covariance import Covariance, Marginal, Pair, Rules, relative
from ._graph import Number, Operation, Value


class Nonlinearity(Operation):
    r"""A map of one Gaussian value: rules that need only the moments of the map.

    A subclass gives `moments` (second moment, mean or `None`, whatever `dual` needs),
    `dual` ($F$ and $\dot F$) and `apply`.
    """

    nonnegative: ClassVar[bool] = False  # f >= 0, hence no negative covariance

    def infer(self, *args: Value) -> Value:
        """The input must be Gaussian; the result is not."""
        (h,) = args
        if not (h.gaussian or h.raw):
            raise ValueError(
                f"{self.name}: `h` must be Gaussian, got a value that is not "
                f"(it depends on {', '.join(sorted(h.sources))}); "
                "put a `dense` before it."
            )
        return Value(h.sources, centred=self.centred)

    @property
    def centred(self) -> bool:
        """Whether the mean is zero at every variance."""
        return False

    def moments(
        self, numbers: Sequence[Number], q: Array
    ) -> tuple[Array, Array | None, tuple[Array, ...]]:
        r"""$\mathbb E f^2$, $\mathbb E f$ (`None`: zero) and weights for `dual`."""
        raise NotImplementedError

    def dual(self, numbers: Sequence[Number], h: Covariance) -> tuple[Array, Array]:
        r"""$F$ and $\dot F$ at each pair."""
        raise NotImplementedError

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        """The moments of the map."""
        q, mean, weights = self.moments(numbers, args[0].q)
        assert (mean is None) == self.centred
        return Marginal.of(q, mean, (*args[0].weights[:0], *weights))

    def pair(
        self,
        numbers,
        *args: Covariance,
        out1: Marginal,
        out2: Marginal,
        shapes,
        rules: Rules,
    ) -> Pair:
        r"""$F$ as a cosine, and $t\,\dot F$."""
        (h,) = args
        one = h.one._replace(weights=out1.weights)
        two = h.two._replace(weights=out2.weights)
        f, fd = self.dual(numbers, h._replace(one=one, two=two))
        cosine = f * out1.inverse * out2.inverse
        slope = None if h.slope is None else h.slope * fd
        v, w = 1 - cosine, None if self.nonnegative else 1 + cosine
        v, w, slope = relative(out1, out2, v, w, slope, rules)
        return Pair(v, w, h.t * fd, slope)


class Form(NamedTuple):
    """A closed form; every function takes the numbers of the operation last.

    `dual(q1, q2, c, d, ...)` gets $d = q_1 q_2 - c^2$ free of cancellation.
    """

    apply: Callable[..., Array] | None
    mean: Callable[..., Array] | None  # None: zero
    dual: Callable[..., Array]
    numbers: tuple[str, ...] = ()
    nonnegative: bool = False


FORMS: dict[str, Form] = {}


@dataclasses.dataclass(frozen=True)
class ClosedForm(Nonlinearity):
    r"""A nonlinearity of `FORMS`; $\dot F$ is the derivative of its $F$."""

    form: str

    @property
    def name(self) -> str:  # pyright: ignore
        """The form's."""
        return self.form

    @property
    def numbers(self) -> tuple[str, ...]:  # pyright: ignore
        """The form's."""
        return FORMS[self.form].numbers

    @property
    def nonnegative(self) -> bool:  # pyright: ignore
        """The form's."""
        return FORMS[self.form].nonnegative

    @property
    def centred(self) -> bool:
        """The form's."""
        return FORMS[self.form].mean is None

    def __str__(self) -> str:
        return ", ".join(self.numbers)

    def moments(self, numbers, q):
        """$F(q, q, q)$ and the mean."""
        form = FORMS[self.form]
        mean = None if form.mean is None else form.mean(q, *numbers)
        return form.dual(q, q, q, jnp.zeros_like(q), *numbers), mean, ()

    def dual(self, numbers, h):
        """$F$ and its derivative in $c$, along which $d$ moves by $-2c$."""
        form = FORMS[self.form]
        c = h.k
        d = h.norm**2 * h.v * h.complement
        q1, q2 = h.one.q, h.two.q
        q1, q2 = jnp.broadcast_to(q1, c.shape), jnp.broadcast_to(q2, c.shape)
        return jax.jvp(
            lambda c, d: form.dual(q1, q2, c, d, *numbers),
            (c, d),
            (jnp.ones_like(c), -2 * c),
        )

    def apply(self, numbers, params, *args: Array, key) -> Array:
        """The map."""
        function = FORMS[self.form].apply
        if function is None:
            raise NotImplementedError(
                f"{self.form}: no finite network has this kernel, only its limit."
            )
        return function(args[0], *numbers)
