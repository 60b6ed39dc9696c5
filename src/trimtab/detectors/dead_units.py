"""Layers whose units are all but dead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "dead_units"


@detector("dead-units", severity="medium", needs=METRIC)
def find_dead_units(history: History, *, limit: float = 0.9, samples: int = 2) -> Iterator[Breach]:
    """Nearly all ReLU units of a group are 0 for the whole batch.

    What it sees:
        A group in which the share of such units was above `limit` at each of the newest `samples` sampled steps (2,
        102, 202 and so on). Only `nn.ReLU` and `nn.ReLU6` modules are seen, not the functions of the same name, and
        not what `torch.compile` has compiled.
    Why it matters:
        A unit that is 0 for every sample gets no gradient and stays 0. A layer of them passes nothing on, forward or
        backward. The usual causes are a learning rate that was too high once, inputs that are not normalized, and a
        large negative bias.
    Stays silent:
        On the share of dead units that healthy networks have, also a large one, and where a unit was seen at fewer
        than 32 places, since a sparse unit is often 0 for a single sample.
    Settings:
        limit: the share that is not remarked on, from 0 to 1.
        samples: sampled steps in a row it takes.
    Default response:
        None; it is advisory. Lower the learning rate, normalize the inputs, or use a leaky activation.
    """
    if METRIC not in history.newest.values:
        return
    shares = history.measured(METRIC, samples)
    if len(shares) < samples:
        return
    dead = np.flatnonzero(shares.min(axis=0) > limit)
    if len(dead):
        dead = dead[np.argsort(-shares[-1, dead], kind="stable")]
        groups, share = tuple(history.groups[index] for index in dead), float(shares[-1, dead[0]])
        rest = f" and {len(dead) - 1} more groups" if len(dead) > 1 else ""
        message = f"{share:.1%} of the ReLU units of {groups[0]}{rest} are 0 for the whole batch, above {limit:.1%}"
        yield Breach(metric=METRIC, value=share, limit=limit, message=message, groups=groups)
