"""Healthy workloads that look sick for their data: noisy labels, outliers, mixed domains and tasks that change.

None of them diverges; what a detector finds in them is a false alarm.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.bench.workloads import Workload, workloads
from trimtab.bench.workloads.images import NOISE, NUM_CLASSES, NUM_HELD_OUT, Batch, compute_loss, read_digits
from trimtab.bench.workloads.regression import (
    build_model as build_weather_network,
    cut_held_out as cut_weather,
    draw_batch as draw_weather,
)
from trimtab.faults import make_generator

if TYPE_CHECKING:
    from trimtab.bench.training import Training

NUM_STEPS = 400
BATCH_SIZE = 32
WIDTH = 64
MISLABELLED = 0.2  # the share of digits whose label is drawn anew
OUTLIERS = 2  # degrees of freedom of Student's t: the variance is infinite
OUTLIERS_SCALE = 0.2  # in standard deviations of the temperature
HARDER_ONE_IN = 10  # batches
HARDER_NOISE = 1.5  # standard deviation, and the digits stand on their heads
DISCOUNT = 0.95  # of the value of the next state
TARGET_EVERY = 20  # steps between two copies into the target network
RATES = {"adamw": 3e-3, "adam": 3e-3, "rmsprop": 1e-3, "sgd": 0.03}
SMALL_BATCH_RATES = {"adamw": 2e-3, "adam": 2e-3, "rmsprop": 1e-3, "sgd": 2e-2}

Transitions = tuple[Tensor, Tensor, Tensor, Tensor]
"""Digits and those they lead to, shape (batch, 1, 8, 8), float32; whether it goes on; rewards; shape (batch,) each."""


def build_model(seed: int, num_outputs: int = NUM_CLASSES) -> nn.Module:
    """A network of two hidden layers over digits; its initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, num_outputs),
        )


def draw_digits(generator: torch.Generator, num: int, noise: float = NOISE) -> Batch:
    """Digits drawn from those to train on, each under its own noise."""
    (images, targets), _ = read_digits()
    chosen = torch.randint(len(images), (num,), generator=generator)
    return _cover(images[chosen], noise, generator), targets[chosen]


def cut_digits(num: int = NUM_HELD_OUT, noise: float = NOISE) -> Batch:
    """The digits held out, or the first of them: the same in every call, in mixed order, under the same noise."""
    images, targets, generator = _mix_held_out()
    return _cover(images, noise, generator)[:num], targets[:num]


def draw_mislabelled(seed: int, step: int, *, batch_size: int) -> Batch:
    """The batch of a step, in which a fifth of the labels is drawn at random."""
    generator = make_generator(f"mislabelled {seed} {step}")
    images, targets = draw_digits(generator, batch_size)
    drawn = torch.randint(NUM_CLASSES, targets.shape, generator=generator)
    is_wrong = torch.rand(targets.shape, generator=generator) < MISLABELLED
    return images, torch.where(is_wrong, drawn, targets)


def draw_with_outliers(seed: int, step: int) -> Batch:
    """The batch of a step: weather, and temperatures with an error that is rarely huge."""
    inputs, targets = draw_weather(seed, step)
    generator = make_generator(f"outliers {seed} {step}")
    normals = torch.randn(1 + OUTLIERS, len(targets), generator=generator)
    errors = normals[0] / normals[1:].square().mean(0).sqrt()
    return inputs, targets + OUTLIERS_SCALE * errors


def compute_squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """The mean squared error, which outliers weigh on; 0-d."""
    inputs, targets = batch
    return F.mse_loss(model(inputs)[:, 0], targets)


def draw_domains(seed: int, step: int) -> Batch:
    """The batch of a step: one in ten, at random, of digits upside down that the noise all but hides."""
    generator = make_generator(f"domains {seed} {step}")
    if torch.rand((), generator=generator) < 1 / HARDER_ONE_IN:
        images, targets = draw_digits(generator, BATCH_SIZE, HARDER_NOISE)
        return images.flip(2), targets
    return draw_digits(generator, BATCH_SIZE)


