"""Find wrong labels while training: digits, of which 2 % were given a wrong label on purpose.

python examples/label_noise.py      # needs scikit-learn
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab.control.rows import IndexedRows, RowTracker

torch.manual_seed(0)
random = np.random.default_rng(0)

images, labels = load_digits(return_X_y=True)
planted = random.choice(len(labels), size=len(labels) // 50, replace=False)
labels[planted] = (labels[planted] + random.integers(1, 10, len(planted))) % 10

dataset = IndexedRows(TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)))
loader = DataLoader(dataset, batch_size=64, shuffle=True)
tracker = RowTracker(len(dataset))

model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
supervisor = trimtab.Supervisor(model, optimizer)

for _ in range(20):
    for rows, (x, y) in loader:
        scores = model(x)
        losses = nn.functional.cross_entropy(scores, y, reduction="none")
        optimizer.zero_grad()
        losses.mean().backward()
        supervisor.check(losses.mean())
        optimizer.step()
        tracker.update(rows, losses, scores.argmax(1) == y)
    tracker.end_epoch()
supervisor.finish()

suspects = tracker.find_suspects()
num_right = len(np.intersect1d(suspects.rows, planted))
print(tracker.summarize())
print(suspects.message)
print(
    f"{num_right} of the {len(suspects.rows)} suspects were planted, {num_right} of {len(planted)} planted were found"
)
for row, score in list(zip(suspects.rows, suspects.scores, strict=True))[:5]:
    print(f"  row {row}: label {labels[row]}, score {score:.2f}")
