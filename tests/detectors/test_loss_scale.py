"""The detectors of the loss scale: stuck, collapsed, oscillating, and overflows that go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional

from tests.laws.training import add_scaler, make_training
from trimtab import Supervisor
from trimtab.detectors import detect
from trimtab.detectors.float16_overflow import tell_overflow
from trimtab.history import CAPACITY, History
from trimtab.types import Finding, Measurement, Value

Step = dict[str, Value]


def step(scale: float | None = 1024.0, norm: float = 1.0, loss: float = 1.0) -> Step:
    """One step; without a scaler if the scale is None."""
    return {"loss": loss, "grad_norm": norm, **({} if scale is None else {"loss_scale": scale})}


def over(scale: float = 1024.0, norm: float = inf, loss: float = 1.0) -> Step:
    """A step whose gradients overflow."""
    return step(scale, norm, loss)


def at(*scales: float) -> list[Step]:
    """Healthy steps with these scales."""
    return [step(float(scale)) for scale in scales]


def fall(*scales: float) -> list[Step]:
    """Steps that overflow at these scales."""
    return [over(float(scale)) for scale in scales]


def make_history(steps: Iterable[Step]) -> Iterator[History]:
    """The history after each step."""
    history = History()
    for index, values in enumerate(steps, 1):
        history.append(Measurement(index, values))
        yield history
        history.close(accepted=True)


def watch(name: str, steps: Iterable[Step], **settings: float) -> list[Finding]:
    """What a detector finds."""
    return [finding for history in make_history(steps) for finding in detect(history, {name: settings})]


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        pytest.param([step(), over(), step(), over(), step(), over()], [6], id="third-overflow-at-the-same-scale"),
        pytest.param([over()] * 4, [3, 4], id="in-a-row-from-the-start"),
        pytest.param([over(norm=nan)] * 3, [3], id="nan-is-an-overflow-too"),
        pytest.param([*fall(4096, 2048), *[over()] * 3], [5], id="it-moved-before"),
        pytest.param([over(), *[step()] * 500, over(), *[step()] * 5, over()], [508], id="far-apart"),
    ],
)
def test_stuck_scale_is_reported(steps: Sequence[Step], found: list[int]) -> None:
    """A scale that stays as it was after two overflows is found at the third."""
    findings = watch("loss-scale-stuck", steps)
    assert [finding.step for finding in findings] == found
    assert findings[0].message == (
        "loss_scale stays 1024 though gradients overflow: call scaler.step(optimizer) and scaler.update() at every step"
    )
    assert (findings[0].severity, findings[0].value) == ("low", 1024.0)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([], id="nothing-measured"),
        pytest.param([{}] * 5, id="no-metric"),
        pytest.param(at(*[65536.0] * 600), id="constant-without-overflows"),
        pytest.param([over(2.0**16 / 2**index) for index in range(12)], id="calibration"),
        pytest.param([over(1024), step(512), over(512), step(256), over(256)], id="every-overflow-moves-it"),
        pytest.param([over(), over(), step()], id="not-at-a-finite-step"),
        pytest.param([step(None, inf)] * 5, id="no-scaler"),
        pytest.param([over(loss=nan, norm=nan)] * 5, id="the-loss-is-not-finite"),
        pytest.param([over(1.0)] * 9, id="held-at-1-by-rescale"),
        pytest.param([over(nan)] * 5, id="scale-is-not-a-number"),
        pytest.param([over(), over(), *[step()] * CAPACITY, over()], id="older-than-the-history"),
        pytest.param([over(), over(2048), over(), over(2048)], id="restored-by-rollbacks"),
    ],
)
def test_moving_scale_is_not_stuck(steps: Sequence[Step]) -> None:
    """A scale that answers overflows, or has none to answer, is not stuck."""
    assert watch("loss-scale-stuck", steps) == []


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        pytest.param(at(0.5), [1], id="at-the-first-step"),
        pytest.param(at(2, 1, 0.5, 0.25), [3, 4], id="falls-further"),
        pytest.param(fall(1, 0.5), [2], id="by-an-overflow"),
        pytest.param(at(1, 0.5, 0.5, 0.5, 1, 0.5), [2, 6], id="once-for-each-fall"),
        pytest.param([*at(1), step(nan), *at(0.5)], [3], id="after-a-gap"),
        pytest.param(at(1, 0.0), [2], id="zero"),
    ],
)
def test_collapsed_scale_is_reported(steps: Sequence[Step], found: list[int]) -> None:
    """A scale below 1 is found where it comes there, and at each further fall."""
    findings = watch("loss-scale-collapsed", steps)
    assert [finding.step for finding in findings] == found
    assert all("halve the learning rate" in finding.message and finding.severity == "high" for finding in findings)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([{}] * 3, id="no-scaler"),
        pytest.param(at(*[1.0] * 9), id="exactly-1"),
        pytest.param(fall(*[2.0**-index * 65536 for index in range(17)]), id="calibration-down-to-1"),
        pytest.param([step(nan)], id="not-a-number"),
        pytest.param(at(inf), id="infinite"),
        pytest.param(at(1e30, 1e-3 + 1), id="a-long-fall-above-1"),
    ],
)
def test_scale_above_1_has_not_collapsed(steps: Sequence[Step]) -> None:
    """A scale of 1 or above is the scaler's business."""
    assert watch("loss-scale-collapsed", steps) == []


