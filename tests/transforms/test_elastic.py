"""Sub-networks as masks and as small arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxarch import transforms as tr

from .models import conv, model, numbers, reseed

reseed(__name__)


def net_apply(p, x):
    """A window, a width and a depth."""
    h = jax.nn.relu(conv(x, p["w"])).mean((1, 2))
    h, _ = lax.scan(lambda h, m: (h + jnp.tanh(h @ m), None), h, p["m"])
    return h @ p["v"]


PARAMS = {"m": numbers(4, 6, 6), "v": numbers(6, 2), "w": numbers(5, 5, 3, 6)}
X = numbers(2, 7, 7, 3)
SPACE = {"v[0]": (2, 4, 6), ("w[0]", "w[1]"): (1, 3, 5), "m[0]": (1, 2, 3, 4)}


def nets():
    return tr.elastic(tr.annotate(net_apply, PARAMS, X), SPACE)


def by_hand(width, window, depth):
    first = (5 - window) // 2
    middle = slice(first, first + window)
    return {
        "m": PARAMS["m"][:depth, :width, :width],
        "v": PARAMS["v"][:width],
        "w": PARAMS["w"][middle, middle, :, :width],
    }


@pytest.mark.parametrize(
    ("width", "window", "depth"), [(2, 3, 1), (4, 1, 3), (6, 5, 4)]
)
def test_a_mask_and_a_cut_are_the_small_network(width, window, depth):
    choice = dict(zip(nets().space, (width, window, depth), strict=True))
    small, apply, report = nets().extract(PARAMS, choice, X)
    want = by_hand(width, window, depth)
    jax.tree.map(np.testing.assert_array_equal, small, want)
    assert report.difference < 1e-6
    masked = net_apply(nets().mask(PARAMS, choice), X)
    np.testing.assert_allclose(masked, net_apply(want, X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(masked, apply(small, X), rtol=1e-5, atol=1e-6)


def test_one_program_serves_all():
    space, compiled = nets(), 0

    @jax.jit
    def step(key):
        nonlocal compiled
        compiled += 1
        choice = space.sample(key)
        return choice, net_apply(space.mask(PARAMS, choice), X)

    seen = set()
    for seed in range(30):
        choice, out = step(jax.random.key(seed))
        sizes = tuple(int(choice[names]) for names in space.space)
        seen.add(sizes)
        want = net_apply(by_hand(*sizes), X)
        np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    assert compiled == 1
    for k, sizes in enumerate(space.space.values()):
        assert {choice[k] for choice in seen} == set(sizes)


def test_sorting_changes_the_order_and_not_the_function():
    made = model("vit")  # its heads are factors and summands of one axis
    space = {"blocks/0/out[0].0": (2, 4), "blocks/0/out[0].1": (1, 3)}
    space |= {"blocks/0/down[0]": (10, 20)}
    annotation = tr.annotate(made.apply, made.params, *made.args)
    sorted_ = tr.elastic(annotation, space).sort(made.params, criterion="l1")
    want = made.apply(made.params, *made.args)
    np.testing.assert_allclose(made.apply(sorted_, *made.args), want, atol=1e-5)
    before = tr.importance(annotation, made.params, criterion="l1")
    after = tr.importance(annotation, sorted_, criterion="l1")
    for name in space:
        np.testing.assert_allclose(after[name], np.sort(before[name])[::-1], rtol=1e-5)


def test_shrinking_opens_windows_then_depth_then_width():
    stages = [tuple(map(len, s.space.values())) for s in nets().schedule()]
    assert stages == [
        (1, 1, 1),
        (1, 2, 1),
        (1, 3, 1),
        (1, 3, 2),
        (1, 3, 3),
        (1, 3, 4),
        (2, 3, 4),
        (3, 3, 4),
    ]
    first = nets().schedule()[0]
    assert first.largest == first.smallest == nets().largest
    assert nets().schedule(("width",))[1].smallest[("m[0]",)] == 4


def test_errors():
    annotation = tr.annotate(net_apply, PARAMS, X)
    with pytest.raises(ValueError, match=r"elastic: there is no group 'u\[0\]'"):
        tr.elastic(annotation, {"u[0]": (1,)})
    with pytest.raises(
        ValueError, match=r"group 'v\[1\]' is frozen: an axis of the out"
    ):
        tr.elastic(annotation, {"v[1]": (1,)})
    with pytest.raises(ValueError, match=r"must be between 1 and 6, got \(4, 8\)"):
        tr.elastic(annotation, {"v[0]": (4, 8)})
    made = model("vit")
    with pytest.raises(ValueError, match="is approximate: reduce_sum goes over"):
        tr.elastic(
            tr.annotate(made.apply, made.params, *made.args), {"head[0]": (4, 12)}
        )
