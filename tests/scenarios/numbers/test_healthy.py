"""Healthy real runs: every default detector looks, and nothing is done to any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional

from trimtab import Decision, Supervisor
from trimtab.bench.language import read_text

NUM_STEPS = 210
"""Long enough for three sampled steps."""

Batch = tuple[Tensor, Tensor]


@cache
def load_images() -> Batch:
    """Handwritten digits; shapes (1797, 64) and (1797,)."""
    digits = load_digits()
    return torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)


def draw_images(generator: torch.Generator) -> Batch:
    """Sixty-four images."""
    images, labels = load_images()
    rows = torch.randint(len(images), (64,), generator=generator)
    return images[rows], labels[rows]


def draw_text(generator: torch.Generator) -> Batch:
    """Sixteen windows of Python's own sources, and what follows each of their bytes."""
    text = read_text().train
    starts = torch.randint(len(text) - 33, (16, 1), generator=generator)
    windows = text[starts + torch.arange(33)].long()
    return windows[:, :-1], windows[:, 1:].flatten()


class Transformer(nn.Module):
    """A causal language model over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, 48)
        self.positions = nn.Parameter(0.02 * torch.randn(32, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(48, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """Shape (batch, 32) to (batch * 32, 256)."""
        mask = nn.Transformer.generate_square_subsequent_mask(32)
        hidden = self.blocks(self.tokens(tokens) + self.positions, mask=mask, is_causal=True)
        logits: Tensor = self.head(hidden).flatten(0, 1)
        return logits


class Recurrent(nn.Module):
    """A gated recurrent language model over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, 32)
        self.recurrence = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """Shape (batch, 32) to (batch * 32, 256)."""
        hidden, _ = self.recurrence(self.tokens(tokens))
        logits: Tensor = self.head(hidden).flatten(0, 1)
        return logits


def make_mlp() -> nn.Module:
    """A perceptron with two hidden layers."""
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))


def make_cnn() -> nn.Module:
    """A small convolutional network with BatchNorm."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator], Batch]]] = {
    "mlp": (make_mlp, draw_images),
    "cnn": (make_cnn, draw_images),
    "transformer": (Transformer, draw_text),
    "rnn": (Recurrent, draw_text),
}

OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=2e-3),
}


def train(model: str, optimizer: str, dtype: torch.dtype | None) -> tuple[list[Decision], Supervisor]:
    """A whole run under the default policy; returns every decision, and the supervisor."""
    torch.manual_seed(0)
    make, draw = MODELS[model]
    net = make()
    stepper = OPTIMIZERS[optimizer](net.parameters())
    scaler = GradScaler("cpu") if dtype == torch.float16 else None
    supervisor = Supervisor(net, stepper, clip_norm=1.0, scaler=scaler)
    generator = torch.Generator().manual_seed(1)
    decisions = []
    for _ in range(NUM_STEPS):
        inputs, targets = draw(generator)
        with nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype):
            loss = functional.cross_entropy(net(inputs).float(), targets)
        stepper.zero_grad()
        (loss if scaler is None else scaler.scale(loss)).backward()
        decisions.append(supervisor.check(loss))
        if scaler is None:
            stepper.step()
        else:
            scaler.step(stepper)
            scaler.update()
    return decisions, supervisor


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(None, id="float32"),
        pytest.param(torch.bfloat16, id="bfloat16"),
        pytest.param(torch.float16, id="float16"),
    ],
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_done_to_a_healthy_run(model: str, optimizer: str, dtype: torch.dtype | None) -> None:
    """A healthy real run learns, no detector finds anything, advisory ones included, and no update is touched."""
    decisions, supervisor = train(model, optimizer, dtype)
    losses = supervisor.history.column("loss")
    norms = supervisor.history.column("group_grad_norm")
    finite = norms[np.isfinite(norms).all(axis=1)]
    rises = finite[1:] / np.maximum(np.median(finite, axis=0), finite[:-1])
    found = {finding.detector: finding.message for each in decisions for finding in each.findings}
    print(  # noqa: T201  the table that `-s` shows
        f"{model:12} {optimizer:6} {dtype}: largest rise of a group {np.nanmax(rises):.1f}, found {found}"
    )
    assert losses[-20:].mean() < 0.8 * losses[:10].mean()
    assert [each.responses for each in decisions if each.responses] == []
    assert found == {}
