"""What the source of a training loop says: it is read, not run."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator

from trimtab.recipes.linting import Remark, Setup, check

CLIPPING = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_")
"""What clips gradients."""

LOOPS = (ast.For, ast.While, ast.AsyncFor)
"""Statements that repeat."""


@check("accumulated-not-divided", severity="high")
def find_undivided(setup: Setup) -> Iterator[Remark]:
    """Losses whose gradients are summed over several batches and not divided by their number."""
    for scope in list_scopes(setup.loop):
        for loop in (each for each in walk(scope) if isinstance(each, LOOPS)):
            calls = [each for each in walk(loop) if is_call(each, "backward") and not _is_in_inner(loop, each)]
            if not calls or not _steps_less_often(scope, loop) or any(_is_divided(loop, each) for each in calls):
                continue
            line = calls[0].lineno
            yield Remark(
                line,
                f"line {line} of the loop sums gradients over several batches before a step, and the loss is not "
                "divided by their number: the gradient is so many times as large",
                "divide the loss before backward: (loss / num_batches).backward()",
            )


@check("clip-before-unscale", severity="high")
def find_clip(setup: Setup) -> Iterator[Remark]:
    """Gradients that are clipped while they are still multiplied by the loss scale."""
    for scope in list_scopes(setup.loop):
        nodes = list(walk(scope))
        scaled = [each for each in nodes if is_call(each, "scale") and is_named(each, "scal")]
        clips = [each for each in nodes if any(is_call(each, name) for name in CLIPPING)]
        unscaled = [each.lineno for each in nodes if is_call(each, "unscale_")]
        for clip in clips if scaled else ():
            if not any(line <= clip.lineno for line in unscaled):
                yield Remark(
                    clip.lineno,
                    f"line {clip.lineno} of the loop clips gradients that are still multiplied by the loss scale: "
                    "their norm is thousands of times as large, and hardly anything is left of them",
                    "call scaler.unscale_(optimizer) before, or let supervisor.check unscale and clip",
                )


def list_scopes(source: str | None) -> list[ast.AST]:
    """The functions of a source, and the module around them; nothing of what is no Python."""
    if source is None:
        return []
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:
        return []
    return [tree, *(each for each in ast.walk(tree) if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)))]


def walk(scope: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """All that is in a scope but not in functions within it, in the order of the source."""
    for child in ast.iter_child_nodes(scope):
        if isinstance(child, (ast.expr, ast.stmt)):
            yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from walk(child)


def is_call(node: ast.AST, name: str) -> bool:
    """True for the call of a function or method of a name."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    return getattr(function, "attr", getattr(function, "id", "")) == name


def is_named(node: ast.AST, part: str) -> bool:
    """True for a method call on something whose name has a part, such as `self.scaler.step(…)`."""
    holder = getattr(getattr(node, "func", None), "value", None)
    return part in str(getattr(holder, "attr", getattr(holder, "id", ""))).lower()


def is_step(node: ast.AST) -> bool:
    """True for the step of an optimizer, by itself or through a loss scaler."""
    return is_call(node, "step") and (is_named(node, "opt") or is_named(node, "scaler"))


def _is_in_inner(loop: ast.AST, node: ast.AST) -> bool:
    """True if a node is in a loop within the loop."""
    inner = [each for each in walk(loop) if isinstance(each, LOOPS)]
    return any(node is each for other in inner for each in walk(other))


def _steps_less_often(scope: ast.AST, loop: ast.AST) -> bool:
    """True if the optimizer steps in some rounds of a loop alone, or after it."""
    if not any(map(is_step, walk(scope))):
        return False
    if not any(map(is_step, walk(loop))):
        return not isinstance(scope, ast.Module) or any(
            isinstance(each, LOOPS) and each is not loop and any(node is loop for node in walk(each))
            for each in walk(scope)
        )
    conditions = [each for each in walk(loop) if isinstance(each, ast.If) and _counts(each.test)]
    return any(
        is_step(node) for each in conditions for statement in each.body for node in (statement, *walk(statement))
    )


def _counts(test: ast.expr) -> bool:
    return any(isinstance(each, ast.BinOp) and isinstance(each.op, ast.Mod) for each in ast.walk(test))


def _is_divided(loop: ast.AST, backward: ast.expr | ast.stmt) -> bool:
    """True if what backward is called on, or anything that is assigned to its names, is divided or multiplied."""
    receiver = (
        backward.func.value if isinstance(backward, ast.Call) and isinstance(backward.func, ast.Attribute) else backward
    )
    if _divides(receiver):
        return True
    names = {each.id for each in ast.walk(receiver) if isinstance(each, ast.Name)}
    for each in walk(loop):
        if (
            isinstance(each, ast.AugAssign)
            and isinstance(each.op, (ast.Div, ast.Mult))
            and _target(each.target) in names
        ):
            return True
        if (
            isinstance(each, ast.Assign)
            and any(_target(target) in names for target in each.targets)
            and _divides(each.value)
        ):
            return True
    return False


def _target(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _divides(node: ast.AST) -> bool:
    return any(
        (isinstance(each, ast.BinOp) and isinstance(each.op, (ast.Div, ast.Mult))) or is_call(each, "div")
        for each in ast.walk(node)
    )
