"""A run that has stalled: fresh data, finalization, stop; and the same after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.laws.training import list_differences
from tests.loop.runs import NoisyNet, Parts, make_loader, make_parts
from trimtab import InputError, fit
from trimtab.control.partitions import divide_rows
from trimtab.loop import FitResult
from trimtab.signals import Inbox, send_signal

ROOT = Path(__file__).parents[2]

STALLING: dict[str, Any] = {"epochs": 20, "patience": 1, "min_delta": 1e9, "partitions": 2}
"""No validation but the first is an improvement: fresh data after the second epoch; after the tenth, which is the
earliest to stop at, two epochs of finalization, and the end. An epoch has three steps."""


def make_stalling(seed: int = 0, on_loss: Callable[[Parts], None] | None = None) -> Parts:
    """The parts of such a run."""
    return make_parts(NoisyNet, make_loader(noise=0.1), seed=seed, on_loss=on_loss)


def train(parts: Parts, **options: Any) -> FitResult:
    """Make such a run."""
    return parts.fit(**{**STALLING, "val_loader": make_loader(), "checkpoint_every": 4, **options})


def act_at(num_losses: int, act: Callable[[], object]) -> Callable[[Parts], None]:
    """Do something while a run computes its n-th loss."""

    def look(parts: Parts) -> None:
        if parts.num_losses == num_losses:
            act()

    return look


def train_until_killed(folder: Path, num_losses: int) -> None:
    """A process that ends itself without notice."""
    train(make_stalling(on_loss=act_at(num_losses, partial(os.kill, os.getpid(), signal.SIGKILL))), run=folder)


def read_events(run: Path, *names: str) -> list[dict[str, Any]]:
    """The events of some names."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [each for each in events if each["event"] in names]


def test_a_run_that_has_stalled(tmp_path: Path) -> None:
    """Fresh data, then the finalization from the best weights, then the end, each at its epoch."""
    parts = make_stalling()
    result = train(parts, run=tmp_path)
    assert (result.status, result.num_epochs, result.num_steps) == ("stopped-early", 12, 36)
    assert [(each.name, each.epoch) for each in result.adaptations] == [("rotation-1", 2), ("finalization-1", 10)]
    assert [(each.of, each.num_reviews) for each in result.outcomes] == [("rotation-1", 1), ("finalization-1", 2)]
    partitions = divide_rows(44, 2)
    seen = [{row for step in parts.trained[3 * epoch : 3 * epoch + 3] for row in step} for epoch in range(12)]
    assert seen == [set(partitions[0])] * 2 + [set(partitions[1])] * 10
    told = read_events(tmp_path, "adaptation", "outcome", "stopped-early", "restored")
    names = [each.get("name", each.get("of", each["event"])) for each in told]
    assert names == ["rotation-1", "rotation-1", "finalization-1", "finalization-1", "stopped-early", "restored"]


def test_a_list_of_loaders_is_gone_through() -> None:
    """Loaders of any kind are the partitions, in their order."""
    batches = list(make_loader(shuffle=False))
    parts = make_parts(NoisyNet, batches[:2])
    result = train(parts, partitions=[batches[2:4], batches[4:5]], epochs=8, patience=1)
    assert [(each.what, each.after) for each in result.adaptations] == [("partition", 1), ("partition", 2)]
    assert [len(step) for step in parts.trained] == [8] * len(parts.trained)
    assert (result.status, result.num_epochs, result.num_steps) == ("stopped-early", 4, 2 * 2 + 2 * 1 + 1)


