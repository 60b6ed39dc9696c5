"""What a run changed in itself between epochs, as its events tell it: what, from, to, why, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_JUDGED = "not judged: it is undone, or the run was over before its effect could be measured"
"""What is said of a change that has no outcome."""


def tell_adaptations(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """One sentence for each change, the oldest first; one that was made again after a resume counts once.

    Args:
        events: the events of a run folder, of which `adaptation` and `outcome` count.
    """
    made = {str(each["name"]): each for each in events if each.get("event") == "adaptation"}
    outcomes = {str(each["of"]): str(each["message"]) for each in events if each.get("event") == "outcome"}
    return tuple(tell_adaptation(each, outcomes.get(name, "")) for name, each in made.items())


def tell_adaptation(fields: Mapping[str, Any], outcome: str = "") -> str:
    """One change in a sentence.

    Args:
        fields: those of its event.
        outcome: what its event `outcome` says; empty without one.
    """
    name, before, after = str(fields["name"]), float(fields["from"]), float(fields["to"])
    place = f"{name} at epoch {fields['epoch']}, step {fields['step']}"
    if before == after:  # it is declared, and nothing changed
        return f"{place}: {fields['why']}"
    judged = outcome.removeprefix(f"{name}: ") or NOT_JUDGED
    return (
        f"{place}: {fields['what']} {before:g} → {after:g}, by {fields['trigger']}: {fields['why']}; expected: "
        f"{fields['expected']}; {judged}"
    )
