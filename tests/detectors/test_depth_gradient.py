"""`depth-gradient`: the groups it reports, and those on which it stays silent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.laws.training import make_training
from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement

FALLING = [1.0, 1e-2, 1e-3, 1e-5]
SHUFFLED = [1e-3, 1.0, 1e-5, 1e-2, 1e-8]


def watch(
    norms: Sequence[float], last: int = 102, first: int = 1, later: Sequence[float] = (), **settings: float
) -> list[Finding]:
    """Judge a run whose groups have these norms, and other ones in its last steps."""
    history = History(groups=[str(index) for index in range(len(norms))])
    found: list[Finding] = []
    for step in range(first, last + 1):
        now = later if later and step > last - 9 else norms
        history.append(Measurement(step, {"group_grad_norm": tuple(now)}))
        found += detect(history, {"depth-gradient": settings})
        history.close(accepted=True)
    return found


@pytest.mark.parametrize(
    ("norms", "options", "steps"),
    [
        pytest.param(FALLING, {}, [102], id="explodes-towards-the-first"),
        pytest.param(FALLING[::-1], {}, [102], id="vanishes-towards-the-first"),
        pytest.param(FALLING, {"last": 250}, [102, 202], id="at-every-sampled-step"),
        pytest.param(FALLING, {"first": 82}, [102], id="after-just-enough-samples"),
        pytest.param([0.0, *FALLING, 0.0], {}, [102], id="groups-without-gradient-left-out"),
        pytest.param([10.0**-i for i in (0, 1, 2, 3, 5, 4, 6, 7, 8, 9)], {}, [102], id="two-neighbours-swapped"),
        pytest.param(FALLING, {"later": [1.0] * 4}, [102], id="a-few-other-samples-do-not-move-medians"),
        pytest.param([1.0, 0.5, 0.2, 0.1], {"ratio": 5.0}, [102], id="a-smaller-ratio-if-asked"),
    ],
)
def test_reports(norms: list[float], options: dict[str, Any], steps: list[int]) -> None:
    """Norms that rise or fall with depth by orders of magnitude are found at a sampled step."""
    assert [finding.step for finding in watch(norms, **options)] == steps


@pytest.mark.parametrize(
    ("norms", "options"),
    [
        pytest.param([1.0] * 8, {}, id="all-alike"),
        pytest.param([1.0, 0.1, 0.01, 0.001], {}, id="a-factor-of-1000"),
        pytest.param(SHUFFLED, {}, id="far-apart-without-order"),
        pytest.param([1.0, 1e-3, 1e-6], {}, id="three-groups-may-be-chance"),
        pytest.param([0.0, 1.0, 1e-3, 1e-6], {}, id="three-groups-with-a-gradient"),
        pytest.param([0.0] * 8, {}, id="no-gradient-at-all"),
        pytest.param([nan] * 8, {}, id="not-finite"),
        pytest.param(FALLING, {"last": 101}, id="not-sampled-yet"),
        pytest.param(FALLING, {"last": 2}, id="too-few-samples-at-the-start"),
        pytest.param(FALLING, {"first": 83}, id="one-sample-too-few"),
    ],
)
def test_stays_silent(norms: list[float], options: dict[str, Any]) -> None:
    """Norms alike or without order, few groups and few samples are not reported."""
    assert watch(norms, **options) == []


@pytest.mark.parametrize("values", [pytest.param({}, id="absent"), pytest.param({"loss": 1.0}, id="another-metric")])
def test_stays_silent_without_norms(values: dict[str, float]) -> None:
    """A run whose loop measures its own norm has none by group, and is not judged."""
    history = History(groups=("a", "b", "c", "d"))
    history.append(Measurement(102, values))
    assert detect(history, {"depth-gradient": {}}) == ()


def test_message_says_which_way() -> None:
    """The finding names the first and the last group and the direction."""
    (vanishing,), (exploding,) = watch(FALLING[::-1]), watch(FALLING)
    assert vanishing.message == "gradients vanish towards the first layers: 0 and 3 differ by a factor of 1e+05"
    assert exploding.message.startswith("gradients explode towards the first layers: 0 and 3")
    assert (vanishing.groups, vanishing.severity) == (("0", "3"), "low")


class Layers(nn.Module):
    """A plain stack of layers without residual paths."""

    def __init__(self, depth: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        inner = [nn.Sequential(nn.Linear(16, 16), activation()) for _ in range(depth)]
        self.layers = nn.Sequential(nn.Linear(6, 16), *inner, nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layers(x)
        return outputs.squeeze(-1)


def run(depth: int, activation: Callable[[], nn.Module]) -> list[tuple[int, str]]:
    """What a real run finds, by step and detector."""
    torch.manual_seed(0)
    training = make_training("adam", model=lambda: Layers(depth, activation)).supervise().run(105)
    return [(finding.step, finding.detector) for each in training.decisions for finding in each.findings]


def test_real_stack_of_sigmoids_is_found() -> None:
    """Ten layers of sigmoids without normalization are found at step 102, and that the input is lost on its way too."""
    assert run(10, nn.Sigmoid) == [(102, "depth-activation"), (102, "depth-gradient")]


def test_real_stack_of_few_layers_is_left_alone() -> None:
    """Four layers of tanh train without a finding of any detector."""
    assert run(4, nn.Tanh) == []


def test_order_by_chance_is_rare() -> None:
    """Of random norms, spread over ten orders of magnitude without any trend, few are taken for one."""
    random = np.random.default_rng(0)
    num = sum(bool(watch(list(10 ** random.uniform(-10, 0, 8)), first=82)) for _ in range(200))
    assert num <= 4
