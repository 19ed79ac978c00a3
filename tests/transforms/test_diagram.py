import re
import time
import xml.etree.ElementTree as ET
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.transforms._diagram import diagram
from jaxarch.transforms._fold import Repeat, folded_name, repeats

from . import models
from .test_describe import KEY, SHAPE, architectures, f32

SVG = "{http://www.w3.org/2000/svg}"


class Wire(NamedTuple):
    role: str
    size: int
    colours: tuple[str, ...]
    start: tuple[float, float]
    end: tuple[float, float]


class Operation(NamedTuple):
    kind: str
    label: str
    ranks: tuple[int, ...]
    wires: list[Wire]
    box: tuple[float, float, float, float] | None  # left, top, right, bottom
    dots: list[float]
    texts: list[str]

    def entering(self):
        entering = [wire for wire in self.wires if wire.role == "in"]
        return sorted(entering, key=lambda wire: wire.start)

    def spans(self):
        """Sizes of the wires that enter within the box."""
        left, _, right, _ = self.box
        return [w.size for w in self.entering() if left < w.start[0] < right]


def wire_of(group):
    paths = [p for p in group.iter(f"{SVG}path")]
    painted = [p for p in paths if not is_ground(p.get("stroke"))]
    numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", painted[0].get("d"))]
    start = tuple(numbers[:2])
    end = (start[0], numbers[2]) if len(numbers) == 3 else tuple(numbers[-2:])
    colours = tuple(dict.fromkeys(p.get("stroke") for p in painted))
    return Wire(
        group.get("data-role"), int(group.get("data-size")), colours, start, end
    )


def words(text):
    """A text without its tooltip."""
    return (text.text or "") + "".join(child.tail or "" for child in text)


def is_ground(colour):
    return colour in ("#fcfcfa", "#f1f3f5")


def wires(node):
    return [wire_of(g) for g in node.iter(f"{SVG}g") if g.get("class") == "wire"]


def operations(svg):
    found = []
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        if group.get("class") != "operation":
            continue
        boxes = [
            tuple(float(r.get(k)) for k in ("x", "y", "width", "height"))
            for r in group.iter(f"{SVG}rect")
            if r.get("class") == group.get("data-kind")
        ]
        box = [(x, y, x + w, y + h) for x, y, w, h in boxes]
        found.append(
            Operation(
                group.get("data-kind"),
                group.get("data-label"),
                tuple(map(int, group.get("data-ranks").split())),
                wires(group),
                box[0] if box else None,
                [float(c.get("cx")) for c in group.iter(f"{SVG}circle")],
                [words(t) for t in group.iter(f"{SVG}text")],
            )
        )
    return found


def texts(svg):
    """The boxes of all texts as (left, top, right, bottom, text)."""
    root = ET.fromstring(svg)
    shifted = next(g for g in root if g.get("transform"))
    down = float(re.findall(r"[\d.]+", shifted.get("transform"))[1])
    low = set(shifted.iter())
    found = []
    for text in root.iter(f"{SVG}text"):
        x, y = float(text.get("x")), float(text.get("y"))
        y += down if text in low else 0.0
        size, width = float(text.get("font-size")), float(text.get("data-width"))
        found.append((x, y - 0.8 * size, x + width, y + 0.2 * size, words(text)))
    return found


