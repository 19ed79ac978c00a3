"""Empirical kernels against gradients taken one at a time, and the golden values."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxarch import kernels as ker

from . import networks

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "empirical.npz"


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


@pytest.mark.parametrize("method", ["jacobian", "vector_products", "structured"])
def test_golden_ntk(method):
    arrays = np.load(GOLDEN)
    with jax.enable_x64(True):
        f, params = golden_network(arrays)
        x1, x2 = (jnp.asarray(arrays[f"inputs/{v}"]) for v in ("v1", "v2"))
        for form, name in ((True, "trace"), ("diagonal", "diag"), (False, "full")):
            options = {"method": method, "trace_outputs": form}
            got = networks.ntk(f, params, x1, x2, **options)
            assert_near(got, arrays[f"empirical/ntk_{name}"])


def golden_network(arrays):
    """Dense 7, erf, dense 5, GELU, dense 3, in the NTK parameterisation."""
    stds = ((1.3, 0.2), (1.1, 0.1), (0.9, 0.3))
    params = [
        (jnp.asarray(arrays[f"empirical/W{i}"]), jnp.asarray(arrays[f"empirical/b{i}"]))
        for i in range(3)
    ]

    def f(params, h):
        for i, ((w, b), (w_std, b_std)) in enumerate(zip(params, stds, strict=True)):
            h = w_std / np.sqrt(h.size) * (h @ w) + b_std * b[0]
            if i < 2:
                h = jax.lax.erf(h) if i == 0 else jax.nn.gelu(h, approximate=False)
        return h

    return f, params


def test_other_golden_values():
    arrays = np.load(GOLDEN)
    with jax.enable_x64(True):
        f, params = golden_network(arrays)
        x1, x2 = (jnp.asarray(arrays[f"inputs/{v}"]) for v in ("v1", "v2"))
        nngp = ker.empirical_nngp(f, params, x1, x2)
        assert_near(nngp, arrays["empirical/nngp_trace"])
        vector = jnp.asarray(arrays["empirical/vp_cotangent"])
        for tile in (None, 2):
            product = ker.ntk_vector_product(f, params, x1, x2, vector, tile=tile)
            assert_near(product, arrays["empirical/vp"])
        moved = jax.tree.map(lambda p: p + 0.1 * jnp.sign(p), params)
        for name, expanded in (
            ("linearized_f", ker.linearize(f, params)),
            ("taylor2_f", ker.taylor_expand(f, params, degree=2)),
        ):
            got = jax.vmap(expanded, (None, 0))(moved, x1)
            assert_near(got, arrays[f"empirical/{name}"])


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


def test_expansions_have_the_derivatives_of_the_function():
    f, params, x1, *_ = networks.case(networks.mlp)
    with jax.enable_x64(True):
        x = x1[0]
        direction = jax.tree.map(jnp.cos, params)

        def at(t, g):
            return g(jax.tree.map(lambda p, d: p + t * d, params, direction), x)

        # A polynomial: equal to its interpolant through degree + 1 points.
        expansions = {
            0: ker.taylor_expand(f, params, degree=0),
            1: ker.linearize(f, params),
            3: ker.taylor_expand(f, params, degree=3),
        }
        for degree, expanded in expansions.items():
            nodes = np.linspace(-1, 1, degree + 1)
            values = np.stack([at(t, expanded) for t in nodes])
            coefficients = np.polyfit(nodes, values, degree)
            np.testing.assert_allclose(
                at(1.7, expanded),
                sum(c * 1.7 ** (degree - i) for i, c in enumerate(coefficients)),
                rtol=1e-10,
            )
            # And near the origin it differs from f by the next order alone.
            small = [np.abs(at(t, f) - at(t, expanded)).max() for t in (1e-2, 2e-2)]
            order = np.log2(small[1] / small[0])
            assert abs(order - (degree + 1)) < 0.15


def test_linearised_function_has_the_kernel_of_the_function():
    f, params, x1, x2, full = networks.case(networks.mlp)
    with jax.enable_x64(True):
        elsewhere = jax.tree.map(lambda p: p + 0.3, params)
        got = ker.empirical_ntk(
            ker.linearize(f, params), elsewhere, x1, x2, trace_outputs=False
        )
    assert_near(got, full)


def test_monte_carlo_of_a_known_distribution():
    """f = w x, w normal: NTK x x', NNGP of mean x x' and variance 2 (x x')^2."""

    class Linear:
        def init(self, key, x):
            return jax.random.normal(key, x.shape)

        def apply(self, w, x):
            return w * x

    x1, x2 = jnp.asarray([[1.0], [2.0]]), jnp.asarray([[0.5], [-1.0], [3.0]])
    num = 4000
    got = jax.jit(
        lambda key: ker.monte_carlo(Linear(), key, x1, x2, num, method="jacobian")
    )(jax.random.key(0))
    want = x1 @ x2.T
    np.testing.assert_allclose(got.mean.ntk, want, rtol=1e-5)
    np.testing.assert_allclose(got.standard_error.ntk, 0, atol=1e-5)
    error = np.sqrt(2 / num) * np.abs(want)
    np.testing.assert_allclose(got.standard_error.nngp, error, rtol=0.15)
    assert (np.abs(got.mean.nngp - want) < 4 * error).all()
    # The same numbers from the draws themselves.
    draws = jax.vmap(lambda k: jax.random.normal(k, (1,)))(
        jax.random.split(jax.random.key(0), num)
    )
    samples = np.asarray(draws, np.float64)[:, :, None] ** 2 * np.asarray(want)[None]
    np.testing.assert_allclose(got.mean.nngp, samples.mean(0), rtol=1e-4)
    spread = samples.std(0, ddof=1) / np.sqrt(num)
    np.testing.assert_allclose(got.standard_error.nngp, spread, rtol=1e-3)


def test_monte_carlo_of_an_architecture():
    def network(h):
        h = ker.relu(ker.dense(h, 256, w_std=1.4, b_std=0.2))
        return ker.dense(h, 4, w_std=1.1, b_std=0.1)

    x = networks.vectors(3).astype(jnp.float32)
    model = ker.finite(network)
    got = jax.jit(
        lambda key: ker.monte_carlo(model, key, x, None, 64),
        compiler_options=networks.QUICK,
    )(jax.random.key(1))
    want = ker.infinite(network)(x)
    for k in ("nngp", "ntk"):
        mean, error, exact = (
            np.asarray(getattr(g, k)) for g in (got.mean, got.standard_error, want)
        )
        scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
        assert (np.abs(mean - exact) < 4 * error + 5 / 256 * scale).all()
    nngp = jax.eval_shape(
        lambda key: ker.monte_carlo(model, key, x, x, 2, ntk=False, tile=2),
        jax.random.key(1),
    )
    assert nngp.mean.ntk is None


# Other frameworks.


@pytest.mark.slow
def test_flax():
    import flax.linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Conv(4, (3, 3), strides=2)(x)
            h = nn.LayerNorm()(nn.gelu(h))
            return nn.Dense(2)(h.reshape(-1))

    loose = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")
    with jax.enable_x64(True), loose[0], loose[1]:
        x = networks.images(3)
        module = Network()
        params = module.init(jax.random.key(0), x[0])
        params = jax.tree.map(lambda p: p.astype(x.dtype) + 0.1, params)
        want = networks.ntk_by_hand(module.apply, params, x, x)
        got = networks.ntk(
            module.apply, params, x, method="structured", trace_outputs=False
        )
        assert_near(got, want)
        estimate = jax.eval_shape(
            lambda key: ker.monte_carlo(module, key, x, x[:2], 2), jax.random.key(1)
        )
        assert estimate.mean.ntk.shape == (3, 2)


def test_equinox():
    import equinox as eqx

    model = eqx.nn.MLP(5, 3, 4, 2, key=jax.random.key(0))
    x1, x2 = (networks.vectors(n).astype(jnp.float32) for n in (3, 2))
    floats, rest = eqx.partition(model, eqx.is_inexact_array)
    want = networks.ntk_by_hand(lambda p, x: eqx.combine(p, rest)(x), floats, x1, x2)

    def call(model, x):
        return model(x)

    for method in ("structured", "vector_products"):
        got = ker.empirical_ntk(call, model, x1, x2, method=method, trace_outputs=False)
        assert_near(got, want, 1e-6)
    assert ker.linearize(call, model)(model, x1[0]).shape == (3,)


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


# Bad input.

X = np.ones((2, 3), np.float32)
W = np.ones((4, 3), np.float32)


def matmul(w, x):
    return w @ x


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"f": 3}, TypeError, "`f` must be a function .* got int"),
        ({"params": {"a": 1}}, ValueError, "`params` must hold at least one array"),
        ({"params": W + 1j}, ValueError, "`params` must be real, got complex"),
        ({"x1": np.float32(1)}, ValueError, r"`x1` must have shape \(n, ...\).*\(\)"),
        ({"x1": {}}, ValueError, r"`x1` must have shape \(n, ...\).*\[\]"),
        ({"x2": np.ones(())}, ValueError, r"`x2` must have shape \(n, ...\)"),
        (
            {"x1": (X, X[:1])},
            ValueError,
            r"`x1` must have shape \(n, ...\).*\[\(2, 3\), \(1, 3\)\]",
        ),
        (
            {"x2": X[:, :2]},
            ValueError,
            r"`x2` must be like one of `x1`, float32\[3\], got float32\[2\]",
        ),
        (
            {"x2": X[:1], "diagonal": True},
            ValueError,
            "with `diagonal` `x2` must have the 2 examples of `x1`, got 1",
        ),
        ({"f": lambda w, x: (w @ x,)}, TypeError, "`f` must return one array"),
        (
            {"f": lambda w, x: (w @ x).astype(complex)},
            TypeError,
            "real floating.*complex64",
        ),
        ({"f": lambda w, x: w[:0] @ x}, ValueError, r"one number, got shape \(0,\)"),
        ({"trace_outputs": "mean"}, ValueError, "`trace_outputs`.*got 'mean'"),
        ({"trace_outputs": 2}, TypeError, "`trace_outputs` must be a bool.*got int"),
        ({"tile": 0}, ValueError, "`tile` must be at least 1, got 0"),
        ({"memory_limit": 0.5}, TypeError, "`memory_limit` must be an int, got float"),
    ],
)
@pytest.mark.parametrize("function", [ker.empirical_ntk, ker.empirical_nngp])
def test_bad_arguments(function, change, error, message):
    arguments = {"f": matmul, "params": W, "x1": X, "x2": X} | change
    if change.keys() & {"x1"}:
        arguments["x2"] = None
    where = [arguments.pop(k) for k in ("f", "params", "x1", "x2")]
    with pytest.raises(error, match=f"{function.__name__}: .*{message}"):
        function(*where, **arguments)


