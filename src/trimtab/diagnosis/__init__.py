"""From what was measured to causes: pure functions over a history, and over a whole record.

`postmortem` and `sweep` are in the modules of these names.
"""

from trimtab.diagnosis.result import Diagnosis
from trimtab.diagnosis.tree import QUESTIONS, Cause, Kind, known_causes
from trimtab.diagnosis.walk import diagnose, diagnose_values

__all__ = ["QUESTIONS", "Cause", "Diagnosis", "Kind", "diagnose", "diagnose_values", "known_causes"]
