"""The panels of a run: every metric that was recorded, in sections, each on the axis of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.detectors.innovation import find_limit
from trimtab.diagnosis.evidence import NOTHING, Evidence, Series
from trimtab.report.axes import choose_axis
from trimtab.report.reduction import Spans, list_numbers, reduce_series

MOST_LIMITS = 1500
"""Measurements of the probe at which its limit is drawn."""

LEAST_POINTS, MOST_POINTS = 800, 20_000
"""Points of a line, whatever the number of lines on a page."""

NEAR_RATIO = 1e-3
"""An update ratio that is usual."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel."""

    name: str
    """What it shows."""

    series: Series
    """Its points."""

    role: str = "main"
    """How it is drawn: `main`, `review` with a mark at each point, `bound` dashed, `plan` dotted."""

    is_stepped: bool = False
    """True for what holds until the next point."""


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn on an axis of its own."""

    id: str
    """Its name, the same in every run, so that runs can be laid over one another."""

    section: str
    """The section of the page it is in."""

    title: str
    """What it shows."""

    lines: Sequence[Line]
    """Its lines."""

    about: str = ""
    """What is to be known of it, in a sentence."""

    levels: Mapping[str, float] | None = None
    """Numbers that are drawn as a line across, by name."""

    prefers_log: bool = False
    """True to have a logarithmic axis for whatever is positive."""


UNDRAWN = {
    "batch_fingerprint",
    "data_changed",
    "grad_norm",
    "learning_rate",
    "loss",
    "loss_scale",
    "probe_failed",
    "probe_loss",
    "probe_seconds",
    "rate_declared",
    "scheduled_rate",
    "state_step",
    "step_seconds",
    "supervisor_seconds",
    "weight_norm",
}
"""Metrics of steps that have a panel already, or that are no curve."""

TOLD = {"start_loss", "train_grad_norm", "train_loss", "val_loss"}
"""Metrics of reviews that have a panel already, or a better one of steps."""

SPECTRAL = ("alpha", "alpha_score", "alpha_sigma", "num_spectra")
"""Metrics of reviews that the spectra of the weights give."""

SECTIONS = (
    "Loss",
    "Gradients",
    "Schedule",
    "Weights",
    "Activations",
    "Reviews",
    "Spectra",
    "Speed and memory",
    "More",
)
"""The sections of a page, in their order."""


def list_panels(evidence: Evidence) -> list[Panel]:
    """The panels of what was recorded, in the order of their sections."""
    panels = [panel for build in BUILDERS for panel in build(evidence)]
    drawn = [panel for panel in panels if any(_is_drawn(line) for line in panel.lines)]
    return sorted(drawn, key=lambda panel: SECTIONS.index(panel.section))


def _is_drawn(line: Line) -> bool:
    return bool(len(line.series)) and line.role in ("main", "review")


def describe_panels(panels: Sequence[Panel], num_points: int, whole: Spans) -> list[dict[str, Any]]:
    """Panels as JSON can hold them, reduced to about so many points altogether.

    Args:
        panels: the panels.
        num_points: the points of all lines together.
        whole: spans of steps of which every point is kept, as long as there is room.
    """
    num_lines = sum(len(panel.lines) for panel in panels)
    per_line = min(max(num_points // max(num_lines, 1), LEAST_POINTS), MOST_POINTS)
    return [_describe_panel(panel, per_line, whole) for panel in panels]


def _describe_panel(panel: Panel, num_points: int, whole: Spans) -> dict[str, Any]:
    axis = choose_axis([line.series.values for line in panel.lines], prefers_log=panel.prefers_log)
    return {
        "id": panel.id,
        "kind": "lines",
        "section": panel.section,
        "title": panel.title,
        "about": panel.about,
        "is_log": axis.is_log,
        "limit": float(f"{axis.limit:.6g}") if axis.num_above else None,
        "lowest": float(f"{axis.lowest:.6g}"),
        "num_above": axis.num_above,
        "highest": float(f"{axis.highest:.6g}"),
        "levels": dict(panel.levels or {}),
        "lines": [_describe_line(line, num_points, whole) for line in panel.lines if len(line.series)],
    }


def _describe_line(line: Line, num_points: int, whole: Spans) -> dict[str, Any]:
    kept = reduce_series(line.series, num_points, whole)
    is_odd = ~np.isfinite(kept.values)
    return {
        "name": line.name,
        "role": line.role,
        "is_stepped": line.is_stepped,
        "steps": kept.steps.tolist(),
        "values": list_numbers(kept.values),
        "odd": kept.steps[is_odd].tolist(),
        "num": len(line.series),
    }


def _build_losses(evidence: Evidence) -> Iterator[Panel]:
    lines = [Line("training loss", evidence.metrics.get("loss", NOTHING))]
    lines += [Line("validation loss", evidence.reviews.get("val_loss", NOTHING), "review")]
    yield Panel("loss", "Loss", "Loss", lines, prefers_log=True)
    yield from _build_probe(evidence)
    parts = [Line(name.removeprefix("part_"), each) for name, each in evidence.metrics.items() if _is_part(name)]
    parts += [
        Line(f"{name.removeprefix('val_')}, validation", each, "review")
        for name, each in evidence.reviews.items()
        if name.startswith("val_") and name not in TOLD
    ]
    yield Panel("parts", "Loss", "Parts of the loss", parts, prefers_log=True)


def _is_part(name: str) -> bool:
    return name.startswith("part_")


def _build_probe(evidence: Evidence) -> Iterator[Panel]:
    """The probe's measurements under their limit, and how far each was from what was expected."""
    probed = evidence.metrics.get("probe_loss", NOTHING)
    if not len(probed):
        return
    lines = [Line("probe", probed)]
    expected, limit = _expect(evidence, probed)
    if len(limit):
        lines += [Line("limit", limit, "bound"), Line("expected", expected, "plan")]
        innovation = Series(expected.steps, probed.look_up(expected.steps) - expected.values)
        spread = Series(limit.steps, limit.values - expected.values)
        yield Panel("probe", "Loss", "Probe", lines, "A second measurement of every state", prefers_log=True)
        yield Panel(
            "innovation",
            "Loss",
            "Innovation of the probe",
            [Line("innovation", innovation), Line("limit", spread, "bound")],
            "The probe minus what was expected",
            {"as expected": 0.0},
        )
    else:
        yield Panel("probe", "Loss", "Probe", lines, "A second measurement of every state", prefers_log=True)


