"""The runs of a suite: which workload is trained by whom, with which fault, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

import torch

from trimtab.bench.contestants import contestants
from trimtab.bench.training import Recipe
from trimtab.bench.workloads import Precision, workloads
from trimtab.faults import Fault, Injection, faults, inject, make_generator

Suite: TypeAlias = Literal["smoke", "faults", "healthy"]
"""The suites whose runs are cases."""

CORE = (
    "nan-loss",
    "infinite-gradient",
    "scaled-gradient",
    "learning-rate-spike",
    "random-bytes",
    "shuffled-labels",
    "huge-weight",
    "flipped-bit",
    "huge-moments",
    "exploding-group",
)
"""The faults that every workload is given; each other one is given to the workload that fits it."""

FITTING: Mapping[str, str] = {
    "batchnorm": "images",
    "floats": "flights",
    "scaler": "hybrid",
    "self-updating": "hybrid",
}
"""What a fault needs, to the workload that has it."""

PLACED: Mapping[str, str] = {
    "constant-inputs": "flights",
    "dead-units": "flights",
    "embedding-collapse": "contrastive",
    "frozen-parameters": "flights",
    "missing-parameters": "flights",
    "learning-rate-ramp": "contrastive",
}
"""Faults that need nothing special and do most harm on a workload other than the usual one."""

USUAL = "characters"
"""The workload of all other faults that need nothing and are not of the core."""

BEGINS_BETWEEN = (0.3, 0.7)
"""The part of a run in which faults begin, unless they are there from the first step on."""

UNGUARDED = {True: "clipping", False: "nothing"}
"""Whether a contestant clips, to the one that does nothing more."""

HEALTHY_STEPS = 1800
"""The steps of a long healthy run."""

HEALTHY_RECIPES: Sequence[Mapping[str, str]] = (
    {"optimizer": "adamw", "schedule": "one-cycle"},
    {"optimizer": "adamw", "schedule": "restarts", "precision": "bfloat16"},
    {"optimizer": "adam", "schedule": "warm-up"},
    {"optimizer": "sgd", "schedule": "steps"},
    {"optimizer": "rmsprop", "schedule": "constant"},
    {"optimizer": "adamw", "schedule": "steps", "precision": "float16"},
)
"""How the long healthy runs are trained: changes of the schedule are no faults."""


@dataclass(frozen=True, slots=True)
class Case:
    """A run to be made."""

    workload: str
    """The name of the workload."""

    contestant: str
    """The name of the contestant."""

    seed: int
    """The seed of weights, batches and the fault."""

    fault: str = ""
    """The name of the fault; empty for a healthy run."""

    optimizer: str = ""
    """A name of `trimtab.bench.training.OPTIMIZERS`; empty for the workload's own."""

    schedule: str = ""
    """A name of `trimtab.bench.training.SCHEDULES`; empty for the workload's own."""

    precision: Precision | None = None
    """The dtype of autocast; None for the workload's own."""

    num_steps: int = 0
    """The optimizer steps; 0 for the workload's own."""

    @property
    def key(self) -> str:
        """What tells it from every other case, as text."""
        return " ".join(str(each or "-") for each in dataclasses.astuple(self))

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return Recipe(self.optimizer, self.schedule, self.precision, self.num_steps)

    @property
    def twin(self) -> Case:
        """The healthy run it is measured against: the same seed and clipping, no fault and no guard."""
        return dataclasses.replace(self.unguarded, fault="")

    @property
    def healthy(self) -> Case:
        """The healthy run under the same guard."""
        return dataclasses.replace(self, fault="")

    @property
    def unguarded(self) -> Case:
        """The same run with the same clipping, and no guard beside it."""
        return dataclasses.replace(self, contestant=UNGUARDED[contestants[self.contestant].clips])

    @property
    def fault_step(self) -> int:
        """The first step of the fault, which depends on fault and seed alone; 0 for a healthy run."""
        if not self.fault:
            return 0
        if faults[self.fault].begins == "first":
            return 1
        steps = self.num_steps or workloads[self.workload].num_steps
        first, last = (round(share * steps) for share in BEGINS_BETWEEN)
        generator = make_generator(f"fault step {self.workload} {self.fault} {self.seed}")
        return int(torch.randint(first, last + 1, (), generator=generator))

    @property
    def injections(self) -> tuple[Injection, ...]:
        """The fault, if it has one."""
        return (inject(self.fault, self.fault_step, seed=self.seed),) if self.fault else ()

    def to_dict(self) -> dict[str, Any]:
        """The case for a file."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


def list_fault_cases(
    names: Iterable[str], seeds: Iterable[int], pairs: Sequence[tuple[str, str]] | None = None
) -> Iterator[Case]:
    """The runs of the fault suite: for each workload and fault, every contestant, and the twins they are held against.

    Args:
        names: the contestants.
        seeds: the seeds.
        pairs: workload and fault; by default every fault on the workload that fits it, and the core on all.
    """
    names = list(dict.fromkeys((*UNGUARDED.values(), "oracle", *names)))
    for seed in seeds:
        chosen = list_pairs() if pairs is None else pairs
        for workload in dict.fromkeys(workload for workload, _ in chosen):
            yield from (Case(workload, name, seed) for name in names)
        for (workload, fault), name in product(chosen, names):
            yield Case(workload, name, seed, fault)


def list_pairs() -> list[tuple[str, str]]:
    """Workload and fault: every fault that a loop can be given on the workload that fits it, and the core on all."""
    soft = [name for name, each in workloads.items() if each.kind != "hard"]
    pairs = [(workload, fault) for workload in soft for fault in CORE]
    for name, fault in sorted(faults.items()):
        workload = find_workload(fault)
        if workload and (workload, name) not in pairs:
            pairs.append((workload, name))
    return pairs


def find_workload(fault: Fault) -> str:
    """The workload that fits a fault; empty if it needs more than a loop, such as a process of its own."""
    return FITTING.get(fault.needs, "") if fault.needs else PLACED.get(fault.name, USUAL)


def list_healthy_cases(names: Iterable[str], seed: int) -> Iterator[Case]:
    """The runs of the healthy suite: long ones and hard ones in many recipes by Trimtab, and hard ones by everyone."""
    names = list(dict.fromkeys((*UNGUARDED.values(), *names)))
    for name, workload in workloads.items():
        is_hard = workload.kind == "hard"
        if is_hard:
            yield from (Case(name, each, seed) for each in names)
        for recipe in HEALTHY_RECIPES:
            if workload.precision == "float32" or recipe.get("precision", "float16") == "float16":
                fields: dict[str, Any] = {**recipe, "num_steps": 0 if is_hard else HEALTHY_STEPS}
                yield from (Case(name, each, seed, **fields) for each in names if each in ("clipping", "trimtab"))
