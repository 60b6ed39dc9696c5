"""What a diagnosis rests on: each metric as a series of steps and numbers, and what was found, decided and done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from trimtab.types import LEVEL_STEP, Action, Decision, Finding

Fact = TypeVar("Fact")

EMPTY_STEPS: NDArray[np.int64] = np.empty(0, dtype=np.int64)

ADVERSARIAL = ("loss_d", "loss_g", "d_loss", "g_loss", "disc", "generator", "critic", "adversarial", "_adv")
"""What the names of losses that fight each other hold; no single one of them says how the training is."""


MOST_NOTES = 6
"""Different notes of an episode that are told."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A metric at the steps at which it was measured, oldest first, each step once."""

    steps: NDArray[np.int64]
    """The steps; shape (rows,)."""

    values: NDArray[np.float64]
    """The numbers, NaN and infinities included; shape (rows,) or (rows, groups)."""

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def finite(self) -> Series:
        """Only what is finite, in all groups."""
        kept: NDArray[np.bool_] = np.isfinite(self.values)
        return self.take(kept if kept.ndim == 1 else kept.all(axis=1))  # type: ignore[arg-type]  # an array

    def take(self, rows: NDArray[Any] | slice) -> Series:
        """Some of the rows."""
        return Series(self.steps[rows], self.values[rows])

    def between(self, first: float, last: float) -> Series:
        """What was measured from one step to another, both included."""
        ends = np.searchsorted(self.steps, [first, last + 1])
        return self.take(slice(int(ends[0]), int(ends[1])))

    def newest_before(self, step: int, num: int) -> Series:
        """The newest `num` rows before a step."""
        end = int(np.searchsorted(self.steps, step))
        return self.take(slice(max(end - num, 0), end))

    def look_up(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """The numbers at some steps, NaN where there is none; only of a metric with one number a step."""
        found = np.full(len(steps), np.nan)
        if len(self):
            places = np.minimum(np.searchsorted(self.steps, steps), len(self) - 1)
            there = self.steps[places] == steps
            found[there] = self.values[places[there]]
        return found

    def at(self, step: int) -> float:
        """The number at a step; NaN if there is none."""
        return float(self.look_up(np.array([step], dtype=np.int64))[0])


NOTHING = Series(EMPTY_STEPS, np.empty(0))
"""The series of a metric that was never measured."""


@dataclass(frozen=True, slots=True)
class Repairs:
    """What was wrong with the record itself, and was put right before anything was judged."""

    num_repeated: int = 0
    """Records of a step that held again what an earlier one held; the last was kept."""

    restarts: tuple[tuple[int, int], ...] = ()
    """Where the steps went back: the step before, and the one it went back to. What was done twice counts once."""

    gaps: tuple[tuple[int, int], ...] = ()
    """The steps before and after each gap: more than three times the usual distance between two records."""

    num_missing: int = 0
    """Records that the gaps lack."""

    num_records: int = 0
    """Records of steps that were read."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """All that is known of a run."""

    metrics: Mapping[str, Series]
    """The metrics of steps, by name."""

    reviews: Mapping[str, Series] = field(default_factory=dict)
    """The metrics of reviews, by name."""

    groups: tuple[str, ...] = ()
    """The names of the parameter groups."""

    findings: tuple[Finding, ...] = ()
    """What the detectors found, in order: when the run took place, or now."""

    decided: tuple[tuple[Decision, Action], ...] = ()
    """The decisions that had findings, with what was done; empty for another tool's log."""

    events: Sequence[Mapping[str, Any]] = ()
    """The other events of a run folder."""

    manifest: Mapping[str, Any] = field(default_factory=dict)
    """What is known of how the run was started."""

    notes: tuple[str, ...] = ()
    """What the reader of the log had to say."""

    repairs: Repairs = field(default_factory=Repairs)
    """What was wrong with the record itself."""

    _facts: dict[Any, Any] = field(default_factory=dict)

    def metric(self, *names: str) -> Series:
        """The series of the first of some metrics that was measured at steps; empty if none was."""
        return next((self.metrics[name] for name in names if name in self.metrics), NOTHING)

    def review(self, *names: str) -> Series:
        """The series of the first of some metrics that was measured at reviews, or else at steps."""
        return next((self.reviews[name] for name in names if name in self.reviews), self.metric(*names))

    def ask(self, judge: Callable[[Evidence], Fact]) -> Fact:
        """What a pure function says of this evidence, computed once."""
        if judge not in self._facts:
            self._facts[judge] = judge(self)
        return cast("Fact", self._facts[judge])

    def found_by(self, *names: str) -> list[Finding]:
        """The findings of some detectors, in order."""
        return [each for each in self.findings if each.detector in names]

    @property
    def loss(self) -> Series:
        """The finite losses of the steps whose update went ahead, since the loss was last changed on purpose."""
        return self.ask(_select_loss)

    @property
    def loss_changes(self) -> NDArray[np.int64]:
        """The first steps of another loss, such as one with other weights, where the loop or a guard said so."""
        levels = self.metric(LEVEL_STEP)
        return levels.steps[levels.values < 0]

    @property
    def last_step(self) -> int:
        """The last step that is recorded; 0 without any."""
        return max((int(each.steps[-1]) for each in self.metrics.values() if len(each)), default=0)

    @property
    def regime(self) -> str:
        """The lowest precision that is known of: float16, bfloat16, float32, or empty where nothing says."""
        return self.ask(_tell_regime)

    @property
    def is_halted(self) -> bool:
        """True if a supervisor ended the run."""
        ends = [each for each in self.events if each.get("event") == "end"]
        return bool(ends) and ends[-1].get("status") == "halted"

    @property
    def is_adversarial(self) -> bool:
        """True if losses that fight each other were recorded."""
        return sum(any(sign in name.lower() for sign in ADVERSARIAL) for name in self.metrics) >= 2

    def was_answered(self, step: int) -> bool:
        """True if something was done about what was found at a step."""
        return step in self.ask(_list_answered)

    def note_at(self, first: int, last: int) -> str:
        """What was noted of the actions from one step to another: of each kind of note, named before a colon, one."""
        noted = (action.note for decision, action in self.decided if first <= decision.step <= last and action.note)
        kept: dict[str, str] = {}
        for part in (part for note in noted for part in note.split("; ")):
            kind = part if part.startswith("cause: ") else part.partition(": ")[0]
            kept.setdefault(kind, part)
        return "; ".join(list(kept.values())[:MOST_NOTES])


def _select_loss(evidence: Evidence) -> Series:
    losses = evidence.metric("loss").finite
    if len(evidence.loss_changes):
        losses = losses.take(losses.steps >= evidence.loss_changes[-1])
    rejected = {action.step or decision.step for decision, action in evidence.decided if action.verdict not in KEPT}
    if not rejected:
        return losses
    return losses.take(~np.isin(losses.steps, np.array(sorted(rejected), dtype=np.int64)))


KEPT = ("proceed", "clip", "drop")
"""The verdicts with which an update goes ahead."""


def _list_answered(evidence: Evidence) -> frozenset[int]:
    return frozenset(decision.step for decision, action in evidence.decided if action.verdict != "proceed")


FLAGS = {"fp16": "float16", "bf16": "bfloat16", "half": "float16"}
"""What trainers call their switches for lower precision."""


def _tell_regime(evidence: Evidence) -> str:
    manifest = evidence.manifest
    said = [str(each) for name in ("dtypes", "dtype", "precision") for each in _as_list(manifest.get(name))]
    said += [dtype for flag, dtype in FLAGS.items() if manifest.get(flag) in (True, "True", "true", 1)]
    text = " ".join(said).replace("bf16", "bfloat16")
    if "bfloat16" in text:
        return "bfloat16"
    text = text.replace("fp16", "float16").replace("16-mixed", "float16")
    if "float16" in text or len(evidence.metric("loss_scale").finite):
        return "float16"
    return "float32" if "32" in text else ""


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else () if value is None else (value,)
