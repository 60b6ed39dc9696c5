"""Small real trainings for the tests of the laws: every part a loop may have, all of it from fixed seeds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.laws.models import Net
from trimtab import Decision, Supervisor
from trimtab.ranks import take_part
from trimtab.state.live import Partner

MakeOptimizer: TypeAlias = Callable[[list[dict[str, Any]]], Optimizer]
Event: TypeAlias = Callable[["Training"], object]
"""What happens to a run, at one point of its loop or before it begins."""

Distort: TypeAlias = Callable[["Training", int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""What becomes of a micro-batch, given its index in the step, its inputs and its targets."""

OPTIMIZERS: Mapping[str, MakeOptimizer] = {
    "sgd": partial(torch.optim.SGD, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "adam-amsgrad": partial(torch.optim.Adam, lr=0.01, amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01, foreach=False),
    "adamw-foreach": partial(torch.optim.AdamW, lr=0.01, foreach=True),
    "adamw-fused": partial(torch.optim.AdamW, lr=0.01, fused=True),
    "adagrad": partial(torch.optim.Adagrad, lr=0.01, weight_decay=0.01),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.002, centered=True, momentum=0.9, weight_decay=0.01),
    "adafactor": partial(torch.optim.Adafactor, lr=0.01, weight_decay=0.01),
    "nadam": partial(torch.optim.NAdam, lr=0.01, weight_decay=0.01),
    "radam": partial(torch.optim.RAdam, lr=0.01, weight_decay=0.01),
    "adadelta": partial(torch.optim.Adadelta, lr=1.0, weight_decay=0.01),
    "asgd": partial(torch.optim.ASGD, lr=0.01, t0=5, weight_decay=0.01),
    "adamax": partial(torch.optim.Adamax, lr=0.01, weight_decay=0.01),
    "rprop": partial(torch.optim.Rprop, lr=0.001),
    **({"muon": partial(torch.optim.Muon, lr=0.01)} if hasattr(torch.optim, "Muon") else {}),  # since torch 2.9
}
"""Every dense optimizer of `torch.optim` that steps without a closure, with the options that give it most state."""


class Batches:
    """A data source that knows its position and draws from all three global generators, as augmentation does."""

    def __init__(self) -> None:
        self.seed = 0
        self.position = 0

    def draw(self) -> tuple[Tensor, Tensor]:
        x = torch.randn(48, 6, generator=torch.Generator().manual_seed(self.seed + self.position))
        self.position += 1
        y = x @ torch.linspace(-1, 1, 6) + 2.0
        jitter = 0.01 * (random.random() + np.random.random())  # noqa: NPY002  the global generator is meant
        return x + jitter + 0.01 * torch.randn(()), y

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = state["position"]


