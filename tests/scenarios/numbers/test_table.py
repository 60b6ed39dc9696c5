"""Each trouble with gradients and numbers, provoked on a small real model: found, named and answered.

`pytest tests/scenarios/numbers/test_table.py -s` prints the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional

from trimtab import Supervisor
from trimtab.journal import read_run
from trimtab.recipes import make_scaler

BAD = 30
"""The step of what happens once: well after the warm-up of every detector."""


def make_mlp() -> nn.Module:
    """Three layers with BatchNorm and ReLU, which any of the troubles may hit."""
    return nn.Sequential(
        nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )


def make_deep() -> nn.Module:
    """Twenty layers of sigmoids, which no gradient passes."""
    layers = [layer for _ in range(20) for layer in (nn.Linear(12, 12), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(12, 4))


class Idle(nn.Module):
    """A model that never calls one of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = make_mlp()
        self.idle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """The body alone."""
        outputs: Tensor = self.body(x)
        return outputs


class LogLoss(nn.Module):
    """A model whose output is a probability, which a large input makes exactly 0."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """The logarithm of a softmax, written out."""
        return torch.log(torch.softmax(self.body(x), dim=1))


@dataclass
class Loop:
    """A training loop as people write it, with places where a trouble can get in."""

    make: Callable[[], nn.Module] = make_mlp
    rate: float = 1e-3
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW
    dtype: torch.dtype | None = None
    scaler: Callable[[], GradScaler] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    clears: bool = True
    pinned_scale: float | None = None
    data: Callable[[int, Tensor], Tensor] = lambda _, x: x
    on_batch: Callable[[int, Tensor], Tensor] = lambda _, x: x
    on_loss: Callable[[int, Tensor], Tensor] = lambda _, loss: loss
    on_gradients: Callable[[int, nn.Module], object] = lambda _step, _model: None
    after_step: Callable[[int, nn.Module], object] = lambda _step, _model: None
    num_steps: int = BAD

    def compute_loss(self, model: nn.Module, batch: tuple[int, Tensor, Tensor]) -> Tensor:
        """The loss of a batch, under the run's autocast."""
        step, x, y = batch
        with nullcontext() if self.dtype is None else torch.autocast("cpu", dtype=self.dtype):
            outputs = model(self.on_batch(step, x))
        loss = functional.nll_loss if self.make is LogLoss else functional.cross_entropy
        return self.on_loss(step, loss(outputs.float(), y))

    def run(self, folder: Path) -> Supervisor:
        """Train to the end, and leave a run folder."""
        torch.manual_seed(0)
        model = self.make()
        optimizer = self.optimizer(model.parameters(), lr=self.rate)  # type: ignore[call-arg]
        scaler = None if self.scaler is None else self.scaler()
        options = {"compute_loss": self.compute_loss, **self.options}
        with Supervisor(model, optimizer, scaler=scaler, run=folder, **options) as supervisor:
            for step in range(1, self.num_steps + 1):
                x = self.data(step, torch.randn(64, 12, generator=torch.Generator().manual_seed(step)))
                batch = (step, x, x[:, :4].argmax(1))
                loss = self.compute_loss(model, batch)
                if self.clears:
                    optimizer.zero_grad()
                (loss if scaler is None else scaler.scale(loss)).backward()
                self.on_gradients(step, model)
                supervisor.check(loss, batch=batch)
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update(self.pinned_scale)
                self.after_step(step, model)
        return supervisor


def fill_gradients(value: float, layer: str, *steps: int) -> Callable[[int, nn.Module], None]:
    """Multiply the gradients of a layer at some steps."""

    def fill(step: int, model: nn.Module) -> None:
        if step in steps:
            for name, parameter in model.named_parameters():
                if name.startswith(f"{layer}.") and parameter.grad is not None:
                    parameter.grad.mul_(value)

    return fill


@torch.no_grad()
def ruin_weight(step: int, model: nn.Module) -> None:
    """Make one weight NaN after the update before the bad step, once."""
    weight = next(model.parameters())
    if step == BAD - 1:
        weight[0, 0] = math.nan


@torch.no_grad()
def kill_units(step: int, model: nn.Module) -> None:
    """Push every unit of the second hidden layer below 0 at the beginning."""
    if step == 1:
        bias = model.get_parameter("3.bias")
        bias.fill_(-50.0)


class Once:
    """A fault that occurs at one computation alone, as of a memory that flips a bit."""

    def __init__(self) -> None:
        self.is_over = False

    def __call__(self, step: int, loss: Tensor) -> Tensor:
        """The loss, NaN the first time at the bad step."""
        if step == BAD and not self.is_over:
            self.is_over = True
            return loss * math.nan
        return loss


@dataclass(frozen=True)
class Scenario:
    """One trouble, and what is to become of it."""

    loop: Loop
    detector: str
    step: int
    verdict: str
    words: str
    """What message, groups or note have to say."""


def at(step: int, value: float) -> Callable[[int, Tensor], Tensor]:
    """Multiply what there is at one step by a value."""
    return lambda now, tensor: tensor * value if now == step else tensor


HALF: dict[str, Any] = {"dtype": torch.float16, "scaler": lambda: make_scaler(device="cpu")}

