"""Trackers: told all of a run and nothing else, on the first rank alone, and never in the way of the training."""

from __future__ import annotations

import gc
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import trimtab.journal.relay
from tests.forks import require_done, run_module
from tests.integrations.runs import HEALTHY, Setting, make_parts, run
from tests.integrations.runs_trackers import NUM_STEPS, POLICY, ROLLED_BACK, SECONDS, SKIPPED, Collector, train
from tests.loop.runs import make_loader, make_parts as make_fit
from trimtab import Decision, Halted, InputError, Measurement, Record, Supervisor
from trimtab.integrations import Tracker, export_run
from trimtab.integrations.tracking import Attempts, find_severity, name_metrics, tell_record
from trimtab.journal import read_run, to_json
from trimtab.journal.relay import Relay, close_all


class Failing(Collector):
    """Fails in one of its methods, every time."""

    def __init__(self, where: str) -> None:
        super().__init__()
        setattr(self, where, self.fail)

    def fail(self, *_: Any, **__: Any) -> None:
        raise OSError("the server is gone")


class Hanging(Tracker):
    """Waits at its first record until it is let go."""

    def __init__(self) -> None:
        self.is_free = threading.Event()

    def write(self, record: Record) -> None:  # noqa: ARG002
        self.is_free.wait()


def test_a_tracker_is_told_all_of_a_run_in_its_order() -> None:
    """Every step, review and event reaches it, from a thread that is not the training's, and then the end."""
    collector = Collector()
    train([collector])
    steps = [each.measurement.step for each in collector.records if each.measurement.clock == "step"]
    assert steps == list(range(1, NUM_STEPS + 1))
    assert [each.measurement.step for each in collector.records if each.measurement.clock == "review"] == [25, 50]
    verdicts = {each.measurement.step: each.action.verdict for each in collector.records if each.decision.findings}
    assert verdicts == {SKIPPED: "skip", ROLLED_BACK: "rollback"}
    assert collector.events[-1] == {"event": "end", "step": NUM_STEPS, "status": "finished", "num_failures": 0}
    assert collector.groups == ("layers.0", "layers.1", "layers.3")
    assert (collector.calls[0], *collector.calls[-2:]) == ("open", "flush", "close")
    assert collector.threads == {"trimtab-tracker"}


def test_a_run_folder_is_told_as_the_run_was(tmp_path: Path) -> None:
    """What is exported of a run folder is what a tracker is told while the run goes on."""
    live, later = Collector(), Collector()
    train([live], run=tmp_path / "run")
    export_run(tmp_path / "run", later)

    def list_told(collector: Collector) -> list[Any]:
        return [(name_metrics(each), each.decision, each.action) for each in collector.records]

    assert to_json([str(each) for each in list_told(live)]) == to_json([str(each) for each in list_told(later)])
    assert later.groups == live.groups
    assert [each["event"] for each in later.events] == [each["event"] for each in live.events]


def test_fit_and_halted_runs_are_told_too(tmp_path: Path) -> None:
    """`fit` hands its trackers on; a halt is the last record, and the end says so."""
    collector = Collector()
    make_fit(loader=make_loader()).fit(epochs=1, trackers=[collector])
    assert len(collector.records) == 6
    halted = Collector()
    policy = POLICY.change({"detectors": {"nonfinite": {"ladder": ["halt"]}}})
    model, optimizer, _ = make_parts()
    supervisor = Supervisor(model, optimizer, policy=policy, trackers=[halted], run=tmp_path / "run")
    with pytest.raises(Halted):
        supervisor.check(float("nan"))
    assert halted.records[-1].action.verdict == "halt"
    assert [each["event"] for each in halted.events][-1] == "end"
    assert halted.calls[-1] == "close"


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize("loop", ["lightning", "transformers"])
def test_callbacks_hand_their_trackers_on(loop: str, tmp_path: Path) -> None:
    """In Lightning and in the Hugging Face Trainer a tracker is told of every step, and of the end."""
    collector = Collector()
    run(loop, Setting(options={"trackers": [collector]}), tmp_path)
    assert [each.measurement.step for each in collector.records] == list(range(1, 121))
    assert collector.events[-1]["status"] == "finished"
    assert collector.calls[-1] == "close"


