"""A second measurement of the state: the loss of a few held-out samples, or whatever a user's function gives."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trimtab.errors import InputError
from trimtab.probes import Reading, probe
from trimtab.probes.batches import take_samples
from trimtab.probes.rerun import ComputeLoss, compute_number, keep_training
from trimtab.probes.subject import Moment

Evaluate: TypeAlias = Callable[[nn.Module], Tensor | float]
"""`evaluate(model)`: one number that says how good a state is, lower being better."""

NUM_SAMPLES = 16
"""Samples of a held-out batch that are measured, as in arXiv 2601.17483."""


@probe("probe_loss", size=lambda moment: 2 * int(moment.evaluate is not None))
def measure_probe_loss(moment: Moment) -> Reading:
    """`probe_loss`: the probe's measurement of the state at hand, in its own unit; `probe_seconds`: how long it took.

    The model is in eval mode, but for BatchNorm, which takes its statistics from what is measured: its running
    ones lag behind the weights, and say more of the steps before than of the state. Everything a forward pass may
    change is set back afterwards.
    """
    if moment.evaluate is None:
        return {}
    began = perf_counter()
    with keep_training(moment.subject.model):
        begin_measuring(moment.subject.model)
        value = float(moment.evaluate(moment.subject.model))
    numbers = yield [value, perf_counter() - began]
    return {"probe_loss": float(numbers[0]), "probe_seconds": float(numbers[1])}


def begin_measuring(model: nn.Module) -> None:
    """Put a model into eval mode, but for BatchNorm; not one that waits for other ranks, which may have failed."""
    model.eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            module.train()


def make_evaluate(given: Any, compute_loss: ComputeLoss | None) -> Evaluate | None:
    """What measures a state: a user's function as it is, or the loss of the first samples of a held-out batch.

    Args:
        given: a function `evaluate(model)`, a batch, or None.
        compute_loss: gives the loss of a batch.

    Raises:
        InputError: if it is a batch, and there is no `compute_loss`.
    """
    if given is None or callable(given):
        evaluate: Evaluate | None = given
        return evaluate
    if compute_loss is None:
        raise InputError(
            "supervisor: probe is a batch, so its loss has to be computed; pass compute_loss= too, or as probe a "
            "function that takes the model and returns one number"
        )
    batch = take_samples(given, NUM_SAMPLES)
    return lambda model: compute_number(model, compute_loss, batch)
