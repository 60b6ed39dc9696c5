"""The Hugging Face Trainer: whoever computes the loss, evaluations, checkpoints and halts."""

# ruff: noqa: E402  what is missing has to be known before it is imported

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.conftest import require
from tests.integrations.runs import FAULTS, HALTING, HEALTHY, Net, Setting

require("accelerate", "transformers")

from transformers import Trainer, TrainingArguments

from tests.integrations.runs_transformers import make_trainer
from trimtab import InputError
from trimtab.integrations.transformers import SupervisorCallback
from trimtab.journal import read_run

NAN = Setting(fault=FAULTS["nan-batch"])

EVERY_40 = {"save_strategy": "steps", "save_steps": 40}


class OwnLoss(Trainer):
    """A trainer whose loss is not that of the model: twice the mean absolute error."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        """The loss of a micro-batch."""
        return 2 * functional.l1_loss(model(inputs["x"])["logits"], inputs["labels"])


class Lossless(Net):
    """A model that gives predictions and no loss."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:  # noqa: ARG002
        """The predictions."""
        return super().forward(x)


def compute_loss(outputs: Mapping[str, Tensor], labels: Tensor, **_: Any) -> Tensor:
    """The loss of a model that gives none."""
    return functional.mse_loss(outputs["logits"], labels)


def bits_of(trainer: Trainer) -> list[Tensor]:
    """All that the model holds."""
    assert isinstance(trainer.model, nn.Module)
    return [each.clone() for each in trainer.model.state_dict().values()]


def are_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    """True if two lists of tensors are the same bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("num_micro_batches", [1, 3])
def test_loss_is_that_of_the_trainer(tmp_path: Path, num_micro_batches: int) -> None:
    """Where a subclass computes the loss, that is what is judged: the mean of the micro-batches of a step."""
    callback, setting = SupervisorCallback(), Setting(num_micro_batches=num_micro_batches)
    trainer = make_trainer(setting, tmp_path, callback, trainer=OwnLoss, logging_strategy="steps", logging_steps=1)
    trainer.train()
    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert callback.supervisor is not None
    assert callback.supervisor.history.column("loss").tolist() == pytest.approx(logged)


def test_model_without_a_loss_is_an_error_of_the_trainer(tmp_path: Path) -> None:
    """A model that returns no loss is refused with a sentence that says so."""
    trainer = make_trainer(Setting(), tmp_path, SupervisorCallback(), model=Lossless())
    with pytest.raises(ValueError, match="The model did not return a loss"):
        trainer.train()


def test_model_without_a_loss_may_be_given_one(tmp_path: Path) -> None:
    """The second way: `compute_loss_func`, whose loss is judged as any other."""
    callback = SupervisorCallback()
    make_trainer(NAN, tmp_path, callback, model=Lossless(), compute_loss_func=compute_loss).train()
    assert callback.supervisor is not None
    assert [each.step for each in callback.supervisor.ledger if not each.proceed] == [20]


def test_gradients_are_measured_before_the_trainer_clips(tmp_path: Path) -> None:
    """The norm that is judged is that of the gradients before they are clipped; the trainer logs the same."""
    callback = SupervisorCallback()
    setting = Setting(clip_norm=1e-3)
    trainer = make_trainer(setting, tmp_path, callback, logging_strategy="steps", logging_steps=1)
    trainer.train()
    logged = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    assert callback.supervisor is not None
    assert callback.supervisor.history.column("grad_norm").tolist() == pytest.approx(logged)
    assert min(logged) > 0.05


def test_evaluations_are_reviewed(tmp_path: Path) -> None:
    """The metrics of an evaluation during training are reviewed, but not how long it took; later ones are not."""
    callback = SupervisorCallback()
    trainer = make_trainer(Setting(), tmp_path, callback, eval_strategy="steps", eval_steps=40)
    trainer.train()
    trainer.evaluate()
    assert callback.supervisor is not None
    reviews = callback.supervisor.reviews
    assert len(reviews) == 3
    told = {name for name in reviews.newest.values if not name.startswith("quality_")}
    assert told == {"val_loss", "train_loss", "train_grad_norm"}


def test_supervisor_goes_on_from_the_trainers_checkpoint(tmp_path: Path) -> None:
    """A run that goes on from a checkpoint ends bit-equal to one that was not interrupted, with the same history."""
    run = tmp_path / "run"
    callback = SupervisorCallback(run=run)
    whole = make_trainer(NAN, tmp_path, callback, **EVERY_40)
    whole.train()
    state = json.loads((tmp_path / "checkpoint-40" / "trainer_state.json").read_text())
    assert list(state["stateful_callbacks"]["SupervisorCallback"]["attributes"]) == ["saved"]
    again = SupervisorCallback(run=run)
    resumed = make_trainer(NAN, tmp_path, again, **EVERY_40)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-40"))
    assert are_equal(bits_of(resumed), bits_of(whole))
    assert callback.supervisor is not None
    assert again.supervisor is not None
    assert again.supervisor.step == callback.supervisor.step == 120
    assert [each.step for each in again.supervisor.ledger if not each.proceed] == [20]


def test_checkpoint_of_an_unsupervised_run_can_be_gone_on_from(tmp_path: Path) -> None:
    """A run that began without a supervisor may go on with one, and is saved with it."""
    make_trainer(Setting(), tmp_path, None, **EVERY_40).train()
    callback = SupervisorCallback()
    trainer = make_trainer(Setting(), tmp_path, callback, **EVERY_40)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-40"))
    assert callback.supervisor is not None
    assert callback.supervisor.step == 80
    assert "SupervisorCallback" in (tmp_path / "checkpoint-120" / "trainer_state.json").read_text()


def test_callback_made_anew_by_the_trainer_is_refused(tmp_path: Path) -> None:
    """A trainer that makes callbacks anew from a checkpoint would lose the options: it is told how not to."""
    make_trainer(Setting(), tmp_path, SupervisorCallback(), **EVERY_40).train()
    anew = make_trainer(Setting(), tmp_path, SupervisorCallback(), restore_callback_states_from_checkpoint=True)
    with pytest.raises(InputError, match="leave it False"):
        anew.train(resume_from_checkpoint=str(tmp_path / "checkpoint-40"))


def test_halt_ends_the_training_cleanly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A halt stops after the step, says why, and updates nothing; `train` returns."""
    callback = SupervisorCallback(policy=HALTING, run=tmp_path / "run")
    trainer = make_trainer(NAN, tmp_path, callback)
    with caplog.at_level(logging.ERROR, "trimtab"):
        result = trainer.train()
    assert result.global_step == 20
    assert callback.halt is not None
    assert callback.halt.decision.step == 20
    assert "the supervisor halted the run at step 20: nonfinite: " in caplog.text
    assert all(bool(torch.isfinite(each).all()) for each in bits_of(trainer))
    assert read_run(tmp_path / "run").events[-1]["status"] == "halted"


