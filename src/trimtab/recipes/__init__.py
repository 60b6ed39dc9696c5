"""Recipes: what is chosen, and what is looked at, before the first step."""

from __future__ import annotations

from trimtab.recipes.advice import PrecisionAdvice, precision
from trimtab.recipes.finder import RateSweep, find_learning_rate
from trimtab.recipes.linting import Flaw, Flaws, lint
from trimtab.recipes.loss_scale import PRESETS, LossScale, make_scaler
from trimtab.recipes.preflighting import Line, Preflight, preflight, preflight_file

__all__ = [
    "PRESETS",
    "Flaw",
    "Flaws",
    "Line",
    "LossScale",
    "PrecisionAdvice",
    "Preflight",
    "RateSweep",
    "find_learning_rate",
    "lint",
    "make_scaler",
    "precision",
    "preflight",
    "preflight_file",
]
