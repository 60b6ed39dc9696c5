"""The branches of the decision tree: one file per question, each with the causes it knows; an open set."""

from __future__ import annotations

from trimtab.diagnosis.tree import known_causes

known_causes.load(__name__, __path__)
