"""The small training of `runs` in the Hugging Face Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tests.integrations.runs import BATCH_SIZE, Fault, Net, Run, Samples, Setting, make_parts, tell
from trimtab.integrations.transformers import SupervisorCallback


class Strike(TrainerCallback):
    """Does to the weights what a fault does."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """After the update."""
        self.fault.strike(kwargs["model"], state.global_step)


def make_trainer(setting: Setting, folder: Path, callback: TrainerCallback | None, **options: Any) -> Trainer:
    """A trainer of the small training.

    Args:
        setting: how.
        folder: what it may write into.
        callback: the supervisor's, if any.
        **options: further ones of `TrainingArguments`; beside them `trainer`, the class of the trainer, a `model`,
            and the trainer's `compute_loss_func`.
    """
    make, compute_loss = options.pop("trainer", Trainer), options.pop("compute_loss_func", None)
    model, optimizer, scheduler = make_parts(setting.num_steps, options.pop("model", None))
    arguments: dict[str, Any] = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH_SIZE,
        "gradient_accumulation_steps": setting.num_micro_batches,
        "max_grad_norm": setting.clip_norm,
        "bf16": setting.precision == "bfloat16",
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
    }
    trainer: Trainer = make(
        model,
        TrainingArguments(str(folder), **{**arguments, **options}),
        train_dataset=Samples(spoils=setting.fault.spoils),
        eval_dataset=Samples(64, seed=3),
        optimizers=(optimizer, scheduler),
        compute_loss_func=compute_loss,
        callbacks=[*([] if callback is None else [callback]), Strike(setting.fault)],
    )
    return trainer


def make_run(setting: Setting, folder: Path) -> Run:
    """One run."""
    callback = SupervisorCallback(**setting.options)
    trainer = make_trainer(setting, folder, callback if setting.is_supervised else None)
    trainer.train()
    decisions = [] if callback.supervisor is None else tell(callback.supervisor.ledger)
    model = trainer.model
    assert isinstance(model, Net)
    return Run(model, decisions, trainer.state.global_step)
