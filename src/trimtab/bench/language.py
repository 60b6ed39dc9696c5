"""A workload: a byte-level transformer of about a million parameters, trained on the standard library's own sources.

Every Python carries the text, so nothing is downloaded. Files are held out whole: no file is in both splits, and none
twice. A batch depends on the seed and the step alone, so every contestant sees the same data, and the position in the
data is the step number.
"""

from __future__ import annotations

import sysconfig
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.errors import InputError
from trimtab.faults import make_generator

VOCABULARY = 256
CONTEXT = 64  # bytes a prediction can look back at, at most
BATCH_SIZE = 16  # windows a batch
WIDTH, DEPTH, HEADS = 192, 2, 4
REACH = 3  # bytes whose embeddings make up one token: the byte and the two before it
ROTARY_BASE = 10_000.0  # Su et al., arXiv 2104.09864, section 3.3
EMBEDDING_STD = 0.3
HELD_OUT_ONE_IN = 10
NUM_HELD_OUT_WINDOWS = 1024
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
INSTALLED_BESIDE = {"site-packages", "dist-packages"}  # folders of what was installed, not of Python's own


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Source files, one after the other, as bytes."""

    train: Tensor
    """What is trained on; shape (bytes,), uint8."""

    held_out: Tensor
    """The files held out for validation; shape (bytes,), uint8."""


def split_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the Python files below a folder, each in one of two splits by a hash of its path.

    Which split a file is in depends on its path relative to the folder alone, not on the other files. Of files with
    the same content only the first is listed, and empty ones are left out.

    Returns:
        The files to train on, nine in ten, and those held out; both in the order of their paths.
    """
    splits: tuple[list[Path], list[Path]] = ([], [])
    contents = {b""}
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if INSTALLED_BESIDE.isdisjoint(relative.parts) and (content := path.read_bytes()) not in contents:
            contents.add(content)
            splits[zlib.crc32(relative.as_posix().encode()) % HELD_OUT_ONE_IN == 0].append(path)
    return splits


@cache
def read_text(folder: Path = STANDARD_LIBRARY) -> Text:
    """Read the Python files below a folder: some 30 MB for the standard library, in under a second.

    Raises:
        InputError: if there is nothing to train on or to hold out, as where Python came without its sources.
    """
    train, held_out = split_files(folder)
    if not train or not held_out:
        raise InputError(
            f"{str(folder)!r} holds {len(train)} Python files to train on and {len(held_out)} to validate on; "
            "both are needed, so use a Python that comes with its sources"
        )
    return Text(_join(train), _join(held_out))


def _join(paths: list[Path]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in paths)), dtype=torch.uint8)


def draw_batch(text: Text, seed: int, step: int) -> Tensor:
    """The batch of a step: windows that begin anywhere in the training text.

    Returns:
        Shape (`BATCH_SIZE`, `CONTEXT` + 1), int64: inputs and, one further, targets.
    """
    starts = torch.randint(len(text.train) - CONTEXT, (BATCH_SIZE,), generator=make_generator(f"batch {seed} {step}"))
    return _cut(text.train, starts)


def cut_held_out(text: Text, num_windows: int = NUM_HELD_OUT_WINDOWS) -> Tensor:
    """The validation set: windows evenly spread over the held-out files, the same for every seed.

    Returns:
        Shape (num_windows, `CONTEXT` + 1), int64.
    """
    return _cut(text.held_out, torch.arange(num_windows) * ((len(text.held_out) - CONTEXT) // num_windows))


def _cut(text: Tensor, starts: Tensor) -> Tensor:
    return text[starts[:, None] + torch.arange(CONTEXT + 1)].long()


def compute_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """The mean cross-entropy of each window's next bytes, in nats a byte; 0-d."""
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: nn.Module, windows: Tensor) -> float:
    """The mean loss over windows of equal length, in nats a byte; NaN or infinite if the model is broken."""
    chunks = windows.split(64)
    return sum(float(compute_loss(model, chunk)) * len(chunk) for chunk in chunks) / len(windows)


def build_model(seed: int) -> ByteTransformer:
    """A model with initial weights that depend on the seed alone; the global random numbers are left as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ByteTransformer()


class ByteTransformer(nn.Module):
    """A decoder-only transformer with pre-norm blocks and rotary positions: bytes to logits of the next byte.

    A token is the sum of the embeddings of its byte and of the bytes just before it, from a table for each distance:
    short patterns, which most of a few hundred steps would go into, are then seen from the first layer on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(REACH * VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("rotation", make_rotation(), persistent=False)
        self.apply(_initialize)

    def forward(self, inputs: Tensor) -> Tensor:
        """Predict each next byte.

        Args:
            inputs: bytes; shape (batch, length), int64, with length at most `CONTEXT`.

        Returns:
            Logits; shape (batch, length, 256).
        """
        recent = F.pad(inputs, (REACH - 1, 0)).unfold(1, REACH, 1)
        tables = torch.arange(REACH, device=inputs.device) * VOCABULARY
        hidden = self.embedding(recent + tables).sum(2)
        for block in self.blocks:
            hidden = block(hidden, self.rotation)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each behind a norm and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.merge = nn.Linear(WIDTH, WIDTH, bias=False)
        self.feed_norm = nn.LayerNorm(WIDTH)
        self.widen = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, hidden: Tensor, rotation: Tensor) -> Tensor:
        """Let each position look back, then think: shape (batch, length, width) in and out."""
        hidden = hidden + self.attend(self.attention_norm(hidden), rotation)
        update: Tensor = self.narrow(F.gelu(self.widen(self.feed_norm(hidden))))
        return hidden + update

    def attend(self, hidden: Tensor, rotation: Tensor) -> Tensor:
        """Causal attention with `HEADS` heads; shape (batch, length, width) in and out."""
        projected = self.queries_keys_values(hidden).unflatten(-1, (3, HEADS, -1)).movedim(-3, 0).transpose(2, 3)
        queries, keys, values = projected
        mixed = F.scaled_dot_product_attention(
            rotate(queries, rotation), rotate(keys, rotation), values, is_causal=True
        )
        merged: Tensor = self.merge(mixed.transpose(1, 2).flatten(2))
        return merged


def make_rotation() -> Tensor:
    """Cosines and sines of the rotary positions (Su et al., arXiv 2104.09864); shape (2, context, half a head)."""
    half = WIDTH // HEADS // 2
    angles = torch.outer(torch.arange(CONTEXT), ROTARY_BASE ** (-torch.arange(half) / half))
    return torch.stack((angles.cos(), angles.sin()))


def rotate(vectors: Tensor, rotation: Tensor) -> Tensor:
    """Turn pairs of numbers by angles that grow with the position; shape (batch, heads, length, head) in and out."""
    cosines, sines = rotation[:, : vectors.shape[-2]]
    real, imaginary = vectors.chunk(2, dim=-1)
    return torch.cat((real * cosines - imaginary * sines, imaginary * cosines + real * sines), dim=-1)


def _initialize(module: nn.Module) -> None:
    """Keep the scale of activations from layer to layer; what is added to the residual stream begins smaller."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=EMBEDDING_STD)
    elif isinstance(module, Block):
        for projection in (module.merge, module.narrow):
            nn.init.normal_(projection.weight, std=(2 * DEPTH * projection.in_features) ** -0.5)
