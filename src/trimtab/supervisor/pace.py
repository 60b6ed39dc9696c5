"""Whether the optimizer steps between two checks."""

from __future__ import annotations

MOST_UNSTEPPED = 3.0
"""Checks without an optimizer step that are a mistake of the loop, such as two checks a step, and not an oddity."""

DECAY = 0.25
"""How much of one such check each check with a step makes up for."""

UNSTEPPED = (
    "check is called without an optimizer step in between; call it once a step, after backward and before "
    "optimizer.step()"
)
"""What is said of it."""


class Pace:
    """Counts checks that no optimizer step has followed, though the update was to be made.

    Attributes:
        is_step_due: True from a check after which the optimizer is to step until it does.
    """

    def __init__(self) -> None:
        self.is_step_due = False
        self._num_unstepped = 0.0
        self._was_told = False

    def has_stalled(self, *, is_scaled: bool) -> bool:
        """True, once, if checks go by without an optimizer step again and again; asked at the beginning of each.

        Args:
            is_scaled: True if a loss scaler decides whether the optimizer steps.
        """
        is_left_out = self.is_step_due and not is_scaled
        if is_left_out:
            self._num_unstepped += 1.0
        else:
            self._num_unstepped = max(self._num_unstepped - DECAY, 0.0)
        self.is_step_due = False
        if self._num_unstepped < MOST_UNSTEPPED or self._was_told:
            return False
        self._was_told = True
        return True
