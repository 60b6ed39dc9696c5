"""`judge_rerun`: which kind of fault a loss shows when it is computed again."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import partial
from math import inf, isfinite, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.probes.rerun import ComputeLoss, Rerun, Verdict, compute_number, judge_rerun

X = torch.linspace(-1, 1, 32).reshape(8, 4)


def make(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), *layers)


def constant(value: float) -> nn.Module:
    """A linear layer whose parameters all have one value."""
    layer = nn.Linear(4, 4)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def square(model: nn.Module, batch: Tensor) -> Tensor:
    output: Tensor = model(batch)
    return output.float().square().mean()


def log_of_zero(model: nn.Module, batch: Tensor) -> Tensor:
    return -torch.log(model(batch).sum() * 0)


def under_autocast(model: nn.Module, batch: Tensor) -> Tensor:
    """A loss that turns autocast on by itself."""
    with torch.autocast("cpu", dtype=torch.float16):
        return square(model, batch)


def two_losses(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    return {"fit": square(model, batch), "penalty": model(batch).mean()}


def failing_once(value: float) -> ComputeLoss:
    """A loss that is a value at the first call only."""
    calls = itertools.count()
    return lambda model, batch: square(model, batch) * (value if next(calls) == 0 else 1.0)


def wavering(*factors: float) -> ComputeLoss:
    """A loss with other factors at every call."""
    turns = itertools.cycle(factors)
    return lambda model, batch: square(model, batch) * next(turns)


def only_half(model: nn.Module, batch: Tensor) -> Tensor:
    """A loss whose kernel has no float32."""
    if next(model.parameters()).dtype == torch.float32:
        raise RuntimeError("no kernel for float32")
    return square(model, batch) * 1e6


def judge(
    model: nn.Module, compute_loss: ComputeLoss, autocast: torch.dtype | None = None, before: float | None = None
) -> Rerun:
    """Compute the loss as a step does, then judge it."""
    state = torch.get_rng_state()
    half = next(model.parameters()).dtype
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        batch = X.to(half)
        first = compute_number(model, compute_loss, batch) if before is None else before
        return judge_rerun(model, compute_loss, batch, first, restore=partial(torch.set_rng_state, state))


@pytest.mark.parametrize(
    ("model", "compute_loss", "autocast", "verdict"),
    [
        pytest.param(make(), failing_once(nan), None, "transient", id="nan-once"),
        pytest.param(make(), failing_once(inf), None, "transient", id="infinite-once"),
        pytest.param(make(), failing_once(50.0), None, "transient", id="spike-once"),
        pytest.param(make(), failing_once(1.001), None, "transient", id="slightly-other-once"),
        pytest.param(make(), wavering(nan, 1.0, nan), None, "transient", id="nan-now-and-then"),
        pytest.param(make(), square, None, "persistent", id="finite-again"),
        pytest.param(make(), two_losses, None, "persistent", id="several-losses"),
        pytest.param(make(nn.Dropout(0.5)), square, None, "persistent", id="dropout"),
        pytest.param(make(nn.BatchNorm1d(4)), square, None, "persistent", id="batch-norm"),
        pytest.param(make(), wavering(1.0, 1.001, 0.999), None, "persistent", id="not-deterministic"),
        pytest.param(make(), log_of_zero, None, "structural", id="log-of-zero"),
        pytest.param(make(), log_of_zero, torch.float16, "structural", id="log-of-zero-under-autocast"),
        pytest.param(make(constant(1e30)), square, torch.bfloat16, "structural", id="overflow-in-any-dtype"),
        pytest.param(make(constant(100.0)), square, torch.bfloat16, "structural", id="spike-in-any-dtype"),
        pytest.param(make(constant(1e5)), square, torch.float16, "precision", id="float16-overflow"),
        pytest.param(make(constant(1e5)), under_autocast, None, "precision", id="autocast-inside-the-loss"),
        pytest.param(make(constant(6e4), constant(6e4)).half(), square, None, "precision", id="half-parameters"),
        pytest.param(make().half(), only_half, None, "persistent", id="no-float32"),
    ],
)  # fmt: skip
def test_verdict(model: nn.Module, compute_loss: ComputeLoss, autocast: torch.dtype | None, verdict: Verdict) -> None:
    """A fault that passes, one of data and state, one of the computation and one of the dtype are told apart."""
    rerun = judge(model, compute_loss, autocast)
    assert rerun.verdict == verdict, rerun


@pytest.mark.parametrize(
    ("before", "factors", "verdict"),
    [
        pytest.param(1.0, (1.0, 1.0), "persistent", id="same"),
        pytest.param(1.0 + 1e-7, (1.0, 1.0), "persistent", id="rounded-to-float32"),
        pytest.param(1.01, (1.0, 1.001), "persistent", id="within-the-spread"),
        pytest.param(1.02, (1.0, 1.001), "transient", id="beyond-the-spread"),
        pytest.param(nan, (nan, nan), "structural", id="nan-is-nan"),
        pytest.param(inf, (nan, inf), "structural", id="not-finite-in-another-way"),
        pytest.param(1.0, (nan, nan), "transient", id="finite-before"),
    ],
)
def test_comparison(before: float, factors: tuple[float, float], verdict: Verdict) -> None:
    """A loss recurs within what two reruns differ by, and NaN equals NaN."""
    turns = itertools.cycle(factors)
    rerun = judge(make(), lambda *_: torch.tensor(next(turns), dtype=torch.float64), before=before)
    assert rerun.verdict == verdict, rerun


def test_spread_is_that_of_two_reruns() -> None:
    """The spread is the distance of two reruns; of a deterministic loss it is 0, dropout included."""
    assert judge(make(nn.Dropout(0.5)), square).spread == 0.0
    turns = itertools.cycle((2.0, 2.25))
    assert judge(make(), lambda *_: torch.tensor(next(turns)), before=2.0).spread == 0.25
    turns = itertools.cycle((nan, 1.0))
    assert judge(make(), lambda *_: torch.tensor(next(turns)), before=nan).spread == inf


def test_float32_loss_is_told() -> None:
    """The loss in float32 is what the same weights give without autocast, and the model keeps its dtype."""
    model = make(constant(1e5))
    rerun = judge(model, square, torch.float16)
    assert not isfinite(rerun.after)
    assert rerun.in_float32 == compute_number(model, square, X)
    half = make(constant(6e4), constant(6e4)).half()
    in_float32 = judge(half, square).in_float32
    assert in_float32 is not None
    assert isfinite(in_float32)
    assert {each.dtype for each in half.parameters()} == {torch.float16}


def test_transient_fault_costs_no_float32_rerun() -> None:
    """A fault that does not recur is not computed in float32, and random numbers are set back before each rerun."""
    calls: list[str] = []

    def compute_loss(*_: Any) -> Tensor:
        calls.append("loss")
        return torch.tensor(1.0)

    rerun = judge_rerun(make(), compute_loss, X, nan, restore=lambda: calls.append("restore"))
    assert (rerun.verdict, rerun.in_float32) == ("transient", None)
    assert calls == ["restore", "loss"] * 2


@pytest.mark.parametrize(
    ("compute_loss", "autocast", "message"),
    [
        pytest.param(
            failing_once(nan),
            None,
            r"transient: the loss is \S+ this time, not nan \(two reruns differ by 0\), so the fault did not recur; "
            "suspect the hardware or a race",
            id="transient",
        ),
        pytest.param(
            square,
            None,
            "persistent: the loss is .* again, so the fault lies in this batch or .*",
            id="persistent",
        ),
        pytest.param(
            log_of_zero,
            None,
            "structural: the loss is inf again, in float32 too, .*",
            id="structural",
        ),
        pytest.param(
            lambda model, batch: square(model, batch * 1e6),
            torch.float16,
            r"precision: the loss is (inf|nan) again but \S+ in float32, so the fault lies in the lower precision",
            id="precision",
        ),
    ],
)
def test_message_is_one_sentence(compute_loss: ComputeLoss, autocast: torch.dtype | None, message: str) -> None:
    """The message tells the loss again and what follows from it."""
    rerun = judge(make(), compute_loss, autocast)
    assert re.fullmatch(message, rerun.message), rerun.message


def test_fault_of_the_loss_is_let_through() -> None:
    """What the user's loss raises is not swallowed."""
    make_fail: Callable[..., Tensor] = lambda *_: (_ for _ in ()).throw(KeyError("own"))  # noqa: E731
    with pytest.raises(KeyError):
        judge_rerun(make(), make_fail, X, 1.0, restore=lambda: None)
