"""The small training of `runs` in Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from torch.utils.data import DataLoader

from tests.integrations.runs import BATCH_SIZE, Fault, Run, Samples, Setting, make_parts, tell
from trimtab.integrations.lightning import SupervisorCallback

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Module(pl.LightningModule):
    """The network, trained by automatic optimization."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.net, self.made, self.schedule = make_parts(num_steps)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The loss, logged too."""
        loss: Tensor = self.net(**batch)["loss"]
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """One optimizer, with a schedule that goes by steps."""
        return [self.made], [{"scheduler": self.schedule, "interval": "step"}]


class Strike(pl.Callback):
    """Does to the weights what a fault does."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Module, *_: Any) -> None:  # type: ignore[override]
        """After the update."""
        self.fault.strike(pl_module.net, trainer.global_step)


def make_loader(fault: Fault) -> DataLoader[dict[str, Tensor]]:
    """All batches, in order."""
    return DataLoader(Samples(spoils=fault.spoils), batch_size=BATCH_SIZE)


def make_run(setting: Setting, _: Path) -> Run:
    """One run."""
    module = Module(setting.num_steps)
    callback = SupervisorCallback(**setting.options)
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[*([callback] if setting.is_supervised else []), Strike(setting.fault)],
        gradient_clip_val=setting.clip_norm,
        accumulate_grad_batches=setting.num_micro_batches,
        precision=PRECISIONS[setting.precision],  # type: ignore[arg-type]
        enable_checkpointing=False,
        **QUIET,
    )
    trainer.fit(module, make_loader(setting.fault))
    decisions = tell(callback.supervisors[0].ledger) if setting.is_supervised else []
    named = [(*told, reason.replace("net.", "")) for *told, reason in decisions]  # as the network alone names them
    return Run(module.net, named, trainer.global_step)  # type: ignore[arg-type]
