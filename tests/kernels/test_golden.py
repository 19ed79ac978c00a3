"""Every architecture of the golden file: values of neural-tangents 0.6.5.

Where two inputs are parallel the reference takes an arccos of a rounded 1 or -1: a
kinked map is off there by up to 9e-8 (`sign` of `sign`, by its root). Those pairs are
held to `PARALLEL` here, and against the closed form in `test_parallel_inputs`.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker

from .architectures import build
from .relu_recursion import relu_kernels

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
ARRAYS = np.load(GOLDEN / "kernels.npz")
ENTRIES = {
    entry["name"]: entry
    for entry in json.loads((GOLDEN / "kernels.json").read_text())["entries"]
}
PARALLEL = {"sign": 1e-3}  # others: 2e-7
KERNELS = [
    name
    for name, entry in ENTRIES.items()
    if entry["kind"] == "kernel" and name != "tanh_quadrature_deg40"
]


def inputs(entry, dtype):
    return tuple(jnp.asarray(ARRAYS["inputs/" + entry[k]], dtype) for k in ("x1", "x2"))


def parallel(x1, x2):
    def unit(x):
        x = x.reshape(len(x), -1)
        norm = np.linalg.norm(x, axis=-1, keepdims=True)
        return x / np.where(norm > 0, norm, 1)

    return np.abs(np.abs(unit(x1) @ unit(x2).T) - 1) < 1e-12


def assert_close(got, want, own1, own2, loose, rtol):
    """Relative to sqrt(k11 k22); `loose` is the reference's own rounding."""
    scale = np.sqrt(np.outer(own1, own2))
    error = np.abs(np.asarray(got, np.float64) - want)
    known = np.isfinite(want)  # NaN on a diagonal of the reference
    assert np.isfinite(got).all()
    tolerance = np.where(loose, np.maximum(rtol, loose), rtol)
    assert (error <= tolerance * scale)[known].all()


SLOW = {
    name
    for name in KERNELS
    if ENTRIES[name]["x1"][0] in "is" or name == "relu_depth30_critical"
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in KERNELS],
)
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-10), ("float32", 1e-5)])
def test_values(name, dtype, rtol):
    with jax.enable_x64(dtype == "float64"):
        entry = ENTRIES[name]
        kernel = ker.infinite(lambda h: build(entry["architecture"], h))
        x1, x2 = inputs(entry, dtype)
        exact = [ARRAYS["inputs/" + entry[k]] for k in ("x1", "x2")]
        n, vectors = len(x1), x1.ndim == 2
        union = kernel(jnp.concatenate([x1, x2]))
        cross = kernel(x1, x2) if dtype == "float64" and vectors else None
        for field in ("nngp", "ntk"):
            k = np.asarray(getattr(union, field))
            own = np.diagonal(k)
            rounding = PARALLEL.get(name, 2e-7)
            near = rounding * parallel(exact[0], exact[1])
            want = ARRAYS[f"{name}/{field}"]
            assert_close(k[:n, n:], want, own[:n], own[n:], near, rtol)
            if cross is not None:
                got = getattr(cross, field)
                assert_close(got, want, own[:n], own[n:], near, rtol)
            near = rounding * parallel(exact[0], exact[0])
            want = ARRAYS[f"{name}/{field}_self"]
            assert_close(k[:n, :n], want, own[:n], own[:n], near, rtol)


@pytest.mark.parametrize("name", ["relu_depth3", "relu_nobias"])
def test_parallel_inputs(name):
    depth, b_std = {"relu_depth3": (3, 0.2), "relu_nobias": (2, None)}[name]

    def network(h):
        for _ in range(depth):
            h = ker.relu(ker.dense(h, 8, w_std=1.4, b_std=b_std))
        return ker.dense(h, 1, w_std=1.4, b_std=b_std)

    with jax.enable_x64(True):
        x = jnp.asarray(ARRAYS["inputs/v1"])
        x = jnp.concatenate([x, 2 * x[:2], x[:1]])
        got = ker.infinite(network)(x)
        want = relu_kernels(x, x, depth=depth, w_std=1.4, b_std=b_std)
        for g, w in zip((got.nngp, got.ntk), want, strict=True):
            w = np.asarray(w, np.float64)
            scale = np.sqrt(np.outer(np.diagonal(w), np.diagonal(w)))
            np.testing.assert_array_less(np.abs(g - w), 1e-9 * scale)


def test_tanh_against_converged_quadrature():
    """The golden one has 40 nodes and is off by up to 5e-3."""
    z = np.linspace(-9, 9, 361)
    weight = np.exp(-(z**2) / 2)
    weight = np.outer(weight, weight) / weight.sum() ** 2

    def dual(f, q1, q2, k):
        rho = k / np.sqrt(q1 * q2)
        u = np.sqrt(q1) * z[:, None]
        v = np.sqrt(q2) * (rho * z[:, None] + np.sqrt(max(0, 1 - rho**2)) * z[None])
        return (f(u) * f(v) * weight).sum()

    def slope(x):
        return 1 / np.cosh(x) ** 2

    with jax.enable_x64(True):
        entry = ENTRIES["tanh_quadrature_deg40"]
        kernel = ker.infinite(lambda h: build(entry["architecture"], h))
        x1, x2 = inputs(entry, "float64")
        x1, x2 = x1[:2], x2[:2]
        got = kernel(x1, x2)
        for i in range(2):
            for j in range(2):
                a, b = np.asarray(x1[i]), np.asarray(x2[j])
                q1, q2, k, t = a @ a / len(a), b @ b / len(b), a @ b / len(a), 0.0
                for w2, b2 in ((1.96, 0.04), (1.96, 0.04), (1.21, 0.0)):
                    q1, q2, k = w2 * q1 + b2, w2 * q2 + b2, w2 * k + b2
                    t = k + w2 * t
                    if b2:
                        t = t * dual(slope, q1, q2, k)
                        q1, q2, k = (
                            dual(np.tanh, q1, q1, q1),
                            dual(np.tanh, q2, q2, q2),
                            dual(np.tanh, q1, q2, k),
                        )
                np.testing.assert_allclose(got.nngp[i, j], k, rtol=1e-10)
                np.testing.assert_allclose(got.ntk[i, j], t, rtol=1e-10)


def test_gradients():
    with jax.enable_x64(True):
        entry = ENTRIES["gradients"]
        kernel = ker.infinite(lambda h: build(entry["architecture"], h))
        x1, x2 = (jnp.asarray(ARRAYS["inputs/" + k]) for k in ("v1", "v2"))
        for field in ("nngp", "ntk"):

            def total(x, y, field=field):
                return jnp.sin(getattr(kernel(x, y), field)).sum()

            got = jax.grad(total)(x1, x2)
            want = ARRAYS[f"gradients/d_{field}_dx1"]
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
        point = jnp.asarray(ARRAYS["gradients/hyper_point"])

        def hyper(p):
            w_std, b_std, w_out = p

            def network(h):
                h = ker.relu(ker.dense(h, 8, w_std=w_std, b_std=b_std))
                return ker.dense(h, 1, w_std=w_out, b_std=None)

            return jnp.sin(ker.infinite(network)(x1, x2).ntk).sum()

        want = ARRAYS["gradients/d_ntk_dhyper"]
        np.testing.assert_allclose(jax.grad(hyper)(point), want, rtol=1e-9)
