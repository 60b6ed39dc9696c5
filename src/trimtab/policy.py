"""The policy: one table of detectors, their settings and their ladders, and the pure function that decides by it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import inf, isfinite, isnan
from pathlib import Path
from typing import Any

from trimtab.detectors import detectors
from trimtab.errors import PolicyError
from trimtab.history import CAPACITY
from trimtab.types import ADJUSTMENTS, GROUPWISE, VERDICTS, Clock, Decision, Finding, Response

STATE_VERDICTS = VERDICTS[VERDICTS.index("rollback") :]
"""The verdicts that mend a state; dropping the update at hand does not."""

KINDS = (*VERDICTS[1:], "clip-by-value", *(kind for kind in ADJUSTMENTS if kind != "thaw"))
"""What a rung of a ladder may ask for. Thawing is not among them: a freeze ends by itself, or by hand."""

LEDGER_CAPACITY = 1024
"""Decisions with findings that are kept; budgets look back over far fewer steps."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "three-tier": {
        "detectors": {
            "group-spike": {"above": 1e4, "times": 0.0},
            "group-explosion": {"above": 1e6, "times": 0.0},
        }
    },
}
"""Named policies, each a table over the default. `three-tier`: a group whose gradient norm is above 1e4 is clipped,
above 1e6 dropped, and after three drops frozen, whatever its own level is."""

