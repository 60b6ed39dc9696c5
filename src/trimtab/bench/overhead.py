"""What `check` costs: supervised loops against the same loops with `clip_grad_norm_`, as ratios.

Each workload is trained by four loops in one process, in turns of one block each: A and A' clip with
`torch.nn.utils.clip_grad_norm_`, B and C call `Supervisor.check` with the same limit, C with a run folder. Every loop
has its own model and optimizer. A block lasts about as long as it is told to, and at least the 8 steps from snapshot
to snapshot; short blocks in turns see the same machine. Given are the medians over the blocks of A'/A (the noise), B/A
and C/A.

Then, on the transformer of 25 million parameters: what snapshots cost, as the ratio of a supervised loop to one without
them; what share of a step a probe of 16 samples takes, by its own time and the steps it is measured after; how long
`checkpoint` stalls the loop, as a multiple of one copy of the same state in memory; how long a resume takes; and how
long a review takes that measures no spectra, after 512 steps each.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.history import CAPACITY
from trimtab.policy import Policy
from trimtab.supervisor import Supervisor
from trimtab.types import Measurement

Loop: TypeAlias = Callable[[int], None]

Unit: TypeAlias = Literal["times", "share", "s"]
"""How an overhead is told: as a multiple of what it is compared with, as a share of the run's time, or in seconds."""

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Called before each part is measured: with its name, the number of parts that are done, and of all."""

COLUMNS = ("clip", "clip", "check", "check with run folder")
"""The loops that are compared, the first two of them the same."""

LARGE = "transformer, 25M"
"""The workload that snapshots, probe and checkpoint are measured on."""

PROBE_SAMPLES = 16
NUM_REVIEWS = 60
"""Reviews that are timed, with as many steps before each as the history holds."""

LARGE_BOUNDS = {"snapshots and probe": 0.02, "checkpoint": 1.5, "resume": 3.0, "review": 0.02}
NUM_BLOCKS = 41
BLOCK_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Overhead:
    """What one part of the supervision costs on one workload."""

    workload: str
    """The workload, a name of `WORKLOADS`."""

    name: str
    """What is measured: `check`, `check with run folder`, `snapshots`, `probe`, `snapshots and probe` (the share of the
    time both take), `checkpoint`, `resume` or `review`."""

    figure: float
    """The cost, in `unit`."""

    unit: Unit
    """What the cost is told in."""

    bound: float | None = None
    """The most it may cost, in the same unit; None where there is no bound for it alone."""

    noise: float | None = None
    """For `check`: what two equal loops are to each other, A'/A, measured in the same blocks."""

    step_seconds: float | None = None
    """For `check`: seconds a step of the loop takes that it is compared with."""

    probe_every: int | None = None
    """For `probe`: the steps it is measured after."""

    @property
    def is_within_bound(self) -> bool:
        """True if it costs no more than it may."""
        return self.bound is None or self.figure <= self.bound


def measure_overhead(
    names: Sequence[str] | None = None,
    num_blocks: int = NUM_BLOCKS,
    seconds: float = BLOCK_SECONDS,
    on_progress: OnProgress = lambda _name, _done, _total: None,
) -> list[Overhead]:
    """Measure workloads, and what is measured on the large one alone.

    Args:
        names: the workloads, names of `WORKLOADS`; all of them if None.
        num_blocks: interleaved blocks; a quarter of them where a step is slow.
        seconds: seconds a block takes.
        on_progress: called before each part is measured.
    """
    chosen = list(WORKLOADS) if names is None else list(names)
    total = len(chosen) + len(LARGE_PARTS) * (LARGE in chosen)
    rows: list[Overhead] = []
    for done, name in enumerate(chosen):
        on_progress(name, done, total)
        rows += measure_check(name, num_blocks, seconds)
    if LARGE in chosen:
        for done, (part, measure) in enumerate(LARGE_PARTS.items(), len(chosen)):
            on_progress(f"{LARGE}: {part}", done, total)
            rows += measure(num_blocks, seconds)
        rows.append(_add_shares(rows))
    return rows


def measure_check(name: str, num_blocks: int, seconds: float) -> list[Overhead]:
    """What `check` costs on a workload, without and with a run folder."""
    noise, plain, recorded, step_seconds = compare(name, COLUMNS, num_blocks, seconds)
    bound = WORKLOADS[name][2]
    return [
        Overhead(name, guard, ratio, "times", bound, noise, step_seconds)
        for guard, ratio in zip(COLUMNS[2:], (plain, recorded), strict=True)
    ]


def measure_snapshots(num_blocks: int, seconds: float) -> Iterator[Overhead]:
    """What snapshots cost: a supervised loop against one without them."""
    ratio, _ = compare(LARGE, ("check without snapshots", "check"), num_blocks, seconds)
    yield Overhead(LARGE, "snapshots", ratio, "times")