def test_bad_method():
    with pytest.raises(ValueError, match="empirical_ntk: `method`.*got 'fast'"):
        ker.empirical_ntk(matmul, W, X, method="fast")


def test_bad_vector():
    message = r"ntk_vector_product: `vector` must have shape \(2, 4\).*got \(2,\)"
    with pytest.raises(ValueError, match=message):
        ker.ntk_vector_product(matmul, W, X, None, np.ones(2))


def test_bad_expansions():
    with pytest.raises(TypeError, match="linearize: `f` must be a function"):
        ker.linearize(None, W)
    with pytest.raises(TypeError, match="`degree` must be an int, got float"):
        ker.taylor_expand(matmul, W, degree=1.0)
    with pytest.raises(ValueError, match="`degree` must be at least 0, got -1"):
        ker.taylor_expand(matmul, W, degree=-1)
    expanded = ker.linearize(matmul, W)
    with pytest.raises(ValueError, match="linearize: .* must have the structure"):
        expanded([W], X[0])
    message = re.escape("must have the shapes of those expanded at, (4, 3), got (3,)")
    with pytest.raises(ValueError, match=message):
        expanded(W[0], X[0])


def test_bad_arguments_of_monte_carlo():
    model = ker.finite(lambda h: ker.dense(h, 1))
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="`model` must have .*got int without `init`"):
        ker.monte_carlo(3, key, X, None, 4)
    with pytest.raises(ValueError, match="`num_samples` must be at least 2, got 1"):
        ker.monte_carlo(model, key, X, None, 1)
    with pytest.raises(TypeError, match="`num_samples` must be an int, got float"):
        ker.monte_carlo(model, key, X, None, 2.0)
    with pytest.raises(ValueError, match="monte_carlo: `method`.*got 'fast'"):
        ker.monte_carlo(model, key, X, None, 2, method="fast")
    with pytest.raises(ValueError, match="monte_carlo: an example of `x2` must be"):
        ker.monte_carlo(model, key, X, X[:, :1], 2)
