"""Actions: from a decision to what changes a training run. No other code changes one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import hypot, inf, isfinite, nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.ranks import is_sharded, take_part, take_parts
from trimtab.state.live import SnapshotError
from trimtab.types import GROUPWISE, RESTORING, STATE_STEP, Action, Adjustment, Change, Decision, Measurement, Response

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

    from trimtab.state.buffers import BufferCopies
    from trimtab.state.snapshot import Snapshots


MUCH_OLDER = 20
"""Steps by which a snapshot is much older than another: more than a rollback is to lose."""


@dataclass(slots=True)
class Controls:
    """What actions take hold of."""

    model: nn.Module
    """The model that is trained."""

    optimizer: Optimizer
    """The optimizer that updates it."""

    scaler: GradScaler | None
    """The loss scaler, if there is one."""

    groups: tuple[str, ...]
    """The names of the parameter groups."""

    list_members: Callable[[str], Sequence[Tensor]]
    """The parameters of a group, by its name."""

    snapshots: Snapshots
    """What can be restored."""

    buffers: BufferCopies
    """The buffers as they were at the end of the last check."""

    report: Callable[[Exception], None]
    """Called with what fails without keeping the rest of an action from being done."""

    reload: Callable[[int | None], int | None]
    """Sets the run back to the newest healthy checkpoint, or the newest from before a step, and returns its step; None
    where there is none."""

    clip_norm: float | None = None
    """The routine limit of the gradient norm."""

    adjustments: tuple[Adjustment, ...] = ()
    """The adjustments in force."""

    uncooled: list[Any] = field(default_factory=list)
    """While the optimizer steps: the learning rates to set back after it."""


def act(decision: Decision, controls: Controls, measurement: Measurement, note: str = "") -> Action:
    """Carry a decision out, with gradients disabled: first the verdict on the update, then the adjustments.

    Args:
        decision: what to do.
        controls: what to do it with.
        measurement: what was seen; gradients are clipped by its `grad_norm`, and not at all without one.
        note: what else is to be known, for the record.

    Returns:
        What was done. A reload without a checkpoint that fits becomes a rollback, and a rollback without a snapshot
        that fits a skip.
    """
    verdict, restored = decision.verdict, None
    if not decision.proceed:
        drop_gradients(controls)
    if verdict in RESTORING or (verdict == "halt" and any(each.in_state for each in decision.findings)):
        done, restored, hindrance = restore(decision, controls, measurement)
        verdict = "halt" if verdict == "halt" else done
        note = "; ".join(filter(None, [hindrance, note]))
    changes: list[Change] = []
    if decision.proceed:
        grad_norm, changes = limit_groups(decision, controls, measurement)
        changes += clip_gradients(decision, controls, grad_norm)
        if verdict == "clip" and not changes and isfinite(grad_norm):
            verdict, note = "proceed", "; ".join(filter(None, ["routine clipping sufficed", note]))
    if verdict in ("skip", "halt") and restored is None:
        controls.buffers.put_back()
    if verdict in RESTORING:
        _clear_overflow(controls)
    for response in decision.responses:
        if response.kind == "repair":
            changes += repair(controls)
        if response.kind == "cool":
            changes += start_cooling(controls, response, decision.step)
        if response.kind == "freeze":
            freeze(controls, response.groups, decision.step, response.num_steps)
        if response.kind == "reset":
            changes += reset_moments(controls, response, decision.step)
        if response.kind == "tighten":
            changes += start_tightening(controls, response, decision.step)
        if response.kind == "rescale":
            changes += rescale(controls, 1.0 if response.factor is None else response.factor)
    return Action(decision.step, verdict, restored, _count_lost(verdict, restored, decision.step), tuple(changes), note)


def restore(decision: Decision, controls: Controls, measurement: Measurement) -> tuple[str, int | None, str]:
    """Set the run back: to the newest healthy checkpoint, or to a snapshot in memory.

    That is the newest proven one; if the probe has rejected the state, the newest that it has accepted, since what was
    rejected may be in newer ones already. Where that is much older, it waits until the proven one was rejected too.

    Returns:
        The verdict carried out, the step whose update was the last one kept, and what kept more from being done.
    """
    hindrance = ""
    if decision.verdict == "reload":
        begun = [each.since for each in decision.findings if each.since is not None]
        step = controls.reload(min(begun) - 1 if begun else None)  # the update before it may have made it
        if step is not None:
            return "reload", step, ""
        hindrance = "not reloaded: there is no healthy checkpoint"
    proven, accepted = controls.snapshots.proven, controls.snapshots.accepted
    is_rejected = any(each.metric == "probe_loss" and each.in_state for each in decision.findings)
    if proven is not None and accepted is not None and proven.step - accepted.step > MUCH_OLDER:
        is_rejected = is_rejected and measurement.values.get(STATE_STEP, measurement.step - 1) == proven.step
    try:
        return "rollback", controls.snapshots.restore(controls.report, is_accepted=is_rejected), hindrance
    except SnapshotError as error:
        return "skip", None, "; ".join(filter(None, [hindrance, f"not rolled back: {error}"]))


def limit_groups(decision: Decision, controls: Controls, measurement: Measurement) -> tuple[float, list[Change]]:
    """Drop and clip the groups that a decision names, each by itself; no other gradient is touched.

    Returns:
        The norm of all gradients that are left, NaN where it is not known, and what was changed: for a dropped group
        its norm becomes 0.
    """
    grad_norm, by_group = measurement.values.get("grad_norm", nan), measurement.values.get("group_grad_norm", ())
    asked = [each for each in decision.responses if each.groups and each.kind in GROUPWISE]
    total = grad_norm if isinstance(grad_norm, float) else nan
    if not asked or not isinstance(by_group, tuple):
        return total, []
    norms = dict(zip(controls.groups, by_group, strict=True))
    changes = []
    for response in asked:
        for group in response.groups:
            before = norms[group]
            norms[group] = _limit_group(response, controls.list_members(group), before)
            changes.append(Change(f"{group}: grad_norm", before, norms[group]))
    return hypot(*norms.values()), changes


def _limit_group(response: Response, members: Sequence[Tensor], norm: float) -> float:
    """Drop or clip the gradients of one group; returns their norm afterwards."""
    gradients = [each.grad for each in members if each.grad is not None]
    if response.kind == "drop" or not gradients:
        for each in members:
            each.grad = None
        return 0.0
    if response.by_value:
        return clamp(members, inf if response.limit is None else response.limit)
    if response.limit is None or not isfinite(norm) or norm + 1e-6 <= response.limit:
        return norm
    _scale(gradients, norm, response.limit)
    return response.limit


def clip_gradients(decision: Decision, controls: Controls, grad_norm: float) -> list[Change]:
    """Scale all gradients down to the lower of the routine limit and the decision's, as PyTorch does.

    Gradients that are not finite are left alone: `inf * 0` is NaN. Where routine clipping brings the norm below what
    was found to be its limit, that is all that is done.

    Returns:
        The change, where a decision asked for it; routine clipping is none.
    """
    asked = [each for each in decision.responses if each.kind == "clip" and not each.groups]
    for response in asked:
        if response.by_value and response.limit is not None:
            grad_norm = clamp(list(_list_parameters(controls)), response.limit)
    routine = routine_limit(controls)
    found = [each.limit for each in decision.findings if each.metric == "grad_norm" and isfinite(each.limit)]
    suffices = bool(found) and routine <= min(found)
    norms = [each.limit for each in asked if each.limit is not None and not each.by_value and not suffices]
    limit = min([routine, *norms])
    if not isfinite(grad_norm) or grad_norm + 1e-6 <= limit:
        return []
    _scale([each.grad for each in _list_parameters(controls) if each.grad is not None], grad_norm, limit)
    return [Change("grad_norm", min(grad_norm, routine), limit)] if norms and limit < routine else []


def routine_limit(controls: Controls) -> float:
    """The routine limit of the gradient norm: the loop's own, or a tighter one in force; infinite without any."""
    limits = [each.limit for each in controls.adjustments if each.kind == "tighten"]
    return min(each for each in (inf, controls.clip_norm, *limits) if each is not None)