def test_least_scale_is_a_setting() -> None:
    """`least` is the smallest scale that is not remarked on."""
    assert [each.step for each in watch("loss-scale-collapsed", at(64, 32, 16), least=32.0)] == [3]


SWING = [1024.0, 2048.0]


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        pytest.param(at(*SWING * 4, 1024.0), [9], id="every-step"),
        pytest.param(at(*[each for each in [*SWING * 4, 1024.0] for _ in range(20)]), [161], id="every-twenty-steps"),
        pytest.param(at(*SWING * 4, 512.0, 256.0, 512.0), [9, 10, 11], id="by-several-steps"),
        pytest.param([*at(*SWING * 3), step(nan), *at(*SWING, 1024.0)], [10], id="across-a-gap"),
    ],
)
def test_oscillating_scale_is_reported(steps: Sequence[Step], found: list[int]) -> None:
    """A scale that turns more than six times in 200 steps is found where it moves."""
    findings = watch("loss-scale-oscillating", steps)
    assert [finding.step for finding in findings] == found
    assert "raise the scaler's growth_interval" in findings[0].message
    assert findings[0].severity == "low"


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([{}] * 20, id="no-scaler"),
        pytest.param(at(*[65536.0] * 300), id="constant"),
        pytest.param(at(*[2.0**-index for index in range(60)]), id="it-only-falls"),
        pytest.param(at(*[2.0**index for index in range(60)]), id="it-only-grows"),
        pytest.param(at(*SWING * 4), id="six-turns-at-most"),
        pytest.param(at(*[SWING[index // 200 % 2] for index in range(2000)]), id="growth-interval-of-200"),
        pytest.param(at(*[SWING[index // 67 % 2] for index in range(2000)]), id="two-or-three-turns-in-200"),
        pytest.param([*at(*SWING * 3), *[step(SWING[1])] * 300], id="it-has-come-to-rest"),
        pytest.param([step(nan)] * 9, id="not-a-number"),
    ],
)
def test_resting_scale_does_not_oscillate(steps: Sequence[Step]) -> None:
    """A scale that rests, falls, grows, or turns now and then is as it should be."""
    assert watch("loss-scale-oscillating", steps) == []


CALIBRATION = fall(*[2.0 ** (16 - index) for index in range(9)])
DOWN = [2.0 ** (20 - index) for index in range(12)]


def scatter(scales: Iterable[float], num_between: int) -> list[Step]:
    """Overflows at falling scales with healthy steps between them."""
    return [each for scale in scales for each in (over(scale), *[step(scale / 2)] * num_between)]


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        pytest.param([step(2.0**20), *scatter(DOWN[:6], 10)], [57], id="six-in-sixty-steps"),
        pytest.param([step(2.0**20), *fall(*DOWN[:7])], [7, 8], id="in-a-row"),
        pytest.param([*CALIBRATION, step(2.0**20), *fall(*DOWN[:6])], [16], id="after-calibration"),
        pytest.param([step(), *[each for _ in range(6) for each in (over(), step(512))]], [12], id="it-grows-back"),
    ],
)
def test_overflows_that_go_on_are_reported(steps: Sequence[Step], found: list[int]) -> None:
    """More than five overflows in 100 steps after calibration are found, with where they began."""
    findings = watch("float16-overflow", steps)
    assert [finding.step for finding in findings] == found
    assert " overflows in " in findings[0].message
    assert "they are too large for float16" in findings[0].message
    assert (findings[0].severity, findings[0].metric) == ("medium", "loss_scale")


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([{}] * 9, id="nothing-measured"),
        pytest.param(fall(*[2.0**-index for index in range(40)]), id="calibration-however-long"),
        pytest.param([*CALIBRATION, *[step()] * 20, *fall(1024, 512)], id="calibration-does-not-count"),
        pytest.param([step(2.0**20), *fall(*DOWN[:5])], id="five-are-left-to-the-scaler"),
        pytest.param([step(2.0**20), *scatter(DOWN, 25)], id="one-in-26-steps"),
        pytest.param([step(), *[over()] * 20], id="a-scale-that-does-not-move-is-stuck"),
        pytest.param([step(), *[over(norm=nan, loss=nan)] * 20], id="a-loss-that-is-not-finite"),
        pytest.param([step(None), *[step(None, inf)] * 20], id="no-scaler"),
        pytest.param([*scatter(DOWN, 1)[:-1], *[step()] * 4][-4:], id="at-finite-steps"),
        pytest.param([step(), *[over(2.0**-index, loss=inf) for index in range(20)]], id="an-infinite-loss"),
    ],
)
def test_overflows_of_a_healthy_scaler_are_silent(steps: Sequence[Step]) -> None:
    """Calibration, rare overflows and other faults are not an overflow that goes on."""
    assert watch("float16-overflow", steps) == []


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        pytest.param([], "", id="empty"),
        pytest.param([step()], "", id="healthy"),
        pytest.param([over(), step(512)], "", id="over-again"),
        pytest.param([step(), over(2048), over(1024)], "too large for float16", id="the-scale-falls"),
        pytest.param([step(), over()], "too large for float16", id="the-first-of-a-bout"),
        pytest.param([step(), over(), over()], "not engaged", id="the-scale-does-not-fall"),
        pytest.param([step(), step(1024, nan, nan)], "forward pass", id="loss-and-gradients-together"),
        pytest.param([step(), step(1024, nan, inf), over(512)], "forward pass", id="the-loss-first"),
        pytest.param([step(), over(2048), step(1024, nan, nan)], "too large for float16", id="the-gradients-first"),
        pytest.param([step(None), step(None, inf)], "without a loss scale", id="no-scaler"),
        pytest.param([{"grad_norm": inf, "loss_scale": 2.0}], "too large for float16", id="loss-not-known"),
        pytest.param([{"loss": 1.0}, {"loss": nan}], "forward pass", id="loss-alone"),
    ],
)
def test_overflow_is_told_from_a_fault_in_the_loss(steps: Sequence[Step], told: str) -> None:
    """Where a bout of numbers that are not finite began tells float16's overflow from a fault of every dtype."""
    *_, history = [History(), *make_history(steps)]
    assert told in tell_overflow(history)
    assert bool(tell_overflow(history)) == bool(told)


