"""Faults: things that go wrong in training, caused on purpose; one file each, an open set.

Any loop can be given faults. It makes an `Injector` and calls it at the places where its faults act:

    injector = Injector([inject("nan-loss", step=100), inject("huge-weight", step=300)], model, optimizer)
    for step, batch in enumerate(loader, 1):
        injector.start(step)
        loss = injector.loss(step, compute_loss(model, injector.batch(step, batch)))
        optimizer.zero_grad()
        loss.backward()
        injector.gradients(step)
        optimizer.step()
        injector.end(step)
        scheduler.step()

What a fault changes for the length of its duration is undone before the first step after it; `injector.close()` undoes
what is still in force when the loop ends early.

A fault draws from private generators keyed by its seed and the step, never from the global ones: the same injection
has the same effect whatever else the loop draws, and the run without it is the same run.
"""

from __future__ import annotations

import inspect
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trimtab.errors import InputError
from trimtab.registry import Registry

Place: TypeAlias = Literal["start", "batch", "loss", "gradients", "end"]
"""Where in a step a fault acts: before everything, on the batch, on the loss before backward, on the gradients after
backward, or after the optimizer's step and before the scheduler's."""

Beginning: TypeAlias = Literal["anywhere", "first"]
"""When a fault begins: at any step, or, like a line that is missing in the loop, with the first."""

Need: TypeAlias = Literal[
    "", "process", "scaler", "batchnorm", "floats", "self-updating", "ranks", "workers", "checkpoints"
]
"""What a fault needs of a loop: nothing; a process of its own, which it ends or whose memory runs out; a loss scaler;
a model with BatchNorm; batches with floating-point inputs; a model that declares parameters as self-updating; several
ranks; a run that watches its workers; a run that writes checkpoints."""

FOREVER = sys.maxsize // 2
"""A duration that never ends; half of what 64 bits hold, so that a step can be added to it."""

Act: TypeAlias = Callable[..., Any]
"""A fault's function: `act(scene, value) -> value` on the batch or the loss, `act(scene) -> None` at other places."""

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Fault:
    """A registered fault."""

    name: str
    """Its name in injections; kebab-case."""

    place: Place
    """Where in a step it acts."""

    strength: float
    """Its strength unless an injection gives another; its manual page says of what, and in which unit."""

    duration: int
    """For how many consecutive steps it acts unless an injection says otherwise."""

    act: Act
    """Its function."""

    signs: tuple[str, ...] = ()
    """Names of detectors, and phrases of a cause that a record tells, any of which names its cause right; empty if
    nothing does yet, or only the group of its target."""

    begins: Beginning = "anywhere"
    """When such a thing begins in a real run."""

    needs: Need = ""
    """What it needs of the loop; empty if any loop will do."""

    @property
    def manual(self) -> str:
        """Its manual page: the docstring of its function."""
        return inspect.getdoc(self.act) or ""


faults: Registry[Fault] = Registry("fault")


def fault(
    name: str,
    place: Place,
    *,
    strength: float,
    duration: int = 1,
    signs: tuple[str, ...] = (),
    begins: Beginning = "anywhere",
    needs: Need = "",
) -> Callable[[Act], Act]:
    """Register a function of a `Scene` as a fault; its docstring is its manual page.

    Args:
        name: kebab-case name, free in the registry.
        place: where in a step it acts; it acts anew in every step of its duration.
        strength: its strength by default.
        duration: for how many consecutive steps it acts by default.
        signs: detectors and phrases of a cause that name it right; a mere consequence is none.
        begins: when such a thing begins in a real run.
        needs: what it needs of the loop.
    """

    def register(act: Act) -> Act:
        faults.add(name, Fault(name, place, strength, duration, act, signs, begins, needs))
        return act

    return register


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault at a step; `inject` makes one with the fault's own duration and strength.

    Raises:
        InputError: if there is no such fault, or it would act at no step.
    """

    fault: str
    """The name of the fault."""

    step: int
    """The first step at which it acts, in the loop's own count."""

    duration: int
    """For how many consecutive steps it acts, at least 1; `FOREVER` for all that follow."""

    strength: float
    """How strong it is, in the fault's own unit."""

    seed: int = 0
    """What the fault draws is keyed by this seed and the step."""

    def __post_init__(self) -> None:
        find_fault(self.fault)
        if self.step < 0 or self.duration < 1:
            raise InputError(
                f"{self.fault} at step {self.step!r} with duration {self.duration!r} never acts; "
                "the step has to be at least 0 and the duration at least 1"
            )

    def acts_at(self, step: int) -> bool:
        """True if the fault acts at a step."""
        return 0 <= step - self.step < self.duration


