"""A level that begins anew, since the loss or the weights were changed on purpose."""

from __future__ import annotations

from trimtab.probes import Values, probe
from trimtab.probes.subject import Moment
from trimtab.types import LEVEL_STEP


@probe("fresh_level")
def read_fresh_level(moment: Moment) -> Values:
    """`level_step`: at the first step after such a change, the last step that still serves as a sample; else absent."""
    return {} if moment.level_step is None else {LEVEL_STEP: float(moment.level_step)}
