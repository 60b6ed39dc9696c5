"""The frozen values that walk through Trimtab: numbers and text, never a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Value: TypeAlias = float | tuple[float, ...]
"""One number, or one number per group; NaN and infinity are values."""

Clock: TypeAlias = Literal["step", "review"]
"""Which clock ticked: one optimizer step, or one validation or epoch."""

Severity: TypeAlias = Literal["critical", "high", "medium", "low"]

VERDICTS = ("proceed", "clip", "drop", "skip", "rollback", "reload", "halt")
"""The verdicts on one update, from the weakest to the strongest; of several the strongest wins."""

ADJUSTMENTS = ("cool", "freeze", "repair", "rescale", "reset", "tighten")
"""What may be changed beside any verdict. Thawing is none: a freeze ends by itself, or by hand."""

GROUPWISE = ("clip", "drop")
"""The verdicts with which the update goes ahead; they can be meant for some groups alone."""

RESTORING = ("rollback", "reload")
"""The verdicts that set the run back to an earlier state."""

STATE_STEP = "state_step"
"""The metric that says which state a row measured, where that is not the one after the update of the step before."""

PER_GROUP = frozenset(
    {
        "activation_largest",
        "activation_mean",
        "activation_std",
        "dead_units",
        "group_grad_norm",
        "group_nonfinite",
        "lost_updates",
        "missing_gradients",
        "replica_divergence",
        "saturated_units",
        "update_ratio",
        "weight_norm",
        "zero_units",
    }
)
"""The metrics that are one number per parameter group, as the probes measure them, for those who know no probes."""

LEVEL_STEP = "level_step"
"""The metric that says that what was measured after a step is no sample any more: the loss or the weights were changed
on purpose; -1 for all that was measured."""

LEVELLED = ("loss", "grad_norm", "group_grad_norm", "probe_loss")
"""The metrics whose level detectors rest on; a row with a finding on one of them is no sample."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was seen at one step or review."""

    step: int
    """The optimizer step it belongs to, counted by the supervisor from 1."""

    values: Mapping[str, Value]
    """Metric to number, or to one number per group in the order of the run's groups. A metric that was not
    measured at this step is absent."""

    clock: Clock = "step"
    """Which clock ticked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """What a detector yields: a metric beyond its limit."""

    metric: str
    """The metric that is beyond its limit."""

    value: float
    """Its value, in the metric's unit."""

    limit: float
    """The limit it broke, in the metric's unit; NaN where no number is the limit, as for a non-finite value."""

    message: str
    """One sentence for a person: what was seen, and against what."""

    expected: float | None = None
    """The level the metric was expected at, in its unit; what `clip` scales down to. None where there is none."""

    groups: tuple[str, ...] = ()
    """The groups under suspicion, the most suspect first."""

    rows: tuple[int, ...] = ()
    """The rows of data under suspicion."""

    since: int | None = None
    """The step at which it began, where that was earlier; a reload goes back to before it."""

    in_state: bool = False
    """True where the weights or buffers themselves are at fault, so that leaving this update out cannot help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Breach):
    """A breach signed with detector, severity and step."""

    detector: str
    """The name of the detector that found it."""

    severity: Severity
    """How much is at stake; alerts and reports sort by it."""

    step: int
    """The step at which it was found."""


@dataclass(frozen=True, slots=True)
class Response:
    """One way to answer: a verdict on the update, or an adjustment beside it."""

    kind: str
    """One of `VERDICTS` or `ADJUSTMENTS`."""

    groups: tuple[str, ...] = ()
    """The groups it is meant for; empty for all."""

    limit: float | None = None
    """For `clip`: the gradient norm to scale down to, or the largest magnitude where `by_value`; for `tighten`: the
    routine limit of the gradient norm."""

    by_value: bool = False
    """For `clip`: True to clamp every number of the gradients, in place of scaling them down together."""

    factor: float | None = None
    """For `cool`: what the learning rate is multiplied by; for `rescale`: what the loss scale is."""

    num_steps: int | None = None
    """For `cool`: for how many steps, before a ramp of the same length leads back; for `freeze` and `tighten`: for how
    many."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The responses to one step or review, the findings that asked for them, and the reason."""

    step: int
    """The step that was judged."""

    verdict: str = "proceed"
    """The verdict on the update, one of `VERDICTS`."""

    responses: tuple[Response, ...] = ()
    """Every response that was decided, the verdict first. Empty where nothing is to be done."""

    findings: tuple[Finding, ...] = ()
    """What was found, advisory findings included."""

    reason: str = ""
    """Why, in one sentence; empty without findings."""

    clock: Clock = "step"
    """Which clock ticked."""

    is_state_sound: bool = False
    """True if the probe has measured the state at hand, and it was judged, and nothing was found in it."""

    @property
    def proceed(self) -> bool:
        """True if the update at hand goes ahead: whole, clipped, or without some groups."""
        return self.verdict in ("proceed", *GROUPWISE)

    @property
    def doubts_state(self) -> bool:
        """True if it answers for more than single groups, so that no snapshot of this step can be relied on."""
        return any(not response.groups for response in self.responses)


@dataclass(frozen=True, slots=True)
class Change:
    """A number that an action changed."""

    what: str
    """What was changed, such as `"learning_rate"` or a parameter's name."""

    before: float
    """The number before, in the unit of what was changed."""

    after: float
    """The number after."""


@dataclass(frozen=True, slots=True)
class Action:
    """What was done in the end; it may be less than what was decided."""

    step: int
    """The step at which it was done."""

    verdict: str = "proceed"
    """The verdict that was carried out, one of `VERDICTS`."""

    restored_step: int | None = None
    """After a rollback or a reload: the step whose update was the last one kept."""

    num_lost: int = 0
    """How many updates are lost by it: the one at hand, and those a rollback or a reload undid."""

    changes: tuple[Change, ...] = ()
    """Every number that was changed, with before and after."""

    note: str = ""
    """Where less was done than decided, or more is to be known: one sentence."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """An adjustment in force."""

    kind: str
    """One of `ADJUSTMENTS`."""

    since: int
    """The step it was decided at."""

    until: int | None
    """The last step at which it holds fully; None until it is ended. From there a ramp leads a cooling back."""

    factor: float = 1.0
    """For `cool`: what the learning rate is multiplied by."""

    groups: tuple[str, ...] = ()
    """For `freeze`: the groups that are frozen."""

    limit: float | None = None
    """For `tighten`: the routine limit of the gradient norm."""


@dataclass(frozen=True, slots=True)
class Record:
    """All that the run folder keeps of one step or review."""

    measurement: Measurement
    """What was seen."""

    decision: Decision
    """What was decided."""

    action: Action = field(default_factory=lambda: Action(step=0))
    """What was done."""

    @property
    def is_sample(self) -> bool:
        """True if what was seen may serve as a sample: the update went ahead, and nothing was found in its metrics.

        Findings count whether or not they are acted on, so that watching alone finds the same.
        """
        found = any(finding.metric in LEVELLED for finding in self.decision.findings)
        return self.action.verdict == "proceed" and not found

    @property
    def accepts_state(self) -> bool:
        """True if the probe has measured the state at hand, and nothing was found in it."""
        return "probe_loss" in self.measurement.values and not any(each.in_state for each in self.decision.findings)
