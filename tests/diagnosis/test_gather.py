"""From records to series: what was repeated, restarted or lost is put right, and a run folder is read in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.diagnosis.evidence import NOTHING, Evidence, Series
from trimtab.diagnosis.folder import MOST_DECISIONS, gather_run, read_events
from trimtab.diagnosis.gather import find_kept, gather_values, replay_detectors
from trimtab.errors import RunFormatError
from trimtab.journal import JOURNAL, Journal, describe_run, format_event, read_run
from trimtab.types import Action, Decision, Finding, Measurement, Record


def gather(steps: Sequence[int], **manifest: Any) -> Evidence:
    """The evidence of a log whose loss is the number of the record."""
    made = [Measurement(step, {"loss": float(row)}) for row, step in enumerate(steps)]
    return gather_values(made, manifest=manifest)


def find(detector: str, step: int) -> Finding:
    return Finding(metric="loss", value=nan, limit=nan, message="", detector=detector, severity="high", step=step)


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        pytest.param([1, 2, 3], [0, 1, 2], id="in-order"),
        pytest.param([], [], id="nothing"),
        pytest.param([1, 2, 3, 2, 3, 4], [0, 3, 4, 5], id="restarted"),
        pytest.param([1, 1, 2, 2], [1, 3], id="each-twice"),
        pytest.param([1, 2, 3, 1, 2], [3, 4], id="begun-anew"),
        pytest.param([5, 9, 7, 8, 6, 7], [0, 4, 5], id="restarted-twice"),
    ],
)
def test_what_was_done_again_counts_once(steps: list[int], kept: list[int]) -> None:
    """Where the steps go back, what came before is left out; of a step's records the last counts."""
    assert gather(steps).metric("loss").values.tolist() == [float(row) for row in kept]
    assert find_kept(np.array(steps, dtype=np.int64)).sum() >= len(kept)


def test_repairs_are_told() -> None:
    """Repeats, restarts and gaps are counted."""
    repairs = gather([*range(1, 51), *range(40, 60), 60, 60, *range(100, 140)]).repairs
    assert repairs.restarts == ((50, 40),)
    assert repairs.num_repeated == 1
    assert repairs.gaps == ((60, 100),)
    assert repairs.num_missing == 39


def test_every_tenth_step_is_no_gap() -> None:
    """Distances are compared with the usual one."""
    assert gather(range(0, 1000, 10)).repairs.gaps == ()


def test_metrics_of_one_step_may_come_in_several_records() -> None:
    """Two records of a step with different metrics are no repeats; both count."""
    made = [Measurement(1, {"loss": 1.0}), Measurement(1, {"grad_norm": 2.0}), Measurement(2, {"loss": nan})]
    evidence = gather_values(made)
    assert evidence.metric("grad_norm").steps.tolist() == [1]
    assert evidence.metric("loss").steps.tolist() == [1, 2]
    assert evidence.repairs.num_repeated == 0


def test_nan_is_a_value_and_absence_is_none() -> None:
    """A metric that is not a number is in its series; one that was not measured is not."""
    evidence = gather_values([Measurement(1, {"loss": nan}), Measurement(2, {})])
    assert len(evidence.metric("loss")) == 1
    assert len(evidence.metric("loss").finite) == 0
    assert evidence.metric("grad_norm") is NOTHING


def test_series_is_looked_up_by_step() -> None:
    """Numbers come by step, NaN where there is none."""
    series = Series(np.array([2, 4, 6]), np.array([1.0, 2.0, 3.0]))
    assert series.between(3, 6).values.tolist() == [2.0, 3.0]
    assert series.newest_before(6, 1).values.tolist() == [2.0]
    assert [series.at(4), series.look_up(np.array([6, 7])).tolist()[0]] == [2.0, 3.0]
    assert np.isnan(series.at(5))
    assert np.isnan(NOTHING.at(5))


@pytest.mark.parametrize(
    ("manifest", "regime"),
    [
        pytest.param({"dtypes": ["float32"]}, "float32", id="dtypes"),
        pytest.param({"dtypes": ["bfloat16", "float32"]}, "bfloat16", id="mixed"),
        pytest.param({"fp16": True}, "float16", id="a-trainer's-switch"),
        pytest.param({"precision": "bf16-mixed"}, "bfloat16", id="a-trainer's-precision"),
        pytest.param({"precision": "16-mixed"}, "float16", id="half-of-a-trainer"),
        pytest.param({"dtype": "torch.float16"}, "float16", id="a-log's-dtype"),
        pytest.param({}, "", id="nothing-known"),
    ],
)
def test_regime_is_the_lowest_precision_known(manifest: Mapping[str, Any], regime: str) -> None:
    """What is said of dtypes, in whichever way, gives the regime."""
    assert gather([1, 2], **manifest).regime == regime


