"""What the source of a training loop says of its schedule: when it is stepped."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from trimtab.recipes.linting import Remark, Setup, check
from trimtab.recipes.linting.loops import LOOPS, is_call, is_named, is_step, list_scopes, walk

BY_STEP = ("four_phase", "warmup_cosine", "one_cycle", "OneCycleLR", "get_scheduler")
"""What makes a schedule that is stepped once per optimizer step; and `get_…_schedule…` of `transformers`."""


@check("schedule-never-stepped", severity="high")
def find_unused(setup: Setup) -> Iterator[Remark]:
    """A schedule that is made and then neither stepped nor handed to anything."""
    scopes = list_scopes(setup.loop)
    nodes = list(ast.walk(scopes[0])) if scopes else []
    read = {each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
    for each in nodes:
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Call) and len(each.targets) == 1:
            target = each.targets[0]
            if isinstance(target, ast.Name) and "sched" in target.id.lower() and target.id not in read:
                yield Remark(
                    each.lineno,
                    f"line {each.lineno} of the loop makes {target.id}, which is never stepped: the learning rate "
                    "stays where the schedule begins",
                    "call its step() after each optimizer.step()",
                )


@check("schedule-per-epoch", severity="high")
def find_epochs(setup: Setup) -> Iterator[Remark]:
    """A schedule whose length is counted in optimizer steps, stepped once per epoch."""
    scopes = list_scopes(setup.loop)
    if not scopes or not any(_is_by_step(each) for each in ast.walk(scopes[0])):
        return
    for scope in scopes:
        for each in _list_steps(scope):
            around = _list_loops(scope, each)
            if not around or any(is_step(node) for node in _walk_directly(around[-1])):
                continue
            counts_epochs = "epoch" in ast.unparse(getattr(around[-1], "target", around[-1])).lower()
            if counts_epochs or any(is_step(node) for node in walk(around[-1])):
                yield Remark(
                    each.lineno,
                    f"line {each.lineno} of the loop steps the schedule once per epoch, and its length is counted in "
                    "optimizer steps: it hardly leaves its beginning",
                    "step it after each optimizer.step(), in the loop over batches",
                )


@check("schedule-too-often", severity="high")
def find_too_often(setup: Setup) -> Iterator[Remark]:
    """A schedule that is stepped several times for one step of the optimizer."""
    for scope in list_scopes(setup.loop):
        optimizing = [each for each in walk(scope) if is_step(each)]
        if len(optimizing) != 1:
            continue  # which of them it goes with is not known
        around = _list_loops(scope, optimizing[0])
        stepping = [each for each in _list_steps(scope) if around and _is_in(around[-1], each)]
        inner = [each for each in stepping if len(_list_loops(scope, each)) > len(around)]
        freer = [each for each in stepping if _is_guarded(around[-1], optimizing[0]) > _is_guarded(around[-1], each)]
        plain = [each for each in stepping if not _is_guarded(around[-1], each)]
        for each in dict.fromkeys([*inner, *freer, *plain[1:]]):
            yield Remark(
                each.lineno,
                f"line {each.lineno} of the loop steps the schedule more often than the optimizer is stepped: unless "
                "its length is counted so, it is over too soon",
                "step it once, right after optimizer.step()",
            )


@check("schedule-before-step", severity="medium")
def find_order(setup: Setup) -> Iterator[Remark]:
    """A schedule that is stepped before the optimizer is: its first rate is never used."""
    for scope in list_scopes(setup.loop):
        optimizing = [each for each in walk(scope) if is_step(each)]
        for each in _list_steps(scope):
            around = _list_loops(scope, each)
            later = [one for one in optimizing if around and _is_in(around[-1], one)]
            if later and min(one.lineno for one in later) > each.lineno and not _is_guarded(around[-1], each):
                yield Remark(
                    each.lineno,
                    f"line {each.lineno} of the loop steps the schedule before the optimizer is stepped: the first "
                    "rate is never used, and each comes a step too soon",
                    "call scheduler.step() after optimizer.step()",
                )


def _list_steps(scope: ast.AST) -> list[ast.expr | ast.stmt]:
    """The steps of schedules in a scope."""
    return [each for each in walk(scope) if is_call(each, "step") and is_named(each, "sched")]


def _list_loops(scope: ast.AST, node: ast.AST) -> Sequence[ast.stmt | ast.expr]:
    """The loops around a node in a scope, the outermost first."""
    return [each for each in walk(scope) if isinstance(each, LOOPS) and _is_in(each, node)]


def _is_in(outer: ast.AST, node: ast.AST) -> bool:
    return any(each is node for each in walk(outer))


def _walk_directly(loop: ast.AST) -> Iterator[ast.AST]:
    """All in a loop that is in no loop within it."""
    inner = [each for each in walk(loop) if isinstance(each, LOOPS)]
    yield from (each for each in walk(loop) if not any(_is_in(other, each) for other in inner))


def _is_guarded(loop: ast.AST, node: ast.AST) -> bool:
    """True if a node in a loop is within a condition."""
    return any(isinstance(each, ast.If) and _is_in(each, node) for each in walk(loop))


def _is_by_step(node: ast.AST) -> bool:
    """True for a call that makes a schedule whose length is counted in optimizer steps, as far as it tells."""
    if not isinstance(node, ast.Call):
        return False
    name = str(getattr(node.func, "attr", getattr(node.func, "id", "")))
    if name == "OneCycleLR":
        named = {each.arg: each.value for each in node.keywords}
        length = named.get("total_steps")
        return "steps_per_epoch" in named or (length is not None and "len(" in ast.unparse(length))
    return name in BY_STEP or (name.startswith("get_") and "_schedule" in name)