def overlaps(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def labels(svg):
    return [op.label for op in operations(svg) if op.label]


def attention(p, x):
    q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
    weights = jax.nn.softmax(q @ k.T / np.float32(4))
    return weights @ v @ p["o"]


ATTENTION = {"q": f32(32, 16), "k": f32(32, 16), "v": f32(32, 24), "o": f32(24, 32)}


def test_attention_by_hand():
    svg = diagram(attention, ATTENTION, f32(10, 32))
    drawn = operations(svg)
    assert [(op.kind, op.label) for op in drawn] == [
        ("input", "input"),
        ("linear", "linear"),
        ("linear", "linear"),
        ("linear", "linear"),
        ("linear", "product"),
        ("nonlinear", "\u00f7 4, softmax"),
        ("linear", "product"),
        ("linear", "linear"),
        ("output", "output"),
    ]
    for op in drawn[1:4]:  # the projections act on the features, not on the tokens
        assert op.spans() == [32]
        assert op.ranks == (2,)
    scores, softmax, mixed = drawn[4:7]
    # Queries and keys are joined along their features; the tokens of each go on.
    ends = [w.size for w in scores.entering() if w.end[1] < scores.box[3]]
    assert ends == [16, 16]
    assert scores.ranks == (2, 2)
    assert [w.size for w in softmax.entering()] == [10, 10]
    assert softmax.spans() == [10]
    assert len(softmax.dots) == 1  # it goes on
    assert [w.size for w in mixed.entering() if w.end[1] < mixed.box[3]] == [10, 10]
    assert any("v 32\u00d724" in text for text in drawn[3].texts)


def test_a_convolution_by_hand():
    def f(p, x):
        y = jax.lax.conv_general_dilated(
            x,
            p["w"],
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.relu(y + p["b"].reshape(1, 1, 1, -1))

    params = {"w": f32(3, 3, 4, 6), "b": f32(6)}
    _, conv, relu, _ = operations(diagram(f, params, f32(2, 8, 8, 4)))
    assert (conv.kind, conv.label) == ("linear", "conv 3\u00d73 / 2")
    assert conv.spans() == [8, 8, 4]  # and passes over the batch
    assert len(conv.dots) == 2
    assert conv.texts[-3:] == ["4", "4", "6"]  # the new sizes
    assert (relu.kind, relu.label) == ("map", "relu")
    assert relu.spans() == [2, 4, 4, 6]
    colours = [wire.colours for wire in conv.entering()[1:]]
    assert len(set(colours)) == 3


def residual(p, x):
    h = x @ p["in"]
    return (h + jnp.tanh(h @ p["a"]) @ p["b"]) @ p["out"]


RESIDUAL = {"in": f32(3, 8), "a": f32(8, 12), "b": f32(12, 8), "out": f32(8, 2)}


def test_a_residual_branch_by_hand():
    svg = diagram(residual, RESIDUAL, f32(5, 3))
    assert labels(svg) == [
        *("input", "linear", "linear", "tanh", "linear", "+", "linear", "output")
    ]
    waiting = [w for w in wires(ET.fromstring(svg)) if w.role == "waiting"]
    assert [w.size for w in waiting] == [5, 8]
    assert all(w.start[0] == w.end[0] for w in waiting)
    plus = operations(svg)[5]
    assert plus.ranks == (2, 2)
    assert plus.kind == "sum"
    joined = [w for w in plus.wires if w.role == "on"]
    assert len({w.end for w in joined}) == 2  # four wires become two


def test_coupled_axes_have_one_colour_and_others_do_not():
    svg = diagram(residual, RESIDUAL, f32(5, 3))
    colours = {}
    for wire in wires(ET.fromstring(svg)):
        colours.setdefault(wire.size, set()).add(wire.colours)
    assert all(len(found) == 1 for found in colours.values())
    assert len({c for (c,) in colours.values()}) == len(colours) == 5


def test_products_and_sums_show_their_parts():
    def f(p, x):
        y = (x @ p["w"]).reshape(5, 4, 6)
        return jnp.concatenate([y.sum(-1) @ p["a"], y.sum(1) @ p["b"]], -1) @ p["c"]

    params = {"w": f32(3, 24), "a": f32(4, 7), "b": f32(6, 8), "c": f32(15, 2)}
    svg = diagram(f, params, f32(5, 3))
    drawn = wires(ET.fromstring(svg))
    parts = {
        size: {w.colours for w in drawn if w.size == size} for size in (4, 6, 7, 8)
    }
    (four,), (six,), (seven,), (eight,) = parts.values()
    assert {w.colours for w in drawn if w.size == 24} == {four + six}
    assert {w.colours for w in drawn if w.size == 15} == {seven + eight}
    assert "reshape" in labels(svg)
    assert "concatenate" in labels(svg)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_is_drawn_well(name):
    model = models.model(name)
    svg = diagram(model.apply, model.params, *model.args)
    assert svg == diagram(model.apply, model.params, *model.args)
    for op in operations(svg):
        entering = op.entering()
        assert len(entering) == sum(op.ranks), op.label
        places = [w.start[0] for w in entering]
        assert len(set(places)) == len(places), op.label
        if op.box is not None and entering:
            assert all(w.end[1] > op.box[1] for w in entering)
    boxes = texts(svg)
    size = [float(n) for n in ET.fromstring(svg).get("viewBox").split()]
    for k, box in enumerate(boxes):
        assert 0 <= box[0] < box[2] <= size[2], box[4]
        assert 0 <= box[1] < box[3] <= size[3], box[4]
        assert not [b[4] for b in boxes[:k] if overlaps(b, box)], box[4]


@pytest.mark.parametrize("name", ["resnet", "transformer", "unet"])
def test_wires_are_connected(name):
    model = models.model(name)
    svg = diagram(model.apply, model.params, *model.args)
    drawn = wires(ET.fromstring(svg))
    straight = [w for w in drawn if w.start[0] == w.end[0]]
    for wire in drawn:
        if wire.role not in ("way", "in"):
            continue
        x, y = wire.start
        # It begins where another ends, or on the way of a value that waits.
        assert any(
            abs(other.end[0] - x) < 0.2 and abs(other.end[1] - y) < 2
            for other in drawn
            if other is not wire
        ) or any(
            abs(other.start[0] - x) < 0.2 and other.start[1] <= y <= other.end[1]
            for other in straight
            if other.role == "waiting"
        ), wire


BLOCKS = {"layers": 12, "width": 16, "heads": 2, "vocab": 31, "context": 8}


# Newer versions of JAX unpack an array by one primitive.
SPLIT = str(jax.make_jaxpr(lambda x: tuple(x))(jnp.ones(2)).eqns[0].primitive)
SPLIT = SPLIT if SPLIT == "unstack" else "split"


def test_twelve_blocks_are_drawn_once_unrolled_and_scanned():
    nets = architectures()
    params = jax.eval_shape(lambda k: nets.transformer_init(k, **BLOCKS), KEY)
    stacked = dict(params)
    stacked["blocks"] = jax.tree.map(
        lambda *x: SHAPE((len(x), *x[0].shape), x[0].dtype), *params["blocks"]
    )

    def scanned(p, tokens):
        x = p["tokens"][tokens] + p["positions"][: tokens.shape[1]]

        def body(x, block):
            return nets.block_apply(block, x), None

        x, _ = jax.lax.scan(body, x, p["blocks"])
        return nets.layer_norm(p["norm"], x) @ p["tokens"].T

    tokens = SHAPE((2, 8), jnp.int32)
    with jax.numpy_rank_promotion("allow"):
        unrolled = diagram(nets.transformer_apply, params, tokens)
        loop = diagram(scanned, stacked, tokens)
        whole = diagram(nets.transformer_apply, params, tokens, fold=False)
    block = [
        *("layer norm", "linear", SPLIT, "product", "\u00f7 2.828, where, softmax"),
        *("product", "linear", "+", "layer norm", "linear", "gelu", "linear", "+"),
    ]
    before, after = ["input", "look up", "+"], ["layer norm", "linear", "output"]
    assert labels(unrolled) == [*before, "\u00d7 12", *block, *after]
    assert labels(loop) == [*before, "\u00d7 12  scan", *block, *after]
    assert labels(whole) == before + 12 * block + after
    for svg, count in ((unrolled, 1), (loop, 1), (whole, 0)):
        frames = [
            r
            for r in ET.fromstring(svg).iter(f"{SVG}rect")
            if r.get("class") == "frame"
        ]
        assert len(frames) == count
    assert "blocks/0..11/mlp/up 16\u00d764" in unrolled
    assert "\u00d7 12  blocks/0..11" in unrolled
    assert "blocks/mlp/up 16\u00d764" in loop
    # The same picture but for names.
    shapes = [
        [(op.kind, op.ranks, op.spans() if op.box else None) for op in operations(svg)]
        for svg in (unrolled, loop)
    ]
    assert shapes[0] == shapes[1]


def test_stages_of_a_resnet_are_folded():
    nets = architectures()
    params = jax.eval_shape(
        lambda k: nets.resnet50_init(k, stages=(3, 4), width=8, num_classes=5), KEY
    )
    with jax.numpy_rank_promotion("allow"):
        svg = diagram(nets.resnet50_apply, params, f32(2, 32, 32, 3))
    frames = [op.label for op in operations(svg) if op.kind == "open"]
    assert frames == ["\u00d7 2", "\u00d7 3"]
    assert "stages/0/1..2" in svg
    assert "stages/1/1..3" in svg
    assert "batch norm, relu" in svg


def test_blocks_that_are_not_equal_are_not_folded():
    def f(p, x):
        for w in p:
            x = jax.nn.relu(jax.nn.softmax(jnp.sin(x) @ w)) @ w.T
        return x

    equal = [f32(4, 6)] * 4
    assert "\u00d7 4" in labels(diagram(f, equal, f32(5, 4)))
    other = [*equal[:2], f32(4, 7), equal[0]]
    assert "\u00d7 2" in labels(diagram(f, other, f32(5, 4)))
    assert "\u00d7 4" not in labels(diagram(f, other, f32(5, 4)))

    def kept(p, x):  # each block is used behind all of them
        every = []
        for w in p:
            x = jax.nn.relu(jax.nn.softmax(jnp.sin(x) @ w)) @ w.T
            every.append(x)
        return sum(every)

    assert not [
        op for op in operations(diagram(kept, equal, f32(5, 4))) if op.kind == "open"
    ]

    def shared(p, x):  # what all blocks take is no obstacle
        context = x @ p["context"]
        for w in p["blocks"]:
            x = jax.nn.relu(jax.nn.softmax(jnp.sin(x) @ w) * context) @ w.T
        return x

    params = {"context": f32(4, 6), "blocks": equal}
    assert "\u00d7 4" in labels(diagram(shared, params, f32(5, 4)))


def test_loops_take_and_give_axes():
    model = models.model("lstm")
    drawn = operations(diagram(model.apply, model.params, *model.args))
    opened = next(op for op in drawn if op.kind == "open")
    closed = next(op for op in drawn if op.kind == "close")
    assert opened.label == "\u00d7 5  scan"
    ends = [w.size for w in opened.entering() if w.end[1] - w.start[1] < 12]
    assert 5 in ends  # the time of the inputs
    assert 5 in [w.size for w in closed.wires if w.role == "on"]  # and of the results


@pytest.mark.parametrize(
    ("f", "args", "label"),
    [
        (
            lambda p, x: jax.lax.cond(x[0, 0] > 0, jnp.sin, lambda x: x @ p, x),
            (),
            "cond",
        ),
        (
            lambda p, x: jax.lax.fori_loop(0, 3, lambda _, y: y @ p, x),
            (),
            "\u00d7 3  scan",
        ),
        (lambda p, x: jnp.fft.fft(x @ p).real, (), "fft"),
        (lambda p, x: jnp.linalg.cholesky((x @ p).T @ (x @ p)), (), "cholesky"),
        (lambda p, x: jnp.cumsum(x @ p, 0), (), "cumsum"),
        (
            lambda p, x: jnp.zeros((9, 4)).at[jnp.arange(5)].add(x @ p),
            (),
            "scatter-add",
        ),
        (
            lambda p, x, i: jax.lax.dynamic_slice_in_dim(x @ p, i, 2),
            (3,),
            "dynamic slice",
        ),
        (lambda p, x: (x, p, p.sum(), x[:0]), (), "split"),
        (lambda p, x: jax.grad(lambda q: jnp.tanh(x @ q).sum())(p), (), "linear"),
        (lambda p, x: (x @ p, (x @ p).T, jnp.ones(3)), (), "linear"),
    ],
)
def test_anything_can_be_drawn(f, args, label):
    svg = diagram(f, f32(4, 4), f32(5, 4), *args)
    assert label in labels(svg)
    for op in operations(svg):
        assert len(op.entering()) == sum(op.ranks)


def test_titles_and_descriptions():
    svg = diagram(residual, RESIDUAL, f32(5, 3))
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title").text == "residual"
    description = root.find(f"{SVG}desc").text
    assert description.startswith("232 parameters, ")
    assert "linear (a 8\u00d712); tanh" in description
    assert svg._repr_svg_() == str(svg)
    named = diagram(lambda p, x: x @ p, f32(4, 4), f32(4), title="a < b & c")
    assert ET.fromstring(named).find(f"{SVG}title").text == "a < b & c"
    unnamed = diagram(lambda p, x: x @ p, f32(4, 4), f32(4))
    assert ET.fromstring(unnamed).find(f"{SVG}title").text == "function"


def test_the_legend_says_what_can_change():
    svg = diagram(residual, RESIDUAL, f32(5, 3))
    keys = [
        words(g.find(f"{SVG}text"))
        for g in ET.fromstring(svg).iter(f"{SVG}g")
        if g.get("class") == "key"
    ]
    text = " | ".join(keys)
    assert "5  input x[0]  fixed" in text
    assert "8  b[1]  free" in text or "8  a[0]  free" in text
    assert "12  a[1]  free" in text


def test_resnet50_is_drawn_soon():
    nets = architectures()
    params = jax.eval_shape(nets.resnet50_init, KEY)
    start = time.perf_counter()
    with jax.numpy_rank_promotion("allow"):
        svg = diagram(nets.resnet50_apply, params, f32(1, 224, 224, 3))
    assert time.perf_counter() - start < 8  # 0.5 s where nothing else runs
    frames = [op.label for op in operations(svg) if op.kind == "open"]
    assert frames == [f"\u00d7 {n}" for n in (2, 3, 5, 2)]


def test_repeats():
    assert repeats("abcabcabcx") == [Repeat(0, 3, 3)]
    assert repeats("xaabaabaab") == [Repeat(1, 3, 3)]
    assert repeats("aabcbc") == [Repeat(2, 2, 2), Repeat(0, 1, 2)][::-1]
    assert repeats("aabcbc", saved=2) == [Repeat(2, 2, 2)]
    assert repeats("abcd") == []
    # A run may be cut at several places.
    later = repeats("xabababa", lambda r: -r.start)
    assert later == [Repeat(2, 2, 3)]
    assert repeats("abab", lambda _: None) == []


def test_names_of_equal_blocks():
    names = [f"stages/2/{k}/w" for k in range(1, 6)]
    assert folded_name(names) == "stages/2/1..5/w"
    assert folded_name(["a0/b0", "a2/b1", "a4/b2"]) == "a{0,2,4}/b0..2"
    assert folded_name(["a", "b"]) == "a"
    assert folded_name(["a1", "a1/2"]) == "a1"


def test_errors():
    with pytest.raises(TypeError, match="must be an array, got str"):
        diagram(residual, {"in": "w"}, f32(5, 3))
    with pytest.raises(ValueError, match="`params` must hold arrays"):
        diagram(residual, {}, f32(5, 3))
