"""A workload in which all moves at once: a sequence model with fast weights and learning rates that follow own rules.

A state-space layer remembers, its decay set by what it reads (Gu and Dao, arXiv 2312.00752); a matrix of fast weights
is changed in every forward pass by which units fire before which, not by the optimizer; the learning rate follows the
loss on top of its schedule; and all is in float16 but the recurrence, the fast weights and the logits. Its text and its
loss are those of the characters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, OneCycleLR

from trimtab.bench.language import VOCABULARY, compute_loss
from trimtab.bench.workloads import Workload, workloads
from trimtab.bench.workloads.characters import cut_held_out, draw_batch

if TYPE_CHECKING:
    from trimtab.bench.training import Training

WIDTH = 32
STATES = 4  # numbers that the state-space layer remembers of each channel
LEARNED = 0.1  # of the fast weights, in a forward pass
FORGOTTEN = 0.02  # of the fast weights, in a forward pass: none is ever larger than `LEARNED` / `FORGOTTEN`
READ = 0.5  # the share of the fast weights' answer in the whole at first
PLASTICITY = 0.5  # by how much the logarithm of the rate's factor answers a loss that is off its level by its size
RELAXED = 0.9  # what stays of that logarithm from step to step
MOST_PLASTIC = 2.0  # the largest factor, and the inverse of the smallest
SETS_ANEW = (OneCycleLR, CosineAnnealingWarmRestarts)  # the schedules that do not multiply the rate they find
LEVEL = 0.9  # what stays of the loss's level from step to step
RATES = {"adamw": 5e-3, "adam": 5e-3, "rmsprop": 2e-3, "sgd": 0.1}


def build_model(seed: int) -> nn.Module:
    """A model with initial weights that depend on the seed alone; the global random numbers are left as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HybridNetwork()


def move_rates(training: Training, _: int, loss: float) -> None:
    """Meta-plasticity: a loss above its level lowers the learning rate for some steps, one below raises it.

    What the schedule has set is multiplied; where it has multiplied what it found, the factor before is taken out.
    """
    memory = training.memory
    undone = 0.0 if isinstance(training.scheduler, SETS_ANEW) else -memory.get("plasticity", 0.0)
    if math.isfinite(loss):
        level = memory.setdefault("level", loss)
        plasticity = RELAXED * memory.get("plasticity", 0.0) - PLASTICITY * (loss / level - 1)
        limit = math.log(MOST_PLASTIC)
        memory["plasticity"] = min(max(plasticity, -limit), limit)
        memory["level"] = LEVEL * level + (1 - LEVEL) * loss
    for group in training.optimizer.param_groups:
        group["lr"] *= math.exp(undone + memory.get("plasticity", 0.0))


class HybridNetwork(nn.Module):
    """A state-space layer, fast weights and a feed-forward layer, each behind a norm and added to its input."""

    self_updating: ClassVar[tuple[str, ...]] = ("fast.weight",)
    """The parameters that change outside the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, WIDTH)
        self.recurrence_norm = nn.LayerNorm(WIDTH)
        self.recurrence = StateSpace()
        self.fast_norm = nn.LayerNorm(WIDTH)
        self.fast = FastWeights()
        self.feed = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, characters: Tensor) -> Tensor:
        """Predict each next byte: shape (batch, length) to logits (batch, length, 256)."""
        hidden = self.characters(characters)
        hidden = hidden + self.recurrence(self.recurrence_norm(hidden))
        hidden = hidden + self.fast(self.fast_norm(hidden))
        hidden = hidden + self.feed(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.head(self.norm(hidden.float()))
        return logits


class StateSpace(nn.Module):
    """A diagonal linear recurrence whose decay and input depend on what is read: h ← exp(−Δ·a) h + Δ·b·x, y = c·h."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Linear(WIDTH, 2 * WIDTH)
        self.select = nn.Linear(WIDTH, WIDTH + 2 * STATES)
        self.log_decays = nn.Parameter(torch.arange(1.0, STATES + 1).log().repeat(WIDTH, 1))
        self.merge = nn.Linear(WIDTH, WIDTH)
        nn.init.constant_(self.select.bias[:WIDTH], -2.0)  # a time step of about 0.1, so that much is remembered

    def forward(self, hidden: Tensor) -> Tensor:
        """Let each position look back: shape (batch, length, width) in and out."""
        values, gates = self.widen(hidden).chunk(2, -1)
        steps, inputs, outputs = self.select(hidden).float().split((WIDTH, STATES, STATES), -1)
        steps = F.softplus(steps)
        decays = torch.exp(-steps[..., None] * self.log_decays.exp())
        states = scan(decays, (steps * values.float())[..., None] * inputs[:, :, None])
        read = (states * outputs[:, :, None]).sum(-1)
        merged: Tensor = self.merge(read * F.silu(gates))
        return merged


def scan(decays: Tensor, inputs: Tensor) -> Tensor:
    """The states of h ← decay · h + input, from 0; shape (batch, length, …) in and out."""
    state = torch.zeros_like(inputs[:, 0])
    states = []
    for decay, each in zip(decays.unbind(1), inputs.unbind(1), strict=True):
        state = torch.addcmul(each, decay, state)
        states.append(state)
    return torch.stack(states, 1)


class FastWeights(nn.Module):
    """A matrix that learns in the forward pass which units fire before which; the optimizer has no gradient for it.

    A weight grows where its input fires just before its output and shrinks where it fires just after, as spikes'
    timing has it (Bi and Poo, 1998). In eval mode it stays as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sense = nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Parameter(torch.zeros(WIDTH, WIDTH), requires_grad=False)
        self.share = nn.Parameter(torch.full((WIDTH,), READ))

    def forward(self, hidden: Tensor) -> Tensor:
        """Tell what usually fires next: shape (batch, length, width) in and out."""
        fired = torch.tanh(self.sense(hidden).float())
        answer = fired @ self.weight.clone()
        if self.training:
            self.learn(fired.detach())
        return self.share * answer

    @torch.no_grad()
    def learn(self, fired: Tensor) -> None:
        """Move the weights by what fired; shape (batch, length, width), between -1 and 1."""
        before, after = fired[:, :-1].flatten(0, 1), fired[:, 1:].flatten(0, 1)
        timing = before.mT @ after / len(before)
        self.weight.mul_(1 - FORGOTTEN).add_(timing - timing.mT, alpha=LEARNED / 2)


workloads.add(
    "hybrid",
    Workload(
        build_model,
        draw_batch,
        compute_loss,
        cut_held_out,
        RATES,
        precision="float16",
        self_updating=HybridNetwork.self_updating,
        after_step=move_rates,
        moves_rates=True,
    ),
)
