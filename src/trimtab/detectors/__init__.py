"""Detectors: pure functions over a history that yield breaches; one file each, an open set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from trimtab.history import History
from trimtab.registry import Registry
from trimtab.types import Breach, Clock, Finding, Severity

Judge: TypeAlias = Callable[..., Iterator[Breach]]
"""A detector's function: `judge(history, *, setting=default, …)` yields a breach for whatever is beyond its limit in
the newest row. It remembers nothing."""


@dataclass(frozen=True, slots=True)
class Detector:
    """A registered detector."""

    name: str
    """Its name in policies, findings and `trimtab explain`; kebab-case."""

    severity: Severity
    """The severity of what it finds."""

    clocks: tuple[Clock, ...]
    """The clocks whose measurements it judges."""

    judge: Judge
    """Its function over a history."""

    needs: str | None
    """The metric without which it has nothing to judge; None if it is asked at every step."""

    settings: Mapping[str, Any]
    """Its settings with their defaults, read off the function's signature."""

    @property
    def manual(self) -> str:
        """Its manual page: the docstring of its function."""
        return inspect.getdoc(self.judge) or ""


detectors: Registry[Detector] = Registry("detector")


def detector(
    name: str, *, severity: Severity, clocks: tuple[Clock, ...] = ("step",), needs: str | None = None
) -> Callable[[Judge], Judge]:
    """Register a function over a history as a detector.

    The function's first parameter is the history; its keyword-only parameters with their defaults are the settings
    a policy can change; its docstring is its manual page.

    Args:
        name: kebab-case name, free in the registry.
        severity: how much is at stake when it finds something.
        clocks: the clocks whose measurements it judges.
        needs: a metric that is measured now and then; it is asked only where the newest row has it.
    """

    def register(judge: Judge) -> Judge:
        parameters = inspect.signature(judge).parameters.values()
        settings = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
        detectors.add(name, Detector(name, severity, clocks, judge, needs, settings))
        return judge

    return register


def detect(history: History, settings: Mapping[str, Mapping[str, Any]]) -> tuple[Finding, ...]:
    """Judge the newest row of a history: every detector's breaches, signed.

    Args:
        history: the measurements, the newest one the one to judge.
        settings: detector name to its settings; only the detectors named here are asked.
    """
    measurement = history.newest
    findings: list[Finding] = []
    for name, chosen in settings.items():
        asked = detectors[name]
        if measurement.clock in asked.clocks and (asked.needs is None or asked.needs in measurement.values):
            findings += [sign(breach, asked, measurement.step) for breach in asked.judge(history, **chosen)]
    return tuple(findings)


def sign(breach: Breach, found_by: Detector, step: int) -> Finding:
    """A breach with the detector that yielded it, its severity and the step."""
    fields = {name: getattr(breach, name) for name in Breach.__dataclass_fields__}
    return Finding(**fields, detector=found_by.name, severity=found_by.severity, step=step)


detectors.load(__name__, __path__)
