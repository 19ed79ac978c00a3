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
# # One network, any resolution
#
# A convolutional network knows pixels: trained on 32 points it is another function on
# 64. We turn a ConvNet and a U-Net into operators, layer by layer, as Berner et al.
# (arXiv:2506.10973) do, ask `resolution_report` what came of it, train all four to
# solve Burgers' equation on 32 points, and use them as they are on 64 and 128.
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
from tqdm import tqdm

from jaxarch import operators as op

parser = argparse.ArgumentParser()
parser.add_argument("--output", default="one_network_any_resolution.png")
parser.add_argument("--steps", type=int, default=300)
ARGS = parser.parse_args([] if "ipykernel" in sys.modules else None)
TRAIN, RESOLUTIONS, FINEST = 32, (32, 64, 128), 128
EXAMPLES, TESTS, BATCH, WIDTH = 1024, 64, 32, 24

# %% [markdown]
# ## Burgers' equation
#
# $u_t + u u_x = \nu u_{xx}$ on a circle, from a smooth random $u(0)$ to $u(0.3)$: a
# spectral solver with an exact step of the viscous part, on 128 points. Every fourth of
# them is a grid of 32 for the same functions.

# %%
NU, TIME, STEPS = 0.03, 0.3, 300


def random_fields(key, num):
    k = np.fft.rfftfreq(FINEST, 1 / FINEST)
    size = FINEST * (1 + (k / 2) ** 2) ** -2.5 * (k > 0)
    draws = jax.random.normal(key, (num, len(k), 2)) @ jnp.asarray([1, 1j])
    return jnp.fft.irfft(0.5 * size * draws)


@jax.jit
def burgers(u):
    k = 2 * jnp.pi * jnp.fft.rfftfreq(FINEST, 1 / FINEST)
    kept = k < k.max() * 2 / 3  # the other third would be aliases of squares
    dt = TIME / STEPS
    half = jnp.exp(-NU * k**2 * dt / 2)

    def slope(v):
        return -0.5j * k * kept * jnp.fft.rfft(jnp.fft.irfft(v) ** 2)

    def step(v, _):
        a = slope(v)
        b = slope(half * (v + dt / 2 * a))
        c = slope(half * v + dt / 2 * b)
        d = slope(half**2 * v + dt * half * c)
        inner = half**2 * a + 2 * half * (b + c) + d
        return half**2 * v + dt / 6 * inner, None

    return jnp.fft.irfft(jax.lax.scan(step, jnp.fft.rfft(u), length=STEPS)[0])


inputs = random_fields(jax.random.key(0), EXAMPLES + TESTS)
outputs = burgers(inputs)
inputs, outputs = inputs[..., None], outputs[..., None]  # a channel


