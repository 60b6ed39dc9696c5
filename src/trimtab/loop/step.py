"""One optimizer step of `fit`, made again in smaller micro-batches when memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trimtab.control.memory import Update
from trimtab.control.rate import scale_rate
from trimtab.control.rows import RowTracker
from trimtab.control.rows.fields import to_array
from trimtab.errors import InputError
from trimtab.loop.objective import Loss, Objective, count_largest
from trimtab.state.buffers import BufferCopies
from trimtab.state.rng import capture_rng, restore_rng
from trimtab.supervisor import Supervisor

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer


class Stepper:
    """Makes the steps of a run.

    Args:
        model: the model.
        optimizer: its optimizer.
        objective: gives the loss of a micro-batch.
        supervisor: judges each step.
        scaler: the loss scaler, if there is one.
        schedulers: stepped after each update, but those that wait for validations.
        tracker: sees the loss of each row; None for none.

    Attributes:
        rate_factor: what the learning rate of the schedule is multiplied by.
        is_updating: True from the judgement of a step until its update is made.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        objective: Objective,
        supervisor: Supervisor,
        scaler: GradScaler | None,
        schedulers: Sequence[Any],
        tracker: RowTracker | None = None,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._objective, self._supervisor = objective, supervisor
        self._scaler = scaler
        self._schedulers = [each for each in schedulers if not isinstance(each, ReduceLROnPlateau)]
        self._buffers = BufferCopies(model)
        self._update = Update(optimizer, objective.micro_batch.warn)
        self._tracker = tracker
        self.rate_factor = 1.0
        self.is_updating = False

    def make(self, batch: Any) -> Loss:
        """Make the step of a batch, or of several: gradients, judgement, update, schedule.

        Returns:
            Its loss.

        Raises:
            OutOfMemory: if memory runs out whatever the size of a micro-batch.
            Halted: if the supervisor ends the run.
        """
        self._buffers.update()
        self._objective.at_hand = (batch, capture_rng())
        loss = self._objective.micro_batch.fit(
            partial(self._compute_gradients, batch), rewind=self.rewind, count_samples=partial(count_largest, batch)
        )
        self.is_updating = True
        self._supervisor.check(loss.total, batch=batch, parts=loss.parts)
        self._track(loss)
        with scale_rate(self._optimizer, self.rate_factor):
            has_stepped = self._make_update()
        for each in self._schedulers if has_stepped else ():
            each.step()
        self.is_updating = False
        self._objective.at_hand = None
        return loss

    def rewind(self) -> None:
        """Undo what a step has left that was not judged yet: gradients, random numbers and buffers."""
        self._optimizer.zero_grad()
        if self._objective.at_hand is not None:
            restore_rng(self._objective.at_hand[1])
            self._buffers.put_back()

    def _compute_gradients(self, batch: Any, size: int | None) -> Loss:
        self._optimizer.zero_grad()
        losses = []
        for each in self._objective.cut(batch, size):
            loss = self._objective.compute(self._model, *each)
            if not loss.total.requires_grad:
                raise InputError(
                    "fit: the loss that compute_loss returned has no gradient; compute it from the model's output, "
                    "without detach, item or no_grad"
                )
            (loss.total if self._scaler is None else self._scaler.scale(loss.total)).backward()
            losses.append(loss.detach())
        return Loss.sum(losses)

    def _track(self, loss: Loss) -> None:
        """Take note of the rows of a step that was judged: what was computed again for any reason counts once."""
        if self._tracker is not None and loss.rows:
            rows = np.concatenate([to_array(each) for each, _ in loss.rows])
            self._tracker.update(rows, torch.cat([each for _, each in loss.rows]))

    def _make_update(self) -> bool:
        """Let the optimizer step; returns False if the scaler kept it from doing so."""
        if self._scaler is None:
            self._update.make(self._optimizer.step)
            return True
        scale = self._scaler.get_scale()
        self._update.make(partial(self._scaler.step, self._optimizer))
        self._scaler.update()
        return self._scaler.get_scale() >= scale
