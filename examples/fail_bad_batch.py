"""A batch with NaN in it, on purpose: see it skipped, and read where it came from.

python examples/fail_bad_batch.py
trimtab diagnose runs/fail-bad-batch
"""

import torch
from torch import nn

import trimtab

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def compute_loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The mean squared error of a batch."""
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs), targets)


with trimtab.Supervisor(model, optimizer, compute_loss=compute_loss, run="runs/fail-bad-batch") as supervisor:
    for step in range(1, 201):
        inputs = torch.randn(32, 8)
        targets = inputs[:, :1].sin()
        if step == 120:
            inputs[5, 3] = torch.nan  # one cell of one row, such as an empty field in a file
        batch = inputs, targets
        loss = compute_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        supervisor.check(loss, batch=batch)
        optimizer.step()

print(trimtab.diagnose("runs/fail-bad-batch"))
