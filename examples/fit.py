"""Train a small network with `trimtab.fit`; stop it with Ctrl-C, start it again, and it goes on.

python examples/fit.py
trimtab signal runs/example finish      # in another terminal
"""

import logging

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab

logging.basicConfig(level=logging.INFO, format="%(message)s")
torch.manual_seed(0)

x = torch.rand(4096, 2) * 4 - 2
y = torch.sin(3 * x[:, :1]) * x[:, 1:]
train, held_out = TensorDataset(x[:3584], y[:3584]), TensorDataset(x[3584:], y[3584:])

model = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean squared error of a batch."""
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs), targets)


result = trimtab.fit(
    model,
    optimizer,
    compute_loss,
    DataLoader(train, batch_size=64, shuffle=True),
    val_loader=DataLoader(held_out, batch_size=256),
    epochs=20,
    patience=5,
    clip_norm=1.0,
    run="runs/example",
)
print(f"{result.status} after {result.num_steps} steps: {result.reason}")
print(f"lowest validation loss {result.best_score:.4g}, at step {result.best_step}")
