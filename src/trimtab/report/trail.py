"""One metric over a whole run in bounded memory: whatever its length, no spike is lost."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 16_384
"""Points that are held; of more, every fourth and its neighbours become their lowest and their highest."""

BLOCK = 4
"""Points of which two are kept when there are too many."""


class Trail:
    """The numbers of a metric by step, thinned out such that every extreme stays where it was."""

    def __init__(self) -> None:
        self._steps, self._values = array("d"), array("d")

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> NDArray[np.float64]:
        """The steps, rising; shape (points,)."""
        return np.array(self._steps)

    @property
    def values(self) -> NDArray[np.float64]:
        """The number at each; shape (points,). Those that are not finite are among them."""
        return np.array(self._values)

    def append(self, step: int, value: float) -> None:
        """Add the number of a step."""
        self._steps.append(step)
        self._values.append(value)
        if len(self._steps) > MOST_POINTS:
            self._thin_out()

    def go_back(self, step: int) -> None:
        """Leave out this step and all later ones: the run went back to before it."""
        while self._steps and self._steps[-1] >= step:
            self._steps.pop()
            self._values.pop()

    def _thin_out(self) -> None:
        steps, values = self.steps, self.values
        kept = thin_out(values, BLOCK)
        self._steps, self._values = array("d", steps[kept]), array("d", values[kept])


def thin_out(values: NDArray[np.float64], block: int) -> NDArray[np.int64]:
    """The places of the lowest and the highest of every block of values, rising; one that is not finite is highest."""
    num = len(values) // block * block
    blocks = np.where(np.isfinite(values), values, np.inf)[:num].reshape(-1, block)
    firsts = np.arange(0, num, block)
    extremes = np.stack([firsts + blocks.argmin(axis=1), firsts + blocks.argmax(axis=1)])
    return np.unique(np.concatenate([extremes.ravel(), np.arange(num, len(values))]))
