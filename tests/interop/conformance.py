"""What a primitive must do inside any framework, given its model as a pure function."""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from ..batches import batched_args, run_pmap, run_shard_map


# --8<-- [start:orbax]
def save_and_restore(tree, path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "checkpoint", tree)
        checkpointer.wait_until_finished()
        abstract = jax.eval_shape(lambda: tree)
        return checkpointer.restore(path / "checkpoint", abstract)


# --8<-- [end:orbax]


def assert_close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want)


def check(call, state, inputs, want, path):
    """Runs `call(state, *inputs)`, the model on one example, in every way.

    Args:
        call: The model as a pure function.
        state: The pytree that an optimiser updates.
        inputs: One example.
        want: What the bare primitive gives on this example.
        path: A temporary folder.
    """
    assert_close(call(state, *inputs), want)

    in_axes = (None,) + (0,) * len(inputs)
    args = batched_args((state, *inputs), in_axes)
    batched = jax.jit(jax.vmap(call, in_axes))(*args)
    assert_close(jax.tree.map(lambda a: a[0], batched), want)
    assert_close(run_shard_map(call, args, in_axes), batched)
    assert_close(run_pmap(call, args, in_axes), batched)

    check_training(call, state, inputs, want, path)


def check_training(call, state, inputs, want, path):
    """Compiles `call` with its gradient, takes two steps, saves and restores them."""
    optimizer = optax.adam(1e-3)

    def loss(state):
        outputs = call(state, *inputs)
        return sum(jnp.mean(a**2) for a in jax.tree.leaves(outputs)), outputs

    @jax.jit
    def step(state, optimizer_state):
        (value, outputs), grads = jax.value_and_grad(loss, has_aux=True)(state)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam wants it
            updates, optimizer_state = optimizer.update(grads, optimizer_state, state)
        return optax.apply_updates(state, updates), optimizer_state, value, outputs

    stepped, optimizer_state, before, outputs = step(state, optimizer.init(state))
    assert_close(outputs, want)
    _, _, after, _ = step(stepped, optimizer_state)
    assert after < before

    everything = (stepped, optimizer_state)
    chex.assert_trees_all_equal(save_and_restore(everything, path), everything)
    chex.assert_trees_all_equal(pickle.loads(pickle.dumps(everything)), everything)
