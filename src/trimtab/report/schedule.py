"""The panels of what was scheduled: the learning rate, planned and used, the loss scale, loss weights and dropout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from trimtab.diagnosis.evidence import NOTHING, Evidence, Series
from trimtab.report.panel import Line, Panel


def build_schedule(evidence: Evidence) -> Iterator[Panel]:
    """The panels of a run's schedule; what was not recorded has no points."""
    rate = evidence.metrics.get("learning_rate", NOTHING)
    cooled = _cool(evidence, rate)
    lines = [Line("used" if cooled is not rate else "learning rate", cooled)]
    if cooled is not rate:
        lines.append(Line("of the schedule, before cooling", rate, "bound"))
    lines += [Line("used, at the ends of epochs", _list_used(evidence, cooled), "review")]
    lines += [Line("planned", _list_planned(evidence), "plan")]
    yield Panel("learning_rate", "Schedule", "Learning rate", lines)
    yield Panel(
        "loss_scale", "Schedule", "Loss scale", [Line("loss scale", evidence.metrics.get("loss_scale", NOTHING))]
    )
    settings: dict[str, list[tuple[int, float]]] = {}
    for event in evidence.events:
        if event.get("event") == "epoch":
            for name, value in event.get("settings", {}).items():
                settings.setdefault(name, []).append((int(event["step"]), float(value)))
    named = {
        "loss_weights": ("Loss weights", [name for name in settings if name.startswith("loss_weight_")]),
        "dropout": ("Dropout", [name for name in settings if name.startswith("dropout")]),
    }
    for id, (title, names) in named.items():
        lines = [
            Line(name.removeprefix("loss_weight_"), _from_pairs(settings[name]), is_stepped=True) for name in names
        ]
        yield Panel(id, "Schedule", title, lines)


def _cool(evidence: Evidence, rate: Series) -> Series:
    """The learning rate as it was used: what was measured, under the coolings that were decided."""
    factors = np.ones(len(rate))
    for decision, _ in evidence.decided:
        for each in decision.responses:
            if each.kind == "cool" and each.factor is not None and each.num_steps:
                share = np.clip((rate.steps - decision.step - each.num_steps) / max(each.num_steps, 1), 0.0, 1.0)
                is_later = rate.steps >= decision.step
                factors[is_later] = (each.factor + (1.0 - each.factor) * share)[is_later]
    return rate if (factors == 1.0).all() else Series(rate.steps, rate.values * factors)


def _list_used(evidence: Evidence, rate: Series) -> Series:
    """The learning rate at the end of each epoch, where it was not that of the schedule."""
    ends = [event for event in evidence.events if event.get("event") == "epoch" and event.get("learning_rate")]
    used = _from_pairs([(int(event["step"]), float(event["learning_rate"])) for event in ends])
    return NOTHING if np.allclose(used.values, rate.look_up(used.steps), rtol=1e-3, equal_nan=True) else used


def _list_planned(evidence: Evidence) -> Series:
    """The learning rate that was planned for the end of each epoch, at the step at which it ended or was to end."""
    ends = {int(event["epoch"]): int(event["step"]) for event in evidence.events if event.get("event") == "epoch"}
    if not ends:
        return NOTHING
    last = max(ends)
    per_epoch = ends[last] / last
    pairs: dict[int, float] = {}
    for event in evidence.events:
        if event.get("event") == "plan":
            for epoch, rate in enumerate(event["learning_rate"], event["first_epoch"]):
                if rate is not None:
                    pairs[ends.get(epoch, round(epoch * per_epoch))] = float(rate)
    return _from_pairs(sorted(pairs.items()))


def _from_pairs(pairs: Sequence[tuple[int, float]]) -> Series:
    numbers = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return Series(numbers[:, 0].astype(np.int64), numbers[:, 1])
