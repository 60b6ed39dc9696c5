"""From a recorded run or another tool's log to a diagnosis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

import trimtab.diagnosis.branches  # noqa: F401  fills the registry
from trimtab.diagnosis.adaptations import tell_adaptations
from trimtab.diagnosis.bouts import find_bouts
from trimtab.diagnosis.curves import LEAST_ROWS
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.folder import gather_run
from trimtab.diagnosis.gather import gather_values, replay_detectors
from trimtab.diagnosis.patterns import PATTERNS, Pattern, name_pattern
from trimtab.diagnosis.rest import find_rest
from trimtab.diagnosis.result import Diagnosis, Verdict
from trimtab.diagnosis.stuck import LEAST_RECORDS, LEAST_REVIEWS
from trimtab.diagnosis.tree import REMEDIES, Walk, walk_tree
from trimtab.journal import MANIFEST, RunLog
from trimtab.types import Action, Decision, Measurement

if TYPE_CHECKING:
    from trimtab.readers import Log

Run: TypeAlias = "str | Path | RunLog | Log"
"""A run folder, another tool's log, or either of them as it was read."""


BASIC = ("grad_norm", "learning_rate")
"""What most causes are told by."""

OWN_FORMAT = "trimtab"
"""The reader of run folders, which hold more than a log."""


def diagnose(run: Run, mapping: Mapping[str, str] | None = None, format: str | None = None) -> Diagnosis:
    """What is the matter with a run: ranked causes, each with its evidence and a fix.

    A run folder is judged by what was found and decided when the run took place; nothing is replayed. In another
    tool's log the detectors look first.

    Args:
        run: a run folder or a log by its path, or as it was read.
        mapping: of another tool's log that is given by its path, their column's name to our metric.
        format: of such a log, the name of its reader; None to recognize it.

    Raises:
        RunFormatError: if it is a run folder that cannot be read.
        InputError: if it is a log that cannot be read.
    """
    return diagnose_evidence(gather(run, mapping, format))


def gather(run: Run, mapping: Mapping[str, str] | None = None, format: str | None = None) -> Evidence:
    """The evidence of a run or a log, with what the detectors find in it.

    Raises:
        RunFormatError: if it is a run folder that cannot be read.
        InputError: if it is a log that cannot be read.
    """
    if isinstance(run, (str, Path)):
        if format is None and (Path(run) / MANIFEST).is_file():
            return gather_run(run)
        from trimtab.readers import read_log

        run = read_log(run, mapping, format)
    if isinstance(run, RunLog):
        events = [event for event in run.events if event.get("event") not in ("decision", "health")]
        return gather_values(run.measurements, run.decided, events, run.manifest)
    if run.format == OWN_FORMAT:
        return replace(gather_run(run.source), notes=run.notes)
    return replay_detectors(gather_values(run.measurements, manifest=run.info, notes=run.notes))


