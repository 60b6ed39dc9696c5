"""A batch looked at again is computed as it was: in float16 under a scaler, also where autocast was left."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trimtab.probes.inquiry import inquire
from trimtab.types import Measurement

INPUTS = torch.full((4, 8), 1e6)


def compute_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """The mean square of the output, without autocast of its own."""
    output: Tensor = model(batch)
    return output.float().pow(2).mean()


def look_again(**values: float) -> str:
    """What is said of a batch beyond float16, whose loss was infinite under the autocast of the loop."""
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    measurement = Measurement(1, {"loss": float("inf"), "grad_norm": float("inf"), **values})
    return inquire(model, compute_loss, INPUTS, measurement, restore=lambda: None, locates=True)


def test_scaled_run_is_computed_again_in_float16() -> None:
    """Under a loss scaler the overflow recurs, and is one of precision, found where it begins."""
    told = look_again(loss_scale=1024.0)
    assert told.startswith("precision: ")
    assert "in float32" in told
    assert "it begins here" in told


def test_run_without_a_scaler_is_computed_again_as_autocast_is_now() -> None:
    """Without a scaler nothing says that it was float16: the autocast that is active holds."""
    assert look_again().startswith("transient: ")
    with torch.autocast("cpu", torch.float16):
        assert look_again().startswith("precision: ")


@pytest.mark.parametrize("is_on", [True, False])
def test_autocast_is_left_as_it_was(is_on: bool) -> None:
    """The look leaves autocast as it found it."""
    with torch.autocast("cpu", torch.float16, enabled=is_on):
        look_again(loss_scale=1024.0)
        assert torch.is_autocast_enabled("cpu") == is_on
