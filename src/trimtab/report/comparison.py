"""In what runs differ: results, configuration, causes, and what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

OF_ITSELF = ("started", "format")
"""Settings in which two runs always differ, or never."""


def list_differences(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tables of what differs, a column for each run; those without a row are left out."""
    names = [str(run["name"]) for run in runs]
    tables = {
        "Results": list(_list_results(runs)),
        "Configuration, where it differs": list(_list_settings(runs)),
        "Causes": list(_list_causes(runs)),
        "Findings": list(_list_findings(runs)),
        "Actions": list(_list_actions(runs)),
    }
    return [{"title": title, "head": ["", *names], "body": body} for title, body in tables.items() if body]


def _list_results(runs: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    yield ["verdict", *(str(run["verdict"]) for run in runs)]
    yield ["status", *(str(run["status"]) for run in runs)]
    for name in dict.fromkeys(name for run in runs for name in run["results"]):
        values = [run["results"].get(name) for run in runs]
        if any(value is not None for value in values):
            yield [name, *(_show(value) for value in values)]


def _show(value: Any) -> str:
    return (
        "–"
        if value is None
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:.5g}"
        if isinstance(value, float)
        else str(value)
    )


def _list_settings(runs: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for name in dict.fromkeys(name for run in runs for name in run["settings"]):
        values = [run["settings"].get(name, "–") for run in runs]
        if len(set(values)) > 1 and name not in OF_ITSELF:
            yield [name, *values]


def _list_causes(runs: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    found = [{each["cause"]: each for each in run["diagnosis"]["causes"]} for run in runs]
    for name in dict.fromkeys(name for causes in found for name in causes):
        yield [name, *(_tell_cause(causes.get(name)) for causes in found)]


def _tell_cause(cause: Mapping[str, Any] | None) -> str:
    return "–" if cause is None else f"from step {cause['step']:,}, {cause['outcome']}"


def _list_findings(runs: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    found = [Counter(each for mark in run["marks"] for each in _list_detectors(mark)) for run in runs]
    yield from _count(found)


def _list_detectors(mark: Mapping[str, Any]) -> list[str]:
    """The detectors that a mark tells of."""
    return [text.partition(" ")[0] for name, text in mark["facts"] if name == "found"]


def _list_actions(runs: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    yield from _count([Counter(mark["kind"] for mark in run["marks"] if mark["lane"] == "done") for run in runs])


def _count(found: Sequence[Counter[str]]) -> Iterator[list[str]]:
    for name in dict.fromkeys(name for counts in found for name in counts):
        yield [name, *(f"{counts[name]:,}" if counts[name] else "–" for counts in found)]
