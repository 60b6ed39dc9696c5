"""How many rows there are of each kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RowSummary:
    """How many rows there are of each kind, in the epochs that have ended."""

    num_rows: int
    """All rows."""

    num_epochs: int
    """Epochs in which a row was seen."""

    num_hard: int
    """Rows seen and never learned."""

    num_late: int
    """Rows learned later than nine tenths of those learned."""

    num_flip_flop: int
    """Rows forgotten at least twice after they were learned."""

    num_never_seen: int
    """Rows never seen."""

    num_seen_twice: int
    """Rows seen more than once in one epoch."""

    num_nonfinite_loss: int
    """Rows that had a loss that is not finite."""

    def __str__(self) -> str:
        return (
            f"{self.num_rows} rows in {self.num_epochs} epochs: {self.num_hard} hard, {self.num_late} late, "
            f"{self.num_flip_flop} flip-flop, {self.num_never_seen} never seen, {self.num_seen_twice} seen twice in an "
            f"epoch, {self.num_nonfinite_loss} with a loss that is not finite"
        )
