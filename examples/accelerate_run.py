"""Train a small network with Accelerate: the plain three lines, once for each step of the optimizer.

python examples/accelerate_run.py
"""

import logging

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab

logging.basicConfig(format="%(message)s")
torch.manual_seed(0)

x = torch.rand(4096, 2) * 4 - 2
y = torch.sin(3 * x[:, :1]) * x[:, 1:]
y[64 * 20] = torch.nan  # one number that is not there

accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
network = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
adamw = torch.optim.AdamW(network.parameters(), lr=3e-3)
model, optimizer, loader, scheduler = accelerator.prepare(
    network,
    adamw,
    DataLoader(TensorDataset(x, y), batch_size=64),
    torch.optim.lr_scheduler.CosineAnnealingLR(adamw, 10 * 32),
)
supervisor = trimtab.Supervisor(model, adamw, scheduler, scaler=accelerator.scaler, clip_norm=1.0)

total = torch.zeros((), device=accelerator.device)
for _ in range(10):
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            loss = nn.functional.mse_loss(model(inputs), targets)
            accelerator.backward(loss)
            total += loss.detach() / accelerator.gradient_accumulation_steps
            if accelerator.sync_gradients:
                supervisor.check(total)  # in place of accelerator.clip_grad_norm_
                total.zero_()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

skipped = [each.step for each in supervisor.ledger if not each.proceed]
print(f"{supervisor.step} steps, {len(skipped)} updates dropped: {', '.join(map(str, skipped))}")
print(f"loss of the last step {supervisor.history.newest.values['loss']:.4f}")
supervisor.finish()
