"""The quickstart: its scores on cases done by hand, and a small run of all of it."""

import json
import math
import os
import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest

for extra in ("matplotlib", "optax", "scipy", "sklearn", "tqdm"):
    pytest.importorskip(extra)

SCRIPT = pathlib.Path(__file__).parent.parent / "examples" / "quickstart.py"
MODELS = (
    "GP, NNGP",
    "GP, NTK",
    "finite network",
    "GP, RBF (sklearn)",
    "SVM, RBF (sklearn)",
)


@pytest.fixture(scope="module")
def quickstart():
    return runpy.run_path(str(SCRIPT))


# Confidences 0.75, 0.75 (one right), 0.95 (right) and 1 (right), in ten bins.
PROBABILITIES = np.array([[0.75, 0.25], [0.25, 0.75], [0.05, 0.95], [1.0, 0.0]])
LABELS = np.array([0, 0, 1, 0])


def test_reliability_counts_bins(quickstart):
    count, confidence, accuracy = quickstart["reliability"](PROBABILITIES, LABELS)
    np.testing.assert_array_equal(count, [0, 0, 0, 0, 0, 0, 0, 2, 0, 2])
    np.testing.assert_allclose(confidence[[7, 9]], [0.75, 0.975])
    np.testing.assert_allclose(accuracy[[7, 9]], [0.5, 1.0])


def test_calibration_error(quickstart):
    error = quickstart["calibration_error"]
    # Two examples 0.25 too sure, two 0.025 not sure enough.
    assert math.isclose(error(PROBABILITIES, LABELS), (0.25 + 0.025) / 2)
    certain = np.eye(2)[LABELS]
    assert error(certain, LABELS) == 0
    assert error(certain, 1 - LABELS) == 1


def test_negative_log_likelihood(quickstart):
    nll = quickstart["negative_log_likelihood"]
    wanted = -(math.log(0.75) + math.log(0.25) + math.log(0.95)) / 4
    assert math.isclose(nll(PROBABILITIES, LABELS), wanted)
    # A probability of 0 counts as the smallest normal number.
    assert 700 < nll(np.eye(2)[[1]], np.array([0])) < 710


def test_split_is_a_permutation_that_the_seed_decides(quickstart):
    split = quickstart["split"]
    x, labels, x_test, test_labels = split(0)
    assert x.shape == (1400, 64)
    assert x_test.shape == (397, 64)
    assert x.min() == -1
    assert x.max() == 1
    # Every image is there once: the counts of the classes are those of the data.
    every = np.bincount(np.concatenate([labels, test_labels]))
    np.testing.assert_array_equal(
        every, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )
    assert len(np.unique(np.concatenate([x, x_test]), axis=0)) == 1797
    np.testing.assert_array_equal(split(0)[1], labels)
    assert (split(1)[1] != labels).any()
    # Fewer training images are the first of them, for the same test.
    small = split(0, 100)
    np.testing.assert_array_equal(small[0], x[:100])
    np.testing.assert_array_equal(small[2], x_test)


def test_targets_have_mean_zero(quickstart):
    targets = quickstart["one_hot"](LABELS)
    np.testing.assert_allclose(targets.sum(1), 0, atol=1e-15)
    np.testing.assert_array_equal(targets.argmax(1), LABELS)


def test_summary_and_table(quickstart):
    scores = {"accuracy": 0.5, "NLL": 1.0, "ECE": 0.25}
    runs = [
        {
            "a": scores | {"evidence": -8.0, "seconds": 9.0},
            "b": scores | {"seconds": 1},
        },
        {
            "a": scores | {"evidence": -4.0, "seconds": 1.0},
            "b": scores | {"seconds": 1},
        },
        {
            "a": scores | {"evidence": -3.0, "seconds": 2.0},
            "b": scores | {"seconds": 1},
        },
    ]
    summary = quickstart["summarise"](runs)
    assert summary["a"] == scores | {"evidence": -5.0, "seconds": 2.0}
    rows = [line.split() for line in quickstart["table"](summary).splitlines()]
    assert rows[0] == ["accuracy", "NLL", "ECE", "evidence", "seconds"]
    assert rows[1] == ["a", "0.5000", "1.0000", "0.2500", "-5", "2.0"]
    assert rows[2] == ["b", "0.5000", "1.0000", "0.2500", "-", "1.0"]


@pytest.mark.slow
def test_small_run(tmp_path):
    picture, results = tmp_path / "picture.png", tmp_path / "results.json"
    command = [sys.executable, SCRIPT, "--train", "300"]
    done = subprocess.run(
        [*command, "--output", picture, "--results", results],
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parent.parent)},
        check=True,
        capture_output=True,
        text=True,
    )
    for model in MODELS:
        assert model in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    kept = json.loads(results.read_text())
    assert tuple(kept["mean"]) == MODELS
    for model in MODELS:
        assert kept["mean"][model]["accuracy"] > 0.9
        assert kept["mean"][model]["NLL"] < 0.5
    learned = kept["splits"][0]["GP, NTK"]["learned"]
    assert tuple(learned) == ("w_std", "b_std", "readout", "noise_std")
