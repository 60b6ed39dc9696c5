"""A probe that measures the same state otherwise than before."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.detectors.innovation import find_shift
from trimtab.history import History
from trimtab.types import STATE_STEP, Breach


@detector("probe-shift", severity="low", needs=STATE_STEP)
def find_probe_shift(history: History) -> Iterator[Breach]:
    """The probe measures a restored state worse than when it accepted it.

    What it sees:
        A state that is measured again before any update, since it was restored or an update was skipped, and whose
        measurement is higher than when it was accepted.
    Why it matters:
        The state is the same, so what the probe measures has changed: its data, its targets, or the task. What it
        accepted earlier says nothing of what to expect now, and innovation begins anew with this measurement.
        Without that, every later update would be undone for a reference that went stale.
    Stays silent:
        On all other steps.
    Settings:
        None.
    Default response:
        None; it is advisory, and the record of the re-basing.
    """
    shift = find_shift(history)
    if shift is not None:
        before, now = shift
        message = (
            f"the restored state measured {before:.4g} when it was accepted and {now:.4g} now, so the probe itself has "
            "changed; it is expected at the new level from here on"
        )
        yield Breach(metric=STATE_STEP, value=now, limit=before, expected=before, message=message)
