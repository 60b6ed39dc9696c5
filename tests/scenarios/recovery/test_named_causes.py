"""What made a spike is looked for, and recorded with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.laws.training import Training
from tests.scenarios.recovery.runs import get_supervisor, make_run, probed_policy
from trimtab.journal import read_run

BAD_STEP = 60

CAUSES = {
    "batch": "cause: a long-tail batch",
    "rate": "cause: the schedule",
    "repeat": "cause: the loader",
    "moments": "cause: the optimizer's moments are corrupted",
}


def lengthen_tail(training: Training) -> None:
    """One batch with far larger targets, and so gradients, than all others."""

    def distort(training: Training, _: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, targets + (500.0 if training.batches.position == BAD_STEP else 0.0)

    training.distort = distort


def jump_rate(training: Training) -> None:
    """The learning rate is 200 times as high for two updates, whose effect the loss shows after them."""

    def change(training: Training) -> None:
        factor = 200.0 if BAD_STEP - 2 <= training.batches.position < BAD_STEP else 1.0
        for group in training.optimizer.param_groups:
            group["lr"] = 0.01 * factor

    training.after_backward = change


def declare_jump(training: Training) -> None:
    """The same, and the loop says of every change of the rate that it is meant."""
    jump_rate(training)
    change = training.after_backward
    assert change is not None

    def declare(training: Training) -> None:
        change(training)
        if training.batches.position in (BAD_STEP - 2, BAD_STEP):
            get_supervisor(training).declare_rate_change()

    training.after_backward = declare


def repeat_batch(training: Training) -> None:
    """The loader gives the batch of step 40 again, and with it something goes wrong."""
    original = training.batches.draw

    def draw() -> tuple[Tensor, Tensor]:
        if training.batches.position == BAD_STEP - 1:
            training.batches.position = BAD_STEP
            return kept[0]
        batch = original()
        if training.batches.position == 40:
            kept.append(batch)
        return batch

    def report(loss: Tensor) -> Tensor:
        return loss.detach() * (1000.0 if training.batches.position == BAD_STEP else 1.0)

    kept: list[tuple[Tensor, Tensor]] = []
    training.batches.draw = draw  # type: ignore[method-assign]
    training.report = report


def corrupt_moments(training: Training) -> None:
    """Something overwrites a second moment with nearly nothing's opposite; the weights follow."""

    def strike(training: Training) -> None:
        if training.batches.position == BAD_STEP - 2:
            for state in training.optimizer.state.values():
                state["exp_avg"].fill_(1e6)

    training.after_update = strike


def raise_loss(training: Training) -> None:
    """A loss far too high, for no reason that the measurements tell."""
    training.report = lambda loss: loss.detach() * (1000.0 if training.batches.position == BAD_STEP else 1.0)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        pytest.param(lengthen_tail, {"batch"}, id="long-tail-batch"),
        pytest.param(jump_rate, {"rate"}, id="learning-rate-jump"),
        pytest.param(declare_jump, set(), id="declared-learning-rate-jump"),
        pytest.param(repeat_batch, {"repeat"}, id="repeated-batch"),
        pytest.param(corrupt_moments, {"moments"}, id="corrupted-moments"),
        pytest.param(raise_loss, set(), id="plain-spike"),
    ],
)
def test_cause_is_in_the_note(fault: Callable[[Training], None], named: set[str], tmp_path: Path) -> None:
    """The note of the action names the cause that there is, and none of the others."""
    training = make_run(None, fault)
    training.supervise(run=tmp_path / "run", policy=probed_policy())
    for _ in range(BAD_STEP + 1):
        training.step()
    get_supervisor(training).finish()
    spikes = [
        action.note
        for decision, action in read_run(tmp_path / "run").decided
        if any(each.detector == "loss-spike" for each in decision.findings)
    ]
    assert spikes, "there was to be a spike"
    told = {name for name, cause in CAUSES.items() if cause in spikes[0]}
    assert named <= told
    assert told <= named | (set() if fault in (lengthen_tail, repeat_batch, raise_loss) else {"batch"})


def test_causes_are_no_findings_of_their_own() -> None:
    """A healthy run has no note of causes: nothing was found to look for a cause of."""
    training = make_run(None).supervise(policy=probed_policy()).run(80)
    assert list(get_supervisor(training).ledger) == []
    assert torch.isfinite(torch.tensor(get_supervisor(training).history.column("loss"))).all()
