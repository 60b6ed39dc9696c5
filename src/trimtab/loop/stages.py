"""What is planned for each epoch of a run, and what happens, told as it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from trimtab.control.course import Adaptation
from trimtab.control.timeline import Stage, Timeline, plan_rates, plan_stages, read_settings
from trimtab.supervisor import Supervisor

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Stages:
    """The epochs of a run.

    Args:
        model: the model.
        compute_loss: the user's loss.
        supervisor: told of the plan and of each epoch.
    """

    def __init__(self, model: nn.Module, compute_loss: Any, supervisor: Supervisor) -> None:
        self._model, self._compute_loss, self._supervisor = model, compute_loss, supervisor
        self._planned: tuple[Stage, ...] = ()
        self._happened: list[Stage] = []

    def plan(self, optimizer: Optimizer, schedulers: Sequence[Any], num_steps: int | None, num_epochs: int) -> None:
        """Plan the epochs there is no plan for yet: all of a new run, those it was given since of one that goes on.

        Args:
            optimizer: the optimizer.
            schedulers: its schedules; the rate is that of the first which has an optimizer.
            num_steps: the steps of an epoch; None if that is not known.
            num_epochs: the epochs of the run.
        """
        first = len(self._planned)
        if num_epochs <= first:
            return
        scheduler = next((each for each in schedulers if hasattr(each, "optimizer")), None)
        rates = plan_rates(optimizer, scheduler, num_steps, num_epochs - first)
        new = plan_stages(self._model, self._compute_loss, rates, first + 1)
        self._planned += new
        shown = {"learning_rate": [each.learning_rate for each in new], "phase": [each.phase for each in new]}
        if num_steps is not None:
            shown["num_steps"] = num_steps * num_epochs
        self._supervisor.tell_event("plan", first_epoch=first + 1, **shown, settings=dict(new[0].settings))

    def end_epoch(self, epoch: int, learning_rate: float, partition: int, *, is_final: bool) -> None:
        """Take note of an epoch that was made.

        Args:
            epoch: its number, from 1.
            learning_rate: that of its last step.
            partition: the partition of the data.
            is_final: True if it was part of a finalization.
        """
        planned = self._planned[epoch - 1].phase if epoch <= len(self._planned) else "training"
        phase = "finalization" if is_final else planned
        stage = Stage(epoch, phase, learning_rate, partition, read_settings(self._model, self._compute_loss))
        self._happened = [each for each in self._happened if each.epoch != epoch]  # it was not gone on from
        self._happened.append(stage)
        self._supervisor.tell_event("epoch", **stage.to_dict())

    def read(self, adaptations: Sequence[Adaptation]) -> Timeline:
        """All of it."""
        return Timeline(self._planned, tuple(self._happened), tuple(adaptations))

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered."""
        return {
            "planned": [each.to_dict() for each in self._planned],
            "happened": [each.to_dict() for each in self._happened],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was remembered."""
        self._planned = tuple(Stage(**each) for each in state["planned"])
        self._happened = [Stage(**each) for each in state["happened"]]
