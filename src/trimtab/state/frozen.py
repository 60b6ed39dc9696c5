"""Frozen parameters, such as the base that adapters are trained on: how one is told from another without a copy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trimtab.errors import CheckpointError
from trimtab.ranks import is_sharded

NUM_NUMBERS = 16
"""Numbers that are taken of each parameter."""


class FrozenBase:
    """The parameters of a model that are not trained, known again by a few numbers of each.

    Args:
        model: the model, as the run begins.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._first = sample_frozen(model)

    def sample_unchanged(self) -> dict[str, Tensor]:
        """What `sample_frozen` returns, of those alone that have their numbers since the run began.

        Others were trained and then frozen, or change outside the optimizer, or have taken adapters in.
        """
        sampled = sample_frozen(self._model).items()
        return {name: each for name, each in sampled if name in self._first and _are_same(each, self._first[name])}


@torch.no_grad()
def sample_frozen(model: nn.Module) -> dict[str, Tensor]:
    """A few numbers of each parameter that is not trained, evenly spaced, in float32 and on the host.

    Parameters that are sharded, or have no numbers, are left out.
    """
    named = model.named_parameters(remove_duplicate=False)
    return {name: _take_numbers(each) for name, each in named if not each.requires_grad and _can_be_read(each)}


def require_same_frozen(kept: Mapping[str, Tensor], model: nn.Module) -> None:
    """See that a model has the frozen parameters that numbers were taken of.

    Args:
        kept: those numbers.
        model: the model.

    Raises:
        CheckpointError: if it has others.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, numbers in kept.items():
        if name not in parameters or not _are_same(_take_numbers(parameters[name].detach()), numbers):
            raise CheckpointError(
                f"it was trained on other frozen parameters, and does not hold them: {name} is not what it was; load "
                "the base that the run began with"
            )


def _can_be_read(parameter: Tensor) -> bool:
    return not is_sharded(parameter) and not parameter.is_meta and parameter.numel() > 0


def _take_numbers(parameter: Tensor) -> Tensor:
    flat = parameter.reshape(-1)
    places = torch.linspace(0, len(flat) - 1, min(NUM_NUMBERS, len(flat)), dtype=torch.float64).long()
    numbers = flat[places.to(flat.device)]
    return (torch.view_as_real(numbers).reshape(-1) if numbers.is_complex() else numbers).float().cpu()


def _are_same(numbers: Tensor, others: Tensor) -> bool:
    return numbers.shape == others.shape and torch.allclose(numbers, others, rtol=0.0, atol=0.0, equal_nan=True)
