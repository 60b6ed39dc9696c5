"""The kinds of rows, and how many there are of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Kind: TypeAlias = Literal["hard", "late", "flip-flop", "never-seen", "seen-twice", "nonfinite-loss"]
"""The kinds of rows that `RowTracker.find` tells apart."""

LATE_QUANTILE = 0.9
"""A row is a late learner if so many of the learned rows were learned in an earlier epoch."""

MIN_FLIPS = 2
"""So often a row was forgotten that flip-flops; once happens to a fifth to a half of all rows (Toneva et al., 2019)."""


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


def _is_late(held: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Learned in an epoch before which nine tenths of the rows that were ever learned had been."""
    first: NDArray[np.uint16] = held["first_learned"]
    num_learned = np.cumsum(np.bincount(first)[1:])
    if not num_learned.size:
        return np.zeros(len(first), np.bool_)
    last = 1 + int(np.searchsorted(num_learned, LATE_QUANTILE * num_learned[-1]))
    return first > last


KINDS: Mapping[str, Callable[[Mapping[str, NDArray[Any]]], NDArray[np.bool_]]] = {
    "hard": lambda held: (held["num_epochs"] > 0) & (held["first_learned"] == 0),
    "late": _is_late,
    "flip-flop": lambda held: held["num_flips"] >= MIN_FLIPS,
    "never-seen": lambda held: (held["num_epochs"] == 0) & (held["num_nonfinite"] == 0),
    "seen-twice": lambda held: held["num_seen"] > held["num_epochs"],
    "nonfinite-loss": lambda held: held["num_nonfinite"] > 0,
}
"""How the rows of a kind are told."""

assert tuple(KINDS) == get_args(Kind)
