"""What DeepONet and its relatives refuse."""

import dataclasses
import functools
import re

import jax.numpy as jnp
import pytest

from jaxarch.operators import (
    coordinate_derivatives,
    deeponet_apply,
    deeponet_from_torch,
    deeponet_init,
    mionet_apply,
    mionet_from_torch,
    mionet_init,
    pod_basis,
    pod_deeponet_apply,
    pod_deeponet_from_torch,
    pod_deeponet_init,
)

from .deeponets import KEY, random_params, torch_state

NET = random_params(deeponet_init, (3, 4), (1, 4))
FREE = dataclasses.replace(NET, branch=jnp.ones(3), trunk=jnp.ones(3))
POD = random_params(pod_deeponet_init, (3, 6), (1, 4))
MIO = random_params(mionet_init, [(3, 4), (2, 4)], (1, 4))
U, Y = jnp.ones(3), jnp.ones((2, 1))
TWO = functools.partial(deeponet_init, num_outputs=2)
NETS = {"branch": (3, 4), "trunk": (1, 4)}
PAIR = {"branch1": (3, 4), "branch2": (2, 4), "trunk": (1, 4)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: TWO(KEY, (3, 4), (1, 4), multi_output="split"),
            "deeponet_init: `multi_output` must be one of 'independent', 'split_both', "
            "'split_branch', 'split_trunk', got 'split'.",
        ),
        (
            lambda: deeponet_init(KEY, (3,), (1, 4)),
            "deeponet_init: `branch_sizes` must have at least two entries, got (3,).",
        ),
        (
            lambda: deeponet_init(KEY, (3, 4), (1, 0)),
            "deeponet_init: `trunk_sizes[1]` must be at least 1, got 0.",
        ),
        (
            lambda: deeponet_init(KEY, (3, 4), (1, 4), num_outputs=0),
            "deeponet_init: `num_outputs` must be at least 1, got 0.",
        ),
        (
            lambda: deeponet_init(KEY, (3, 4), (1, 4), dtype=jnp.int8),
            "deeponet_init: `dtype` must be a real floating dtype, got int8.",
        ),
        (
            lambda: deeponet_init(KEY, (3, 4), (1, 5)),
            "deeponet_init: branch and trunk must end in as many features, got 4 and "
            "5.",
        ),
        (
            lambda: TWO(KEY, (3, 5), (1, 5)),
            "deeponet_init: branch and trunk must end in as many features, a multiple "
            "of 2, got 5 and 5.",
        ),
        (
            lambda: TWO(KEY, (3, 5), (1, 5), multi_output="split_branch"),
            "deeponet_init: branch and trunk must end in 2 to 1 features, got 5 and 5.",
        ),
        (
            lambda: TWO(KEY, (3, 5), (1, 5), multi_output="split_trunk"),
            "deeponet_init: branch and trunk must end in 1 to 2 features, got 5 and 5.",
        ),
        (
            lambda: deeponet_apply(NET, U[None], Y),
            "deeponet_apply: `u` must have shape (3,) (one example; use jax.vmap for a "
            "batch), got (1, 3).",
        ),
        (
            lambda: deeponet_apply(NET, U, Y[0]),
            "deeponet_apply: `y` must have shape (points, dim), got (1,).",
        ),
        (
            lambda: deeponet_apply(NET, U, jnp.ones((2, 3))),
            "deeponet_apply: `y` must have shape (2, 1), got (2, 3).",
        ),
        (
            lambda: deeponet_apply(NET, U, Y, branch=lambda p, u: u),
            "deeponet_apply: branch and trunk must end in as many features, got 3 and "
            "4.",
        ),
        (
            lambda: pod_deeponet_init(KEY, (3,)),
            "pod_deeponet_init: `branch_sizes` must have at least two entries, got "
            "(3,).",
        ),
        (
            lambda: pod_deeponet_init(KEY, (3, 4), (1, 4)),
            "pod_deeponet_init: `branch_sizes` must end in more than the trunk's 4 "
            "features, got 4.",
        ),
        (
            lambda: pod_deeponet_init(KEY, (3, 4), dtype=jnp.int8),
            "pod_deeponet_init: `dtype` must be a real floating dtype, got int8.",
        ),
        (
            lambda: pod_basis(U, 2),
            "pod_basis: `outputs` must have shape (samples, points), got (3,).",
        ),
        (
            lambda: pod_basis(jnp.ones((4, 3)), 4),
            "pod_basis: `num_modes` must be at most 3, got 4.",
        ),
        (
            lambda: pod_basis(jnp.ones((4, 3)), 0),
            "pod_basis: `num_modes` must be at least 1, got 0.",
        ),
        (
            lambda: pod_deeponet_apply(POD, U, U),
            "pod_deeponet_apply: `basis` must have shape (points, modes), got (3,).",
        ),
        (
            lambda: pod_deeponet_apply(POD, jnp.ones((2, 2)), U),
            "pod_deeponet_apply: `y` must be given to a trunk, got None.",
        ),
        (
            lambda: pod_deeponet_apply(POD, jnp.ones((5, 2)), U, y=Y),
            "pod_deeponet_apply: `y` must have shape (5, 1), got (2, 1).",
        ),
        (
            lambda: pod_deeponet_apply(POD, jnp.ones((2, 3)), U, y=Y),
            "pod_deeponet_apply: `basis` and the trunk must have 6 features together, "
            "as the branch has, got 7.",
        ),
        (
            lambda: pod_deeponet_apply(POD, jnp.ones((2, 2)), U, y=Y, mean=U),
            "pod_deeponet_apply: `mean` must have shape (2,), got (3,).",
        ),
        (
            lambda: mionet_init(KEY, [(3, 4), (2, 4)], (1, 4), merge="sum"),
            "mionet_init: `merge` must be one of 'mul', 'add', 'cat', got 'sum'.",
        ),
        (
            lambda: mionet_init(KEY, [(3, 4), (2, 4)], (1, 4), output_merge="sum"),
            "mionet_init: `output_merge` must be one of 'mul', 'add', 'cat', got "
            "'sum'.",
        ),
        (
            lambda: mionet_init(KEY, [(3, 4), (2, 4)], (1, 4), dtype=jnp.int8),
            "mionet_init: `dtype` must be a real floating dtype, got int8.",
        ),
        (
            lambda: mionet_init(KEY, [(3, 4), (2,)], (1, 4)),
            "mionet_init: `branch_sizes[1]` must have at least two entries, got (2,).",
        ),
        (
            lambda: mionet_init(KEY, [(3, 4), (2, 5)], (1, 4)),
            "mionet_init: branches must end in as many features to be merged by 'mul', "
            "got (4, 5).",
        ),
        (
            lambda: mionet_init(KEY, [(3, 4), (2, 4)], (1, 5)),
            "mionet_init: `trunk_sizes` must end in 4 features, got 5.",
        ),
        (
            lambda: mionet_init(KEY, [(3, 4), (2, 4)], (1, 5), merger_sizes=(3, 5)),
            "mionet_init: `merger_sizes` must start with 4 features, got 3.",
        ),
        (
            lambda: mionet_init(
                KEY, [(3, 4), (2, 4)], (1, 4), output_merger_sizes=(4, 2)
            ),
            "mionet_init: `output_merger_sizes` must end in 1 features, got 2.",
        ),
        (
            lambda: mionet_apply(MIO, (U,), Y),
            "mionet_apply: `us` must have 2 entries, one for each branch, got 1.",
        ),
        (
            lambda: mionet_apply(MIO, (U, U[:2]), Y, branches=[None]),
            "mionet_apply: `branches` must have 2 entries, one for each branch, got 1.",
        ),
        (
            lambda: mionet_apply(MIO, (U, U), Y),
            "mionet_apply: `us[1]` must have shape (2,), got (3,).",
        ),
        (
            lambda: mionet_apply(MIO, (U, U[:2]), Y, trunk=lambda p, y: y),
            "mionet_apply: `trunk` must end in 4 features, got 1.",
        ),
        (
            lambda: coordinate_derivatives(lambda y: y, U),
            "coordinate_derivatives: `y` must have shape (points, dim), got (3,).",
        ),
        (
            lambda: coordinate_derivatives(lambda y: y[:1], Y),
            "coordinate_derivatives: `f` must give 2 rows, one for each point, got "
            "shape (1, 1).",
        ),
        (
            lambda: deeponet_from_torch(torch_state(NETS)),
            "deeponet_from_torch: `state_dict` must have 'b.0'.",
        ),
        (
            lambda: deeponet_from_torch(torch_state({"branch": (3, 4)}, b=0.0)),
            "deeponet_from_torch: `state_dict` must have 'trunk'.",
        ),
        (
            lambda: deeponet_from_torch(torch_state(NETS | {"gate": (3, 4)}, b=0.0)),
            "deeponet_from_torch: `state_dict` has ['gate'], which are not known.",
        ),
        (
            lambda: deeponet_from_torch(torch_state(NETS, b_0=0.0, b_1=0.0, b_2=0.0)),
            "deeponet_from_torch: branch and trunk must end in as many features, a "
            "multiple of 3, got 4 and 4.",
        ),
        (
            lambda: pod_deeponet_from_torch(torch_state(NETS)),
            "pod_deeponet_from_torch: `state_dict` must have 'b'.",
        ),
        (
            lambda: mionet_from_torch(torch_state(PAIR, b=0.0), merge="sum"),
            "mionet_from_torch: `merge` must be one of 'mul', 'add', 'cat', got 'sum'.",
        ),
        (
            lambda: mionet_from_torch(torch_state(PAIR, b=0.0), output_merge="sum"),
            "mionet_from_torch: `output_merge` must be one of 'mul', 'add', 'cat', got "
            "'sum'.",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        call()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: deeponet_apply(FREE, U, Y), "branch"),
        (lambda: deeponet_apply(FREE, U, Y, branch=lambda p, u: u), "trunk"),
    ],
)
def test_functions_of_other_parameters_must_be_given(call, name):
    message = (
        f"deeponet_apply: `{name}` must be given, a function of the parameters "
        f"`params.{name}`, which are not MLPParams but ArrayImpl."
    )
    with pytest.raises(TypeError, match="^" + re.escape(message) + "$"):
        call()


def test_sizes_are_ints():
    with pytest.raises(TypeError, match=re.escape("`branch_sizes[0]` must be an int")):
        deeponet_init(KEY, (3.0, 4), (1, 4))
