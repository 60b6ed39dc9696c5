"""The norm of the weights by group."""

from __future__ import annotations

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment, stack_norms


@probe("weight_norm", size=lambda moment: len(moment.subject.matrices), per_group=("weight_norm",))
def measure_weight_norm(moment: Moment) -> Reading:
    """`weight_norm`: of each group, the Euclidean norm of its matrices, in float32.

    Matrices are the parameters of two or more dimensions, and all of a group that has none: of a matrix a batch may
    use a few rows alone, while a vector that was ruined shows in the loss of every batch.
    """
    subject = moment.subject
    norms = yield stack_norms([subject.parameters[index] for index in subject.matrices], subject.device)
    return {"weight_norm": subject.norms_by_group(norms, subject.group_of[subject.matrices])}