def draw_tasks(seed: int, step: int) -> Batch:
    """The batch of a step: from the middle of the run on, the digits lie on their sides."""
    images, targets = draw_digits(make_generator(f"tasks {seed} {step}"), BATCH_SIZE)
    return (images if step <= NUM_STEPS // 2 else images.mT), targets


def cut_tasks(num: int = NUM_HELD_OUT) -> Batch:
    """The validation set of both tasks, or the first digits of it: every other one lies on its side."""
    images, targets = cut_digits(num)
    is_turned = torch.arange(len(images)) % 2 == 1
    return torch.where(is_turned[:, None, None, None], images.mT, images), targets


class ValueNetwork(nn.Module):
    """The value of a state that is seen as a digit, and the copy of itself that it learns from.

    Args:
        seed: the seed of the initial weights.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.online = build_model(seed, 1)
        self.target = build_model(seed, 1).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Digits to values: shape (batch, 1, 8, 8) to (batch,)."""
        values: Tensor = self.online(images)[:, 0]
        return values


def draw_transitions(seed: int, step: int) -> Transitions:
    """The batch of a step: digits, each with the one after it; a step pays 1, and 9 is the end of the chain."""
    (images, targets), _ = read_digits()
    return _draw_transitions(images, targets, BATCH_SIZE, make_generator(f"transitions {seed} {step}"))


def cut_transitions(num: int = NUM_HELD_OUT) -> Transitions:
    """The validation set of transitions between digits held out, or the first of them."""
    images, targets, generator = _mix_held_out()
    digits, following, goes_on, rewards = _draw_transitions(images, targets, NUM_HELD_OUT, generator)
    return digits[:num], following[:num], goes_on[:num], rewards[:num]


def compute_bellman_error(model: nn.Module, batch: Transitions) -> Tensor:
    """The mean squared difference between a value and reward plus discounted value of the next state; 0-d.

    The next state's value is the target network's, as Mnih et al. (2015) have it: as it grows, so do the targets.
    """
    assert isinstance(model, ValueNetwork)
    images, following, goes_on, rewards = batch
    with torch.no_grad():
        targets = rewards + DISCOUNT * goes_on * model.target(following)[:, 0]
    return F.mse_loss(model(images), targets)


def copy_into_target(training: Training, step: int, _: float) -> None:
    """Copy the network into its target every twenty steps."""
    assert isinstance(training.model, ValueNetwork)
    if step % TARGET_EVERY == 0:
        training.model.target.load_state_dict(training.model.online.state_dict())


def _draw_transitions(images: Tensor, targets: Tensor, num: int, generator: torch.Generator) -> Transitions:
    """Transitions between digits drawn from some, each under its own noise; from 9 it goes back to 0, without value."""
    chosen = torch.randint(len(images), (num,), generator=generator)
    following = (targets[chosen] + 1) % NUM_CLASSES
    is_one = following[:, None] == targets
    leads_to = torch.multinomial(is_one.float(), 1, generator=generator)[:, 0]
    goes_on = (following != 0).float()
    seen, next_seen = (_cover(images[rows], NOISE, generator) for rows in (chosen, leads_to))
    return seen, next_seen, goes_on, torch.ones(num)


def _mix_held_out() -> tuple[Tensor, Tensor, torch.Generator]:
    """The digits held out, in mixed order, and a generator for what else is drawn of them."""
    _, (images, targets) = read_digits()
    generator = make_generator("hard digits held out")
    order = torch.randperm(len(images), generator=generator)
    return images[order], targets[order], generator


def _cover(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """The images under noise."""
    return images + noise * torch.randn(images.shape, generator=generator)


for _size in (2, 8):
    workloads.add(
        f"mislabelled-{_size}",
        Workload(
            build_model,
            partial(draw_mislabelled, batch_size=_size),
            compute_loss,
            cut_digits,
            SMALL_BATCH_RATES,
            kind="hard",
            num_steps=NUM_STEPS,
        ),
    )
workloads.add(
    "outliers",
    Workload(
        build_weather_network,
        draw_with_outliers,
        compute_squared_error,
        cut_weather,
        RATES,
        kind="hard",
        num_steps=NUM_STEPS,
    ),
)
workloads.add(
    "harder-domain",
    Workload(build_model, draw_domains, compute_loss, cut_digits, RATES, kind="hard", num_steps=NUM_STEPS),
)
workloads.add(
    "new-task",
    Workload(build_model, draw_tasks, compute_loss, cut_tasks, RATES, kind="hard", num_steps=NUM_STEPS),
)
workloads.add(
    "growing-targets",
    Workload(
        ValueNetwork,
        draw_transitions,
        compute_bellman_error,
        cut_transitions,
        RATES,
        kind="hard",
        num_steps=NUM_STEPS,
        schedule="constant",
        self_updating=("target",),
        after_step=copy_into_target,
    ),
)