def _expect(evidence: Evidence, probed: Series) -> tuple[Series, Series]:
    """What the probe was expected to measure, and its limit, by the settings of the run's policy."""
    plan = evidence.manifest.get("policy", {}).get("detectors", {}).get("innovation", {})
    if plan.get("alpha"):
        return NOTHING, NOTHING
    settings = {name: plan[name] for name in ("sigmas", "tolerance", "window", "warmup", "coarse") if name in plan}
    rejected = {each.step for each in evidence.found_by("innovation", "nonfinite")}
    stale = {each.step for each in evidence.found_by("probe-shift")}
    stride = -(-len(probed) // MOST_LIMITS)
    accepted: list[float] = []
    rows: list[tuple[int, float, float]] = []
    for place, (step, value) in enumerate(zip(probed.steps.tolist(), probed.values.tolist(), strict=True)):
        if step in stale:
            accepted = []
        if place % stride == 0 or step in rejected:
            found = find_limit(np.array(accepted[-64:]), **settings)
            rows += [(step, *found)] if found is not None else []
        if np.isfinite(value) and step not in rejected:
            accepted.append(value)
    if not rows:
        return NOTHING, NOTHING
    steps = np.array([row[0] for row in rows], dtype=np.int64)
    return Series(steps, np.array([row[1] for row in rows])), Series(steps, np.array([row[2] for row in rows]))


def _build_gradients(evidence: Evidence) -> Iterator[Panel]:
    clip_norm = evidence.manifest.get("clip_norm")
    levels = {"clipped to": float(clip_norm)} if isinstance(clip_norm, (int, float)) else {}
    lines = [Line("gradient norm", evidence.metrics.get("grad_norm", NOTHING))]
    yield Panel("grad_norm", "Gradients", "Gradient norm", lines, "Of all groups, before clipping", levels, True)


def _build_schedule(evidence: Evidence) -> Iterator[Panel]:
    rate = evidence.metrics.get("learning_rate", NOTHING)
    cooled = _cool(evidence, rate)
    lines = [Line("used" if cooled is not rate else "learning rate", cooled)]
    if cooled is not rate:
        lines.append(Line("of the schedule, before cooling", rate, "bound"))
    lines += [Line("used, at the ends of epochs", _list_used(evidence, cooled), "review")]
    lines += [Line("planned", _list_planned(evidence), "plan")]
    yield Panel("learning_rate", "Schedule", "Learning rate", lines)
    yield Panel(
        "loss_scale", "Schedule", "Loss scale", [Line("loss scale", evidence.metrics.get("loss_scale", NOTHING))]
    )
    settings: dict[str, list[tuple[int, float]]] = {}
    for event in evidence.events:
        if event.get("event") == "epoch":
            for name, value in event.get("settings", {}).items():
                settings.setdefault(name, []).append((int(event["step"]), float(value)))
    named = {
        "loss_weights": ("Loss weights", [name for name in settings if name.startswith("loss_weight_")]),
        "dropout": ("Dropout", [name for name in settings if name.startswith("dropout")]),
    }
    for id, (title, names) in named.items():
        lines = [
            Line(name.removeprefix("loss_weight_"), _from_pairs(settings[name]), is_stepped=True) for name in names
        ]
        yield Panel(id, "Schedule", title, lines)


def _cool(evidence: Evidence, rate: Series) -> Series:
    """The learning rate as it was used: what was measured, under the coolings that were decided."""
    factors = np.ones(len(rate))
    for decision, _ in evidence.decided:
        for each in decision.responses:
            if each.kind == "cool" and each.factor is not None and each.num_steps:
                share = np.clip((rate.steps - decision.step - each.num_steps) / max(each.num_steps, 1), 0.0, 1.0)
                is_later = rate.steps >= decision.step
                factors[is_later] = (each.factor + (1.0 - each.factor) * share)[is_later]
    return rate if (factors == 1.0).all() else Series(rate.steps, rate.values * factors)


def _list_used(evidence: Evidence, rate: Series) -> Series:
    """The learning rate at the end of each epoch, where it was not that of the schedule."""
    ends = [event for event in evidence.events if event.get("event") == "epoch" and event.get("learning_rate")]
    used = _from_pairs([(int(event["step"]), float(event["learning_rate"])) for event in ends])
    return NOTHING if np.allclose(used.values, rate.look_up(used.steps), rtol=1e-3, equal_nan=True) else used


def _list_planned(evidence: Evidence) -> Series:
    """The learning rate that was planned for the end of each epoch, at the step at which it ended or was to end."""
    ends = {int(event["epoch"]): int(event["step"]) for event in evidence.events if event.get("event") == "epoch"}
    if not ends:
        return NOTHING
    last = max(ends)
    per_epoch = ends[last] / last
    pairs: dict[int, float] = {}
    for event in evidence.events:
        if event.get("event") == "plan":
            for epoch, rate in enumerate(event["learning_rate"], event["first_epoch"]):
                if rate is not None:
                    pairs[ends.get(epoch, round(epoch * per_epoch))] = float(rate)
    return _from_pairs(sorted(pairs.items()))


def _from_pairs(pairs: Sequence[tuple[int, float]]) -> Series:
    numbers = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return Series(numbers[:, 0].astype(np.int64), numbers[:, 1])


def _build_weights(evidence: Evidence) -> Iterator[Panel]:
    weights = evidence.metrics.get("weight_norm", NOTHING)
    if len(weights) and weights.values.ndim > 1:
        weights = Series(weights.steps, _join_norms(weights.values))
    yield Panel("weight_norm", "Weights", "Weight norm", [Line("weight norm", weights)], "Of all groups together")
    ratios = evidence.metrics.get("update_ratio", NOTHING)
    if len(ratios) and ratios.values.ndim > 1:
        known = ratios.take(np.asarray(np.isfinite(ratios.values).any(axis=1)))
        lines = [
            Line("highest of the groups", Series(known.steps, np.nanmax(known.values, axis=1))),
            Line("their median", Series(known.steps, np.nanmedian(known.values, axis=1))),
        ]
        levels = {"usual": NEAR_RATIO}
        yield Panel(
            "update_ratio", "Weights", "Update ratio", lines, "Of an update to the weights it changes", levels, True
        )


def _join_norms(norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """The norm of all groups together, without those that have none."""
    with np.errstate(over="ignore"):
        joined: NDArray[np.float64] = np.sqrt(np.where(np.isnan(norms), 0.0, norms**2).sum(axis=1))
    return joined


def _build_speed(evidence: Evidence) -> Iterator[Panel]:
    seconds = evidence.metrics.get("step_seconds", NOTHING)
    own = evidence.metrics.get("supervisor_seconds", NOTHING)
    lines = [Line("step", seconds), Line("of it the supervisor", own)]
    rate = 1 / float(np.median(seconds.values)) if len(seconds) and np.median(seconds.values) > 0 else 0.0
    about = f"The median is {rate:,.3g} steps a second" if rate else ""
    yield Panel("step_seconds", "Speed and memory", "Seconds a step", lines, about, prefers_log=True)
    for name, series in {**evidence.metrics, **evidence.reviews}.items():
        if _is_of_machine(name) and series.values.ndim == 1:
            role = "review" if name in evidence.reviews else "main"
            yield Panel(name, "Speed and memory", _name(name), [Line(_name(name), series, role)])


def _is_of_machine(name: str) -> bool:
    return name.endswith(("_bytes", "_seconds", "_per_second", "utilization")) and name not in UNDRAWN


def _build_reviews(evidence: Evidence) -> Iterator[Panel]:
    """A small panel for every number of a review, whatever it is called."""
    for name, series in evidence.reviews.items():
        is_told = name in TOLD or name.startswith("val_") or _is_of_machine(name)
        if series.values.ndim == 1 and not is_told:
            section = "Spectra" if name in SPECTRAL else "Reviews"
            yield Panel(name, section, _name(name), [Line(_name(name), series, "review")])


def _build_more(evidence: Evidence) -> Iterator[Panel]:
    """A small panel for every other number of a step."""
    for name, series in evidence.metrics.items():
        is_told = name in UNDRAWN or _is_part(name) or _is_of_machine(name)
        if series.values.ndim == 1 and not is_told:
            yield Panel(name, "More", _name(name), [Line(_name(name), series)])


NAMES = {
    "alpha": "Exponent of the spectra",
    "alpha_score": "Score of the exponents",
    "alpha_sigma": "Standard error of the exponent",
    "num_spectra": "Spectra that tell something",
}
"""The names of metrics that do not say what they are."""


def _name(metric: str) -> str:
    """A metric's name for people."""
    return NAMES.get(metric) or metric.replace("_", " ").capitalize()


BUILDERS = (
    _build_losses,
    _build_gradients,
    _build_schedule,
    _build_weights,
    _build_reviews,
    _build_speed,
    _build_more,
)
"""What builds panels of evidence."""