def _scale(gradients: Sequence[Tensor], norm: float, limit: float) -> None:
    """Scale gradients of a finite norm down to a limit, in place."""
    factor = clip_factor(norm, limit, is_double=any(each.dtype == torch.float64 for each in gradients[:1]))
    torch._foreach_mul_(take_parts(gradients), [factor] * len(gradients))


def clamp(parameters: Sequence[Tensor], limit: float) -> float:
    """Clamp every number of the gradients to ± a limit, in place; infinities become the limit, and NaN stays.

    Returns:
        The norm afterwards, taken in float32, or in float64 for what is in float64; NaN where other ranks have parts of
        the gradients, so that it is not known here.
    """
    squares = 0.0
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
        values = parameter.grad._values() if parameter.grad.is_sparse else take_part(parameter.grad)
        real = torch.view_as_real(values) if values.is_complex() else values
        real.clamp_(-limit, limit)
        dtype = torch.float64 if real.dtype == torch.float64 else torch.float32
        squares += float(torch.linalg.vector_norm(real, dtype=dtype)) ** 2
    return nan if any(map(is_sharded, parameters)) else sqrt(squares)


def clip_factor(norm: float, limit: float, *, is_double: bool = False) -> float:
    """What gradients are multiplied by to bring their norm down to a limit: min(limit / (norm + 1e-6), 1).

    It is computed as `torch.nn.utils.clip_grads_with_norm_` computes it, step by step in the dtype of the norm, so that
    clipped gradients are the same bit for bit; the constant is PyTorch's.
    """
    number = np.float64 if is_double else np.float32
    return float(min(number(1) / (number(norm) + number(1e-6)) * number(limit), number(1)))


