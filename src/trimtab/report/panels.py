"""The panels of a run: every metric that was recorded, in sections, each on the axis of steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trimtab.detectors.innovation import find_limit
from trimtab.detectors.representing import RELATIVE, Zones
from trimtab.diagnosis.evidence import NOTHING, Evidence, Series
from trimtab.report.panel import SECTIONS, Line, Panel
from trimtab.report.schedule import build_schedule
from trimtab.spectra import HEALTHY

MOST_LIMITS = 1500
"""Measurements of the probe at which its limit is drawn."""

NEAR_RATIO = 1e-3
"""An update ratio that is usual."""


UNDRAWN = {
    "batch_fingerprint",
    "cpu_seconds",
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

SPECTRAL = ("alpha", "alpha_score")
"""Metrics of reviews that the spectra of the weights give."""

ASIDE = ("alpha_sigma", "embedding_dimensions", "embedding_rows", "embedding_std", "num_spectra", "spectra_seconds")
"""Metrics of reviews that few will look for."""

QUALITY, POSSIBLE = "quality_", "quality_possible"
"""The quality score with its parts, and the points that the parts have which were measured."""


def list_panels(evidence: Evidence) -> list[Panel]:
    """The panels of what was recorded, in the order of their sections."""
    panels = [panel for build in BUILDERS for panel in build(evidence)]
    drawn = [panel for panel in panels if any(_is_drawn(line) for line in panel.lines)]
    return sorted(drawn, key=lambda panel: SECTIONS.index(panel.section))


def _is_drawn(line: Line) -> bool:
    return bool(len(line.series)) and line.role in ("main", "review")


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
    yield Panel(
        "grad_norm", "Gradients", "Gradient norm", lines, "Of all groups, before clipping", levels, prefers_log=True
    )


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
            "update_ratio",
            "Weights",
            "Update ratio",
            lines,
            "Of an update to the weights it changes",
            levels,
            prefers_log=True,
        )


def _join_norms(norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """The norm of all groups together, without those that have none."""
    with np.errstate(over="ignore"):
        joined: NDArray[np.float64] = np.sqrt(np.where(np.isnan(norms), 0.0, norms**2).sum(axis=1))
    return joined


def _build_speed(evidence: Evidence) -> Iterator[Panel]:
    seconds = evidence.metrics.get("step_seconds", NOTHING)
    own = evidence.metrics.get("supervisor_seconds", NOTHING)
    lines = [Line("step", seconds), Line("processor", evidence.metrics.get("cpu_seconds", NOTHING))]
    lines += [Line("of it the supervisor", own)]
    rate = 1 / float(np.median(seconds.values)) if len(seconds) and np.median(seconds.values) > 0 else 0.0
    about = f"The median is {rate:,.3g} steps a second" if rate else ""
    yield Panel("step_seconds", "Speed and memory", "Seconds a step", lines, about, prefers_log=True)
    for name, series in {**evidence.metrics, **evidence.reviews}.items():
        if _is_of_machine(name) and series.values.ndim == 1:
            role = "review" if name in evidence.reviews else "main"
            yield Panel(name, "Speed and memory", _name(name), [Line(_name(name), series, role)])


def _is_of_machine(name: str) -> bool:
    is_one = name.endswith(("_bytes", "_seconds", "_per_second", "utilization"))
    return is_one and name not in UNDRAWN and name not in ASIDE


def _build_reviews(evidence: Evidence) -> Iterator[Panel]:
    """The quality score and its parts, and a small panel for every other number of a review, whatever it is called."""
    quality = {name: each for name, each in evidence.reviews.items() if name.startswith(QUALITY)}
    lines = [Line(name.removeprefix(QUALITY), each, "review") for name, each in quality.items() if name != POSSIBLE]
    about = f"Of 100. {_tell_possible(quality.get(POSSIBLE, NOTHING))}"
    yield Panel("quality_score", "Reviews", "Quality score", lines, about.strip())
    for name, series in evidence.reviews.items():
        is_told = name in TOLD or name.startswith("val_") or _is_of_machine(name) or name in quality
        if series.values.ndim == 1 and not is_told:
            section = "Spectra" if name in SPECTRAL else "More" if name in ASIDE else "Reviews"
            lines = [Line(_name(name), series, "review")]
            yield Panel(name, section, _name(name), lines, zones=ZONES.get(name, ()))


def _tell_possible(possible: Series) -> str:
    """What the parts were measured for, if it was not all."""
    points = {float(each) for each in possible.values}
    return f"Measured were parts of {points.pop():g} points" if len(points) == 1 and 100.0 not in points else ""


def _build_more(evidence: Evidence) -> Iterator[Panel]:
    """A small panel for every other number of a step."""
    for name, series in evidence.metrics.items():
        is_told = name in UNDRAWN or _is_part(name) or _is_of_machine(name)
        if series.values.ndim == 1 and not is_told:
            yield Panel(name, "More", _name(name), [Line(_name(name), series)])


def _list_zones(zones: Zones) -> list[tuple[str, float, float]]:
    """The zones of a measure of spread as bands, the lowest first."""
    ends = (0.0, zones.warning, zones.recovering, zones.healthy, zones.random, np.inf)
    names = ("emergency", "warning", "recovering", "healthy", "as random ones")
    return [(name, low, high) for name, low, high in zip(names, ends[:-1], ends[1:], strict=True)]


ZONES = {RELATIVE.metric: _list_zones(RELATIVE), "alpha": [("usual of trained layers", *HEALTHY)]}
"""The bands of metrics that are judged by them."""

NAMES = {
    "embedding_r": "Spread of the embeddings",
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
    build_schedule,
    _build_weights,
    _build_reviews,
    _build_speed,
    _build_more,
)
"""What builds panels of evidence."""
