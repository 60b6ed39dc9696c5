"""What `trimtab preflight` says of a sound training, and of one with the mistakes that people make.

trimtab preflight examples/preflight_me.py
trimtab preflight examples/preflight_me.py:make_broken
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab

NUM_CLASSES = 4


def make_images(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bright bars on a dark ground, each class at an angle of its own; pixels from 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (num,), generator=generator)
    across, up = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="xy")
    angles = labels[:, None, None] * torch.pi / NUM_CLASSES
    distance = (across * angles.sin() + up * angles.cos()).abs()
    noise = 0.2 * torch.rand(num, 16, 16, generator=generator)
    return ((distance < 0.2).float() * 0.8 + noise)[:, None], labels


def make_network() -> nn.Sequential:
    """A small convolutional network."""
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, NUM_CLASSES))


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The cross entropy of a batch."""
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def make() -> dict[str, Any]:
    """A sound training: everything in place."""
    images, labels = make_images(1024, seed=0)
    train = TensorDataset((images - images.mean()) / images.std(), labels)
    images, labels = make_images(256, seed=1)
    held_out = TensorDataset((images - images.mean()) / images.std(), labels)
    model = make_network()
    return {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2),
        "compute_loss": compute_loss,
        "train_loader": DataLoader(train, batch_size=64, shuffle=True),
        "val_loader": DataLoader(held_out, batch_size=256),
        "clip_norm": 5.0,
    }


def make_broken() -> dict[str, Any]:
    """The same with six mistakes.

    Pixels from 0 to 255, a softmax before the cross entropy, a first layer that the optimizer does not hold, a rate a
    hundred times too large, data that are never shuffled, and validation samples from the training data.
    """
    images, labels = make_images(1024, seed=0)
    data = TensorDataset(255 * images, labels)
    model = make_network().append(nn.Softmax(-1))
    return {
        "model": model,
        "optimizer": torch.optim.AdamW(model[4:].parameters(), lr=0.3),
        "compute_loss": compute_loss,
        "train_loader": DataLoader(data, batch_size=64),
        "val_loader": DataLoader(TensorDataset(*data[:256]), batch_size=256),
    }


if __name__ == "__main__":
    parts = make()
    trimtab.fit(**parts, epochs=2, run="runs/preflighted")
