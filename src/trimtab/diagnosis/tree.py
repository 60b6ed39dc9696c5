"""The decision tree: its questions in their order, and the causes, an open set, that each question knows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from trimtab.diagnosis.evidence import Evidence
from trimtab.registry import Registry

QUESTIONS = {
    "log": "Is the log itself sound?",
    "nonfinite": "Is a number NaN or infinite?",
    "spike": "Did the loss spike?",
    "precision": "Is it the mixed precision?",
    "divergence": "Did it diverge in silence?",
    "learning": "Did it never learn?",
    "generalization": "Does it generalize?",
    "speed": "Is it too slow?",
}
"""The questions, in the order they are asked; the first with a fatal answer is the last."""

State: TypeAlias = Literal["fatal", "lasting", "passed", "mended"]
"""What became of the trouble: it ended the run or made it worthless, nothing put it right, it passed by itself, or it
was put right."""

OPEN: tuple[State, ...] = ("fatal", "lasting")
"""What is there still, the gravest first; it is told before what is over."""

OUTCOMES: dict[State, str] = {
    "fatal": "the run did not recover",
    "lasting": "nothing put it right",
    "passed": "it passed by itself",
    "mended": "put right in the run",
}
"""What became of the trouble, in words."""

HALTED, UNLEARNED = "it ended the run", "the run learned nothing"
"""The same of a fatal cause for which a supervisor ended the run, and of one that kept it from learning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A cause that the evidence speaks for."""

    confidence: float
    """How much speaks for it, from 0 to 1."""

    step: int
    """The step at which it began to show."""

    evidence: tuple[str, ...]
    """What speaks for it: numbers, with their steps."""

    fix: str
    """What to do about it, with code to paste where code is what helps."""

    state: State = "lasting"
    """What became of the trouble."""

    alternative: str = ""
    """What else it may be, and how to tell; empty where nothing else comes close."""

    name: str = ""
    """The cause's name, kebab-case; filled in by the tree."""

    outcome: str = ""
    """What became of the trouble, in words; filled in by the tree."""

    ruled_out: tuple[str, ...] = ()
    """Other causes of the same, each with the reason that speaks against it; filled in by the tree."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A cause that the evidence speaks against."""

    reason: str
    """What speaks against it, with its numbers."""


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A cause that cannot be judged, for want of a measurement."""

    metric: str
    """What was not measured."""

    remedy: str
    """How to measure it."""


REMEDIES = {
    "grad_norm": "record what `torch.nn.utils.clip_grad_norm_` returns at every step",
    "learning_rate": "record `optimizer.param_groups[0]['lr']` at every step",
    "weight_norm": "`supervisor.check(loss)` measures it; or record the norm of all parameters now and then",
}
"""How to measure what several causes are told by, and any log can have."""

Answer: TypeAlias = Cause | Exclusion | Unmeasured

Look: TypeAlias = Callable[[Evidence], Iterator[Answer]]
"""A cause's function: it yields the cause where the evidence speaks for it, what speaks against it where it might have
been, and what was not measured where that keeps it from being judged."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A registered cause."""

    name: str
    """Its name; kebab-case."""

    question: str
    """The question it is an answer to, one of `QUESTIONS`."""

    look: Look
    """Its function over evidence."""

    @property
    def manual(self) -> str:
        """Its manual page: the docstring of its function."""
        return inspect.getdoc(self.look) or ""


known_causes: Registry[Kind] = Registry("cause")


def cause(name: str, *, question: str) -> Callable[[Look], Look]:
    """Register a function over evidence as a cause; its docstring is its manual page.

    Args:
        name: kebab-case name, free in the registry.
        question: the question it is an answer to, one of `QUESTIONS`.
    """
    assert question in QUESTIONS

    def register(look: Look) -> Look:
        known_causes.add(name, Kind(name, question, look))
        return look

    return register


@dataclass(frozen=True, slots=True)
class Walk:
    """What came of walking the tree."""

    causes: tuple[Cause, ...]
    """The causes named, the first the most likely."""

    not_measured: tuple[str, ...]
    """What was not measured, each with how to measure it."""

    unasked: tuple[str, ...]
    """The questions that were not asked, since one before them had a fatal answer."""


def walk_tree(evidence: Evidence) -> Walk:
    """Ask the questions in their order, and stop at the first that has a fatal answer."""
    named: list[Cause] = []
    remarks: list[Cause] = []
    unmeasured: dict[str, str] = {}
    asked = list(QUESTIONS)
    for question in QUESTIONS:
        answers = [
            (kind, answer)
            for kind in known_causes.values()
            if kind.question == question
            for answer in kind.look(evidence)
        ]
        found = [replace(each, outcome=_tell_outcome(evidence, question, each)) for each in _collect(answers)]
        (remarks if question == "log" else named).extend(found)
        unmeasured |= {each.metric: each.remedy for _, each in answers if isinstance(each, Unmeasured)}
        if any(each.state == "fatal" for each in found):
            asked = asked[: asked.index(question) + 1]
            break
    ranked = sorted(named, key=_rank)
    told = tuple(f"{metric}: {remedy}" for metric, remedy in unmeasured.items())
    return Walk((*ranked, *remarks), told, tuple(each for each in QUESTIONS if each not in asked))


def _rank(cause: Cause) -> tuple[int, float]:
    """Where a cause stands: what is open before what is over, the gravest and then the most likely first."""
    return (OPEN.index(cause.state) if cause.state in OPEN else len(OPEN), -cause.confidence)


def _tell_outcome(evidence: Evidence, question: str, cause: Cause) -> str:
    if cause.state == "fatal" and evidence.is_halted:
        return HALTED
    return UNLEARNED if cause.state == "fatal" and question == "learning" else OUTCOMES[cause.state]


def _collect(answers: list[tuple[Kind, Answer]]) -> list[Cause]:
    """The causes among the answers to one question, the most likely first, each with what was ruled out beside it."""
    found: dict[str, Cause] = {}
    excluded: dict[str, list[str]] = {}
    for kind, answer in answers:
        if isinstance(answer, Cause):
            found.setdefault(kind.name, replace(answer, name=kind.name, confidence=round(answer.confidence, 2)))
        elif isinstance(answer, Exclusion):
            excluded.setdefault(kind.name, []).append(f"{kind.name}: {answer.reason}")
    ranked = sorted(found.values(), key=lambda each: -each.confidence)
    told = tuple(reasons[0] for name, reasons in excluded.items() if name not in found)
    return [replace(each, ruled_out=(*each.ruled_out, *told)) for each in ranked]
