r"""Does a function of functions converge as its input is sampled more finely?

What makes a network a neural operator, by J. Berner et al., "Principled Approaches for
Extending Neural Architectures to Function Spaces for Operator Learning",
arXiv:2506.10973, section 2: it takes any sampling of a function, its output converges
as the sampling gets finer, and the limit is an operator between functions. The second
is measured here by differences of outputs, the last by where an output comes from: a
convolution with a kernel of fixed pixels converges too, but to a map at each point.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_natural, check_option, check_positive
from ._sampling import BOUNDARIES, resampling

VERDICTS = (
    "exact",
    "converges",
    "collapses",
    "does not converge",
    "diverges",
    "not finite",
)
ORDER = 0.5  # the least order that counts as convergence
SHARED = 8  # points along an axis that suffice for a comparison without interpolation


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResolutionReport:
    r"""What `resolution_report` measured; `print` shows it as a table.

    All changes are relative, to the output at the finer of the two resolutions, in the
    root mean square over the points of comparison, channels included. Lists of changes
    have one entry less than `resolutions`, and one of orders two less.
    """

    resolutions: tuple[int, ...]
    changes: tuple[float, ...]  # from each resolution to the next
    max_changes: tuple[float, ...]  # the largest at any point, in the same unit
    floors: tuple[float, ...]  # what rounding alone may change
    orders: tuple[float, ...]  # of each three resolutions; nan at the floor
    order: float  # fitted to all changes above the floor; nan with fewer than two
    elsewhere: tuple[float, ...]  # response to other points, over all; may be empty
    compared: str  # where outputs were compared
    verdict: str  # one of those that `resolution_report` explains

    @property
    def converges(self) -> bool:
        """Whether the output converges to that of an operator between functions."""
        return self.verdict in ("exact", "converges")

    def __str__(self) -> str:
        rows = [["n", "change", "largest", "order", "elsewhere"]]
        for i, n in enumerate(self.resolutions):
            row = [str(n), "", "", "", ""]
            if i > 0:
                floor = "*" if self.changes[i - 1] <= self.floors[i - 1] else ""
                row[1] = f"{self.changes[i - 1]:.2e}{floor}"
                row[2] = f"{self.max_changes[i - 1]:.2e}"
            if i > 1 and not math.isnan(self.orders[i - 2]):
                row[3] = f"{self.orders[i - 2]:.2f}"
            if self.elsewhere:
                row[4] = f"{self.elsewhere[i]:.3f}"
            rows.append(row)
        if not self.elsewhere:
            rows = [row[:4] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))
            for row in rows
        ]
        starred = any(c <= f for c, f in zip(self.changes, self.floors, strict=True))
        notes = ["* at the floor of rounding"] if starred else []
        return "\n".join([*(line.rstrip() for line in lines), *notes, self._summary()])

    def _summary(self) -> str:
        finest = f"finest change {self.changes[-1]:.1e}, {self.compared}"
        order = "" if math.isnan(self.order) else f" at order {self.order:.1f}"
        return {
            "exact": f"exact: the same at every resolution ({finest})",
            "converges": f"converges{order} ({finest})",
            "collapses": f"collapses{order} to a map at each point ({finest})",
            "does not converge": f"does not converge ({finest})",
            "diverges": f"diverges{order} ({finest})",
            "not finite": "not finite: an output has a NaN or an infinity",
        }[self.verdict]


def resolution_report(
    f: Callable[[Any], Any],
    make_input: Callable[[int], Any],
    resolutions: Sequence[int],
    *,
    boundary: str = "periodic",
    floor: float | None = None,
    num_probes: int = 4,
) -> ResolutionReport:
    r"""Tells whether the output of a function converges as its input gets finer.

    For outputs $v_1, v_2, \dots$ at resolutions $n_1 < n_2 < \dots$ with spacings
    $h_i$, the change $\lVert v_{i+1} - v_i \rVert / \lVert v_{i+1} \rVert$ is that of
    $C h^p$, proportional to $|h_i^p - h_{i+1}^p|$, where $v$ converges at order $p$;
    $p$ is fitted to the logarithms of all changes that are above the floor of rounding.

    **Outputs.** Axes whose length is another at another resolution are those of a grid.
    Grids that have at least 8 points in common along an axis (or all of the coarsest)
    are compared there; others are interpolated to the coarsest with `resample`, so that
    on grids with ends no order above 4 is seen. Outputs of one shape, such as scalars,
    vectors or values at fixed queries, are compared as they are. For clouds of points
    let `f` give its values at fixed queries.

    **Floor.** A change counts as rounding up to 8 times the larger of the machine
    epsilon of the output and what relative noise of that size in the input changes,
    which tells how much `f` amplifies (a derivative, by $1 / h$).

    **Elsewhere.** Where input and output are functions on the grid, `num_probes` times
    a smooth wave that is 0 at one point is added to the input. The response at that
    point comes from other points; it is given relative to the root mean square of the
    response at all points. It falls to 0 with $h$ for a kernel of fixed pixels, and
    stays for derivatives, integrals, attention and spectral layers.

    **Verdict**, the first of these that holds:

    - `"not finite"`: an output has a NaN or an infinity;
    - `"exact"`: no change is above the floor;
    - `"collapses"`: as `"converges"`, but the response to elsewhere falls to less than
      half, and over the last three resolutions at an order of at least 0.5;
    - `"converges"`: the last change is the smallest or not above the floor, and the
      fitted order is at least 0.5 or only one change is above the floor;
    - `"diverges"`: the fitted order is at most -0.5;
    - `"does not converge"`: all else.

    It says what happens between these resolutions for this field, and is no proof: a
    field that the coarsest grid does not resolve has no order yet. `f` runs
    `num_probes` + 2 times at each resolution.

    Args:
        f: Any function of one argument, of JAX or not, deterministic.
        make_input: From a resolution to the argument of `f`, an array or a pytree of
            arrays: the same field at every resolution, such as
            `lambda n: field(grid_points((n, n)))`. Probes want one array of shape
            `(*space, channels)` with n points along each axis of a grid.
        resolutions: Three resolutions or more in increasing order, such as powers of 2,
            plus 1 on grids with ends: these share the points of the coarsest.
        boundary: Whether grids are periodic or have their ends, as in `grid_points`.
        floor: What to take for rounding instead, relative, where `f` computes in less
            precision than its output has (TF32, bfloat16).
        num_probes: The number of probes; 0 for none.

    Returns:
        The report; `report.converges` is a bool.

    Raises:
        ValueError: If an option is not as above, or outputs have no common form.
        TypeError: If a resolution is not an int, or an output is no array.

    Examples:
        >>> from jaxarch.operators import grid_points
        >>> field = lambda n: jnp.exp(jnp.sin(2 * jnp.pi * grid_points((n,))))
        >>> slope = lambda u: (jnp.roll(u, -1, 0) - jnp.roll(u, 1, 0)) * len(u) / 2
        >>> print(resolution_report(slope, field, (16, 32, 64, 128)))
          n    change   largest  order  elsewhere
         16                                 2.486
         32  4.06e-02  7.89e-02             2.556
         64  1.04e-02  2.02e-02   1.96      2.572
        128  2.62e-03  5.07e-03   1.99      2.576
        converges at order 2.0 (finest change 2.6e-03, at 16 shared points)
    """
    where = "resolution_report"
    check_option(where, "boundary", boundary, BOUNDARIES)
    check_natural(where, num_probes=num_probes)
    resolutions = tuple(resolutions)
    check_positive(where, **{f"resolutions[{i}]": n for i, n in enumerate(resolutions)})
    if len(resolutions) < 3 or any(np.diff(resolutions) <= 0):
        raise ValueError(
            f"{where}: `resolutions` must be three numbers or more in increasing "
            f"order, got {resolutions}."
        )
    ends = int(boundary != "periodic")
    outputs, noises, shares, eps = [], [], [], 0.0
    for n in resolutions:
        u = make_input(n)
        v, eps_of_v = _evaluate(where, f, u)
        if not np.isfinite(v).all():
            return _not_finite(resolutions)
        eps = max(eps, eps_of_v)
        noisy, _ = _evaluate(where, f, jax.tree.map(_add_noise, u))
        outputs.append(v)
        noises.append(_relative(noisy, v))
        if num_probes and _is_grid(u, n) and v.shape[: u.ndim - 1] == u.shape[:-1]:
            probes = [_probe(u, i, resolutions[0], ends) for i in range(num_probes)]
            responses = [(_evaluate(where, f, w)[0] - v, at) for w, at in probes]
            shares.append(_share(responses))
    compared, seen = _at_common_points(where, outputs, boundary)
    pairs = list(zip(seen[:-1], seen[1:], strict=True))
    changes = tuple(_relative(a, b) for a, b in pairs)
    floors = tuple(
        8 * max(eps, *pair) if floor is None else float(floor)
        for pair in zip(noises[:-1], noises[1:], strict=True)
    )
    above = [c > least for c, least in zip(changes, floors, strict=True)]
    h = 1 / (np.asarray(resolutions, float) - ends)
    order = _fit(h, changes, above)
    return ResolutionReport(
        resolutions=resolutions,
        changes=changes,
        max_changes=tuple(_relative(a, b, np.max) for a, b in pairs),
        floors=floors,
        orders=tuple(
            _fit(h[i : i + 3], changes[i : i + 2], above[i : i + 2])
            for i in range(len(changes) - 1)
        ),
        order=order,
        elsewhere=tuple(shares),
        compared=compared,
        verdict=_verdict(changes, above, order, h, shares),
    )


def _not_finite(resolutions: tuple[int, ...]) -> ResolutionReport:
    nothing = (math.nan,) * len(resolutions)
    return ResolutionReport(
        resolutions=resolutions,
        changes=nothing[1:],
        max_changes=nothing[1:],
        floors=nothing[1:],
        orders=nothing[2:],
        order=math.nan,
        elsewhere=(),
        compared="nowhere",
        verdict="not finite",
    )


def _evaluate(where: str, f: Callable[[Any], Any], u: Any) -> tuple[np.ndarray, float]:
    """The output in float64, and the machine epsilon of what it was."""
    v = f(u)
    if not hasattr(v, "__array__") and not isinstance(v, (float, int)):
        raise TypeError(
            f"{where}: `f` must give an array, got {type(v).__name__}; let it give one "
            "of its outputs."
        )
    v = np.asarray(v)
    floating = jnp.issubdtype(v.dtype, jnp.floating)
    eps = float(jnp.finfo(v.dtype if floating else jnp.float32).eps)
    return v.astype(np.float64), eps


def _add_noise(a: Any) -> Any:
    """Changes `a` by its machine epsilon, up or down at random."""
    if not isinstance(a, (np.ndarray, jax.Array)):
        return a
    if not jnp.issubdtype(a.dtype, jnp.floating):
        return a
    signs = np.random.default_rng(0).choice([-1.0, 1.0], a.shape)
    factor = 1 + float(jnp.finfo(a.dtype).eps) * signs
    return a * factor.astype(a.dtype)


def _is_grid(u: Any, n: int) -> bool:
    return (
        isinstance(u, (np.ndarray, jax.Array))
        and u.ndim > 1
        and u.shape[:-1] == (n,) * (u.ndim - 1)
        and jnp.issubdtype(u.dtype, jnp.floating)
    )


def _probe(u: Any, index: int, coarsest: int, ends: int) -> tuple[Any, tuple[int, ...]]:
    """`u` and a wave that is 0 at a point of the coarsest grid, and that point."""
    rng = np.random.default_rng(index)
    wave = np.zeros(u.shape[:-1])
    point = []
    for axis, n in enumerate(u.shape[:-1]):
        place = round(rng.uniform(0.25, 0.75) * (coarsest - ends)) / (coarsest - ends)
        point.append(round(place * (n - ends)))
        angle = 2 * np.pi * (np.arange(n) - point[-1]) / (n - ends)
        # Neither even nor odd about the point, as a kernel may be either.
        odd, even = rng.choice([-1.0, 1.0], 2)
        along = odd * np.sin(angle) + even * (1 - np.cos(angle))
        # Of many frequencies, as a filter may let some pass as they are.
        along = along * np.exp(2 * np.cos(angle) - 2)
        wave = wave + np.expand_dims(along, [i for i in range(wave.ndim) if i != axis])
    size = np.sqrt(np.mean(np.asarray(u, np.float64) ** 2)) or 1.0
    wave = wave[..., None] * (size / 2 * rng.uniform(0.5, 1, u.shape[-1]))
    return u + wave.astype(u.dtype), tuple(point)


def _share(responses: list[tuple[np.ndarray, tuple[int, ...]]]) -> float:
    here = np.mean([np.mean(response[at] ** 2) for response, at in responses])
    everywhere = np.mean([np.mean(response**2) for response, _ in responses])
    return float(np.sqrt(here / everywhere)) if everywhere > 0 else 0.0


def _at_common_points(
    where: str, outputs: list[np.ndarray], boundary: str
) -> tuple[str, list[np.ndarray]]:
    """Says where outputs are compared, and gives them there."""
    shapes = [v.shape for v in outputs]
    if len(set(map(len, shapes))) > 1:
        raise ValueError(
            f"{where}: `f` must give outputs of as many axes at every resolution, got "
            f"shapes {', '.join(map(str, shapes))}."
        )
    ends = int(boundary != "periodic")
    words, sizes = "shared points", []
    for axis, lengths in enumerate(zip(*shapes, strict=True)):
        if len(set(lengths)) == 1:
            continue
        if min(lengths) <= ends:
            raise ValueError(
                f"{where}: `f` must give at least {ends + 1} points along an axis of a "
                f"grid, got shapes {', '.join(map(str, shapes))}."
            )
        common = math.gcd(*(m - ends for m in lengths))
        if common + ends >= min(SHARED, *lengths):
            steps = [(m - ends) // common for m in lengths]
            outputs = [
                v[(slice(None),) * axis + (slice(None, None, step),)]
                for v, step in zip(outputs, steps, strict=True)
            ]
        else:
            words, coarsest = "points, interpolated", min(lengths)
            method = "cubic" if ends else "spectral"
            outputs = [
                np.moveaxis(
                    np.tensordot(
                        resampling(v.shape[axis], coarsest, boundary, method),
                        v,
                        axes=(1, axis),
                    ),
                    0,
                    axis,
                )
                for v in outputs
            ]
        sizes.append(str(outputs[0].shape[axis]))
    if not sizes:
        count = outputs[0].size
        return f"{count} value{'s' * (count != 1)}", outputs
    return f"at {' x '.join(sizes)} {words}", outputs


def _relative(
    a: np.ndarray, b: np.ndarray, mean: Callable[[np.ndarray], Any] = np.mean
) -> float:
    """The distance of `a` from `b`, relative to the root mean square of `b`."""
    size = float(np.sqrt(np.mean(b**2)))
    gap = float(np.sqrt(mean((a - b) ** 2)))
    return gap / size if size > 0 else (0.0 if gap == 0 else math.inf)


def _fit(h: np.ndarray, changes: Sequence[float], above: Sequence[bool]) -> float:
    r"""The order $p$ for which changes are nearest to $C |h_i^p - h_{i+1}^p|$."""
    kept = np.asarray(above, bool) & np.isfinite(changes)
    if kept.sum() < 2:
        return math.nan
    log_h, log_change = np.log(h), np.log(np.asarray(changes)[kept])

    def misfit(p: np.ndarray) -> np.ndarray:
        powers = p[:, None] * log_h[:-1]
        gaps = np.abs(np.expm1(p[:, None] * np.diff(log_h)) / p[:, None])
        return np.var(log_change - (powers + np.log(gaps))[:, kept], axis=1)

    low, high = -20.0, 40.0
    for _ in range(4):  # to a hundredth and less; an even number of steps misses 0
        p = np.linspace(low, high, 200)
        best = p[np.argmin(misfit(np.where(p == 0, 1e-9, p)))]
        low, high = best - p[1] + p[0], best + p[1] - p[0]
    return float(best)


def _verdict(
    changes: Sequence[float],
    above: list[bool],
    order: float,
    h: np.ndarray,
    shares: Sequence[float],
) -> str:
    if not any(above):
        return "exact"
    settled = not above[-1] or changes[-1] == min(changes)
    if settled and (order >= ORDER or sum(above) == 1):
        if shares and shares[0] > 1e-3 and shares[-1] < shares[0] / 2:
            logs = np.log(np.maximum(shares[-3:], 1e-12))
            if np.polyfit(np.log(h[-3:]), logs, 1)[0] >= ORDER:
                return "collapses"
        return "converges"
    return "diverges" if order <= -ORDER else "does not converge"
