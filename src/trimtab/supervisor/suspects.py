"""Batches that were found bad, known again by their fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimtab.probes.batch_fingerprint import take_fingerprint
from trimtab.types import Record

MOST = 1024
"""Batches that are remembered, the one found bad longest ago forgotten first."""

TIMES = 2
"""How often a batch has to be found bad to be left out: once may have been chance."""


class Suspects:
    """How often which batch was found bad, less how often it was left out for that."""

    def __init__(self) -> None:
        self._counts: dict[float, int] = {}

    def judge(self, record: Record) -> None:
        """Count the batch of a step whose update was left out for what was seen of the batch, and not of the state.

        A batch that passes is forgotten.
        """
        fingerprint = record.measurement.values.get("batch_fingerprint")
        if not isinstance(fingerprint, float):
            return
        if record.is_sample:
            self._counts.pop(fingerprint, None)
        elif not record.decision.proceed and not any(each.in_state for each in record.decision.findings):
            self._counts[fingerprint] = self._counts.pop(fingerprint, 0) + 1
            while len(self._counts) > MOST:
                del self._counts[next(iter(self._counts))]

    def admits(self, batch: Any) -> bool:
        """False for a batch that was found bad `TIMES` times; the next time it is tried again."""
        if not self._counts:
            return True
        fingerprint = float(take_fingerprint(batch)[0])
        if self._counts.get(fingerprint, 0) < TIMES:
            return True
        self._counts[fingerprint] -= 1
        return False

    def state_dict(self) -> dict[float, int]:
        """Fingerprints and counts."""
        return dict(self._counts)

    def load_state_dict(self, state: Mapping[float, int]) -> None:
        """Take over what another one counted."""
        self._counts = dict(state)
