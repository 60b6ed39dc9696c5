"""The policy: what is decided, told as stories; the table as data; and what a table may not say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from trimtab import Decision, Finding, Plan, Policy, PolicyError
from trimtab.detectors import detectors
from trimtab.policy import DEFAULT_LADDERS, KINDS, LEDGER_CAPACITY, PRESETS, decide
from trimtab.types import Clock, Response

NAN_LOSS = Finding(
    metric="loss", value=nan, limit=nan, message="not finite", detector="nonfinite", severity="critical", step=1
)
SPIKE = replace(NAN_LOSS, detector="loss-spike", severity="high", value=9.0, limit=2.0, expected=1.0, message="high")
STEEP = replace(SPIKE, detector="gradient-spike", metric="grad_norm", message="steep")
BROKEN = replace(NAN_LOSS, metric="weight_norm", in_state=True)

STEPS: Mapping[str, tuple[Finding, ...]] = {
    "good": (),
    "nan": (NAN_LOSS,),
    "nans": (NAN_LOSS, replace(NAN_LOSS, metric="grad_norm")),
    "spike": (SPIKE,),
    "steep": (STEEP,),
    "broken": (BROKEN,),
    "nan+spike": (NAN_LOSS, SPIKE),
    "spike+steep": (SPIKE, STEEP),
    "nan+broken": (NAN_LOSS, BROKEN),
}


def narrate(story: str, policy: Policy, clock: Clock = "step") -> Iterator[Decision]:
    """Decide on every step of a story in turn; `spike×3` are three steps with a spike."""
    ledger: list[Decision] = []
    words = [word.split("×") for word in story.split()]
    names = [name for name, *times in words for _ in range(int((times or ["1"])[0]))]
    for step, name in enumerate(names, 1):
        decision = decide(STEPS[name], ledger, policy, step=step, clock=clock)
        if decision.findings:
            ledger.append(decision)
        yield decision


def tell(decisions: Iterator[Decision]) -> str:
    """What was decided at each step: the kinds of its responses, or `-`."""
    return " ".join("+".join(response.kind for response in decision.responses) or "-" for decision in decisions)


def with_ladders(policy: Policy | None = None, **ladders: str) -> Policy:
    """A policy with other ladders, such as `loss_spike="skip halt"`."""
    policy = policy or Policy.default()
    named = {name.replace("_", "-"): Plan(ladder=tuple(ladder.split())) for name, ladder in ladders.items()}
    return replace(policy, plans={**policy.plans, **named})


@pytest.mark.parametrize(
    ("story", "told"),
    [
        pytest.param("good", "-", id="nothing-found"),
        pytest.param("good spike good", "- skip -", id="one-bad-batch-is-skipped"),
        pytest.param("spike spike", "skip rollback", id="the-next-batch-too-so-the-state-is-suspect"),
        pytest.param("spike×5", "skip rollback skip skip skip", id="again-so-the-data-is-skipped-until-over"),
        pytest.param("nan×3", "skip rollback+repair skip", id="nan-nan-again"),
        pytest.param(
            "nan good nan nan", "skip - skip rollback+repair", id="one-good-step-and-the-state-is-no-longer-suspect"
        ),
        pytest.param("spike good spike good spike", "skip - skip - skip", id="now-and-then-so-it-is-the-data"),
        pytest.param(
            "spike spike good spike spike", "skip rollback - skip rollback", id="it-came-back-twice-so-the-state-twice"
        ),
        pytest.param("spike nan", "skip skip", id="each-detector-climbs-its-own-ladder"),
        pytest.param("nans nans", "skip rollback+repair", id="two-findings-climb-one-rung-a-step"),
        pytest.param("steep steep steep", "clip clip clip", id="a-ladder-of-one-rung-holds-it"),
        pytest.param("steep good×9 steep", "clip - - - - - - - - - clip", id="clipped-now-and-then"),
        pytest.param("spike+steep", "skip", id="strongest-verdict-wins"),
        pytest.param("spike nan+spike", "skip rollback", id="strongest-of-two-ladders"),
        pytest.param("broken", "rollback+repair", id="a-fault-in-the-weights-is-not-skipped"),
        pytest.param("broken broken", "rollback+repair rollback+repair", id="still-in-the-weights"),
        pytest.param("nan broken", "skip rollback+repair", id="from-the-gradients-into-the-weights"),
        pytest.param("nan+broken", "rollback+repair", id="gradients-and-weights-at-once"),
        pytest.param("broken nan", "rollback+repair skip", id="the-weights-mended-the-next-batch-is-judged-afresh"),
    ],
)
def test_default_policy_tells(story: str, told: str) -> None:
    """The default policy answers each step of an episode with sense."""
    assert tell(narrate(story, Policy.default())) == told


@pytest.mark.parametrize(
    ("story", "told", "policy"),
    [
        pytest.param("spike×4", "skip rollback skip halt", {"max_skips": 2}, id="third-skip-halts"),
        pytest.param(
            "broken×3", "rollback+repair rollback+repair halt", {"max_rollbacks": 2}, id="third-rollback-halts"
        ),
        pytest.param(
            "broken good×9 broken good×9 broken",
            " ".join(["rollback+repair", *"-" * 9, "rollback+repair", *"-" * 9, "halt"]),
            {"max_rollbacks": 2},
            id="budgets-count-over-episodes",
        ),
        pytest.param(
            "broken good×9 broken good×9 broken",
            " ".join(["rollback+repair", *"-" * 9, "rollback+repair", *"-" * 9, "rollback+repair"]),
            {"max_rollbacks": 2, "rollback_horizon": 20},
            id="budgets-count-within-the-horizon",
        ),
        pytest.param(
            "nan good×2 spike good×2 nan", "skip - - skip - - halt", {"max_skips": 2, "memory": 1}, id="shared"
        ),
        pytest.param("spike good spike", "skip - skip", {"memory": 1}, id="memory-of-one-step"),
        pytest.param("spike spike", "skip rollback", {"memory": 1}, id="memory-of-one-step-and-no-quiet-step"),
    ],
)
def test_budgets_halt(story: str, told: str, policy: dict[str, int]) -> None:
    """A ladder that ends in halt is bounded by the skips and rollbacks within the horizon."""
    assert tell(narrate(story, replace(Policy.default(), **policy))) == told  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("story", "told", "ladder"),
    [
        pytest.param("spike×3", "- - -", "", id="advisory"),
        pytest.param("spike×2", "halt halt", "halt", id="halt-at-once"),
        pytest.param("spike×4", "skip skip skip skip", "skip", id="without-halt-the-last-rung-is-held"),
        pytest.param("spike×60", " ".join(["skip"] * 60), "skip", id="without-halt-no-budget-halts"),
        pytest.param("spike×51", " ".join(["skip"] * 50 + ["halt"]), "skip halt", id="with-halt-the-budget-does"),
        pytest.param("spike×2", "cool rollback+cool", "cool rollback+cool", id="adjustment-alone-or-beside-a-verdict"),
        pytest.param("spike×2", "clip skip", "clip skip", id="clip-then-skip"),
        pytest.param("spike×3", "rollback rollback rollback", "skip+rollback halt", id="strongest-of-one-rung"),
    ],
)
def test_ladder_tells(story: str, told: str, ladder: str) -> None:
    """Whatever its rungs, a ladder is climbed one rung a step and held below halt."""
    assert tell(narrate(story, with_ladders(loss_spike=ladder))) == told


def test_advisory_findings_do_not_prolong_an_episode() -> None:
    """A finding that is only recorded keeps no episode open, climbs no ladder and spends no budget."""
    policy = with_ladders(gradient_spike="")
    assert tell(narrate("spike steep×5 spike", policy)) == "skip - - - - - skip"
    assert tell(narrate("spike spike+steep", policy)) == "skip rollback"


def test_fault_in_the_state_without_a_rung_for_it_climbs_the_ladder_it_has() -> None:
    """Where no rung mends a state, a fault in it is answered by the rungs there are."""
    assert tell(narrate("broken×3", with_ladders(nonfinite="skip clip"))) == "skip clip clip"


@pytest.mark.parametrize(
    ("story", "told", "ladder"),
    [
        pytest.param("nan", "-", "skip rollback+repair halt", id="no-update-to-skip"),
        pytest.param("nan", "-", "clip", id="no-gradient-to-clip"),
        pytest.param("nan", "rollback", "rollback halt", id="rollback"),
        pytest.param("nan", "halt", "halt", id="halt"),
        pytest.param("nan", "rollback+repair", "rollback+repair halt", id="rollback-and-what-stands-beside-it"),
    ],
)
def test_review_has_no_update_at_hand(story: str, told: str, ladder: str) -> None:
    """On a review, what only concerns the update at hand is advisory; what mends a state is not."""
    decisions = list(narrate(story, with_ladders(nonfinite=ladder), clock="review"))
    assert tell(iter(decisions)) == told
    assert {decision.clock for decision in decisions} == {"review"}


def test_clocks_keep_their_own_ladders() -> None:
    """A finding on one clock climbs no ladder on the other."""
    policy = with_ladders(nonfinite="rollback clip skip")
    stepped = decide([NAN_LOSS], [], policy, step=1)
    reviewed = decide([NAN_LOSS], [stepped], policy, step=1, clock="review")
    assert [stepped.verdict, reviewed.verdict] == ["rollback", "rollback"]
    assert decide([NAN_LOSS], [stepped, reviewed], policy, step=2).verdict == "clip"


@pytest.mark.parametrize(
    ("findings", "limit"),
    [
        pytest.param([STEEP], 1.0, id="the-level"),
        pytest.param([replace(STEEP, expected=None)], 2.0, id="the-limit-where-no-level-is-known"),
        pytest.param([STEEP, replace(STEEP, expected=0.5)], 0.5, id="the-lowest-of-two"),
        pytest.param([replace(STEEP, expected=0.5), STEEP], 0.5, id="in-any-order"),
    ],
)
def test_clip_scales_down_to_the_expected_level(findings: list[Finding], limit: float) -> None:
    """A clip's limit is the level the gradient norm was expected at."""
    assert decide(findings, [], Policy.default(), step=1).responses == (Response("clip", limit=limit),)