@dataclass(slots=True)
class Training:
    """One run: what a loop holds, and the loop."""

    model: nn.Module
    optimizer: Optimizer
    batches: Batches = field(default_factory=Batches)
    scaler: GradScaler | None = None
    autocast: torch.dtype | None = None
    num_micro_batches: int = 1
    clip_norm: float | None = None
    scheduler: LRScheduler | None = None
    average: AveragedModel | None = None
    supervisor: Supervisor | None = None
    after_backward: Event | None = None
    after_check: Event | None = None
    after_update: Event | None = None
    distort: Distort | None = None
    report: Callable[[Tensor], Tensor] = Tensor.detach
    batch: tuple[Tensor, Tensor] | None = None
    decisions: list[Decision] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)

    def supervise(self, *partners: Partner, **options: Any) -> Training:
        """Hand the run to a supervisor, which is given the loop's clipping and partners."""
        partners = (*partners, *(each for each in (self.scheduler, self.average) if each is not None))
        options = {"clip_norm": self.clip_norm, "scaler": self.scaler, **options}
        self.supervisor = Supervisor(self.model, self.optimizer, *partners, **options)
        return self

    def run(self, until: int) -> Training:
        """Take steps until a position in the data."""
        while self.batches.position < until:
            self.step()
        return self

    def step(self) -> None:
        """The loop's body, as a user writes it."""
        self.optimizer.zero_grad()
        self.batch = self.batches.draw()
        loss = self.backward(*self.batch)
        self._call(self.after_backward)
        self.guard(loss)
        self._call(self.after_check)
        has_overflowed = self.update()
        if self.average is not None and (not self.decisions or self.decisions[-1].proceed):
            self.average.update_parameters(self.model)
        self._call(self.after_update)
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(self.validate())
        elif self.scheduler is not None and not has_overflowed:
            self.scheduler.step()

    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """The forward and backward passes of all micro-batches; returns the loss of the step."""
        total = torch.zeros(())
        for index, (inputs, targets) in enumerate(zip(*self._split(x, y), strict=True)):
            if self.distort is not None:
                inputs, targets = self.distort(self, index, inputs, targets)
            with nullcontext() if self.autocast is None else torch.autocast("cpu", dtype=self.autocast):
                loss = functional.mse_loss(self.model(inputs).float(), targets) / self.num_micro_batches
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            total += loss.detach()
        return self.report(total)

    def guard(self, loss: Tensor) -> None:
        """`supervisor.check`, or what it replaces."""
        if self.supervisor is not None:
            self.decisions.append(self.supervisor.check(loss, batch=self.batch))
        elif self.clip_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)

    def update(self) -> bool:
        """Let the optimizer step; returns whether the scaler kept it from doing so."""
        if self.scaler is None:
            self.optimizer.step()
            return False
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() < scale

    @torch.no_grad()
    def validate(self) -> float:
        """The loss on a batch that is always the same; it changes nothing."""
        x = torch.linspace(-1, 1, 48).reshape(8, 6)
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self.model.eval()
        loss = float(functional.mse_loss(self.model(x), x.sum(1)))
        self.model.train()
        self.model.load_state_dict(kept, strict=False)
        return loss

    @property
    def verdicts(self) -> list[str]:
        """The verdict of every step."""
        return [decision.verdict for decision in self.decisions]

    def _split(self, x: Tensor, y: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return x.chunk(self.num_micro_batches), y.chunk(self.num_micro_batches)

    def _call(self, event: Event | None) -> None:
        if event is not None:
            event(self)


def make_training(
    optimizer: str | MakeOptimizer = "sgd", *parts: Event, model: Callable[[], nn.Module] = Net, **fields: Any
) -> Training:
    """A run with all generators seeded; vectors are a parameter group of their own, with another rate.

    Args:
        optimizer: a name from `OPTIMIZERS`, or what makes one of parameter groups.
        *parts: what else the loop has, such as `add_scaler`; each is called with the run.
        model: makes the network.
        **fields: fields of the run that differ from their defaults.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    net = Net(has_vectors=False) if optimizer == "muon" else model()
    make = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    matrices = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    made = make([{"params": matrices}, {"params": vectors}])
    made.param_groups[1]["lr"] = made.param_groups[1]["lr"] / 2
    training = Training(net, made, **fields)
    for add in parts:
        add(training)
    return training


def add_scaler(training: Training) -> None:
    """Mixed precision with float16, whose scale overflows at the start and again in the middle of a short run."""
    training.autocast = torch.float16
    training.scaler = GradScaler("cpu", init_scale=2.0**16, growth_factor=4.0, growth_interval=8)


def add_average(training: Training) -> None:
    """An exponential moving average of the weights."""
    training.average = AveragedModel(training.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss of a batch, for a supervisor that may compute it once more."""
    x, y = batch
    return functional.mse_loss(model(x), y)


def capture_weights(training: Training) -> dict[str, Any]:
    """Every parameter of the model."""
    return dict(flatten({"weights": dict(training.model.named_parameters())}))


def capture_optimizer(training: Training) -> dict[str, Any]:
    """The optimizer with all it keeps."""
    return dict(flatten({"optimizer": training.optimizer.state_dict()}))


def capture_buffers(training: Training) -> dict[str, Any]:
    """Every buffer of the model."""
    return dict(flatten({"buffers": dict(training.model.named_buffers())}))


def capture_random() -> dict[str, Any]:
    """The global generators of Python, NumPy and PyTorch."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    return dict(flatten({"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state()}))


def capture_partners(training: Training) -> dict[str, Any]:
    """The state of every part beside model and optimizer that a run has."""
    parts = {
        "scaler": training.scaler,
        "scheduler": training.scheduler,
        "average": training.average,
        "batches": training.batches,
    }
    return dict(flatten({name: part.state_dict() for name, part in parts.items() if part is not None}))


def capture(training: Training) -> dict[str, Any]:
    """The whole state of a run, each number as its bits."""
    return {
        **capture_weights(training),
        **capture_optimizer(training),
        **capture_buffers(training),
        **capture_partners(training),
        **capture_random(),
    }


def list_differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """The names under which two captured states are not the same, bit for bit."""
    return sorted(name for name in left.keys() | right.keys() if left.get(name, "absent") != right.get(name, "absent"))


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested containers with their paths; arrays and tensors as dtype, shape and bytes."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from flatten(each, f"{path}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from flatten(each, f"{path}[{index}]")
    elif isinstance(value, Tensor):
        value = take_part(value.detach())
        numbers = value.contiguous().reshape(-1).view(torch.uint8).numpy()
        yield path, (str(value.dtype), tuple(value.shape), numbers.tobytes())
    elif isinstance(value, np.ndarray):
        yield path, (str(value.dtype), value.shape, value.tobytes())
    elif isinstance(value, (int, float, str, type(None))):
        yield path, repr(value)
    else:
        yield path, value if callable(value) else vars(value)
