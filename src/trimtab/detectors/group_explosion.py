"""One group's gradients so far above all they have been that nothing of them can be used."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.detectors.group_spike import judge_groups
from trimtab.history import History
from trimtab.types import Breach


@detector("group-explosion", severity="high")
def find_group_explosion(
    history: History, *, above: float = 0.0, times: float = 1e4, window: int = 500, warmup: int = 16
) -> Iterator[Breach]:
    """The gradient norm of one group has exploded.

    What it sees:
        As group-spike, with limits a hundred times as high.
    Why it matters:
        At such a norm the direction is noise too. The other groups can be trained on without it.
    Stays silent:
        As group-spike.
    Settings:
        above: an absolute limit in the unit of the norm; 0 for none. The preset `three-tier` sets 1e6.
        times: how many times its usual norm a group's norm may be; 0 for no relative limit.
        window: steps that are looked at.
        warmup: samples below which the relative limit does not hold.
    Default response:
        Drop that group's update: its gradients become None, so that the optimizer leaves it alone. At the third drop
        in an episode freeze it from the next step on, for `freeze_steps` of the policy.
    """
    yield from judge_groups(history, above, times, window, warmup)
