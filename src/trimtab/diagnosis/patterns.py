"""The shape of a loss curve in words, with what each shape usually means."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.diagnosis.branches.divergence import find_rise
from trimtab.diagnosis.branches.generalization import find_memorized, find_overfitting, find_underfitting
from trimtab.diagnosis.curves import describe_loss, find_swing
from trimtab.diagnosis.evidence import Evidence
from trimtab.diagnosis.stuck import is_stuck
from trimtab.diagnosis.tree import Cause, Look


@dataclass(frozen=True, slots=True)
class Pattern:
    """A shape of a loss curve."""

    shape: str
    """The shape, as what the loss does."""

    likely: str
    """The likely cause."""

    alternative: str
    """Another one, and how to tell."""

    change: str
    """What to change, in numbers."""


PATTERNS = {
    "flat": Pattern(
        "is flat from the start",
        "a learning rate too small, or weights that no gradient reaches",
        "labels that do not fit their inputs; one batch that can be learned by heart tells",
        "the learning rate × 10",
    ),
    "explodes": Pattern(
        "falls, then rises for good",
        "a learning rate too high",
        "a change of the data at that step",
        "the learning rate × 0.1 and clipping at 1.0",
    ),
    "overfits": Pattern(
        "falls while that of the evaluation rises",
        "overfitting",
        "an evaluation set unlike the training set",
        "stop at the best; weight decay × 10, dropout 0.2",
    ),
    "high": Pattern(
        "rests high, and so does that of the evaluation",
        "underfitting",
        "targets that the inputs do not determine",
        "twice the width, the learning rate × 3, regularization × 0.1",
    ),
    "oscillates": Pattern(
        "oscillates",
        "a learning rate at the edge of stability",
        "batches of different kinds in turns",
        "the learning rate × 0.5",
    ),
    "memorizes": Pattern(
        "is near zero while that of the evaluation is reasonable",
        "training data known by heart",
        "duplicates within the training data",
        "weight decay × 10, or stop here",
    ),
    "falls": Pattern("falls", "training as it should be", "", "nothing"),
    "opposed": Pattern(
        "is one of several that oppose each other",
        "adversarial training, which is unsupported: no single loss says how it goes",
        "",
        "judge it by what it generates",
    ),
}
"""The shapes that are told apart."""


def name_pattern(evidence: Evidence) -> Pattern | None:
    """The shape of the loss curve; None where it is too short for one."""
    if evidence.is_adversarial:
        return PATTERNS["opposed"]
    if describe_loss(evidence) is None:
        return None
    rise = evidence.ask(find_rise)
    looks: list[tuple[str, bool]] = [
        ("explodes", rise is not None),
        ("oscillates", evidence.ask(find_swing) is not None),
        ("flat", evidence.ask(is_stuck)),
        ("overfits", _names(evidence, find_overfitting)),
        ("memorizes", _names(evidence, find_memorized)),
        ("high", _names(evidence, find_underfitting)),
    ]
    return PATTERNS[next((name for name, is_so in looks if is_so), "falls")]


def _names(evidence: Evidence, look: Look) -> bool:
    return any(isinstance(answer, Cause) for answer in look(evidence))
