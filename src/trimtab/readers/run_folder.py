"""Trimtab's own run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trimtab.errors import InputError
from trimtab.journal import JOURNAL, MANIFEST, read_run
from trimtab.readers import Log, reader
from trimtab.types import Measurement


def is_run(path: Path) -> bool:
    """True for a folder with a manifest and a journal."""
    return (path / MANIFEST).is_file() and (path / JOURNAL).is_file()


@reader("trimtab", recognizes=is_run)
def read_run_folder(path: Path, names: Mapping[str, str]) -> Log:
    """A run folder that Trimtab wrote, per-group metrics included; its metrics are ours, and no mapping is needed."""
    if names:
        raise InputError(f"mapping: {str(path)!r} is a run folder of Trimtab, whose metrics have their names already")
    run = read_run(path)
    if not run.measurements:
        raise InputError(f"log: {str(path)!r} has no step yet")
    kept, notes = leave_out_abandoned(run.measurements)
    metrics = sorted({metric for each in kept for metric in each.values})
    info = {"tool": "Trimtab", "groups": tuple(run.manifest["groups"]), "num_entries": len(run.measurements)}
    info |= {"num_skipped": 0, "num_duplicates": 0, "num_restarts": len(notes)}
    dtypes = run.manifest.get("dtypes", [])
    if len(dtypes) == 1:
        info["dtype"] = dtypes[0].removeprefix("torch.")
    rates = [value for each in kept if isinstance(value := each.values.get("learning_rate"), float)]
    if rates:
        info["learning_rate"] = max(rates)
    return Log(
        source=str(path),
        format="trimtab",
        measurements=kept,
        notes=tuple(notes),
        columns={metric: metric for metric in metrics},
        info=info,
    )


def leave_out_abandoned(measurements: Sequence[Measurement]) -> tuple[list[Measurement], list[str]]:
    """Measurements by rising step: where a run was resumed from an earlier step, the later ones of before are left out.

    Returns:
        What is kept, and a note for each time the run went back.
    """
    kept: list[Measurement] = []
    notes: list[str] = []
    for each in measurements:
        if each.clock == "step" and kept and kept[-1].step >= each.step:
            notes.append(f"the run went back from step {kept[-1].step} to {each.step}; the later of the two is kept")
            while kept and kept[-1].step >= each.step:
                kept.pop()
        kept.append(each)
    return kept, notes