@pytest.mark.parametrize(
    "finding", [pytest.param(SPIKE, id="level-of-the-loss"), pytest.param(NAN_LOSS, id="no-level-at-all")]
)
def test_clip_has_no_limit_in_another_unit(finding: Finding) -> None:
    """A finding on another metric than the gradient norm gives no number to scale gradients down to."""
    policy = with_ladders(loss_spike="clip", nonfinite="clip")
    assert all(response.limit is None for response in decide([finding], [], policy, step=1).responses)


def test_cool_takes_its_numbers_from_the_policy() -> None:
    """A cooling carries the policy's factor and number of steps."""
    policy = replace(with_ladders(loss_spike="skip+cool"), cool_factor=0.5, cool_steps=7)
    expected = (Response("skip"), Response("cool", factor=0.5, num_steps=7))
    assert decide([SPIKE], [], policy, step=1).responses == expected


def test_several_findings_make_one_decision() -> None:
    """Of several verdicts the strongest stands first and alone, and equal adjustments are made once."""
    policy = with_ladders(loss_spike="skip+cool", nonfinite="rollback+cool", gradient_spike="clip")
    decision = decide([STEEP, SPIKE, NAN_LOSS], [], policy, step=4)
    assert [response.kind for response in decision.responses] == ["rollback", "cool"]
    assert (decision.step, decision.verdict, decision.proceed) == (4, "rollback", False)
    assert decision.findings == (STEEP, SPIKE, NAN_LOSS)
    assert decision.reason == "gradient-spike: steep; loss-spike: high; nonfinite: not finite → rollback + cool"


