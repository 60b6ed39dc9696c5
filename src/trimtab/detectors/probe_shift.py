"""A probe whose level went stale."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.detectors.innovation import METRIC, SHIFTED, find_shift
from trimtab.history import History
from trimtab.types import STATE_STEP, Breach


@detector("probe-shift", severity="low", needs=STATE_STEP)
def find_probe_shift(history: History) -> Iterator[Breach]:
    """The probe finds a state that it has accepted far above the level.

    What it sees:
        A state that is measured again before any update, since it was restored or an update was skipped, was accepted
        before, and measures more than 1.25 times the median of the newest 5 accepted measurements.
    Why it matters:
        The state is one that is good to go on from, so what the probe measures has changed: its data, its targets, or
        the task. What it accepted earlier says nothing of what to expect now, and innovation begins anew with this
        measurement. Without that, every later update would be undone for a reference that went stale.
    Stays silent:
        On all other steps.
    Settings:
        None.
    Default response:
        None; it is advisory, and the record of the re-basing.
    """
    shift = find_shift(history) if METRIC in history.newest.values else None
    if shift is not None:
        level, now = shift
        message = (
            f"a state that was accepted measures {now:.4g} now, where {level:.4g} is expected, so the probe itself has "
            "changed; it is expected at the new level from here on"
        )
        yield Breach(metric=STATE_STEP, value=now, limit=SHIFTED * level, expected=level, message=message)
