"""Recipes: what is chosen, and what is looked at, before the first step."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.recipes.advice import PrecisionAdvice, precision
    from trimtab.recipes.batch_size import BatchSize, find_batch_size
    from trimtab.recipes.finder import RateSweep, find_learning_rate
    from trimtab.recipes.hygiene import parameter_groups
    from trimtab.recipes.initialization import FirstValue, Initialization, initialize
    from trimtab.recipes.linting import Flaw, Flaws, lint
    from trimtab.recipes.loss_scale import PRESETS, LossScale, make_scaler
    from trimtab.recipes.normalization import Advice, Advices, advise_normalization
    from trimtab.recipes.preflighting import Line, Preflight, preflight, preflight_file
    from trimtab.recipes.recommending import Choice, Recommendation, recommend
    from trimtab.recipes.regularization import (
        DropoutSchedule,
        Prediction,
        advise_dropout,
        predict_with_dropout,
    )
    from trimtab.recipes.sampling import StratifiedBatches, stratified_batches
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
    "Advice",
    "Advices",
    "BatchSize",
    "Choice",
    "DropoutSchedule",
    "FirstValue",
    "Flaw",
    "Flaws",
    "Initialization",
    "LayerSignal",
    "Line",
    "LossScale",
    "PrecisionAdvice",
    "Prediction",
    "Preflight",
    "RateSweep",
    "Recommendation",
    "StratifiedBatches",
    "Verification",
    "advise_dropout",
    "advise_normalization",
    "find_batch_size",
    "find_learning_rate",
    "four_phase",
    "initialize",
    "lint",
    "make_scaler",
    "one_cycle",
    "parameter_groups",
    "plot_schedules",
    "precision",
    "predict_with_dropout",
    "preflight",
    "preflight_file",
    "recommend",
    "step_decay",
    "stratified_batches",
    "verify_initialization",
    "warm_restarts",
    "warmup_cosine",
]

_HOMES = {
    "advice": ("PrecisionAdvice", "precision"),
    "batch_size": ("BatchSize", "find_batch_size"),
    "finder": ("RateSweep", "find_learning_rate"),
    "hygiene": ("parameter_groups",),
    "initialization": ("FirstValue", "Initialization", "initialize"),
    "linting": ("Flaw", "Flaws", "lint"),
    "loss_scale": ("PRESETS", "LossScale", "make_scaler"),
    "preflighting": ("Line", "Preflight", "preflight", "preflight_file"),
    "normalization": ("Advice", "Advices", "advise_normalization"),
    "recommending": ("Choice", "Recommendation", "recommend"),
    "regularization": ("DropoutSchedule", "Prediction", "advise_dropout", "predict_with_dropout"),
    "sampling": ("StratifiedBatches", "stratified_batches"),
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
