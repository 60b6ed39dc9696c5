"""Did the loss spike? What made it, and whether it came down again."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.diagnosis.advice import advise_clipping, advise_going_back, advise_on_spike, ask_for_fingerprint
from trimtab.diagnosis.bouts import OVERWRITTEN, find_bouts, tell_overwritten
from trimtab.diagnosis.causes import LONG_TAIL
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.outliers import PATIENCE
from trimtab.diagnosis.spikes import Spike, find_spikes
from trimtab.diagnosis.tree import REMEDIES, Answer, Cause, State, Unmeasured, cause

SAMPLER = "trimtab.recipes.stratified_batches(labels, batch_size)"
"""How batches are drawn by what makes samples hard."""


def _answer(evidence: Evidence, name: str, confidence: float, fix: str, alternative: str = "") -> Iterator[Answer]:
    """The cause with the spike it explains, the gravest or else the first."""
    spikes = evidence.ask(find_spikes)
    mine = sorted((each for each in spikes if each.cause == name), key=lambda each: each.state != "fatal")
    if not mine:
        return
    spike = mine[0]
    more = (f"it happened {len(mine)} times, at steps {_list_steps(mine)}",) if len(mine) > 1 else ()
    yield Cause(
        confidence=confidence,
        step=spike.step,
        evidence=(*_tell(spike), *more),
        fix=fix if spike.recovered_at is not None or spike.state == "mended" else f"{fix}; {_tell_reload(spike)}",
        state=spike.state,
        alternative=alternative,
        ruled_out=tuple(f"{name}: {reason}" for name, reason in spike.excluded.items()),
    )


def _list_steps(spikes: list[Spike]) -> str:
    return ", ".join(str(each.step) for each in sorted(spikes, key=lambda each: each.step)[:6])


def _tell(spike: Spike) -> tuple[str, ...]:
    over = f"{spike.sigmas:.3g} standard deviations above the mean {spike.level:.4g} of the 100 records before"
    told = [f"the loss rose at step {spike.step}, to {spike.height:.4g}, {over}"]
    if spike.recovered_at is not None:
        told.append(f"it was back to mean + 0.5 standard deviations at step {spike.recovered_at}")
    else:
        told.append(f"it was not back to mean + 0.5 standard deviations within {PATIENCE} records")
    return (*told, *spike.seen)


def _tell_reload(spike: Spike) -> str:
    return (
        f"reload a checkpoint from before step {spike.step} and clip at 0.5 for a while: "
        '`persistent-spike = {ladder = ["reload+tighten", "halt"]}`'
    )


@cause("corrupted-moments", question="spike")
def find_corrupted_moments(evidence: Evidence) -> Iterator[Answer]:
    """The optimizer's moments were corrupted.

    What it sees:
        The run's own comparison of the moments with those of a snapshot, noted at the spike.
    Fix:
        Reset the moments and warm up again, or roll back.
    """
    yield from _answer(
        evidence, "corrupted-moments", 0.9, 'reset them: a ladder with `"rollback"` or `"skip+reset"` does so'
    )


@cause("learning-rate-jump", question="spike")
def find_rate_jump(evidence: Evidence) -> Iterator[Answer]:
    """The learning rate jumped, and the loss after it.

    What it sees:
        A rate more than doubled within one record, at most 8 before the spike, or tripled within 100, to where it
        had never been. A schedule that starts again, and a change that the loop declared, are none.
    Fix:
        Make the schedule continuous, or warm up to the new rate.
    """
    yield from _answer(
        evidence,
        "learning-rate-jump",
        0.9,
        "look at the schedule at that step; warm up to the new rate: "
        "`SequentialLR(optimizer, [LinearLR(optimizer, 0.01, 1, 200), main], [200])`",
    )
    if evidence.ask(find_spikes) and not len(evidence.metric("learning_rate")):
        yield Unmeasured("learning_rate", REMEDIES["learning_rate"])


@cause("duplicate-batch", question="spike")
def find_duplicate_batch(evidence: Evidence) -> Iterator[Answer]:
    """The batch of the spike is one that was there shortly before.

    What it sees:
        A batch fingerprint at the spike that was there within the 50 records before, where batches differ otherwise.
    Fix:
        Look at the sampler and its seed after a restart.
    """
    yield from _answer(
        evidence,
        "duplicate-batch",
        0.75,
        "look at the loader: `sampler.set_epoch(epoch)`, and its state after a resume",
    )


@cause("bad-batches", question="spike")
def find_bad_batches(evidence: Evidence) -> Iterator[Answer]:
    """Several batches in a row were bad, while the weights were sound.

    What it sees:
        A spike that went on after the weights were set back to before it, and was over at once later.
    Fix:
        Look at what the loader gave at those steps.
    """
    yield from _answer(
        evidence,
        "bad-batches",
        0.85,
        "look at what the loader gave at these steps: a damaged shard, shuffled labels, another source",
        "a harder domain that comes now and then",
    )


@cause("long-tail-batch", question="spike")
def find_long_tail_batch(evidence: Evidence) -> Iterator[Answer]:
    """A batch from the long tail of the data.

    What it sees:
        A gradient norm at the spike above 30 times its mean over the 100 records before.
    Fix:
        Stratify the batches by what makes samples hard (length, class, source), and clip.
    """
    yield from _answer(
        evidence,
        "long-tail-batch",
        0.85,
        f"stratify the batches: `{SAMPLER}`, and {advise_clipping(evidence)}",
        "a damaged batch; look at its rows",
    )
    if evidence.ask(find_spikes) and not len(evidence.metric("grad_norm")):
        yield Unmeasured("grad_norm", REMEDIES["grad_norm"])


@cause("persistent-spike", question="spike", detectors=("persistent-spike",))
def find_persistent_spike(evidence: Evidence) -> Iterator[Answer]:
    """The loss rose at one step and did not come down.

    What it sees:
        A spike that was not back at mean + 0.5 standard deviations within 50 records, and no cause that was measured.
    Fix:
        Reload from before it, and clip at 0.5 for a while.
    """
    yield from _answer(
        evidence,
        "persistent-spike",
        0.7,
        "the update of that step has hurt the weights",
        "another task or harder data from that step on; the loss alone cannot tell",
    )


@cause("loss-spike", question="spike", detectors=("loss-spike",))
def find_loss_spike(evidence: Evidence) -> Iterator[Answer]:
    """The loss rose at one step and came down again.

    What it sees:
        A spike that recovered within 50 records, and whose cause was not measured.
    Fix:
        Skip such updates; hand the batch over to learn more.
    """
    spikes = evidence.ask(find_spikes)
    yield from _answer(
        evidence,
        "loss-spike",
        0.6,
        advise_on_spike(evidence, any(each.cause == "loss-spike" and each.state == "mended" for each in spikes)),
        f"a long-tail batch whose gradient norm stayed below {LONG_TAIL:g} times its mean",
    )
    if evidence.ask(find_spikes) and not len(evidence.metric("batch_fingerprint")):
        yield ask_for_fingerprint(evidence)


def _answer_findings(
    evidence: Evidence, detectors: tuple[str, ...], confidence: float, fix: str, passes: bool = False
) -> Iterator[Answer]:
    """What detectors of something else than the loss found where nothing else was found.

    Args:
        evidence: all that is known.
        detectors: their names.
        confidence: how much it speaks for the cause.
        fix: what to do.
        passes: True for trouble of single steps, which is over where it is not found again.
    """
    explained = {each.step for each in evidence.found_by("loss-spike", "nonfinite", "persistent-spike")}
    found = [each for each in evidence.found_by(*detectors) if not explained & set(range(each.step - 3, each.step + 6))]
    spikes, bouts = evidence.ask(find_spikes), evidence.ask(find_bouts)
    near = [(each.step - 3, each.last + 5) for each in spikes] + [(each.first - 3, each.last + 5) for each in bouts]
    found = [each for each in found if not any(first <= each.step <= last for first, last in near)]
    if found:
        is_mended = all(evidence.was_answered(each.step) for each in found)
        is_fatal = evidence.is_halted and found[-1].step >= evidence.last_step - 3
        is_over = passes and found[-1].step < evidence.last_step - PATIENCE
        state: State = "fatal" if is_fatal else "mended" if is_mended else "passed" if is_over else "lasting"
        more = (f"it was found at {len(found)} steps",) if len(found) > 1 else ()
        told = (f"{found[0].message}, at step {found[0].step}", *more)
        yield Cause(confidence=confidence, step=found[0].step, evidence=told, fix=fix, state=state)


@cause("corrupted-weights", question="spike", detectors=("weight-jump",))
def find_corrupted_weights(evidence: Evidence) -> Iterator[Answer]:
    """A weight was overwritten.

    What it sees:
        A group's weight norm many times that of one step before, or infinite at once while the loss is no NaN: norms
        are taken in float32, and a weight above 1e19 has a square beyond it. A spike of the loss that begins there is
        its effect, and not told again.
    Fix:
        Go back to before it, and look for what writes into parameters.
    """
    found = [each.step for each in evidence.found_by("weight-jump")] or [
        each.first for each in evidence.ask(find_bouts)
    ]
    at = found[0] if found else 0
    ladder = 'weight-jump = {ladder = ["rollback", "halt"]}'
    back = advise_going_back(evidence, at, at, ladder)
    fix = f"{back}look for what writes into parameters in place; test the memory"
    bouts = sorted(
        (each for each in evidence.ask(find_bouts) if each.cause == OVERWRITTEN), key=lambda each: each.state != "fatal"
    )
    for bout in bouts[:1]:
        spikes = [each for each in evidence.ask(find_spikes) if each.cause == OVERWRITTEN]
        more = (f"it is so at {bout.num} records, up to step {bout.last}",) if bout.num > 1 else ()
        seen = (tell_overwritten(evidence, bout), *more, *(line for each in spikes[:1] for line in _tell(each)[:2]))
        note = (bout.note,) if bout.note else ()
        yield Cause(confidence=0.85, step=bout.first, evidence=(*seen, *note), fix=fix, state=bout.state)
        return
    yield from _answer(evidence, OVERWRITTEN, 0.85, fix)
    yield from _answer_findings(evidence, ("weight-jump",), 0.8, fix)


@cause("harmful-update", question="spike", detectors=("innovation", "self-update-spike"))
def find_harmful_update(evidence: Evidence) -> Iterator[Answer]:
    """An update made the state worse, as a held-out probe saw, though the batch loss did not show it.

    What it sees:
        Findings of the probe or of self-updating parameters without a spike of the loss.
    Fix:
        A lower learning rate, or clipping; the update was undone where the policy acts.
    """
    fix = f"lower the learning rate by half, or {advise_clipping(evidence)}"
    yield from _answer_findings(evidence, ("innovation", "self-update-spike"), 0.7, fix)


@cause("gradient-spike", question="spike", detectors=("gradient-spike", "group-spike", "group-explosion"))
def find_gradient_spike(evidence: Evidence) -> Iterator[Answer]:
    """The gradient of one step, or of one group, was far above its level, while the loss was not.

    What it sees:
        Findings of gradient-spike, group-spike and group-explosion without a spike of the loss.
    Fix:
        Routine clipping.
    """
    fix = f"{advise_clipping(evidence)}; look at the groups named, and at rare samples"
    yield from _answer_findings(evidence, ("gradient-spike", "group-spike", "group-explosion"), 0.65, fix, passes=True)
