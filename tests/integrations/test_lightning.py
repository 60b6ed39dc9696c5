"""Lightning: precision plugins, manual optimization, several optimizers, reviews, checkpoints and halts."""

# ruff: noqa: E402  what is missing has to be known before it is imported

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from tests.conftest import require
from tests.integrations.runs import BATCH_SIZE, FAULTS, HALTING, HEALTHY, Fault, Samples, make_parts

require("lightning")

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision

from tests.integrations.runs_lightning import QUIET, Module, make_loader
from trimtab import InputError, Supervisor
from trimtab.integrations.lightning import SupervisorCallback
from trimtab.journal import Tracker, read_run
from trimtab.types import Record

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
]


class Watched(Module):
    """The small training with a validation, which may fail or leave steps out."""

    def __init__(self, num_steps: int = 120, *, leaves_out: int = -1, raises_at: int = -1) -> None:
        super().__init__(num_steps)
        self.leaves_out, self.raises_at = leaves_out, raises_at

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """The loss, but for one batch without and one that cannot be read."""
        if index == self.raises_at:
            raise OSError("the disk is gone")
        return None if index == self.leaves_out else super().training_step(batch, index)  # type: ignore[return-value]

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """The loss, logged."""
        self.log("val_loss", self.net(**batch)["loss"])


