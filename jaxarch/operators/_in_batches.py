"""Samples of a data set, a batch at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray


def in_batches(
    sample: Callable[[PRNGKeyArray], Any],
    key: PRNGKeyArray,
    num_samples: int,
    *,
    batch_size: int,
    what: str,
    shown: bool,
    dtype: DTypeLike,
) -> Any:
    """Stacks `sample(key_i)` for `num_samples` keys; key i does not depend on it."""
    batch_size = min(batch_size, num_samples)

    @jax.jit
    def batch(start: jax.Array) -> Any:
        numbers = start + jnp.arange(batch_size)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers)
        rows = jax.vmap(sample)(keys)
        return jax.tree.map(lambda a: a.astype(dtype), rows)

    rows = []
    bar = _bar(shown, num_samples, what)
    for start in range(0, num_samples, batch_size):
        rows.append(jax.block_until_ready(batch(jnp.asarray(start))))
        bar.update(min(batch_size, num_samples - start))
    bar.close()
    return jax.tree.map(lambda *a: jnp.concatenate(a)[:num_samples], *rows)


class _Silent:
    def update(self, count: int) -> None:
        pass

    def close(self) -> None:
        pass


def _bar(shown: bool, total: int, what: str) -> Any:
    if shown and jax.process_index() == 0:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return _Silent()
        return tqdm(total=total, desc=what, unit="sample")
    return _Silent()
