"""The timeline of a run: what was planned for each epoch before the start, against what happened."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from trimtab.control.course import Adaptation

if TYPE_CHECKING:
    from torch.optim import Optimizer

MOST_STEPS = 20_000
"""Steps that a schedule is tried for in advance, which takes a tenth of a second or two; of a longer run, no learning
rate is planned."""

SCHEDULES = "torch.optim.lr_scheduler"
"""Where schedules come from that can be tried on a copy; another one's copy may be of anything."""

logger = logging.getLogger("trimtab")


@dataclass(frozen=True, slots=True)
class Stage:
    """One epoch, as it was planned or as it was."""

    epoch: int
    """Its number, from 1."""

    phase: str = "training"
    """`warm-up` while the planned learning rate rises from the start, `finalization`, else `training`."""

    learning_rate: float | None = None
    """That of the first parameter group at the end of the epoch; None where it cannot be told in advance."""

    partition: int = 0
    """The partition of the training data, from 0."""

    settings: Mapping[str, float] = field(default_factory=dict)
    """`dropout`, and `loss_weight_` and its name for each weight that `compute_loss.weights` has."""

    def to_dict(self) -> dict[str, Any]:
        """Its fields in one mapping."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Timeline:
    """What was planned, what happened, and what was changed on the way; a table when printed."""

    planned: tuple[Stage, ...]
    """Every epoch, as it was planned before the start."""

    happened: tuple[Stage, ...]
    """Every epoch that was made."""

    adaptations: tuple[Adaptation, ...] = ()
    """What was changed between epochs."""

    @property
    def departures(self) -> tuple[int, ...]:
        """The epochs that were not as planned, or not made."""
        made = {each.epoch: each for each in self.happened}
        return tuple(each.epoch for each in self.planned if each.epoch not in made or _departs(each, made[each.epoch]))

    def __str__(self) -> str:
        """A line for each epoch: planned and actual phase and learning rate, settings, what was changed before it."""
        made = {each.epoch: each for each in self.happened}
        lines = [f"{'epoch':>5}  {'planned':12} {'rate':>9}  {'happened':12} {'rate':>9} {'part':>4}  changed"]
        for each in self.planned:
            real = made.get(each.epoch)
            shown = f"{'not made':12} {'':>9} {'':>4}" if real is None else f"{_show(real)} {real.partition:>4}"
            names = [adaptation.name for adaptation in self.adaptations if adaptation.epoch + 1 == each.epoch]
            changed = [f"{name} {value:g}" for name, value in _list_changed(each, real)]
            lines.append(f"{each.epoch:>5}  {_show(each)}  {shown}  {', '.join(names + changed)}".rstrip())
        return "\n".join(lines)


def plan_stages(
    model: nn.Module, compute_loss: Any, rates: Sequence[float | None], first_epoch: int = 1
) -> tuple[Stage, ...]:
    """The epochs of a run as they are planned.

    Args:
        model: the model, for its dropout.
        compute_loss: for its weights.
        rates: the learning rate at the beginning, and at the end of each epoch.
        first_epoch: the number of the first one.
    """
    settings = read_settings(model, compute_loss)
    stages: list[Stage] = []
    is_rising = first_epoch == 1
    for epoch, (before, rate) in enumerate(pairwise(rates), start=first_epoch):
        is_rising = is_rising and before is not None and rate is not None and rate > before
        stages.append(Stage(epoch, "warm-up" if is_rising else "training", rate, 0, settings))
    return tuple(stages)


def read_settings(model: nn.Module, compute_loss: Any) -> dict[str, float]:
    """What a run can be steered by beside the learning rate, as it is now.

    Args:
        model: its `dropout`: one number where all modules have the same, else one for each, by name.
        compute_loss: its `weights`, where it has a mapping of that name.
    """
    drops = {name: float(each.p) for name, each in model.named_modules() if isinstance(each, _DropoutNd)}
    shared = set(drops.values())
    found = {"dropout": shared.pop()} if len(shared) == 1 else {f"dropout_{name}": p for name, p in drops.items()}
    weights = getattr(compute_loss, "weights", None)
    if isinstance(weights, Mapping):
        found |= {f"loss_weight_{name}": float(each) for name, each in weights.items()}
    return found


def plan_rates(optimizer: Optimizer, scheduler: Any, num_steps: int | None, num_epochs: int) -> list[float | None]:
    """The learning rate of the first group now and at the end of each epoch, by trying the schedule on a copy.

    Of a schedule by validation it is the rate at hand. Nothing of the run is changed.

    Args:
        optimizer: the optimizer.
        scheduler: its schedule, stepped once per step; None for none.
        num_steps: the steps of an epoch; None if that is not known.
        num_epochs: how many epochs.
    """
    now = float(optimizer.param_groups[0]["lr"])
    if scheduler is None or isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        return [now] * (num_epochs + 1)
    unknown: list[float | None] = [now, *[None] * num_epochs]
    if type(scheduler).__module__ != SCHEDULES or num_steps is None or num_steps * num_epochs > MOST_STEPS:
        return unknown
    try:
        return [now, *_try_schedule(optimizer, scheduler, num_steps, num_epochs)]
    except Exception as error:  # a schedule is anybody's code, and a plan is not worth a run
        logger.info("the schedule cannot be tried in advance (%s)", error)
        return unknown


def _try_schedule(optimizer: Optimizer, scheduler: Any, num_steps: int, num_epochs: int) -> list[float | None]:
    groups = [
        {name: _copy(each) for name, each in group.items() if name != "params"} for group in optimizer.param_groups
    ]
    stand_in = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": 0.0} for _ in groups])
    for group, scalars in zip(stand_in.param_groups, groups, strict=True):
        group.update(scalars)
    tried = copy.deepcopy(scheduler, {id(optimizer): stand_in})
    rates: list[float | None] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(num_epochs):
            for _ in range(num_steps):
                tried.step()
            rates.append(float(stand_in.param_groups[0]["lr"]))
    return rates


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _departs(planned: Stage, real: Stage) -> bool:
    if planned.learning_rate is not None and real.learning_rate is not None:
        is_other = abs(real.learning_rate - planned.learning_rate) > 1e-9 * abs(planned.learning_rate)
        if is_other:
            return True
    return (planned.phase, planned.partition, planned.settings) != (real.phase, real.partition, real.settings)


def _list_changed(planned: Stage, real: Stage | None) -> list[tuple[str, float]]:
    held = {} if real is None else real.settings
    return [(name, value) for name, value in held.items() if planned.settings.get(name) != value]


def _show(stage: Stage) -> str:
    rate = "?" if stage.learning_rate is None else f"{stage.learning_rate:.3g}"
    return f"{stage.phase:12} {rate:>9}"