def measure_state_probe(_num_blocks: int, _seconds: float) -> Iterator[Overhead]:
    """What share of the time a probe takes."""
    share, every = measure_probe()
    yield Overhead(LARGE, "probe", share, "share", probe_every=every)


def measure_checkpoint(_num_blocks: int, _seconds: float) -> Iterator[Overhead]:
    """How long `checkpoint` stalls the loop, and how long a resume takes."""
    stall, resume = time_checkpoint()
    yield Overhead(LARGE, "checkpoint", stall, "times", LARGE_BOUNDS["checkpoint"])
    yield Overhead(LARGE, "resume", resume, "s", LARGE_BOUNDS["resume"])


def measure_reviews(_num_blocks: int, _seconds: float) -> Iterator[Overhead]:
    """How long a review takes, without spectra."""
    yield Overhead(LARGE, "review", time_review(), "s", LARGE_BOUNDS["review"])


LARGE_PARTS: dict[str, Callable[[int, float], Iterator[Overhead]]] = {
    "snapshots": measure_snapshots,
    "probe": measure_state_probe,
    "checkpoint": measure_checkpoint,
    "review": measure_reviews,
}
"""What is measured on the large workload alone."""


def _add_shares(rows: Sequence[Overhead]) -> Overhead:
    """What snapshots and probe take together, as a share of the time."""
    figures = {row.name: row.figure for row in rows}
    share = figures["snapshots"] - 1 + figures["probe"]
    return Overhead(LARGE, "snapshots and probe", share, "share", LARGE_BOUNDS["snapshots and probe"])


class Transformer(nn.Module):
    """A decoder-only language model over bytes."""

    def __init__(self, width: int, depth: int, context: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, width)
        self.positions = nn.Parameter(torch.zeros(context, width))
        options: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, width // 64, 4 * width, **options) for _ in range(depth)
        )
        self.head = nn.Linear(width, 256)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict each next byte; shape (batch, context) to (batch, context, 256)."""
        hidden = self.tokens(tokens) + self.positions
        for block in self.blocks:
            hidden = block(hidden, src_mask=self.mask, is_causal=True)
        logits: Tensor = self.head(hidden)
        return logits


def make_mlp() -> nn.Module:
    """About 250,000 parameters."""
    return nn.Sequential(
        nn.Linear(64, 400),
        nn.ReLU(),
        nn.Linear(400, 400),
        nn.ReLU(),
        nn.Linear(400, 160),
        nn.ReLU(),
        nn.Linear(160, 10),
    )


def mlp_loss(model: nn.Module, step: int) -> Tensor:
    """The loss on the batch of a step."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(64, 64, generator=generator)
    return F.cross_entropy(model(inputs), inputs[:, :10].argmax(1))


def language_loss(batch: int, context: int) -> Callable[[nn.Module, int], Tensor]:
    """A function that gives the loss on the batch of a step."""

    def loss(model: nn.Module, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, 256, (batch, context), generator=generator)
        return F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())

    return loss


WORKLOADS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, int], Tensor], float]] = {
    "transformer, 1M": (lambda: Transformer(128, 5, 64), language_loss(8, 64), 1.01),
    LARGE: (lambda: Transformer(512, 8, 128), language_loss(8, 128), 1.01),
    "MLP, 250k, batch 64": (make_mlp, mlp_loss, 1.17),
}
"""Name to what makes the model, what gives its loss, and the most that a supervised loop may take of the time of one
without a supervisor."""


GUARDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "check": lambda _: {},
    "check with run folder": lambda folder: {"run": folder},
    "check without snapshots": lambda _: {"policy": Policy.from_dict({"snapshot_every": 10**9})},
}
"""What a supervised loop hands to its supervisor."""


def make_loop(
    make_model: Callable[[], nn.Module], compute_loss: Callable[[nn.Module, int], Tensor], guard: str, folder: Path
) -> Loop:
    """A training loop that goes on from call to call: `loop(num_steps)`."""
    torch.manual_seed(0)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    parameters = list(model.parameters())
    supervisor = None
    if guard != "clip":
        supervisor = Supervisor(model, optimizer, clip_norm=1.0, **GUARDS[guard](folder / f"{id(model)}"))
    step = 0

    def loop(num_steps: int) -> None:
        nonlocal step
        for _ in range(num_steps):
            step += 1
            loss = compute_loss(model, step)
            optimizer.zero_grad()
            loss.backward()
            if supervisor is None:
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            else:
                supervisor.check(loss)
            optimizer.step()

    return loop


def time_block(loop: Loop, num_steps: int) -> float:
    """Seconds per step of one block."""
    began = perf_counter()
    loop(num_steps)
    return (perf_counter() - began) / num_steps


