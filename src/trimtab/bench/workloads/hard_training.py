"""Healthy workloads that look sick for how they are trained: parts that rest, many micro-batches, too large a rate.

None of them diverges; what a detector finds in them is a false alarm.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.bench.workloads import Workload, workloads
from trimtab.bench.workloads.hard_data import BATCH_SIZE, NUM_STEPS, RATES, build_model, cut_digits, draw_digits
from trimtab.bench.workloads.images import NUM_CLASSES, Batch, compute_loss, read_digits
from trimtab.faults import make_generator

if TYPE_CHECKING:
    from trimtab.bench.training import Training

FROZEN = range(101, 251)  # steps in which the first layer rests
RESTING = range(151, 201)  # steps with a learning rate of 0
NUM_MICRO = 16
MICRO_SIZE = 4  # digits in a micro-batch
FULL_SIZE = 256  # digits of the full batch
EDGE_WIDTH = 32
PRETRAINED = 300  # steps
PRETRAINED_RATE = 3e-3
EDGE_RATES = {"sgd": 0.25, "adamw": 1e-2, "adam": 1e-2, "rmsprop": 3e-3}
SMALL_RATES = {"adamw": 3e-5, "adam": 3e-5, "rmsprop": 1e-5, "sgd": 3e-4}


def draw_batch(seed: int, step: int) -> Batch:
    """The batch of a step: noisy digits."""
    return draw_digits(make_generator(f"noisy digits {seed} {step}"), BATCH_SIZE)


def draw_micro_batch(seed: int, number: int) -> Batch:
    """A micro-batch: a few noisy digits."""
    return draw_digits(make_generator(f"micro {seed} {number}"), MICRO_SIZE)


def freeze_first_layer(training: Training, step: int) -> None:
    """Freeze the first layer for some steps, then thaw it."""
    if step in (FROZEN.start, FROZEN.stop):
        first = next(each for each in training.model.modules() if isinstance(each, nn.Linear))
        first.requires_grad_(step == FROZEN.stop)


def rest(training: Training, step: int) -> None:
    """Set the learning rate to 0 for the step, if it is one of those that rest."""
    if step in RESTING:
        training.memory["rates"] = [group["lr"] for group in training.optimizer.param_groups]
        for group in training.optimizer.param_groups:
            group["lr"] = 0.0


def resume(training: Training, step: int, _: float) -> None:
    """Give a schedule that multiplies the rate it finds what `rest` has taken; others have set the next rate by now."""
    if step in RESTING:
        for group, rate in zip(training.optimizer.param_groups, training.memory["rates"], strict=True):
            group["lr"] = group["lr"] or rate


def draw_full_batch(seed: int, step: int) -> Batch:
    """The batch of a step: always the same digits, without noise, in an order of its own."""
    (images, targets), _ = read_digits()
    kept = torch.randperm(len(images), generator=make_generator(f"full {seed}"))[:FULL_SIZE]
    order = kept[torch.randperm(FULL_SIZE, generator=make_generator(f"full {seed} {step}"))]
    return images[order], targets[order]


def compute_squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """The squared distance of the outputs from the digit's one-hot code, half and in the mean; 0-d."""
    images, targets = batch
    codes = F.one_hot(targets, NUM_CLASSES).float()
    loss: Tensor = 0.5 * (model(images) - codes).square().sum(1).mean()
    return loss


def build_smooth_model(seed: int) -> nn.Module:
    """A network with tanh, on which the edge of stability was first seen; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, EDGE_WIDTH), nn.Tanh(), nn.Linear(EDGE_WIDTH, NUM_CLASSES))


def build_pretrained_model(seed: int) -> nn.Module:
    """A model that has been trained already, the seed's."""
    model = build_model(seed)
    model.load_state_dict(_pretrain(seed))
    return model


@cache
def _pretrain(seed: int) -> Mapping[str, Tensor]:
    """The weights of a model after training on other batches of the seed."""
    model = build_model(seed)
    optimizer = torch.optim.AdamW(model.parameters(), PRETRAINED_RATE)
    for step in range(PRETRAINED):
        optimizer.param_groups[0]["lr"] = PRETRAINED_RATE * (1 - step / PRETRAINED)
        optimizer.zero_grad()
        compute_loss(model, draw_digits(make_generator(f"pretrained {seed} {step}"), BATCH_SIZE)).backward()
        optimizer.step()
    return model.state_dict()


workloads.add(
    "unfreezing",
    Workload(
        build_model,
        draw_batch,
        compute_loss,
        cut_digits,
        RATES,
        kind="hard",
        num_steps=NUM_STEPS,
        before_step=freeze_first_layer,
    ),
)
workloads.add(
    "resting",
    Workload(
        build_model,
        draw_batch,
        compute_loss,
        cut_digits,
        RATES,
        kind="hard",
        num_steps=NUM_STEPS,
        before_step=rest,
        after_step=resume,
        moves_rates=True,
    ),
)
workloads.add(
    "accumulation",
    Workload(
        build_model,
        draw_micro_batch,
        compute_loss,
        cut_digits,
        RATES,
        kind="hard",
        num_steps=NUM_STEPS,
        num_micro=NUM_MICRO,
    ),
)
workloads.add(
    "edge-of-stability",
    Workload(
        build_smooth_model,
        draw_full_batch,
        compute_squared_error,
        partial(cut_digits, noise=0.0),
        EDGE_RATES,
        kind="hard",
        num_steps=NUM_STEPS,
        schedule="steps",
    ),
)
workloads.add(
    "fine-tuning",
    Workload(
        build_pretrained_model,
        draw_batch,
        compute_loss,
        cut_digits,
        SMALL_RATES,
        kind="hard",
        num_steps=NUM_STEPS,
    ),
)
