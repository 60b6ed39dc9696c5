"""What `fit` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.types import Decision

Status = Literal["finished", "stopped-early", "paused", "aborted", "halted"]


@dataclass(frozen=True, slots=True)
class Review:
    """One validation."""

    epoch: int
    """Epochs completed."""

    step: int
    """Optimizer steps made."""

    metrics: Mapping[str, float]
    """`val_loss`, the parts of the loss as `val_` and their names, and `learning_rate`."""

    is_disturbed: bool = False
    """True if the supervisor went back or cooled the learning rate since the review before."""

    @property
    def score(self) -> float:
        """The validation loss, which the best review has the lowest of."""
        return self.metrics["val_loss"]

    def to_dict(self) -> dict[str, Any]:
        """Its fields in one mapping, for tables."""
        return {"epoch": self.epoch, "step": self.step, **self.metrics}


@dataclass(frozen=True, slots=True)
class FitResult:
    """How a run ended."""

    status: Status
    """finished: all epochs, or the epoch in which `finish` was signalled. stopped-early: it had stopped getting better.
    paused: it goes on when it is started again. aborted: by signal. halted: by the supervisor."""

    reason: str
    """Why, in one sentence."""

    num_steps: int
    """Optimizer steps made, in this call and those before it that it went on from."""

    num_epochs: int
    """Epochs completed."""

    best_score: float | None
    """The lowest validation loss; None without one."""

    best_step: int | None
    """The step of that review."""

    reviews: tuple[Review, ...]
    """All validations."""

    run: Path | None
    """The run folder."""

    decision: Decision | None = None
    """Where the supervisor halted the run: its decision, with what it found."""

    @property
    def is_complete(self) -> bool:
        """True if the run ended as it was meant to: finished, or stopped early."""
        return self.status in ("finished", "stopped-early")