@pytest.mark.parametrize("where", ["open", "write", "write_event", "flush", "close"])
def test_a_tracker_that_fails_does_no_harm(where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The training is the same to the bit, another tracker is told all, and the failure is on record once."""
    other = Collector()
    with caplog.at_level(logging.WARNING, "trimtab"):
        found = train([Failing(where), other], HEALTHY, run=tmp_path / "run")
    assert all(torch.equal(each, twin) for each, twin in zip(found, train(fault=HEALTHY), strict=True))
    assert len(other.records) == NUM_STEPS + 2
    told = [each["message"] for each in read_run(tmp_path / "run").events if each["event"] == "tracker"]
    assert told == ["Failing failed: OSError: the server is gone; the training goes on"]
    assert sum("the server is gone" in each.message for each in caplog.records) == 1


def test_a_tracker_that_hangs_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a step nor, beyond a stated time, the end of a run waits for a tracker; others are told all."""
    monkeypatch.setattr(trimtab.journal.relay, "CLOSE_SECONDS", 0.2)
    hanging, other = Hanging(), Collector()
    train([other, hanging], HEALTHY)
    assert len(other.records) == NUM_STEPS + 2
    assert "Hanging has not taken the end of the run yet, and is not waited for" in caplog.text
    hanging.is_free.set()


def test_what_is_kept_for_a_slow_tracker_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest records are lost where too many wait, and how many is said at the end."""
    monkeypatch.setattr(trimtab.journal.relay, "MAX_WAITING", 10)
    collector = Collector()
    relay = Relay(collector, {"groups": []})
    for step in range(1, 31):
        relay.write(Record(Measurement(step, {}), Decision(step)))
    close_all([relay])
    assert [each.measurement.step for each in collector.records] == list(range(21, 31))
    assert "Collector lost 20 records or events" in caplog.text


def test_a_forgotten_supervisor_lets_its_trackers_end() -> None:
    """A tracker whose supervisor was dropped without an end has all it was told, and is closed."""
    model, optimizer, scheduler = make_parts()
    collector = Collector()
    supervisor = Supervisor(model, optimizer, scheduler, trackers=[collector])
    supervisor.check(1.0)
    del supervisor, model, optimizer, scheduler
    gc.collect()
    deadline = time.monotonic() + 5
    while "close" not in collector.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(collector.records) == 1
    assert collector.calls[-1] == "close"


def test_a_supervisor_that_is_off_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `TRIMTAB=off` no tracker is opened."""
    monkeypatch.setenv("TRIMTAB", "off")
    collector = Collector()
    train([collector], HEALTHY)
    assert not collector.calls


def test_one_rank_tells(tmp_path: Path) -> None:
    """Of two ranks that are both given trackers the first tells all, and the other opens none."""
    require_done(run_module("tests.integrations.runs_trackers", [tmp_path], 2 * SECONDS), tmp_path)
    first, second = (torch.load(tmp_path / f"told-{rank}.pt") for rank in range(2))
    assert first[0] == NUM_STEPS + 2
    assert second == [0, []]


@pytest.mark.parametrize(
    ("trackers", "message"),
    [
        pytest.param("runs/tb", "trackers is 'runs/tb'; it has to be a list", id="text"),
        pytest.param([print], "a tracker is a 'builtin_function_or_method'", id="function"),
        pytest.param([Collector], "a tracker is a 'type'", id="class"),
        pytest.param([Tracker()] * 2, "the same tracker is there twice", id="twice"),
    ],
)
def test_what_is_no_tracker_is_refused(trackers: Any, message: str) -> None:
    """What cannot be told is refused when the supervisor is made."""
    with pytest.raises(InputError, match=message):
        train(trackers)


def test_metrics_have_the_names_people_expect() -> None:
    """Losses by their data, the usual short names, nothing that is no curve, and no per-group metric."""
    collector = Collector()
    train([collector], HEALTHY)
    step, review = (next(each for each in collector.records if each.measurement.clock == c) for c in ("step", "review"))
    assert {"train/loss", "train/mse", "grad_norm", "lr"} <= name_metrics(step).keys()
    assert not {"batch_fingerprint", "group_grad_norm", "loss", "learning_rate"} & name_metrics(step).keys()
    assert {"val/loss", "review/bleu", "review/train_loss"} <= name_metrics(review).keys()


def test_an_attempt_begins_after_a_rollback_and_where_steps_go_back() -> None:
    """The first record after a rollback is of the next attempt, and so is one at a step that was reached before."""
    collector = Collector()
    train([collector])
    attempts = Attempts()
    begun = {each.measurement.step: attempts.why for each in collector.records if attempts.count(each)}
    assert begun.keys() == {ROLLED_BACK + 1}
    assert begun[ROLLED_BACK + 1].startswith("attempt 2 begins after the rollback at step 31 to step ")
    assert attempts.count(collector.records[9])
    assert attempts.why == f"attempt 3 goes on at step 10, after step {NUM_STEPS} was reached"


def test_what_was_found_is_told_in_words() -> None:
    """A title names what was done and found; a run that was set back is at least of high severity."""
    collector = Collector()
    train([collector])
    told = {each.measurement.step: each for each in collector.records}
    assert tell_record(told[SKIPPED])[0] == "skip: nonfinite at step 20"
    assert tell_record(told[ROLLED_BACK])[1].startswith("nonfinite: ")
    assert find_severity(told[1]) is None
    assert find_severity(told[ROLLED_BACK]) in ("high", "critical")