@pytest.mark.parametrize(
    ("ladder", "verdict", "proceed", "reason"),
    [
        pytest.param("", "proceed", True, "loss-spike: high → recorded only", id="advisory"),
        pytest.param("cool", "proceed", True, "loss-spike: high → cool", id="adjustment-alone"),
        pytest.param("clip", "clip", True, "loss-spike: high → clip", id="clip-goes-ahead"),
        pytest.param("skip", "skip", False, "loss-spike: high → skip", id="skip-does-not"),
        pytest.param("rollback", "rollback", False, "loss-spike: high → rollback", id="rollback-does-not"),
        pytest.param("halt", "halt", False, "loss-spike: high → halt", id="halt-does-not"),
    ],
)
def test_decision_says_what_and_why(ladder: str, verdict: str, proceed: bool, reason: str) -> None:
    """A decision names the verdict, whether the update goes ahead, and the reason in one sentence."""
    decision = decide([SPIKE], [], with_ladders(loss_spike=ladder), step=1)
    assert (decision.verdict, decision.proceed, decision.reason) == (verdict, proceed, reason)


def find_in_group(group: str, detector: str = "group-explosion", step: int = 1) -> Finding:
    """A finding on the gradient norm of one group, whose level is 2."""
    return replace(STEEP, detector=detector, metric="group_grad_norm", groups=(group,), expected=2.0, step=step)