def compare(name: str, guards: Sequence[str], num_blocks: int, seconds: float, warmup: int = 10) -> list[float]:
    """The medians over the blocks of each loop against the first, and the seconds per step of the first."""
    make_model, compute_loss, _ = WORKLOADS[name]
    with tempfile.TemporaryDirectory() as folder:
        loops = [make_loop(make_model, compute_loss, guard, Path(folder)) for guard in guards]
        for loop in loops:
            loop(warmup)
        per_step = time_block(loops[0], 10)
        num_steps = max(int(seconds / per_step) // 8 * 8, 8)
        blocks = []
        for block in range(num_blocks if 8 * per_step < seconds else max(num_blocks // 4, 5)):
            order = [(block + shift) % len(loops) for shift in range(len(loops))]
            times = dict(sorted((index, time_block(loops[index], num_steps)) for index in order))
            blocks.append([times[index] / times[0] for index in range(1, len(loops))] + [times[0]])
    return [statistics.median(column) for column in zip(*blocks, strict=True)]


def measure_probe(num_steps: int = 80) -> tuple[float, int]:
    """The share of the time that the probe takes in the long run, and the steps it is measured after."""
    make_model, compute_loss, _ = WORKLOADS[LARGE]
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    held_out = language_loss(PROBE_SAMPLES, 128)
    supervisor = Supervisor(model, optimizer, clip_norm=1.0, probe=lambda model: held_out(model, 0))
    for step in range(num_steps):
        optimizer.zero_grad()
        loss = compute_loss(model, step)
        loss.backward()
        supervisor.check(loss)
        optimizer.step()
    seconds = [np.nanmedian(supervisor.history.column(metric)) for metric in ("probe_seconds", "step_seconds")]
    supervisor.finish()
    return float(seconds[0] / seconds[1]) / supervisor._probing.every, supervisor._probing.every


def time_checkpoint(num_times: int = 7) -> tuple[float, float]:
    """How long `checkpoint` takes against one copy of the same tensors in memory, and the seconds of a resume."""
    make_model, compute_loss, _ = WORKLOADS[LARGE]
    with tempfile.TemporaryDirectory() as folder:
        model = make_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        supervisor = Supervisor(model, optimizer, run=folder, checkpoint_every=1)
        copies: list[Tensor] = []
        ratios = []
        for step in range(num_times + 2):
            optimizer.zero_grad()
            loss = compute_loss(model, step)
            loss.backward()
            supervisor.check(loss)
            optimizer.step()
            states = (each for state in optimizer.state.values() for each in state.values())
            tensors = [*model.state_dict().values(), *states]
            copies = copies or [torch.empty_like(each) for each in tensors]
            if supervisor._archive is not None:
                supervisor._archive.checkpoints.wait()
            began = perf_counter()
            torch._foreach_copy_(copies, tensors)
            copied = perf_counter()
            supervisor.checkpoint()
            ratios.append((perf_counter() - copied) / (copied - began))
        supervisor.checkpoint(now=True)
        supervisor.finish()
        other = make_model()
        heir = Supervisor(other, torch.optim.AdamW(other.parameters(), lr=1e-4), run=folder, resume=True)
        began = perf_counter()
        heir.resume()
        seconds = perf_counter() - began
        heir.finish()
    return statistics.median(ratios[2:]), seconds


def time_review(num_reviews: int = NUM_REVIEWS) -> float:
    """The median seconds of a review without spectra, the steps before it being those of a real one, told again."""
    make_model, compute_loss, _ = WORKLOADS[LARGE]
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    supervisor = Supervisor(model, optimizer, clip_norm=1.0, spectra_every=0)
    for step in range(3):
        optimizer.zero_grad()
        loss = compute_loss(model, step)
        loss.backward()
        supervisor.check(loss)
        optimizer.step()
    seen, seconds = dict(supervisor.history.newest.values), []
    rng = np.random.default_rng(0)
    for review in range(num_reviews):
        for _ in range(CAPACITY):
            supervisor.step += 1
            level = 1 + 4 / (1 + supervisor.step / 2000)
            told = {"loss": level * rng.normal(1, 0.02), "grad_norm": rng.lognormal(0, 0.2)}
            supervisor.history.append(Measurement(supervisor.step, seen | told))
            supervisor.history.close(accepted=True)
        metrics = {"embedding_r": 0.8, "effective_rank": 40.0 + review, "recall_at_1": 0.5}
        began = perf_counter()
        supervisor.review(val_loss=level * 1.1 * rng.normal(1, 0.01), **metrics)
        seconds.append(perf_counter() - began)
    supervisor.finish()
    return statistics.median(seconds)
