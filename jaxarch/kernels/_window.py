"""Windows that slide over positions, and the arrays that they slide over.

An array of pairs has one of two layouts. In a *plain* one, `(*space, ...)`, each entry
belongs to one position of the first example, and to that of the second example which
lies at some offset from it (`_spatial.py`). In an *absolute* one,
`(*space, *space, ...)`, both positions have axes of their own. A window moves both
positions of a pair together, so that an operation needs one rule for both layouts.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class Layout(NamedTuple):
    """Where the axes of the positions are in arrays of both sides and of pairs."""

    ndim: int = 0  # number of spatial axes
    absolute: bool = False
    # Gives the roots of the second examples with `pads` more positions on all sides,
    # where these are not zeros.
    around: Callable[[Sequence[tuple[int, int]]], Array] | None = None

    @property
    def one(self) -> tuple[int, ...]:
        """First axes of the positions, in what belongs to the first examples."""
        return (0,)

    @property
    def two(self) -> tuple[int, ...]:
        """The same in what belongs to the second examples."""
        return (self.ndim if self.absolute else 0,)

    @property
    def both(self) -> tuple[int, ...]:
        """The same in pairs."""
        return (0, self.ndim) if self.absolute else (0,)


@dataclasses.dataclass(frozen=True)
class Window:
    """Sizes of a window, the steps between windows, and what lies outside.

    `dilation` puts that many steps between neighbouring inputs: with strides of 1 a
    transposed convolution.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str
    dilation: tuple[int, ...] = ()

    @property
    def taps(self) -> int:
        """Positions under the window."""
        count = 1
        for size in self.sizes:
            count *= size
        return count

    def pads(self, space: Sequence[int]) -> list[tuple[int, int]]:
        """Positions added before and after each axis."""
        if self.dilation:
            return [
                _transposed_pads(k, s, self.padding)
                for k, s in zip(self.sizes, self.dilation, strict=True)
            ]
        if self.padding == "VALID":
            return [(0, 0)] * len(space)
        pads = []
        for n, k, s in zip(space, self.sizes, self.strides, strict=True):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            pads.append((total // 2, total - total // 2))
        return pads

    def out(self, space: Sequence[int]) -> tuple[int, ...]:
        """Number of windows along each axis."""
        dilation = self.dilation or (1,) * len(space)
        return tuple(
            ((n - 1) * d + 1 + low + high - k) // s + 1 if n else 0
            for n, d, (low, high), k, s in zip(
                space, dilation, self.pads(space), self.sizes, self.strides, strict=True
            )
        )

    def pad(self, array: Array, space: Sequence[int], starts: Sequence[int]) -> Array:
        """Adds what lies outside to all axes of positions."""
        pads = self.pads(space)
        if self.padding == "CIRCULAR":
            for start in starts:
                for i, (low, high) in enumerate(pads):
                    index = jnp.arange(-low, space[i] + high) % space[i]
                    array = jnp.take(array, index, axis=start + i)
            return array
        dilation = self.dilation or (1,) * len(space)
        config = [(0, 0, 0)] * array.ndim
        for start in starts:
            for i, (low, high) in enumerate(pads):
                config[start + i] = (low, high, dilation[i] - 1)
        return jax.lax.pad(array, jnp.zeros((), array.dtype), config)

    def take(
        self,
        padded: Array,
        tap: Sequence[int],
        space: Sequence[int],
        starts: Sequence[int],
    ) -> Array:
        """Entry `tap` of every window of a padded array."""
        for start in starts:
            for i, n in enumerate(self.out(space)):
                stride, axis = self.strides[i], start + i
                end = tap[i] + (n - 1) * stride + 1
                padded = jax.lax.slice_in_dim(padded, tap[i], end, stride, axis)
        return padded

    def sum(self, array: Array, space: Sequence[int]) -> Array:
        """Sums over each window; the positions are the leading axes."""
        array = self.pad(array, space, (0,))
        for i, n in enumerate(self.out(space)):
            reach = (n - 1) * self.strides[i] + 1
            array = sum(
                jax.lax.slice_in_dim(array, k, k + reach, self.strides[i], axis=i)
                for k in range(self.sizes[i])
            )  # pyright: ignore
        return array

    def mask(self, where: str, mask: Array, space: Sequence[int], taps: int) -> Array:
        """Which windows belong to an example, 1 or 0, `(*space, ...)`.

        VALID ones that cover `taps` of its positions, and of SAME ones those whose
        stride begins at one of them: with all taps, as many as the example has when
        nothing is absent. A transposed window reaches from its position onwards.

        Args:
            where: The operation, for the message.
            mask: Of the positions, 1 or 0, `(*space, ...)`.
            space: The positions.
            taps: Positions that a VALID window must cover.
        """
        if self.padding == "CIRCULAR":
            raise NotImplementedError(
                f"{where}: padding='CIRCULAR' has no kernel with masks; the circle of "
                "a padded example is not its own."
            )
        same = self.padding == "SAME"
        if self.dilation:
            for i, stride in enumerate(self.dilation):
                mask = jnp.repeat(mask, stride, i)
                if not same:
                    mask = _reaching(mask, i, max(self.sizes[i] - stride, 0))
            return mask
        if same:
            return mask[tuple(slice(None, None, s) for s in self.strides)]
        return (self.sum(mask, space) >= taps).astype(mask.dtype)

    def fold(
        self,
        step: Callable[[Any, Any, Any, Any], Any],
        start: Any,
        one: Any,
        two: Any,
        pair: Any,
        space: Sequence[int],
        layout: Layout,
    ) -> Any:
        """Folds `step(carry, one, two, pair)` over the entries of all windows.

        The padded arrays stand behind a barrier: XLA would otherwise compute them anew
        for every entry that reads them. (A loop over entries, with slices that begin at
        its counter, is nine times slower on a CPU than these slices.)
        """
        trees = ((one, layout.one), (two, layout.two), (pair, layout.both))
        padded = [
            jax.tree.map(lambda a, s=starts: self.pad(a, space, s), tree)
            for tree, starts in trees
        ]
        if layout.around is not None:
            padded[1] = layout.around(self.pads(space))
        padded = jax.lax.optimization_barrier(padded)
        for tap in itertools.product(*map(range, self.sizes)):
            taken = [
                jax.tree.map(lambda a, s=starts: self.take(a, tap, space, s), tree)  # noqa: B023
                for tree, (_, starts) in zip(padded, trees, strict=True)
            ]
            start = step(start, *taken)
        return start


def _reaching(mask: Array, axis: int, reach: int) -> Array:
    """Longer by `reach`: every 1 is followed by that many others."""
    pads = [(0, 0)] * mask.ndim
    found = []
    for k in range(reach + 1):
        pads[axis] = (k, reach - k)
        found.append(jnp.pad(mask, pads))
    return functools.reduce(jnp.maximum, found)


def _transposed_pads(size: int, stride: int, padding: str) -> tuple[int, int]:
    """Padding of the dilated input, such that SAME gives `stride` times the size."""
    if padding == "SAME":
        total = size + stride - 2
        low = size - 1 if stride > size - 1 else -(-total // 2)
    else:
        total = size + stride - 2 + max(size - stride, 0)
        low = size - 1
    return low, total - low


def spatial_tuple(where: str, name: str, value: Any, ndim: int) -> tuple[int, ...]:
    """Checks positive ints, one an axis; a single one serves all axes."""
    values = (value,) * ndim if isinstance(value, int) else tuple(value)
    if len(values) != ndim or any(not isinstance(v, int) or v < 1 for v in values):
        raise ValueError(
            f"{where}: `{name}` must be {ndim} positive ints, got {value!r}."
        )
    return values
