"""The end of a run: the best weights, what their choice cost, and the table of rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from trimtab.control.publication import Facts, publish
from trimtab.control.review import Review
from trimtab.control.rows import RowTracker
from trimtab.control.workers import Workers
from trimtab.errors import InputError, TrimtabError
from trimtab.loop.objective import Objective
from trimtab.loop.reviews import Criterion, Reviews
from trimtab.loop.validation import validate
from trimtab.probes.spectra import SCORE
from trimtab.supervisor import Supervisor

logger = logging.getLogger("trimtab")


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run is left with."""

    restored: Review | None = None
    """The review whose weights the model has; None for those of the last step."""

    test_metrics: Mapping[str, float] | None = None
    """What the test data gave for the model as it is."""


class Ending:
    """Leaves a model at its best, and says what the choice cost.

    Args:
        model: the model.
        reviews: its reviews, with the weights of the best.
        supervisor: told of it.
        objective: gives the loss of a batch.
        test_loader: gives batches that took no part in any choice; None for none.
        workers: told of the loader's workers.
    """

    def __init__(
        self,
        model: nn.Module,
        reviews: Reviews,
        supervisor: Supervisor,
        objective: Objective,
        test_loader: Iterable[Any] | None,
        workers: Workers,
    ) -> None:
        self._model, self._reviews, self._supervisor = model, reviews, supervisor
        self._objective, self._test_loader, self._workers = objective, test_loader, workers

    def restore(self, by: Criterion, *, is_told: bool) -> Ended:
        """Set the model to its best weights, if they were kept, and measure it on the test data, if there are some.

        Args:
            by: by what they are chosen.
            is_told: True if it is an event of the run.
        """
        restored = self._reviews.restore_best(by)
        tested = self._test()
        if restored is None:
            return Ended(None, tested)
        fields: dict[str, Any] = {"by": by, **self._describe(restored)}
        if tested is not None:
            fields["test_loss"] = tested["test_loss"]
            if self._reviews.best is not restored:
                fields["test_loss_by_loss"] = self._test_by_loss(by)
                fields["test_cost"] = fields["test_loss"] - fields["test_loss_by_loss"]
        logger.info("the model has the weights of epoch %d, the best by %s", restored.epoch, by)
        if is_told:
            self._supervisor.tell_event("restored", **fields)
        return Ended(restored, tested)

    def _describe(self, restored: Review) -> dict[str, Any]:
        """Which weights they are, and what that does to the validation loss."""
        criteria: tuple[Criterion, ...] = ("loss", "composite")
        best = {by: self._reviews.find_best(by) for by in criteria}
        named = {
            f"best_by_{by}": {"epoch": each.epoch, "val_loss": each.score, SCORE: each.metrics.get(SCORE)}
            for by, each in best.items()
            if each is not None
        }
        by_loss = best["loss"]
        return {
            "epoch": restored.epoch,
            **named,
            "val_loss_before": self._reviews.made[-1].score,
            "val_loss_after": restored.score,
            "val_cost": 0.0 if by_loss is None else restored.score - by_loss.score,
        }

    def _test(self) -> dict[str, float] | None:
        if self._test_loader is None:
            return None
        metrics = validate(self._model, self._objective, self._test_loader, self._workers)
        return {name.replace("val_", "test_", 1): each for name, each in metrics.items()}

    def _test_by_loss(self, by: Criterion) -> float:
        """The test loss of the best by loss, which the model has for a moment."""
        self._reviews.restore_best("loss")
        tested = self._test() or {}
        self._reviews.restore_best(by)
        return tested["test_loss"]


def export(model: nn.Module, folder: Path, facts: Facts, supervisor: Supervisor) -> None:
    """Export a model and the card of its run; what keeps it from being exported is a warning."""
    try:
        exported = publish(model, folder, facts)
    except (OSError, TrimtabError) as error:
        logger.warning("the model cannot be exported (%s); the training goes on", error)
        return
    supervisor.tell_event("published", folder=str(exported))
    logger.info("the model is exported to %r", str(exported))


def save_rows(tracker: RowTracker | None, folder: Path | None) -> None:
    """Write the table of rows into the run folder; what keeps it from being written is a warning."""
    if tracker is None or folder is None or not tracker.num_epochs:
        return
    try:
        tracker.save(folder)
    except (InputError, OSError) as error:
        logger.warning("the table of rows is not written: %s", error)