BOTH = replace(STEEP, groups=("a", "b"))


@pytest.mark.parametrize(
    ("findings", "responses"),
    [
        pytest.param([find_in_group("a", "group-spike")], [Response("clip", ("a",), limit=2.0)], id="clip-one"),
        pytest.param([find_in_group("a")], [Response("drop", ("a",))], id="drop-one"),
        pytest.param([find_in_group("b"), find_in_group("a")], [Response("drop", ("a", "b"))], id="drop-two"),
        pytest.param(
            [find_in_group("a"), find_in_group("a", "group-spike"), find_in_group("b", "group-spike")],
            [Response("drop", ("a",)), Response("clip", ("b",), limit=2.0)],
            id="drop-one-and-clip-another",
        ),
        pytest.param(
            [find_in_group("a"), find_in_group("b", "group-spike"), BOTH],
            [Response("drop", ("a",)), Response("clip", ("b",), limit=2.0)],
            id="all-suspects-answered-so-the-total-is-not-clipped",
        ),
        pytest.param(
            [find_in_group("a", "group-spike"), BOTH],
            [Response("clip", ("a",), limit=2.0), Response("clip", limit=1.0)],
            id="one-suspect-left-so-the-total-is-clipped-too",
        ),
        pytest.param(
            [find_in_group("a", "group-spike"), STEEP],
            [Response("clip", ("a",), limit=2.0), Response("clip", limit=1.0)],
            id="nobody-suspected-so-the-total-is-clipped-too",
        ),
        pytest.param([find_in_group("a"), NAN_LOSS], [Response("skip")], id="skip-is-stronger"),
        pytest.param(
            [find_in_group("a", "group-spike"), replace(find_in_group("a", "group-spike"), expected=1.5)],
            [Response("clip", ("a",), limit=1.5)],
            id="the-lower-of-two-limits",
        ),
    ],
)
def test_groups_are_answered_for_one_by_one(findings: list[Finding], responses: list[Response]) -> None:
    """Groups are clipped and dropped side by side, and the total only for what they leave unanswered."""
    decision = decide(findings, [], Policy.default(), step=1)
    assert decision.responses == tuple(responses)
    assert decision.verdict == responses[0].kind


def test_each_group_climbs_a_ladder_of_its_own() -> None:
    """The third drop of a group in an episode freezes it; another group's drops do not count."""
    policy = Policy.default()
    ledger: list[Decision] = []
    frozen = []
    for step, groups in enumerate(["a", "ab", "b", "ab"], start=1):
        decision = decide([find_in_group(group, step=step) for group in groups], ledger, policy, step=step)
        ledger.append(decision)
        frozen.append([each.groups for each in decision.responses if each.kind == "freeze"])
    assert frozen == [[], [], [], [("a",), ("b",)]]


def test_trouble_of_a_group_does_not_prolong_an_episode_of_the_whole() -> None:
    """A group that is clipped at every step leaves the ladders of other detectors to start again after quiet steps."""
    policy, ledger = Policy.default(), [decide([SPIKE], [], Policy.default(), step=1)]
    for step in range(2, 12):
        ledger.append(decide([find_in_group("a", "group-spike", step)], ledger, policy, step=step))
    assert decide([replace(SPIKE, step=12)], ledger, policy, step=12).verdict == "skip"


