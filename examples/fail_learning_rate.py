"""A learning rate set wrong in the middle of a run, on purpose, in a loop without Trimtab that writes a CSV file.

python examples/fail_learning_rate.py
trimtab diagnose runs/fail-learning-rate.csv
"""

import csv
from pathlib import Path

import torch
from torch import nn

import trimtab

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
path = Path("runs/fail-learning-rate.csv")
path.parent.mkdir(exist_ok=True)

with path.open("w", newline="") as file:
    log = csv.writer(file)
    log.writerow(["step", "loss", "grad_norm", "learning_rate"])
    for step in range(1, 401):
        inputs = torch.randn(32, 8)
        loss = nn.functional.mse_loss(model(inputs), inputs[:, :1].sin())
        if step == 250:
            optimizer.param_groups[0]["lr"] = 2.0  # 0.02 was meant
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
        optimizer.step()
        log.writerow([step, loss.item(), norm.item(), optimizer.param_groups[0]["lr"]])

print(trimtab.diagnose(path))
