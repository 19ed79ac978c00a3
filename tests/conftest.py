"""Settings for all tests: strict promotion of dtypes and ranks, four CPU devices."""

import hypothesis
import jax
import pytest

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
