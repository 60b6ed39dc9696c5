"""Runs that Trimtab recorded itself: diagnosed by what was found, decided and noted when they took place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.scenarios.diagnosis.faulty import HALF, lone_spike, nan_from, spoil
from tests.scenarios.diagnosis.logs import NUM, Draft, Make, Rng, draw, fall, healthy
from trimtab.diagnosis import diagnose
from trimtab.diagnosis.sweep import sweep
from trimtab.journal import Journal, describe_run, read_run
from trimtab.policy import Judge, Policy
from trimtab.types import Action, Record

GROUPS = ("embedding", "body", "head")
PER_GROUP = ("dead_units", "group_grad_norm", "lost_updates", "missing_gradients", "update_ratio", "weight_norm")


def record(folder: Path, draft: Draft, policy: Policy | None = None, note: str = "") -> Path:
    """Judge a log as a live run would have been, and write its run folder."""
    policy = policy or Policy.default()
    judge = Judge(policy, GROUPS)
    manifest = describe_run(GROUPS, PER_GROUP, ["float32"], {"policy": policy.to_dict(), **draft.manifest})
    journal = Journal(folder, manifest)
    status = "finished"
    for each in draft.measurements():
        decision = judge.judge(each)
        restored = each.step - 5 if decision.verdict == "rollback" else None
        num_lost = 5 * (restored is not None)
        action = Action(each.step, decision.verdict, restored, num_lost, note=note if decision.findings else "")
        made = Record(each, decision, action)
        judge.settle(made)
        journal.write(made)
        if decision.verdict == "halt":
            status = "halted"
            break
    journal.write_event("end", step=each.step, status=status, num_failures=0)
    journal.close()
    return folder


def by_group(make: Make, at: range, **columns: tuple[float, ...]) -> Make:
    """A log with numbers by group at some steps."""

    def remake(rng: Rng) -> Draft:
        draft = make(rng)
        steps = np.array(at)
        draft.sampled = {name: (steps, np.tile(values, (len(steps), 1))) for name, values in columns.items()}
        return draft

    return remake


def bad_stretch(rng: Rng) -> Draft:
    """Twelve steps in a row with a loss ten times as high, whatever the weights."""
    draft = healthy(rng)
    draft.columns["loss"][HALF : HALF + 12] *= 10
    return draft


def overwritten(rng: Rng) -> Draft:
    """A group whose weight norm is fifty times as high from a step on, which normalization hides from the loss."""
    draft = healthy(rng)
    weights = np.tile([20.0, 30.0, 10.0], (NUM, 1))
    weights[HALF:, 1] *= 50
    draft.sampled = {"weight_norm": (np.arange(1, NUM + 1), weights)}
    return draft


def hurt(rng: Rng) -> Draft:
    """A probe that is four times as high once, while the loss of the batches is not."""
    draft = healthy(rng, probe_loss=fall(rng, size=0.01))
    draft.columns["probe_loss"][HALF] *= 4
    return draft


def oscillating_scale(rng: Rng) -> Draft:
    """A loss scale that doubles and halves at every tenth step."""
    return healthy(rng, loss_scale=np.where((np.arange(NUM) // 10) % 2, 32768.0, 65536.0))


RUNS: dict[str, tuple[Make, str, str, str]] = {
    "one loss not a number": (spoil("loss", HALF, np.nan), "", "loss-not-finite", "degraded"),
    "not a number to the end": (nan_from(HALF), "", "loss-not-finite", "failed"),
    "a batch with NaN": (
        spoil("loss", HALF, np.nan),
        "structural: the loss is nan again, in float32 too; it begins here: batch[0]; the batch was not finite before "
        "the model saw it: clean or drop such rows",
        "batch-not-finite",
        "degraded",
    ),
    "a fault that passes": (
        spoil("loss", HALF, np.nan),
        "transient: the loss is 1.2 this time, not nan (two reruns differ by 0), so the fault did not recur",
        "transient-fault",
        "degraded",
    ),
    "a fault of lower precision": (
        spoil("grad_norm", HALF, np.inf),
        "precision: the loss is inf again but 2.1 in float32, so the fault lies in the lower precision",
        "gradient-not-finite",
        "degraded",
    ),
    "a spike that was skipped": (lone_spike(6.0), "", "loss-spike", "degraded"),
    "corrupted moments": (
        lone_spike(6.0),
        "cause: the optimizer's moments are corrupted: head.weight",
        "corrupted-moments",
        "degraded",
    ),
    "a stretch of bad batches": (bad_stretch, "", "bad-batches", "degraded"),
    "a weight that was overwritten": (overwritten, "", "corrupted-weights", "degraded"),
    "an update that hurt": (hurt, "", "harmful-update", "degraded"),
    "a scale that oscillates": (oscillating_scale, "", "loss-scale-oscillating", "degraded"),
    "parameters without a gradient": (
        by_group(healthy, range(2, NUM, 100), missing_gradients=(0.0, 0.0, 2.0)),
        "",
        "unreached-parameters",
        "degraded",
    ),
    "units that are dead": (
        by_group(healthy, range(2, NUM, 100), dead_units=(0.1, 0.99, 0.2)),
        "",
        "dead-units",
        "degraded",
    ),
}
"""By what is the matter: how the log is made, what was noted, the cause to be named first, and the verdict."""


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("name", "make", "note", "cause", "verdict"),
    [pytest.param(name, *row, id=name.replace(" ", "-")) for name, row in RUNS.items()],
)
def test_cause_of_a_run_is_named_first(
    tmp_path: Path, name: str, make: Make, note: str, cause: str, verdict: str, seed: int
) -> None:
    """The first cause is the one that was put in; what was put right has not made the run fail."""
    diagnosis = diagnose(record(tmp_path / "run", draw(name, make, seed), note=note))
    assert [each.name for each in diagnosis.causes][:1] == [cause], str(diagnosis)
    assert diagnosis.verdict == verdict


@pytest.mark.parametrize("seed", range(4))
def test_healthy_run_is_declared_healthy(tmp_path: Path, seed: int) -> None:
    """A run without findings is healthy."""
    diagnosis = diagnose(record(tmp_path / "run", draw("run", healthy, seed)))
    assert (diagnosis.verdict, diagnosis.causes) == ("healthy", ())


def test_precision_is_named_beside_where_it_began(tmp_path: Path) -> None:
    """The verdict of a rerun in float32 is a cause of its own, with the note as its evidence."""
    make, note, _, _ = RUNS["a fault of lower precision"]
    diagnosis = diagnose(record(tmp_path / "run", draw("run", make, 0), note=note))
    (found,) = [each for each in diagnosis.causes if each.name == "precision-loss"]
    assert found.evidence == (note,)


def test_halted_run_has_failed(tmp_path: Path) -> None:
    """A run that a supervisor ended is a failed one, whose fatal cause is what it was ended for."""
    folder = record(tmp_path / "run", draw("run", nan_from(HALF), 0))
    diagnosis = diagnose(folder)
    assert (diagnosis.verdict, diagnosis.exit_status) == ("failed", 2)
    assert diagnosis.causes[0].state == "fatal"
    assert diagnosis.causes[0].step == HALF + 1


def test_watched_run_is_judged_by_its_end(tmp_path: Path) -> None:
    """What was only watched was not put right: the same NaN is lasting trouble then."""
    draft = draw("run", spoil("loss", HALF, np.nan), 0)
    acted = diagnose(record(tmp_path / "acted", draft))
    watched = diagnose(record(tmp_path / "watched", draft, Policy.observe()))
    assert [each.causes[0].state for each in (acted, watched)] == ["mended", "lasting"]


def test_sweep_counts_what_each_value_finds(tmp_path: Path) -> None:
    """A spike is found up to the sigmas it has, a low limit has false alarms, and a high one misses it."""
    draft = draw("run", lone_spike(2.2), 0)
    folder = record(tmp_path / "run", draft)
    low, default, high = sweep(folder, "loss-spike.plain", [1.5, 4.0, 1000.0])
    assert low.num_false > 0
    assert (default.num_found, default.num_false, default.num_missed) == (1, 0, 0)
    assert (high.num_found, high.num_missed) == (0, 1)
    assert default.first_step == HALF + 1


def test_measurements_and_columns_say_the_same(tmp_path: Path) -> None:
    """A run read as values is diagnosed as one read in columns."""
    folder = record(tmp_path / "run", draw("run", bad_stretch, 0))
    assert diagnose(read_run(folder)).to_dict() == diagnose(folder).to_dict()
