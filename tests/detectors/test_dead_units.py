"""`dead-units`: the samples it reports, and those on which it stays silent."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

import pytest
import torch
from torch import Tensor, nn

from tests.laws.training import make_training
from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Finding, Measurement, Value


def watch(taken: Mapping[int, tuple[float, ...]], **settings: float) -> list[Finding]:
    """Judge every step of a run in which the shares were taken at some steps."""
    history = History(groups=("a", "b", "c"))
    found: list[Finding] = []
    for step in range(1, 303):
        sampled: dict[str, Value] = {"dead_units": taken[step]} if step in taken else {}
        history.append(Measurement(step, {"loss": 1.0, **sampled}))
        found += detect(history, {"dead-units": settings})
        history.close(accepted=True)
    return found


ONE = (0.2, 0.95, nan)
TWO = (0.92, 1.0, nan)
FEW = (0.2, 0.5, nan)


@pytest.mark.parametrize(
    ("samples", "settings", "expected"),
    [
        pytest.param({2: ONE, 102: ONE}, {}, {102: ("b",)}, id="at-two-samples"),
        pytest.param({2: FEW, 102: ONE, 202: ONE}, {}, {202: ("b",)}, id="later-in-the-run"),
        pytest.param({2: ONE, 102: ONE, 202: ONE}, {}, {102: ("b",), 202: ("b",)}, id="as-long-as-it-lasts"),
        pytest.param({2: TWO, 102: TWO}, {}, {102: ("b", "a")}, id="the-most-suspect-first"),
        pytest.param({2: ONE, 202: ONE}, {}, {202: ("b",)}, id="one-sample-not-measured"),
        pytest.param({2: FEW, 102: FEW}, {"limit": 0.4}, {102: ("b",)}, id="a-lower-limit-if-asked"),
        pytest.param({2: ONE}, {"samples": 1}, {2: ("b",)}, id="one-sample-if-asked"),
    ],
)
def test_reports(
    samples: Mapping[int, tuple[float, ...]], settings: dict[str, float], expected: dict[int, tuple[str, ...]]
) -> None:
    """Groups whose units are nearly all dead are found."""
    assert {finding.step: finding.groups for finding in watch(samples, **settings)} == expected


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param({}, id="no-such-units"),
        pytest.param({2: TWO}, id="one-sample-is-not-enough"),
        pytest.param({2: TWO, 102: FEW, 202: TWO}, id="not-two-in-a-row"),
        pytest.param({2: (0.9, 0.9, 0.9), 102: (0.9, 0.9, 0.9)}, id="at-the-limit"),
        pytest.param({2: (1.0, 0.0, nan), 102: (0.0, 1.0, nan)}, id="now-this-group-now-that"),
        pytest.param({2: (nan,) * 3, 102: (nan,) * 3}, id="a-rank-that-failed"),
    ],
)
def test_stays_silent(samples: Mapping[int, tuple[float, ...]]) -> None:
    """Shares that healthy networks have, single samples and missing ones are not reported."""
    assert watch(samples) == []


def test_message_names_share_and_groups() -> None:
    """The finding says how many units of what are dead."""
    (finding,) = watch({2: TWO, 102: TWO})
    assert finding.message == "100.0% of the ReLU units of b and 1 more groups are 0 for the whole batch, above 90.0%"
    assert (finding.value, finding.limit, finding.severity) == (1.0, 0.9, "medium")


class Rectified(nn.Module):
    """A network of two ReLU layers and a way around them."""

    def __init__(self, bias: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.inner, self.act = nn.Linear(6, 32), nn.ReLU()
        self.middle, self.act2 = nn.Linear(32, 32), nn.ReLU(inplace=True)
        self.outer, self.around = nn.Linear(32, 1), nn.Linear(6, 1)
        with torch.no_grad():
            self.inner.bias.add_(bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act2(self.middle(self.act(self.inner(self.scale * x))))
        outputs: Tensor = self.outer(hidden) + self.around(x)
        return outputs.squeeze(-1)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(lambda: Rectified(bias=-100.0), [(102, "dead-units", ("inner",))], id="bias-of-minus-100"),
        pytest.param(
            lambda: Rectified(scale=0.0, bias=-1.0), [(102, "dead-units", ("inner",))], id="inputs-scaled-to-0"
        ),
        pytest.param(Rectified, [], id="healthy"),
    ],
)
def test_real_run(model: type[Rectified], expected: list[tuple[int, str, tuple[str, ...]]]) -> None:
    """A dead layer is found at step 102, by name; a healthy run has no finding of any detector."""
    training = make_training("sgd", model=model).supervise(groups=["inner", "middle", "outer", "around"]).run(105)
    found = [finding for decision in training.decisions for finding in decision.findings]
    assert [(finding.step, finding.detector, finding.groups) for finding in found] == expected
