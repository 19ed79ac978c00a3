"""Groups emptied while training, against one step written out in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxarch import transforms as tr
from jaxarch.transforms._dhspg import DHSPGState, _penalties, dhspg, zero_groups
from jaxarch.transforms._group_index import choose_groups, index_groups
from jaxarch.transforms._groups import group_factors, group_sums

from .models import model, numbers, reseed

reseed(__name__)

SIZES = (3, 6, 5, 2)
NAMES = ("b0[0]", "b1[0]")
X, Y = numbers(16, 3), numbers(16, 2)


def row(b):
    return b.reshape(1, -1)


def apply(p, x):
    """Two hidden layers, of which the second has f(0) != 0."""
    x = jnp.tanh(x @ p["w0"] + row(p["b0"]))
    return jax.nn.sigmoid(x @ p["w1"] + row(p["b1"])) @ p["w2"] + row(p["b2"])


def network(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    params = {}
    for k, (a, b) in enumerate(zip(SIZES, SIZES[1:], strict=False)):
        params[f"w{k}"] = jnp.asarray(rng.normal(size=(a, b)), dtype)
        params[f"b{k}"] = jnp.asarray(rng.normal(size=b), dtype)
    return params


def loss(p):
    return jnp.mean((apply(p, X) - Y) ** 2)


ANNOTATION = tr.annotate(apply, network(), X)
rule = functools.partial(dhspg, ANNOTATION, target=7, learning_rate=0.1, warmup=0)


def masks():
    """Where each of the eleven indices lies in the parameters."""
    found = []
    for layer, size in enumerate(SIZES[1:-1]):
        for i in range(size):
            mask = {name: np.zeros(p.shape, bool) for name, p in network().items()}
            mask[f"w{layer}"][:, i] = True
            mask[f"b{layer}"][i] = True
            mask[f"w{layer + 1}"][i] = True
            found.append(flat(mask).astype(bool))
    return found


def flat(tree):
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves).astype(np.float64)


def written_out(x, d, redundant, rate, penalty, amplify, limit, epsilon):
    """One step: what is added to the parameters, and the indices that become zero."""
    trial = x - rate * d
    for mask, wanted in zip(masks(), redundant, strict=True):
        if wanted:
            g, h = x[mask], d[mask]
            norm, inner, pull = np.linalg.norm(g), g @ h, penalty
            if inner < 0:
                low, high = -inner / norm, -(h @ h) * norm / inner
                pull = min(max(amplify * low, penalty), limit * penalty)
                pull = (low + high) / 2 if pull >= high else pull
            trial[mask] -= rate * pull * g / norm
    gone = np.array(
        [
            wanted and trial[mask] @ x[mask] < epsilon * x[mask] @ x[mask]
            for mask, wanted in zip(masks(), redundant, strict=True)
        ]
    )
    for mask, out in zip(masks(), gone, strict=True):
        if out:
            trial[mask] = 0
    return trial - x, gone


@pytest.mark.parametrize(
    ("rate", "penalty", "limit", "epsilon"),
    [(0.1, 0.5, 10.0, 0.0), (0.4, 6.0, 1e3, 0.0), (0.5, 0.2, 3.0, 0.6)],
)
def test_a_step_is_the_formula(rate, penalty, limit, epsilon):
    options = {"penalty": penalty, "limit": limit, "epsilon": epsilon, "amplify": 1.5}
    tx = rule(learning_rate=rate, **options)
    update = jax.jit(tx.update)
    emptied = 0
    for seed in range(5):
        params, direction = network(seed), network(seed + 100)
        redundant = np.random.default_rng(seed).random(11) < 0.6
        state = DHSPGState(jnp.int32(3), jnp.asarray(redundant), jnp.zeros(11, bool))
        updates, new = update(direction, state, params)
        wanted, gone = written_out(
            flat(params), flat(direction), redundant, rate, **options
        )
        np.testing.assert_allclose(flat(updates), wanted, atol=2e-6)
        np.testing.assert_array_equal(new.zero, gone)
        assert new.count == 4
        emptied += gone.sum()
    assert (emptied > 0) == (rate > 0.1)


def test_the_penalty_lies_between_its_bounds():
    # Columns: outward; the same at the limit; at the floor; beyond the upper bound.
    norm = np.array([2.0, 2.0, 2.0, 2.0, 2.0])
    dx = np.array([1.0, -1.0, -6.0, -0.01, -1.0])
    dd = np.array([1.0, 4.0, 90.0, 4.0, 0.3])
    found = _penalties(*map(jnp.float32, (norm, dx, dd)), 0.1, 1.5, 20.0)
    low, high = 0.5, 0.3 * 2 / 1
    assert 1.5 * low > high  # so that the mean is taken
    np.testing.assert_allclose(
        found, [0.1, 0.75, 2.0, 0.1, (low + high) / 2], rtol=1e-6
    )


def test_before_the_warm_up_ends_it_is_gradient_descent():
    params, states = jax.jit(lambda: trained(rule(warmup=4), 4))()
    other, _ = jax.jit(lambda: trained(optax.sgd(0.1), 4))()
    np.testing.assert_allclose(flat(params), flat(other), atol=1e-6)
    assert not states.redundant.any()
    _, states = jax.jit(lambda: trained(rule(warmup=4), 6))()
    np.testing.assert_array_equal(states.redundant.sum(1), [0, 0, 0, 0, 7, 7])


def scores(saliency, params, direction):
    x, d = flat(params), flat(direction)
    norm = np.array([np.linalg.norm(x[m]) for m in masks()])
    if saliency == "magnitude":
        mean = np.repeat([norm[:6].mean(), norm[6:].mean()], (6, 5))
        return -norm / mean
    cosine = [
        x[m] @ d[m] / np.linalg.norm(x[m]) / np.linalg.norm(d[m]) for m in masks()
    ]
    small = 1 / (norm / [m.sum() for m in masks()] + 1e-6)
    return cosine / np.linalg.norm(cosine) + small / np.linalg.norm(small)


@pytest.mark.parametrize("saliency", ["otov2", "magnitude"])
def test_the_least_salient_become_redundant(saliency):
    params, direction = network(1), network(2)
    score = scores(saliency, params, direction)
    for best in (score[:6].argmin(), 6 + score[6:].argmin()):
        score[best] = -np.inf
    order = np.argsort(-score)
    for target in (0, 3, 9):
        tx = rule(target=target, saliency=saliency, penalty=0.0)
        _, state = jax.jit(tx.update)(direction, tx.init(params), params)
        assert set(np.nonzero(np.asarray(state.redundant))[0]) == set(order[:target])


@pytest.mark.parametrize("least", [2, 0.4, 5])
def test_each_group_keeps_the_best(least):
    params, direction = network(1), network(2)
    kept = {2: (2, 2), 0.4: (3, 2), 5: (5, 5)}[least]
    score = scores("magnitude", params, direction)
    best = [score[:6].argsort()[: kept[0]], 6 + score[6:].argsort()[: kept[1]]]
    tx = rule(target=11 - sum(kept), saliency="magnitude", least=least)
    _, state = jax.jit(tx.update)(direction, tx.init(params), params)
    left = np.nonzero(~np.asarray(state.redundant))[0]
    assert set(left) == set(np.concatenate(best))


def test_equal_scores_are_broken_by_position():
    params = jax.tree.map(jnp.ones_like, network())
    tx = rule(target=9, saliency="magnitude")
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    np.testing.assert_array_equal(
        state.redundant, [False] + 5 * [True] + [False] + 4 * [True]
    )


def trained(tx, steps, noise=0.0):
    def step(carry, key):
        params, state = carry
        grads = jax.grad(loss)(params)
        grads = jax.tree.map(
            lambda g: g + noise * jax.random.normal(key, g.shape), grads
        )
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), state

    params, keys = network(), jax.random.split(jax.random.key(0), steps)
    (params, _), states = jax.lax.scan(step, (params, tx.init(params)), keys)
    return params, states


@pytest.mark.parametrize(
    "before", [optax.identity(), optax.trace(0.9), optax.scale_by_adam()]
)
def test_the_target_is_reached_and_never_exceeded(before):
    tx = optax.chain(
        before,
        rule(
            target=0.7,
            warmup=5,
            deadline=40,
            learning_rate=optax.exponential_decay(0.05, 10, 0.5),
        ),
    )
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam wants it
        params, (_, states) = jax.jit(lambda: trained(tx, 60))()
    count = states.zero.sum(1)
    assert count[39] <= 7
    assert (count[40:] == 7).all()  # of 0.7 * 11
    assert (count[1:] >= count[:-1]).all()
    keep = zero_groups(ANNOTATION, params)
    assert set(keep) <= set(NAMES)
    assert sum(map(len, keep.values())) == 4
    pruned = tr.prune(apply, params, X, keep=keep)
    np.testing.assert_allclose(
        pruned.apply(pruned.params, X), apply(params, X), atol=1e-6
    )
    assert pruned.report.parameters[1] < pruned.report.parameters[0]


def test_a_strong_penalty_alone_empties_all_redundant_groups():
    tx = rule(penalty=0.5, warmup=3)
    params, states = jax.jit(lambda: trained(tx, 300, noise=0.2))()
    assert states.zero[-1].sum() == 7
    keep = zero_groups(ANNOTATION, params)
    dead = np.ones(11, bool)
    dead[keep["b0[0]"]] = False
    dead[6 + keep["b1[0]"]] = False
    np.testing.assert_array_equal(dead, states.zero[-1])
    np.testing.assert_array_equal(states.zero[-1], states.redundant[-1])


def test_norms_fall_evenly_towards_the_deadline():
    params = network()
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = rule(target=1, penalty=0.0, deadline=9, groups=["b0[0]"])
    update, state, norms = jax.jit(tx.update), tx.init(params), []
    for _ in range(10):
        updates, state = update(zeros, state, params)
        params = optax.apply_updates(params, updates)
        (k,) = np.nonzero(state.redundant)[0]
        norms.append(np.linalg.norm(flat(params)[masks()[k]]))
    np.testing.assert_allclose(np.diff(norms, 2), 0, atol=1e-6)
    assert norms[-1] == 0


def test_chosen_groups_alone_are_touched():
    tx = rule(target=4, groups=[ANNOTATION.group("b1[0]")], deadline=0)
    params = network()
    direction = jax.tree.map(jnp.zeros_like, params)
    updates, state = jax.jit(tx.update)(direction, tx.init(params), params)
    assert state.zero.shape == (5,)
    params = optax.apply_updates(params, updates)
    assert len(zero_groups(ANNOTATION, params)["b1[0]"]) == 1
    np.testing.assert_array_equal(params["b0"], network()["b0"])


def test_many_seeds_at_once():
    tx = rule(deadline=2)

    def first(params):
        return tx.update(params, tx.init(params), params)

    stack = jax.tree.map(lambda *a: jnp.stack(a), *[network(s) for s in range(2)])
    updates, state = jax.jit(jax.vmap(first))(stack)
    for s in range(2):
        one, one_state = jax.jit(first)(network(s))
        np.testing.assert_array_equal(state.redundant[s], one_state.redundant)
        np.testing.assert_allclose(
            flat(jax.tree.map(lambda a, s=s: a[s], updates)), flat(one), atol=1e-6
        )


def test_16_bits():
    params = network(dtype=jnp.bfloat16)
    tx = rule(deadline=0)
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}
    keep = zero_groups(ANNOTATION, optax.apply_updates(params, updates))
    assert sum(map(len, keep.values())) == 4


def test_integers_among_the_parameters_pass():
    def f(p, x):
        return apply({name: p[name] for name in network()}, x) + p["n"].astype(x.dtype)

    params = {**network(), "n": jnp.ones((1, 2), jnp.int32)}
    grads = jax.grad(lambda p: jnp.sum(f(p, X)), allow_int=True)(params)
    tx = dhspg(tr.annotate(f, params, X), target=3, learning_rate=0.1, warmup=0)
    updates, state = tx.update(grads, tx.init(params), params)
    assert updates["n"].dtype == jax.dtypes.float0
    assert state.redundant.sum() == 3


def test_a_direction_that_is_zero_gives_finite_steps():
    zeros = jax.tree.map(jnp.zeros_like, network())
    for params in (network(), zeros):
        tx = rule(penalty=1e-3)
        updates, state = jax.jit(tx.update)(zeros, tx.init(params), params)
        assert np.isfinite(flat(updates)).all()
    assert state.zero.sum() == 7  # they were zero before


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_sums_and_spreading_are_those_of_groups(name):
    f, params, args, _ = model(name)
    annotation = tr.annotate(f, params, *args)
    chosen = choose_groups("here", annotation, None)
    index = index_groups(annotation, chosen)
    squares = jax.tree.map(lambda w: w**2, params)
    sums = group_sums(annotation, squares, chosen)
    leaves = jax.tree.leaves(params)
    found = index.inner((leaves, leaves))[0]
    wanted = np.concatenate([sums[g.name] for g in chosen])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    ones = jax.tree.map(jnp.ones_like, params)
    sizes = {n: total[0] for n, total in group_sums(annotation, ones, chosen).items()}
    np.testing.assert_array_equal(
        index.counts,
        np.repeat([sizes[g.name] for g in chosen], [g.size for g in chosen]),
    )
    factors = 1 + np.arange(index.total, dtype=np.float32) % 3
    starts = np.cumsum([0, *(g.size for g in chosen)])
    mapping = {
        g.name: jnp.asarray(factors[a : a + g.size])
        for g, a in zip(chosen, starts, strict=False)
    }
    spread = index.spread(jnp.asarray(factors), 1.0, jnp.multiply)
    wanted = jax.tree.leaves(group_factors(annotation, mapping, chosen))
    for ours, theirs, leaf in zip(spread, wanted, leaves, strict=True):
        ours = (
            np.ones(leaf.shape) if ours is None else np.broadcast_to(ours, leaf.shape)
        )
        np.testing.assert_allclose(ours, np.broadcast_to(theirs, leaf.shape), rtol=1e-6)


def test_zero_groups_sees_every_number():
    params = network()
    for k in (1, 4):
        params["w0"] = params["w0"].at[:, k].set(0)
        params["w1"] = params["w1"].at[k].set(0)
        params["b0"] = params["b0"].at[k].set(0)
    params["b0"] = params["b0"].at[4].set(1e-30)  # its square is 0
    np.testing.assert_array_equal(
        zero_groups(ANNOTATION, params)["b0[0]"], [0, 2, 3, 4, 5]
    )
    assert zero_groups(ANNOTATION, params, groups=["b1[0]"]) == {}
    zeros = jax.tree.map(jnp.zeros_like, params)
    keep = zero_groups(ANNOTATION, zeros)
    assert [list(keep[name]) for name in NAMES] == [[0], [0]]
    assert tr.prune(apply, zeros, X, keep=keep).report.difference == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": 1.0}, ValueError, r"`target` must be a fraction in \[0, 1\)"),
        (
            {"target": 10},
            ValueError,
            "leave 2 indices to 2 groups, see `least`: at most 9 of 11 can",
        ),
        ({"target": -1}, ValueError, "at most 9 of 11 can be zero, got -1"),
        ({"target": "half"}, TypeError, "`target` must be an int or a float, got str"),
        ({"warmup": 0.5}, TypeError, "`warmup` must be an int"),
        (
            {"warmup": 3, "deadline": 2},
            ValueError,
            "must be at least `warmup` 3, got 2",
        ),
        ({"penalty": -1.0}, ValueError, "`penalty` must be at least 0.0, got -1.0"),
        ({"amplify": 0.5}, ValueError, "`amplify` must be at least 1.0"),
        ({"limit": 0.5}, ValueError, "`limit` must be at least 1.0"),
        ({"epsilon": 1.0}, ValueError, r"`epsilon` must be in \[0, 1\)"),
        (
            {"saliency": "l2"},
            ValueError,
            "`saliency` must be one of 'otov2', 'magnitud",
        ),
        ({"least": 0}, ValueError, "`least` must be at least 1, got 0"),
        ({"least": 1.0}, ValueError, r"`least` must be a fraction in \[0, 1\)"),
        ({"least": 3, "target": 6}, ValueError, "leave 6 indices to 2 groups"),
        ({"groups": "b0[0]"}, TypeError, "`groups` must be a sequence, got 'b0"),
        ({"groups": []}, ValueError, "`groups` must name at least one group"),
        ({"groups": ["w0[0]"]}, ValueError, "'w0.0.' is frozen: an axis of the input"),
        ({"groups": ["here"]}, ValueError, "there is no group 'here'"),
    ],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=f"dhspg: .*{message}"):
        rule(**options)


def test_what_the_update_refuses():
    tx, params = rule(), network()
    state = tx.init(params)
    with pytest.raises(ValueError, match="dhspg: the update needs `params`"):
        tx.update(params, state)
    with pytest.raises(ValueError, match="`updates` must have the structure that was"):
        tx.update(params["w0"], state, params)
    wrong = {**params, "w0": jnp.ones((3, 7))}
    with pytest.raises(ValueError, match=r"`params` at 'w0' must have shape \(3, 6\)"):
        tx.update(params, state, wrong)
    with pytest.raises(ValueError, match=r"dhspg: `params` at 'w0' must have shape"):
        tx.init(wrong)
    with pytest.raises(ValueError, match=r"zero_groups: `params` at 'w0' must have"):
        zero_groups(ANNOTATION, wrong)


def test_a_window_and_nothing_to_empty_are_refused():
    def f(p, x):
        return jax.lax.conv_general_dilated(
            x, p, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    params = jnp.ones((3, 3, 2, 2))
    annotation = tr.annotate(f, params, jnp.ones((1, 4, 4, 2)))
    options = {"target": 0, "learning_rate": 0.1, "warmup": 0}
    with pytest.raises(ValueError, match="dhspg: no group of kind 'width' is exact"):
        dhspg(annotation, **options)
    windows = [g for g in annotation.groups if g.kind == "window"]
    if windows and windows[0].state != "frozen":
        with pytest.raises(ValueError, match="is an axis of a window"):
            dhspg(annotation, groups=windows, **options)


def test_without_optax(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optax", None)
    with pytest.raises(ImportError, match=r"dhspg: needs optax, .*jaxarch\[train\]"):
        rule()
