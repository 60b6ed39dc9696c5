"""Lint: what is wrong with a model, its optimizer, its loss and its data before the first step; an open set of checks.

A check is a function of a `Setup` that yields remarks; it changes nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from trimtab.control.batches import find_device, move_batch
from trimtab.errors import InputError
from trimtab.probes.rerun import ComputeLoss
from trimtab.recipes.calls import TARGET_NAMES
from trimtab.recipes.trial import Trial, run_trial
from trimtab.registry import Registry
from trimtab.types import Severity


class Remark(NamedTuple):
    """What a check yields."""

    number: float
    """What was measured; the message says of what, and in which unit."""

    message: str
    """What is wrong, and why it matters."""

    fix: str
    """What to do."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """A remark with the check that made it."""

    check: str
    """The name of the check."""

    severity: Severity
    """How much is at stake."""

    number: float
    """What was measured; the message says of what, and in which unit."""

    message: str
    """What is wrong, and why it matters."""

    fix: str
    """What to do."""

    def __str__(self) -> str:
        return f"{self.check} ({self.severity}): {self.message}; {self.fix}"

    def to_dict(self) -> dict[str, Any]:
        """It as JSON has it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class Flaws(tuple[Flaw, ...]):
    """What lint found, the gravest first; lines of text when printed."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self)) if self else f"no flaw found by {len(checks)} checks"


@dataclass(eq=False)
class Setup:
    """What is to be trained, as checks look at it."""

    model: nn.Module
    """The model."""

    optimizer: Optimizer
    """Its optimizer."""

    compute_loss: ComputeLoss | None = None
    """Gives the loss of a batch; None if it is not known how."""

    batch: Any = None
    """A training batch, on the device of the model; None if there is none."""

    loader: Any = None
    """What gives the batches, if it is known."""

    scaler: GradScaler | None = None
    """The loss scaler, if there is one."""

    loop: str | None = None
    """The source of the training loop, if it is known."""

    loss_fn: Any = None
    """The loss function, which may have parameters of its own."""

    @cached_property
    def trial(self) -> Trial | None:
        """What became of the batch in the mode the model is in, with gradients; None where it cannot be tried."""
        if self.compute_loss is None or self.batch is None:
            return None
        return run_trial(self.model, self.compute_loss, self.batch, others=self.foreign)

    @cached_property
    def eval_trial(self) -> Trial | None:
        """What became of it in eval mode, without a graph."""
        if self.compute_loss is None or self.batch is None:
            return None
        return run_trial(self.model, self.compute_loss, self.batch, trains=False)

    @cached_property
    def optimized(self) -> list[nn.Parameter]:
        """The optimizer's parameters, as often as it has them."""
        return [each for group in self.optimizer.param_groups for each in group["params"]]

    @cached_property
    def foreign(self) -> list[nn.Parameter]:
        """The optimizer's parameters that are not the model's."""
        own = set(map(id, self.model.parameters()))
        return [each for each in self.optimized if id(each) not in own]

    @cached_property
    def is_adam(self) -> bool:
        """True if a step is about as large as the learning rate, whatever the gradient."""
        return any("betas" in group for group in self.optimizer.param_groups)


Judge: TypeAlias = Callable[[Setup], Iterator[Remark]]
"""A check's function."""


@dataclass(frozen=True, slots=True)
class Check:
    """A registered check."""

    name: str
    """Its name in flaws; kebab-case."""

    severity: Severity
    """The severity of what it finds."""

    judge: Judge
    """Its function."""

    @property
    def manual(self) -> str:
        """What it finds, in a sentence: the docstring of its function."""
        return inspect.getdoc(self.judge) or ""


checks: Registry[Check] = Registry("check")


def check(name: str, *, severity: Severity) -> Callable[[Judge], Judge]:
    """Register a function of a `Setup` as a check.

    Args:
        name: kebab-case name, free in the registry.
        severity: how much is at stake when it finds something.
    """

    def register(judge: Judge) -> Judge:
        checks.add(name, Check(name, severity, judge))
        return judge

    return register


