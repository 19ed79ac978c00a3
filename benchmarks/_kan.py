"""Networks of `kan.py` with numbers, their values in float64, and our programs.

Nothing here imports JAX or jaxarch before a program is built: the peers' scripts take
the numbers from here too.
"""

import dataclasses
import functools
import itertools

import numpy as np

OURS = "jaxarch"
BY_HAND = "by-hand"  # the same layer, written for a batch
DENSE = "dense"  # x @ W + b of the same sizes
WIDE = "dense-wide"  # the same of an input that is repeated for each basis function


def draw(sizes, num_intervals, degree, batch):
    """Arrays of each layer, and a batch of inputs in the domain, float32.

    The numbers keep nearly all inputs of hidden layers in the domain as well.
    """
    rng = np.random.default_rng(0)
    layers = []
    for num_in, num_out in itertools.pairwise(sizes):
        shape = (num_intervals + degree, num_in, num_out)
        coefficients = 0.5 / np.sqrt(num_in) * rng.standard_normal(shape)
        residual = rng.standard_normal(shape[1:]) / np.sqrt(num_in)
        layers.append([a.astype(np.float32) for a in (coefficients, residual)])
    return layers, rng.uniform(-1, 1, (batch, sizes[0])).astype(np.float32)


def load(spec):
    """The arrays of each layer, from the files that `spec` names."""
    return [
        {"coefficients": np.load(coefficients), "residual": np.load(residual)}
        for coefficients, residual in spec["layers"]
    ]


# --- the reference ----------------------------------------------------------------


def _bases(x, num_intervals, degree):
    """B-splines on [-1, 1] by their recursion, `(..., num_basis)`, and slopes."""
    step = 2 / num_intervals
    knots = -1 + step * np.arange(-degree, num_intervals + degree + 1)
    x = x[..., None]
    basis = ((knots[:-1] <= x) & (x < knots[1:])).astype(np.float64)
    for k in range(1, degree + 1):
        rise = (x - knots[:-k]) / (k * step)
        lower = basis
        basis = rise[..., :-1] * lower[..., :-1] + (1 - rise[..., 1:]) * lower[..., 1:]
    return basis, (lower[..., :-1] - lower[..., 1:]) / step


def reference(layers, x, num_intervals, degree):
    """The output, and the gradients of the mean square of it, in float64."""
    kept, h = [], x.astype(np.float64)
    for coefficients, residual in layers:
        basis, slopes = _bases(h, num_intervals, degree)
        sigmoid = 1 / (1 + np.exp(-h))
        silu, slope = h * sigmoid, sigmoid * (1 + h * (1 - sigmoid))
        kept.append((basis, slopes, silu, slope))
        h = np.einsum("nim,mio->no", basis, coefficients, optimize=True)
        h = h + silu @ residual.astype(np.float64)
    values = {"y": h}
    dh = 2 * h / h.size
    for number in reversed(range(len(layers))):
        coefficients, residual = layers[number]
        basis, slopes, silu, slope = kept[number]
        values[f"coefficients{number}"] = np.einsum(
            "nim,no->mio", basis, dh, optimize=True
        )
        values[f"residual{number}"] = silu.T @ dh
        through = np.einsum("no,mio->nim", dh, coefficients, optimize=True)
        dh = np.sum(slopes * through, -1) + slope * (dh @ residual.T)
    return values | {"x": dh}


def error(found, exact):
    """The largest error of an array over its largest value, and which array."""
    errors = {
        name: float(np.max(np.abs(array - exact[name])) / np.max(np.abs(exact[name])))
        for name, array in found.items()
        if name in exact
    }
    return {"largest": max(errors.values()), **errors}


# --- our programs -----------------------------------------------------------------


def build(side, spec):
    """A function of a batch as `(function, leading arguments)`."""
    import jax
    import jax.numpy as jnp

    from jaxarch import layers

    def kan():
        key = jax.random.key(0)
        options = {k: spec[k] for k in ("num_intervals", "degree")}
        params = layers.kan_init(key, spec["sizes"], **options)
        return dataclasses.replace(
            params,
            layers=tuple(
                dataclasses.replace(layer, **jax.tree.map(jnp.asarray, arrays))
                for layer, arrays in zip(params.layers, load(spec), strict=True)
            ),
        )

    def ours(params, x):
        apply = functools.partial(layers.kan_apply, remat=spec["remat"])
        return jax.vmap(apply, (None, 0))(params, x)

    def by_hand(params, x):
        for p in params.layers:
            options = {k: spec[k] for k in ("num_intervals", "degree")}
            basis = layers.bspline_basis(x, domain=(-1, 1), **options)
            y = jnp.einsum("nim,mio->no", basis, p.coefficients)
            x = y + jax.nn.silu(x) @ p.residual + p.bias
        return x

    def dense(params, x):
        for weight, bias in params:
            copies = len(weight) // x.shape[1]
            x = (jnp.tile(x, (1, copies)) if copies > 1 else x) @ weight + bias
        return x

    def weights(*names):
        made = []
        for arrays in load(spec):
            num_out = arrays["residual"].shape[1]
            rows = [jnp.reshape(arrays[name], (-1, num_out)) for name in names]
            made.append((jnp.concatenate(rows), jnp.zeros(num_out)))
        return made

    function, params = {
        OURS: lambda: (ours, kan()),
        BY_HAND: lambda: (by_hand, kan()),
        DENSE: lambda: (dense, weights("residual")),
        WIDE: lambda: (dense, weights("coefficients", "residual")),
    }[side]()
    if not spec["gradient"]:
        return function, (params,)

    def loss(params, x):
        return jnp.mean(function(params, x) ** 2)

    return jax.value_and_grad(loss, (0, 1)), (params,)


def read(spec, result):
    """The output, or the gradients."""
    if not spec["gradient"]:
        return {"y": np.asarray(result)}
    params, x = result[1]
    found = {"x": np.asarray(x)}
    for number, layer in enumerate(params.layers):
        for name in ("coefficients", "residual"):
            found[f"{name}{number}"] = np.asarray(getattr(layer, name))
    return found
