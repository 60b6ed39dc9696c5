"""One review of a run, as decisions between two epochs see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Review:
    """One validation."""

    epoch: int
    """Epochs completed."""

    step: int
    """Optimizer steps made."""

    metrics: Mapping[str, float]
    """`val_loss`, the parts of the loss as `val_` and their names, `learning_rate` as it was used, `quality_score` with
    its parts, and where spectra or embeddings were measured what they say."""

    is_disturbed: bool = False
    """True if the supervisor went back or cooled the learning rate since the review before."""

    findings: tuple[str, ...] = ()
    """The detectors that found something at it."""

    @property
    def score(self) -> float:
        """The validation loss, which the best review has the lowest of."""
        return self.metrics["val_loss"]

    def to_dict(self) -> dict[str, Any]:
        """Its fields in one mapping, for tables."""
        return {"epoch": self.epoch, "step": self.step, **self.metrics}
