"""The learning rate of the step."""

from __future__ import annotations

from trimtab.probes import Values, probe
from trimtab.probes.subject import Moment


@probe("learning_rate")
def measure_learning_rate(moment: Moment) -> Values:
    """`learning_rate`: the largest of the optimizer's parameter groups, before any cooling.

    `rate_declared`: 1 at a step before which the loop said that it changes the rate on purpose.
    """
    rate = max(float(group["lr"]) for group in moment.subject.optimizer.param_groups)
    return {"learning_rate": rate, **({"rate_declared": 1.0} if moment.is_rate_declared else {})}