def inject(
    fault: str, step: int, *, duration: int | None = None, strength: float | None = None, seed: int = 0
) -> Injection:
    """Plan a fault at a step, with the fault's own duration and strength unless others are given.

    Raises:
        InputError: if there is no such fault, or it would act at no step.
    """
    chosen = find_fault(fault)
    return Injection(
        fault,
        step,
        duration=chosen.duration if duration is None else duration,
        strength=chosen.strength if strength is None else strength,
        seed=seed,
    )


def find_fault(name: str) -> Fault:
    """Look a fault up by its name.

    Raises:
        InputError: if there is none of that name.
    """
    if name not in faults:
        raise InputError(f"there is no fault {name!r}; there are {', '.join(sorted(faults))}")
    return faults[name]


@dataclass(slots=True)
class Scene:
    """What a fault finds when it acts: the training at one step."""

    model: nn.Module
    """The model that is trained."""

    optimizer: Optimizer
    """The optimizer that updates it."""

    scheduler: LRScheduler | None
    """The schedule of the learning rate, if the loop has handed it over."""

    scaler: GradScaler | None
    """The loss scaler, if the loop has handed it over."""

    folder: Path | None
    """Where the loop writes its checkpoints, if it has said so."""

    step: int
    """The step, in the loop's own count."""

    injection: Injection
    """What is injected: from which step on, for how long, how strong."""

    generator: torch.Generator
    """The only source of random numbers, on the CPU; keyed by the fault, its seed and the step."""

    memory: dict[str, Any]
    """What the fault keeps from one step of its duration to the next; empty at first."""

    undo: ExitStack
    """What the fault gives to `undo.callback` is called at the end of the step, the latest first."""

    undo_after: ExitStack
    """What the fault gives to `undo_after.callback` is called when its duration is over, before the next step."""

    target: str = ""
    """What was hit, such as the name of a parameter or module; the fault sets it where it chooses."""

    @property
    def strength(self) -> float:
        """How strong the fault is, in its own unit."""
        return self.injection.strength

    def draw(self, count: int) -> int:
        """A number from 0 to `count` - 1, all equally likely."""
        return int(torch.randint(count, (), generator=self.generator))

    def list_gradients(self) -> list[tuple[str, Tensor]]:
        """The gradients by the name of their parameter.

        Raises:
            InputError: if no parameter has a gradient.
        """
        named = [(name, each.grad) for name, each in self.model.named_parameters() if each.grad is not None]
        if not named:
            raise self.refuse("found no gradient", "call injector.gradients right after backward")
        return named

    def refuse(self, found: str, advice: str) -> InputError:
        """The error of a fault that cannot happen: what it found, and what to do, as half sentences."""
        return InputError(f"{self.injection.fault} {found} at step {self.step}; {advice}")


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault that acted."""

    fault: str
    """The name of the fault."""

    step: int
    """The step at which it acted."""

    target: str
    """What it hit, such as the name of a parameter; empty where that is always the same."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """An injection, and what its fault has kept and changed so far."""

    injection: Injection
    memory: dict[str, Any] = field(default_factory=dict)
    undo_after: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Undo what was changed for the duration, and forget what was kept."""
        self.undo_after.close()
        self.memory.clear()


