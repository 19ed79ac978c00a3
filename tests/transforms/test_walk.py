"""The shared walk: a reading that evaluates, one that counts, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxarch import transforms as tr

from .models import model, numbers


def evaluation(record=None):
    """A reading whose values are arrays: the primitives themselves."""
    return tr.Rules(
        primitives={},
        constant=lambda value: value,
        other=lambda eqn, *ins: eqn.bind(*ins),
        record=record,
    )


def test_bound_primitives_give_the_function_back():
    made = model("transformer")
    jaxpr = jax.make_jaxpr(made.apply)(made.params, *made.args)
    values = jax.tree.leaves((made.params, made.args))
    (got,) = tr.walk(jaxpr, evaluation(), values)
    want = made.apply(made.params, *made.args)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_calls_are_entered_and_paths_are_the_same_in_every_walk():
    @jax.jit
    def double(x):
        return 2 * jax.nn.relu(x)

    def f(x):
        return jax.checkpoint(double)(double(x))

    x = jnp.asarray([1.0, -2.0])
    jaxpr = jax.make_jaxpr(f)(x)
    first, second = {}, {}
    (out,) = tr.walk(jaxpr, evaluation(first), [x])
    (twice,) = tr.walk(jaxpr, evaluation(second), [2 * x])
    np.testing.assert_array_equal(out, [4, 0])
    np.testing.assert_array_equal(twice, [8, 0])
    assert list(first) == list(second)
    # An equation is recorded when it is done: what is within a call comes first.
    products = [path for path, (ins, _) in first.items() if len(path) >= 3]
    assert products
    assert {path[0] for path in first} == {0, 1}


def test_a_reading_of_its_own():
    """How many multiplications each result depends on, through a scan and a branch."""

    def count(eqn, *ins):
        return [max(ins, default=0) + (eqn.name == "mul")] * len(eqn.out_avals)

    def scan(eqn, *ins):
        outs = eqn.walk(eqn.params["jaxpr"], ins)
        return [eqn.params["length"] * out for out in outs]

    def cond(eqn, _, *ins):
        outs = [
            eqn.walk(branch, ins, f"branch {k}")
            for k, branch in enumerate(eqn.params["branches"])
        ]
        return [max(same) for same in zip(*outs, strict=True)]

    rules = tr.Rules(
        primitives={"cond": cond, "scan": scan},
        constant=lambda value: 0,
        other=count,
    )

    def f(x):
        y = lax.scan(lambda c, _: (c * c * c, None), x, None, length=5)[0]
        return lax.cond(x > 0, lambda z: z * z, lambda z: z, y), x + 1

    jaxpr = jax.make_jaxpr(f)(2.0)
    assert tr.walk(jaxpr, rules, [0]) == [11, 0]


def test_an_error_names_the_equation_and_the_line_of_the_user():
    def refuse(eqn, *ins):
        raise ValueError("no")

    def f(x):
        return jnp.tanh(jnp.sin(x))  # this line

    jaxpr = jax.make_jaxpr(f)(numbers(3))
    rules = tr.Rules(primitives={"sin": refuse}, constant=lambda v: v)
    with pytest.raises(ValueError, match="no") as caught:
        tr.walk(jaxpr, rules, [None])
    (note,) = caught.value.__notes__
    assert note.startswith("In the equation sin(f32[3]) at ")
    file, line = note.removesuffix(".").rsplit(" ", 1)[1].rsplit(":", 1)
    assert file == __file__
    with open(file) as source:
        assert "# this line" in source.readlines()[int(line) - 1]
    only = tr.Rules(primitives={}, constant=lambda v: v)
    with pytest.raises(
        NotImplementedError, match=r"walk: there is no rule for sin\(f32"
    ):
        tr.walk(jaxpr, only, [None])
