"""A forward pass that overflows in float16, on purpose: see it skipped, and read where it begins.

python examples/fail_float16.py
trimtab diagnose runs/fail-float16
"""

import torch
from torch import Tensor, nn

import trimtab

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean squared error of a batch, in float16; autocast stands within, so that a second look can do without."""
    inputs, targets = batch
    with torch.autocast("cpu", torch.float16):
        return nn.functional.mse_loss(model(inputs), targets)


with trimtab.Supervisor(
    model, optimizer, scaler=scaler, compute_loss=compute_loss, run="runs/fail-float16"
) as supervisor:
    for step in range(1, 201):
        inputs = torch.randn(32, 8)
        batch = inputs, inputs[:, :1].sin()
        if step == 150:
            batch = 1e6 * inputs, inputs[:, :1].sin()  # rows that nobody has scaled; the largest float16 is 65504
        loss = compute_loss(model, batch)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        supervisor.check(loss, batch=batch)
        scaler.step(optimizer)
        scaler.update()

print(trimtab.diagnose("runs/fail-float16"))
