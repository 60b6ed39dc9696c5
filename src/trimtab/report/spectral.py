"""The exponents of the weights' spectra as a heat map: layers down, reviews across."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from trimtab.diagnosis.evidence import Evidence
from trimtab.report.heatmaps import DIGITS
from trimtab.report.reduction import list_numbers
from trimtab.spectra import HEALTHY


def describe_spectra(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """The panel of the exponents by layer, where they were measured."""
    events = [event for event in evidence.events if event.get("event") == "spectra"]
    names = list(dict.fromkeys(each["name"] for event in events for each in event["matrices"]))
    if not names:
        return
    cells = np.full((len(names), len(events)), np.nan)
    for column, event in enumerate(events):
        for each in event["matrices"]:
            cells[names.index(each["name"]), column] = float(each.get("fit", {}).get("alpha", np.nan))
    yield {
        "id": "spectra_by_layer",
        "kind": "heat",
        "section": "Spectra",
        "title": "Exponent of the spectrum by layer",
        "about": f"Grey is usual of trained layers: {HEALTHY[0]:g} to {HEALTHY[1]:g}; orange above, blue below",
        "groups": names,
        "steps": [int(event["step"]) for event in events],
        "cells": [list_numbers(row, DIGITS) for row in cells],
        "levels": [None] * len(names),
        "is_relative": False,
        "usual": list(HEALTHY),
        "odd": [],
    }