def diagnose_values(
    measurements: Sequence[Measurement],
    decided: Sequence[tuple[Decision, Action]] | None = None,
    events: Sequence[Mapping[str, Any]] = (),
    manifest: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Diagnosis:
    """The same from plain values.

    Args:
        measurements: what was seen, in the order of its recording.
        decided: the decisions with findings and what was done; None where no detector has looked yet, which they then
            do.
        events: the other events of a run.
        manifest: what is known of how the run was started.
        notes: what the reader of the log had to say.
    """
    evidence = gather_values(measurements, decided or (), events, manifest, notes)
    return diagnose_evidence(replay_detectors(evidence) if decided is None else evidence)


@np.errstate(over="ignore", invalid="ignore")  # of numbers near the end of float64 the squares are infinite
def diagnose_evidence(evidence: Evidence) -> Diagnosis:
    """Walk the tree over evidence."""
    walk = walk_tree(evidence)
    pattern = name_pattern(evidence)
    notes = [*_tell_counts(evidence), *evidence.notes, *_tell_repairs(evidence), *_tell_loss_changes(evidence)]
    if pattern is PATTERNS["opposed"]:
        notes.append(pattern.likely)
    losses = evidence.metric("loss", "grad_norm")
    return Diagnosis(
        _judge(evidence, walk),
        walk.causes,
        evidence.findings,
        (*_tell_short(evidence, walk), *_list_unmeasured(evidence, walk)),
        tuple(notes),
        walk.unasked,
        _tell_shape(evidence, pattern),
        _tell_rest(evidence, walk),
        tell_adaptations(evidence.events),
        len(losses),
        evidence.last_step,
        tuple(dict.fromkeys((*evidence.metrics, *evidence.reviews))),
        bool(_tell_short(evidence, walk)),
    )


def _judge(evidence: Evidence, walk: Walk) -> Verdict:
    if evidence.is_halted or any(each.state == "fatal" for each in walk.causes):
        return "failed"
    return "degraded" if walk.causes else "healthy"


def _tell_short(evidence: Evidence, walk: Walk) -> tuple[str, ...]:
    """What a log that is too short for its curve to be judged lacks; nothing where it is not, or is over anyway."""
    num = len(evidence.metric("loss").finite)
    if num >= LEAST_ROWS or not len(evidence.metric("loss")) or any(each.state == "fatal" for each in walk.causes):
        return ()
    return (
        f"a longer log: {num} finite losses are too few to judge a curve by; it takes {LEAST_ROWS}, and for whether "
        f"anything is learned {LEAST_RECORDS}, or one an epoch with {LEAST_REVIEWS} reviews",
    )


def _tell_shape(evidence: Evidence, pattern: Pattern | None) -> str:
    if pattern is None:
        return ""
    is_cut = any(each.state == "fatal" for each in evidence.ask(find_bouts))
    return f"{pattern.shape}, as long as it is finite" if is_cut else pattern.shape


def _tell_rest(evidence: Evidence, walk: Walk) -> str:
    """Whether a run that has come to rest is done; nothing of one that failed."""
    rest = None if any(each.state == "fatal" for each in walk.causes) else find_rest(evidence)
    return "" if rest is None else str(rest)


def _list_unmeasured(evidence: Evidence, walk: Walk) -> Iterator[str]:
    """What was not measured; where no cause was found, that is also what most causes would be told by."""
    yield from walk.not_measured
    told = {line.partition(": ")[0] for line in walk.not_measured}
    if not walk.causes:
        missing = (name for name in BASIC if name not in told and not len(evidence.metric(name)))
        yield from (f"{name}: {REMEDIES[name]}" for name in missing)


def _tell_counts(evidence: Evidence) -> Iterator[str]:
    """What the reader has counted, where it read anything else than records of their own."""
    names = {"num_skipped": "skipped", "num_duplicates": "duplicates", "num_restarts": "restarts"}
    counts = {said: num for name, said in names.items() if (num := int(evidence.manifest.get(name, 0)))}
    if counts:
        told = ", ".join(f"{num} {said if num > 1 else said.removesuffix('s')}" for said, num in counts.items())
        yield f"{evidence.manifest.get('num_entries', 0)} entries read: {told}"


def _tell_repairs(evidence: Evidence) -> Iterator[str]:
    """What was put right in the record, in sentences."""
    repairs = evidence.repairs
    if repairs.num_repeated:
        yield f"{repairs.num_repeated} records repeat a step; the last of each was kept"
    if repairs.restarts:
        told = ", ".join(f"{before} back to {after}" for before, after in repairs.restarts)
        yield f"the run was restarted: the steps went from {told}; what was done again counts once"
    if repairs.num_missing and not any("missing" in note for note in evidence.notes):
        told = ", ".join(f"{before} and {after}" for before, after in repairs.gaps)
        yield f"about {repairs.num_missing} records are missing between steps {told}"
    gaps = [event for event in evidence.events if event.get("event") == "gap"]
    if gaps:
        num = sum(int(event.get("num_lost", 0)) for event in gaps)
        yield f"the journal itself lost {num} records, since it could not be written"


def _tell_loss_changes(evidence: Evidence) -> Iterator[str]:
    """From where on the curve of the loss is judged, where it is not that of one loss."""
    if len(evidence.loss_changes):
        num, newest = len(evidence.loss_changes), evidence.loss_changes[-1]
        times = f"{num} times, the last" if num > 1 else "once,"
        yield f"the loss was changed on purpose {times} at step {newest}: its curve is judged from there on"
