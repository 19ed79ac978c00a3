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
# # Shrink a Flax transformer five times without touching its code
#
# The model below knows nothing of pruning. `annotate` reads its jaxpr and finds what
# can change its size: heads, the features of queries and keys, of values, the widths of
# the feed-forward networks, and the width of the whole. `dhspg` trains it as usual and
# empties groups on the way, and `prune` cuts them out: the small network gives the same
# logits, and no fine-tuning follows.
#
# Needs `pip install "jaxarch[examples]"`; takes about a minute on two cores.

# %%
import argparse
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from tqdm import tqdm

from jaxarch import transforms as tr

parser = argparse.ArgumentParser()
parser.add_argument("--output", default="transformer.svg", help="the pictures")
ARGS = parser.parse_args([] if "ipykernel" in sys.modules else None)
started = time.perf_counter()


# %% [markdown]
# ## A transformer on digits
#
# The sixteen squares of 2 x 2 pixels of a digit are its tokens.


# %%
class Transformer(nn.Module):
    """Two pre-norm blocks."""

    width: int = 32
    heads: int = 4
    hidden: int = 96

    @nn.compact
    def __call__(self, images):
        """Logits (batch, 10) of images (batch, 8, 8)."""
        batch = images.shape[0]
        squares = images.reshape(batch, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4)
        x = nn.Dense(self.width)(squares.reshape(batch, 16, 4))
        normal = nn.initializers.normal(0.5)
        x = x + self.param("positions", normal, (1, 16, self.width))
        for _ in range(2):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(y)
            y = nn.Dense(self.hidden)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.gelu(y))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


model = Transformer()
pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(pixels))
pixels = jnp.asarray(pixels[order].reshape(-1, 8, 8) / 8 - 1, jnp.float32)
labels = jnp.asarray(labels[order])
train, test = (pixels[400:], labels[400:]), (pixels[:400], labels[:400])
params = model.init(jax.random.key(0), train[0][:1])


def accuracy(apply, params):
    return float((apply(params, test[0]).argmax(-1) == test[1]).mean())


# %% [markdown]
# ## What may change
#
# One line for each group: everything that has to be cut together.

# %%
annotation = tr.annotate(model.apply, params, train[0][:1])
for group in tr.groups(annotation):
    print(f"{group.size:3d} {group.state:8s} {group.name}, {len(group.members)} axes")

# %% [markdown]
# ## Train once
#
# Adam gives the direction, `dhspg` takes the step. Without a target it is Adam alone,
# which we train for comparison.


# %%
STEPS, CHUNK, BATCH, TARGET = 2000, 100, 100, 0.55


def fit(optimizer, params, name):
    def loss(params, x, y):
        logits = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def run(params, state, key):
        def step(carry, key):
            params, state = carry
            rows = jax.random.choice(key, len(train[0]), (BATCH,))
            gradient = jax.grad(loss)(params, train[0][rows], train[1][rows])
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), jax.random.split(key, CHUNK))[0]

    state = optimizer.init(params)
    for i in tqdm(range(STEPS // CHUNK), name):
        params, state = run(params, state, jax.random.fold_in(jax.random.key(1), i))
    return params


rate = optax.cosine_decay_schedule(4e-3, STEPS)
plain = fit(optax.adam(rate), params, "Adam")
emptying = optax.chain(
    optax.scale_by_adam(),
    tr.dhspg(
        annotation,
        target=TARGET,
        learning_rate=rate,
        warmup=STEPS // 5,
        deadline=STEPS // 2,
        saliency="magnitude",
    ),
)
emptied = fit(emptying, params, "Adam and dhspg")

# %% [markdown]
# ## Cut
#
# The report compares the small function with the emptied one, and says what to write
# into the configuration of a model of this size.

# %%
keep = tr.zero_groups(annotation, emptied)
small = tr.prune(model.apply, emptied, test[0], keep=keep)
print(small.report)
print(small.report.config)
dense, before, after = (
    accuracy(jax.jit(apply), p)
    for apply, p in (
        (model.apply, plain),
        (model.apply, emptied),
        (small.apply, small.params),
    )
)
fewer = small.report.parameters[0] / small.report.parameters[1]
print(f"accuracy: {dense:.4f} with Adam, {before:.4f} emptied, {after:.4f} small")
print(f"{fewer:.1f} times fewer parameters")

# %% [markdown]
# The same cut of the network that Adam trained, by the size of its weights and by
# optimal brain surgery on 200 images, without fine-tuning:

# %%
shares = {
    group.name: len(keep[group.name]) / group.size
    for group in tr.groups(annotation)
    if group.name in keep
}
one_shot = tr.prune(model.apply, plain, test[0], keep=shares)
surgery = tr.obspa(
    model.apply, plain, test[0][:10], keep=shares, data=(train[0][:200],)
)
by_size = accuracy(jax.jit(one_shot.apply), one_shot.params)
by_surgery = accuracy(jax.jit(surgery.apply), surgery.params)
print(f"one-shot magnitude {by_size:.4f}, optimal brain surgery {by_surgery:.4f}")

# %% [markdown]
# ## Before and after
#
# Wires are axes; those of one colour can only change their size together.

# %%
output = Path(ARGS.output).with_suffix("")
one = jax.ShapeDtypeStruct((1, 8, 8), jnp.float32)
for name, apply, p in (
    ("before", model.apply, params),
    ("after", small.apply, small.params),
):
    path = Path(f"{output}_{name}.svg")
    path.write_text(tr.diagram(apply, p, one, title=f"The transformer {name}"))
    print("Wrote", path)

# %%
assert fewer > 5, fewer
assert after > dense - 0.03, (after, dense)
assert after == before, (after, before)
assert small.report.difference < 1e-5, small.report.difference
assert after > max(by_size, by_surgery), (after, by_size, by_surgery)
print(f"Done after {time.perf_counter() - started:.0f} s.")
