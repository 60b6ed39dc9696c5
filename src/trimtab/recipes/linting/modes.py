"""What differs between training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn.modules.batchnorm import _NormBase

from trimtab.recipes.calls import ATTENDING, DROPPING, Call
from trimtab.recipes.linting import Remark, Setup, check
from trimtab.recipes.linting.wiring import name_some

SLOWEST, FASTEST = 1e-3, 0.5
"""The share of a batch in the running statistics: below, they take thousands of steps to follow the weights; above,
they are those of the last batch or two. 0.1 is PyTorch's own, and 0.01 to 0.003 are in use for long trainings."""


@check("dropout-in-eval", severity="high")
def find_dropout(setup: Setup) -> Iterator[Remark]:
    """Dropout that is active in eval mode, since it is not told that the model evaluates."""
    calls = setup.eval_trial.calls if setup.eval_trial is not None else []
    active = {call.where: drop for call in calls if (drop := measure_dropout(call)) > 0}
    if active:
        yield Remark(
            max(active.values()),
            f"in eval mode {max(active.values()):.0%} are dropped in {name_some(active)}",
            "use nn.Dropout, or pass training=self.training, and dropout_p=0.0 in eval mode",
        )


def measure_dropout(call: Call) -> float:
    """The share that a call drops."""
    if call.function == ATTENDING:
        return float(call.get(4, "dropout_p", 0.0))
    if call.function in DROPPING and call.get(2, "training", True):
        return float(call.get(1, "p", 0.5))
    return 0.0


@check("batch-norm-momentum", severity="medium")
def find_momentum(setup: Setup) -> Iterator[Remark]:
    """Running statistics that follow so slowly or so fast that the model differs in eval mode."""
    odd = {
        name: each.momentum
        for name, each in setup.model.named_modules()
        if isinstance(each, _NormBase)
        and each.track_running_stats
        and each.momentum is not None
        and not SLOWEST <= each.momentum <= FASTEST
    }
    if odd:
        momentum = next(iter(odd.values()))
        how = "hardly ever follow the batches" if momentum < SLOWEST else "are those of the last batch alone"
        other = f"; elsewhere {1 - momentum:g} is written for what is {momentum:g} here" if momentum > FASTEST else ""
        yield Remark(
            momentum,
            f"momentum {momentum:g} of {name_some(odd)}: the running statistics {how}, so that eval mode lags{other}",
            "use 0.1, or 0.01 for long trainings",
        )