@pytest.mark.parametrize(
    ("ladder", "finding", "response"),
    [
        pytest.param("clip-by-value", STEEP, Response("clip", limit=7.0, by_value=True), id="all-by-value"),
        pytest.param(
            "clip-by-value",
            find_in_group("a", "gradient-spike"),
            Response("clip", ("a",), limit=7.0, by_value=True),
            id="a-group-by-value",
        ),
        pytest.param(
            "freeze", find_in_group("a", "gradient-spike"), Response("freeze", ("a",), num_steps=9), id="freeze"
        ),
        pytest.param("drop", STEEP, Response("skip"), id="nothing-named-to-drop"),
        pytest.param("freeze", STEEP, Response("skip"), id="nothing-named-to-freeze"),
        pytest.param("clip-by-value", replace(STEEP, value=nan), Response("skip"), id="nan-cannot-be-clamped"),
        pytest.param("rescale", STEEP, Response("rescale", factor=0.25), id="rescale"),
    ],
)
def test_responses_take_their_numbers_from_the_policy(ladder: str, finding: Finding, response: Response) -> None:
    """What a rung asks for carries the policy's numbers and the finding's groups."""
    policy = replace(with_ladders(gradient_spike=ladder), clip_value=7.0, freeze_steps=9, rescale_factor=0.25)
    assert decide([finding], [], policy, step=1).responses == (response,)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_policy(name: str) -> None:
    """A preset is valid, and differs from the default."""
    assert Policy.preset(name) != Policy.default()


def test_unknown_preset_is_refused() -> None:
    """A preset that does not exist is answered with those that do."""
    with pytest.raises(
        PolicyError,
        match="policy has no preset 'four-tier'; it has absolute-tiers, algorithm-1, published-zones, three-tier",
    ):
        Policy.preset("four-tier")


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=30), st.sampled_from(sorted(STEPS)))
def test_decide_is_pure(past: list[str], now: str) -> None:
    """The same findings, ledger and policy give the same decision, and the ledger is left as it is."""
    policy = Policy.default()
    ledger = [decision for decision in narrate(" ".join(past), policy) if decision.findings]
    kept = list(ledger)
    first, second = (decide(STEPS[now], ledger, policy, step=len(past) + 1) for _ in range(2))
    assert first == second
    assert ledger == kept
    assert decide(STEPS[now], tuple(ledger), Policy.from_dict(policy.to_dict()), step=len(past) + 1) == first


