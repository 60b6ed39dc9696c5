"""Recipes: what is chosen, and what is looked at, before the first step."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.recipes.advice import PrecisionAdvice, precision
    from trimtab.recipes.finder import RateSweep, find_learning_rate
    from trimtab.recipes.hygiene import parameter_groups
    from trimtab.recipes.initialization import FirstValue, Initialization, initialize
    from trimtab.recipes.linting import Flaw, Flaws, lint
    from trimtab.recipes.loss_scale import PRESETS, LossScale, make_scaler
    from trimtab.recipes.preflighting import Line, Preflight, preflight, preflight_file
    from trimtab.recipes.schedules import (
        four_phase,
        one_cycle,
        plot_schedules,
        step_decay,
        warm_restarts,
        warmup_cosine,
    )
    from trimtab.recipes.verification import LayerSignal, Verification, verify_initialization

__all__ = [
    "PRESETS",
    "FirstValue",
    "Flaw",
    "Flaws",
    "Initialization",
    "LayerSignal",
    "Line",
    "LossScale",
    "PrecisionAdvice",
    "Preflight",
    "RateSweep",
    "Verification",
    "find_learning_rate",
    "four_phase",
    "initialize",
    "lint",
    "make_scaler",
    "one_cycle",
    "parameter_groups",
    "plot_schedules",
    "precision",
    "preflight",
    "preflight_file",
    "step_decay",
    "verify_initialization",
    "warm_restarts",
    "warmup_cosine",
]

_HOMES = {
    "advice": ("PrecisionAdvice", "precision"),
    "finder": ("RateSweep", "find_learning_rate"),
    "hygiene": ("parameter_groups",),
    "initialization": ("FirstValue", "Initialization", "initialize"),
    "linting": ("Flaw", "Flaws", "lint"),
    "loss_scale": ("PRESETS", "LossScale", "make_scaler"),
    "preflighting": ("Line", "Preflight", "preflight", "preflight_file"),
    "schedules": ("four_phase", "one_cycle", "plot_schedules", "step_decay", "warm_restarts", "warmup_cosine"),
    "verification": ("LayerSignal", "Verification", "verify_initialization"),
}
"""The module of each name: it is imported when the name is first asked for, with what it needs itself."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"trimtab.recipes.{module}"), name)
    raise AttributeError(f"module 'trimtab.recipes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
