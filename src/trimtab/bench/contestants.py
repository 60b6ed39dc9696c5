"""The contestants of the recovery benchmark: what is called between backward and the optimizer's step.

All of them train in the same loop, `trimtab.bench.recovery.train`, and differ in their guard alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.policy import Policy
from trimtab.supervisor import Supervisor

CLIP_NORM = 1.0

CHANGED = 0.999
"""A gradient norm below this share of what routine clipping leaves was changed by more than rounding."""

Guard: TypeAlias = Callable[[Tensor], bool]
"""Called after backward with the loss. It may change the gradients and the state, and says whether it intervened:
whether an update is changed or undone, beyond routine clipping."""


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """What a guard is made for."""

    workload: str
    """The name of the workload, by which settings are chosen where a contestant has to be tuned."""

    model: nn.Module
    """The model."""

    optimizer: Optimizer
    """The optimizer of all its parameters."""

    clip_norm: float | None
    """The limit of the routine clipping; None for none. Contestants that do not supervise have their own."""

    measure_probe: Callable[[nn.Module], float]
    """The loss of the 16 held-out samples, for the contestants that look at them."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What has to be set for Algorithm 1, of which its paper's abstract gives no value."""

    epsilon: float
    """By how much the probe's loss may exceed its mean."""

    alpha: float
    """The weight of the newest accepted loss in that mean."""


TUNED: Mapping[str, Tuning] = {"images": Tuning(0.02, 0.1), "characters": Tuning(0.02, 0.05)}
"""Algorithm 1 at its best: of the pairs below the one with the lowest median final loss over seeds 100 to 104 and both
windows, without clipping, as `python benchmarks/recovery.py --tune` finds it. Both have the smallest epsilon: the less
it accepts, the less the fault does, and the more is rejected without one."""

EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
ALPHAS = (0.05, 0.1, 0.3)


def pass_all(_: Training) -> Guard:
    """No supervisor: every update is made as it comes."""
    return lambda _: False


def clip(training: Training) -> Guard:
    """Clipping, as most loops do it; it intervenes where it scales."""
    parameters = list(training.model.parameters())

    def guard(_: Tensor) -> bool:
        return bool(nn.utils.clip_grad_norm_(parameters, CLIP_NORM) > CLIP_NORM)

    return guard


def follow_algorithm_1(training: Training, tuning: Tuning | None = None) -> Guard:
    """Algorithm 1 of arXiv 2601.17483, as the preset offers it."""
    chosen = TUNED[training.workload] if tuning is None else tuning
    return _supervise(training, build_algorithm_1(chosen))


def build_algorithm_1(tuning: Tuning) -> Policy:
    """The preset with its two numbers."""
    innovation = {"epsilon": tuning.epsilon, "alpha": tuning.alpha}
    return Policy.preset("algorithm-1", {"detectors": {"innovation": innovation}})


def follow_default(training: Training) -> Guard:
    """The default policy."""
    return _supervise(training, None)


CONTESTANTS: Mapping[str, Callable[[Training], Guard]] = {
    "none": pass_all,
    "clipping": clip,
    "algorithm-1": follow_algorithm_1,
    "default": follow_default,
}

SUPERVISED = ("algorithm-1", "default")
"""The contestants that routine clipping can be added to."""


def _supervise(training: Training, policy: Policy | None) -> Guard:
    """A supervisor; it intervenes where the update is undone or left out, or is smaller than after routine clipping."""
    supervisor = Supervisor(
        training.model,
        training.optimizer,
        clip_norm=training.clip_norm,
        policy=policy,
        probe=training.measure_probe,
    )

    def guard(loss: Tensor) -> bool:
        decision = supervisor.check(loss)
        if not decision.responses or not decision.proceed:
            return bool(decision.responses)
        gradients = [each.grad for each in training.model.parameters() if each.grad is not None]
        norms = [each.value for each in decision.findings if each.metric == "grad_norm"]
        return float(nn.utils.get_total_norm(gradients)) < CHANGED * min(*norms, training.clip_norm or inf, inf)

    return guard
