"""Training in eval mode."""

from __future__ import annotations

from torch import nn

from trimtab.probes import Values, probe
from trimtab.probes.subject import Moment

BEHAVES = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
"""Modules that do something else in eval mode: dropout, and the norms with running statistics."""


@probe("eval_mode")
def measure_eval_mode(moment: Moment) -> Values:
    """`eval_mode`: how many modules that do something else in it are in eval mode, if the model as a whole is.

    Absent while the model is in training mode, whatever single modules of it are in.
    """
    model = moment.subject.model
    if model.training:
        return {}
    num = sum(isinstance(each, BEHAVES) and not each.training for each in model.modules())
    return {"eval_mode": float(num)} if num else {}
