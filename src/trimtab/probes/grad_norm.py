"""The gradient norm, in total and by group."""

from __future__ import annotations

from math import isfinite

import numpy as np
import torch

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment, shorten

MOST_NAMED = 12
"""Parameters that a record names."""


def count_norms(moment: Moment) -> int:
    """One norm per parameter and the total, or the given total alone."""
    return 1 if moment.grad_norm is not None else len(moment.subject.parameters) + 1


@probe("grad_norm", size=count_norms, per_group=("group_grad_norm", "group_nonfinite"))
def measure_grad_norm(moment: Moment) -> Reading:
    """The Euclidean norm of the gradients, before clipping, in float32.

    `grad_norm`: of all gradients together; for float32 gradients exactly what `clip_grad_norm_` computes, of sharded
    ones up to the order in which parts are added.
    `group_grad_norm`: of each group; 0 where no gradient is there.
    `group_nonfinite`: in each group, the number of gradient tensors whose norm is NaN or infinite.

    A norm that the loop has measured already is taken as it is; then groups are not measured.
    """
    subject = moment.subject
    if moment.grad_norm is not None:
        numbers = yield moment.grad_norm
        return {"grad_norm": float(numbers[0])}
    gradients, there, _, _ = moment.take_norms()
    every = there
    if len(there) < len(gradients):
        found, nothing = iter(there.unbind()), there.new_zeros(())
        every = torch.stack([nothing if gradient is None else next(found) for gradient in gradients])
    numbers = yield torch.cat((subject.share(every), torch.linalg.vector_norm(there, 2).reshape(1)))
    norms = subject.join(numbers[:-1])
    total = float(np.sqrt(np.square(norms).sum()) if subject.has_shards else numbers[-1])
    num_bad = (0.0,) * len(subject.groups)
    if not isfinite(total):
        bad = np.array(subject.names)[~np.isfinite(norms)].tolist()
        moment.add_note(f"gradients not finite: {shorten(bad, MOST_NAMED)}" if bad else "")
        num_bad = tuple(np.bincount(subject.group_of, weights=~np.isfinite(norms), minlength=len(num_bad)).tolist())
    return {"grad_norm": total, "group_grad_norm": subject.norms_by_group(norms), "group_nonfinite": num_bad}
