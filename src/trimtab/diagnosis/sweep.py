"""What other settings would have found and done in a recorded run: a counterfactual, value by value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.diagnosis.bouts import find_bouts
from trimtab.diagnosis.branches.divergence import find_rise
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.gather import replay_detectors
from trimtab.diagnosis.spikes import find_spikes
from trimtab.diagnosis.walk import OWN_FORMAT, Run, gather
from trimtab.errors import InputError
from trimtab.journal import MANIFEST, RunLog, read_run
from trimtab.policy import Policy
from trimtab.replay import replay_run

NEAR = 8
"""Steps before and after trouble within which a finding is none of a false alarm: detectors judge every 8th step."""


@dataclass(frozen=True, slots=True)
class SweepRow:
    """What one value of a setting would have found and done."""

    value: float
    """The value."""

    num_found: int
    """Steps and reviews with findings of the detector, or of any detector where a number of the policy is changed."""

    num_false: int
    """Those of them where the diagnosis of the run sees no trouble."""

    num_missed: int
    """Stretches of trouble that the diagnosis sees, and no detector of the policy found anything in."""

    first_step: int | None
    """The first step with a finding; None if there is none."""

    verdicts: Mapping[str, int]
    """How often each verdict would have been decided, over all detectors."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def sweep(run: Run, setting: str, values: Sequence[float], policy: Policy | None = None) -> list[SweepRow]:
    """Replay a run under other values of one setting.

    The measurements are those of the run as it went: what follows the first decision that differs is a guess.

    Args:
        run: a run folder or a log by its path, or as it was read.
        setting: a detector's setting, such as `"loss-spike.sigmas"`, or a number of the policy, such as `"memory"`.
        values: the values to try.
        policy: the policy that the setting is changed in; the run's own if None.

    Raises:
        PolicyError: if there is no such setting, or a value is none of its.
        InputError: if the run or the log cannot be read.
    """
    evidence = gather(run)
    if evidence.decided:
        evidence = replay_detectors(evidence)
    log = as_run(run)
    detector, _, name = setting.rpartition(".")
    if not name:
        raise InputError(f"sweep: {setting!r} is no setting; name one such as 'loss-spike.sigmas' or 'memory'")
    base = Policy.from_dict(log.manifest.get("policy", {})) if policy is None else policy
    trouble = _list_trouble(evidence)
    rows = []
    for value in values:
        changed = base.change({"detectors": {detector: {name: value}}} if detector else {name: value})
        rows.append(_judge(log, changed, detector, value, trouble))
    return rows


def _judge(log: RunLog, policy: Policy, detector: str, value: float, trouble: Sequence[tuple[int, int]]) -> SweepRow:
    replayed = [each.replayed for each in replay_run(log, policy) if each.replayed is not None]
    found = [each.step for each in replayed if any(detector in ("", one.detector) for one in each.findings)]
    every = [each.step for each in replayed]
    num_false = sum(not any(first <= step <= last for first, last in trouble) for step in found)
    num_missed = sum(not any(first <= step <= last for step in every) for first, last in trouble)
    verdicts = Counter(each.verdict for each in replayed if each.responses)
    return SweepRow(value, len(found), num_false, num_missed, min(found, default=None), dict(verdicts))


def _list_trouble(evidence: Evidence) -> list[tuple[int, int]]:
    """From where to where the diagnosis sees trouble: numbers that are not finite, spikes, a rise to the end."""
    stretches = [(each.first, each.last) for each in evidence.ask(find_bouts)]
    stretches += [(each.step, each.last) for each in evidence.ask(find_spikes)]
    rise = evidence.ask(find_rise)
    stretches += [(rise.step, rise.last)] if rise is not None else []
    return [(first - NEAR, last + NEAR) for first, last in stretches]


def as_run(run: Run) -> RunLog:
    """A run folder as it was read; a log of another tool as one that has no policy of its own."""
    if isinstance(run, RunLog):
        return run
    if isinstance(run, (str, Path)):
        if (Path(run) / MANIFEST).is_file():
            return read_run(run)
        from trimtab.readers import read_log

        run = read_log(run)
    if run.format == OWN_FORMAT:
        return read_run(run.source)
    return RunLog(Path(run.source), {"groups": run.info.get("groups", ())}, run.measurements, ())
