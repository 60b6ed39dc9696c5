"""Contestants: what is done about an update that may do harm; one file each, an open set.

All of them train in the same loop, `trimtab.bench.training.train`, and differ in their guard alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trimtab.bench.training import MakeGuard
from trimtab.registry import Registry


@dataclass(frozen=True, slots=True)
class Contestant:
    """A registered contestant."""

    name: str
    """Its name; kebab-case."""

    make_guard: MakeGuard
    """Makes its guard for a run."""

    clips: bool
    """True if it trains with routine clipping; its healthy twin then does too."""

    detects: bool
    """True if it says what it finds; the others are not judged by detection, delay and cause."""

    is_installed: Callable[[], bool]
    """False where it needs a package that is not there."""


contestants: Registry[Contestant] = Registry("contestant")


def contestant(
    name: str, *, clips: bool = True, detects: bool = True, is_installed: Callable[[], bool] = lambda: True
) -> Callable[[MakeGuard], MakeGuard]:
    """Register a function of a `Training` that makes a guard as a contestant.

    Args:
        name: kebab-case name, free in the registry.
        clips: whether it trains with routine clipping, which the loop leaves to it (`Training.clip`).
        detects: whether its judgements name what it finds.
        is_installed: False where it needs a package that is not there; it is then left out.
    """

    def register(make_guard: MakeGuard) -> MakeGuard:
        contestants.add(name, Contestant(name, make_guard, clips, detects, is_installed))
        return make_guard

    return register


contestants.load(__name__, __path__)
