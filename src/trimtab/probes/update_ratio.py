"""How far one update moved each group."""

from __future__ import annotations

import numpy as np
import torch

from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment, stack_norms


def count_norms(moment: Moment) -> int:
    """Two norms per parameter where the update is one to measure."""
    return 2 * len(moment.subject.parameters) if moment.is_ratio_due else 0


@probe("update_ratio", size=count_norms, per_group=("update_ratio",), is_sampled=True)
def measure_update_ratio(moment: Moment) -> Reading:
    """`update_ratio`: of each group, ‖Δw‖ / ‖w‖ of the update before this step; around 1e-3 is usual.

    It is measured only where a snapshot keeps the parameters of one update ago, so it costs nothing at other steps.
    """
    subject = moment.subject
    if not moment.is_ratio_due:
        return {}
    if moment.reference is None:
        yield torch.full((count_norms(moment),), torch.nan)
        return {}
    parts = subject.list_parts()
    moved = torch._foreach_sub(parts, list(moment.reference))
    numbers = subject.join((yield subject.share(stack_norms([*moved, *parts], subject.device))))
    moves = np.asarray(subject.norms_by_group(numbers[: len(moved)]))
    weights = np.asarray(subject.norms_by_group(numbers[len(moved) :]))
    with np.errstate(invalid="ignore"):
        ratios = np.divide(moves, weights, out=np.zeros_like(moves), where=weights > 0)
    return {"update_ratio": tuple(ratios.astype(np.float32).tolist())}
