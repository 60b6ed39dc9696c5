"""Accelerate: the plain three lines, and its checkpoints."""

# ruff: noqa: E402  what is missing has to be known before it is imported

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.conftest import require
from tests.integrations.runs import BATCH_SIZE, FAULTS, Run, Samples, Setting, make_parts, tell

require("accelerate")

from accelerate import Accelerator, cpu_offload

from tests.integrations.runs_accelerate import make_accelerator, make_run
from trimtab import InputError, Supervisor


@pytest.mark.parametrize("num_micro_batches", [1, 4])
def test_only_synchronized_steps_are_checked(tmp_path: Path, num_micro_batches: int) -> None:
    """With accumulation there is one check a step, and the bad micro-batch drops the step it is in."""
    made = make_run(Setting(fault=FAULTS["nan-batch"], num_micro_batches=num_micro_batches), tmp_path)
    assert made.num_steps == 120 // num_micro_batches
    assert [told[0] for told in made.decisions if told[2] == "skip"] == [20 // num_micro_batches]


def go(accelerator: Accelerator, folder: Path, num_steps: int, *, resumes: bool) -> Run:
    """A run with the accelerator's own checkpoints: saved after 30 steps, or gone on from there."""
    model, optimizer, scheduler = make_parts()
    net, stepper, schedule = accelerator.prepare(model, optimizer, scheduler)
    supervisor = Supervisor(net, stepper.optimizer, schedule, clip_norm=1.0)
    accelerator.register_for_checkpointing(supervisor)
    if resumes:
        accelerator.load_state(str(folder))
    for step, batch in enumerate(DataLoader(Samples(spoils=FAULTS["nan-batch"].spoils), batch_size=BATCH_SIZE), 1):
        if supervisor.step >= step:
            continue
        loss = net(**batch)["loss"]
        accelerator.backward(loss)
        supervisor.check(loss)
        stepper.step()
        schedule.step()
        stepper.zero_grad()
        if step == 30 and not resumes:
            accelerator.save_state(str(folder))
        if step == num_steps:
            break
    return Run(model, tell(supervisor.ledger), supervisor.step)


def test_supervisor_is_in_the_accelerators_checkpoints(tmp_path: Path) -> None:
    """Registered for checkpointing, it goes on as if the run had not been interrupted."""
    whole, resumed = (go(make_accelerator(), tmp_path / "state", 60, resumes=each) for each in (False, True))
    assert all(torch.equal(whole.bits[name], resumed.bits[name]) for name in whole.bits)
    assert resumed.decisions == whole.decisions != []
    assert resumed.num_steps == whole.num_steps == 60


def test_wrapped_optimizer_is_refused() -> None:
    """The optimizer that Accelerate wraps around the user's has no hooks; one sentence says what to pass."""
    model = torch.nn.Linear(2, 1)
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(InputError, match="pass the one inside it"):
        Supervisor(model, optimizer)
    Supervisor(model, optimizer.optimizer).finish()


def make_offloaded(*, freezes: bool) -> tuple[nn.Module, nn.Sequential]:
    """A model with a base that waits on the host, and is on the meta device between two forward passes; its head."""
    torch.manual_seed(0)
    base, head = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Sequential(nn.Linear(8, 1))
    base.requires_grad_(not freezes)
    cpu_offload(base, execution_device=torch.device("cpu"))
    return nn.Sequential(base, head), head


def test_base_that_is_offloaded_is_left_out() -> None:
    """A frozen base that waits elsewhere is not looked at; what is trained on it is skipped and rolled back as ever."""
    model, head = make_offloaded(freezes=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    supervisor = Supervisor(model, optimizer, strict=True)
    for step in range(1, 41):
        if step == 30:
            nn.init.constant_(head[0].weight, torch.nan)  # type: ignore[arg-type]
        x = torch.randn(8, 4)
        optimizer.zero_grad()
        loss = (model(x) - x[:, :1]).square().mean() * (torch.nan if step == 20 else 1.0)
        loss.backward()
        supervisor.check(loss)
        optimizer.step()
    assert [(each.step, each.verdict) for each in supervisor.ledger if not each.proceed] == [
        (20, "skip"),
        (30, "rollback"),
    ]
    assert all(bool(torch.isfinite(each).all()) for each in head.parameters())


def test_what_is_trained_cannot_be_offloaded() -> None:
    """Each forward pass would put other parameters into the model than the optimizer has."""
    model, _ = make_offloaded(freezes=False)
    with pytest.raises(InputError, match=r"on the meta device, where they have no numbers: 0\.0\.weight"):
        Supervisor(model, torch.optim.AdamW(model.parameters()))
