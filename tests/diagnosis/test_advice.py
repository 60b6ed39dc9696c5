"""What is advised: nothing that the run has or does already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.scenarios.diagnosis.faulty import HALF, flat, lone_spike, nan_from, spoil
from tests.scenarios.diagnosis.logs import NUM, Draft, Make, Rng, draw, healthy
from tests.scenarios.diagnosis.test_runs import by_group, record
from trimtab.diagnosis import Diagnosis, diagnose, diagnose_values

HAND_OVER = "hand it over: `supervisor.check(loss, batch=batch)`, with `compute_loss=` to the Supervisor"
OWN_SUPERVISOR = "trimtab.Supervisor(model, optimizer)"


def fingerprinted(make: Make) -> Make:
    """The same with batches that were handed over, and so are known again."""

    def remake(rng: Rng) -> Draft:
        draft = make(rng)
        draft.columns["batch_fingerprint"] = rng.integers(1, 2**40, NUM).astype(float)
        return draft

    return remake


def clipped(make: Make, clip_norm: float) -> Make:
    """The same of a run that clips."""

    def remake(rng: Rng) -> Draft:
        draft = make(rng)
        draft.manifest = {**draft.manifest, "clip_norm": clip_norm}
        return draft

    return remake


def remedies(diagnosis: Diagnosis) -> dict[str, str]:
    """What is not measured, by what it is."""
    return dict(each.split(": ", 1) for each in diagnosis.not_measured)


def judge_run(folder: Path, make: Make, note: str = "") -> Diagnosis:
    return diagnose(record(folder / "run", draw("run", make, 0), note=note))


def judge_log(make: Make) -> Diagnosis:
    draft = draw("log", make, 0)
    return diagnose_values(draft.measurements(), manifest=draft.manifest)


def test_batch_that_is_handed_over_is_not_asked_for(tmp_path: Path) -> None:
    """Where batches are handed over only `compute_loss` is asked for, and where both are nothing is."""
    bare = judge_run(tmp_path / "bare", nan_from(HALF))
    assert remedies(bare)["the batch once more"] == HAND_OVER
    given = judge_run(tmp_path / "given", fingerprinted(nan_from(HALF)))
    assert remedies(given)["the batch once more"].startswith("the batch is handed over already")
    note = "structural: the loss is nan again, in float32 too; it begins here: log: 0: use log_softmax"
    both = judge_run(tmp_path / "both", fingerprinted(nan_from(HALF)), note)
    assert "the batch once more" not in remedies(both)


def test_batch_that_was_located_counts_as_looked_at(tmp_path: Path) -> None:
    """A gradient that was located has had its batch computed again, though no verdict of a rerun is noted."""
    note = "it begins here: sqrt: the slope at 0: torch.sqrt(x + 1e-8)"
    diagnosis = judge_run(tmp_path, spoil("grad_norm", HALF, np.inf), note)
    assert "the batch once more" not in remedies(diagnosis)


def test_supervised_run_is_not_told_to_take_a_supervisor(tmp_path: Path) -> None:
    """What a supervisor does is advised to a log of another tool alone."""
    for name, make in {"spike": lone_spike(6.0), "flat": flat()}.items():
        assert OWN_SUPERVISOR in judge_log(make).causes[0].fix
        assert OWN_SUPERVISOR not in str(judge_run(tmp_path / name, make))


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        pytest.param(spoil("grad_norm", HALF, 100.0), "clip: `Supervisor(model, optimizer, clip_norm=1.0)`", id="none"),
        pytest.param(
            clipped(spoil("grad_norm", HALF, 100.0), 1.0),
            "clip harder than at 1: `Supervisor(model, optimizer, clip_norm=0.5)`",
            id="at-1",
        ),
    ],
)
def test_clipping_is_advised_by_what_the_run_does(make: Make, advice: str, tmp_path: Path) -> None:
    """A run that clips is told to clip harder, and not to clip."""
    (cause, *_) = judge_run(tmp_path, make).causes
    assert cause.name == "gradient-spike"
    assert cause.fix.startswith(advice)


def test_going_back_is_not_advised_where_the_run_did(tmp_path: Path) -> None:
    """A run that went back by itself is told what is left to do; one that was only watched is told how to go back."""
    weights = by_group(healthy, range(HALF, HALF + 1), weight_norm=(np.nan, 1.0, 1.0))
    (cause, *_) = judge_run(tmp_path, weights).causes
    assert (cause.name, cause.state) == ("weights-not-finite", "mended")
    assert cause.fix.startswith("find what wrote it")
    (watched, *_) = judge_log(weights).causes
    assert watched.fix.startswith("go back to a snapshot")


def test_waiting_for_data_can_be_given_to_a_review(tmp_path: Path) -> None:
    """A supervised run gives the time it waits for data to a review, which is judged like one of each step."""
    assert "supervisor.review(data_seconds=…)" in remedies(judge_run(tmp_path, healthy))["data_seconds"]
    draft = draw("log", healthy, 0)
    draft.review_steps, draft.reviews = np.array([200, 400]), {"data_seconds": np.array([0.07, 0.07])}
    assert diagnose_values(draft.measurements()).causes[0].name == "data-bound"
