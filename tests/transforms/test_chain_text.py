import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx
from jax import lax

from jaxarch.transforms import chain_text

from . import models


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


PARAMS = {"w": f32(4, 8), "b": f32(8), "v": f32(8, 2)}


def softmax_mlp(p, x):
    h = jax.nn.relu(x @ p["w"] + p["b"].reshape(1, -1))
    return jax.nn.softmax(h @ p["v"])


MLP = """\
dot_general(3x4, Param[4,8])(contract=1:0) --> add(prev, Param[8]) --> max(prev, 0) \
--> dot_general(prev, Param[8,2])(contract=1:0) --> Value1:3x2
reduce_max(Value1)(axes=1) --> max(-inf, prev) \
--> broadcast_in_dim(prev)(shape=[3,1],broadcast_dimensions=0) --> Value2:3x1
sub(Value1, Value2) --> exp(prev) --> Value3:3x2
reduce_sum(Value3)(axes=1) \
--> broadcast_in_dim(prev)(shape=[3,1],broadcast_dimensions=0) --> Value4:3x1
div(Value3, Value4) --> Out:3x2"""


def test_a_small_network_by_hand():
    assert chain_text(softmax_mlp, PARAMS, f32(3, 4)) == MLP


ABLATIONS = {
    (False, False, False): "dot_general --> add --> max --> dot_general --> Value",
    (True, False, False): "dot_general --> add --> max --> dot_general --> Value:3x2",
    (False, True, False): "dot_general(contract=1:0) --> add --> max "
    "--> dot_general(contract=1:0) --> Value",
    (False, False, True): "dot_general(3x4, Param[4,8]) --> add(prev, Param[8]) "
    "--> max(prev, 0) --> dot_general(prev, Param[8,2]) --> Value1",
}


@pytest.mark.parametrize("kept", ABLATIONS)
def test_ablations(kept):
    options = dict(zip(("shapes", "attributes", "inputs"), kept, strict=True))
    first, *rest = chain_text(softmax_mlp, PARAMS, f32(3, 4), **options).splitlines()
    assert first == ABLATIONS[kept]
    assert len(rest) == 4


def test_names_calls_and_what_is_not_used_do_not_matter():
    def renamed(p, x):
        @jax.jit
        def layer(z, first):
            jnp.sin(z).sum()  # nothing uses it
            return lax.stop_gradient(z @ first)

        @jax.checkpoint
        def rest(z):
            return jax.nn.softmax(layer(jax.nn.relu(z), p[0]))

        return rest(layer(x, p[2]) + p[1][None].astype(jnp.float32))

    order = [f32(8, 2), f32(8), f32(4, 8)]
    assert chain_text(renamed, order, f32(3, 4)) == MLP


def test_layout_of_parameters_does_not_matter():
    def transposed(p, x):
        p = {"w": p["w"].T, "b": jnp.squeeze(p["b"]), "v": p["vs"][1]}
        return softmax_mlp(p, x)

    params = {"w": f32(8, 4), "b": f32(1, 8), "vs": f32(2, 8, 2)}
    assert chain_text(transposed, params, f32(3, 4)) == MLP


def test_numbers_do_not_matter():
    rng = np.random.default_rng(0)
    for _ in range(2):
        params = jax.tree.map(
            lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), PARAMS
        )
        assert chain_text(softmax_mlp, params, jnp.zeros((3, 4))) == MLP

        def closed(_, x, params=params):
            return softmax_mlp(params, x)

        assert chain_text(closed, (), jnp.zeros((3, 4))) == MLP


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.tanh(nn.Dense(8)(x)))


class NNX(nnx.Module):
    def __init__(self):
        self.one, self.two = (
            nnx.Linear(4, 8, rngs=nnx.Rngs(0)),
            nnx.Linear(8, 2, rngs=nnx.Rngs(0)),
        )

    def __call__(self, x):
        return self.two(nnx.tanh(self.one(x)))


def test_frameworks_and_plain_functions_have_one_text():
    x = jnp.zeros((3, 4))

    def plain(p, x):
        h = jnp.tanh(x @ p[0] + p[1].reshape(1, -1))
        return h @ p[2] + p[3].reshape(1, -1)

    plain_params = [f32(4, 8), f32(8), f32(8, 2), f32(2)]
    text = chain_text(plain, plain_params, x)
    assert text == (
        "dot_general(3x4, Param[4,8])(contract=1:0) --> add(prev, Param[8]) "
        "--> tanh(prev) --> dot_general(prev, Param[8,2])(contract=1:0) "
        "--> add(prev, Param[2]) --> Out:3x2"
    )
    shapes = jax.eval_shape(Linen().init, jax.random.key(0), x)
    assert chain_text(Linen().apply, shapes, x) == text
    graph, state = nnx.split(NNX())
    assert chain_text(lambda s, x: nnx.merge(graph, s)(x), state, x) == text

    def one(p, x):
        return p[2].T @ jnp.tanh(p[0].T @ x + p[1]) + p[3]

    def batched(p, x):
        return jax.vmap(one, (None, 0))(p, x)

    mlp = eqx.nn.MLP(4, 2, 8, 1, jnp.tanh, key=jax.random.key(0))
    found = chain_text(lambda m, x: jax.vmap(m)(x), mlp, x)  # with static leaves
    assert found == chain_text(batched, plain_params, x)


