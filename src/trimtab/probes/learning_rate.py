"""The learning rate of the step."""

from __future__ import annotations

from trimtab.probes import Values, probe
from trimtab.probes.subject import Moment


@probe("learning_rate")
def measure_learning_rate(moment: Moment) -> Values:
    """`learning_rate`: the largest of the optimizer's parameter groups, before any cooling.

    `scheduled_rate`: the largest rate that the schedule gave the optimizer to know (`initial_lr`, `max_lr`); absent
    where there is no schedule. `rate_declared`: 1 at a step before which the loop said that it changes the rate on
    purpose.
    """
    groups = moment.subject.optimizer.param_groups
    rate = max(float(group["lr"]) for group in groups)
    values = {"learning_rate": rate}
    known = [float(group[name]) for group in groups for name in ("initial_lr", "max_lr") if name in group]
    if known:
        values["scheduled_rate"] = max(known)
    if moment.is_rate_declared:
        values["rate_declared"] = 1.0
    return values
