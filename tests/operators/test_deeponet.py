"""DeepONet, POD-DeepONet and MIONet: DeepXDE's values, loops in NumPy, training."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.operators import (
    DeepONetParams,
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

from . import golden
from .deeponets import KEY, examples, random_params, torch_state

# --- DeepXDE's values -----------------------------------------------------------------


def golden_state(name):
    arrays = golden.case(name)
    state = {k.removeprefix("w/"): a for k, a in arrays.items() if k.startswith("w/")}
    return arrays, state


def gradient_of(name, gradient):
    """The part of a gradient that belongs to a parameter of DeepXDE."""
    net, *rest = name.split(".")
    if net == "b":
        bias = gradient.bias
        return bias[int(rest[0])] if bias.ndim else bias
    branches = getattr(gradient, "branches", ())
    found = branches[int(net[-1]) - 1] if branches and "branch" in net else None
    found = found or getattr(gradient, net)
    *index, _, layer, part = rest
    array = {"weight": found.weights, "bias": found.biases}[part][int(layer)]
    return array[int(index[0])] if index else array


def check_golden(name, read, forward):
    """Values, gradients in the inputs, and norms of those in the parameters."""
    arrays, state = golden_state(name)
    inputs = [jnp.asarray(arrays[f"in{i}"]) for i in range(3) if f"in{i}" in arrays]

    @jax.jit
    def run(params, *inputs):
        outputs, backward = jax.vjp(forward, params, *inputs)
        return outputs, backward(2 * outputs)

    outputs, (gradient, *of_inputs) = run(read(state), *inputs)
    np.testing.assert_allclose(outputs, arrays["out"], atol=1e-6)
    for i, found in enumerate(of_inputs):
        atol = 2e-6 * np.abs(arrays[f"gin{i}"]).max()
        np.testing.assert_allclose(found, arrays[f"gin{i}"], atol=atol)
    norms = [np.linalg.norm(gradient_of(name, gradient)) for name in state]
    np.testing.assert_allclose(norms, arrays["gw_norms"], rtol=1e-5)


def test_unaligned_golden():
    apply = functools.partial(deeponet_apply, activation=jnp.tanh)
    # A pair is a function and one point.
    each = jax.vmap(lambda p, u, y: apply(p, u, y[None]), (None, 0, 0))
    check_golden("deeponet_a", deeponet_from_torch, each)


@pytest.mark.parametrize(
    "name", ["a", "independent", "split_both", "split_branch", "split_trunk"]
)
def test_aligned_golden(name):
    activation = jax.nn.relu if name == "a" else jnp.tanh
    apply = functools.partial(deeponet_apply, activation=activation)
    apply = jax.vmap(apply, (None, 0, None))
    check_golden(f"deeponet_cart_{name}", deeponet_from_torch, apply)
    params = deeponet_from_torch(golden_state(f"deeponet_cart_{name}")[1])
    assert params.multi_output == (None if name == "a" else name)


def test_pod_golden():
    basis = jnp.asarray(golden.case("pod_deeponet_a")["pod_basis"])
    apply = functools.partial(pod_deeponet_apply, activation=jnp.tanh)
    batched = jax.vmap(apply, (None, None, 0))
    check_golden(
        "pod_deeponet_a", pod_deeponet_from_torch, lambda p, u: batched(p, basis, u)
    )


def test_mionet_golden():
    apply = functools.partial(mionet_apply, activation=jnp.tanh)
    batched = jax.vmap(apply, (None, (0, 0), None))
    check_golden(
        "mionet_a", mionet_from_torch, lambda p, u, v, y: batched(p, (u, v), y)
    )


# --- Networks by hand -----------------------------------------------------------------


def layers_of(mlp, *index):
    """Unstacks an `mlp` into NumPy pairs (weight, bias)."""
    for weight, bias in zip(mlp.weights, mlp.biases, strict=True):
        weight, bias = np.asarray(weight)[index], np.asarray(bias)[index]
        yield from zip(
            weight.reshape(-1, *weight.shape[-2:]),
            bias.reshape(-1, bias.shape[-1]),
            strict=True,
        )


def mlp_by_hand(mlp, x, *index):
    *hidden, (weight, bias) = layers_of(mlp, *index)
    for w, b in hidden:
        x = np.tanh(w @ x + b)
    return weight @ x + bias


@pytest.mark.parametrize("multi_output", [None, "independent", "split_both"])
def test_stacked_branches(multi_output):
    """Each coefficient is a network of its own, of each output."""
    outputs = 1 if multi_output is None else 2
    with jax.enable_x64(True):
        params = random_params(
            deeponet_init,
            (5, 3, 3, 4),
            (2, 6, 4),
            num_outputs=None if multi_output is None else outputs,
            multi_output=multi_output or "split_both",
            stacked=True,
            dtype=float,
        )
        u, y = examples()
        found = deeponet_apply(params, u, y, activation=jnp.tanh)
        params = jax.tree.map(np.asarray, params)
    independent = multi_output == "independent"
    bias = np.asarray(params.bias).reshape(-1)
    wanted = np.empty((3, outputs))
    for i, o in itertools.product(range(3), range(outputs)):
        out = (o,) if independent else ()
        t = np.tanh(mlp_by_hand(params.trunk, np.asarray(y[i]), *out))
        b = [mlp_by_hand(params.branch, np.asarray(u), *out, k)[0] for k in range(4)]
        part = slice(2 * o, 2 * o + 2) if multi_output == "split_both" else slice(4)
        wanted[i, o] = sum(np.asarray(b)[part] * t[part]) + bias[o]
    wanted = wanted if multi_output else wanted[:, 0]
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_init():
    """Shapes follow the sizes, and no two networks are alike."""
    init = functools.partial(deeponet_init, num_outputs=2)
    sizes = (9, 40, 40, 60), (1, 40, 30)
    split = jax.eval_shape(lambda: init(KEY, *sizes, multi_output="split_branch"))
    assert [w.shape for w in split.branch.weights] == [(40, 9), (40, 40), (60, 40)]
    assert [w.shape for w in split.trunk.weights] == [(40, 1), (30, 40)]
    many = jax.jit(
        lambda: init(KEY, (3, 2), (1, 2), multi_output="independent", stacked=True)
    )()
    assert many.branch.weights[0].shape == (2, 2, 1, 3)
    rows = np.asarray(many.branch.weights[0]).reshape(4, 3)
    assert len(np.unique(rows[:, 0])) == 4


def test_any_function_is_a_branch_or_a_trunk():
    """Fourier features and an average of an image, given with their parameters."""
    image, y = jnp.arange(12.0).reshape(3, 4), jnp.asarray([[0.25], [0.5]])
    params = DeepONetParams(
        branch={"scale": jnp.asarray([1.0, 2.0])},
        trunk=jnp.asarray([jnp.pi, 2 * jnp.pi]),
        bias=jnp.asarray(0.5),
        multi_output=None,
        stacked=False,
    )
    found = deeponet_apply(
        params,
        image,
        y,
        branch=lambda p, u: u.mean() * p["scale"],
        trunk=lambda frequencies, y: jnp.sin(frequencies * y),
    )
    want = [5.5 * np.sin(np.pi * t) + 11 * np.sin(2 * np.pi * t) for t in (0.25, 0.5)]
    np.testing.assert_allclose(found, np.add(want, 0.5), rtol=1e-5)
    stacked = dataclasses.replace(params, branch=jnp.asarray([1.0, 2.0]), stacked=True)
    found = deeponet_apply(
        stacked,
        image,
        y,
        branch=lambda scale, u: u.mean() * scale,
        trunk=lambda frequencies, y: jnp.sin(frequencies * y),
    )
    np.testing.assert_allclose(found, np.add(want, 0.5), rtol=1e-5)


def test_pairs_and_points():
    """Aligned and unaligned data are the same function, by other axes of `vmap`."""
    params = random_params(deeponet_init, (5, 8, 4), (1, 8, 4))
    u = jax.random.normal(jax.random.key(1), (3, 5))
    y = jax.random.uniform(jax.random.key(2), (3, 2, 1))
    unaligned = jax.jit(jax.vmap(deeponet_apply, (None, 0, 0)))(params, u, y)
    aligned = jax.jit(jax.vmap(deeponet_apply, (None, 0, None)))
    everywhere = aligned(params, u, y.reshape(6, 1)).reshape(3, 3, 2)
    wanted = everywhere[jnp.arange(3), jnp.arange(3)]
    np.testing.assert_allclose(unaligned, wanted, rtol=1e-5, atol=1e-6)


def test_output_transform_holds_a_boundary_condition():
    params = random_params(deeponet_init, (5, 8, 4), (1, 8, 4))
    u, y = jnp.arange(5.0), jnp.asarray([[0.0], [0.5], [1.0]])
    plain = deeponet_apply(params, u, y)
    found = deeponet_apply(
        params, u, y, output_transform=lambda u, y, s: u[0] + u[1] * y[:, 0] * s
    )
    np.testing.assert_allclose(found, [0, 0.5 * plain[1], plain[2]], rtol=1e-6)
    net = random_params(mionet_init, [(2, 4), (3, 4)], (1, 4))
    us = jnp.ones(2), jnp.ones(3)
    found = mionet_apply(net, us, y, output_transform=lambda us, y, s: us[0][0] + 0 * s)
    np.testing.assert_array_equal(found, 1)


# --- POD ------------------------------------------------------------------------------


def test_pod_basis_spans_what_the_outputs_span():
    """Two modes of known sizes over a mean are found again, the larger first."""
    x = np.arange(64) / 64
    modes = np.stack([np.sin(2 * np.pi * x), np.cos(4 * np.pi * x)])
    amplitudes = np.stack([np.linspace(-3, 3, 10), np.linspace(-1, 1, 10) ** 2], 1)
    outputs = np.exp(x)[None] + amplitudes @ modes
    with jax.enable_x64(True):
        mean, basis = pod_basis(jnp.asarray(outputs), 2)
        rough, _ = pod_basis(jnp.asarray(outputs, jnp.bfloat16), 1)
        basis = np.asarray(basis)
    np.testing.assert_allclose(mean, outputs.mean(0), rtol=1e-12)
    np.testing.assert_allclose(basis.T @ basis / 64, np.eye(2), atol=1e-12)
    wanted = np.sqrt(2) * modes.T
    signs = np.sign((basis * wanted).sum(0))
    np.testing.assert_allclose(basis * signs, wanted, atol=1e-12)
    assert rough.dtype == jnp.bfloat16


def test_pod_with_a_trunk_and_a_mean():
    """The basis comes first, then the activated trunk."""
    with jax.enable_x64(True):
        params = random_params(pod_deeponet_init, (5, 6, 7), (2, 4), dtype=float)
        u, y = examples()
        basis, mean = np.cos(np.arange(9.0)).reshape(3, 3), np.asarray([1.0, 2.0, 3.0])
        found = pod_deeponet_apply(
            params, basis, u, y=y, mean=mean, activation=jnp.tanh
        )
        by_hand = pod_deeponet_apply(
            params,
            basis,
            u,
            y=y,
            branch=lambda p, u: jnp.arange(7.0),
            trunk=lambda p, y: jnp.ones(4),
        )
        params = jax.tree.map(np.asarray, params)
    b = mlp_by_hand(params.branch, np.asarray(u))
    wanted = [
        b @ np.concatenate([basis[i], np.tanh(mlp_by_hand(params.trunk, y[i]))])
        + params.bias
        + mean[i]
        for i in range(3)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    wanted = basis @ np.arange(3) + (3 + 4 + 5 + 6) + params.bias
    np.testing.assert_allclose(by_hand, wanted, rtol=1e-12)


# --- MIONet ---------------------------------------------------------------------------


@pytest.mark.parametrize("merge", ["mul", "add", "cat"])
@pytest.mark.parametrize("merger", [False, True])
@pytest.mark.parametrize("output_merge", [None, "mul", "add", "cat"])
def test_mionet_merges(merge, merger, output_merge):
    merged = 9 if merge == "cat" else 3
    width = 4 if merger else merged
    trunk = 5 if output_merge == "cat" else width
    first = width + trunk if output_merge == "cat" else width
    with jax.enable_x64(True):
        params = random_params(
            mionet_init,
            [(5, 4, 3), (2, 3), (6, 3)],
            (2, trunk),
            merge=merge,
            merger_sizes=(merged, 6, 4) if merger else None,
            output_merge=output_merge or "mul",
            output_merger_sizes=(first, 3, 1) if output_merge else None,
            activate_trunk=merger,
            dtype=float,
        )
        us = [np.sin(np.arange(1.0 * n)) for n in (5, 2, 6)]
        _, y = examples()
        found = mionet_apply(params, us, y, activation=jnp.tanh)
        params = jax.tree.map(np.asarray, params)
    b = [mlp_by_hand(p, u) for p, u in zip(params.branches, us, strict=True)]
    together = {"mul": np.prod, "add": np.sum}
    b = np.concatenate(b) if merge == "cat" else together[merge](b, axis=0)
    if merger:
        b = mlp_by_hand(params.merger, b)
    for i in range(3):
        t = mlp_by_hand(params.trunk, np.asarray(y[i]))
        t = np.tanh(t) if merger else t
        if output_merge is None:
            wanted = b @ t
        else:
            both = [b, t]
            both = (
                np.concatenate(both)
                if output_merge == "cat"
                else together[output_merge](both, axis=0)
            )
            wanted = mlp_by_hand(params.output_merger, both)[0]
        np.testing.assert_allclose(found[i], wanted + params.bias, rtol=1e-11)


def test_mionet_takes_any_functions():
    params = random_params(mionet_init, [(2, 3), (4, 3)], (1, 3))
    params = dataclasses.replace(
        params, branches=(params.branches[0], jnp.asarray(2.0))
    )
    us, y = (jnp.ones(2), jnp.ones((2, 2))), jnp.ones((1, 1))
    found = mionet_apply(
        params,
        us,
        y,
        branches=[None, lambda scale, u: scale * u.sum() * jnp.ones(3)],
        trunk=lambda p, y: jnp.asarray([1.0, 0.0, 0.0]),
    )
    wanted = 8 * mlp_by_hand(params.branches[0], np.ones(2))[:1] + 0.5
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


# --- Reading DeepXDE ------------------------------------------------------------------


def test_from_torch_stacks_equal_layers():
    """The structure is that of `deeponet_init`, the values those of each layer."""
    sizes = (3, 5, 5, 5, 4), (1, 5, 4)
    state = torch_state(dict(zip(("branch", "trunk"), sizes, strict=True)), b=0.5)
    params = deeponet_from_torch(state)
    shapes = jax.eval_shape(lambda key: deeponet_init(key, *sizes), jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(shapes)
    got = [a.shape for a in jax.tree.leaves(params)]
    assert got == [a.shape for a in jax.tree.leaves(shapes)]
    for i, (weight, bias) in enumerate(layers_of(params.branch)):
        np.testing.assert_array_equal(weight, state[f"branch.linears.{i}.weight"])
        np.testing.assert_array_equal(bias, state[f"branch.linears.{i}.bias"])
    assert params.bias == 0.5


def test_pod_and_mionet_from_torch_with_all_parts():
    state = torch_state({"branch": (3, 6), "trunk": (1, 2)}, b=0.5)
    assert pod_deeponet_from_torch(state).trunk.weights[0].shape == (2, 1)
    nets = {"branch1": (3, 2), "branch2": (4, 2), "trunk": (1, 2)}
    mergers = {"merger": (4, 2), "output_merger": (2, 1)}
    net = mionet_from_torch(
        torch_state(nets | mergers, b=0.5),
        merge="cat",
        output_merge="add",
        activate_trunk=True,
    )
    assert (net.merge, net.output_merge, net.activate_trunk) == ("cat", "add", True)
    assert net.merger.weights[0].shape == (2, 4)
    assert net.output_merger.weights[0].shape == (1, 2)
