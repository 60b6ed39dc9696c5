"""Trimtab itself, with several policies."""

from __future__ import annotations

from math import inf

from torch import Tensor, nn

from trimtab.bench.contestants import contestant
from trimtab.bench.training import Guard, Judgement, Training
from trimtab.policy import Policy
from trimtab.supervisor import Supervisor
from trimtab.types import Decision

CHANGED = 0.999
"""A gradient norm below this share of what routine clipping leaves was changed by more than rounding."""


@contestant("trimtab-observe")
def observe(training: Training) -> Guard:
    """Everything is found and recorded, and nothing done but the routine clipping."""
    return supervise(training, Policy.observe())


@contestant("trimtab")
def follow_default(training: Training) -> Guard:
    """The default: the three lines of the README, without a probe."""
    return supervise(training, None)


@contestant("trimtab-probe")
def follow_probe(training: Training) -> Guard:
    """The default with a probe of 16 held-out samples."""
    return supervise(training, None, has_probe=True)


@contestant("algorithm-1")
def follow_algorithm_1(training: Training) -> Guard:
    """Algorithm 1 of arXiv 2601.17483 with epsilon 0.5 and alpha 0.1, measuring at every step."""
    return supervise(training, build_algorithm_1(epsilon=0.5, alpha=0.1), has_probe=True)


def build_algorithm_1(*, epsilon: float, alpha: float) -> Policy:
    """The preset with its two numbers."""
    return Policy.preset("algorithm-1", {"detectors": {"innovation": {"epsilon": epsilon, "alpha": alpha}}})


def supervise(training: Training, policy: Policy | None, *, has_probe: bool = False) -> Guard:
    """A supervisor; it intervenes where the update is undone or left out, or is smaller than after routine clipping."""
    supervisor = Supervisor(
        training.model,
        training.optimizer,
        training.scheduler,
        clip_norm=training.clip_norm,
        scaler=training.scaler,
        policy=policy,
        probe=training.measure_probe if has_probe else None,
        self_updating=training.workload.self_updating,
    )

    def guard(loss: Tensor) -> Judgement:
        if training.workload.moves_rates:
            supervisor.declare_rate_change()
        decision = supervisor.check(loss, batch=training.batch)
        record = supervisor.record
        note, num_lost = ("", 0) if record is None else (record.action.note, record.action.num_lost)
        acts = bool(decision.responses) and (not decision.proceed or is_cut(decision))
        return Judgement(acts=acts, names=name_findings(decision), told=f"{decision.reason}; {note}", num_lost=num_lost)

    def is_cut(decision: Decision) -> bool:
        gradients = [each.grad for each in training.model.parameters() if each.grad is not None]
        norms = [each.value for each in decision.findings if each.metric == "grad_norm"]
        return float(nn.utils.get_total_norm(gradients)) < CHANGED * min(*norms, training.clip_norm or inf, inf)

    return guard


def name_findings(decision: Decision) -> tuple[str, ...]:
    """What a decision found: detectors, and the groups they suspect."""
    detectors = (each.detector for each in decision.findings)
    groups = (group for each in decision.findings for group in each.groups)
    return tuple(dict.fromkeys((*detectors, *groups)))
