"""Train a small network with Lightning, supervised by one callback, on data with two bad batches.

python examples/lightning_run.py
"""

import logging

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.integrations.lightning import SupervisorCallback

logging.basicConfig(format="%(message)s")
torch.manual_seed(0)


class Regression(pl.LightningModule):
    """A network that learns a function of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The mean squared error."""
        inputs, targets = batch
        return nn.functional.mse_loss(self.net(inputs), targets)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """The same, logged: it is reviewed."""
        self.log("val_loss", self.training_step(batch, index), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


x = torch.rand(4096, 2) * 4 - 2
y = torch.sin(3 * x[:, :1]) * x[:, 1:]
held_out = TensorDataset(x[3584:], y[3584:].clone())
y[64 * 20] = torch.nan  # one number that is not there
y[64 * 40 : 64 * 41] *= 1000  # a batch in another unit

module = Regression()
supervision = SupervisorCallback()
trainer = pl.Trainer(
    accelerator="cpu",
    max_epochs=5,
    gradient_clip_val=1.0,
    callbacks=[supervision],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(module, DataLoader(TensorDataset(x[:3584], y[:3584]), batch_size=64), DataLoader(held_out, batch_size=256))

skipped = [each.step for each in supervision.supervisors[0].ledger if not each.proceed]
print(f"{len(skipped)} updates dropped; validation loss {float(trainer.callback_metrics['val_loss']):.4f}")
