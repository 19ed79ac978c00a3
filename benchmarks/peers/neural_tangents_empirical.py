"""The neural-tangents side of `empirical_ntk.py`: runs in the peer's own environment.

It is started by that script and answers its commands (`_harness.serve`).
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def build(spec):
    """Returns the peer's empirical NTK as `(function, leading arguments)`."""
    import _networks
    import jax
    import neural_tangents as nt

    f, params = _networks.build(spec["network"])
    kernel = nt.empirical_ntk_fn(
        lambda params, x: jax.vmap(lambda one: f(params, one))(x),
        trace_axes=(-1,) if spec["trace_outputs"] else (),
        vmap_axes=0,
        implementation=nt.NtkImplementation[spec["method"].upper()],
    )
    return lambda params, x1, x2: _networks.Result(kernel(x1, x2, params)), (params,)


def main():
    import _harness
    import neural_tangents  # noqa: F401  (its import belongs to the time to be ready)

    _harness.serve(build, ("neural-tangents", "tensorflow"), fields=("ntk",))


if __name__ == "__main__":
    main()
