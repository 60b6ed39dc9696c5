"""Which runs there are: every fault that needs more than a loop, under each contestant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import get_args

import torch

from trimtab.bench.cases import BEGINS_BETWEEN
from trimtab.bench.processes.parts import CHECKPOINT_EVERY, STEPS_AN_EPOCH, Contestant
from trimtab.faults import faults, make_generator

NEEDS = ("process", "checkpoints", "workers", "ranks")
"""What faults need that are run here."""

FAULTS = tuple(sorted(name for name, each in faults.items() if each.needs in NEEDS))
"""Their names."""

RECURRING = ("out-of-memory",)
"""Those that happen in every process of a run, since the batch is to blame; others happen in the first alone."""

NUM_RANKS = 2
"""The ranks of a run that has several."""

NUM_EPOCHS = 10
"""The epochs of a run, unless a case has others."""


@dataclass(frozen=True, slots=True)
class ProcessCase:
    """A run to be made."""

    fault: str
    """The name of the fault, one of `FAULTS`."""

    contestant: Contestant
    """Who trains."""

    seed: int
    """The seed of weights, batches and the fault."""

    num_epochs: int = NUM_EPOCHS
    """The epochs, of `STEPS_AN_EPOCH` steps each."""

    @property
    def num_ranks(self) -> int:
        """The ranks that train together."""
        return NUM_RANKS if faults[self.fault].needs == "ranks" else 1

    @property
    def fault_step(self) -> int:
        """The step of the fault, the same for all contestants; never one at whose end a checkpoint is taken."""
        first, last = (round(share * self.num_epochs * STEPS_AN_EPOCH) for share in BEGINS_BETWEEN)
        generator = make_generator(f"process fault step {self.fault} {self.seed}")
        step = int(torch.randint(first, last + 1, (), generator=generator))
        while step % CHECKPOINT_EVERY == 0 or step % STEPS_AN_EPOCH == 0:
            step += 1
        return step

    @property
    def twin_name(self) -> str:
        """The name of the folder of the uninterrupted run."""
        return f"twin-{self.contestant}-{self.num_ranks}-{self.seed}-{self.num_epochs}"

    @property
    def name(self) -> str:
        """The name of the folder of the run."""
        return f"{self.fault}-{self.contestant}-{self.seed}-{self.num_epochs}"

    def list_faults(self, start: int) -> list[tuple[str, int]]:
        """What happens to the processes of a start, counted from 1, and at which step."""
        if start > 1 and self.fault not in RECURRING:
            return []
        follows = [("killed-process", self.fault_step + 1)] if self.fault == "corrupted-checkpoint" else []
        return [(self.fault, self.fault_step), *follows]


def list_process_cases(seeds: Iterable[int], num_epochs: int = NUM_EPOCHS) -> list[ProcessCase]:
    """Every fault under every contestant, for each seed."""
    contestants: Sequence[Contestant] = get_args(Contestant)
    return [ProcessCase(fault, each, seed, num_epochs) for seed, fault, each in product(seeds, FAULTS, contestants)]
