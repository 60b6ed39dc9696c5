"""Recipes: what is chosen before the first step."""

from __future__ import annotations

from trimtab.recipes.advice import PrecisionAdvice, precision
from trimtab.recipes.loss_scale import PRESETS, LossScale, make_scaler

__all__ = ["PRESETS", "LossScale", "PrecisionAdvice", "make_scaler", "precision"]
