"""Small functions of one example, `(f, params, x1, x2)`, and their NTK by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxarch import kernels as ker


def draw(*shape):
    rng = np.random.default_rng(sum(shape) * 7 + len(shape))
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[:-1]))))


def images(n, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, 6, 5, 2)))


def vectors(n, features=5, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, features)))


def tokens(n, length=4, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 7, (n, length)))


def conv(x, w, strides=(1, 1), padding="SAME", **options):
    return lax.conv_general_dilated(
        x[None],
        w,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **options,
    )[0]


def mlp():
    params = {
        "w": [draw(5, 6), draw(6, 3)],
        "b": [draw(6), draw(3)],
        "scale": jnp.asarray(1.3),
    }

    def f(p, x):
        h = jnp.tanh(x @ (p["w"][0] / jnp.sqrt(5.0)) + p["b"][0])
        return h @ (-p["w"][1] * p["scale"] * 2.0) + p["b"][1]

    return f, params, vectors(3), vectors(4, seed=1)


def convolutional():
    """Strides, dilation, groups, a 1 by 1 layer as a matrix, and one that repeats."""
    params = [draw(3, 2, 2, 4), draw(2, 2, 2, 4), draw(4, 4), draw(4)]

    def f(p, x):
        h = jnp.tanh(conv(x, p[0], (2, 1), "VALID", rhs_dilation=(1, 2)))
        for _ in range(2):
            h = jnp.tanh(conv(h, p[1], feature_group_count=2))
        return (jnp.sin(h @ p[2]) * p[3][None, None]).mean((0, 1))[:2]

    return f, params, images(3), images(2, seed=1)


def embedding():
    """Rows taken in three ways, and the table again as the output layer."""
    params = {"table": draw(7, 4), "other": draw(7, 4), "w": draw(4, 4)}

    def f(p, x):
        h = jnp.take(p["table"], x, axis=0) + p["table"][x]
        h = h + p["other"].at[x].get(mode="clip") + p["other"][x[1] + 1][None]
        h = jnp.tanh(h.mean(0) @ p["w"] + p["other"][x[0]])
        return (p["table"] @ h)[:2]

    return f, params, tokens(3), tokens(4, seed=1)


def embedding_alone():
    """Tables that are only looked up, out of range too."""
    params = {"table": draw(7, 2, 2), "other": draw(6, 3), "w": draw(4, 3)}

    def f(p, x):
        h = jnp.tanh(p["table"][x].reshape(-1, 4) @ p["w"])
        h = h + p["other"].at[x].get(mode="fill", fill_value=0.5)
        return jnp.sin(h).sum(0)

    return f, params, tokens(3), tokens(4, seed=1)


def recurrent():
    """A scan: shared matrices, per-step slices, a scale, a look-up, a checkpoint."""
    params = {
        "recurrent": draw(4, 4),
        "in": draw(2, 4),
        "steps": draw(3, 4, 4),
        "bias": draw(4),
        "out": draw(4, 3),
        "table": draw(7, 4),
        "scale": jnp.asarray(0.7),
    }

    def f(p, x):
        tied = p["recurrent"].T * p["scale"]

        @jax.checkpoint
        def step(h, inputs):
            row, w = inputs
            h = jnp.tanh(h @ tied + row @ p["in"] + h @ (w * p["scale"]) + p["bias"])
            token = (row[0] > 0).astype(int) + 2
            return h + p["table"][token] + p["recurrent"] @ h, h.sum()

        h, ys = lax.scan(step, jnp.zeros(4), (x, p["steps"]), reverse=True)
        return jax.jit(lambda h: h @ p["out"])(h) + ys

    x1 = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2)))
    return f, params, x1, x1[:2] + 0.3


def attention():
    """Batched products, weights per head, layer normalisation, a stacked scan."""
    params = {
        "qkv": draw(3, 2, 4, 3),
        "out": draw(2, 3, 4),
        "layers": draw(2, 4, 4),
        "gain": draw(4),
    }

    def f(p, x):
        q, k, v = (jnp.einsum("td,hde->hte", x, p["qkv"][i]) for i in range(3))
        weights = jax.nn.softmax(jnp.einsum("hte,hse->hts", q, k))
        h = x + jnp.einsum("hts,hse,hed->td", weights, v, p["out"])
        h = h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-3) * p["gain"][None]
        h, _ = lax.scan(lambda h, w: (h + jax.nn.relu(h @ w), None), h, p["layers"])
        heads = jnp.einsum("thd,hde->the", h.reshape(2, 2, 4)[:, :, :4], p["layers"])
        return h[:2, :2] + heads.sum()

    x1 = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4)))
    return f, params, x1, x1 * 0.5 + 0.2


def awkward():
    """Parameters in a branch, a slice, a product, returned as they are, unused."""
    params = {
        "cond": draw(4, 4),
        "slice": draw(6, 4),
        "a": draw(4, 2),
        "b": draw(2, 4),
        "returned": draw(4),
        "square": draw(4, 4),
        "unused": draw(2, 2),
    }

    def f(p, x):
        h = lax.cond(x[0] > 0, lambda w: w @ x, lambda w: w.T @ x, p["cond"])
        h = p["slice"][1:5] @ h
        h = jnp.tanh((p["a"] @ p["b"]) @ h + p["square"] @ p["square"] @ h)
        return h + p["returned"]

    return f, params, vectors(3, 4), vectors(2, 4, seed=1)


def custom():
    """Custom derivatives, which are to be taken as they are written."""

    @jax.custom_vjp
    def doubled(w, h):
        return w @ h

    doubled.defvjp(
        lambda w, h: (w @ h, (w, h)),
        lambda r, g: (2 * jnp.outer(g, r[1]), r[0].T @ g),
    )

    @jax.custom_jvp
    def tripled(w, h):
        return w @ h

    @tripled.defjvp
    def _(primals, tangents):
        (w, h), (dw, dh) = primals, tangents
        return w @ h, 3 * (dw @ h) + w @ dh

    params = {"in": draw(4, 4), "doubled": draw(4, 4), "tripled": draw(3, 4)}

    def f(p, x):
        h = jnp.tanh(doubled(p["doubled"], p["in"] @ x))
        return tripled(p["tripled"], h)

    return f, params, vectors(3, 4), vectors(2, 4, seed=1)


ALL = (
    mlp,
    convolutional,
    embedding,
    embedding_alone,
    recurrent,
    attention,
    awkward,
    custom,
)


# Compiling is what these tests spend their time on.
QUICK = {"xla_backend_optimization_level": 0}


def ntk(f, params, x1, x2=None, **options):
    """`empirical_ntk`, compiled with little optimisation."""
    run = functools.partial(ker.empirical_ntk, f, **options)
    return jax.jit(run, compiler_options=QUICK)(params, x1, x2)


@functools.cache
def case(make):
    """`(f, params, x1, x2)` in float64 and its full kernel (n1, n2, *out, *out)."""
    with jax.enable_x64(True):
        f, params, x1, x2 = make()
        return f, params, x1, x2, ntk_by_hand(f, params, x1, x2)


def jacobian_rows(f, params, x):
    """One gradient at a time: an array (n, outputs, number of parameters)."""
    leaves, treedef = jax.tree.flatten(params)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradient(x, o):
        def output(leaves):
            return f(treedef.unflatten(leaves), x).reshape(-1)[o]

        return jnp.concatenate([g.reshape(-1) for g in jax.grad(output)(leaves)])

    outputs = jax.eval_shape(f, params, x[0]).size
    return np.stack([[gradient(row, o) for o in range(outputs)] for row in x])


def ntk_by_hand(f, params, x1, x2):
    """The full kernel in NumPy."""
    one, two = jacobian_rows(f, params, x1), jacobian_rows(f, params, x2)
    shape = jax.eval_shape(f, params, x1[0]).shape
    kernel = np.einsum("iok,jpk->ijop", one, two)
    return kernel.reshape(len(x1), len(x2), *shape, *shape)


def reduced(full, form):
    """Trace or diagonal of a full kernel (n1, n2, *out, *out)."""
    n1, n2, *out = full.shape
    out = out[: len(out) // 2]
    size = int(np.prod(out))
    flat = np.asarray(full).reshape(n1, n2, size, size)
    diagonal = np.einsum("ijoo->ijo", flat)
    return {
        False: full,
        "diagonal": diagonal.reshape(n1, n2, *out),
        True: diagonal.mean(-1),
    }[form]


def assert_near(got, want, rtol=1e-12):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=rtol * np.abs(want).max())