def test_loss_scale_means_float16() -> None:
    """A run with a loss scale is a float16 run."""
    assert gather_values([Measurement(1, {"loss": 1.0, "loss_scale": 1024.0})]).regime == "float16"


def test_replayed_findings_have_the_steps_of_the_log() -> None:
    """A log of every tenth step is judged record by record, and what is found has its own steps."""
    rng = np.random.default_rng(0)
    losses = 1 + 0.02 * rng.normal(size=200)
    losses[120] = 9.0
    made = [Measurement(10 * (row + 1), {"loss": float(loss)}) for row, loss in enumerate(losses)]
    (found,) = replay_detectors(gather_values(made)).found_by("loss-spike")
    assert found.step == 1210


def test_single_numbers_of_group_metrics_are_those_of_one_group() -> None:
    """Another tool's one number of what is measured by group is judged, too."""
    made = [Measurement(step, {"loss": 1.0, "dead_units": 0.99}) for step in range(1, 5)]
    assert replay_detectors(gather_values(made)).found_by("dead-units")


def write_run(folder: Path, num: int = 300) -> Path:
    """A run folder with metrics by group, reviews, and a decision."""
    manifest = describe_run(
        ("body", "head"), ["weight_norm"], ["float32"], {"policy": {}}, sampled_metrics=["update_ratio"]
    )
    journal = Journal(folder, manifest)
    for step in range(1, num + 1):
        values: dict[str, float | tuple[float, ...]] = {"loss": 1 / step if step != 7 else nan}
        values["weight_norm"] = (1.0, float(step))
        if step % 8 == 0:
            values["update_ratio"] = (0.5, 0.25)
        found = (find("nonfinite", step),) if step == 7 else ()
        decision = Decision(step, "skip", findings=found, reason="not finite") if found else Decision(step)
        journal.write(Record(Measurement(step, values), decision, Action(step, decision.verdict)))
        if step % 100 == 0:
            review = Measurement(step, {"val_loss": 2 / step}, "review")
            journal.write(Record(review, Decision(step, clock="review"), Action(step)))
    journal.close()
    return folder


def test_folder_read_in_columns_is_the_run(tmp_path: Path) -> None:
    """A folder read in chunks gives the same series as one read record by record."""
    folder = write_run(tmp_path / "run")
    log = read_run(folder)
    by_value = gather_values(log.measurements, log.decided, manifest=log.manifest)
    by_column = gather_run(folder)
    assert by_column.metrics.keys() == by_value.metrics.keys()
    for name, series in by_value.metrics.items():
        assert by_column.metrics[name].steps.tolist() == series.steps.tolist()
        np.testing.assert_array_equal(by_column.metrics[name].values, series.values)
    assert by_column.reviews["val_loss"].steps.tolist() == [100, 200, 300]
    assert repr(by_column.findings) == repr(by_value.findings)


def test_folder_cut_short_is_read(tmp_path: Path) -> None:
    """The last line of a run that was killed may be half a line."""
    folder = write_run(tmp_path / "run")
    path = folder / JOURNAL
    path.write_bytes(path.read_bytes()[:-9])
    assert gather_run(folder).metric("loss").steps[-1] in (299, 300)


def test_damaged_folder_says_so(tmp_path: Path) -> None:
    """A line in the middle that is no JSON is an error that names the file."""
    folder = write_run(tmp_path / "run")
    path = folder / JOURNAL
    path.write_text(path.read_text().replace('{"step": 40,', '{"step" 40,', 1))
    with pytest.raises(RunFormatError, match="damaged"):
        gather_run(folder)


def test_updates_that_were_not_made_are_known_beyond_the_decisions_read(tmp_path: Path) -> None:
    """Of very many decisions the later ones are not read in full, but what kept an update from being made counts."""
    path = tmp_path / "events.jsonl"
    num = MOST_DECISIONS + 10
    with path.open("w") as file:
        for step in range(1, num + 1):
            verdict = "skip" if step == num - 3 else "proceed"
            decision = Decision(step, verdict, findings=(find("nonfinite", step),), reason="r")
            file.write(format_event(Record(Measurement(step, {}), decision, Action(step, verdict))))
    decided, others = read_events(path)
    assert others == []
    assert [action.verdict for _, action in decided[MOST_DECISIONS:]] == ["skip"]
    assert decided[-1][0].step == num - 3