def drop_gradients(controls: Controls) -> None:
    """Set every gradient to None, which makes the optimizer's next step change nothing."""
    for parameter in (*controls.model.parameters(), *_list_parameters(controls)):
        parameter.grad = None


def repair(controls: Controls) -> list[Change]:
    """Replace what is not finite in parameters, buffers and optimizer tensors.

    A parameter's number comes from the newest proven snapshot where that is finite, otherwise it becomes 0; a
    buffer's comes from its copy, and a buffer without a finite copy is left alone, since a mask may well hold
    infinities; an optimizer tensor's becomes 0, which is what it began as.

    Returns:
        For every tensor repaired, how many of its numbers were not finite before and after.
    """
    repaired = [_repair_tensor(name, tensor, source) for name, tensor, source in _list_repairable(controls)]
    return [change for change in repaired if change is not None]


def start_cooling(controls: Controls, response: Response, step: int) -> list[Change]:
    """Put a cooling into force: the learning rate is multiplied for some steps, then ramps back.

    The optimizer's own learning rate is not touched here: it is multiplied just before each optimizer step and set
    back just after, so that a scheduler never sees it.
    """
    factor, num_steps = response.factor or 1.0, response.num_steps or 0
    cooling = Adjustment("cool", step, step + num_steps, factor)
    controls.adjustments = (*(each for each in controls.adjustments if each.kind != "cool"), cooling)
    rate = max(float(group["lr"]) for group in controls.optimizer.param_groups)
    return [Change("learning_rate", rate, rate * factor)]


def reset_moments(controls: Controls, response: Response, step: int) -> list[Change]:
    """Delete what the optimizer keeps of earlier gradients, and cool, since without it the first updates are large.

    Returns:
        The changes: how many parameters had state, and the learning rate.
    """
    num = len(controls.optimizer.state)
    controls.optimizer.state.clear()
    return [Change("optimizer_state", float(num), 0.0), *start_cooling(controls, response, step)]


def start_tightening(controls: Controls, response: Response, step: int) -> list[Change]:
    """Put a tighter routine limit of the gradient norm into force, for some steps; it replaces one in force."""
    before = routine_limit(controls)
    until = step + (response.num_steps or 0)
    others = [each for each in controls.adjustments if each.kind != "tighten"]
    controls.adjustments = (*others, Adjustment("tighten", step, until, limit=response.limit))
    return [Change("clip_norm", before, routine_limit(controls))]


def freeze(controls: Controls, groups: Sequence[str], step: int, num_steps: int | None = None) -> None:
    """Freeze groups from the next step on: their gradients are dropped before anything looks at them.

    An optimizer leaves a parameter without a gradient alone, and its state too, so a frozen group keeps every bit.

    Args:
        controls: what the run consists of.
        groups: their names; one that is frozen already is frozen anew.
        step: the step of the decision.
        num_steps: for how many steps; None until it is thawed by hand.
    """
    thaw(controls, groups)
    until = None if num_steps is None else step + num_steps
    controls.adjustments = (*controls.adjustments, Adjustment("freeze", step, until, groups=tuple(groups)))


def thaw(controls: Controls, groups: Iterable[str]) -> None:
    """End the freeze of groups; the others stay frozen."""
    wanted = set(groups)
    kept = []
    for each in controls.adjustments:
        left = tuple(group for group in each.groups if group not in wanted)
        if each.kind != "freeze" or left:
            kept.append(replace(each, groups=left))
    controls.adjustments = tuple(kept)


def hold_frozen(controls: Controls, step: int) -> tuple[str, ...]:
    """End what is over, and drop the gradients of every frozen group.

    It comes before the loss scaler looks at them: one infinite gradient among them would keep all groups from updating.

    Returns:
        The groups whose freeze is over with this step; they are thawed.
    """
    over = [
        each for each in controls.adjustments if each.kind == "freeze" and each.until is not None and step > each.until
    ]
    thawed = tuple(group for each in over for group in each.groups)
    if thawed:
        thaw(controls, thawed)
    controls.adjustments = tuple(
        each for each in controls.adjustments if not (each.kind == "tighten" and step > (each.until or 0))
    )
    for adjustment in controls.adjustments:
        if adjustment.kind == "freeze":
            for group in adjustment.groups:
                for parameter in controls.list_members(group):
                    parameter.grad = None
    return thawed


