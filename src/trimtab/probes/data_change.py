"""Other data, which the loop has announced."""

from __future__ import annotations

from trimtab.probes import Values, probe
from trimtab.probes.subject import Moment


@probe("data_change")
def read_data_change(moment: Moment) -> Values:
    """`data_declared`: 1 at the first step with data that the loop has said are other ones; absent at all others."""
    return {"data_declared": 1.0} if moment.is_data_declared else {}