DEFAULT_LADDERS: Mapping[str, tuple[str, ...]] = {
    "nonfinite": ("skip", "rollback+repair", "skip", "halt"),
    "loss-spike": ("skip", "rollback", "skip", "halt"),
    "gradient-spike": ("clip",),
    "group-explosion": ("drop", "drop", "drop+freeze"),
    "group-spike": ("clip",),
}
"""The detectors that act by default; every other one is advisory until a benchmark has argued for it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy says of one detector."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """The detector's settings that differ from its defaults."""

    ladder: tuple[str, ...] = ()
    """Its responses, climbed one rung per step of an episode; empty for an advisory detector. A rung is a verdict, an
    adjustment, or several joined by `+`, such as `"rollback+cool"`."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The one configuration object: a table of detectors, validated when it is built.

    Raises:
        PolicyError: if it names an unknown detector, setting or response, or a number is out of range.
    """

    plans: Mapping[str, Plan] = field(default_factory=dict)
    """Detector to its plan; a detector that is not named is not asked."""

    memory: int = 5
    """Steps without an acting finding after which an episode is over and ladders start again."""

    horizon: int = 100
    """Steps over which the budgets below are counted."""

    max_skips: int = 50
    """Skipped updates within `horizon`; one more halts, where the ladder ends in `halt`."""

    max_rollbacks: int = 3
    """Rollbacks within `horizon`; one more halts, where the ladder ends in `halt`."""

    snapshot_every: int = 8
    """Steps between snapshots. With `probation` it bounds what a rollback loses: at most
    `snapshot_every + probation` updates, the one at hand included, where the steps before it were clean."""

    probation: int = 2
    """Steps without a finding after which a snapshot is proven."""

    cool_factor: float = 0.1
    """What `cool` multiplies the learning rate by."""

    cool_steps: int = 20
    """For how many steps `cool` holds, before a ramp of the same length leads back."""

    freeze_steps: int = 200
    """For how many steps `freeze` holds. A group that explodes again after it is thawed is frozen again."""

    clip_value: float = 100.0
    """The largest magnitude that `clip-by-value` leaves in a gradient."""

    rescale_factor: float = 0.125
    """What `rescale` multiplies the loss scale by; a power of two leaves every gradient bit-equal."""

    def __post_init__(self) -> None:
        for name, plan in self.plans.items():
            _validate_plan(name, plan)
        for each in fields(self)[1:]:
            value = getattr(self, each.name)
            _validate_number("policy", each.name, value, each.default)
            if not value > 0:
                raise PolicyError(f"policy: {each.name} is {value!r}; it has to be above 0")
        if self.horizon > LEDGER_CAPACITY:
            raise PolicyError(f"policy: horizon is {self.horizon}; it has to be at most {LEDGER_CAPACITY}")
        for name in ("cool_factor", "rescale_factor"):
            if not getattr(self, name) <= 1:
                raise PolicyError(f"policy: {name} is {getattr(self, name)!r}; it has to be at most 1")
        if self.probation > self.snapshot_every:
            raise PolicyError(
                f"policy: probation is {self.probation}; it has to be at most snapshot_every, {self.snapshot_every}, "
                "or no snapshot would be proven before the next is taken"
            )

    @classmethod
    def default(cls) -> Policy:
        """The default policy: every detector is asked, and few, well-proven ones act."""
        return cls({name: Plan(ladder=DEFAULT_LADDERS.get(name, ())) for name in sorted(detectors)})

    @classmethod
    def observe(cls) -> Policy:
        """The policy that finds and records everything and does nothing."""
        return cls({name: Plan() for name in sorted(detectors)})

    @classmethod
    def preset(cls, name: str) -> Policy:
        """A named policy, such as `Policy.preset("three-tier")`.

        Raises:
            PolicyError: if there is none of that name.
        """
        _require_known("policy", "preset", name, sorted(PRESETS))
        return cls.from_dict(PRESETS[name])

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Policy:
        """The default policy with the entries of a table laid over it.

        Args:
            table: policy numbers by name, and under `detectors` one table per detector: its settings, its `ladder`
                (a list of rungs; an empty one makes it advisory), or `enabled = false`.

        Raises:
            PolicyError: if the table names something unknown.
        """
        plans = dict(cls.default().plans)
        known = [each.name for each in fields(cls)[1:]]
        entries = table.get("detectors", {})
        if not isinstance(entries, Mapping):
            raise PolicyError(f"policy: detectors is {entries!r}; it has to be a table of detectors")
        for name, entry in entries.items():
            _require_known("policy", "detector", name, sorted(detectors))
            if not isinstance(entry, Mapping):
                raise PolicyError(f"policy: {name} is {entry!r}; it has to be a table of settings")
            plans[name] = _overlay(name, plans[name], entry)
            if not entry.get("enabled", True):
                del plans[name]
        numbers = {name: value for name, value in table.items() if name != "detectors"}
        for name in numbers:
            _require_known("policy", "setting", name, ["detectors", *known])
        return cls(plans, **numbers)

    @classmethod
    def from_toml(cls, path: str | Path) -> Policy:
        """The default policy with the entries of a TOML file laid over it; the table is that of `from_dict`.

        Raises:
            PolicyError: if the file cannot be read, is no TOML or names something unknown.
        """
        try:
            return cls.from_dict(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise PolicyError(f"policy: {str(path)!r} cannot be read: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise PolicyError(f"policy: {str(path)!r} is not valid TOML: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The whole table, such that `Policy.from_dict(policy.to_dict()) == policy`."""
        table: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)[1:]}
        table["detectors"] = {name: {"enabled": False} for name in sorted(detectors.keys() - self.plans.keys())}
        for name, plan in self.plans.items():
            table["detectors"][name] = {**plan.settings, "ladder": list(plan.ladder)}
        return table

    @property
    def settings(self) -> dict[str, Mapping[str, Any]]:
        """Detector to its settings: what `detect` asks for."""
        return {name: plan.settings for name, plan in self.plans.items()}


def decide(
    findings: Sequence[Finding], ledger: Sequence[Decision], policy: Policy, *, step: int, clock: Clock = "step"
) -> Decision:
    """Answer the findings of one step.

    Each acting finding climbs its detector's ladder by one rung per step of the episode, the strongest verdict wins,
    and adjustments stand beside it. The last rung before `halt` is held until the episode is over or a budget is
    spent; then comes `halt`. Where a finding lies in the state itself, the rungs that only drop the update at hand
    are left out. On a review there is no update at hand, so such rungs are advisory there.

    Args:
        findings: what was found at this step.
        ledger: earlier decisions that had findings, oldest first.
        policy: the table.
        step: the step that is judged.
        clock: which clock ticked.
    """
    if not findings:
        return Decision(step, clock=clock)
    past = [decision for decision in ledger if decision.clock == clock and decision.step > step - policy.horizon]
    rungs = [(finding, _choose_rung(finding, past, policy, step)) for finding in findings]
    asked = [(each, rung) for each, rung in rungs if clock == "step" or _mends_state(rung)]
    verdicts = [(finding, response) for finding, rung in asked for response in rung if response.kind in VERDICTS]
    chosen = _choose_verdicts(verdicts)
    adjustments = [response for _, rung in asked for response in rung if response.kind in ADJUSTMENTS]
    responses = tuple(dict.fromkeys([*chosen, *adjustments]))
    verdict = chosen[0].kind if chosen else "proceed"
    return Decision(step, verdict, responses, tuple(findings), _explain(findings, responses), clock)


def _choose_verdicts(asked: Sequence[tuple[Finding, Response]]) -> list[Response]:
    """The strongest verdict, first. If that is to clip or drop, every group has its own, and may be clipped with all.

    All gradients together are not clipped where each group suspected of it is answered for by itself: that would
    change the others too.
    """
    strongest = max((VERDICTS.index(response.kind) for _, response in asked), default=0)
    if VERDICTS[strongest] not in GROUPWISE:
        return [response for _, response in asked if response.kind == VERDICTS[strongest]][:1] if strongest else []
    dropped = {group for _, response in asked if response.kind == "drop" for group in response.groups}
    clips = [
        (finding, response)
        for finding, response in asked
        if response.kind == "clip" and not (response.groups and dropped.issuperset(response.groups))
    ]
    answered = dropped.union(*(response.groups for _, response in clips))
    lowest: dict[tuple[bool, tuple[str, ...], bool], Response] = {}
    for finding, response in clips:
        if response.groups or not finding.groups or not answered.issuperset(finding.groups):
            key = (not response.groups, response.groups, response.by_value)
            lowest[key] = min(lowest.get(key, response), response, key=_limit_of)
    drops = [Response("drop", groups=tuple(sorted(dropped)))] if dropped else []
    return drops + [lowest[key] for key in sorted(lowest)]


def _limit_of(response: Response) -> float:
    return inf if response.limit is None else response.limit


def _choose_rung(finding: Finding, past: Sequence[Decision], policy: Policy, step: int) -> tuple[Response, ...]:
    ladder = policy.plans[finding.detector].ladder
    if finding.in_state:
        ladder = tuple(rung for rung in ladder if {*rung.split("+")}.intersection(STATE_VERDICTS)) or ladder
    if not ladder:
        return ()

    def is_same(decision: Decision) -> bool:
        return any(_is_same_trouble(each, finding) for each in decision.findings)

    episode = _episode([each for each in past if each.doubts_state or is_same(each)], policy, step)
    climbed = sum(map(is_same, episode))
    ends = "halt" in ladder[-1].split("+")
    held = len(ladder) - 2 if ends and len(ladder) > 1 else len(ladder) - 1
    rung = ladder[min(climbed, held)]
    if ends and _is_spent(rung, past, policy):
        rung = ladder[-1]
    return tuple(_respond(kind, finding, policy) for kind in rung.split("+"))


def _is_same_trouble(before: Finding, now: Finding) -> bool:
    """True if both climb the same ladder; each group has its own where a metric is judged by group."""
    is_same = before.detector == now.detector and before.in_state == now.in_state
    return is_same and (before.groups == now.groups or "group_grad_norm" not in (before.metric, now.metric))


def _episode(past: Sequence[Decision], policy: Policy, step: int) -> list[Decision]:
    """The acting decisions of the episode that this step belongs to."""
    episode: list[Decision] = []
    for decision in reversed(past):
        if not decision.responses:
            continue
        if step - decision.step > policy.memory:
            break
        episode.append(decision)
        step = decision.step
    return episode


def _is_spent(rung: str, past: Iterable[Decision], policy: Policy) -> bool:
    verdicts = [decision.verdict for decision in past]
    kinds = rung.split("+")
    return ("skip" in kinds and verdicts.count("skip") >= policy.max_skips) or (
        "rollback" in kinds and verdicts.count("rollback") >= policy.max_rollbacks
    )


def _respond(kind: str, finding: Finding, policy: Policy) -> Response:
    groups = finding.groups if finding.metric == "group_grad_norm" else ()
    if kind == "clip":
        limit = finding.limit if finding.expected is None else finding.expected
        is_norm = finding.metric in ("grad_norm", "group_grad_norm") and isfinite(limit)
        return Response("clip", groups, limit=limit if is_norm else None)
    if kind == "clip-by-value":
        if isnan(finding.value):  # clamping leaves NaN as it is
            return Response("skip")
        return Response("clip", groups, limit=policy.clip_value, by_value=True)
    if kind == "drop":
        return Response("drop", finding.groups) if finding.groups else Response("skip")
    if kind == "freeze":
        return Response("freeze", finding.groups, num_steps=policy.freeze_steps) if finding.groups else Response("skip")
    if kind == "cool":
        return Response("cool", factor=policy.cool_factor, num_steps=policy.cool_steps)
    if kind == "rescale":
        return Response("rescale", factor=policy.rescale_factor)
    return Response(kind)


def _explain(findings: Sequence[Finding], responses: Sequence[Response]) -> str:
    found = "; ".join(f"{finding.detector}: {finding.message}" for finding in findings)
    done = " + ".join(" ".join(filter(None, [each.kind, ", ".join(each.groups)])) for each in responses)
    return f"{found} → {done or 'recorded only'}"


def _mends_state(rung: Iterable[Response]) -> bool:
    return any(response.kind in STATE_VERDICTS for response in rung)


def _validate_plan(name: str, plan: Plan) -> None:
    _require_known("policy", "detector", name, sorted(detectors))
    known = detectors[name].settings
    for setting, value in plan.settings.items():
        _require_known(name, "setting", setting, sorted(known))
        _validate_number(name, setting, value, known[setting])
        if value < 0:
            raise PolicyError(f"{name}: {setting} is {value!r}; it has to be 0 or above")
        if setting in ("window", "warmup") and not 4 <= value <= CAPACITY:
            raise PolicyError(
                f"{name}: {setting} is {value!r}; it has to be from 4 to {CAPACITY}, what a history holds"
            )
    _validate_ladder(f"{name}: its ladder", plan.ladder)
    for rung in plan.ladder:
        for kind in rung.split("+"):
            _require_known(name, "response", kind, KINDS)
    for rung in plan.ladder[:-1]:
        if "halt" in rung.split("+"):
            raise PolicyError(f"{name}: its ladder goes on after {rung!r}; 'halt' has to be the last rung")


def _validate_ladder(who: str, ladder: Any) -> None:
    if not isinstance(ladder, (list, tuple)) or not all(isinstance(rung, str) for rung in ladder):
        raise PolicyError(f"{who} is {ladder!r}; it has to be a list of rungs such as ['skip', 'halt']")


def _validate_number(who: str, name: str, value: Any, default: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PolicyError(f"{who}: {name} is {value!r}; it has to be a number like its default {default!r}")
    if not isfinite(value):
        raise PolicyError(f"{who}: {name} is {value!r}; it has to be a finite number")
    if isinstance(default, int) and not isinstance(value, int):
        raise PolicyError(f"{who}: {name} is {value!r}; it has to be a whole number like its default {default!r}")


def _require_known(who: str, kind: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise PolicyError(f"{who} has no {kind} {name!r}; it has {', '.join(known) or 'none'}")


def _overlay(name: str, plan: Plan, entry: Mapping[str, Any]) -> Plan:
    ladder = entry.get("ladder", plan.ladder)
    _validate_ladder(f"{name}: its ladder", ladder)
    settings = {key: value for key, value in entry.items() if key not in ("ladder", "enabled")}
    return replace(plan, ladder=tuple(ladder), settings={**plan.settings, **settings})
