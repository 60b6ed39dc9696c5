"""A schedule that moves several times a step."""

from __future__ import annotations

from trimtab.faults import FOREVER, Scene, fault
from trimtab.faults.schedule_per_epoch import capture_schedule, find_scheduler


@fault(
    "schedule-too-often",
    "end",
    strength=4,
    duration=FOREVER,
    signs=("schedule-pace", "cause: the schedule", "zero-learning-rate"),
    begins="first",
)
def hurry_schedule(scene: Scene) -> None:
    """The schedule moves several times a step, the loop's own call of `scheduler.step` among them.

    A schedule that refuses to go beyond its end stays there, whatever the loop calls.

    As it happens:
        `scheduler.step()` in the loop over micro-batches, or once in each process of a distributed run that shares it.
    Strength:
        How often the schedule moves in a step; 4 by default.

    Raises:
        InputError: if the injector was not given the scheduler.
    """
    scheduler = find_scheduler(scene)
    for _ in range(int(scene.strength)):
        undo_move = capture_schedule(scheduler)
        try:
            scheduler.step()
        except ValueError:  # OneCycleLR at its end
            undo_move()
            break
        scene.memory["undo last move"] = undo_move
    if "undo last move" in scene.memory:
        scene.memory["undo last move"]()  # the loop is about to make it itself
