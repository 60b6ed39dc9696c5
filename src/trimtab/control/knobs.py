"""Knobs: numbers that a run is steered by, such as loss weights, moved slowly while it goes on."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass
from math import cos, isfinite, pi
from typing import Any

from trimtab.errors import InputError

NUDGE_REVIEWS = 3
"""The reviews over which a knob moves at least: epochs, where there is one review in each."""


@dataclass(frozen=True, slots=True)
class Nudge:
    """A knob on its way."""

    before: float
    """Its value where it began."""

    after: float
    """Its value where it ends."""

    num_done: int = 0
    """The reviews since."""

    num_reviews: int = NUDGE_REVIEWS
    """The reviews it takes."""

    @property
    def is_over(self) -> bool:
        """True once it has arrived."""
        return self.num_done >= self.num_reviews

    @property
    def value(self) -> float:
        """The value now: along half a cosine, which begins and ends without a jump."""
        share = min(self.num_done / self.num_reviews, 1.0)
        return self.after if self.is_over else self.before + (self.after - self.before) * (1 - cos(pi * share)) / 2


class Knobs:
    """Numbers in a mapping that the loop reads at every step, such as `{"joint": 1.0, "spread": 0.3}`.

    Args:
        values: the mapping; it is written to.

    Raises:
        InputError: if it is no such mapping, or one of its numbers is not finite.
    """

    def __init__(self, values: MutableMapping[str, float]) -> None:
        if not isinstance(values, MutableMapping) or not values:
            raise InputError(
                f"knobs: weights is {values!r}; it has to be a dict of numbers that the loss reads at every step, such "
                'as {"joint": 1.0, "spread": 0.3}'
            )
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
                raise InputError(f"knobs: {name} is {value!r}; it has to be a finite number")
        self._values = values
        self._nudges: dict[str, Nudge] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._values

    @property
    def values(self) -> dict[str, float]:
        """All numbers as they are now."""
        return {name: float(each) for name, each in self._values.items()}

    @property
    def targets(self) -> dict[str, float]:
        """All numbers as they will be once what is on its way has arrived."""
        return self.values | {name: each.after for name, each in self._nudges.items()}

    def nudge(self, name: str, target: float, num_reviews: int = NUDGE_REVIEWS) -> None:
        """Begin to move a knob; one that is on its way goes on from where it is.

        Args:
            name: the knob.
            target: where to.
            num_reviews: the reviews it takes.

        Raises:
            InputError: if there is no such knob, the target is not finite, or it takes too few reviews.
        """
        if name not in self._values:
            raise InputError(f"knobs: there is no {name!r}; there are {', '.join(self._values)}")
        if not isfinite(target):
            raise InputError(f"knobs: {name} cannot move to {target!r}; a target has to be finite")
        if num_reviews < NUDGE_REVIEWS:
            raise InputError(f"knobs: {name} cannot move within {num_reviews} reviews; {NUDGE_REVIEWS} is the least")
        self._nudges[name] = Nudge(float(self._values[name]), target, 0, num_reviews)

    def advance(self) -> list[str]:
        """Move what is on its way by a review; call it after each. Returns what has moved."""
        moved = list(self._nudges)
        for name, each in list(self._nudges.items()):
            gone = Nudge(each.before, each.after, each.num_done + 1, each.num_reviews)
            self._values[name] = gone.value
            self._nudges[name] = gone
            if gone.is_over:
                del self._nudges[name]
        return moved

    def state_dict(self) -> dict[str, Any]:
        """The numbers, and what is on its way."""
        return {"values": self.values, "nudges": {name: asdict(each) for name, each in self._nudges.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them over; a number that is no knob here is left out."""
        self._values.update({name: each for name, each in state["values"].items() if name in self._values})
        self._nudges = {name: Nudge(**each) for name, each in state["nudges"].items() if name in self._values}