def allow_no_gradient(controls: Controls) -> None:
    """Tell the scaler that nothing overflowed where every group is frozen and it found no gradient to look at.

    Its step refuses to go on otherwise.
    """
    scaler = controls.scaler
    if scaler is not None and scaler._scale is not None:
        found = scaler._per_optimizer_states[id(controls.optimizer)]["found_inf_per_device"]
        if not found and any(each.kind == "freeze" for each in controls.adjustments):
            found[scaler._scale.device] = torch.zeros_like(scaler._scale)


def rescale(controls: Controls, factor: float) -> list[Change]:
    """Multiply the loss scale by a factor, for the next step on; it is never cut below 1.

    The scaler backs off by itself at the end of a step that overflowed; then this is what is left of the factor.
    """
    scaler = controls.scaler
    if scaler is None or not scaler.is_enabled() or scaler._scale is None:
        return []
    before = float(scaler._scale)
    after = max(before * factor, min(before, 1.0))
    found = scaler._per_optimizer_states[id(controls.optimizer)]["found_inf_per_device"].values()
    is_backing_off = any(bool(each) for each in found)
    scaler._scale.fill_(after / scaler.get_backoff_factor() if is_backing_off else after)
    return [Change("loss_scale", before, after)]


def cooling_factor(adjustments: Iterable[Adjustment], step: int) -> float:
    """What the learning rate is multiplied by at a step: the factor while it holds, then linearly back to 1."""
    for each in adjustments:
        if each.kind == "cool" and each.since <= step and each.until is not None:
            length = max(each.until - each.since, 1)
            share = min(max(step - each.until, 0) / length, 1.0)
            return each.factor + (1.0 - each.factor) * share
    return 1.0


def cool_before_step(controls: Controls, step: int) -> None:
    """Multiply the learning rates for the optimizer step that begins now."""
    restore_rates(controls)
    factor = cooling_factor(controls.adjustments, step)
    if factor == 1.0:
        controls.adjustments = tuple(each for each in controls.adjustments if each.kind != "cool")
        return
    rates = [group["lr"] for group in controls.optimizer.param_groups]
    controls.uncooled[:] = [rate.clone() if isinstance(rate, Tensor) else rate for rate in rates]
    for rate in {id(rate): rate for rate in rates if isinstance(rate, Tensor)}.values():  # groups may share one
        rate.mul_(factor)
    for group in controls.optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] *= factor


def restore_rates(controls: Controls) -> None:
    """Set the learning rates back to exactly what they were before `cool_before_step`."""
    for group, rate in zip(controls.optimizer.param_groups, controls.uncooled, strict=False):
        if isinstance(group["lr"], Tensor) and isinstance(rate, Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"] = copy.copy(rate)
    controls.uncooled.clear()


def _clear_overflow(controls: Controls) -> None:
    """Let the scaler take this step for a good one: the rollback has completed the step it restored.

    The gradients at hand may have been infinite; without this, the scale would be cut for a fault that was undone.
    """
    if controls.scaler is not None and controls.scaler.is_enabled():
        for found in controls.scaler._per_optimizer_states[id(controls.optimizer)]["found_inf_per_device"].values():
            found.zero_()


def _count_lost(verdict: str, restored: int | None, step: int) -> int:
    if restored is not None:
        return step - restored
    return 1 if verdict in ("skip", "halt") else 0


def _repair_tensor(name: str, tensor: Tensor, source: Tensor | None) -> Change | None:
    if not tensor.is_floating_point():
        return None
    bad = ~torch.isfinite(tensor)
    num_bad = int(bad.sum())
    if num_bad == 0:
        return None
    tensor.masked_fill_(bad, 0.0)
    if source is not None:
        mend = torch.nan_to_num(source.to(tensor.device), nan=0.0, posinf=0.0, neginf=0.0)
        tensor.copy_(torch.where(bad, mend, tensor))
    return Change(name, float(num_bad), 0.0)


def _list_parameters(controls: Controls) -> Iterable[Tensor]:
    return (parameter for group in controls.optimizer.param_groups for parameter in group["params"])


def _list_repairable(controls: Controls) -> Iterable[tuple[str, Tensor, Tensor | None]]:
    """Every tensor an update changes: a name for a person, the tensor, and what to take its numbers from."""
    names = {id(parameter): name for name, parameter in controls.model.named_parameters()}
    for index, parameter in enumerate(_list_parameters(controls)):
        if not parameter.requires_grad:
            continue
        name = names.get(id(parameter), f"(other).{index}")
        yield name, take_part(parameter), controls.snapshots.find_copy(parameter)
        for key, value in controls.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield f"{name}: {key}", take_part(value), None
    copies = controls.buffers.list_copies()
    for name, buffer in controls.buffers.list_live():
        if name in copies and bool(torch.isfinite(copies[name]).all()):
            yield name, buffer, copies[name]
