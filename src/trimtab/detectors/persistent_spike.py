"""A spike that does not come down again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import LEVEL_STEP, Breach

JUDGED_EVERY = 8
"""Steps from one judgement to the next, each of which looks at the steps since the last."""


@detector("persistent-spike", severity="high")
def find_persistent_spike(
    history: History, *, sigmas: float = 3.0, recovered: float = 0.5, window: int = 100, patience: int = 50
) -> Iterator[Breach]:
    """The loss rose at one step and has not come down since.

    What it sees:
        A loss above mean + `sigmas` standard deviations of the `window` ones before it, `patience` steps ago,
        and none since that was below mean + `recovered` standard deviations. It is judged every 8th step, and found
        once.
    Why it matters:
        A spike that comes down costs a few steps. One that does not has set the run back to another, worse place, from
        which it has to learn anew, if it can.
    Stays silent:
        On spikes that come down within `patience` steps, and until a quarter of the window was there before the spike.
        A harder domain that stays for good is found too, since the loss alone cannot tell them apart. What was measured
        before a `Supervisor.declare_loss_change` is another loss, with which nothing is compared.
    Settings:
        sigmas: standard deviations over the mean that are a spike.
        recovered: standard deviations over the mean at which it is over.
        window: losses before the spike.
        patience: steps it has to come down.
    Default response:
        None; it is advisory. With the ladder ["reload+tighten", "halt"] the run goes back to the newest healthy
        checkpoint from before the spike, with a clip limit of 0.5 for a while.
    """
    if history.newest.step % JUDGED_EVERY or not history.has("loss"):
        return
    losses = history.column("loss")[_find_begin(history) :]
    first = len(losses) - patience - JUDGED_EVERY
    width = min(window, first)
    if width < max(window // 4, 1):
        return
    before = sliding_window_view(losses[first - width : first + JUDGED_EVERY - 1], width)
    finite = np.isfinite(before)
    num = np.maximum(finite.sum(axis=1), 1)
    means = np.where(finite, before, 0.0).sum(axis=1) / num
    deviations = np.sqrt((np.where(finite, before - means[:, None], 0.0) ** 2).sum(axis=1) / num)
    for row, mean, deviation in zip(range(first, first + JUDGED_EVERY), means, deviations, strict=True):
        limit = mean + sigmas * deviation
        begins = not losses[row] <= limit and losses[row - 1] <= limit
        if begins and not (losses[row : row + patience + 1] <= mean + recovered * deviation).any():
            step = int(history.steps[row - len(losses)])
            message = (
                f"the loss rose to {losses[row]:.4g} at step {step}, above {limit:.4g}, and has not come down in "
                f"{patience} steps"
            )
            value = float(history.newest.values.get("loss", np.nan))  # type: ignore[arg-type]  # it is no group metric
            yield Breach(
                metric="loss", value=value, limit=float(limit), expected=float(mean), message=message, since=step
            )
            return


def _find_begin(history: History) -> int:
    """The row from which on the loss is the one of now."""
    if not history.has(LEVEL_STEP):
        return 0
    changed = np.flatnonzero(history.column(LEVEL_STEP) < 0)
    return int(changed[-1]) if len(changed) else 0
