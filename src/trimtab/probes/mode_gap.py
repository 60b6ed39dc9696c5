"""The loss of a step's own batch in eval mode, beside what it is by the statistics of the batch."""

from __future__ import annotations

from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from trimtab.errors import InputError
from trimtab.probes import Reading, probe
from trimtab.probes.batches import take_samples
from trimtab.probes.rerun import ComputeLoss, compute_number, keep_training
from trimtab.probes.subject import Moment

NUM_SAMPLES = 64
"""Samples of the batch that are computed again, or all where it has fewer: enough for the statistics of a norm."""

METRICS = ("eval_mode_loss", "eval_mode_loss_again", "batch_norm_loss", "eval_dropouts")


@probe("mode_gap", size=lambda moment: len(METRICS) * int(moment.compute_loss is not None))
def measure_mode_gap(moment: Moment) -> Reading:
    """`eval_mode_loss`: the loss of the first 64 samples of the step's batch in eval mode, with the weights at hand.

    `eval_dropouts`: calls of a dropout that is active all the same, and where there are some `eval_mode_loss_again`,
    the same loss once more, from other random numbers. `batch_norm_loss`: the same loss with norms by the statistics of
    these samples in place of their running ones, where the model has such norms in training mode.

    At sampled steps of a supervisor with `compute_loss` that is given the batches, without ranks. Modes, buffers and
    random numbers are set back. A model that is compiled is left alone, since each mode would be compiled anew.
    """
    if moment.compute_loss is None:
        return {}
    numbers = yield _measure(moment, moment.compute_loss)
    return {name: float(each) for name, each in zip(METRICS, numbers, strict=True) if isfinite(float(each))}


def is_compiled(model: nn.Module) -> bool:
    """True if a module of a model is compiled, in place or by `torch.compile`."""
    return any(
        isinstance(each, torch._dynamo.OptimizedModule) or getattr(each, "_compiled_call_impl", None) is not None
        for each in model.modules()
    )


def _measure(moment: Moment, compute_loss: ComputeLoss) -> list[float]:
    model = moment.subject.model
    if not model.training or moment.batch is None:
        return [nan] * len(METRICS)
    try:
        samples = take_samples(moment.batch, NUM_SAMPLES)
    except InputError:  # a batch without tensors to cut
        return [nan] * len(METRICS)
    try:
        return _compare(model, compute_loss, samples)
    except torch.OutOfMemoryError:  # the step had room for its gradients, and what is left over may be more next time
        return [nan] * len(METRICS)
    except Exception as error:
        moment.mode_failure = error
        return [nan] * len(METRICS)


def _compare(model: nn.Module, compute_loss: ComputeLoss, samples: Any) -> list[float]:
    norms = [each for each in model.modules() if isinstance(each, _NormBase) and each.training]
    norms = [each for each in norms if each.track_running_stats]
    again = by_batch = nan
    with keep_training(model):
        model.eval()
        with _Dropouts() as dropouts:
            usual = compute_number(model, compute_loss, samples)
        if dropouts.num_active:
            torch.manual_seed(torch.initial_seed() + 1)
            again = compute_number(model, compute_loss, samples)
        if norms:
            for each in norms:
                each.train()
            by_batch = _compute_by_batch(model, compute_loss, samples)
    return [usual, again, by_batch, float(dropouts.num_active)]


def _compute_by_batch(model: nn.Module, compute_loss: ComputeLoss, samples: Any) -> float:
    """The loss by the statistics of the samples; NaN where they are a single number a channel."""
    try:
        return compute_number(model, compute_loss, samples)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        return nan


class _Dropouts(TorchFunctionMode):
    """Counts the calls of a dropout that is active, by a module or a function."""

    def __init__(self) -> None:
        super().__init__()
        self.num_active = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        if "dropout" in name:
            self.num_active += _is_active(args, given)
        elif name == "scaled_dot_product_attention":
            rate = given.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            self.num_active += not isinstance(rate, Tensor) and rate > 0
        return func(*args, **given)


def _is_active(args: Any, given: Any) -> bool:
    """True if a dropout function was called to drop: its rate is above 0, and it was told to train."""
    rate = given.get("p", args[1] if len(args) > 1 else 0.5)
    train = given.get("training", given.get("train", args[2] if len(args) > 2 else True))
    return bool(train) and rate > 0