def lint(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[..., Any] | None = None,
    batch: Any = None,
    *,
    compute_loss: ComputeLoss | None = None,
    loader: Any = None,
    scaler: GradScaler | None = None,
    loop: Callable[..., Any] | ModuleType | str | None = None,
) -> Flaws:
    """Look for what is wrong before the first step; nothing is changed, and nothing is trained.

    With a batch, its loss is computed, forward and backward, and once in eval mode. Parameters, gradients, buffers,
    optimizer, flags and random numbers are as before afterwards.

    Args:
        model: the model, on its device.
        optimizer: its optimizer.
        loss_fn: `loss_fn(output, target)`. Of a batch that is a list or tuple the last entry is the target and the
            others are what the model is called with; a mapping is what it is called with by name, without its
            `labels` or `target`; a single tensor is both. Without it, a model that is called with a mapping gives its
            own loss, as those of Hugging Face do.
        batch: a training batch; None for the checks that need none.
        compute_loss: `compute_loss(model, batch)`, as for `trimtab.fit`, in place of `loss_fn`.
        loader: the loader of the training data, for what its workers draw; no batch is taken from it.
        scaler: the loss scaler of float16.
        loop: your training loop, a function, a module or its source: it is read, not run.

    Returns:
        The flaws, the gravest first; none where all is well.

    Raises:
        InputError: if an argument is of the wrong kind.
    """
    _validate(model, optimizer, loss_fn, compute_loss)
    if compute_loss is None and (loss_fn is not None or isinstance(batch, Mapping)):
        compute_loss = make_compute_loss(loss_fn)
    setup = Setup(
        model,
        optimizer,
        compute_loss,
        None if batch is None else move_batch(batch, find_device(model)),
        loader,
        scaler,
        read_source(loop),
        loss_fn if loss_fn is not None else compute_loss,
    )
    return find_flaws(setup)


def find_flaws(setup: Setup) -> Flaws:
    """What all checks find, the gravest first."""
    order: list[Severity] = ["critical", "high", "medium", "low"]
    found = [
        Flaw(name, each.severity, float(number), message, fix)
        for name, each in checks.items()
        for number, message, fix in each.judge(setup)
    ]
    return Flaws(sorted(found, key=lambda flaw: order.index(flaw.severity)))


def make_compute_loss(loss_fn: Callable[..., Any] | None) -> ComputeLoss:
    """`compute_loss(model, batch)` out of `loss_fn(output, target)`, as `lint` describes it."""

    def compute_loss(model: nn.Module, batch: Any) -> Tensor:
        if isinstance(batch, Mapping):
            if loss_fn is None:
                output = model(**batch)
                loss: Tensor = output["loss"] if isinstance(output, Mapping) else output.loss
                return loss
            name = next((each for each in TARGET_NAMES if each in batch), None)
            inputs, target = {key: each for key, each in batch.items() if key != name}, batch.get(name)
            return _call(loss_fn, model(**inputs), target)
        if isinstance(batch, (list, tuple)) and len(batch) > 1:
            return _call(loss_fn, model(*batch[:-1]), batch[-1])
        only = batch[0] if isinstance(batch, (list, tuple)) else batch
        return _call(loss_fn, model(only), only)

    return compute_loss


def _call(loss_fn: Callable[..., Any] | None, output: Any, target: Any) -> Tensor:
    assert loss_fn is not None
    scores = getattr(output, "logits", output)
    loss: Tensor = loss_fn(scores, target)
    return loss


def read_source(loop: Callable[..., Any] | ModuleType | str | None) -> str | None:
    """The source of a loop; None where it is not known.

    Raises:
        InputError: if it has none that can be read.
    """
    if loop is None or isinstance(loop, str):
        return loop
    try:
        return inspect.getsource(loop)
    except (OSError, TypeError) as error:
        raise InputError(f"lint: loop is {loop!r}, whose source cannot be read; pass its source as text") from error


def require_numbers(who: str, model: nn.Module) -> None:
    """See that the parameters of a model have numbers.

    Raises:
        InputError: if some are made with the first batch, or are on the meta device.
    """
    for name, each in model.named_parameters():
        if is_lazy(each) or each.is_meta:
            why = (
                "is made with the first batch; run one through the model" if is_lazy(each) else "is on the meta device"
            )
            raise InputError(
                f"{who}: the parameter {name!r} has no numbers: it {why}, and make the optimizer after that"
            )


def _validate(model: Any, optimizer: Any, loss_fn: Any, compute_loss: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"lint: model is a {type(model).__name__!r}; it has to be a torch.nn.Module")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"lint: optimizer is a {type(optimizer).__name__!r}; it has to be a torch.optim.Optimizer")
    require_numbers("lint", model)
    for name, function in (("loss_fn", loss_fn), ("compute_loss", compute_loss)):
        if function is not None and not callable(function):
            raise InputError(f"lint: {name} is {function!r}; it has to be a function")
    if loss_fn is not None and compute_loss is not None:
        raise InputError("lint: both loss_fn and compute_loss are given; pass one of them")


checks.load(__name__, __path__)
