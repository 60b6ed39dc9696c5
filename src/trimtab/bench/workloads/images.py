"""A workload: a small ResNet-18 that reads digits under noise.

The digits are the 1797 that come with scikit-learn, so nothing is downloaded. They are hard to make out, covered with
noise that is drawn anew for every batch: the loss stays well above zero, and a per cent of it means something. A batch
depends on the seed and the step alone, so every contestant sees the same data.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.bench.workloads import Workload, workloads
from trimtab.errors import InputError
from trimtab.faults import make_generator

NUM_CLASSES = 10
BATCH_SIZE = 32
WIDTHS = (8, 16, 24, 32)  # channels of the four stages; ResNet-18 has 64 to 512
BLOCKS_PER_STAGE = 2
HELD_OUT_ONE_IN = 4
NUM_HELD_OUT = 450  # digits held out, of 1797
NOISE = 0.5  # standard deviation, where ink is 1 and paper is 0
RATES = {"adamw": 3e-3, "adam": 3e-3, "rmsprop": 1e-3, "sgd": 0.1}

Batch = tuple[Tensor, Tensor]
"""Images, shape (batch, 1, 8, 8), float32; and their digits, shape (batch,), int64."""


@cache
def read_digits() -> tuple[Batch, Batch]:
    """Read the digits without noise: those to train on, three in four, and those held out.

    Raises:
        InputError: if scikit-learn, which they come with, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "the images come with scikit-learn, which is not installed; pip install scikit-learn"
        ) from error
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    targets = torch.from_numpy(digits.target).long()
    is_held_out = torch.arange(len(images)) % HELD_OUT_ONE_IN == 0
    return (images[~is_held_out], targets[~is_held_out]), (images[is_held_out], targets[is_held_out])


def draw_batch(seed: int, step: int) -> Batch:
    """The batch of a step: digits drawn from those to train on, each under its own noise."""
    (images, targets), _ = read_digits()
    generator = make_generator(f"digits {seed} {step}")
    chosen = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
    return _cover(images[chosen], generator), targets[chosen]


def cut_held_out(num: int = NUM_HELD_OUT) -> Batch:
    """The validation set, or the first digits of it: the same in every call, in mixed order, under the same noise."""
    _, (images, targets) = read_digits()
    generator = make_generator("digits held out")
    chosen = torch.randperm(len(images), generator=generator)[:num]
    return _cover(images, generator)[chosen], targets[chosen]


def compute_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy, in nats an image; 0-d."""
    images, targets = batch
    return F.cross_entropy(model(images), targets)


def build_model(seed: int) -> nn.Module:
    """A model with initial weights that depend on the seed alone; the global random numbers are left as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallResNet()


class SmallResNet(nn.Module):
    """A residual network of eighteen layers in four stages, as He et al. (arXiv 1512.03385) build it, but narrow."""

    def __init__(self) -> None:
        super().__init__()
        channels = WIDTHS[0]
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        blocks = []
        for stage, width in enumerate(WIDTHS):
            for index in range(BLOCKS_PER_STAGE):
                blocks.append(ResidualBlock(channels, width, stride=2 if stage > 0 and index == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Tell the digits: shape (batch, 1, 8, 8) to logits (batch, 10)."""
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean((2, 3)))
        return logits


class ResidualBlock(nn.Module):
    """Two convolutions with BatchNorm, added to their input; a 1 × 1 convolution fits the input where it has to."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """Shape (batch, channels, height, width) in and out; a stride of 2 halves height and width."""
        inner = F.relu(self.first_norm(self.first(hidden)))
        return F.relu(self.second_norm(self.second(inner)) + self.shortcut(hidden))


def _cover(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images under noise."""
    return images + NOISE * torch.randn(images.shape, generator=generator)


workloads.add("images", Workload(build_model, draw_batch, compute_loss, cut_held_out, RATES))
