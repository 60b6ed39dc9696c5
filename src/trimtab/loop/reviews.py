"""The reviews of a run: validations, the best of them with its weights, and whether the run still gets better."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from trimtab.control.early_stopping import Progress, assess_progress
from trimtab.control.memory import Clearing
from trimtab.control.weights import BestWeights
from trimtab.control.workers import Workers
from trimtab.errors import TrimtabError
from trimtab.loop.objective import Objective
from trimtab.loop.result import Review
from trimtab.loop.validation import validate
from trimtab.supervisor import Supervisor

DISTURBING = {"rollback", "reload", "cool", "reset"}
"""The responses after which weights or updates are not what training alone made of them."""

logger = logging.getLogger("trimtab")


class Reviews:
    """All validations of a run.

    Args:
        model: the model.
        objective: gives the loss of a batch.
        loader: gives the validation batches; None for no validation.
        workers: told of the loader's workers.
        folder: the run folder; None for none.
        patience: the reviews without an improvement that there may be; None for any number.
        min_delta: what counts as an improvement.
        keeps_best: keep the weights of the best one.

    Attributes:
        made: the reviews.
        stops_early: False once early stopping is turned off.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        loader: Iterable[Any] | None,
        workers: Workers,
        folder: Path | None,
        *,
        patience: int | None,
        min_delta: float,
        keeps_best: bool,
    ) -> None:
        self._model, self._objective, self._loader, self._workers = model, objective, loader, workers
        self._patience, self._min_delta = patience, min_delta
        self._best = BestWeights(folder) if keeps_best else None
        self._clearing = Clearing()
        self.stops_early = True
        self.made: list[Review] = []

    @property
    def progress(self) -> Progress:
        """How the run is getting on."""
        return assess_progress(
            [each.score for each in self.made],
            patience=self._patience or 1,
            min_delta=self._min_delta,
            disturbed=[each.is_disturbed for each in self.made],
        )

    @property
    def best(self) -> Review | None:
        """The best review; None if there is none with a finite score."""
        index = self.progress.best
        return None if index is None else self.made[index]

    @property
    def has_stalled(self) -> bool:
        """True if the run is to be stopped early."""
        return self._patience is not None and self.stops_early and self.progress.has_stalled

    def make(self, epoch: int, step: int, learning_rate: float, supervisor: Supervisor) -> Review | None:
        """Validate, and keep the weights if they are the best; returns None if there is nothing to validate on.

        Raises:
            Halted: if the supervisor ends the run.
        """
        if self._loader is None:
            return None
        self._clearing.run()
        metrics = validate(self._model, self._objective, self._loader, self._workers)
        if self.made and self.made[-1].epoch == epoch:  # it was not gone on from
            self.made.pop()
        since = self.made[-1].step if self.made else 0
        decisions = [each for each in supervisor.ledger if each.step > since]
        kinds = {response.kind for decision in decisions for response in decision.responses}
        review = Review(epoch, step, metrics | {"learning_rate": learning_rate}, not kinds.isdisjoint(DISTURBING))
        self.made.append(review)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in review.metrics.items())
        logger.info("epoch %d, step %d: %s", epoch, step, shown)
        if self._best is not None and self.best is review:
            try:
                self._best.keep(self._model)
            except (OSError, TrimtabError) as error:
                logger.warning("the weights of the best review cannot be kept (%s); the training goes on", error)
        supervisor.review(**metrics)
        return review

    def restore_best(self) -> Review | None:
        """Set the model to the weights of the best review, if they were kept; returns that review."""
        if self._best is None or self.best is None:
            return None
        if self._best.restore(self._model):
            return self.best
        logger.warning("the weights of the best review are gone; the model keeps those of the last step")
        return None

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered but the weights."""
        made = [
            {"epoch": each.epoch, "step": each.step, "metrics": dict(each.metrics), "is_disturbed": each.is_disturbed}
            for each in self.made
        ]
        return {"made": made, "stops_early": self.stops_early}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was remembered."""
        self.made = [Review(**each) for each in state["made"]]
        self.stops_early = state["stops_early"]
