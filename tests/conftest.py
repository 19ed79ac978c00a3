"""Settings for all tests: strict promotion of dtypes and ranks, four CPU devices."""

import os

import hypothesis
import jax
import pytest

# Compiling is most of the time of these tests: here LLVM optimises little, and the HLO
# stays what users run. The gate compares with references in full optimisation, too.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for processes that tests start
    if jax.__version_info__[:2] == (0, 10):  # later versions do not know the flag
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a shape compiles, so time per example says nothing.
hypothesis.settings.register_profile("jaxarch", deadline=None, max_examples=20)
hypothesis.settings.load_profile("jaxarch")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs of all files together would take 6 GB a process."""
    yield
    jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(0)