def test_a_finalization_is_not_judged_by_the_loss_before_it() -> None:
    """Weights of an earlier epoch have the loss of then: a run that overfits on digits goes on from them unharmed."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    x, y = pixels[order].astype(np.float32), torch.from_numpy(labels[order])
    x = torch.from_numpy((x - x[:1078].mean(0)) / (x[:1078].std(0) + 0.1 * x[:1078].std()))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    result = fit(
        model,
        torch.optim.AdamW(model.parameters(), lr=3e-3),
        lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
        DataLoader(TensorDataset(x[:1078], y[:1078]), 64, shuffle=True, generator=torch.Generator().manual_seed(0)),
        val_loader=DataLoader(TensorDataset(x[1078:1437], y[1078:1437]), 512),
        epochs=120,
        patience=10,
        progress=False,
    )
    assert [each.name for each in result.adaptations] == ["finalization-1"]
    assert result.status == "stopped-early"


POINTS = {"before-fresh-data": 6, "with-fresh-data": 7, "before-the-finalization": 30, "in-it": 32, "near-its-end": 35}


ENDS = [(name, point, "paused") for name, point in POINTS.items()]
ENDS += [(name, POINTS[name], "killed") for name in ("with-fresh-data", "in-it")]


@pytest.mark.parametrize(("point", "end"), [pytest.param(point, end, id=f"{end}-{name}") for name, point, end in ENDS])
def test_a_run_that_was_stopped_decides_the_same(tmp_path: Path, point: int, end: str) -> None:
    """After a pause or kill -9, the run goes on bit for bit: the same data, finalization, end and best weights."""
    whole = make_stalling()
    expected = train(whole)
    if end == "paused":
        assert train(make_stalling(on_loss=act_at(point, partial(signal.raise_signal, signal.SIGUSR1))), run=tmp_path)
    else:
        code = "from pathlib import Path\nfrom tests.loop.test_stalled import train_until_killed\n"
        code += f"train_until_killed(Path({str(tmp_path)!r}), {point})"
        killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
        assert killed.returncode == -signal.SIGKILL
    second = make_stalling(seed=1)
    result = train(second, run=tmp_path)
    assert 0 < second.num_losses < whole.num_losses
    assert list_differences(second.capture(), whole.capture()) == []
    assert (result.adaptations, result.outcomes, result.timeline) == (
        expected.adaptations,
        expected.outcomes,
        expected.timeline,
    )
    assert (result.status, result.reviews, result.restored) == (expected.status, expected.reviews, expected.restored)


@pytest.mark.parametrize(
    ("point", "names"),
    [
        pytest.param(8, ["rotation-1"], id="before-the-finalization"),
        pytest.param(32, ["rotation-1", "finalization-1", "resumption-1"], id="in-it"),
    ],
)
def test_no_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int, names: list[str]) -> None:
    """Once stopping is ruled out no finalization begins, one under way is given up, and all epochs are made."""
    monkeypatch.setattr("trimtab.loop.training.Inbox", partial(Inbox, every_seconds=0.0))
    parts = make_stalling(on_loss=act_at(point, partial(send_signal, tmp_path, "no-stop")))
    result = train(parts, run=tmp_path)
    assert (result.status, result.num_epochs) == ("finished", 20)
    assert [each.name for each in result.adaptations] == names
    assert parts.optimizer.param_groups[0]["lr"] == parts.scheduler.get_last_lr()[0]


def test_a_stopped_run_stays_stopped(tmp_path: Path) -> None:
    """Started again, it returns at once with its best weights, and tells nothing twice."""
    first = make_stalling()
    expected = train(first, run=tmp_path)
    again = make_stalling(seed=1)
    result = train(again, run=tmp_path)
    assert (result.status, again.num_losses, result.restored) == (expected.status, 0, expected.restored)
    assert list_differences(again.capture(), first.capture()) == []
    assert len(read_events(tmp_path, "stopped-early", "restored")) == 2


def test_the_learning_rate_is_changed_and_given_back(tmp_path: Path) -> None:
    """On a plateau it is halved for the steps alone; where that did not help it is what it was, within its bounds."""
    parts = make_stalling()
    rates: list[float] = []
    parts.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    plain = make_stalling()
    plain_rates: list[float] = []
    plain.optimizer.register_step_pre_hook(lambda optimizer, *_: plain_rates.append(optimizer.param_groups[0]["lr"]))
    options = {"patience": None, "partitions": None, "epochs": 14}
    result = train(parts, adaptive=True, run=tmp_path, **options)
    train(plain, **options)
    assert [each.kind for each in result.adaptations[:2]] == ["cool", "return"]
    cooled, returned = result.adaptations[:2]
    factors = [rate / plain_rate for rate, plain_rate in zip(rates, plain_rates, strict=True)]
    assert factors[: cooled.step] == [1.0] * cooled.step
    assert factors[cooled.step : returned.step] == [0.5] * (returned.step - cooled.step)
    assert factors[returned.step] == 1.0
    assert returned.trigger == "outcome"
    assert parts.scheduler.state_dict() == plain.scheduler.state_dict()


def test_a_changed_learning_rate_goes_on(tmp_path: Path) -> None:
    """A run that is paused while its learning rate is changed goes on bit for bit, and gives it back when it is due."""
    options = {"patience": None, "partitions": None, "epochs": 14, "adaptive": True}
    whole = make_stalling()
    expected = train(whole, **options)
    cooled, returned = expected.adaptations[:2]
    point = (cooled.step + returned.step) // 2
    train(make_stalling(on_loss=act_at(point, partial(signal.raise_signal, signal.SIGUSR1))), run=tmp_path, **options)
    second = make_stalling(seed=1)
    result = train(second, run=tmp_path, **options)
    assert list_differences(second.capture(), whole.capture()) == []
    assert (result.adaptations, result.outcomes) == (expected.adaptations, expected.outcomes)


def test_fresh_data_are_not_taken_for_faults(tmp_path: Path) -> None:
    """Losses five times as high as those of the data before are trained on from the first batch, clipped at most."""
    sizes = 1 + 0.05 * torch.randn(24, generator=torch.Generator().manual_seed(0))
    known, fresh = ([scale * size * torch.ones(8, 4) for size in sizes] for scale in (1.0, 2.5))
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def compute_loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return functional.mse_loss(model(batch).squeeze(1), 5 * batch[:, 0])

    result = fit(
        model,
        torch.optim.SGD(model.parameters(), lr=1e-6),
        compute_loss,
        known,
        val_loader=known,
        epochs=8,
        patience=1,
        min_delta=1e9,
        partitions=[fresh],
        run=tmp_path,
    )
    assert [each.name for each in result.adaptations] == ["rotation-1"]
    verdicts = {each["decision"].get("verdict", "proceed") for each in read_events(tmp_path, "decision")}
    assert verdicts <= {"proceed", "clip"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "partitions-without-patience": ({"patience": None}, "partitions needs patience"),
    "partitions-of-a-list": ({"loader": list(make_loader())}, "partitions=n needs a DataLoader that shuffles"),
    "more-partitions-than-samples": ({"partitions": 45}, "44 samples cannot be divided into 45"),
    "no-number": ({"partitions": 0}, "partitions is 0"),
    "adaptive-without-validation": (
        {"val_loader": None, "patience": None, "partitions": None, "adaptive": True},
        "adaptive needs a validation loss",
    ),
    "unknown-best": ({"restore_best": "accuracy"}, "restore_best is 'accuracy'"),
    "no-tracker": ({"rows": 44}, "rows is a 'int'"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_done_is_refused(options: dict[str, Any], message: str) -> None:
    """Each in one sentence, before the first batch."""
    options = dict(options)
    parts = make_parts(loader=options.pop("loader", None))
    with pytest.raises(InputError, match=message):
        train(parts, **options)