SCENARIOS: dict[str, Scenario] = {
    "loss is NaN": Scenario(Loop(on_loss=at(BAD, math.nan)), "nonfinite", BAD, "skip", "loss is not finite"),
    "batch is NaN": Scenario(Loop(data=at(BAD, math.nan)), "nonfinite", BAD, "skip", "data batch[1] has 768 of 768"),
    "batch is NaN, float16": Scenario(
        Loop(data=at(BAD, math.nan), **HALF), "nonfinite", BAD, "skip", "data batch[1] has 768 of 768"
    ),
    "transient fault": Scenario(Loop(on_loss=Once()), "nonfinite", BAD, "skip", "transient"),
    "log of 0": Scenario(Loop(make=LogLoss, on_batch=at(BAD, 1e6)), "nonfinite", BAD, "skip", "structural"),
    "float16 activation overflows": Scenario(
        Loop(on_batch=at(BAD, 1e6), **HALF), "nonfinite", BAD, "skip", "precision"
    ),
    "one gradient infinite": Scenario(
        Loop(on_gradients=fill_gradients(math.inf, "3", BAD)),
        "nonfinite",
        BAD,
        "skip",
        "gradients not finite: 3.weight, 3.bias",
    ),
    "weight is NaN": Scenario(
        Loop(after_step=ruin_weight), "nonfinite", BAD, "rollback", "weight_norm is not finite in 0"
    ),
    "group spikes": Scenario(
        Loop(on_gradients=fill_gradients(1e3, "3", BAD)), "group-spike", BAD, "clip", "of 3 is above"
    ),
    "group explodes": Scenario(
        Loop(on_gradients=fill_gradients(1e9, "3", BAD)), "group-explosion", BAD, "drop", "of 3 is above"
    ),
    "group explodes thrice": Scenario(
        Loop(on_gradients=fill_gradients(1e9, "3", BAD, BAD + 1, BAD + 2), num_steps=BAD + 2),
        "group-explosion",
        BAD + 2,
        "drop",
        "drop 3 + freeze 3",
    ),
    "scale never moves": Scenario(
        Loop(dtype=torch.float16, scaler=lambda: GradScaler("cpu", init_scale=2.0**40), pinned_scale=2.0**40),
        "loss-scale-stuck",
        3,
        "proceed",
        "",
    ),
    "scale collapses": Scenario(
        Loop(
            dtype=torch.float16,
            scaler=lambda: GradScaler("cpu", init_scale=2.0, growth_interval=1000),
            on_gradients=fill_gradients(math.inf, "3", *range(BAD, BAD + 4)),
            num_steps=BAD + 4,
        ),
        "loss-scale-collapsed",
        BAD + 2,
        "skip",
        "initialization",
    ),
    "gradients underflow": Scenario(
        Loop(
            dtype=torch.float16,
            scaler=lambda: GradScaler("cpu", init_scale=1.0),
            on_loss=lambda _, loss: 1e-5 * loss,
            num_steps=102,
        ),
        "gradient-underflow",
        102,
        "proceed",
        "float16",
    ),
    "updates lost to rounding": Scenario(
        Loop(
            make=lambda: nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, 4)).bfloat16(),
            on_batch=lambda _, x: x.bfloat16(),
            rate=1e-5,
            num_steps=110,
        ),
        "lost-update",
        34,
        "proceed",
        "float32",
    ),
    "layer is never used": Scenario(Loop(make=Idle, num_steps=102), "missing-gradient", 102, "proceed", "idle"),
    "gradients are never cleared": Scenario(
        Loop(clears=False, rate=1e-6, num_steps=2), "stale-gradient", 2, "proceed", ""
    ),
    "gradients are 0": Scenario(Loop(on_loss=lambda _, loss: loss * 0 + 1.0), "zero-gradient", 3, "proceed", ""),
    "learning rate is 0": Scenario(Loop(rate=0.0), "zero-learning-rate", 3, "proceed", ""),
    "units are dead": Scenario(
        Loop(after_step=kill_units, rate=1e-5, num_steps=102), "dead-units", 102, "proceed", "3"
    ),
    "gradient vanishes with depth": Scenario(Loop(make=make_deep, num_steps=102), "depth-gradient", 102, "proceed", ""),
    "updates are too small": Scenario(
        Loop(optimizer=torch.optim.SGD, rate=1e-9, num_steps=110), "update-ratio", 66, "proceed", ""
    ),
}


@pytest.fixture(scope="module")
def table() -> Iterator[list[Sequence[str]]]:
    """The rows of the table, printed at the end."""
    rows: list[Sequence[str]] = []
    yield rows
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))  # noqa: T201


@pytest.mark.parametrize("name", SCENARIOS)
def test_trouble_is_found_named_and_answered(name: str, table: list[Sequence[str]], tmp_path: Path) -> None:
    """The trouble is found by the detector for it at the step expected, named, and answered."""
    scenario = SCENARIOS[name]
    scenario.loop.run(tmp_path / "run")
    records = read_run(tmp_path / "run").records
    found = {
        step: (decision, action)
        for (step, _), (decision, action) in records.items()
        if any(finding.detector == scenario.detector for finding in decision.findings)
    }
    assert scenario.step in found, {key: decision.reason for key, (decision, _) in found.items()}
    assert min(found) >= min(scenario.step, BAD)
    decision, action = found[scenario.step]
    told = f"{decision.reason}; {action.note}"
    table.append((name, scenario.detector, f"step {scenario.step}", action.verdict, told))
    assert action.verdict == scenario.verdict
    assert scenario.words in told


def test_parameters_left_behind_are_warned_about() -> None:
    """An optimizer that holds parameters the model has no more, as after wrapping, is warned about at once."""
    model = make_mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    setattr(model, "0", nn.Linear(12, 32))
    with pytest.warns(UserWarning, match="it holds 2 that the model does not have, as after a layer was replaced"):
        Supervisor(model, optimizer)
