"""MgNO with its grid spread over eight devices; run by `test_sharding.py`."""

import jax
import numpy as np

from jaxarch.operators import mgno_apply, mgno_init


def energy(params, u):
    return (mgno_apply(params, u) ** 2).sum()


def main():
    params = mgno_init(
        jax.random.key(0), 1, 1, width=4, num_layers=2, levels=((1, 0), (1, 0), (1, 0))
    )
    u = jax.random.normal(jax.random.key(1), (64, 32, 1))
    want = jax.jit(mgno_apply)(params, u)
    # --8<-- [start:grid]
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    grid = NamedSharding(mesh, P("x", "y"))
    u = jax.device_put(u, grid)  # a part of the grid on each device
    apply = jax.jit(mgno_apply, out_shardings=grid)
    v = apply(params, u)
    # --8<-- [end:grid]
    assert u.addressable_shards[0].data.shape == (16, 16, 1)
    np.testing.assert_allclose(v, want, rtol=0, atol=1e-6)
    program = apply.lower(params, u).compile().as_text()
    # Neighbours exchange the edges of their parts, and no device sees the whole grid.
    assert "collective-permute" in program
    assert "f32[1,64,32," not in program
    got = jax.jit(jax.grad(energy))(params, u)
    alone = jax.jit(jax.grad(energy))(params, jax.device_put(u, jax.devices()[0]))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())
    print("the same on", jax.device_count(), "devices")


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main()
