"""Small networks and examples for the tests of DeepONet."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

KEY = jax.random.key(0)


def random_params(init, *sizes, **options):
    """Params of the shapes of `init`, without its compile time or zero biases."""
    shapes = jax.eval_shape(lambda key: init(key, *sizes, **options), KEY)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda a: (
            jnp.asarray(rng.normal(size=a.shape) / a.shape[-1] ** 0.5, a.dtype)
            if a.ndim
            else jnp.asarray(0.5, a.dtype)
        ),
        shapes,
    )


def examples():
    """Five sensors and three points of the plane."""
    rng = np.random.default_rng(1)
    return rng.normal(size=5), rng.normal(size=(3, 2))


def torch_state(nets, **biases):
    """A state of fully connected networks, `nets` giving the sizes by name."""
    rng = np.random.default_rng(0)
    state = {name.replace("_", "."): np.float32(v) for name, v in biases.items()}
    for net, sizes in nets.items():
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            weight = rng.normal(size=(n_out, n_in)).astype(np.float32)
            state[f"{net}.linears.{i}.weight"] = weight
            state[f"{net}.linears.{i}.bias"] = weight[:, 0]
    return state
