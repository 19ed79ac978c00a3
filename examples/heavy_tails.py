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
# # When the tails are heavy
#
# The band of a Gaussian process depends on where the data are, and not on their
# values: however far these lie from zero, it is as wide as before. A scale mixture,
# $f \mid s \sim GP(0, s K)$ with a random $s$, lets the data speak of the scale. With
# an inverse gamma for $s$ it is a Student-t process.
#
# That matters where one model serves many functions of different size. We draw such
# functions, learn the prior of their scales from one half, and look at the bands for
# the other half, given eight noisy points of each.
#
# Needs `pip install "jaxarch[examples]"`; takes under a minute on two cores.

# %%
import argparse
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from tqdm import tqdm

from jaxarch import kernels as ker

parser = argparse.ArgumentParser()
parser.add_argument("--output", default="heavy_tails.png")
notebook = "ipykernel" in sys.modules
OUTPUT = parser.parse_args([] if notebook else None).output
TASKS, TRAIN, TEST, NOISE = 600, 8, 50, 0.01

# %% [markdown]
# ## Functions of many sizes
#
# Outputs of infinitely wide networks, whose last layer has a random scale: an inverse
# gamma with $a = b = 1.5$.


# %%
def network(h):
    h = ker.erf(ker.dense(h, 512, w_std=3.0, b_std=1.0))
    h = ker.erf(ker.dense(h, 512, w_std=2.0, b_std=0.5))
    return ker.dense(h, 1)


rng = np.random.default_rng(0)
x = np.concatenate([np.sort(rng.uniform(-2, 2, TRAIN)), np.linspace(-3, 3, TEST)])
k = np.asarray(ker.infinite(network)(x[:, None].astype(np.float32), ntk=False).nngp)
k_train, k_cross, k_test = k[:TRAIN, :TRAIN], k[TRAIN:, :TRAIN], np.diag(k)[TRAIN:]

scales = 1.5 / rng.gamma(1.5, size=TASKS)
eigenvalues, vectors = np.linalg.eigh(k)
root = vectors * np.sqrt(np.maximum(eigenvalues, 0))
values = root @ rng.normal(size=(len(x), TASKS))
values += np.sqrt(NOISE) * rng.normal(size=values.shape)
values = (np.sqrt(scales) * values).T.astype(np.float32)  # (tasks, points)
y, y_test = values[:, :TRAIN], values[:, TRAIN:]
half = TASKS // 2

# %% [markdown]
# ## Learning the scale, or its prior
#
# The Gaussian process has one scale for all functions, the mixture the $a$ and $b$ of
# their distribution: both maximise the evidence of the first half.


# %%
def prior_of(log_params, mixed):
    first, second = jnp.exp(log_params)
    return ker.InverseGamma(first, second) if mixed else ker.Delta(first)


def evidence(log_params, y, mixed):
    prior = prior_of(log_params, mixed)
    posterior = ker.condition(k_train, y, noise=NOISE, prior=prior)
    return ker.log_evidence(posterior)


def learn(mixed, steps=300):
    optimizer = optax.adam(0.05)

    @jax.jit
    def step(log_params, state):
        def loss(p):
            return -jax.vmap(lambda y: evidence(p, y, mixed))(y[:half]).mean()

        value, slope = jax.value_and_grad(loss)(log_params)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(log_params, updates), state, value

    log_params = jnp.zeros(2)
    state = optimizer.init(log_params)
    for _ in tqdm(range(steps), desc="mixture" if mixed else "one scale"):
        log_params, state, value = step(log_params, state)
    return log_params, float(value)


learnt = {}
for name, mixed in (("Gaussian process", False), ("scale mixture", True)):
    learnt[name], value = learn(mixed)
    print(f"{name}: {np.exp(learnt[name])}, log evidence a function {-value:.3f}")
assert np.abs(np.exp(learnt["scale mixture"]) - 1.5).max() < 0.4

# %% [markdown]
# ## The bands
#
# For each function of the other half: the band that should hold nine of ten new
# observations, and the log density of these. Over all functions the bands of the
# mixture do; eight points do not tell a scale exactly, so that those of the largest
# functions are still somewhat narrow.


# %%
def predict(log_params, y, y_test, mixed):
    prior = prior_of(log_params, mixed)
    posterior = ker.condition(k_train, y, noise=NOISE, prior=prior)
    mixture = ker.predict(posterior, k_cross, k_test, noisy=True)
    low, high = mixture.quantile(jnp.asarray([0.05, 0.95]))
    inside = (low < y_test) & (y_test < high)
    return mixture.mean, low, high, inside.mean(), mixture.log_prob(y_test).mean()


results = {
    name: [
        np.asarray(a)
        for a in jax.jit(
            jax.vmap(lambda y, t, p=p, m=mixed: predict(p, y, t, m))  # noqa: B023
        )(y[half:], y_test[half:])
    ]
    for (name, p), mixed in zip(learnt.items(), (False, True), strict=True)
}
thirds = np.digitize(scales[half:], np.quantile(scales[half:], [1 / 3, 2 / 3]))
covered = {
    name: [inside[thirds == third].mean() for third in range(3)]
    for name, (_, _, _, inside, _) in results.items()
}
for name, (*_, log_density) in results.items():
    print(
        f"{name}: bands of 90 % hold {np.round(covered[name], 3)} of small, middle and "
        f"large functions; log density {log_density.mean():.3f}"
    )

# %% [markdown]
# ## A picture
#
# A small function and a large one. The Gaussian band is the same for both: too wide for
# the first, too narrow for the second. That of the mixture follows the data. (On one
# data set, whose scale is learnt, the two hardly differ: there is only one scale to
# know. `benchmarks/scale_mixture.py` has the figures.)

# %%
order = np.argsort(scales[half:])
figure, axes = plt.subplot_mosaic(
    [["small 0", "small 1", "covered"], ["large 0", "large 1", "covered"]],
    figsize=(12, 6),
    layout="constrained",
)
for size, task in (("small", order[half // 10]), ("large", order[-half // 10])):
    bands = [r[i][task] for r in results.values() for i in (1, 2)]
    limit = 1.3 * np.abs(bands).max()
    for i, (name, (mean, low, high, *_)) in enumerate(results.items()):
        axis = axes[f"{size} {i}"]
        axis.fill_between(x[TRAIN:], low[task], high[task], alpha=0.3, label="90 %")
        axis.plot(x[TRAIN:], mean[task])
        axis.plot(x[TRAIN:], y_test[half + task], "k.", markersize=3, label="new")
        axis.plot(x[:TRAIN], y[half + task], "ro", markersize=5, label="given")
        axis.set(title=f"{name}, a {size} function", ylim=(-limit, limit))
axes["small 0"].legend(loc="upper left", fontsize=8)
axis = axes["covered"]
for shift, (name, shares) in zip((-0.2, 0.2), covered.items(), strict=True):
    axis.bar(np.arange(3) + shift, shares, 0.4, label=name)
axis.axhline(0.9, color="k", linestyle="--", linewidth=1)
axis.set(ylim=(0.6, 1.05), title="new observations inside 90 % bands")
axis.set_xticks(range(3), ["small", "middle", "large"])
axis.legend(fontsize=8, loc="upper right")
figure.savefig(OUTPUT, dpi=120, bbox_inches="tight")

# %%
gaussian, mixture = (np.array(covered[name]) for name in results)
assert np.abs(mixture - 0.9).max() < 0.06, mixture
assert gaussian[0] > 0.97, gaussian
assert gaussian[2] < 0.85, gaussian
gain = results["scale mixture"][4].mean() - results["Gaussian process"][4].mean()
assert gain > 0.2, gain
