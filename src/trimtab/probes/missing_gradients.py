"""Parameters that no gradient reaches."""

from __future__ import annotations

import numpy as np

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment


def count_groups(moment: Moment) -> int:
    """One number per group at a sampled step."""
    return len(moment.subject.groups) if moment.is_sampled else 0


@probe("missing_gradients", size=count_groups, per_group=("missing_gradients",), is_sampled=True)
def count_missing_gradients(moment: Moment) -> Reading:
    """`missing_gradients`: of each group, how many parameters that require a gradient have none.

    None at all, that is: a gradient of zeros is one. Of groups that Trimtab holds frozen none is missing. In a
    distributed run it is the mean over all ranks. Nothing leaves the device for it.
    """
    if not moment.is_sampled:
        return {}
    subject = moment.subject
    is_missing = [each.requires_grad and each.grad is None for each in subject.parameters]
    counts = np.bincount(subject.group_of, weights=is_missing, minlength=len(subject.groups))
    counts[[subject.groups.index(group) for group in moment.frozen]] = 0
    numbers = yield counts.tolist()
    return {"missing_gradients": tuple(np.asarray(numbers, dtype=np.float32).tolist())}
