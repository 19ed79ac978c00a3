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
# # Solve Darcy flow
#
# Water seeps through a rock of two permeabilities. The pressure $u$ solves
#
# $$-\nabla \cdot (a \nabla u) = 1 \text{ in the unit square}, \qquad
#   u = 0 \text{ on its boundary}$$
#
# MgNO (arXiv:2310.19809) learns the operator $a \mapsto u$ from solved examples. Its
# layers are multigrid V-cycles: what a classical solver does with fixed stencils, with
# learned ones. We look at the solver first and then train the network.
#
# Needs `pip install "jaxarch[examples]"`; takes about a minute on two cores.

# %%
import argparse
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from tqdm import tqdm

from jaxarch import operators as op

parser = argparse.ArgumentParser()
parser.add_argument("--output", default="solve_darcy_flow.png", help="the picture")
ARGS = parser.parse_args([] if "ipykernel" in sys.modules else None)
TRAIN, TEST, SIZE, BATCH, EPOCHS = 320, 40, 32, 8, 15

# %% [markdown]
# ## A V-cycle is a solver
#
# With the stencils of the textbook, `multigrid_apply` solves Poisson's equation: each
# cycle shrinks the residual by about seven, on any grid.

# %%
poisson = op.poisson_multigrid_params(127)


@jax.jit
def cycle(u, f):
    padded = jnp.pad(u, ((1, 1), (1, 1), (0, 0)))
    around = padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2]
    residual = f - 128**2 * (4 * u - around)
    return u + op.multigrid_apply(poisson, residual), jnp.linalg.norm(residual)


f = jax.random.normal(jax.random.key(1), (127, 127, 1))
u, residuals = jnp.zeros_like(f), []
for _ in range(6):
    u, norm = cycle(u, f)
    residuals.append(float(norm))
print("residuals:", " ".join(f"{r:.1e}" for r in residuals))

# %% [markdown]
# ## Solved examples
#
# Random permeabilities of 12 and 3, and their pressures by a finite-volume solver.

# %%
a_all, u_all = op.darcy_dataset(jax.random.key(0), TRAIN + TEST, SIZE, progress=True)
centre, scale = jnp.mean(a_all), jnp.std(a_all)
unit = jnp.sqrt(jnp.mean(u_all[:TRAIN] ** 2))

# %% [markdown]
# ## Train
#
# The loss is the relative error in $H^1$, which sees gradients as well as values.

# %%
LEVELS = ((1, 0), (1, 0), (1, 0), (2, 0))
initial = op.mgno_init(jax.random.key(2), 1, 1, width=16, num_layers=3, levels=LEVELS)


def predict(params, a):
    return unit * jax.vmap(op.mgno_apply, (None, 0))(params, (a - centre) / scale)


def loss(params, a, u):
    return jnp.mean(jax.vmap(op.relative_h1)(predict(params, a), u))


steps = TRAIN // BATCH
optimizer = optax.adam(optax.cosine_onecycle_schedule(steps * EPOCHS, 3e-3))


@jax.jit
def epoch(params, state, key):
    rows = jax.random.permutation(key, TRAIN).reshape(steps, BATCH)

    def step(carry, rows):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, a_all[rows], u_all[rows])
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    carry, values = jax.lax.scan(step, (params, state), rows)
    return *carry, values.mean()


params, state, curve = initial, optimizer.init(initial), []
bar = tqdm(range(EPOCHS), "epochs")
for i in bar:
    params, state, value = epoch(params, state, jax.random.key(100 + i))
    curve.append(float(value))
    bar.set_postfix(loss=f"{value:.3f}")

# %% [markdown]
# ## Unseen rocks

# %%
a_test, u_test = a_all[TRAIN:], u_all[TRAIN:]
predicted = jax.jit(predict)(params, a_test)
errors = jax.vmap(op.relative_l2)(predicted, u_test)
mean = jax.vmap(op.relative_l2)(
    jnp.broadcast_to(u_all[:TRAIN].mean(0), u_test.shape), u_test
)
print(f"relative error: {errors.mean():.3f}; of the mean pressure: {mean.mean():.3f}")

fig, axes = plt.subplots(2, 4, figsize=(11, 5.5), layout="constrained")
for row, i in zip(
    axes, (int(jnp.argmin(errors)), int(jnp.argmax(errors))), strict=True
):
    fields = (a_test[i], u_test[i], predicted[i], predicted[i] - u_test[i])
    names = ("permeability", "pressure", "predicted", "difference")
    top = float(u_test[i].max())
    for ax, field, name in zip(row, fields, names, strict=True):
        limits = {"pressure": (0, top), "predicted": (0, top)}.get(name, (None, None))
        image = ax.imshow(np.asarray(field)[..., 0].T, vmin=limits[0], vmax=limits[1])
        ax.set(xticks=[], yticks=[], title=name)
        fig.colorbar(image, ax=ax, shrink=0.8)
    row[0].set_ylabel(f"error {float(errors[i]):.3f}")
fig.suptitle("Best and worst of the unseen rocks")
fig.savefig(ARGS.output, dpi=100)

# %%
assert all(b < 0.2 * a for a, b in zip(residuals[:-1], residuals[1:], strict=True))
assert errors.mean() < 0.1 < mean.mean()
