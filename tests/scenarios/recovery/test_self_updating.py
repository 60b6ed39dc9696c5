"""Weights that change outside the optimizer: a skip puts them back too, and they are judged by how far they move."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.laws.spoils import spoil_batch, spoil_loss
from tests.laws.training import Event, Training, capture_buffers, capture_optimizer, capture_weights, list_differences
from tests.scenarios.recovery.runs import get_supervisor, list_findings, make_run
from trimtab import InputError, Policy

BAD_STEP = 40


class Hebbian(nn.Module):
    """A network with a layer that learns by Hebb's rule, in its forward pass; the optimizer holds it too."""

    def __init__(self) -> None:
        super().__init__()
        self.hebb = nn.Linear(6, 8, bias=False)
        self.outer = nn.Linear(8, 1)
        self.rate = 1e-3

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hebb(x)
        outputs: Tensor = self.outer(torch.tanh(hidden))
        if self.training:
            with torch.no_grad():
                activity = torch.tanh(hidden)
                self.hebb.weight += self.rate * (activity.T @ x / len(x) - self.hebb.weight)
        return outputs.squeeze(-1)


class Codebook(nn.Module):
    """A network that quantizes its inputs by a codebook, which follows them in the forward pass; no optimizer's."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(16, 6), requires_grad=False)
        self.outer = nn.Linear(12, 1)
        self.rate = 1e-2

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x, self.codes).argmin(1)
        if self.training:
            with torch.no_grad():
                moved = (x - self.codes[nearest]) * self.rate
                self.codes.index_add_(0, nearest, moved)
        outputs: Tensor = self.outer(torch.cat([x, self.codes[nearest]], 1))
        return outputs.squeeze(-1)


class Taught(nn.Module):
    """A network with a teacher inside: an average of the student, which the loop moves after each update."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(6, 1)
        self.teacher = nn.Linear(6, 1).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.student(x) + 0.1 * self.teacher(x)
        return outputs.squeeze(-1)

    @torch.no_grad()
    def move_teacher(self, share: float = 0.1) -> None:
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, share)


def move_teacher(training: Training) -> None:
    assert isinstance(training.model, Taught)
    if training.decisions and training.decisions[-1].proceed:
        training.model.move_teacher()


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "hebbian": (Hebbian, "hebb"),
    "codebook": (Codebook, "codes"),
    "teacher": (Taught, "teacher"),
}


def make_self_updating(name: str, *parts: Event) -> Training:
    """A supervised run of a network some of whose parameters are declared self-updating."""
    make, own = MODELS[name]
    training = make_run(None, *parts, model=make, after_update=move_teacher if name == "teacher" else None)
    if name != "hebbian":
        held = [each for each in training.model.parameters() if each.requires_grad]
        training.optimizer = torch.optim.AdamW(held, lr=0.01)
    return training.supervise(self_updating=[own])


def capture_all(training: Training) -> dict[str, object]:
    return {**capture_weights(training), **capture_buffers(training), **capture_optimizer(training)}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        pytest.param("hebbian", spoil_batch, id="hebbian-nan-batch"),
        pytest.param("hebbian", spoil_loss, id="hebbian-nan-loss"),
        pytest.param("codebook", spoil_batch, id="codebook-nan-batch"),
        pytest.param("codebook", spoil_loss, id="codebook-nan-loss"),
        pytest.param("teacher", spoil_batch, id="teacher-nan-batch"),
        pytest.param("teacher", spoil_loss, id="teacher-nan-loss"),
    ],
)
def test_skip_puts_them_back(name: str, fault: Callable[[int], Event]) -> None:
    """A skip leaves them exactly as the step's first forward pass found them, the loop's own moves included."""
    training = make_self_updating(name, fault(BAD_STEP)).run(BAD_STEP - 1)
    before = capture_all(training)
    training.step()
    assert training.verdicts[-1] == "skip"
    assert list_differences(before, capture_all(training)) == []
    assert list_differences(capture_weights(training.run(BAD_STEP + 1)), before) != []


@pytest.mark.parametrize("name", MODELS)
def test_several_micro_batches_are_put_back_together(name: str) -> None:
    """With micro-batches, what counts is how the first of them found them."""
    training = make_self_updating(name, spoil_batch(BAD_STEP, 1))
    training.num_micro_batches = 3
    training.run(BAD_STEP - 1)
    before = capture_all(training)
    training.step()
    assert training.verdicts[-1] == "skip"
    assert list_differences(before, capture_all(training)) == []


@pytest.mark.parametrize("name", MODELS)
def test_healthy_run_is_left_alone(name: str) -> None:
    """A run with self-updating parameters that is healthy ends as it does without a supervisor, bit for bit."""
    supervised = make_self_updating(name).run(60)
    alone = make_self_updating(name)
    get_supervisor(alone).finish()
    alone.supervisor = None
    alone.decisions = supervised.decisions  # the loop asks the newest decision, which was to proceed
    alone.run(60)
    assert list_findings(get_supervisor(supervised)) == []
    assert list_differences(capture_all(supervised), capture_all(alone)) == []


@pytest.mark.parametrize(("name", "rate"), [("hebbian", 3.0), ("codebook", 50.0)])
def test_sudden_large_self_update_is_found_and_undone(name: str, rate: float) -> None:
    """A move far larger than the usual ones is skipped, and what it changed is put back."""
    training = make_self_updating(name).run(BAD_STEP - 1)
    before = capture_all(training)
    usual = training.model.rate
    training.model.rate = rate  # type: ignore[assignment]  # of either model
    training.step()
    training.model.rate = usual
    found = [detector for step, detector in list_findings(get_supervisor(training)) if step == BAD_STEP]
    assert "self-update-spike" in found
    assert training.verdicts[-1] == "skip"
    assert list_differences(before, capture_all(training)) == []
    assert set(training.run(BAD_STEP + 40).verdicts[BAD_STEP:]) == {"proceed"}


@pytest.mark.parametrize("name", ["hebbian", "codebook"])
def test_rollback_restores_them(name: str) -> None:
    """A rollback sets them back with the rest: the replayed run ends as one never faulted."""

    def hit(training: Training) -> None:
        if training.batches.position == BAD_STEP and "rollback" not in training.verdicts:
            with torch.no_grad():
                training.model.get_parameter("outer.weight").fill_(torch.nan)

    def run(*, is_hit: bool) -> Training:
        training = make_self_updating(name)
        get_supervisor(training).finish()
        training.after_update = hit if is_hit else None
        training.supervise(data=training.batches, self_updating=[MODELS[name][1]])
        return training.run(BAD_STEP + 20)

    faulted, healthy = run(is_hit=True), run(is_hit=False)
    assert "rollback" in faulted.verdicts
    assert list_differences(capture_all(faulted), capture_all(healthy)) == []


def test_undeclared_parameters_are_not_watched() -> None:
    """Without a declaration there is no such metric; a name that the model lacks is refused."""
    training = make_run(None, model=Hebbian).supervise().run(5)
    assert not get_supervisor(training).history.has("self_update_ratio")
    with pytest.raises(InputError, match="'hebbs'"):
        make_run(None, model=Hebbian).supervise(self_updating=["hebbs"])


def test_declared_rate_changes_are_no_fault() -> None:
    """Learning rates that the model moves by itself, as meta-plasticity does, are found at no step."""

    def move_rates(training: Training) -> None:
        for group in training.optimizer.param_groups:
            group["lr"] = 0.01 * (1.0 + 0.5 * (training.batches.position % 7) / 7)

    training = make_run(None, after_check=move_rates).supervise(policy=Policy.default()).run(120)
    assert list_findings(get_supervisor(training)) == []
