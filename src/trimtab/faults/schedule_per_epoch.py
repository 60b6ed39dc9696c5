"""A schedule that moves once per epoch where it is meant to move once per step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from trimtab.faults import FOREVER, Scene, fault


@fault(
    "schedule-per-epoch",
    "start",
    strength=50,
    duration=FOREVER,
    signs=("schedule-pace", "cause: the schedule", "zero-learning-rate"),
    begins="first",
)
def hold_schedule(scene: Scene) -> None:
    """The schedule moves at every N-th step alone, in place of each: other calls of `scheduler.step` are undone.

    As it happens:
        `scheduler.step()` in the loop over epochs, with a schedule whose length is counted in steps.
    Strength:
        N, the steps of an epoch; 50 by default.

    Raises:
        InputError: if the injector was not given the scheduler.
    """
    scheduler = find_scheduler(scene)
    if "undo move" in scene.memory:
        scene.memory.pop("undo move")()
        scene.undo_after.pop_all()
    num_moves = scene.step - scene.injection.step + 1
    if num_moves % int(scene.strength) != 0:
        scene.undo.callback(_look_back, scene, scheduler)


def _look_back(scene: Scene, scheduler: LRScheduler) -> None:
    """Keep the schedule as it is at the end of the step, since the loop is about to move it."""
    scene.memory["undo move"] = scene.undo_after.callback(capture_schedule(scheduler))


def find_scheduler(scene: Scene) -> LRScheduler:
    """The schedule of the learning rate.

    Raises:
        InputError: if the injector was not given one.
    """
    if scene.scheduler is None:
        raise scene.refuse("found no schedule", "make the injector with scheduler=scheduler")
    return scene.scheduler


def capture_schedule(scheduler: LRScheduler) -> Callable[[], None]:
    """A function that puts the schedule, and all numbers of the parameter groups, back to what they are now."""
    state = copy.deepcopy(scheduler.state_dict())
    groups = [
        (group, {name: copy.deepcopy(value) for name, value in group.items() if name != "params"})
        for group in scheduler.optimizer.param_groups
    ]

    def restore() -> None:
        scheduler.load_state_dict(copy.deepcopy(state))
        for group, kept in groups:
            for name, value in kept.items():
                _put_back(group, name, value)

    return restore


def _put_back(group: dict[str, Any], name: str, value: Any) -> None:
    """Set a number of a group; a tensor in place, since the optimizer and others hold on to it."""
    if isinstance(value, Tensor) and isinstance(group.get(name), Tensor):
        group[name].copy_(value)
    else:
        group[name] = copy.deepcopy(value)
