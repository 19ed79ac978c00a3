"""Empirical kernels against gradients taken one at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxarch import kernels as ker

from . import networks
from .networks import assert_near, reduced

# Values.


@pytest.mark.parametrize("make", networks.ALL, ids=lambda make: make.__name__)
def test_full_kernel_is_that_of_single_gradients(make):
    f, params, x1, x2, want = networks.case(make)
    methods = ["jacobian", "vector_products", "structured"]
    if make is networks.custom:
        methods[1] = "auto"  # a custom_vjp has no forward derivative
    with jax.enable_x64(True):

        @functools.partial(jax.jit, compiler_options=networks.QUICK)
        def kernels(*args):
            return [
                ker.empirical_ntk(f, *args, method=m, trace_outputs=False)
                for m in methods
            ]

        for got in kernels(params, x1, x2):
            assert_near(got, want)


@pytest.mark.parametrize("form", [True, "diagonal"])
@pytest.mark.parametrize(
    ("make", "method"),
    [
        (networks.embedding, "structured"),
        (networks.embedding_alone, "structured"),
        (networks.attention, "structured"),
        (networks.attention, "vector_products"),
        (networks.embedding_alone, "jacobian"),
    ],
)
def test_trace_and_diagonal(make, method, form):
    f, params, x1, x2, full = networks.case(make)
    with jax.enable_x64(True):
        got = networks.ntk(f, params, x1, x2, method=method, trace_outputs=form)
    assert_near(got, reduced(full, form))


def test_nngp_is_the_product_of_outputs():
    f, params, x1, x2, _ = networks.case(networks.attention)
    with jax.enable_x64(True):
        y1, y2 = (np.stack([f(params, x) for x in xs]) for xs in (x1, x2))
        want = np.einsum("iab,jcd->ijabcd", y1, y2)
        for form in (True, "diagonal", False):
            got = ker.empirical_nngp(f, params, x1, x2, trace_outputs=form)
            assert_near(got, reduced(want, form))


@pytest.mark.parametrize("method", ["jacobian", "vector_products", "structured"])
@pytest.mark.parametrize("form", [True, False])
def test_tiles_change_nothing(method, form):
    f, params, *_ = networks.case(networks.mlp)
    with jax.enable_x64(True):
        x1, x2 = networks.vectors(7), networks.vectors(5, seed=1)
        both, own = (
            reduced(networks.ntk_by_hand(f, params, x1, x), form) for x in (x2, x1)
        )
        for limits in ({"tile": 3}, {"memory_limit": 1}):
            options = {"method": method, "trace_outputs": form, **limits}
            assert_near(networks.ntk(f, params, x1, x2, **options), both)
            assert_near(networks.ntk(f, params, x1, **options), own)
        got = ker.empirical_nngp(f, params, x1, x2, tile=3)
        assert_near(got, np.asarray(ker.empirical_nngp(f, params, x1, x2)))


def test_memory_stays_bounded():
    """A large Gram needs no more room than its result and one tile."""
    f = lambda w, x: jnp.tanh(w @ x)  # noqa: E731
    shapes = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    x = jax.ShapeDtypeStruct((2000, 64), jnp.float32)

    def temporary(limit):
        def run(w, x):
            return ker.empirical_ntk(f, w, x, method="jacobian", memory_limit=limit)

        analysis = jax.jit(run).lower(shapes, x).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    gradients = 2000 * 64 * 64 * 64 * 4
    limit = 2**25
    assert temporary(limit) < limit + 2000 * 2000 * 4 + 2**22 < gradients / 10


@pytest.mark.parametrize("method", ["vector_products", "structured"])
def test_pairs(method):
    f, params, x1, x2, full = networks.case(networks.embedding)
    count = len(x1)
    with jax.enable_x64(True):
        options = {"method": method, "diagonal": True, "tile": 2}
        got = networks.ntk(f, params, x1, x2[:count], **options)
        want = np.diagonal(reduced(full, True)[:, :count])
        assert_near(got, want)
        own = networks.ntk(f, params, x1, **options)
        gram = networks.ntk_by_hand(f, params, x1, x1)
        assert_near(own, np.diagonal(reduced(gram, True)))


def test_vector_product_with_itself():
    f, params, x1, x2, full = networks.case(networks.embedding_alone)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        vector = jnp.asarray(rng.normal(size=(len(x2), 3)))
        got = ker.ntk_vector_product(f, params, x1, x2, vector, tile=1)
        assert_near(got, np.einsum("ijop,jp->io", full, vector))
        vector = jnp.asarray(rng.normal(size=(len(x1), 3)))
        got = ker.ntk_vector_product(f, params, x1, None, vector)
        gram = networks.ntk_by_hand(f, params, x1, x1)
        assert_near(got, np.einsum("ijop,jp->io", gram, vector))


# Transformations, dtypes, trees.


@pytest.mark.parametrize(
    ("method", "tile"), [("structured", 2), ("vector_products", None)]
)
def test_value_is_differentiable_in_the_inputs(method, tile):
    def f(w, x):
        return w["out"] @ jnp.sin(w["in"] @ x)

    with jax.enable_x64(True):
        params = {"in": networks.draw(4, 5), "out": networks.draw(2, 4)}
        x1, x2 = networks.vectors(3), networks.vectors(2, seed=1)

        @jax.jit
        def kernel(x1, x2):
            return ker.empirical_ntk(f, params, x1, x2, method=method, tile=tile)

        check_grads(kernel, (x1, x2), order=1, modes=["rev"])
        mapped = jax.vmap(kernel, (None, 0))(x1, jnp.stack([x2, 2 * x2]))
        for got, x in zip(mapped, (x2, 2 * x2), strict=True):
            want = networks.ntk_by_hand(f, params, x1, x)
            assert_near(got, reduced(want, True))


def test_value_is_differentiable_in_the_parameters():
    f, params, x1, x2, _ = networks.case(networks.embedding_alone)
    with jax.enable_x64(True):
        kernels = [
            jax.jit(
                jax.grad(
                    lambda p, method=method: jnp.sin(
                        ker.empirical_ntk(f, p, x1, x2, method=method)
                    ).sum()
                )
            )(params)
            for method in ("jacobian", "structured")
        ]
        jax.tree.map(lambda a, b: assert_near(a, np.asarray(b), 1e-10), *kernels)


@pytest.mark.parametrize(
    ("dtype", "method"),
    [
        ("bfloat16", "structured"),
        ("float16", "vector_products"),
        ("float32", "jacobian"),
        ("float32", "structured"),
    ],
)
def test_dtypes(dtype, method):
    f, params, x1, x2, full = networks.case(networks.mlp)

    def plain(p, x):
        h = jnp.tanh(x @ p["w"][0] + p["b"][0])
        return h @ (p["w"][1] * p["scale"]) + p["b"][1]

    cast = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), dtype), (params, x1, x2))
    got = networks.ntk(plain, *cast, method=method)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), cast)
        want = reduced(networks.ntk_by_hand(plain, *wide), True)
    assert got.dtype == dtype
    tolerance = {"bfloat16": 3e-2, "float16": 4e-3, "float32": 1e-6}[dtype]
    assert_near(np.asarray(got, np.float64), want, tolerance)


def test_inputs_and_parameters_may_be_trees():
    """A mask beside the input; integers, functions and None among the parameters."""
    params = {
        "w": jnp.arange(12.0).reshape(4, 3),
        "order": jnp.asarray([2, 0, 1]),
        "activation": jnp.tanh,
        "none": None,
    }

    def f(p, x):
        h = jnp.where(x["mask"], x["h"], 0)
        return p["activation"](h @ p["w"])[p["order"]]

    x = {
        "h": jnp.ones((2, 4)) / 8,
        "mask": jnp.asarray([[True] * 4, [True, False] * 2]),
    }
    got = ker.empirical_ntk(f, params, x, method="structured", trace_outputs=False)

    def gradient(i, o):
        h = jax.tree.map(lambda a: a[i], x)
        return jax.grad(lambda w: f(params | {"w": w}, h)[o])(params["w"]).ravel()

    rows = np.stack([[gradient(i, o) for o in range(3)] for i in range(2)])
    assert_near(got, np.einsum("iok,jpk->ijop", rows, rows), 1e-6)


def test_scalar_output_and_no_examples():
    def f(w, x):
        return jnp.sin(w @ x)

    w, x = jnp.asarray([1.0, 2.0]), jnp.ones((3, 2))
    for method in ("jacobian", "vector_products", "structured"):
        for form in (True, False, "diagonal"):
            got = ker.empirical_ntk(f, w, x, method=method, trace_outputs=form)
            np.testing.assert_allclose(got, 2 * np.cos(3) ** 2, rtol=1e-6)
            empty = ker.empirical_ntk(f, w, x[:0], x, method=method, trace_outputs=form)
            assert empty.shape == (0, 3)


def test_a_function_without_hash():
    class Unhashable:
        __hash__ = None

        def __call__(self, w, x):
            return w * x

    got = ker.empirical_ntk(Unhashable(), jnp.ones(1), jnp.full((2, 1), 3.0))
    np.testing.assert_allclose(got, 9)