class TwoNets(pl.LightningModule):
    """Two networks with an optimizer each, stepped by hand; the first with a closure.

    Args:
        fault: what goes wrong, for the second network alone.
    """

    def __init__(self, fault: Fault = HEALTHY) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.ones(()))
        self.pair = nn.ModuleDict({"first": nn.Linear(6, 1), "second": nn.Linear(6, 1)})
        self.fault = fault

    def compute_loss(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of one of them."""
        scale = self.scale if name == "first" else 1.0
        return functional.mse_loss(scale * self.pair[name](batch["x"]).squeeze(1), batch["labels"])

    def training_step(self, batch: dict[str, Tensor], index: int) -> None:
        """One step of each."""
        first, second = self.optimizers()  # type: ignore[attr-defined]

        def closure() -> None:
            first.zero_grad()
            self.manual_backward(self.compute_loss("first", batch))

        first.step(closure=closure)
        second.zero_grad()
        labels = batch["labels"] * self.fault.spoils.get(index + 1, 1.0)
        self.manual_backward(self.compute_loss("second", {"x": batch["x"], "labels": labels}))
        second.step()

    def configure_optimizers(self) -> Any:
        """An optimizer for each."""
        first = torch.optim.AdamW([self.scale, *self.pair["first"].parameters()], lr=0.01)
        return [first, torch.optim.SGD(self.pair["second"].parameters(), lr=0.01, momentum=0.9)]


class Steps(pl.Callback):
    """Keeps what an optimizer's step changes: after every batch, the parameters and the optimizer's tensors."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """After the update."""
        states = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        self.seen.append([each.detach().clone() for each in [*pl_module.parameters(), *states]])


def fit(module: pl.LightningModule, *callbacks: pl.Callback, fault: Fault = HEALTHY, **options: Any) -> pl.Trainer:
    """Train on all batches once; returns the trainer."""
    resumed = options.pop("ckpt_path", None)
    options = {"max_epochs": 1, "enable_checkpointing": False, **QUIET, **options}
    trainer = pl.Trainer(callbacks=list(callbacks), **options)
    val_loader = DataLoader(Samples(64, seed=3), batch_size=64) if isinstance(module, Watched) else None
    trainer.fit(module, make_loader(fault), val_loader, ckpt_path=resumed)
    return trainer


def make_plugin() -> MixedPrecision:
    """The precision plugin of float16, on the CPU."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))


def bits_of(module: nn.Module) -> list[Tensor]:
    """All that a module holds."""
    return list(module.state_dict().values())


def are_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    """True if two lists of tensors are the same bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_skip_changes_nothing_though_the_step_has_a_closure() -> None:
    """The update of a bad batch leaves parameters, moments and step counts as they were; the next one goes on."""
    steps = Steps()
    fit(Module(120), SupervisorCallback(), steps, fault=FAULTS["nan-batch"])
    assert are_equal(steps.seen[19], steps.seen[18])
    assert not are_equal(steps.seen[20], steps.seen[19])


def test_loss_scaler_is_the_trainers() -> None:
    """With 16-mixed the loss is seen without its scale, and all is measured and decided as in a plain loop."""
    callback = SupervisorCallback()
    fit(Module(120), callback, fault=FAULTS["nan-batch"], plugins=[make_plugin()], gradient_clip_val=1.0)
    seen = callback.supervisors[0]
    model, optimizer, scheduler = make_parts()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plain = Supervisor(model, optimizer, scheduler, scaler=scaler, clip_norm=1.0)
    for batch in DataLoader(Samples(spoils=FAULTS["nan-batch"].spoils), batch_size=BATCH_SIZE):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = model(**batch)["loss"]
        scaler.scale(loss).backward()
        plain.check(loss, batch=batch)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    assert [(each.step, each.verdict) for each in seen.ledger] == [(each.step, each.verdict) for each in plain.ledger]
    assert seen.history.column("loss").tolist() == pytest.approx(plain.history.column("loss").tolist(), nan_ok=True)


def test_healthy_run_with_a_loss_scaler_is_not_changed() -> None:
    """With 16-mixed too, a supervisor that finds nothing changes no bit."""
    one, other = Module(120), Module(120)
    fit(one, SupervisorCallback(), plugins=[make_plugin()], gradient_clip_val=1.0)
    fit(other, plugins=[make_plugin()], gradient_clip_val=1.0)
    assert are_equal(bits_of(one), bits_of(other))


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_measured_before_the_trainer_clips(algorithm: str) -> None:
    """The norm that is judged is that of the gradients before they are clipped, by norm or by value."""
    callback, free = SupervisorCallback(), SupervisorCallback()
    fit(Module(120), callback, gradient_clip_val=1e-3, gradient_clip_algorithm=algorithm)
    fit(Module(120), free)
    first, unclipped = (each.supervisors[0].history.column("grad_norm")[0] for each in (callback, free))
    assert first == unclipped > 0.1


def test_each_optimizer_has_a_supervisor_of_its_own(tmp_path: Path) -> None:
    """A NaN for one of two optimizers is skipped there alone, and each has its own parameters and run folder."""
    callback, module = SupervisorCallback(run=tmp_path / "run"), TwoNets(FAULTS["nan-batch"])
    fit(module, callback)
    first, second = callback.supervisors
    assert (first.step, second.step) == (120, 120)
    assert [each.step for each in second.ledger if not each.proceed] == [20]
    assert all(each.proceed for each in first.ledger)
    assert second.history.has("loss")
    assert all(bool(torch.isfinite(each).all()) for each in module.parameters())
    assert sorted(each.name for each in (tmp_path / "run").iterdir()) == ["optimizer-0", "optimizer-1"]


def test_optimizers_by_hand_are_not_disturbed() -> None:
    """With several optimizers too, supervisors that find nothing change no bit, closures or not."""
    one, other = TwoNets(), TwoNets()
    fit(one, SupervisorCallback())
    fit(other)
    assert are_equal(bits_of(one), bits_of(other))


def test_each_optimizer_has_its_trackers() -> None:
    """Each is told of the steps of its own supervisor alone; with one optimizer a list does as well."""

    class Counter(Tracker):
        num = 0

        def write(self, record: Record) -> None:
            self.num += bool(record.measurement.step)

    counters = [Counter(), Counter()]
    callback = SupervisorCallback(trackers=lambda index: [counters[index]])
    fit(TwoNets(), callback)
    assert [each.num for each in counters] == [each.step for each in callback.supervisors]
    alone = Counter()
    fit(Module(120), SupervisorCallback(trackers=[alone]))
    assert alone.num == 120


def test_step_without_a_loss_is_no_step() -> None:
    """Where `training_step` returns None nothing is judged."""
    callback = SupervisorCallback()
    with pytest.warns(UserWarning, match="`training_step` returned `None`"):
        fit(Watched(leaves_out=30), callback)
    assert callback.supervisors[0].step == 119
    assert not callback.supervisors[0].ledger


def test_validations_are_reviewed() -> None:
    """What a validation logs is reviewed beside medians of the steps, and nothing that the training logs.

    The sanity check is no validation.
    """
    callback = SupervisorCallback()
    trainer = fit(Watched(), callback, val_check_interval=40)
    reviews = callback.supervisors[0].reviews
    assert len(reviews) == 3
    told = {name for name in reviews.newest.values if not name.startswith("quality_")}
    assert told == {"val_loss", "train_loss", "train_grad_norm"}
    assert reviews.newest.values["train_loss"] != float(trainer.callback_metrics["train_loss"])
    assert reviews.newest.values["val_loss"] == pytest.approx(float(trainer.callback_metrics["val_loss"]))


def test_supervisor_goes_on_from_the_trainers_checkpoint(tmp_path: Path) -> None:
    """A run that goes on from a checkpoint ends bit-equal to one that was not interrupted, with the same history."""
    saves = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    whole, callback = Module(240), SupervisorCallback(run=tmp_path / "run")
    fit(whole, callback, saves, fault=FAULTS["nan-batch"], max_epochs=2, enable_checkpointing=True)
    resumed, again = Module(240), SupervisorCallback(run=tmp_path / "run")
    fit(resumed, again, fault=FAULTS["nan-batch"], max_epochs=2, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert are_equal(bits_of(resumed), bits_of(whole))
    assert again.supervisors[0].step == callback.supervisors[0].step == 240
    assert [each.step for each in again.supervisors[0].ledger] == [20, 140]


def test_halt_ends_the_training_cleanly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A halt stops after the step, whatever the least length of a training, says why, and updates nothing."""
    callback, steps = SupervisorCallback(policy=HALTING, run=tmp_path / "run"), Steps()
    with caplog.at_level(logging.ERROR, "trimtab"):
        trainer = fit(Watched(), callback, steps, fault=FAULTS["nan-batch"], max_epochs=3, min_epochs=3)
    assert trainer.state.finished
    assert trainer.global_step == 20
    assert are_equal(steps.seen[19], steps.seen[18])
    assert callback.halt is not None
    assert callback.halt.decision.verdict == "halt"
    assert "the supervisor halted the run at step 20: nonfinite: " in caplog.text
    assert read_run(tmp_path / "run").events[-1]["status"] == "halted"


def test_training_that_fails_is_recorded_so(tmp_path: Path) -> None:
    """An exception goes through, and the run folder says what it was."""
    with pytest.raises(OSError, match="the disk is gone"):
        fit(Watched(raises_at=10), SupervisorCallback(run=tmp_path / "run"))
    assert read_run(tmp_path / "run").events[-1]["status"] == "failed: OSError"


@pytest.mark.parametrize(
    ("module", "options", "trainer", "said"),
    [
        pytest.param(Module(120), {"clip_norm": 1.0}, {"gradient_clip_val": 1.0}, "both clip", id="two-clippings"),
        pytest.param(TwoNets(), {"probe": len}, {}, "probe cannot be used with 2 optimizers", id="probe-of-one-model"),
        pytest.param(TwoNets(), {"trackers": [Tracker()]}, {}, "trackers of its own", id="one-tracker-for-two"),
        pytest.param(Module(120), {"scaler": None}, {}, "scaler is the trainer's own", id="scaler"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    module: pl.LightningModule, options: dict[str, Any], trainer: dict[str, Any], said: str
) -> None:
    """Options that contradict those of the trainer are refused before the first step."""
    with pytest.raises(InputError, match=said):
        fit(module, SupervisorCallback(**options), **trainer)