rungs = st.lists(st.sampled_from([kind for kind in KINDS if kind != "halt"]), min_size=1, max_size=3, unique=True).map(
    "+".join
)
ladders = st.tuples(st.lists(rungs, max_size=4), st.sampled_from([[], ["halt"]])).map(
    lambda parts: (*parts[0], *parts[1])
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Any policy: some detectors, some of their settings, any ladder, any numbers in range."""
    plans = {}
    for name in draw(st.lists(st.sampled_from(sorted(detectors)), unique=True)):
        changed = {
            setting: draw(st.integers(4, 99) if isinstance(default, int) else st.floats(0.1, 1e9))
            for setting, default in detectors[name].settings.items()
            if draw(st.booleans())
        }
        plans[name] = Plan(changed, draw(ladders))
    counts = {name: draw(st.integers(1, 10**6)) for name in ("memory", "max_skips")}
    counts["horizon"] = draw(st.integers(1, LEDGER_CAPACITY))
    counts["snapshot_every"] = draw(st.integers(Policy().probation, 10**6))
    return Policy(plans, cool_factor=draw(st.floats(1e-6, 1.0)), **counts)


def format_toml(table: Mapping[str, Any]) -> str:
    """A policy's table as TOML; its numbers, texts and lists are written as in JSON."""
    numbers = [f"{name} = {json.dumps(value)}" for name, value in table.items() if name != "detectors"]
    for detector, entry in table["detectors"].items():
        numbers += [f"[detectors.{detector}]", *(f"{name} = {json.dumps(value)}" for name, value in entry.items())]
    return "\n".join(numbers)


@settings(deadline=None)
@given(policy=policies())
def test_policy_survives_table_json_and_toml(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A policy written as a table, as JSON or as TOML and read again is the same policy."""
    path = tmp_path_factory.getbasetemp() / "policy.toml"
    path.write_text(format_toml(policy.to_dict()), encoding="utf-8")
    assert Policy.from_dict(policy.to_dict()) == policy
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert Policy.from_toml(path) == policy


def test_table_is_laid_over_the_default() -> None:
    """What a table leaves out stays as the default policy has it."""
    entries = {"loss-spike": {"sigmas": 9}, "gradient-spike": {"ladder": []}, "nonfinite": {"enabled": False}}
    policy = Policy.from_dict({"memory": 9, "detectors": entries})
    assert (policy.memory, policy.horizon) == (9, Policy.default().horizon)
    assert policy.plans["loss-spike"] == Plan({"sigmas": 9}, DEFAULT_LADDERS["loss-spike"])
    assert policy.plans["gradient-spike"] == Plan()
    assert "nonfinite" not in policy.plans
    assert Policy.from_dict({}) == Policy.default()


def test_observing_policy_asks_everyone_and_does_nothing() -> None:
    """`Policy.observe()` asks every detector the default asks, and answers nothing."""
    policy = Policy.observe()
    assert policy.settings == Policy.default().settings
    assert set(policy.plans) == set(detectors)
    assert tell(narrate("nan broken spike steep×9", policy)) == " ".join("-" * 12)


def from_entry(entry: object) -> Callable[[], Policy]:
    """Building a policy with this entry for `loss-spike`."""
    return lambda: Policy.from_dict({"detectors": {"loss-spike": entry}})


def from_table(**table: object) -> Callable[[], Policy]:
    """Building a policy from this table."""
    return lambda: Policy.from_dict(table)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(
            from_table(detectors={"loss-spikes": {}}),
            f"policy has no detector 'loss-spikes'; it has {', '.join(sorted(detectors))}",
            id="unknown-detector",
        ),
        pytest.param(
            lambda: Policy({"loss-spikes": Plan()}),
            f"policy has no detector 'loss-spikes'; it has {', '.join(sorted(detectors))}",
            id="unknown-detector-in-a-plan",
        ),
        pytest.param(
            from_table(memroy=3),
            "policy has no setting 'memroy'; it has detectors, memory, horizon, max_skips, max_rollbacks, "
            "rollback_horizon, snapshot_every, probation, probe_every, probe_budget, cool_factor, cool_steps, "
            "freeze_steps, clip_value, tight_norm, rescale_factor",
            id="unknown-number",
        ),
        pytest.param(
            from_entry({"sigma": 3}),
            "loss-spike has no setting 'sigma'; it has coarse, plain, sigmas, warmup, window",
            id="unknown-setting",
        ),
        pytest.param(
            from_entry({"ladder": ["skip", "jump"]}),
            "loss-spike has no response 'jump'; it has " + ", ".join(KINDS),
            id="unknown-response",
        ),
        pytest.param(
            from_entry({"ladder": ["proceed"]}),
            "loss-spike has no response 'proceed'; it has " + ", ".join(KINDS),
            id="proceed-is-no-response",
        ),
        pytest.param(
            from_entry({"ladder": ["skip + cool"]}),
            "loss-spike has no response 'skip '; it has " + ", ".join(KINDS),
            id="spaces-in-a-rung",
        ),
        pytest.param(
            from_entry({"ladder": ["halt", "skip"]}),
            "loss-spike: its ladder goes on after 'halt'; 'halt' has to be the last rung",
            id="halt-not-last",
        ),
        pytest.param(
            from_entry({"ladder": "skip"}),
            "loss-spike: its ladder is 'skip'; it has to be a list of rungs such as ['skip', 'halt']",
            id="ladder-as-text",
        ),
        pytest.param(
            from_entry({"ladder": ["skip", 3]}),
            "loss-spike: its ladder is ['skip', 3]; it has to be a list of rungs such as ['skip', 'halt']",
            id="rung-that-is-no-text",
        ),
        pytest.param(
            from_entry({"sigmas": "8"}),
            "loss-spike: sigmas is '8'; it has to be a number like its default 8.0",
            id="setting-as-text",
        ),
        pytest.param(
            from_entry({"window": True}),
            "loss-spike: window is True; it has to be a number like its default 100",
            id="setting-as-truth-value",
        ),
        pytest.param(from_table(memory=0), "policy: memory is 0; it has to be above 0", id="zero"),
        pytest.param(from_table(horizon=-1), "policy: horizon is -1; it has to be above 0", id="negative"),
        pytest.param(
            from_table(cool_factor=nan), "policy: cool_factor is nan; it has to be a finite number", id="not-a-number"
        ),
    ],
)
def test_unusable_policy_is_refused(build: Callable[[], Policy], message: str) -> None:
    """A policy that cannot work is refused when it is built, in one sentence that says what is allowed."""
    with pytest.raises(PolicyError) as caught:
        build()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(
            from_table(memory="5"), "policy: memory is '5'; it has to be a number like its default 5", id="text"
        ),
        pytest.param(
            from_table(snapshot_every=True),
            "policy: snapshot_every is True; it has to be a number like its default 8",
            id="truth-value",
        ),
        pytest.param(
            from_table(snapshot_every=2.5),
            "policy: snapshot_every is 2.5; it has to be a whole number like its default 8",
            id="half-a-step",
        ),
        pytest.param(
            from_entry({"window": 2.5}),
            "loss-spike: window is 2.5; it has to be a whole number like its default 100",
            id="half-a-sample",
        ),
        pytest.param(
            from_entry({"window": -1}), "loss-spike: window is -1; it has to be 0 or above", id="negative-window"
        ),
        pytest.param(
            from_entry({"sigmas": nan}),
            "loss-spike: sigmas is nan; it has to be a finite number",
            id="setting-not-a-number",
        ),
        pytest.param(
            from_entry({"sigmas": inf}),
            "loss-spike: sigmas is inf; it has to be a finite number",
            id="infinite-setting",
        ),
        pytest.param(
            from_entry({"ladder": ["halt+cool", "skip"]}),
            "loss-spike: its ladder goes on after 'halt+cool'; 'halt' has to be the last rung",
            id="halt-and-more-not-last",
        ),
        pytest.param(
            lambda: Policy({"loss-spike": Plan(ladder="skip")}),  # type: ignore[arg-type]
            "loss-spike: its ladder is 'skip'; it has to be a list of rungs such as ['skip', 'halt']",
            id="plan-with-a-ladder-as-text",
        ),
        pytest.param(
            from_entry({"ladder": 5}),
            "loss-spike: its ladder is 5; it has to be a list of rungs such as ['skip', 'halt']",
            id="ladder-as-number",
        ),
        pytest.param(
            from_entry(False),
            "policy: loss-spike is False; it has to be a table of settings",
            id="detector-as-truth-value",
        ),
        pytest.param(
            from_table(detectors=["loss-spike"]),
            "policy: detectors is ['loss-spike']; it has to be a table of detectors",
            id="detectors-as-list",
        ),
    ],
)
def test_wrong_type_in_a_policy_is_refused(build: Callable[[], Policy], message: str) -> None:
    """What would only fail, or fail silently, at some step of a run is refused when the policy is built."""
    with pytest.raises(PolicyError) as caught:
        build()
    assert str(caught.value) == message


def test_broken_toml_is_refused(tmp_path: Path) -> None:
    """A file that is no TOML is a policy error that names the file and the place."""
    path = tmp_path / "policy.toml"
    path.write_text("memory 5", encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        Policy.from_toml(path)
    assert str(caught.value) == (
        f"policy: {str(path)!r} is not valid TOML: Expected '=' after a key in a key/value pair (at line 1, column 8)"
    )


def test_missing_toml_is_the_systems_error(tmp_path: Path) -> None:
    """A file that cannot be read is named, with what the system says."""
    with pytest.raises(PolicyError, match="cannot be read: No such file or directory"):
        Policy.from_toml(tmp_path / "policy.toml")
