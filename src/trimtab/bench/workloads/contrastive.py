"""A workload: a network that embeds digits on the unit sphere, so that two views of one digit lie close together.

The loss is InfoNCE (van den Oord et al., arXiv 1807.03748), symmetric as in CLIP (Radford et al., arXiv 2103.00020);
the digits are those of the images, moved, scaled and covered with noise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.bench.workloads import Workload, workloads
from trimtab.bench.workloads.images import read_digits
from trimtab.faults import make_generator

BATCH_SIZE = 64  # pairs; among them one is told from the others
NUM_HELD_OUT = 448  # pairs, seven batches
SIZE = 8  # pixels
WIDTH = 128
DIMENSIONS = 32  # of an embedding
TEMPERATURE = 0.2
NOISE = 0.2  # standard deviation, where ink is 1 and paper is 0
CONTRAST = 0.2  # the ink of a view is between this share less and this share more
RATES = {"adamw": 3e-3, "adam": 3e-3, "rmsprop": 1e-3, "sgd": 0.03}

Batch = tuple[Tensor, Tensor]
"""Two views of each digit; shape (batch, 1, 8, 8) each, float32."""


def draw_batch(seed: int, step: int) -> Batch:
    """The batch of a step: two views each of digits drawn from those to train on."""
    (images, _), _ = read_digits()
    generator = make_generator(f"contrastive {seed} {step}")
    chosen = images[torch.randperm(len(images), generator=generator)[:BATCH_SIZE]]
    return _view(chosen, generator), _view(chosen, generator)


def cut_held_out(num: int = NUM_HELD_OUT) -> Batch:
    """The validation set, or the first pairs of it: the same views in every call, in mixed order."""
    _, (images, _) = read_digits()
    generator = make_generator("contrastive held out")
    chosen = images[torch.randperm(len(images), generator=generator)[:NUM_HELD_OUT]]
    return _view(chosen, generator)[:num], _view(chosen, generator)[:num]


def compute_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean symmetric InfoNCE of each `BATCH_SIZE` pairs, in nats a view; 0-d."""
    losses = []
    for firsts, seconds in zip(*(model(views).split(BATCH_SIZE) for views in batch), strict=True):
        logits = firsts @ seconds.mT / TEMPERATURE
        targets = torch.arange(len(logits), device=logits.device)
        losses.append((F.cross_entropy(logits, targets) + F.cross_entropy(logits.mT, targets)) / 2)
    return torch.stack(losses).mean()


def build_model(seed: int) -> nn.Module:
    """A model with initial weights that depend on the seed alone; the global random numbers are left as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Embedder()


class Embedder(nn.Module):
    """Two hidden layers over the pixels, and a projection to the sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(SIZE * SIZE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
        )
        self.projection = nn.Linear(WIDTH, DIMENSIONS)

    def forward(self, images: Tensor) -> Tensor:
        """Shape (batch, 1, 8, 8) to unit vectors of shape (batch, 32)."""
        return F.normalize(self.projection(self.body(images)), dim=-1)


def _view(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images, each moved by at most a pixel either way, with more ink or less, under noise."""
    num = len(images)
    across, down = torch.randint(3, (2, num, 1), generator=generator)
    pixels = torch.arange(SIZE)
    padded = F.pad(images[:, 0], (1, 1, 1, 1))
    moved = padded[torch.arange(num)[:, None, None], (down + pixels)[:, :, None], (across + pixels)[:, None, :]]
    ink = 1 + CONTRAST * (2 * torch.rand(num, 1, 1, 1, generator=generator) - 1)
    return ink * moved[:, None] + NOISE * torch.randn(images.shape, generator=generator)


workloads.add("contrastive", Workload(build_model, draw_batch, compute_loss, cut_held_out, RATES))
