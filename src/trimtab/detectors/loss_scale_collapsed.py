"""A loss scale below 1."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "loss_scale"


@detector("loss-scale-collapsed", severity="high", needs=METRIC)
def find_collapsed_loss_scale(history: History, *, least: float = 1.0) -> Iterator[Breach]:
    """The loss scale has fallen below 1.

    What it sees:
        A loss scale below `least`, at the step at which it comes there and whenever it falls further.
    Why it matters:
        Gradients that overflow at a scale of 1 are themselves beyond 65504, the largest float16. That is no
        transient which a scaler can calibrate away: activations or weights have grown too large.
    Stays silent:
        While the scale looks for its level above `least`, and while it rests or recovers below it.
    Settings:
        least: the smallest scale that is not remarked on.
    Default response:
        None: it is recorded only. Check the initialization and the magnitude of the residual stream, and halve the
        learning rate.
    """
    scale = history.newest.values.get(METRIC)
    if not isinstance(scale, float) or not scale < least:
        return
    scales = history.column(METRIC)
    if len(scales) > 1 and scales[-2] <= scale:
        return
    message = (
        f"loss_scale {scale:.4g} is below {least:.4g}: activations are too large for float16; "
        "check initialization and residual-stream magnitude, halve the learning rate"
    )
    yield Breach(metric=METRIC, value=scale, limit=least, message=message)
