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
# # Learn an antiderivative
#
# A DeepONet (Lu, Jin and Karniadakis, arXiv:1910.03193) is a function of a function and
# a point: a branch reads a function at fixed sensors, a trunk reads the point, and
# their product is the value. Here it learns to integrate, twice: from 10,000 values of
# antiderivatives, one for each random function, and from the equation $s' = u$ alone.
#
# Needs `pip install "jaxarch[examples]"`; takes about a minute on two cores.

# %%
import argparse
import functools
import sys
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from tqdm import tqdm

from jaxarch import operators as ops

parser = argparse.ArgumentParser()
parser.add_argument(
    "--output", default="learn_an_antiderivative.png", help="the picture"
)
ARGS = parser.parse_args([] if "ipykernel" in sys.modules else None)
start = time.perf_counter()
train_key, test_key, init_key, batch_key = jax.random.split(jax.random.key(0), 4)
SENSORS, CHUNK = 100, 1000

# %% [markdown]
# ## Random functions
#
# Gaussian fields with length scale 0.2. The training data are not aligned: each
# function has one point of its own. The functions to test with share their points.

# %%
data = ops.antiderivative_dataset(train_key, 10_000, num_points=1, aligned=False)
u_test, y_test, s_test = ops.antiderivative_dataset(test_key, 1000)
print("training:", [a.shape for a in data])

# %% [markdown]
# ## From data
#
# Unaligned data: `vmap` over functions and points. Aligned data: over functions alone,
# and the trunk runs once for all of them.

# %%
apply = functools.partial(ops.deeponet_apply, activation=jax.nn.gelu)
aligned = jax.jit(jax.vmap(apply, (None, 0, None)))


def data_loss(params, key):
    rows = jax.random.randint(key, (1000,), 0, len(data[0]))
    u, y, s = (a[rows] for a in data)
    return jnp.mean((jax.vmap(apply, (None, 0, 0))(params, u, y) - s) ** 2)


def train(loss, params, steps, rate, name):
    """Adam with a cosine schedule; `loss` draws its batch from a key."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    @jax.jit
    def run(params, state, key):
        def step(carry, key):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params, key)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        carry, losses = jax.lax.scan(
            step, (params, state), jax.random.split(key, CHUNK)
        )
        return *carry, losses.mean()

    state, curve = optimizer.init(params), []
    bar = tqdm(range(steps // CHUNK), name)
    for i in bar:
        params, state, value = run(params, state, jax.random.fold_in(batch_key, i))
        curve.append(float(value))
        bar.set_postfix(loss=f"{value:.1e}")
    return params, curve


initial = ops.deeponet_init(init_key, (SENSORS, 40, 40), (1, 40, 40))
from_data, data_curve = train(data_loss, initial, 15_000, 3e-3, "from data")
mse = float(jnp.mean((aligned(from_data, u_test, y_test) - s_test) ** 2))
print(f"from data: test mean square error {mse:.1e}")

# %% [markdown]
# ## From the equation
#
# No solution is seen: the loss is the residual $s' - u$ at the sensors, for new random
# functions in every step. `coordinate_derivatives` has $s'$ by forward mode, and a
# factor $y$ makes $s(0) = 0$ hold exactly.

# %%
hard = functools.partial(apply, output_transform=lambda u, y, s: y[:, 0] * s)
u_free, y_free, _ = ops.antiderivative_dataset(train_key, 10_000, num_points=SENSORS)


def equation_loss(params, key):
    u = u_free[jax.random.randint(key, (100,), 0, len(u_free))]

    def residual(u):
        _, slope, _ = ops.coordinate_derivatives(
            functools.partial(hard, params, u), y_free
        )
        return slope[:, 0] - u

    return jnp.mean(jax.vmap(residual)(u) ** 2)


from_equation, equation_curve = train(
    equation_loss, initial, 10_000, 3e-3, "from the equation"
)
solve = jax.jit(jax.vmap(hard, (None, 0, None)))
mse_equation = float(jnp.mean((solve(from_equation, u_test, y_test) - s_test) ** 2))
print(f"from the equation: test mean square error {mse_equation:.1e}")

# %% [markdown]
# ## Functions that are no samples
#
# The probes of the paper, whose antiderivatives we know.

# %%
x = jnp.linspace(0, 1, SENSORS)
pi = jnp.pi
PROBES = {
    "$x$": (x, x**2 / 2),
    r"$\sin \pi x$": (jnp.sin(pi * x), (1 - jnp.cos(pi * x)) / pi),
    r"$\sin 2\pi x$": (jnp.sin(2 * pi * x), (1 - jnp.cos(2 * pi * x)) / (2 * pi)),
    r"$x \sin 2\pi x$": (
        x * jnp.sin(2 * pi * x),
        jnp.sin(2 * pi * x) / (4 * pi**2) - x * jnp.cos(2 * pi * x) / (2 * pi),
    ),
}
probes = jnp.stack([u for u, _ in PROBES.values()])
truths = jnp.stack([s for _, s in PROBES.values()])
found = aligned(from_data, probes, x[:, None]), solve(from_equation, probes, x[:, None])
worst = [float(jnp.abs(f - truths).max()) for f in found]
print(f"probes, largest error: from data {worst[0]:.1e}, equation {worst[1]:.1e}")

# %%
figure, axes = plt.subplots(2, 2, figsize=(9.5, 6.4), layout="constrained")
(functions, solutions), (known, curves) = axes
predicted = aligned(from_data, u_test[:4], y_test)
for i in range(4):
    functions.plot(x, u_test[i], color=f"C{i}")
    solutions.plot(y_test[:, 0], s_test[i], color=f"C{i}", lw=4, alpha=0.3)
    solutions.plot(y_test[:, 0], predicted[i], color=f"C{i}", ls="--")
functions.set(xlabel="x", title="four functions that were not seen")
solutions.set(xlabel="y", title="their antiderivatives: true (broad), DeepONet")
for i, name in enumerate(PROBES):
    known.plot(x, truths[i], color=f"C{i}", lw=4, alpha=0.3)
    known.plot(x, found[1][i], color=f"C{i}", ls="--", label=f"u = {name}")
known.set(xlabel="y", title="learnt from the equation: the paper's probes")
known.legend(fontsize="small")
for name, curve in (("data", data_curve), ("equation", equation_curve)):
    steps = CHUNK * (1 + jnp.arange(len(curve)))
    curves.semilogy(steps, curve, label=f"loss, from {name}")
curves.axhline(mse, color="C0", ls=":", label="test error, from data")
curves.axhline(mse_equation, color="C1", ls=":", label="test error, from equation")
curves.set(xlabel="step", title="mean square loss and error")
curves.legend(fontsize="small")
figure.savefig(ARGS.output, dpi=120)

# %%
assert mse < 5e-5, mse
assert mse_equation < 5e-5, mse_equation
print(f"Wrote {ARGS.output} after {time.perf_counter() - start:.0f} s.")
