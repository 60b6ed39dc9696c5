"""`underflow_share`: what counts as too small for float16, and real float16 runs, healthy and not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional

from trimtab import Supervisor
from trimtab.probes import measure
from trimtab.probes.subject import Moment, Subject
from trimtab.probes.underflow import SMALLEST, count_small
from trimtab.recipes import make_scaler

CPU = torch.device("cpu")
TINY = SMALLEST / 2


@pytest.mark.parametrize(
    ("gradients", "scale", "counted"),
    [
        pytest.param([[1.0, TINY, TINY, -TINY]], 1.0, (3, 4), id="below-the-smallest-normal"),
        pytest.param([[SMALLEST, -SMALLEST]], 1.0, (0, 2), id="the-smallest-normal-is-held"),
        pytest.param([[1.0, TINY]], 2.0, (0, 2), id="scaled-up"),
        pytest.param([[1.0, SMALLEST]], 0.5, (1, 2), id="scaled-down"),
        pytest.param([[1.0, 0.0, 0.0, 0.0]], 1.0, (0, 1), id="zeros-of-rectified-units"),
        pytest.param([[TINY, 0.0, 0.0, 1.0]], 1.0, (1, 2), id="zeros-beside-small-numbers"),
        pytest.param([[0.0] * 5, [1.0] * 3], 1.0, (5, 8), id="a-tensor-of-zeros-is-lost"),
        pytest.param([[0.0] * 5], 1024.0, (5, 5), id="nothing-but-zeros"),
        pytest.param([[torch.inf, torch.nan, 1.0]], 1.0, (0, 3), id="not-finite-is-not-small"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_counts(gradients: list[list[float]], scale: float, counted: tuple[int, int], dtype: torch.dtype) -> None:
    """A number counts where float16 could not hold it once scaled; zeros count where nothing else is."""
    tensors = [torch.tensor(each, dtype=dtype) for each in gradients]
    assert tuple(count_small(tensors, torch.tensor(scale), CPU).tolist()) == counted
    assert tuple(count_small(tensors, scale, CPU).tolist()) == counted


def make_moment(dtype: torch.dtype = torch.float32, *, scales: bool = False, is_sampled: bool = True) -> Moment:
    """A moment of a small model after its backward pass."""
    model = nn.Linear(4, 2).to(dtype)
    scaler = GradScaler("cpu", init_scale=4.0, enabled=scales)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler.scale(model(torch.ones(3, 4, dtype=dtype)).sum()).backward()
    return Moment(Subject(model, optimizer, scaler), is_sampled=is_sampled)


@pytest.mark.parametrize(
    ("moment", "is_measured"),
    [
        pytest.param(lambda: make_moment(scales=True), True, id="scaler"),
        pytest.param(lambda: make_moment(torch.float16), True, id="float16-weights"),
        pytest.param(lambda: make_moment(), False, id="float32"),
        pytest.param(lambda: make_moment(torch.bfloat16), False, id="bfloat16"),
        pytest.param(lambda: make_moment(scales=True, is_sampled=False), False, id="not-sampled"),
    ],
)
def test_is_measured_in_float16_alone(moment: Callable[[], Moment], is_measured: bool) -> None:
    """It is there at the sampled steps of a float16 run, and nowhere else."""
    assert ("underflow_share" in measure(1, moment(), only=["underflow"]).values) == is_measured


def test_norm_at_hand_and_missing_gradients_leave_nothing_to_measure() -> None:
    """Gradients that the loop has measured may be clipped; where there are none, nothing is measured."""
    given, empty, unscaled = make_moment(scales=True), make_moment(scales=True), make_moment(scales=True)
    given.grad_norm = torch.tensor(1.0)
    empty.subject.optimizer.zero_grad()
    unscaled.subject.scaler = GradScaler("cpu")
    for moment in (given, empty, unscaled):
        assert measure(1, moment, only=["underflow"]).values == {}


def make_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def make_cnn() -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    body = (nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3))
    return nn.Sequential(*body, nn.ReLU(), *head)


class Words(nn.Module):
    """An embedding of which a batch uses few rows."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(2000, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.words((x[:, :4].abs() * 500).long() % 2000).mean(1))
        return outputs


def run(model: nn.Module, scaler: GradScaler, factor: float = 1.0) -> tuple[list[float], set[str]]:
    """Train in float16 for 103 steps: the shares measured, and what was found of them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    supervisor = Supervisor(model, optimizer, scaler=scaler)
    solution = torch.randn(64, 10)
    shares: list[float] = []
    found: set[str] = set()
    for _ in range(103):
        x = torch.randn(16, 64)
        with torch.autocast("cpu", dtype=torch.float16):
            outputs = model(x).float()
        loss = factor * functional.cross_entropy(outputs, (x @ solution).argmax(1))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        decision = supervisor.check(loss)
        scaler.step(optimizer)
        scaler.update()
        share = supervisor.history.newest.values.get("underflow_share")
        shares += [share] if isinstance(share, float) else []
        found.update(each.detector for each in decision.findings if each.metric == "underflow_share")
    return shares, found


@pytest.mark.parametrize("preset", ["powers-of-two", "published", "pytorch"])
@pytest.mark.parametrize("make", [make_mlp, make_cnn, Words])
def test_healthy_run_is_silent(make: Callable[[], nn.Module], preset: str) -> None:
    """Rectified units and unused rows of embeddings are no underflow, whatever the preset."""
    shares, found = run(make(), make_scaler(preset, "cpu"))
    assert len(shares) == 2
    assert max(shares) < 0.05
    assert not found


@pytest.mark.parametrize(
    ("factor", "least"), [pytest.param(1e-3, 0.5, id="too-small"), pytest.param(1e-7, 1.0, id="all-of-it-zero")]
)
def test_gradients_without_a_scale_are_found(factor: float, least: float) -> None:
    """Small gradients at a loss scale of 1 underflow, and are found at the second sampled step."""
    shares, found = run(make_mlp(), GradScaler("cpu", init_scale=1.0), factor)
    assert min(shares) >= least
    assert found == {"gradient-underflow"}


def test_scale_mends_underflow() -> None:
    """With a loss scale that fits, the same small gradients are held."""
    shares, found = run(make_mlp(), GradScaler("cpu", init_scale=2.0**16), 1e-3)
    assert max(shares) < 0.2
    assert not found
