"""`batch-repeat`: loaders that give the same batches again and again, and training on few batches on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import pytest

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement


def watch(batches: Sequence[float], **settings: float) -> list[Finding]:
    """Judge each batch, given as its fingerprint, in turn."""
    history, found = History(), list[Finding]()
    for step, batch in enumerate(batches, 1):
        history.append(Measurement(step, {"batch_fingerprint": batch}))
        found += detect(history, {"batch-repeat": settings})
        history.close(accepted=True)
    return found


NEW = [float(each) for each in range(100, 200)]


@pytest.mark.parametrize(
    ("batches", "steps"),
    [
        pytest.param([*NEW[:40], 1, 2, 1, 3, 1, 4, 1], [47], id="fourth-time"),
        pytest.param([*NEW[:40], 1, 1, 1, 1, 1], [44, 45], id="as-long-as-it-lasts"),
        pytest.param([1, *NEW[:10], 1, *NEW[10:20], 1, *NEW[20:30], 1], [34], id="within-the-window"),
    ],
)
def test_reports(batches: list[float], steps: list[int]) -> None:
    """A batch that was there three times among others is found at its fourth."""
    assert [each.step for each in watch(batches)] == steps


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([], id="none"),
        pytest.param(NEW, id="all-different"),
        pytest.param([*NEW[:40], 1, 1, 1], id="three-times"),
        pytest.param([1] * 100, id="one-batch-on-purpose"),
        pytest.param([1, 2, 3] * 30, id="whole-small-data-each-epoch"),
        pytest.param([1, 2, 3, 3, 1, 2, 2, 3, 1] * 8, id="whole-small-data-shuffled"),
        pytest.param([1, *NEW[:50], 1, *NEW[50:], 1, *NEW[:50], 1], id="far-apart"),
        pytest.param([nan] * 100, id="batches-without-tensors"),
    ],
)
def test_stays_silent(batches: list[float]) -> None:
    """New batches, and training on the whole of small data, are no repeats."""
    assert watch(batches) == []


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        pytest.param({}, [47], id="default"),
        pytest.param({"times": 2}, [45, 47], id="fewer-times"),
        pytest.param({"times": 4}, [], id="more-times"),
        pytest.param({"window": 5}, [], id="shorter-window"),
    ],
)
def test_settings(settings: dict[str, float], steps: list[int]) -> None:
    """Each setting does what the manual page says."""
    assert [each.step for each in watch([*NEW[:40], 1, 2, 1, 3, 1, 4, 1], **settings)] == steps


def test_finding_says_how_often() -> None:
    """The finding counts."""
    (found,) = watch([*NEW[:46], 1, 1, 1, 1])
    assert (found.metric, found.value, found.limit, found.severity) == ("batch_fingerprint", 3.0, 3.0, "medium")
    assert found.message == "the batch of this step was there 3 times in the last 49 steps"
    assert not found.in_state


def test_not_asked_without_a_batch() -> None:
    """Where `check` is not given the batch there is nothing to judge."""
    history = History()
    history.append(Measurement(1, {"loss": 1.0}))
    assert detect(history, {"batch-repeat": {}}) == ()
