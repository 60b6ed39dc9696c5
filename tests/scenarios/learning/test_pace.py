"""Runs of `fit` whose pace is set by the loader, or by the processor: measured, and told by name."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from tests.scenarios.learning.runs import cut_images
from trimtab import fit
from trimtab.diagnosis import diagnose
from trimtab.journal import read_run


class Slow(Dataset[tuple[Tensor, Tensor]]):
    """Digits of which each takes its time to be read."""

    def __init__(self, seconds: float) -> None:
        self.data, self.seconds = cut_images(), seconds

    def __len__(self) -> int:
        return 8 * 110

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(self.seconds)
        return self.data.x[index], self.data.y[index]


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("seconds", "found"), [pytest.param(0.002, ["data-bound"], id="slow-loader"), pytest.param(0.0, [], id="fast")]
)
def test_run_that_waits_for_its_data_is_found(seconds: float, found: list[str], tmp_path: Path) -> None:
    """What a loader takes is in the record of every step, and the detector and the diagnosis name it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    fit(model, optimizer, compute_loss, DataLoader(Slow(seconds), 8), run=tmp_path / "run", progress=False)
    log = read_run(tmp_path / "run")
    columns = ("step_seconds", "data_seconds", "cpu_seconds")
    steps = [[each.values[name] for name in columns] for each in log.measurements if "step_seconds" in each.values]
    times = np.array(steps)
    assert len(steps) == 109
    assert ((times[:, 1] >= 0) & (times[:, 1] <= times[:, 0])).all()
    assert (times[:, 2] >= 0).all()
    assert [each.detector for decision, _ in log.decided for each in decision.findings] == found
    assert [each.name for each in diagnose(tmp_path / "run").causes] == found
