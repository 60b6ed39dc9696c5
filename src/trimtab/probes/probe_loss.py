"""A second measurement of the state: the loss of a few held-out samples, or whatever a user's function gives."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, nan
from time import perf_counter
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from trimtab.errors import InputError
from trimtab.probes import Reading, probe
from trimtab.probes.batches import take_samples
from trimtab.probes.rerun import ComputeLoss, compute_number, keep_training
from trimtab.probes.subject import Moment

Evaluate: TypeAlias = Callable[[nn.Module], Tensor | float]
"""`evaluate(model)`: one number that says how good a state is, lower being better."""

NUM_SAMPLES = 16
"""Samples of a held-out batch that are measured, as in arXiv 2601.17483."""


@probe("probe_loss", size=lambda moment: 3 * int(moment.evaluate is not None))
def measure_probe_loss(moment: Moment) -> Reading:
    """`probe_loss`: the probe's measurement of the state at hand, in its own unit; `probe_seconds`: how long it took.

    `probe_failed`: 1 where the measurement failed, on any rank; then the other two are absent.

    The model is in eval mode, but for BatchNorm, which takes its statistics from what is measured: its running
    ones lag behind the weights, and say more of the steps before than of the state. Everything a forward pass may
    change is set back afterwards.
    """
    if moment.evaluate is None:
        return {}
    began, value = perf_counter(), nan
    try:
        value = evaluate(moment.subject.model, moment.evaluate)
        if moment.is_first_probe and not isfinite(value):
            raise ValueError(f"its first measurement is {value}")
    except Exception as error:
        moment.probe_failure = error
    numbers = yield [value, perf_counter() - began, float(moment.probe_failure is not None)]
    if numbers[2] > 0:
        return {"probe_failed": 1.0}
    return {"probe_loss": float(numbers[0]), "probe_seconds": float(numbers[1])}


def evaluate(model: nn.Module, measure: Evaluate) -> float:
    """Measure a state, and leave everything as it was.

    BatchNorm takes the statistics of what is measured; not where that is a single number a channel, of which there are
    none, nor where it is synchronized, and would wait for other ranks, which may have failed.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # whose forward pass waits for no other rank, of which one may have failed
    with keep_training(model):
        model.eval()
        for module in model.modules():
            if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
                module.train()
        try:
            return float(measure(model))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            model.eval()
            return float(measure(model))


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
    if isinstance(given, DataLoader):
        raise InputError("supervisor: probe is a DataLoader; it has to be one batch, such as next(iter(loader))")
    if compute_loss is None:
        raise InputError(
            "supervisor: probe is a batch, so its loss has to be computed; pass compute_loss= too, or as probe a "
            "function that takes the model and returns one number"
        )
    batch = take_samples(given, NUM_SAMPLES)
    return lambda model: compute_number(model, compute_loss, batch)
