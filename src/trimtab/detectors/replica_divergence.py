"""Ranks that should have the same weights, and have not."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach

METRIC = "replica_divergence"


@detector("replica-divergence", severity="high", needs=METRIC)
def find_replica_divergence(history: History) -> Iterator[Breach]:
    """The weights of data-parallel ranks differ.

    What it sees:
        At a sampled step (2, 102, 202 and so on) of a distributed run, groups in which the weights that every rank
        has whole are not the same on all ranks, bit for bit. The record names the ranks that are not as most are.
    Why it matters:
        Each rank computes gradients for weights that no other has, and their mean fits none. Nothing brings the ranks
        together again, so they drift apart, and what is saved and evaluated is the first rank's alone.
    Stays silent:
        On sharded weights, of which each rank has another part; on buffers, of which ranks may have their own; on runs
        of one process.
    Settings:
        None.
    Default response:
        None; it is advisory, since some trainings mean it, such as local parameters that are left out of the wrapper.
        A checkpoint on probation is stamped unhealthy. Usual causes: a parameter that is not registered when the model
        is wrapped, a step that one rank skipped, weights loaded on one rank alone, faulty hardware. Go on from a
        checkpoint, which holds one set of weights for all ranks.
    """
    differs = history.newest.values.get(METRIC, ())
    assert isinstance(differs, tuple)
    groups = tuple(group for group, each in zip(history.groups, differs, strict=False) if each > 0)
    if groups:
        message = f"weights of {', '.join(groups)} differ between ranks"
        yield Breach(metric=METRIC, value=float(len(groups)), limit=0.0, message=message, groups=groups, in_state=True)
