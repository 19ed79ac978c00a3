"""The V-cycle: written out by NumPy, linearity, shifts, sizes of grids."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import operators as op

BOUNDARIES = ("dirichlet", "neumann", "periodic", "reflective")


def outside(i, n, boundary):
    """Where point i of an endless grid is found in one of n points; None for zero."""
    if boundary in ("dirichlet", "zeros"):
        return i if 0 <= i < n else None
    if boundary == "periodic":
        return i % n
    if boundary == "neumann":
        period = max(2 * (n - 1), 1)
        return min(i % period, period - i % period) if n > 1 else 0
    return min(i % (2 * n), 2 * n - 1 - i % (2 * n))


def slide(u, stencil, centres, boundary):
    """The sum over taps at every centre, point by point."""
    taps, out = stencil.shape[:-2], []
    for centre in itertools.product(*centres):
        total = np.zeros(stencil.shape[-1])
        for tap in np.ndindex(*taps):
            at = [
                outside(c + t - (k - 1) // 2, n, boundary)
                for c, t, k, n in zip(centre, tap, taps, u.shape, strict=False)
            ]
            if None not in at:
                total += u[tuple(at)] @ stencil[tap]
        out.append(total)
    return np.asarray(out).reshape(*[len(c) for c in centres], -1)


def coarse_points(n, boundary):
    return range(1, n, 2) if boundary == "dirichlet" and n % 2 else range(0, n, 2)


def spread(u, stencil, shape, boundary, beyond):
    """Each coarse point, and those beyond, adds its stencil to the fine grid."""
    fine = np.zeros((*shape, stencil.shape[-1]))
    points = [coarse_points(n, boundary) for n in shape]
    taps = stencil.shape[:-2]
    for index in itertools.product(*[range(-3, m + 3) for m in u.shape[:-1]]):
        at = [outside(i, m, beyond) for i, m in zip(index, u.shape, strict=False)]
        if None in at:
            continue
        for tap in np.ndindex(*taps):
            x = [
                p[0] + 2 * i + t - (k - 1) // 2
                for p, i, t, k in zip(points, index, tap, taps, strict=True)
            ]
            if all(0 <= a < n for a, n in zip(x, shape, strict=True)):
                fine[tuple(x)] += u[tuple(at)] @ stencil[tap]
    return fine


def v_cycle(params, f):
    """Algorithm 1 of the paper, recursively."""
    levels = jax.tree.map(np.asarray, params).levels
    zero_up = params.boundary_up == "zero"
    down = params.boundary
    down = "zeros" if zero_up and down == "dirichlet" else down

    def everywhere(u, stencil):
        return slide(u, stencil, [range(n) for n in u.shape[:-1]], down)

    def smooth(u, f, steps):
        for s in steps:
            rest = f if s.operator is None else f - everywhere(u, s.operator)
            u = u + everywhere(rest, s.smooth)
        return u

    def cycle(j, u, f):
        level = levels[j]
        u = smooth(u, f, level.pre)
        if level.prolong is not None:
            points = [coarse_points(n, down) for n in f.shape[:-1]]
            rest = f if level.operator is None else f - everywhere(u, level.operator)
            coarser = cycle(
                j + 1,
                slide(u, level.restrict_solution, points, down),
                slide(rest, level.restrict_data, points, down),
            )
            beyond = "zeros" if zero_up else down
            u = u + spread(coarser, level.prolong, f.shape[:-1], down, beyond)
        return smooth(u, f, level.post)

    channels = levels[0].pre[0].smooth.shape[-1]
    return cycle(0, np.zeros((*f.shape[:-1], channels)), np.asarray(f))


CASES = [
    *[(b, "same", (7,), 3, 3, "data") for b in BOUNDARIES],
    *[(b, "same", (6, 7), 3, 4, "residual") for b in BOUNDARIES],
    ("dirichlet", "zero", (7, 8), 3, 4, "data"),
    ("periodic", "zero", (8, 4), 3, 3, "data"),
    ("neumann", "same", (5, 4, 3), 2, 3, "data"),
    ("dirichlet", "same", (9,), 5, 6, "residual"),
    ("reflective", "same", (6,), 1, 1, "data"),
]


@pytest.mark.parametrize(
    ("boundary", "boundary_up", "shape", "kernel_size", "prolong_size", "restricts"),
    CASES,
)
def test_the_cycle_is_the_algorithm(
    boundary, boundary_up, shape, kernel_size, prolong_size, restricts
):
    with jax.enable_x64(True):
        params = op.multigrid_init(
            jax.random.key(1),
            2,
            3,
            num_dims=len(shape),
            levels=((2, 1), (1, 1)),
            kernel_size=kernel_size,
            prolong_size=prolong_size,
            restricts=restricts,
            boundary=boundary,
            boundary_up=boundary_up,
            dtype=jnp.float64,
        )
        f = jax.random.normal(jax.random.key(2), (*shape, 2), jnp.float64)
        got = jax.jit(op.multigrid_apply)(params, f)
        np.testing.assert_allclose(got, v_cycle(params, f), rtol=0, atol=1e-13)


@functools.cache
def small(boundary):
    levels = ((1, 0), (1, 1), (1, 1))
    init = functools.partial(op.multigrid_init, levels=levels, boundary=boundary)
    return init(jax.random.key(0), 2, 3, dtype=jnp.float64)


def test_it_is_linear():
    with jax.enable_x64(True):
        params = small("neumann")
        f, g = jax.random.normal(jax.random.key(1), (2, 9, 10, 2), jnp.float64)
        run = jax.jit(functools.partial(op.multigrid_apply, params))
        got, want = run(2.5 * f - g), 2.5 * run(f) - run(g)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)


def test_a_periodic_cycle_commutes_with_shifts():
    with jax.enable_x64(True):
        params = small("periodic")
        f = jax.random.normal(jax.random.key(1), (16, 8, 2), jnp.float64)
        run = jax.jit(functools.partial(op.multigrid_apply, params))
        shifted = run(jnp.roll(f, (4, -4), (0, 1)))  # by the spacing of the coarsest
        want = jnp.roll(run(f), (4, -4), (0, 1))
        np.testing.assert_allclose(shifted, want, rtol=0, atol=1e-13)
        assert (
            float(jnp.abs(run(jnp.roll(f, 1, 0)) - jnp.roll(run(f), 1, 0)).max()) > 0.01
        )


def test_derivatives_in_both_modes():
    with jax.enable_x64(True):
        params = small("reflective")
        f = jax.random.normal(jax.random.key(1), (6, 7, 2), jnp.float64)
        leaves, tree = jax.tree.flatten(params)
        d = [
            jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in leaves
        ]
        direction = jax.tree.unflatten(tree, d)

        def energy(params, f):
            return (op.multigrid_apply(params, f) ** 2).sum()

        energy = jax.jit(energy)
        point, step = (params, f), (direction, jnp.sin(f))
        _, forward = jax.jit(functools.partial(jax.jvp, energy))(point, step)
        by_params, by_f = jax.jit(jax.grad(energy, (0, 1)))(params, f)
        backward = sum(
            (a * b).sum() for a, b in zip(jax.tree.leaves(by_params), d, strict=True)
        )
        backward += (by_f * jnp.sin(f)).sum()
        np.testing.assert_allclose(backward, forward, rtol=1e-12)
        step = 1e-6

        def moved(t):
            p = jax.tree.map(lambda a, b: a + t * b, params, direction)
            return energy(p, f + t * jnp.sin(f))

        difference = (moved(step) - moved(-step)) / (2 * step)
        np.testing.assert_allclose(forward, difference, rtol=1e-8)


def test_the_gradient_of_a_batch_is_one_product_for_all_examples():
    """The parameters have no gradient of each example, summed afterwards."""
    params = op.multigrid_init(jax.random.key(0), 2, 3, levels=((1, 0), (1, 0)))
    x = jnp.ones((7, 8, 8, 2))

    def loss(params, x):
        return (jax.vmap(op.multigrid_apply, (None, 0))(params, x) ** 2).sum()

    jaxpr = str(jax.make_jaxpr(jax.grad(loss))(params, x))
    smooth = params.levels[0].pre[0].smooth
    assert smooth.shape == (3, 3, 2, 3)
    assert "[7,3,3,2,3]" not in jaxpr
    assert "[7,3,3,3,2]" not in jaxpr


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"levels": ()}, ValueError, "`levels` must be at least 1"),
        ({"levels": ((0, 1),)}, ValueError, r"`levels\[0\]\[0\]` must be at least 1"),
        ({"levels": ((1, -1),)}, ValueError, r"`levels\[0\]\[1\]` must be at least 0"),
        ({"kernel_size": 0}, ValueError, "`kernel_size` must be at least 1"),
        ({"kernel_size": 3.0}, TypeError, "`kernel_size` must be an int"),
        ({"num_dims": 4}, ValueError, "`num_dims` must be one of 1, 2, 3"),
        ({"restricts": "both"}, ValueError, "`restricts` must be one of"),
        ({"boundary": "open"}, ValueError, "`boundary` must be one of"),
        ({"boundary_up": "zeros"}, ValueError, "`boundary_up` must be one of"),
        (
            {"prolong_size": (3,)},
            ValueError,
            r"`prolong_size` must .* 5 entries .* got 1",
        ),
        ({"prolong_size": 0}, ValueError, r"`prolong_size\[0\]` must be at least 1"),
        ({"dtype": jnp.int32}, ValueError, "`dtype` must be a real floating"),
    ],
)
def test_refusals_of_init(options, error, message):
    with pytest.raises(error, match="multigrid_init: " + message):
        op.multigrid_init(jax.random.key(0), 1, 1, **options)


def test_refusals_of_apply():
    init = functools.partial(op.multigrid_init, jax.random.key(0), 1, 2)
    params = jax.eval_shape(init)
    for shape in ((64, 1), (64, 64), (3, 64, 64, 1), (64, 64, 2)):
        with pytest.raises(ValueError, match=r"`f` must have shape \(n, n, 1\)"):
            op.multigrid_apply(params, jnp.ones(shape))
    with pytest.raises(ValueError, match=r"enough points for 6 levels.*\(2, 0\)"):
        op.multigrid_apply(params, jnp.ones((64, 15, 1)))
