"""The weights of a model alone: written as a safetensors file, kept at their best, and set again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from trimtab.errors import InputError
from trimtab.state.encoding import MODEL_KEY, encode_state
from trimtab.state.tensors import read_tensors, write_tensors

BY_LOSS, BY_COMPOSITE = "best-by-loss.safetensors", "best-by-composite.safetensors"
"""The files of a run folder that hold the weights of its best reviews."""


def write_weights(model: nn.Module, path: Path) -> None:
    """Write a model's parameters and buffers such that the file is there whole or not at all.

    Raises:
        InputError: if the model's state holds what safetensors cannot.
    """
    tensors = {name: each for name, each in model.state_dict().items() if isinstance(each, Tensor)}
    encoded = encode_state({MODEL_KEY: tensors})
    aside = path.with_name(f"{path.name}.new")
    with aside.open("wb") as file:
        write_tensors(file, encoded.model, encoded.aliases)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Set a model's parameters and buffers in place; of tensors under two names one is enough.

    Raises:
        InputError: if a tensor has another shape, or the model has none of that name.
    """
    live = {name: each for name, each in model.state_dict().items() if isinstance(each, Tensor)}
    for name, value in weights.items():
        if name not in live or live[name].shape != value.shape:
            raise InputError(f"fit: the best weights are of another model: this one has no {name} of that shape")
    model.load_state_dict(weights, strict=False)  # what a model's hooks turn into its state, they turn back


class BestWeights:
    """The weights of the best review so far: in the run folder, or in host memory where there is none.

    Args:
        folder: the run folder; None for none.
        name: the file in it.
    """

    def __init__(self, folder: Path | None, name: str = BY_LOSS) -> None:
        self._path = None if folder is None else folder / name
        self._kept: dict[str, Tensor] | None = None

    @torch.no_grad()
    def keep(self, model: nn.Module) -> None:
        """Keep the weights as they are now."""
        if self._path is not None:
            write_weights(model, self._path)
            return
        state = {name: each for name, each in model.state_dict().items() if isinstance(each, Tensor)}
        self._kept = {name: each.detach().to("cpu", copy=True) for name, each in state.items()}

    def take_over(self, other: BestWeights) -> None:
        """Keep what another one has kept; a file is shared where the disk can, and never written to again."""
        self._kept = other._kept
        if self._path is not None and other._path is not None:
            aside = self._path.with_name(f"{self._path.name}.new")
            aside.unlink(missing_ok=True)
            try:
                aside.hardlink_to(other._path)
            except OSError:
                shutil.copyfile(other._path, aside)
            aside.replace(self._path)

    def restore(self, model: nn.Module) -> bool:
        """Set a model to the weights kept; returns False if there are none.

        Raises:
            InputError: if they are of another model.
        """
        if self._path is not None and self._path.exists():
            with self._path.open("rb") as file:
                set_weights(model, read_tensors(file, self._path.stat().st_size))
            return True
        if self._kept is not None:
            set_weights(model, self._kept)
        return self._kept is not None
