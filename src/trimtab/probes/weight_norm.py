"""The norm of the weights by group."""

from __future__ import annotations

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


@probe("weight_norm", size=lambda moment: len(moment.subject.parameters), per_group=("weight_norm",))
def measure_weight_norm(moment: Moment) -> Reading:
    """`weight_norm`: of each group, the Euclidean norm of its parameters, in float32.

    Every parameter is measured at every step: a batch may use a few rows of an embedding alone, and normalization
    hides a ruined bias before it.
    """
    subject = moment.subject
    _, _, weights, _ = moment.take_norms()
    norms = yield subject.share(weights)
    return {"weight_norm": subject.norms_by_group(subject.join(norms))}
