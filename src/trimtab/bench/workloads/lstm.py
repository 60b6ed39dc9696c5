"""A workload that defaults are never tuned on: a character LSTM of two layers, on the text of the characters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trimtab.bench.language import VOCABULARY, compute_loss
from trimtab.bench.workloads import Workload, workloads
from trimtab.bench.workloads.characters import cut_held_out, draw_batch

WIDTH, DEPTH = 96, 2
RATES = {"adamw": 1e-2, "adam": 1e-2, "rmsprop": 6e-3, "sgd": 2.0}


def build_model(seed: int) -> nn.Module:
    """A model with initial weights that depend on the seed alone; the global random numbers are left as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CharacterLSTM()


class CharacterLSTM(nn.Module):
    """A recurrent network over bytes (Hochreiter and Schmidhuber, 1997)."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.LSTM(WIDTH, WIDTH, DEPTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, characters: Tensor) -> Tensor:
        """Predict each next byte: shape (batch, length) to logits (batch, length, 256).

        Under autocast to float16 the recurrent layers stay in float32, since not every CPU has them in float16.
        """
        is_half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16
        with torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu") and not is_half):
            hidden, _ = self.layers(self.characters(characters))
        logits: Tensor = self.head(hidden)
        return logits


workloads.add("lstm", Workload(build_model, draw_batch, compute_loss, cut_held_out, RATES, kind="held-out"))
