"""The norm of the weights by group."""

from __future__ import annotations

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment, stack_norms


def count_norms(moment: Moment) -> int:
    """One norm per parameter where the weights are due."""
    return len(moment.subject.parameters) if moment.are_weights_due else 0


@probe("weight_norm", size=count_norms, per_group=("weight_norm",))
def measure_weight_norm(moment: Moment) -> Reading:
    """`weight_norm`: of each group, the Euclidean norm of its parameters, in float32.

    Every parameter is measured, at every second step: a batch may use a few rows of an embedding alone, and
    normalization hides a ruined bias before it. What an update ruins is seen one step late at most, and always while
    a snapshot with it is on probation.
    """
    if not moment.are_weights_due:
        return {}
    subject = moment.subject
    norms = yield stack_norms(subject.parameters, subject.device)
    return {"weight_norm": subject.norms_by_group(norms)}
