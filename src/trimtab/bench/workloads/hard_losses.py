"""Healthy workloads that look sick for their loss: one that is below 0, and two that go to 0.

None of them diverges; what a detector finds in them is a false alarm.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.bench.workloads import Workload, workloads
from trimtab.bench.workloads.hard_data import BATCH_SIZE, NUM_STEPS, RATES, build_model, cut_digits
from trimtab.bench.workloads.images import NUM_HELD_OUT, Batch, compute_loss, read_digits
from trimtab.bench.workloads.regression import (
    build_model as build_weather_network,
    cut_held_out as cut_weather,
    draw_batch as draw_weather,
)
from trimtab.faults import make_generator

NUM_MEMORIZED = 64


def compute_likelihood_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean negative log-likelihood under a normal distribution, in nats without the constant; 0-d.

    The model tells mean and log-variance; the loss falls below 0 where it is surer than the data's spread.
    """
    inputs, targets = batch
    mean, log_variance = model(inputs).unbind(1)
    loss: Tensor = 0.5 * (log_variance + (targets - mean).square() * torch.exp(-log_variance)).mean()
    return loss


def compute_zero_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy of whether a digit is 0, in nats; 0-d."""
    images, is_zero = batch
    return F.binary_cross_entropy_with_logits(model(images)[:, 0], is_zero)


def draw_zeros(seed: int, step: int) -> Batch:
    """The batch of a step: digits without noise, and whether they are 0, which is easily told."""
    (images, targets), _ = read_digits()
    chosen = torch.randint(len(images), (BATCH_SIZE,), generator=make_generator(f"zeros {seed} {step}"))
    return images[chosen], (targets[chosen] == 0).float()


def cut_zeros(num: int = NUM_HELD_OUT) -> Batch:
    """The validation set, or the first digits of it: in mixed order, without noise."""
    images, targets = cut_digits(num, noise=0.0)
    return images, (targets == 0).float()


def draw_memorized(seed: int, step: int) -> Batch:
    """The batch of a step: half of the same 64 digits, which are the seed's, without noise."""
    (images, targets), _ = read_digits()
    kept = torch.randperm(len(images), generator=make_generator(f"memorized {seed}"))[:NUM_MEMORIZED]
    chosen = kept[torch.randperm(NUM_MEMORIZED, generator=make_generator(f"memorized {seed} {step}"))[:BATCH_SIZE]]
    return images[chosen], targets[chosen]


workloads.add(
    "negative-loss",
    Workload(
        partial(build_weather_network, num_outputs=2),
        draw_weather,
        compute_likelihood_loss,
        cut_weather,
        RATES,
        kind="hard",
        num_steps=NUM_STEPS,
    ),
)
workloads.add(
    "vanishing-loss",
    Workload(
        partial(build_model, num_outputs=1),
        draw_zeros,
        compute_zero_loss,
        cut_zeros,
        RATES,
        kind="hard",
        num_steps=NUM_STEPS,
    ),
)
workloads.add(
    "memorizing",
    Workload(
        build_model,
        draw_memorized,
        compute_loss,
        partial(cut_digits, noise=0.0),
        RATES,
        kind="hard",
        num_steps=NUM_STEPS,
    ),
)
