"""The learning rate of the step."""

from __future__ import annotations

from trimtab.probes import Values, probe
from trimtab.probes.subject import Moment


@probe("learning_rate")
def measure_learning_rate(moment: Moment) -> Values:
    """`learning_rate`: the largest of the optimizer's parameter groups, before any cooling."""
    return {"learning_rate": max(float(group["lr"]) for group in moment.subject.optimizer.param_groups)}
