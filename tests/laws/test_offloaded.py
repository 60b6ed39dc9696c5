"""Parameters that have no numbers, or are not trained: left out of all that is measured and kept, or refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trimtab import InputError, Supervisor
from trimtab.state.live import Snapshot


class Net(nn.Module):
    """A trained part beside frozen parameters and a buffer that are on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.elsewhere = nn.Linear(3, 3, device="meta").requires_grad_(False)
        self.register_buffer("table", torch.empty(3, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """What is elsewhere has no part in it."""
        y: Tensor = self.trained(x)
        return y


def train(model: nn.Module, optimizer: torch.optim.Optimizer, supervisor: Supervisor, num_steps: int) -> None:
    """A few steps."""
    for _ in range(num_steps):
        x = torch.randn(8, 4)
        optimizer.zero_grad()
        loss = functional.mse_loss(model(x), x[:, :1])
        loss.backward()
        supervisor.check(loss)
        optimizer.step()


@pytest.mark.filterwarnings("ignore:checkpoint. what is on the meta device is in none")
def test_what_is_frozen_on_the_meta_device_is_left_out(tmp_path: Path) -> None:
    """Nothing fails: a step is skipped, weights are rolled back, and a checkpoint is written and resumed."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with Supervisor(model, optimizer, run=tmp_path, strict=True) as supervisor:
        train(model, optimizer, supervisor, 20)
        assert supervisor.checkpoint(now=True)
        with torch.no_grad():
            model.trained[0].weight.fill_(math.nan)  # type: ignore[operator]
        train(model, optimizer, supervisor, 5)
    assert [each.verdict for each in supervisor.ledger if not each.proceed] == ["rollback"]
    with Supervisor(model, optimizer, run=tmp_path, resume=True, strict=True) as supervisor:
        resumed = supervisor.resume()
        assert resumed is not None
        assert resumed.step >= 20
        train(model, optimizer, supervisor, 5)
    assert all(bool(torch.isfinite(each).all()) for each in model.trained.parameters())


def test_checkpoint_says_what_is_in_none(tmp_path: Path) -> None:
    """What has no numbers is named once."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    supervisor = Supervisor(model, optimizer, run=tmp_path)
    with pytest.warns(UserWarning, match=r"meta device is in none: table, elsewhere\.weight, elsewhere\.bias"):
        supervisor.checkpoint()
    supervisor.finish()


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        pytest.param(
            nn.Linear(3, 1, device="meta"), "to be trained are on the meta device.*: weight, bias; load", id="meta"
        ),
        pytest.param(nn.LazyLinear(1), "no shape yet: weight, bias; call it once on a batch", id="lazy"),
    ],
)
def test_what_has_no_numbers_cannot_be_trained(model: nn.Module, sentence: str) -> None:
    """A parameter that is to be trained and has no numbers is refused in a sentence that says what to do."""
    with pytest.raises(InputError, match=sentence):
        Supervisor(model, torch.optim.SGD(model.parameters(), lr=0.1))


def list_kept(snapshot: Snapshot | None) -> list[Tensor]:
    """The parameters of which a snapshot has a copy."""
    assert snapshot is not None
    return [key[1] for key in snapshot.copies if key[0] == "parameter"]


def test_frozen_parameters_are_in_no_snapshot_until_they_are_trained() -> None:
    """A frozen base takes no memory, though the optimizer holds it; once it is trained, a rollback restores it too."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    base = list(model[0].parameters())
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    supervisor = Supervisor(model, optimizer, strict=True)
    train(model, optimizer, supervisor, 20)
    snapshots = supervisor._controls.snapshots
    assert len(list_kept(snapshots.proven)) == 2
    before = [each.detach().clone() for each in base]
    model[0].requires_grad_(True)
    train(model, optimizer, supervisor, 1)
    assert len(list_kept(snapshots.proven)) == 4
    assert not torch.equal(base[0], before[0])
    with torch.no_grad():
        base[0].fill_(math.nan)
    train(model, optimizer, supervisor, 1)
    assert supervisor.ledger[-1].verdict == "rollback"
    assert all(torch.equal(each, was) for each, was in zip(base, before, strict=True))


def test_parameters_frozen_since_are_restored_too() -> None:
    """What was trained when a snapshot was taken goes back with it, though it is frozen by then."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    supervisor = Supervisor(model, optimizer, strict=True)
    train(model, optimizer, supervisor, 20)
    model[0].requires_grad_(False)
    with torch.no_grad():
        model[1].weight.fill_(math.nan)  # type: ignore[operator]
    train(model, optimizer, supervisor, 1)
    assert supervisor.ledger[-1].verdict == "rollback"
    snapshot = supervisor._controls.snapshots.proven
    assert snapshot is not None
    assert all(torch.equal(each, snapshot.copies["parameter", each]) for each in model.parameters())
