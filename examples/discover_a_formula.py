# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Discover a formula
#
# A Kolmogorov-Arnold network has a function of one variable on each edge, which can be
# looked at. From 1000 values of a formula that it is not told, a network of five hidden
# nodes learns which of them are needed, which function is on each edge that is left,
# and in the end the formula, right far outside the data.
#
# Needs `pip install "jaxarch[examples]"`; takes under two minutes on two cores.

# %%
import argparse
import functools
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import sympy
from jax.flatten_util import ravel_pytree
from tqdm import tqdm

from jaxarch import layers

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser()
parser.add_argument("--output", default="discover_a_formula.png")
notebook = "ipykernel" in sys.modules
OUTPUT = parser.parse_args([] if notebook else None).output


def secret(x, y):
    return np.exp(np.sin(np.pi * x) + y**2)


rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (1000, 2))
y = secret(*x.T)

# %% [markdown]
# ## Training
#
# L-BFGS on the mean square error. `penalty` is the price of edges that do something.


# %%
@functools.partial(jax.jit, static_argnames="loss")
def steps(loss, params, data, count):
    """Some steps of L-BFGS, and the root mean square error after them."""
    flat, unravel = ravel_pytree(params)
    optimizer = optax.lbfgs()

    def objective(flat):
        return loss(unravel(flat), data)

    def step(_, state):
        flat, memory = state
        value, slope = optax.value_and_grad_from_state(objective)(flat, state=memory)
        update, memory = optimizer.update(
            slope, memory, flat, value=value, grad=slope, value_fn=objective
        )
        return optax.apply_updates(flat, update), memory

    flat, _ = jax.lax.fori_loop(0, count, step, (flat, optimizer.init(flat)))
    return unravel(flat), objective(flat)


def spline_loss(params, data):
    edges, penalty = data
    params = layers.kan_mask(params, edges)
    error = jnp.mean((jax.vmap(layers.kan_apply, (None, 0))(params, x)[:, 0] - y) ** 2)
    norms = layers.kan_edge_norms(params, x)
    return error + penalty * layers.kan_regularizer(norms)


def named_loss(params, data):
    del data
    outputs = jax.vmap(layers.symbolic_kan_apply, (None, 0))(params, x)[:, 0]
    return jnp.mean((outputs - y) ** 2)


def train(loss, params, data, label, rounds):
    for _ in (bar := tqdm(range(rounds), desc=label)):
        params, value = steps(loss, params, data, 80)
        bar.set_postfix(loss=f"{value:.1e}")
    return params, float(value)


params = layers.kan_init(
    jax.random.key(0), (2, 5, 1), domain=(-1.5, 1.5), dtype=jnp.float64
)
everything = [np.ones(p.coefficients.shape[1:], bool) for p in params.layers]
params, _ = train(spline_loss, params, (everything, 5e-3), "sparse", 6)

# %% [markdown]
# ## Pruning
#
# What hardly varies over the data goes, and leaves its mean behind. Then the network is
# trained again, without the penalty, on a finer grid.

# %%
pruned, _, report = layers.kan_prune(params, x, edge_threshold=5e-2)
print("hidden nodes left:", report["nodes"][0])
pruned, _ = layers.kan_refine(pruned, 15)
pruned, error = train(spline_loss, pruned, (report["edges"], 0.0), "pruned", 6)

# %% [markdown]
# ## Names
#
# Each edge becomes the simplest function of a library that fits it. The named network
# is trained once more: few numbers are free now, and its error is that of the formula.

# %%
named, edges = layers.kan_symbolic(pruned, x)
for edge in edges:
    print(edge["layer"], edge["edge"], edge["function"], 1 - edge["r_squared"])
    for name, r_squared, score in edge["candidates"][1:3]:
        print("      rather than", name, 1 - r_squared, score)
named, named_error = train(named_loss, named, (), "named", 6)
(formula,) = layers.kan_formula(named, names=("x", "y"), digits=3)
print(formula)

# %% [markdown]
# ## A picture
#
# The network before and after it was pruned, and where the formula and the splines were
# never trained.

# %%
figure, (before, after, outside) = plt.subplots(
    1, 3, figsize=(15, 4.5), width_ratios=(2, 1, 1.2), layout="constrained"
)
for network, axes in ((params, before), (pruned, after)):
    layers.kan_plot(network, x, names=("x", "y"), output_names=("f",), axes=axes)
before.set_title("with five nodes")
after.set_title("pruned")
line = np.stack([np.linspace(-2, 2, 300), np.zeros(300)], -1)
splines = jax.vmap(layers.kan_apply, (None, 0))(pruned, line)
outside.plot(line[:, 0], secret(*line.T), "k", lw=3, alpha=0.3, label="secret")
outside.plot(line[:, 0], splines, "--", label="splines")
exact = sympy.lambdify(
    sympy.symbols("x y", real=True),
    layers.kan_formula(named, names=("x", "y"), digits=None)[0],
)
outside.plot(line[:, 0], exact(*line.T), ":", label="formula")
outside.axvspan(-1, 1, color="0.93")
outside.set(title="along y = 0 (data: grey)", xlabel="x", ylim=(-0.5, 3.5))
outside.legend(fontsize=8)
figure.savefig(OUTPUT, dpi=120)

# %%
assert len(report["nodes"][0]) == 1, report["nodes"]
assert error < 1e-5, error
assert named_error < 1e-10, named_error
wide = rng.uniform(-2, 2, (500, 2))
np.testing.assert_allclose(exact(*wide.T), secret(*wide.T), rtol=1e-3)