@dataclass(slots=True)
class Injector:
    """Injects faults into a loop that calls it at the places of a step.

    The loop decides what a step is and counts it. A place at which no injected fault acts need not be called. What a
    fault changes for the step alone is undone at `end`, or else when the next step is heard of; what it changes for
    its whole duration, when the first step after it is heard of, or at `close`. Of several faults at one place each
    gets what the one before it left, in the order of the injections.
    """

    injections: Sequence[Injection]
    """What is injected."""

    model: nn.Module
    """The model that is trained."""

    optimizer: Optimizer
    """The optimizer that updates it."""

    scheduler: LRScheduler | None = field(default=None, kw_only=True)
    """The schedule of the learning rate, for faults of the schedule."""

    scaler: GradScaler | None = field(default=None, kw_only=True)
    """The loss scaler, for faults of float16."""

    folder: Path | None = field(default=None, kw_only=True)
    """Where the loop writes its checkpoints, for faults that damage them."""

    hits: list[Hit] = field(default_factory=list, init=False)
    """What has acted so far, in order."""

    _planned: list[_Planned] = field(init=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False)
    _step: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._planned = [_Planned(injection) for injection in self.injections]

    def start(self, step: int) -> None:
        """Let faults act before anything else in the step."""
        self._act("start", step)

    def batch(self, step: int, batch: Batch) -> Batch:
        """The batch, as faults leave it; to be called for each micro-batch."""
        return self._pass("batch", step, batch)

    def loss(self, step: int, loss: Tensor) -> Tensor:
        """The loss, as faults leave it: to be called before backward."""
        return self._pass("loss", step, loss)

    def gradients(self, step: int) -> None:
        """Let faults act on the gradients: to be called right after backward."""
        self._act("gradients", step)

    def end(self, step: int) -> None:
        """Let faults act after the optimizer's step, then undo what was changed for this step alone."""
        self._act("end", step)
        self._undo.close()

    def close(self) -> None:
        """Undo all that is still in force, such as when the loop ends before a fault's duration does."""
        self._undo.close()
        for planned in reversed(self._planned):
            planned.close()

    def _act(self, place: Place, step: int) -> None:
        for scene, act in self._visit(place, step):
            self._call(act, scene)

    def _pass(self, place: Place, step: int, value: Batch) -> Batch:
        for scene, act in self._visit(place, step):
            value = self._call(act, scene, value)
        return value

    def _call(self, act: Act, scene: Scene, *value: Any) -> Any:
        """Let a fault act. It is a hit also where the fault is to raise, but not where it cannot happen."""
        is_hit = True
        try:
            return act(scene, *value)
        except InputError:
            is_hit = False
            raise
        finally:
            if is_hit:
                self.hits.append(Hit(scene.injection.fault, scene.step, scene.target))

    def _visit(self, place: Place, step: int) -> Iterator[tuple[Scene, Act]]:
        """The scenes of the faults that act here and now."""
        self._enter(step)
        for planned in self._planned:
            injection = planned.injection
            chosen = faults[injection.fault]
            if chosen.place == place and injection.acts_at(step):
                yield self._set_scene(planned, step), chosen.act

    def _enter(self, step: int) -> None:
        """Undo, at the first that is heard of a step, what was for the step before or for a duration that is over."""
        if step == self._step:
            return
        self._undo.close()
        self._step = step
        for planned in reversed(self._planned):
            if not planned.injection.acts_at(step):
                planned.close()

    def _set_scene(self, planned: _Planned, step: int) -> Scene:
        injection = planned.injection
        return Scene(
            self.model,
            self.optimizer,
            self.scheduler,
            self.scaler,
            self.folder,
            step,
            injection,
            make_generator(f"{injection.fault} {injection.seed} {step}"),
            planned.memory,
            self._undo,
            planned.undo_after,
        )


def make_generator(key: str) -> torch.Generator:
    """A generator of random numbers on the CPU that depends on a key alone.

    The key is hashed to 32 bits, which is all that the generator's algorithm (MT19937) takes of a seed.
    """
    return torch.Generator().manual_seed(zlib.crc32(key.encode()))


faults.load(__name__, __path__)
