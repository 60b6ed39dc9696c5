"""From findings to a decision: a pure function of the table and of what was decided before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, isfinite, isnan

from trimtab.policy.table import Policy
from trimtab.types import (
    ADJUSTMENTS,
    GROUPWISE,
    RESTORING,
    VERDICTS,
    Clock,
    Decision,
    Finding,
    Response,
)

LONG, MORE = 20, 4
"""In so many times as many steps, so many times as many rollbacks are allowed."""

STATE_VERDICTS = VERDICTS[VERDICTS.index("rollback") :]
"""The verdicts that mend a state; dropping the update at hand does not."""


def decide(
    findings: Sequence[Finding],
    ledger: Sequence[Decision],
    policy: Policy,
    *,
    step: int,
    clock: Clock = "step",
    is_state_sound: bool = False,
    is_batch_known: bool = False,
) -> Decision:
    """Answer the findings of one step.

    Each acting finding climbs its detector's ladder by one rung per step of the episode, the strongest verdict wins,
    and adjustments stand beside it. A ladder that skips before it goes back starts again after a clean step: the state
    has then passed another batch, and what breaches now and then is in the data. If a rollback was followed by a clean
    step, the restored state was sound and an update has hurt it again: then too the ladder starts again, within its
    budgets. The last rung before `halt` is held until the episode is over or a budget is spent; then comes `halt`.

    Where a finding lies in the state itself, the rungs that only drop the update at hand are left out. Where the probe
    has just said that the state is sound, or the batch was found bad before, from another state, the batch is to
    blame, and the update is skipped in place of a rollback. On a review there is no update at hand, so such rungs are
    advisory there.

    Args:
        findings: what was found at this step.
        ledger: earlier decisions that had findings, oldest first.
        policy: the table.
        step: the step that is judged.
        clock: which clock ticked.
        is_state_sound: True if the probe has measured the state at this step, and it was judged and found sound.
        is_batch_known: True if the batch was found bad before.
    """
    if not findings:
        return Decision(step, clock=clock, is_state_sound=is_state_sound)
    horizon = max(policy.horizon, LONG * policy.rollback_horizon)
    past = [decision for decision in ledger if decision.clock == clock and decision.step > step - horizon]
    rungs = [(finding, _choose_rung(finding, past, policy, step, clock)) for finding in findings]
    asked = [(each, rung) for each, rung in rungs if clock == "step" or _mends_state(rung)]
    if is_state_sound or is_batch_known:
        asked = [(each, rung if each.in_state else _hold_position(rung)) for each, rung in asked]
    verdicts = [(finding, response) for finding, rung in asked for response in rung if response.kind in VERDICTS]
    chosen = _choose_verdicts(verdicts)
    adjustments = [response for _, rung in asked for response in rung if response.kind in ADJUSTMENTS]
    responses = tuple(dict.fromkeys([*chosen, *adjustments]))
    verdict = chosen[0].kind if chosen else "proceed"
    reason = _explain(findings, responses) + (_tell_budgets(past, policy, step) if verdict == "halt" else "")
    return Decision(step, verdict, responses, tuple(findings), reason, clock, is_state_sound)


def _hold_position(rung: Sequence[Response]) -> tuple[Response, ...]:
    """A rung that would set back a sound state, with a skip in its place."""
    if not any(response.kind in RESTORING for response in rung):
        return tuple(rung)
    return (Response("skip"),)


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


def _choose_rung(
    finding: Finding, past: Sequence[Decision], policy: Policy, step: int, clock: Clock
) -> tuple[Response, ...]:
    ladder = policy.plans[finding.detector].ladder
    if finding.in_state:
        ladder = tuple(rung for rung in ladder if {*rung.split("+")}.intersection(STATE_VERDICTS)) or ladder
    if not ladder:
        return ()

    def is_same(decision: Decision) -> bool:
        return any(_is_same_trouble(each, finding) for each in decision.findings)

    episode: Sequence[Decision] = _episode([each for each in past if each.doubts_state or is_same(each)], policy, step)
    if clock == "step" and _skips_before_restoring(ladder):
        episode = _since_clean(episode, step)
    climbed = sum(map(is_same, _since_mended(episode, step)))
    ends = "halt" in ladder[-1].split("+")
    held = len(ladder) - 2 if ends and len(ladder) > 1 else len(ladder) - 1
    rung = ladder[min(climbed, held)]
    if ends and _is_spent(rung, past, policy, step):
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


def _skips_before_restoring(ladder: Sequence[str]) -> bool:
    first, *later = ({*rung.split("+")} for rung in ladder)
    return "skip" in first and any(rung.intersection(RESTORING) for rung in later)


def _since_clean(episode: Sequence[Decision], step: int) -> Sequence[Decision]:
    """The decisions of an episode, newest first, since its last clean step."""
    return [decision for index, decision in enumerate(episode, start=1) if step - decision.step == index]


def _since_mended(episode: Sequence[Decision], step: int) -> Sequence[Decision]:
    """The decisions of an episode, newest first, since the last rollback, if a clean step has followed it; or all."""
    for index, decision in enumerate(episode):
        if decision.verdict in RESTORING:
            return episode[:index] if step - decision.step - 1 > index else episode
    return episode


def _is_spent(rung: str, past: Sequence[Decision], policy: Policy, step: int) -> bool:
    def count(verdicts: Sequence[str], num_steps: int) -> int:
        return sum(each.verdict in verdicts and each.step > step - num_steps for each in past)

    kinds, long = rung.split("+"), LONG * policy.rollback_horizon
    if "skip" in kinds and count(["skip"], policy.horizon) >= policy.max_skips:
        return True
    if "reload" in kinds and count(["reload"], long) >= policy.max_rollbacks:
        return True
    return not set(RESTORING).isdisjoint(kinds) and (
        count(RESTORING, policy.rollback_horizon) >= policy.max_rollbacks
        or count(RESTORING, long) >= MORE * policy.max_rollbacks
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
    if kind in ("cool", "reset"):
        return Response(kind, factor=policy.cool_factor, num_steps=policy.cool_steps)
    if kind == "rescale":
        return Response("rescale", factor=policy.rescale_factor)
    if kind == "tighten":
        return Response("tighten", limit=policy.tight_norm, num_steps=policy.horizon)
    return Response(kind)


def _explain(findings: Sequence[Finding], responses: Sequence[Response]) -> str:
    found = "; ".join(f"{finding.detector}: {finding.message}" for finding in findings)
    done = " + ".join(" ".join(filter(None, [each.kind, ", ".join(each.groups)])) for each in responses)
    return f"{found} → {done or 'recorded only'}"


def _tell_budgets(past: Sequence[Decision], policy: Policy, step: int) -> str:
    """What was tried before a halt."""
    skips = sum(each.verdict == "skip" and each.step > step - policy.horizon for each in past)
    restored = [each.step for each in past if each.verdict in RESTORING]
    recent = sum(each > step - policy.rollback_horizon for each in restored)
    if not skips and not restored:
        return ""
    return (
        f"; nothing has helped: {skips} skips in {policy.horizon} steps, {recent} rollbacks in "
        f"{policy.rollback_horizon} and {len(restored)} in {LONG * policy.rollback_horizon}"
    )


def _mends_state(rung: Iterable[Response]) -> bool:
    return any(response.kind in STATE_VERDICTS for response in rung)
