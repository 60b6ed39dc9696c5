"""`batch-norm-lag` and `eval-dropout`: what they report, and where they stay silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.types import Measurement


def watch(name: str, sampled: Sequence[Mapping[str, float]], losses: Sequence[float] = (2.0, 0.1)) -> list[int]:
    """The steps at which something is found, with these numbers at the sampled steps 2, 102 and so on."""
    history, found = History(), list[int]()
    for step in range(1, 100 * len(sampled) + 1):
        values = {"loss": losses[min(step // 50, len(losses) - 1)]}
        values |= sampled[step // 100] if step % 100 == 2 else {}
        history.append(Measurement(step, values))
        found += [each.step for each in detect(history, {name: {}})]
        history.close(accepted=True)
    return found


def pair(usual: float, by_batch: float) -> dict[str, float]:
    """The loss of a batch in eval mode, and by its own statistics."""
    return {"eval_mode_loss": float(usual), "batch_norm_loss": float(by_batch)}


@pytest.mark.parametrize(
    ("sampled", "steps"),
    [
        pytest.param([pair(2, 2), *[pair(1.5, 0.1)] * 3], [302], id="from-the-second-on"),
        pytest.param([pair(2, 2), *[pair(1.5, 0.1)] * 5], [302], id="said-once"),
        pytest.param([pair(2, 2), pair(0.1, 0.1), *[pair(1.5, 0.1)] * 3], [402], id="later"),
        pytest.param([pair(9, 2), *[pair(1.5, 0.1)] * 2, *[pair(0.1, 0.1)] * 2], [], id="caught-up"),
        pytest.param([pair(2, 2), *[pair(0.3, 0.1)] * 5], [], id="little-beside-what-was-learned"),
        pytest.param([pair(2, 2), *[pair(0.1, 1.5)] * 5], [], id="the-other-way-round"),
        pytest.param([{"eval_mode_loss": 5.0}] * 6, [], id="no-norms"),
        pytest.param([pair(2, 2), *[pair(1.5, 0.1), pair(0.1, 0.1)] * 3], [], id="now-and-then"),
    ],
)
def test_lag(sampled: Sequence[Mapping[str, float]], steps: list[int]) -> None:
    """A lag that lasts for three sampled steps is found, once."""
    assert watch("batch-norm-lag", sampled) == steps


def test_losses_below_zero_have_a_scale_too() -> None:
    """The distance is held against how far the loss has come, whatever its sign."""
    sampled = [pair(-1, -1), *[pair(-1.5, -3)] * 3]
    assert watch("batch-norm-lag", sampled, (-1.0, -3.0)) == [302]
    assert watch("batch-norm-lag", [pair(-1, -1), *[pair(-2.9, -3)] * 3], (-1.0, -3.0)) == []


def passes(num: float, once: float = 1.0, again: float = 1.2) -> dict[str, float]:
    """So many calls of dropout in eval mode, and the losses of two passes."""
    return {"eval_dropouts": float(num), "eval_mode_loss": once, "eval_mode_loss_again": again}


@pytest.mark.parametrize(
    ("sampled", "steps"),
    [
        pytest.param([passes(2)] * 4, [2], id="from-the-start-said-once"),
        pytest.param([{"eval_dropouts": 0.0, "eval_mode_loss": 1.0}, passes(1)], [102], id="later"),
        pytest.param([passes(2, 1.0, 1.0)] * 4, [], id="without-an-effect"),
        pytest.param([{"eval_dropouts": 0.0, "eval_mode_loss": 1.0}] * 4, [], id="off"),
    ],
)
def test_dropout(sampled: Sequence[Mapping[str, float]], steps: list[int]) -> None:
    """Dropout that is active in eval mode and changes the loss is found, once."""
    assert watch("eval-dropout", sampled) == steps
