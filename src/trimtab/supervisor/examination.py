"""What else there is to say of a finding: causes of a spike, and what a second look at the batch shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

from trimtab.actions import Controls
from trimtab.diagnosis.causes import name_causes
from trimtab.history import History
from trimtab.probes.agreement import describe_losses
from trimtab.probes.inquiry import inquire
from trimtab.probes.rerun import ComputeLoss
from trimtab.probes.subject import Moment, Subject, shorten
from trimtab.ranks import is_distributed
from trimtab.state.moments import find_corrupt_moments
from trimtab.state.rng import capture_rng, restore_rng
from trimtab.types import RESTORING, Decision, Measurement


class Examination:
    """Looks for causes where something was found.

    Args:
        subject: the live training.
        controls: what can be restored.
        compute_loss: gives the loss of a batch; None if batches cannot be computed again.
        is_strict: raise what fails, in place of saying so.
    """

    def __init__(
        self, subject: Subject, controls: Controls, compute_loss: ComputeLoss | None, *, is_strict: bool
    ) -> None:
        self._subject = subject
        self._controls = controls
        self._compute_loss = compute_loss
        self._is_strict = is_strict
        self.look_ahead()

    def look_ahead(self) -> None:
        """Keep the random numbers as they are before a step, for its batch to be computed again from them."""
        if self._compute_loss is not None:
            self._rng = capture_rng()

    def examine(
        self, decision: Decision, measurement: Measurement, history: History, moment: Moment | None, *, is_first: bool
    ) -> Iterator[str]:
        """What there is to say, in sentences.

        Args:
            decision: the decision, with its findings.
            measurement: what was seen.
            history: the measurements of steps.
            moment: the step, with the batch if that was handed over; None for a review.
            is_first: True at the beginning of an episode: then where a number first was not finite is looked for.
        """
        if any(each.metric == "loss" for each in decision.findings):
            yield from name_causes(history)
            yield from self._name_moments()
        if moment is None:
            return
        if moment.losses is not None and any(
            each.metric == "loss" and isfinite(each.value) for each in decision.findings
        ):
            yield describe_losses(moment.losses)
        if moment.batch is not None and self._compute_loss is not None:
            yield self._inquire(self._compute_loss, measurement, moment.batch, is_first)

    def _name_moments(self) -> Iterator[str]:
        names = {id(each): name for each, name in zip(self._subject.parameters, self._subject.names, strict=True)}
        found = find_corrupt_moments(self._subject.optimizer, self._controls.snapshots.proven, names)
        if found:
            yield f"cause: the optimizer's moments are corrupted: {shorten(found)}"

    def _inquire(self, compute_loss: ComputeLoss, measurement: Measurement, batch: Any, is_first: bool) -> str:
        """Look at a batch that was not finite once more, from the random numbers it had.

        In a distributed run nothing is computed again: one rank's batch may be fine, and a wrapped model's forward and
        backward passes wait for the other ranks.
        """
        if is_distributed():
            return ""
        now = capture_rng()

        def restore() -> None:
            restore_rng(self._rng)
            self._controls.buffers.put_back()

        try:
            with self._controls.buffers.keep_live():
                return inquire(self._subject.model, compute_loss, batch, measurement, restore=restore, locates=is_first)
        except Exception as error:
            if self._is_strict:
                raise
            return f"not computed again, since that failed: {type(error).__name__}: {error}"
        finally:
            restore_rng(now)


def find_sickness(subject: Subject, ledger: Sequence[Decision], step: int) -> str:
    """Why the state at hand is not to be gone on from; empty if nothing speaks against it.

    A skipped or clipped update does not: it never reached the weights, or only what was left of it.

    Args:
        subject: the live training.
        ledger: the decisions that had findings.
        step: the step that was judged last.
    """
    if not isfinite(subject.measure_weights()):
        return "weights are not finite"
    newest = ledger[-1] if ledger else None
    if newest is None or newest.step != step or newest.verdict in RESTORING:
        return ""
    return newest.reason if any(each.in_state for each in newest.findings) else ""