def test_a_scan_is_a_block():
    def f(p, x):
        def body(c, w):
            h = jnp.tanh(c @ w + p["b"])
            return h + c, h.sum()

        return lax.scan(body, x, p["w"])

    text = chain_text(f, {"w": f32(5, 8, 8), "b": f32(8)}, f32(8))
    assert text == (
        "scan(Param[8], Carry1=8, Param[5,8,8])(length=5) --> Out1:8, Out2:5 {\n"
        "  dot_general(Carry1, Param[8,8])(contract=0:0) --> add(prev, Param[8]) "
        "--> tanh(prev) --> Value1:8\n"
        "  add(Value1, Carry1) --> Next1:8\n"
        "  reduce_sum(Value1)(axes=0) --> Result1:scalar\n"
        "}"
    )


def test_while_and_cond_are_blocks():
    def f(p, x):
        x = lax.while_loop(lambda c: c.max() < 9, lambda c: c * p, x)
        return lax.cond(x[0] > 1, jnp.sin, lambda x: x, x)

    assert chain_text(f, f32(3), f32(3)) == (
        "while(Param[3], Carry1=3) --> Value1:3 {\n"
        "  reduce_max(Carry1)(axes=0) --> lt(prev, 9) --> Result1:scalar\n"
        "} {\n"
        "  mul(Carry1, Param[3]) --> Next1:3\n"
        "}\n"
        "slice(Value1)(start_indices=0,limit_indices=1) --> squeeze(prev)(dimensions=0)"
        " --> gt(prev, 1) --> Value2:scalar\n"
        "cond(Value2, Value1) --> Out:3 {\n"
        "  Value1 --> Result2:3\n"
        "} {\n"
        "  sin(Value1) --> Result3:3\n"
        "}"
    )


def test_convolutions_and_windows():
    def f(w, x):
        x = lax.conv_general_dilated(
            x,
            w,
            (2, 2),
            ((0, 1), (0, 1)),
            rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )
        one, two = jnp.split(x, 2, -1)
        x = jnp.concatenate([two, one], -1)
        window = (1, 2, 2, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")

    assert chain_text(f, f32(3, 3, 2, 6), f32(1, 8, 10, 4)) == (
        "conv_general_dilated(1x8x10x4, Param[3,3,2,6])"
        "(window=3,strides=2,padding=[0,1],dilation=[1,2],groups=2) "
        "--> Value1:1x4x4x6\n"
        "split(Value1)(sizes=[3,3],axis=3) --> Value2:1x4x4x3, Value3:1x4x4x3\n"
        "concatenate(Value3, Value2)(dimension=3) --> reduce_window_max(prev)"
        "(window_dimensions=[1,2,2,1],window_strides=[1,2,2,1],padding=0) "
        "--> Out:1x2x2x6"
    )


def test_results_that_no_operation_makes():
    def f(p, x):
        y = x * 2
        return p, x, y, y, 1.0

    assert chain_text(f, f32(3), f32(3)).splitlines() == [
        "mul(3, 2) --> Out3:3",
        "Param[3] --> Out1:3",
        "3 --> Out2:3",
        "Out3 --> Out4:3",
        "1 --> Out5:scalar",
    ]


def test_a_repeated_number_or_parameter_keeps_its_shape_where_it_matters():
    def f(p, x):
        token = jnp.broadcast_to(p, (2, 1, 4))
        return jnp.concatenate([token, x, jnp.zeros((2, 1, 4))], 1)

    assert chain_text(f, f32(4), f32(2, 3, 4)) == (
        "concatenate(Param[4]:2x1x4, 2x3x4, 0:2x1x4)(dimension=1) --> Out:2x5x4"
    )


def test_effects_keys_and_numbers():
    def f(key, x):
        jax.debug.callback(lambda x: None, x)
        return x + jax.random.uniform(key, (3,)) * 1e-5

    text = chain_text(lambda _, *args: f(*args), (), jax.random.key(0), f32(3))
    assert "debug_callback(3) --> Nothing\n" in text
    assert "random_bits(scalar)" in text
    assert "mul(prev, 1e-05)" in text
    assert text.endswith(" --> Out:3")


def test_casts_between_kinds_are_operations():
    def f(_, x):
        return jnp.tanh(x.astype(jnp.bfloat16)).astype(jnp.int32).astype(jnp.float32)

    assert chain_text(f, (), f32(3)) == (
        "tanh(3) --> convert_element_type(prev)(new_dtype=int32) "
        "--> convert_element_type(prev)(new_dtype=float32) --> Out:3"
    )


@pytest.mark.parametrize("name", [m for m in models.MODELS if m != "flax_gpt"])
def test_networks_of_every_kind(name):
    model = models.model(name)
    text = chain_text(model.apply, model.params, *model.args)
    printed = str(jax.make_jaxpr(model.apply)(model.params, *model.args))
    for operation in ("dot_general", "conv_general_dilated", "exp", "tanh", "logistic"):
        own = bool(re.search(rf"\b{operation}\(", text))
        assert own == bool(re.search(rf"= {operation}\b", printed)), operation
    made = re.findall(r"(?:--> |, )((?:Value|Next|Result|Out)\d*)(?=:)", text)
    used = re.findall(r"(?:[(=]|, )((?:Value|Next|Result|Out)\d*)(?=[,)])", text)
    assert len(made) == len(set(made))
    assert set(used) <= set(made)
    assert any(name.startswith("Out") for name in made)


def test_a_function_is_wanted():
    with pytest.raises(TypeError, match=r"chain_text: `f` must be a function, got int"):
        chain_text(3, (), f32(3))
