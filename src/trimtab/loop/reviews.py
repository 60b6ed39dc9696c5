"""The reviews of a run: validations, and the best of them with their weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from trimtab.control.best_epoch import choose_best_epochs
from trimtab.control.memory import Clearing
from trimtab.control.review import Review
from trimtab.control.weights import BY_COMPOSITE, BY_LOSS, BestWeights
from trimtab.control.workers import Workers
from trimtab.errors import InputError, TrimtabError
from trimtab.loop.objective import Objective
from trimtab.loop.validation import validate
from trimtab.probes.rerun import keep_training
from trimtab.probes.spectra import SCORE, count_work, measure_spectra
from trimtab.spectra import summarize_spectra
from trimtab.supervisor import Supervisor

DISTURBING = {"rollback", "reload", "cool", "reset"}
"""The responses after which weights or updates are not what training alone made of them."""

OBSERVED = {"embeddings", "views", "columns"}
"""What `embed` may give."""

Embed: TypeAlias = Callable[[nn.Module], Mapping[str, Any]]
"""Gives what a model makes of a fixed sample, as `Supervisor.review` takes it."""

Criterion = Literal["loss", "composite"]
"""By what the best review is chosen."""

MOST_WORK = 5e9
"""The multiplications that the spectra of a review may take, about a second; of a larger model they are not looked at,
and the best by composite is the best by loss."""

logger = logging.getLogger("trimtab")


class Reviews:
    """All validations of a run.

    Args:
        model: the model.
        objective: gives the loss of a batch.
        loader: gives the validation batches; None for no validation.
        workers: told of the loader's workers.
        folder: the run folder; None for none.
        keeps_best: keep the weights of the best ones, by loss and by composite.
        embed: gives what the model makes of a fixed sample; None for nothing.

    Attributes:
        made: the reviews.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        loader: Iterable[Any] | None,
        workers: Workers,
        folder: Path | None,
        *,
        keeps_best: bool,
        embed: Embed | None = None,
    ) -> None:
        self._model, self._objective, self._loader, self._workers = model, objective, loader, workers
        self._kept: dict[Criterion, BestWeights] = {}
        if keeps_best:
            self._kept = {"loss": BestWeights(folder, BY_LOSS), "composite": BestWeights(folder, BY_COMPOSITE)}
        self._measures_spectra = keeps_best and count_work(model) <= MOST_WORK
        self._clearing = Clearing()
        self._embed = embed
        self.made: list[Review] = []

    @property
    def best(self) -> Review | None:
        """The best review by loss; None if there is none with a finite score."""
        return self.find_best("loss")

    def find_best(self, by: Criterion) -> Review | None:
        """The best review; None if there is none with a finite score."""
        scores = [each.metrics.get(SCORE) for each in self.made]
        best = choose_best_epochs([each.score for each in self.made], scores)
        index = best.by_loss if by == "loss" else best.by_composite
        return None if index is None else self.made[index]

    def make(self, epoch: int, step: int, learning_rate: float, supervisor: Supervisor) -> Review | None:
        """Validate, and keep the weights if they are the best; returns None if there is nothing to validate on.

        Raises:
            Halted: if the supervisor ends the run.
        """
        if self._loader is None:
            return None
        self._clearing.run()
        metrics = validate(self._model, self._objective, self._loader, self._workers)
        spectra = self._measure_spectra()
        if self.made and self.made[-1].epoch == epoch:  # it was not gone on from
            self.made.pop()
        since = self.made[-1].step if self.made else 0
        decisions = [each for each in supervisor.ledger if each.step > since]
        kinds = {response.kind for decision in decisions for response in decision.responses}
        told = metrics | {"learning_rate": learning_rate} | spectra
        self.made.append(Review(epoch, step, told, not kinds.isdisjoint(DISTURBING)))
        shown = ", ".join(f"{name} {value:.4g}" for name, value in told.items())
        logger.info("epoch %d, step %d: %s", epoch, step, shown)
        self._keep_if_best()
        decision = supervisor.review(**metrics, **spectra, **self._observe())
        found = tuple(dict.fromkeys(each.detector for each in decision.findings))
        self.made[-1] = replace(self.made[-1], metrics=told | _list_measured(supervisor, step), findings=found)
        return self.made[-1]

    def restore_best(self, by: Criterion) -> Review | None:
        """Set the model to the weights of the best review, if they were kept; returns that review."""
        best = self.find_best(by)
        if not self._kept or best is None:
            return None
        if self._kept[by].restore(self._model):
            return best
        logger.warning("the weights of the best review are gone; the model keeps those of the last step")
        return None

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered but the weights."""
        made = [
            {
                "epoch": each.epoch,
                "step": each.step,
                "metrics": dict(each.metrics),
                "is_disturbed": each.is_disturbed,
                "findings": list(each.findings),
            }
            for each in self.made
        ]
        return {"made": made}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was remembered."""
        self.made = [Review(**{**each, "findings": tuple(each["findings"])}) for each in state["made"]]

    @torch.no_grad()
    def _observe(self) -> Mapping[str, Any]:
        """What the model makes of a fixed sample; the training goes on as if it had not been asked.

        Raises:
            InputError: if there are no embeddings in it.
        """
        if self._embed is None:
            return {}
        with keep_training(self._model):
            self._model.eval()
            observed = self._embed(self._model)
        if not isinstance(observed, Mapping) or not {"embeddings"} <= observed.keys() <= OBSERVED:
            raise InputError(
                f"fit: embed returned {observed!r:.60}; it has to return a dict with 'embeddings', and where there are "
                "any 'views' and 'columns'"
            )
        return observed

    def _measure_spectra(self) -> dict[str, float]:
        """The metrics of the weights' spectra; none where they are not looked at."""
        if not self._measures_spectra:
            return {}
        try:
            return summarize_spectra(measure_spectra(self._model))
        except Exception as error:
            self._measures_spectra = False
            logger.warning("the spectra of the weights cannot be measured (%s); the best is chosen by loss", error)
            return {}

    def _keep_if_best(self) -> None:
        newest = self.made[-1]
        improved: list[Criterion] = [by for by in self._kept if self.find_best(by) is newest]
        try:
            for by in improved[:1]:
                self._kept[by].keep(self._model)
            for by in improved[1:]:
                self._kept[by].take_over(self._kept[improved[0]])
        except (OSError, TrimtabError) as error:
            logger.warning("the weights of the best review cannot be kept (%s); the training goes on", error)


def _list_measured(supervisor: Supervisor, step: int) -> dict[str, float]:
    """The points of the review that was just made, and what embeddings were seen; none where it was not judged."""
    newest = supervisor.reviews.newest
    values = newest.values if newest.step == step else {}
    return {name: each for name, each in values.items() if not name.startswith("train_") and isinstance(each, float)}