def test_trainer_is_left_as_it_was(tmp_path: Path) -> None:
    """After the training no method of the trainer is wrapped, and another training begins anew."""
    callback = SupervisorCallback()
    trainer = make_trainer(NAN, tmp_path, callback)
    trainer.train()
    assert "training_step" not in vars(trainer)
    assert "clip_grad_norm_" not in vars(trainer.accelerator)
    trainer.train()
    assert callback.supervisor is not None
    assert callback.supervisor.step == 120


def scale(trainer: Trainer) -> Trainer:
    """Give a trainer a loss scaler as it has it with `fp16=True` where there is a GPU."""
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.accelerator.native_amp = True
    trainer.accelerator.state._mixed_precision = "fp16"
    return trainer


def test_loss_scaler_is_the_trainers(tmp_path: Path) -> None:
    """With a loss scaler the gradients are judged unscaled, and a NaN is skipped."""
    callback, plain = SupervisorCallback(), SupervisorCallback()
    scale(make_trainer(NAN, tmp_path, callback)).train()
    make_trainer(NAN, tmp_path, plain).train()
    assert callback.supervisor is not None
    assert plain.supervisor is not None
    assert [each.step for each in callback.supervisor.ledger if not each.proceed] == [20]
    norms = (each.history.column("grad_norm")[:19].tolist() for each in (callback.supervisor, plain.supervisor))
    assert next(norms) == pytest.approx(next(norms), rel=0.05)


@pytest.mark.parametrize("mode", ["strict", "off"])
def test_gradients_are_unscaled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """With a loss scaler too, a supervisor that finds nothing changes no bit, nor one that is switched off."""
    monkeypatch.setenv("TRIMTAB", mode)
    seen, alone = (scale(make_trainer(Setting(), tmp_path, each)) for each in (SupervisorCallback(), None))
    seen.train()
    alone.train()
    assert are_equal(bits_of(seen), bits_of(alone))


class Full(Trainer):
    """A trainer whose memory runs out once, in its tenth step.

    It stands for a GPU: nothing is allocated.
    """

    num_failures = 1

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Fails as torch does on a GPU."""
        if self.state.global_step == 9 and self.num_failures > 0:
            self.num_failures -= 1
            raise RuntimeError("CUDA out of memory.")
        return super().training_step(*args, **kwargs)


def test_training_begun_anew_is_supervised_anew(tmp_path: Path) -> None:
    """Where the trainer begins anew with a smaller batch, supervision does too, in the same run folder."""
    callback = SupervisorCallback(run=tmp_path / "run")
    trainer = make_trainer(Setting(), tmp_path, callback, trainer=Full, auto_find_batch_size=True, max_steps=40)
    trainer.train()
    assert callback.supervisor is not None
    assert callback.supervisor.step == 40
    ends = [event["status"] for event in read_run(tmp_path / "run").events if event["event"] == "end"]
    assert ends == ["failed: RuntimeError", "finished"]


def test_training_that_fails_is_recorded_so(tmp_path: Path) -> None:
    """An exception goes through, nothing stays wrapped, and the run folder says what it was."""
    trainer = make_trainer(Setting(), tmp_path, SupervisorCallback(run=tmp_path / "run"), trainer=Full)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert "training_step" not in vars(trainer)
    assert read_run(tmp_path / "run").events[-1]["status"] == "failed: RuntimeError"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"clip_norm": 1.0}, "max_grad_norm=1.0 both clip", id="two-clippings"),
        pytest.param({"scaler": None}, "scaler is the trainer's own", id="scaler"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    """Options that contradict those of the trainer are refused before the first step."""
    with pytest.raises(InputError, match=said):
        make_trainer(Setting(), tmp_path, SupervisorCallback(**options)).train()


def test_callback_in_another_loop_is_refused(tmp_path: Path) -> None:
    """Where no trainer calls it, the callback says what to do."""
    trainer = make_trainer(Setting(fault=HEALTHY), tmp_path, None)
    arguments = {"optimizer": trainer.optimizer, "model": trainer.model, "lr_scheduler": trainer.lr_scheduler}
    with pytest.raises(InputError, match="elsewhere call a Supervisor's check"):
        SupervisorCallback().on_train_begin(
            TrainingArguments(str(tmp_path), use_cpu=True), trainer.state, trainer.control, **arguments
        )
