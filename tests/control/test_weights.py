"""The best weights: kept and set again, whatever a model makes of its state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.control.weights import BestWeights, set_weights
from trimtab.errors import InputError


class Wrapped(nn.Module):
    """A model whose state is not its tensors themselves: they are copied into a float64 one, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_state_dict_post_hook(self._widen)  # type: ignore[no-untyped-call]

    @staticmethod
    def _widen(_: nn.Module, state: dict[str, Any], prefix: str, __: object) -> None:
        state[f"{prefix}layer.weight"] = state[f"{prefix}layer.weight"].double()


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), Wrapped, Tied])
@pytest.mark.parametrize("has_folder", [False, True])
def test_best_weights_come_back(make: Any, has_folder: bool, tmp_path: Path) -> None:
    """What was kept is set again, bit for bit and in place."""
    model = make()
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    before = [each.clone() for each in tensors]
    best = BestWeights(tmp_path if has_folder else None)
    assert not best.restore(model)
    best.keep(model)
    with torch.no_grad():
        for each in tensors:
            each.add_(1)
    assert best.restore(model)
    assert all(map(torch.equal, [*model.parameters(), *model.buffers()], before))
    assert [each.data_ptr() for each in (*model.parameters(), *model.buffers())] == [
        each.data_ptr() for each in tensors
    ]


def test_weights_of_another_model_are_refused() -> None:
    """Nothing is set if one tensor does not fit."""
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    with pytest.raises(InputError, match="this one has no bias of that shape"):
        set_weights(model, {"weight": torch.zeros(2, 2), "bias": torch.zeros(3)})
    assert torch.equal(model.weight, before)
