"""Who knows the fault: what can be recovered at all is what this one recovers."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from trimtab.bench.contestants import contestant
from trimtab.bench.training import Guard, Judgement, Training


@contestant("oracle", detects=False)
def foresee(training: Training) -> Guard:
    """Every update at a step of the fault is left out, and the state put back to what it was before the fault.

    It looks at what is injected and at nothing else. A fault that lasts to the end leaves it nothing to train with.
    """
    model, optimizer = training.model, training.optimizer
    kept: dict[str, Any] = {}
    step = 0

    def keep(*_: Any) -> None:
        if not is_hit(step):
            kept.update(model=copy.deepcopy(model.state_dict()), state=copy.deepcopy(optimizer.state_dict()["state"]))

    def is_hit(step: int) -> bool:
        return any(each.acts_at(step) for each in training.injections)

    def restore() -> None:
        if kept:
            model.load_state_dict(kept["model"])
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": copy.deepcopy(kept["state"]), "param_groups": groups})

    optimizer.register_step_post_hook(keep)

    def guard(_: Tensor) -> Judgement:
        nonlocal step
        step += 1
        was_hit = step > 1 and is_hit(step - 1)
        if was_hit:
            restore()
        training.unscale()
        if is_hit(step) or was_hit:  # the gradients at a step after the fault are those of a state that is put back
            for parameter in model.parameters():
                parameter.grad = None
            return Judgement(proceeds=training.scaler is not None, acts=True, num_lost=1)
        training.clip()
        return Judgement()

    return guard
