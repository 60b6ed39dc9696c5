"""A workload: a character transformer of 0.1 million parameters, a step of which takes milliseconds on one core.

Its text is that of `trimtab.bench.language`, the standard library's own sources, and so is its loss; its model is the
plain one: learned positions, pre-norm blocks. A batch depends on the seed and the step alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trimtab.bench.language import VOCABULARY, compute_loss, read_text
from trimtab.bench.workloads import Workload, workloads
from trimtab.faults import make_generator

CONTEXT = 32  # bytes a prediction can look back at, at most
BATCH_SIZE = 16  # windows a batch
WIDTH, DEPTH, HEADS = 64, 2, 4
NUM_HELD_OUT = 256  # windows
RATES = {"adamw": 3e-3, "adam": 3e-3, "rmsprop": 1e-3, "sgd": 0.1}


def draw_batch(seed: int, step: int) -> Tensor:
    """The batch of a step: windows that begin anywhere in the training text.

    Returns:
        Shape (`BATCH_SIZE`, `CONTEXT` + 1), int64: inputs and, one further, targets.
    """
    text = read_text().train
    starts = torch.randint(len(text) - CONTEXT, (BATCH_SIZE,), generator=make_generator(f"characters {seed} {step}"))
    return _cut(text, starts)


def cut_held_out(num: int = NUM_HELD_OUT) -> Tensor:
    """The validation set, or the first windows of it: spread over the held-out files, in mixed order, always the same.

    Returns:
        Shape (num, `CONTEXT` + 1), int64.
    """
    text = read_text().held_out
    order = torch.randperm(NUM_HELD_OUT, generator=make_generator("characters held out"))[:num]
    return _cut(text, order * ((len(text) - CONTEXT) // NUM_HELD_OUT))


def build_model(seed: int) -> nn.Module:
    """A model with initial weights that depend on the seed alone; the global random numbers are left as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CharacterTransformer()


class CharacterTransformer(nn.Module):
    """A decoder-only transformer over bytes."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(DEPTH)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False)

    def forward(self, characters: Tensor) -> Tensor:
        """Predict each next byte: shape (batch, length) to logits (batch, length, 256)."""
        length = characters.shape[1]
        hidden = self.characters(characters) + self.positions[:length]
        for block in self.blocks:
            hidden = block(hidden, src_mask=self.mask[:length, :length], is_causal=True)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


def _cut(text: Tensor, starts: Tensor) -> Tensor:
    return text[starts[:, None] + torch.arange(CONTEXT + 1)].long()


workloads.add("characters", Workload(build_model, draw_batch, compute_loss, cut_held_out, RATES))
