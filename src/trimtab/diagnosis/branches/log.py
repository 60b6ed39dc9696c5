"""Is the log itself sound? What was repeated, restarted or lost is put right first, and said."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.tree import Answer, Cause, Unmeasured, cause

MUCH = 0.05
"""The share of records beyond which trouble with the record is worth a cause; less is put right and noted."""

MANY_RESTARTS = 3
"""Restarts from which a job is one that does not get on by itself."""


@cause("repeated-records", question="log")
def find_repeated_records(evidence: Evidence) -> Iterator[Answer]:
    """Records of the same step are in the log more than once.

    What it sees:
        More than 5 % of the records hold a step and a metric that another one holds too, without the steps having
        gone back. The last of them counts.
    Why it matters:
        Several processes write one log, usually all ranks of a distributed run; every number is then one rank's own.
    """
    num_repeated, num_records = _count_repeated(evidence)
    if num_repeated > MUCH * max(num_records, 1):
        yield Cause(
            confidence=0.9,
            step=0,
            evidence=(f"{num_repeated} of {num_records} records repeat a step; the last was kept",),
            fix="write the log on one rank alone: `if torch.distributed.get_rank() == 0: logger.log(...)`",
            alternative="a job that was started twice with the same folder",
        )


def _count_repeated(evidence: Evidence) -> tuple[int, int]:
    """How many records repeat a step, by the record itself or by what its reader has counted, and of how many."""
    repairs = evidence.repairs
    num_duplicates = int(evidence.manifest.get("num_duplicates", 0))
    if repairs.num_repeated or not num_duplicates:
        return repairs.num_repeated, repairs.num_records
    return num_duplicates, max(int(evidence.manifest.get("num_entries", 0)), num_duplicates)


@cause("restarted-log", question="log")
def find_restarts(evidence: Evidence) -> Iterator[Answer]:
    """The steps go back again and again: the job was restarted many times.

    What it sees:
        At least three places where the step is lower than the one before. What was done again counts once. Fewer
        restarts are put right and noted, since a job that is resumed is sound.
    Why it matters:
        A job that falls over again and again loses what it did since its last checkpoint each time.
    """
    restarts = evidence.repairs.restarts
    num = max(len(restarts), int(evidence.manifest.get("num_restarts", 0)))
    if num >= MANY_RESTARTS:
        told = ", ".join(f"from {before} back to {after}" for before, after in restarts)
        yield Cause(
            confidence=0.8,
            step=restarts[0][1] if restarts else 0,
            evidence=(f"the steps went back {num} times or more{': ' * bool(told)}{told}",),
            fix="find out what ends the job (memory, time limit, a lost worker); keep more checkpoints until then",
            alternative="several runs written into one file; give each a file of its own",
        )


@cause("gaps-in-log", question="log")
def find_gaps(evidence: Evidence) -> Iterator[Answer]:
    """Records are missing from the log.

    What it sees:
        Distances between records more than three times the usual one that sum up to more than 5 % of all records.
    Why it matters:
        What happened there cannot be judged, and a curve drawn across a gap hides it.
    """
    repairs = evidence.repairs
    if repairs.num_missing > MUCH * max(repairs.num_records, 1):
        told = ", ".join(f"between {before} and {after}" for before, after in repairs.gaps)
        yield Cause(
            confidence=0.8,
            step=repairs.gaps[0][0],
            evidence=(f"about {repairs.num_missing} records are missing, {told}",),
            fix="look whether the disk was full or the logger dropped records there; flush after every record",
        )


@cause("loss-not-recorded", question="log")
def find_missing_loss(evidence: Evidence) -> Iterator[Answer]:
    """The log holds no loss.

    What it sees:
        No metric named `loss`, neither at steps nor at reviews. Without it the training itself is not judged.
    """
    if not len(evidence.metric("loss")):
        yield Unmeasured("loss", "name the column it is in: `trimtab diagnose LOG --map THEIRS=loss`")
