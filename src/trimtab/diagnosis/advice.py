"""What to do and what to measure, by what a run does already: no advice to add what is there."""

from __future__ import annotations

from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.tree import Unmeasured

SUPERVISED = ("policy", "group_metrics")
"""What the manifest of a run has that was recorded by a supervisor."""

BACK = ("rollback", "reload")
"""The verdicts that set the weights back."""


def is_supervised(evidence: Evidence) -> bool:
    """True if a supervisor recorded the run: it measures and acts already."""
    return any(name in evidence.manifest for name in SUPERVISED)


def advise_clipping(evidence: Evidence) -> str:
    """How to clip; where the run does, how to clip harder."""
    limit = evidence.manifest.get("clip_norm")
    if isinstance(limit, (int, float)) and limit > 0:
        return f"clip harder than at {limit:g}: `Supervisor(model, optimizer, clip_norm={limit / 2:g})`"
    return "clip: `Supervisor(model, optimizer, clip_norm=1.0)`"


def advise_on_spike(evidence: Evidence, is_answered: bool) -> str:
    """What to do about updates of spikes; where a supervisor looks on, what is left to do."""
    if not is_supervised(evidence):
        return (
            "skip such updates: `supervisor = trimtab.Supervisor(model, optimizer)` does; keep the batch to look at it"
        )
    if is_answered:
        return "its updates were kept from the weights; look at the batch of that step"
    return (
        "look at the batch of that step; to have such updates skipped see which limit finds them: "
        "`trimtab replay RUN --sweep loss-spike.sigmas=4,6,8`"
    )


def advise_going_back(evidence: Evidence, first: int, last: int, ladder: str) -> str:
    """How to go back to a snapshot; empty where the run did."""
    taken = {action.verdict for decision, action in evidence.decided if first <= decision.step <= last}
    return "" if taken & set(BACK) else f"go back to a snapshot: `{ladder}` does so; then "


def advise_on_wiring(evidence: Evidence) -> str:
    """Where to see gradients, updates and dead units by group."""
    if is_supervised(evidence):
        return "gradients, updates and dead units by group are in `trimtab report RUN`"
    return "`trimtab.Supervisor(model, optimizer)` measures gradients, updates and dead units by group"


def ask_for_rerun(evidence: Evidence) -> Unmeasured:
    """How to have a batch computed again, which tells a bad one, a passing fault and one of precision apart."""
    if len(evidence.metric("batch_fingerprint")):
        remedy = "the batch is handed over already; give `compute_loss=` to the Supervisor too"
    else:
        remedy = "hand it over: `supervisor.check(loss, batch=batch)`, with `compute_loss=` to the Supervisor"
    return Unmeasured("the batch once more", remedy)


def ask_for_fingerprint(evidence: Evidence) -> Unmeasured:
    """How to have batches known again."""
    own = "hand the batch over: `supervisor.check(loss, batch=batch)`"
    other = "record a hash of each batch, as `supervisor.check(loss, batch=batch)` does"
    return Unmeasured("batch_fingerprint", own if is_supervised(evidence) else other)


def ask_for_waiting(evidence: Evidence) -> Unmeasured:
    """How to have the time known that is spent on waiting for data."""
    own = (
        "time `next(iterator)` and say it at every step: `supervisor.declare_waiting(seconds)`; or give its mean to a "
        "review: `supervisor.review(data_seconds=…)`"
    )
    other = "time `next(iterator)` at every step and record it as data_seconds"
    return Unmeasured("data_seconds", own if is_supervised(evidence) else other)
