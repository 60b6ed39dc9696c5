"""Run folders that were written as a supervisor writes them, without training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from trimtab.journal import Journal
from trimtab.policy import Policy
from trimtab.types import Action, Decision, Finding, Measurement, Record, Response, Value

HOSTILE = "<img src=x onerror=alert(1)>"
"""What a name must not be but text."""

ROLLBACK, SKIP, FOUND, LAST = 60, 90, 120, 200
"""The steps of what happens in the run, and its last one."""

RESTORED = 52
"""The step that the rollback went back to."""


def write_run(
    folder: Path,
    *,
    groups: Sequence[str] = ("embedding", "blocks.0", "head"),
    metrics: Sequence[str] = (),
    message: str = "loss 30 is above its limit 4",
    faults: Iterable[int] = (ROLLBACK, SKIP, FOUND),
    policy: Policy | None = None,
) -> Path:
    """Write a run of 200 steps with 10 reviews, a rollback, a skip and a finding.

    Args:
        folder: where to.
        groups: its parameter groups.
        metrics: further metrics of its reviews.
        message: what its findings say.
        faults: the steps among those of what happens at which it does.
        policy: its policy.
    """
    manifest = {
        "format": 2,
        "started": "2026-01-01T00:00:00+00:00",
        "versions": {"python": "3.11"},
        "command_line": ["train.py"],
        "dtypes": ["float32"],
        "groups": list(groups),
        "group_metrics": ["group_grad_norm"],
        "sampled_metrics": [],
        "clip_norm": 1.0,
        "policy": (policy or Policy.default()).to_dict(),
    }
    journal = Journal(folder, manifest)
    noise = np.random.default_rng(0).lognormal(0, 0.05, (LAST + 1, len(groups) + 1)).tolist()
    for step in range(1, LAST + 1):
        is_fault = step in faults
        loss = 30.0 if is_fault and step != FOUND else (1 + 3 / math.sqrt(step)) * noise[step][0]
        values: dict[str, Value] = {
            "loss": loss,
            "grad_norm": math.nan if is_fault and step == SKIP else noise[step][1],
            "learning_rate": 1e-3 * min(step / 20, 1),
            "step_seconds": 0.1 * noise[step][0],
            "group_grad_norm": tuple(noise[step][1:]),
        }
        journal.write(Record(Measurement(step, values), *_decide(step, message, is_fault=is_fault)))
        if step % 20 == 0:
            reviewed: dict[str, Value] = {"val_loss": 1 + 3 / math.sqrt(step), **dict.fromkeys(metrics, 1 / step)}
            journal.write(Record(Measurement(step, reviewed, "review"), Decision(step, clock="review")))
    journal.write_event("end", step=LAST, status="finished", num_failures=0)
    journal.close()
    return folder


def _decide(step: int, message: str, *, is_fault: bool) -> tuple[Decision, Action]:
    if not is_fault:
        return Decision(step), Action(step)
    finding = Finding(
        metric="loss", value=30.0, limit=4.0, message=message, detector="loss-spike", severity="high", step=step
    )
    verdict = {ROLLBACK: "rollback", SKIP: "skip"}.get(step, "proceed")
    responses = (Response(verdict),) if verdict != "proceed" else ()
    restored = RESTORED if verdict == "rollback" else None
    reason = f"loss-spike: {message} → {verdict}"
    lost = {"rollback": step - RESTORED, "skip": 1}.get(verdict, 0)
    decision = Decision(step, verdict, responses, (finding,), reason)
    return decision, Action(step, verdict, restored, lost)
