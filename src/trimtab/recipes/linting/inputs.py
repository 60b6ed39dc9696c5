"""What a batch holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trimtab.control.batches import count_samples
from trimtab.probes.inspection import list_tensors
from trimtab.recipes.calls import CLASSIFYING, TARGET_NAMES, count_out_of_range, is_index
from trimtab.recipes.linting import Remark, Setup, check

MOST_RMS = 10.0
"""The root mean square from which inputs are called unscaled: ten times what initializations expect."""

NORMALIZING = frozenset("batch_norm layer_norm group_norm instance_norm rms_norm embedding div sub mul".split())
"""What takes inputs of any scale first."""

MIN_LABELS = 8
"""Fewer labels are alike by chance: of two classes, eight in one of 128 batches."""


def list_named(batch: Any) -> list[tuple[str, Tensor]]:
    """The tensors of a batch with their places, such as `batch[0]`."""
    return [] if batch is None else list(list_tensors(batch, "batch"))


def list_inputs(batch: Any) -> list[tuple[str, Tensor]]:
    """Those that hold measured numbers: without the target, masks, and whole numbers."""
    named = list_named(batch)
    inputs = named[:-1] if len(named) > 1 and isinstance(batch, (list, tuple)) else named
    inputs = [each for each in inputs if not any(f"['{name}']" in each[0] for name in TARGET_NAMES)]
    return [(name, each) for name, each in inputs if each.is_floating_point() and "mask" not in name and each.numel()]


@check("nonfinite-inputs", severity="critical")
def find_nonfinite(setup: Setup) -> Iterator[Remark]:
    """NaN or infinity in a batch; −inf beside 0 alone is a mask."""
    for name, each in list_named(setup.batch):
        if not each.is_floating_point():
            continue
        is_bad = ~torch.isfinite(each)
        is_mask = bool(((each == 0) | (each == -torch.inf)).all())
        num_bad = int(is_bad.sum())
        if num_bad and not is_mask:
            rows = int(is_bad.reshape(len(each), -1).any(1).sum()) if each.ndim else 1
            yield Remark(
                num_bad,
                f"{num_bad:,} of {each.numel():,} numbers of {name} are not finite, in {rows} rows",
                "drop these rows, or fill the missing values before training",
            )


@check("constant-inputs", severity="high")
def find_constant(setup: Setup) -> Iterator[Remark]:
    """Inputs that are all one number, or samples that are all the same."""
    for name, each in list_inputs(setup.batch):
        if each.numel() > 1 and bool((each == each.reshape(-1)[0]).all()):
            yield Remark(
                float(each.reshape(-1)[0]),
                f"all {each.numel():,} numbers of {name} are {float(each.reshape(-1)[0]):g}",
                "look at how it is read and transformed",
            )
        elif each.ndim > 1 and len(each) > 1 and bool((each == each[:1]).all()):
            yield Remark(
                len(each), f"all {len(each)} samples of {name} are the same", "look at how samples are read and indexed"
            )


@check("unscaled-inputs", severity="medium")
def find_unscaled(setup: Setup) -> Iterator[Remark]:
    """Inputs far from the scale that initializations expect, such as pixels from 0 to 255, and no layer to mend it."""
    if setup.trial is not None and setup.trial.first_use in NORMALIZING:
        return
    for name, each in list_inputs(setup.batch):
        rms = measure_rms(each)
        if rms > MOST_RMS:
            lowest, highest = float(each.min()), float(each.max())
            pixels = ", as pixels are that were not divided by 255" if lowest >= 0 and 1 < highest <= 255 else ""
            yield Remark(
                rms,
                f"{name} lies in {lowest:g} to {highest:g}, with a root mean square of {rms:.3g}{pixels}; "
                "initializations expect about 1",
                "subtract the mean and divide by the standard deviation of the training data",
            )


def measure_rms(tensor: Tensor) -> float:
    """The root mean square of numbers, whatever their size."""
    largest = float(tensor.abs().max())
    return largest * float((tensor.float() / largest).square().mean().sqrt()) if 0 < largest < torch.inf else largest


@check("labels-out-of-range", severity="critical")
def find_out_of_range(setup: Setup) -> Iterator[Remark]:
    """Class numbers that the scores have no column for, or targets of a probability outside 0 to 1."""
    for call in setup.trial.losses if setup.trial is not None else ():
        num_out, lowest, highest, num_places = count_out_of_range(call)
        if num_out:
            from_one = " (they may begin at 1)" if lowest == 1 and highest == num_places else ""
            yield Remark(
                num_out,
                f"{num_out} labels are out of range: they lie in {lowest} to {highest}, and the scores have "
                f"{num_places} classes, 0 to {num_places - 1}{from_one}",
                "number the classes from 0, and give the last layer one unit for each",
            )
        target = call.get(1, "target")
        if call.function.startswith("binary_cross_entropy") and bool(((target < 0) | (target > 1)).any()):
            num_out = int(((target < 0) | (target > 1)).sum())
            yield Remark(
                num_out,
                f"{num_out} targets of {call.function} are outside 0 to 1: they lie in {float(target.min()):g} to "
                f"{float(target.max()):g}",
                "make the targets 0 and 1, or probabilities",
            )


@check("ids-out-of-range", severity="critical")
def find_ids_out_of_range(setup: Setup) -> Iterator[Remark]:
    """Numbers of tokens or categories that an embedding has no row for."""
    for call in setup.trial.calls if setup.trial is not None else ():
        num_out, lowest, highest, num_places = count_out_of_range(call)
        if num_out and call.function == "embedding":
            yield Remark(
                num_out,
                f"{num_out} ids are out of range in {call.where}: they lie in {lowest} to {highest}, and the embedding "
                f"has {num_places} rows",
                "make the embedding as large as the vocabulary, positions included",
            )


@check("one-class", severity="medium")
def find_one_class(setup: Setup) -> Iterator[Remark]:
    """Labels of a batch that are all the same, or all ignored."""
    for call in setup.trial.losses if setup.trial is not None else ():
        target = call.get(1, "target")
        is_binary = call.function.startswith("binary_cross_entropy")
        if not isinstance(target, Tensor) or not (is_binary or (call.function in CLASSIFYING and is_index(target))):
            continue
        kept = target if is_binary else target[target != call.get(4, "ignore_index", -100)]
        if not kept.numel():
            yield Remark(0.0, "all labels of the batch are ignored: its loss is 0/0", "look at how labels are made")
        elif kept.numel() >= MIN_LABELS and bool((kept == kept.reshape(-1)[0]).all()):
            yield Remark(
                float(kept.reshape(-1)[0]),
                f"all {kept.numel()} labels of the batch are {float(kept.reshape(-1)[0]):g}",
                "shuffle the data; if classes are rare, sample them by hand",
            )


@check("too-few-samples", severity="medium")
def find_too_few(setup: Setup) -> Iterator[Remark]:
    """A single sample where BatchNorm is to take statistics over the batch."""
    norms = [
        name for name, each in setup.model.named_modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)
    ]
    num_samples = count_samples(setup.batch) if setup.batch is not None else None
    if norms and num_samples == 1:
        yield Remark(
            1.0,
            f"the batch has one sample, and {norms[0]} normalizes over the batch",
            "use GroupNorm, or larger batches",
        )