def at(resolution, functions):
    return functions[:, :: FINEST // resolution]


# %% [markdown]
# ## Two networks, and what becomes of them
#
# Both are written with a function `conv` and, for the U-Net, a way down and a way up.
# The plain ones are what everybody writes: three pixels, strides, repeated values.


# %%
def dense_init(key, n_in, n_out):
    return jax.random.normal(key, (n_in, n_out)) / np.sqrt(n_in)


def conv_init(key, n_in, n_out, level=0):
    return jax.random.normal(key, (5, n_in, n_out)) / np.sqrt(5 * n_in)


def conv(params, u, level=0):
    u = jnp.pad(u, ((2, 2), (0, 0)), mode="wrap")
    layout = ("NHC", "HIO", "NHC")
    return jax.lax.conv_general_dilated(
        u[None], params, (1,), "VALID", dimension_numbers=layout
    )[0]


def first_init(key):
    return conv_init(key, WIDTH, WIDTH)


def stride(params, u, level):
    return conv(params, u)[::2]


def repeat(u, num_points):
    return jnp.repeat(u, 2, axis=0)


# %% [markdown]
# The converted ones have, in place of the convolution, an integral over a fixed part of
# the domain and a map at each point; on the way down an integral of which every other
# value is kept; and on the way up an interpolation. The first layer is a derivative.
# Its kernel is made odd, for second order: a network learns the error of the grid that
# it is trained on, and misses it on another. Units are those in which the grid of 32
# points has the spacing 1.


# %%
def layer_init(key, n_in, n_out, level=0):
    keys = jax.random.split(key)
    radius = min(6.0 * 2**level, TRAIN / 2)
    return {
        "local": op.local_integral_init(
            keys[0], n_in, n_out, radius=radius, num_dims=1, num_basis=5
        ),
        "point": dense_init(keys[1], n_in, n_out),
    }


def layer(params, u, level=0):
    integral = op.local_integral_apply(params["local"], u, lengths=TRAIN)
    return integral + u @ params["point"]


def slope_init(key):
    return op.differential_conv_init(key, WIDTH, WIDTH, num_dims=1)


def slope(params, u):
    odd = params.kernel - params.kernel[::-1]
    params = op.DifferentialConvParams(kernel=odd)
    return op.differential_conv_apply(params, u, lengths=TRAIN)


def down_init(key, n_in, n_out, level):
    radius = 8.0 * 2**level
    return op.local_integral_init(key, n_in, n_out, radius=radius, num_dims=1)


def down(params, u, level):
    return op.local_integral_apply(params, u, lengths=TRAIN)[::2]


def up(u, num_points):
    return op.resample(u, (num_points,))


# %% [markdown]
# The networks themselves are the same.


# %%
def convnet_init(key, init, first_init):
    keys = jax.random.split(key, 7)
    return {
        "lift": dense_init(keys[0], 1, WIDTH),
        "layers": [init(k, WIDTH, WIDTH) for k in keys[1:5]],
        "project": dense_init(keys[5], WIDTH, 1),
        "first": first_init(keys[6]),
    }


def convnet(params, u, conv, first):
    h = u @ params["lift"]
    h = h + jax.nn.gelu(first(params["first"], h))
    for layer_params in params["layers"]:
        h = h + jax.nn.gelu(conv(layer_params, h))
    return u + h @ params["project"]


def unet_init(key, init, first_init, down_init):
    keys = iter(jax.random.split(key, 10))
    return {
        "lift": dense_init(next(keys), 1, WIDTH),
        "first": first_init(next(keys)),
        "down": [down_init(next(keys), WIDTH, WIDTH, level) for level in range(2)],
        "left": [init(next(keys), WIDTH, WIDTH, level) for level in range(3)],
        "right": [init(next(keys), 2 * WIDTH, WIDTH, level) for level in range(2)],
        "project": dense_init(next(keys), WIDTH, 1),
    }


def unet(params, u, conv, first, down, up):
    h, skips = u @ params["lift"], []
    h = h + jax.nn.gelu(first(params["first"], h))
    for level in range(3):
        h = h + jax.nn.gelu(conv(params["left"][level], h, level))
        if level < 2:
            skips.append(h)
            h = down(params["down"][level], h, level)
    for level in (1, 0):
        skip = skips[level]
        both = jnp.concatenate([skip, up(h, len(skip))], axis=-1)
        h = skip + jax.nn.gelu(conv(params["right"][level], both, level))
    return u + h @ params["project"]


key = jax.random.key(1)
networks = {
    "ConvNet": (
        functools.partial(convnet, conv=conv, first=conv),
        convnet_init(key, conv_init, first_init),
    ),
    "ConvNet, converted": (
        functools.partial(convnet, conv=layer, first=slope),
        convnet_init(key, layer_init, slope_init),
    ),
    "U-Net": (
        functools.partial(unet, conv=conv, first=conv, down=stride, up=repeat),
        unet_init(key, conv_init, first_init, conv_init),
    ),
    "U-Net, converted": (
        functools.partial(unet, conv=layer, first=slope, down=down, up=up),
        unet_init(key, layer_init, slope_init, down_init),
    ),
}

# %% [markdown]
# ## Are they operators?
#
# Before any training, on one smooth function: plain networks go to a map at each point
# as the grid gets finer, or have not yet got anywhere; converted ones converge.


# %%
def field(n):
    x = op.grid_points((n,))
    return jnp.exp(jnp.sin(2 * jnp.pi * x)) - 1.2


reports = {}
for name, (apply, params) in networks.items():
    reports[name] = op.resolution_report(
        jax.jit(functools.partial(apply, params)), field, (32, 64, 128)
    )
    print(f"\n{name}\n{reports[name]}")


# %% [markdown]
# ## Training on 32 points


# %%
def error(got, wanted):
    """The relative L2 error of each function."""
    size = jnp.sqrt((wanted**2).mean((1, 2)))
    return jnp.sqrt(((got - wanted) ** 2).mean((1, 2))) / size


def train(name, apply, params):
    schedule = optax.cosine_decay_schedule(3e-3, ARGS.steps)
    optimizer = optax.adam(schedule)

    def loss(params, x, y):
        return error(jax.vmap(apply, (None, 0))(params, x), y).mean()

    @jax.jit
    def step(params, state, x, y):
        value, gradient = jax.value_and_grad(loss)(params, x, y)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    x, y = at(TRAIN, inputs)[:EXAMPLES], at(TRAIN, outputs)[:EXAMPLES]
    state, rng = optimizer.init(params), np.random.default_rng(0)
    bar = tqdm(range(ARGS.steps), name, mininterval=2)
    for _ in bar:
        rows = rng.integers(0, EXAMPLES, BATCH)
        params, state, value = step(params, state, x[rows], y[rows])
        bar.set_postfix(loss=f"{float(value):.4f}", refresh=False)
    return params


errors, predictions = {}, {}
for name, (apply, params) in networks.items():
    params = train(name, apply, params)
    evaluate = jax.jit(jax.vmap(functools.partial(apply, params)))
    found = {n: evaluate(at(n, inputs)[EXAMPLES:]) for n in RESOLUTIONS}
    predictions[name] = {n: v[0, :, 0] for n, v in found.items()}
    errors[name] = [
        float(error(v, at(n, outputs)[EXAMPLES:]).mean()) for n, v in found.items()
    ]

# %% [markdown]
# ## The same weights on 64 and 128 points

# %%
print(f"{'':20}{'weights':>10}" + "".join(f"{n:>10}" for n in RESOLUTIONS))
for name, values in errors.items():
    size = sum(a.size for a in jax.tree.leaves(networks[name][1]))
    print(f"{name:20}{size:>10}" + "".join(f"{v:10.4f}" for v in values))

figure, axes = plt.subplots(
    2, 2, figsize=(9, 6), sharex=True, sharey=True, layout="constrained"
)
colours = dict(zip(RESOLUTIONS, ("#0072B2", "#D55E00", "#009E73"), strict=True))
places = np.arange(FINEST) / FINEST
for axis, (name, found) in zip(axes.T.flat, predictions.items(), strict=True):
    axis.plot(places, inputs[EXAMPLES, :, 0], color="0.75", label="u(0)")
    axis.plot(places, outputs[EXAMPLES, :, 0], color="0", lw=3, label="u(0.3)")
    for n, values in found.items():
        at_n = errors[name][RESOLUTIONS.index(n)]
        label = f"{n} points, error {at_n:.3f}"
        axis.plot(np.arange(n) / n, values, color=colours[n], label=label)
    axis.set(title=name)
    axis.legend(fontsize="x-small")
for axis in axes[-1]:
    axis.set_xlabel("x")
figure.suptitle("Burgers' equation: trained on 32 points, used on 64 and 128")
figure.savefig(ARGS.output, dpi=120)

# %%
for name, values in errors.items():
    if "converted" in name:
        assert reports[name].converges, reports[name]
        assert max(values) < 1.5 * values[0], (name, values)
    else:
        assert not reports[name].converges, reports[name]
print(f"Wrote {ARGS.output}.")
