import dataclasses
import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.transforms._describe import describe

from . import models

SHAPE = jax.ShapeDtypeStruct
KEY = jax.random.key(0)


def f32(*shape):
    return SHAPE(shape, jnp.float32)


def counted(params):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def xla_flops(f, *args):
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


def architectures():
    path = pathlib.Path(__file__).parents[2] / "benchmarks" / "_architectures.py"
    spec = importlib.util.spec_from_file_location("_architectures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dense(params, x):
    x = jnp.tanh(x @ params["in"]["w"] + params["in"]["b"].reshape(1, -1))
    return x @ params["out"]["w"]


DENSE = {"in": {"w": f32(3, 8), "b": f32(8)}, "out": {"w": f32(8, 2)}}


def test_a_dense_network_by_hand():
    table = describe(dense, DENSE, f32(5, 3))
    first, second = table.layers
    assert (first.name, second.name) == ("in", "out")
    assert first.operations == ("dot_general", "add", "tanh")
    assert (first.inputs, first.outputs) == (("f32[5,3]",), ("f32[5,8]",))
    assert (first.leaves, second.leaves) == (("in/w", "in/b"), ("out/w",))
    assert (first.parameters, second.parameters) == (32, 16)
    assert first.flops == 2 * 5 * 3 * 8 + 5 * 8 + 5 * 8
    assert second.flops == 2 * 5 * 8 * 2
    assert first.bytes_read == 4 * (5 * 3 + 3 * 8 + 8)
    assert first.bytes_written == 4 * 5 * 8
    assert second.bytes_read == 4 * (5 * 8 + 8 * 2)
    assert second.bytes_written == 4 * 5 * 2
    assert first.times == second.times == 1
    (hidden,) = [g for g in table.groups if g.size == 8]
    assert (hidden.state, hidden.parameters) == ("exact", 3 * 8 + 8 + 8 * 2)


@pytest.mark.parametrize("name", models.MODELS)
def test_counts_are_those_of_the_arrays(name):
    model = models.model(name)
    table = describe(model.apply, model.params, *model.args)
    assert table.parameters == counted(model.params)
    assert sum(row.parameters for row in table.layers) == table.parameters
    leaves = [leaf for row in table.layers for leaf in row.leaves]
    assert len(leaves) == len(set(leaves)) == len(jax.tree.leaves(model.params))
    flat = describe(model.apply, model.params, *model.args, fold=False)
    assert len(flat.layers) >= len(table.layers)
    for count in ("parameters", "flops", "bytes_read", "bytes_written"):
        assert sum(getattr(row, count) for row in flat.layers) == getattr(table, count)
        assert getattr(flat, count) == getattr(table, count)


# XLA counts a gather, and by default a padded window, otherwise; exponentials apart.
@pytest.mark.parametrize(
    ("name", "tolerance"), [("resnet", 0.01), ("vit", 0.03), ("nnx_net", 0.01)]
)
def test_operations_are_those_that_xla_counts(name, tolerance):
    model = models.model(name)
    table = describe(model.apply, model.params, *model.args)
    expected = xla_flops(model.apply, model.params, *model.args)
    np.testing.assert_allclose(table.flops, expected, rtol=tolerance)


def test_matrix_products_are_counted_exactly():
    params = {"a": f32(6, 7), "b": f32(7, 9), "c": f32(9, 4)}

    def f(p, x):
        return x @ p["a"] @ p["b"] @ p["c"]

    table = describe(f, params, f32(5, 6))
    assert table.flops == xla_flops(f, params, f32(5, 6))
    assert [row.name for row in table.layers] == ["a", "b", "c"]


def test_loops_count_all_their_turns():
    params = {"layers": {"w": f32(4, 8, 8), "b": f32(4, 8)}, "head": {"w": f32(8, 3)}}

    def looped(p, x):
        def body(x, q):
            return jnp.tanh(x @ q["w"] + q["b"]), None

        x, _ = jax.lax.scan(body, x, p["layers"])
        return x @ p["head"]["w"]

    def unrolled(p, x):
        for i in range(4):
            x = jnp.tanh(x @ p["layers"][i]["w"] + p["layers"][i]["b"])
        return x @ p["head"]["w"]

    table = describe(looped, params, f32(8))
    row = table.layers[0]
    assert (row.name, row.times, row.parameters) == ("layers", 4, 4 * 72)
    assert row.inputs == row.outputs == ("f32[8]",)
    lists = [{"w": f32(8, 8), "b": f32(8)} for _ in range(4)]
    other = describe(unrolled, params | {"layers": lists}, f32(8))
    assert other.layers[0].name == "layers/0..3"
    counts = ("parameters", "flops", "bytes_read", "bytes_written", "times")
    for count in counts:
        assert getattr(row, count) == getattr(other.layers[0], count), count
    # The input, what lies between the layers, and what the head takes.
    assert [g.times for g in other.groups if g.size == 8] == [1, 3, 1]


def test_the_state_of_a_loop_may_be_a_parameter():
    params = {"start": f32(8), "w": f32(8, 8)}

    def f(p, xs):
        def body(h, x):
            return jnp.tanh(h @ p["w"] + x), h

        return jax.lax.scan(body, p["start"], xs)

    table = describe(f, params, f32(5, 8))
    assert {leaf for row in table.layers for leaf in row.leaves} == {"start", "w"}
    assert all(row.name != "(not used)" for row in table.layers)


def test_twelve_equal_blocks_share_their_rows():
    sizes = {"layers": 12, "width": 16, "heads": 2, "vocab": 31, "context": 8}
    nets = architectures()
    params = jax.eval_shape(lambda k: nets.transformer_init(k, **sizes), KEY)
    with jax.numpy_rank_promotion("allow"):
        table = describe(nets.transformer_apply, params, SHAPE((2, 8), jnp.int32))
        blocks = describe(
            nets.transformer_apply, params, SHAPE((2, 8), jnp.int32), depth=2
        )
    names = [row.name for row in table.layers]
    assert "blocks/0..11/norm1" in names
    assert "blocks/0..11/mlp/up, up_bias" in names
    assert {row.times for row in table.layers} == {1, 12}
    assert table.layers[-1].shared == ("tokens",)
    assert table.layers[-1].parameters == 0
    assert table.parameters == counted(params)
    (row,) = [row for row in blocks.layers if row.name == "blocks/0..11"]
    assert row.times == 12
    assert row.parameters == 12 * counted(params["blocks"][0])
    assert blocks.flops == table.flops
    # A normalisation counts where its parameters are, with its mean and variance.
    norm = next(row for row in table.layers if row.name == "blocks/0..11/norm1")
    assert norm.operations[0] == "reduce_sum"
    assert norm.bytes_written == 12 * 4 * 2 * 8 * 16


def test_full_size_networks_have_the_parameters_of_the_papers():
    nets = architectures()
    params = jax.eval_shape(nets.resnet50_init, KEY)
    with jax.numpy_rank_promotion("allow"):
        table = describe(nets.resnet50_apply, params, f32(1, 224, 224, 3))
    assert table.parameters == 25_557_032 + 53_120
    # 4.09 G multiplications of the convolutions and the head, as of He et al.
    assert 2 * 3.8e9 < table.flops < 2 * 4.2e9
    assert counted(jax.eval_shape(nets.transformer_init, KEY)) == 124_439_808


def test_parameters_without_an_effect_are_listed():
    params = {"w": f32(3, 4), "old": {"a": f32(7), "b": f32(2, 2)}}
    last = describe(lambda p, x: x @ p["w"], params, f32(3)).layers[-1]
    assert (last.name, last.leaves) == ("(not used)", ("old/a", "old/b"))
    assert (last.parameters, last.flops) == (11, 0)


def test_what_comes_before_parameters_and_of_them_alone():
    params = {"w": f32(3, 4)}

    def f(p, x):
        return jnp.exp(x) @ p["w"], jnp.square(p["w"]).sum()

    table = describe(f, params, f32(3))
    assert table.layers[0].name == "(inputs)"
    assert table.layers[0].operations == ("exp",)
    assert table.flops == 3 + 24 + 12 + 11  # exp, product, squares and their sum


def test_the_text_is_aligned():
    table = describe(dense, DENSE, f32(5, 3))
    lines = str(table).split("\n")
    assert lines[0].split()[:2] == ["layer", "operations"]
    at = lines[0].index("FLOPs") + len("FLOPs")
    ends = [line[:at].split()[-1] for line in (lines[2], lines[3], lines[4])]
    assert ends == ["320", "160", "480"]
    assert lines[4].startswith("total")
    markdown = table.to_markdown().split("\n")
    assert markdown[1].startswith("| --- | --- |")
    assert len({line.count("|") for line in markdown[:5]}) == 1


def test_rows_are_plain_records():
    row = describe(dense, DENSE, f32(5, 3)).layers[0]
    assert dataclasses.asdict(row)["parameters"] == 32


def test_errors():
    with pytest.raises(ValueError, match="describe: `depth` must be positive, got 0"):
        describe(dense, DENSE, f32(5, 3), depth=0)
    with pytest.raises(TypeError, match="must be an array, got str"):
        describe(dense, {"w": "w"}, f32(5, 3))
