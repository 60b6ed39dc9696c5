"""Gradients that are never cleared."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from trimtab.faults import FOREVER, Scene, fault


@fault("missing-zero-grad", "start", strength=0.0, duration=FOREVER, signs=("stale-gradient",), begins="first")
def keep_gradients(scene: Scene) -> None:
    """`zero_grad` of optimizer and model does nothing, so that each step adds its gradients to all earlier ones.

    As it happens:
        The line is missing, is inside an `if`, or is called on another optimizer.
    Strength:
        Without meaning.
    """
    for owner in (scene.optimizer, scene.model):
        if vars(owner).get("zero_grad") is not _do_nothing:
            scene.undo_after.callback(_restore, owner, vars(owner).get("zero_grad"))
            vars(owner)["zero_grad"] = _do_nothing


def _do_nothing(set_to_none: bool = True) -> None:
    """In place of `zero_grad`."""


def _restore(owner: Optimizer | nn.Module, before: Any) -> None:
    """Give an owner its own `zero_grad` back, which as a rule is that of its class."""
    if before is None:
        del vars(owner)["zero_grad"]
    else:
        vars(owner)["zero_grad"] = before
