"""Training in eval mode."""

from __future__ import annotations

from torch import nn

from trimtab.probes import Values, probe
from trimtab.probes.subject import Moment


def behaves_otherwise(module: nn.Module) -> bool:
    """True if a module does something else in eval mode: dropout, and norms with running statistics."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats


@probe("eval_mode")
def measure_eval_mode(moment: Moment) -> Values:
    """`eval_mode`: how many modules that do something else in it are in eval mode, if the model as a whole is.

    Absent while the model is in training mode, whatever single modules of it are in.
    """
    model = moment.subject.model
    if model.training:
        return {}
    num = sum(not each.training and behaves_otherwise(each) for each in model.modules())
    return {"eval_mode": float(num)} if num else {}
