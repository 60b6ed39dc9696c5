"""Parameters that are not in the optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "unoptimized"


@detector("unoptimized-parameter", severity="medium", needs=METRIC)
def find_unoptimized(history: History) -> Iterator[Breach]:
    """Parameters of the model get gradients and are not in the optimizer, so that nothing updates them.

    What it sees:
        At a sampled step (2, 102, 202 and so on), parameters that require a gradient, have one, and are in none of
        the optimizer's parameter groups.
    Why it matters:
        They keep their initial values. The optimizer was built before the model was complete, from a part of it, or a
        layer was replaced since.
    Stays silent:
        On parameters that require no gradient, or got none.
    Settings:
        None.
    Default response:
        None; it is advisory. Build the optimizer when the model is complete, or set `requires_grad = False` for what is
        not to be trained; where another optimizer holds them, give this supervisor its part of the model alone.
    """
    num = history.newest.values.get(METRIC)
    if isinstance(num, float) and num > 0:
        message = f"{num:.0f} parameters have gradients and are not in the optimizer: nothing updates them"
        yield Breach(metric=METRIC, value=num, limit=0.0, message=message)