class Loop:
    """A float16 training of a small network with a supervisor, its gradients as large as asked."""

    def __init__(self, factor: float, **options: Any) -> None:
        self.model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-9 / factor)
        self.scaler = GradScaler("cpu", **options)
        self.factor = factor
        self.supervisor = Supervisor(self.model, self.optimizer, scaler=self.scaler)

    def run(self, num_steps: int, *, is_engaged: bool = True) -> list[str]:
        """The detectors of the loss scale that found something."""
        found: list[str] = []
        for _ in range(num_steps):
            x = torch.randn(32, 16)
            with torch.autocast("cpu", dtype=torch.float16):
                outputs = self.model(x).float()
            loss = self.factor * functional.l1_loss(outputs.squeeze(-1), x.sum(1))
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            decision = self.supervisor.check(loss)
            if is_engaged:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            else:
                self.optimizer.step()
            found += [each.detector for each in decision.findings if each.metric == "loss_scale"]
        return found


def test_scaler_that_is_never_updated_is_found() -> None:
    """A loop that scales the loss but steps the optimizer itself leaves the scale where it is."""
    assert set(Loop(1e3, init_scale=2.0**16).run(5, is_engaged=False)) == {"loss-scale-stuck"}


def test_gradients_too_large_for_any_scale_are_found() -> None:
    """Gradients beyond the largest float16 drive the scale below 1."""
    found = Loop(1e7, init_scale=8.0).run(9)
    assert set(found) == {"loss-scale-collapsed"}


@pytest.mark.parametrize("options", [{}, {"init_scale": 2.0**10, "growth_interval": 200}, {"init_scale": 2.0**24}])
def test_healthy_float16_run_is_silent(options: dict[str, float]) -> None:
    """A run whose scaler calibrates and grows as it should yields nothing."""
    assert Loop(1.0, **options).run(260) == []


def test_scaler_that_grows_too_soon_is_found() -> None:
    """A scale that grows fourfold every eight steps overflows and falls for ever."""
    training = make_training("sgd", add_scaler).supervise().run(110)
    found = {each.detector for decision in training.decisions for each in decision.findings}
    assert found & {"loss-scale-oscillating", "float16-overflow"} == {"loss-scale-oscillating", "float16-overflow"}
    assert set(training.verdicts) == {"proceed"}
