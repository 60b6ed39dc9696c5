"""Parameters that the optimizer does not hold."""

from __future__ import annotations

from trimtab.probes import Values, probe
from trimtab.probes.subject import Moment


@probe("unoptimized")
def count_unoptimized(moment: Moment) -> Values:
    """`unoptimized`: how many parameters of the model require a gradient, have one, and are not in the optimizer.

    At sampled steps alone, and absent where there are none.
    """
    if not moment.is_sampled:
        return {}
    held = {id(each) for group in moment.subject.optimizer.param_groups for each in group["params"]}
    trained = (each for each in moment.subject.model.parameters() if each.requires_grad and each.grad is not None)
    num = sum(id(each) not in held for each in trained)
    return {"unoptimized": float(num)} if num else {}
