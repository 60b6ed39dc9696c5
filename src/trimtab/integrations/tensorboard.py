"""TensorBoard: a run as event files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.integrations.tracking import (
    Attempts,
    Cadence,
    import_extra,
    list_groupwise,
    name_metrics,
    tell_record,
    validate_every,
)
from trimtab.journal import Tracker
from trimtab.types import Record


class TensorBoardTracker(Tracker):
    """Writes a run into a folder of TensorBoard's: curves, histograms over the groups, and findings as text.

    Each attempt of the run is a run of its own there, from the second on in a folder `attempt-2` and so forth, so that
    what a rollback undid is neither joined to what came after nor lost. Numbers that are not finite are kept as such.

    Args:
        folder: the folder; if one is there already, the run is a further attempt in it.
        every: steps from one that is written to the next; those with findings are all written.
        histograms_every: the same for the histograms.

    Raises:
        InputError: if the package tensorboard is missing, or an option is out of range.
    """

    def __init__(self, folder: str | Path, *, every: int = 1, histograms_every: int = 100) -> None:
        validate_every("TensorBoardTracker", every=every, histograms_every=histograms_every)
        import_extra("tensorboard", who="TensorBoardTracker")
        self._folder, self._cadence = Path(folder), Cadence(every, histograms_every)
        self._attempts = Attempts()
        self._writer: Any = None

    def open(self, manifest: Mapping[str, Any]) -> None:
        """Begin, after the attempts that are there already."""
        while self._writer is None and any(self._find_folder().glob("*tfevents*")):
            self._attempts.number += 1

    def write(self, record: Record) -> None:
        """Take one step or review."""
        step, begins = record.measurement.step, self._attempts.count(record)
        if begins or self._writer is None:
            self._begin_attempt(step)
        if not self._cadence.is_due(record):
            return
        for name, value in name_metrics(record).items():
            self._writer.add_scalar(name, value, step)
        if self._cadence.are_groups_due(record):
            for name, values in list_groupwise(record).items():
                finite = [each for each in values if math.isfinite(each)]
                if finite:
                    self._writer.add_histogram(f"groups/{name}", np.array(finite), step)
        if record.decision.findings:
            self._writer.add_text("findings", " — ".join(tell_record(record)), step)

    def flush(self) -> None:
        """Have everything on disk."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()

    def _begin_attempt(self, step: int) -> None:
        self.close()
        writer = import_extra("tensorboard", "torch.utils.tensorboard", who="TensorBoardTracker").SummaryWriter
        self._writer = writer(str(self._find_folder()))
        if self._attempts.why:
            self._writer.add_text("attempt", self._attempts.why, step)

    def _find_folder(self) -> Path:
        """The folder of the attempt at hand."""
        return self._folder if self._attempts.number == 1 else self._folder / f"attempt-{self._attempts.number}"
