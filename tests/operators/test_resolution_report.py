"""Orders, verdicts and the floor of rounding, on functions that are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch.operators import resolution_report


def circle(n, dtype=np.float64):
    x = np.arange(n) / n
    return np.exp(np.sin(2 * np.pi * x))[:, None].astype(dtype)


def interval(n):
    return np.exp(np.linspace(0, 1, n))[:, None]


def square(n):
    x, y = np.mgrid[:n, :n] / n
    return np.stack([np.sin(2 * np.pi * (x + y)), np.cos(2 * np.pi * y)], -1)


def slope(u):
    """Central differences, of second order."""
    return (np.roll(u, -1, 0) - np.roll(u, 1, 0)) * (len(u) / u.dtype.type(2))


def moving_average(u):
    """A convolution of three pixels."""
    return np.roll(u, -1, 0) / 2 + u / 3 + np.roll(u, 1, 0) / 6


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("resolutions", [(16, 32, 64), (8, 24, 40, 80)])
def test_orders_are_those_that_were_put_in(order, resolutions):
    def f(u):
        return u + 0.01 * len(u) ** -float(order) * u**2

    report = resolution_report(f, circle, resolutions)
    assert report.order == pytest.approx(order, abs=0.01)
    assert report.orders == pytest.approx([order] * len(report.orders), abs=0.01)
    assert report.verdict == "converges"
    assert report.converges
    # The formula of the changes, in full.
    coarse, fine = (f(circle(n))[:: n // 8] for n in resolutions[-2:])
    if resolutions[0] == 8:
        want = np.sqrt(np.mean((coarse - fine) ** 2) / np.mean(fine**2))
        largest = np.abs(coarse - fine).max() / np.sqrt(np.mean(fine**2))
        assert report.changes[-1] == pytest.approx(want, rel=1e-9)
        assert report.max_changes[-1] == pytest.approx(largest, rel=1e-9)


def test_table():
    report = resolution_report(slope, circle, (16, 32, 64, 128))
    lines = str(report).splitlines()
    assert lines[0].split() == ["n", "change", "largest", "order", "elsewhere"]
    assert [line.split()[0] for line in lines[1:5]] == ["16", "32", "64", "128"]
    assert lines[4].split()[1] == f"{report.changes[-1]:.2e}"
    assert lines[5].startswith("converges at order 2.0 (finest change ")
    assert lines[5].endswith("at 16 shared points)")
    assert len(lines) == 6


def test_a_convolution_of_pixels_collapses_and_a_derivative_does_not():
    report = resolution_report(moving_average, circle, (32, 64, 128))
    assert report.verdict == "collapses"
    assert not report.converges
    assert report.order == pytest.approx(1, abs=0.1)
    halves = np.divide(report.elsewhere[1:], report.elsewhere[:-1])
    np.testing.assert_allclose(halves, 0.5, atol=0.05)
    assert "collapses at order 1.1 to a map at each point" in str(report)

    report = resolution_report(slope, circle, (32, 64, 128))
    assert report.verdict == "converges"
    # Wherever the wave is put, its slope at its zero over that at all points.
    angle = 2 * np.pi * np.arange(1000) / 1000
    wave = (np.sin(angle) + 1 - np.cos(angle)) * np.exp(2 * np.cos(angle) - 2)
    slopes = np.gradient(wave, angle)
    want = 1 / np.sqrt(np.mean(slopes**2))
    np.testing.assert_allclose(report.elsewhere[-1], want, rtol=0.01)
    np.testing.assert_allclose(report.elsewhere, want, rtol=0.03)
    # In two dimensions, along the second axis alone.
    for f, verdict in ((moving_average, "collapses"), (slope, "converges")):
        along = lambda u, f=f: np.swapaxes(f(np.swapaxes(u, 0, 1)), 0, 1)  # noqa: E731
        report = resolution_report(along, square, (16, 32, 64))
        assert report.verdict == verdict
        assert report.compared == "at 16 x 16 shared points"


def test_maps_at_points_and_spectral_layers_are_exact():
    report = resolution_report(np.tanh, circle, (8, 16, 32))
    assert report.verdict == "exact"
    assert report.converges
    assert math.isnan(report.order)
    assert max(report.elsewhere) < 1e-12

    def low_pass(u):
        spectrum = np.fft.rfft(u, axis=0, norm="forward")
        spectrum[3:] = 0
        return np.fft.irfft(spectrum, len(u), axis=0, norm="forward")

    report = resolution_report(low_pass, circle, (32, 64, 128))
    assert report.verdict == "exact"
    assert min(report.elsewhere) > 0.1
    assert "exact: the same at every resolution" in str(report)


def test_what_has_no_limit():
    def flips(u):
        return u * (-1 if len(u) == 64 else 1)

    report = resolution_report(flips, circle, (32, 64, 128))
    assert report.verdict == "does not converge"
    # The differences of neighbouring pixels go to 0 and stay apart in their own size.
    report = resolution_report(lambda u: np.roll(u, -1, 0) - u, circle, (32, 64, 128))
    assert report.verdict == "does not converge"
    assert report.changes[-1] == pytest.approx(1, abs=0.1)
    assert "does not converge (finest" in str(report)

    report = resolution_report(lambda u: u + len(u) ** 2 * 1e-9, circle, (32, 64, 128))
    assert report.verdict == "diverges"
    assert report.order == pytest.approx(-2, abs=0.05)
    assert "diverges at order -2.0" in str(report)

    report = resolution_report(
        lambda u: u * (np.nan if len(u) == 64 else 1), circle, (32, 64, 128)
    )
    assert report.verdict == "not finite"
    assert str(report).endswith("not finite: an output has a NaN or an infinity")


def test_the_floor_of_float32_is_found_also_where_rounding_grows():
    resolutions = (32, 128, 512, 2048, 8192)

    def single(n):
        return circle(n, np.float32)

    report = resolution_report(slope, single, resolutions)
    assert report.verdict == "converges"
    assert report.order == pytest.approx(2, abs=0.1)
    assert report.changes[-1] > report.changes[-2]  # rounding, times n
    assert report.changes[-1] <= report.floors[-1]
    assert math.isnan(report.orders[-1])
    assert "* at the floor of rounding" in str(report)

    # One change above the floor, and then none.
    report = resolution_report(lambda u: u + 0.1 ** len(u), single, (2, 16, 32))
    assert report.verdict == "converges"
    assert math.isnan(report.order)

    # A computation in less precision than its output has.
    def coarse(u):
        return np.float32(np.float16(u + np.float32(1e-4) / len(u)))

    report = resolution_report(coarse, single, (32, 64, 128), floor=2e-3)
    assert report.verdict == "exact"
    assert report.floors == (2e-3, 2e-3)


def test_other_points_are_interpolated():
    report = resolution_report(slope, circle, (31, 47, 80))
    assert report.compared == "at 31 points, interpolated"
    assert report.order == pytest.approx(2, abs=0.1)

    def f(u):
        h = 1 / (len(u) - 1)
        return u + h**3 * np.cos(u)

    for resolutions, compared in (
        ((17, 33, 65), "at 17 shared points"),
        ((60, 87, 121), "at 60 points, interpolated"),
    ):
        report = resolution_report(f, interval, resolutions, boundary="neumann")
        assert report.compared == compared
        assert report.order == pytest.approx(3, abs=0.1)


def test_scalars_vectors_and_values_at_queries():
    def trapezoid(u):
        h = 1 / (len(u) - 1)
        return h * (u.sum() - (u[0, 0] + u[-1, 0]) / 2)

    report = resolution_report(trapezoid, interval, (9, 17, 33), boundary="dirichlet")
    assert report.compared == "1 value"
    assert report.order == pytest.approx(2, abs=0.02)
    assert report.elsewhere == ()
    assert "elsewhere" not in str(report)
    end = resolution_report(
        lambda u: float(np.mean(u)), interval, (9, 17, 33), boundary="neumann"
    )
    assert end.order == pytest.approx(1, abs=0.1)
    vector = resolution_report(
        lambda u: np.stack([u.mean(), (u**2).mean()]), circle, (8, 12, 16, 32)
    )
    assert vector.compared == "2 values"
    assert vector.verdict == "converges"


def test_any_kind_of_function_and_input():
    def cloud(n):
        return {"y": np.arange(n) / n, "u": circle(n), "k": 3}

    report = resolution_report(lambda c: (c["u"] ** c["k"])[::1], cloud, (8, 16, 32))
    assert report.verdict == "exact"
    assert report.elsewhere == ()

    @jax.jit
    def smooth(u):
        return (jnp.roll(u, 1, 0) + jnp.roll(u, -1, 0)) / jnp.asarray(2, u.dtype)

    def make(n):
        return jnp.asarray(circle(n), jnp.bfloat16)

    report = resolution_report(smooth, make, (16, 32, 64), num_probes=0)
    assert report.elsewhere == ()
    assert report.floors[0] >= 8 * 2**-8
    counts = resolution_report(lambda u: (u > 1).mean(0) > 2, circle, (8, 16, 32))
    assert counts.verdict == "exact"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: resolution_report(slope, circle, (16, 32)),
            ValueError,
            r"`resolutions` must be three numbers or more in increasing",
        ),
        (
            lambda: resolution_report(slope, circle, (16, 32, 32)),
            ValueError,
            "in increasing order",
        ),
        (
            lambda: resolution_report(slope, circle, (16, 32.0, 64)),
            TypeError,
            r"`resolutions\[1\]` must be an int",
        ),
        (
            lambda: resolution_report(slope, circle, (16, 32, 64), boundary="open"),
            ValueError,
            "`boundary` must be one of",
        ),
        (
            lambda: resolution_report(slope, circle, (16, 32, 64), num_probes=-1),
            ValueError,
            "`num_probes` must be at least 0",
        ),
        (
            lambda: resolution_report(lambda u: (u, u), circle, (16, 32, 64)),
            TypeError,
            "`f` must give an array, got tuple; let it give one of its outputs",
        ),
        (
            lambda: resolution_report(
                lambda u: u if len(u) > 16 else u[0], circle, (16, 32, 64)
            ),
            ValueError,
            r"as many axes at every resolution, got shapes \(1,\), \(32, 1\)",
        ),
        (
            lambda: resolution_report(
                lambda u: u[: len(u) // 16], circle, (16, 32, 64), boundary="neumann"
            ),
            ValueError,
            "`f` must give at least 2 points along an axis of a grid",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
