"""A package of its own that watches a loop and rolls it back."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from torch import Tensor

from trimtab.bench.contestants import contestant
from trimtab.bench.training import Guard, Judgement, Training

DISTRIBUTION = "arc-training"
"""The package on the Python Package Index; other packages have a module of the same name."""

NAMES = {
    "nan_loss": "nonfinite",
    "nan_gradients": "nonfinite",
    "nan_weights": "nonfinite",
    "loss_explosion": "loss-spike",
    "gradient_explosion": "gradient-spike",
}
"""Its words for what Trimtab has a detector for; other words stay its own."""


def is_arc_installed() -> bool:
    """True if the module `arc` is there and comes from that package."""
    spec = importlib.util.find_spec("arc")
    try:
        files = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return False
    return spec is not None and spec.origin == str(files.locate_file("arc/__init__.py"))


@contestant("arc", is_installed=is_arc_installed)
def follow_controller(training: Training) -> Guard:
    """The controller of ARC (package arc-training) with its defaults, used as its documentation says.

    It sees the gradients before routine clipping, and is given the scheduler. It answers a failure with a rollback to a
    snapshot of its own in memory, which restores the global random numbers too, and with a lower learning rate; an
    update it asks to skip is left out. When it calls a fault unrecoverable the run goes on: the loop has no other data.

    In float16 the gradients are unscaled for it, and it is told that the scaler is not its own: by itself it leaves
    them scaled at a failed loss, and its users leave out the scaler's update then, which this loop never does.
    """
    arc: Any = importlib.import_module("arc")
    config = arc.ControllerConfig(verbose=False, external_grad_scaler=training.scaler is not None)
    controller = arc.Controller(training.model, training.optimizer, scheduler=training.scheduler, config=config)
    depths = [0]  # after each step, the updates that the weights are made of

    def guard(loss: Tensor) -> Judgement:
        training.unscale()
        action = controller.step(loss)
        training.clip()
        depth = depths[-1] + (not action.should_skip)
        if action.rolled_back:
            depth = depths[find_restored_step(controller)]
        num_lost = depths[-1] + 1 - depth
        depths.append(depth)
        name = action.failure_type or ""
        return Judgement(
            proceeds=not action.should_skip,
            acts=action.should_skip or action.rolled_back or action.lr_reduced or action.gradients_clipped,
            names=(NAMES.get(name, name.replace("_", "-")),) if name else (),
            told=action.message + ("; unrecoverable" if action.unrecoverable else ""),
            num_lost=num_lost,
        )

    return guard


def find_restored_step(controller: Any) -> int:
    """The step after which the snapshot was taken that it has just rolled back to."""
    rollbacks = (each for each in reversed(controller.intervention_log) if each["action"] == "rollback")
    return int(next(rollbacks)["restored_step"])
