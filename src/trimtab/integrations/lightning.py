"""A callback for Lightning's `Trainer.fit`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from trimtab.errors import Halted, InputError
from trimtab.integrations.wrapping import Wrapping
from trimtab.state.live import Partner
from trimtab.supervisor import Supervisor

FOR_ONE = ("compute_loss", "probe", "self_updating")
"""The options that are of the whole training, and that one with several optimizers cannot have."""

logger = logging.getLogger("trimtab")


class SupervisorCallback(Callback):
    """Keeps `Trainer.fit` stable: one supervisor for each optimizer, over the parameters that it updates.

        trainer = Trainer(gradient_clip_val=1.0, callbacks=[SupervisorCallback()])

    A step is judged after backward and before the trainer clips, in automatic and in manual optimization. Its loss is
    all that was handed to backward since the step before. What a validation logs is reviewed. What the supervisors
    remember is in the trainer's checkpoints. A halt ends the training cleanly, whatever `min_epochs` and `min_steps`.

    Args:
        *partners: whatever else a rollback restores; the trainer's schedulers and loss scaler need not be given.
        **options: the options of `Supervisor`. `scaler` is the trainer's own. With several optimizers each has a folder
            in the `run` folder; `trackers` is a function from an optimizer's place, from 0 on, to its trackers; and
            `compute_loss`, `probe` and `self_updating` are refused.

    Attributes:
        supervisors: those of the newest training, in the order of its optimizers.
        halt: what ended the newest training, if something did: its `.decision` and `.diagnosis` say why.
    """

    def __init__(self, *partners: Partner | None, **options: Any) -> None:
        if "scaler" in options:
            raise InputError("SupervisorCallback: scaler is the trainer's own; leave it out")
        self.supervisors: list[Supervisor] = []
        self.halt: Halted | None = None
        self._partners, self._options = partners, options
        self._loaded: list[dict[str, Any]] = []
        self._wrapping = Wrapping()
        self._loss: Tensor | None = None
        self._batch: Any = None
        self._is_judged = False
        self._trained: set[str] = set()
        self._reviewed: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to supervise: everything is built, in its place and loaded."""
        if trainer.gradient_clip_val and self._options.get("clip_norm"):
            raise InputError(
                "SupervisorCallback: clip_norm and the trainer's gradient_clip_val both clip; set one only"
            )
        self.halt = self._loss = self._batch = None
        # The trainer steps with a closure that computes the gradients: it is run before the optimizer's step begins, so
        # that the order is that of any loop: backward, check, step.
        self._wrapping.close()
        for optimizer in trainer.optimizers:
            self._wrapping.wrap(optimizer, "step", _step_after_closure)
        self.supervisors = [self._supervise(trainer, pl_module, index) for index in range(len(trainer.optimizers))]
        for supervisor, state in zip(self.supervisors, self._loaded, strict=bool(self._loaded)):
            supervisor.load_state_dict(state)
        self._loaded = []

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep a batch that is all of its step."""
        is_whole = pl_module.automatic_optimization and trainer.accumulate_grad_batches == 1
        self._batch = batch if is_whole else None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add to the loss of the step; a loss scaler has multiplied it already."""
        scaler = _find_scaler(trainer)
        loss = loss.detach() if scaler is None else loss.detach() / scaler.get_scale()
        self._loss = loss if self._loss is None or self._is_judged else self._loss + loss
        self._is_judged = False

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Judge the step: gradients are complete and unscaled here, and not clipped yet."""
        if self.halt is not None:  # the batch that was halted at may have other optimizers step too
            optimizer.zero_grad()
            return
        if pl_module.automatic_optimization and (self._loss is None or self._is_judged):
            return  # `training_step` returned None, and there is nothing to judge
        self._is_judged = True
        supervisor = next(s for s, each in zip(self.supervisors, trainer.optimizers, strict=True) if each is optimizer)
        with self._obeying(trainer):
            supervisor.check(self._loss, batch=self._batch)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which metrics are those of the training."""
        self._trained = set(trainer.callback_metrics) - self._reviewed

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Review what the validation has logged."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or self.halt is not None:
            return
        metrics = {name: value for name, value in trainer.callback_metrics.items() if name not in self._trained}
        self._reviewed |= set(metrics)
        for supervisor in self.supervisors if metrics else ():
            with self._obeying(trainer):
                supervisor.review(**metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the supervision."""
        self._finish("finished" if self.halt is None else "halted")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the supervision of a training that fails."""
        self._finish(f"failed: {type(exception).__name__}")

    def state_dict(self) -> dict[str, Any]:
        """What the supervisors remember, for the trainer's checkpoints."""
        return {"supervisors": self._loaded or [each.state_dict() for each in self.supervisors]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint holds until the training begins."""
        self._loaded = state_dict["supervisors"]

    def _supervise(self, trainer: Trainer, module: LightningModule, index: int) -> Supervisor:
        optimizer, options = trainer.optimizers[index], dict(self._options)
        schedulers = [each.scheduler for each in trainer.lr_scheduler_configs if each.scheduler.optimizer is optimizer]
        if self._loaded:
            options.setdefault("resume", True)
        model: nn.Module = module
        if callable(options.get("trackers")):
            options["trackers"] = options["trackers"](index)
        elif options.get("trackers") and len(trainer.optimizers) > 1:
            raise InputError(
                "SupervisorCallback: each of several optimizers has trackers of its own; give trackers as a function, "
                "such as `lambda index: [TensorBoardTracker(f'logs/optimizer-{index}')]`"
            )
        if len(trainer.optimizers) > 1:
            refused = [name for name in FOR_ONE if options.get(name)]
            if refused:
                raise InputError(
                    f"SupervisorCallback: {', '.join(refused)} cannot be used with {len(trainer.optimizers)} optimizers"
                )
            if options.get("run") is not None:
                options["run"] = Path(options["run"]) / f"optimizer-{index}"
            model = take_part(module, {id(each) for group in optimizer.param_groups for each in group["params"]})
        return Supervisor(model, optimizer, *schedulers, *self._partners, scaler=_find_scaler(trainer), **options)

    @contextmanager
    def _obeying(self, trainer: Trainer) -> Iterator[None]:
        """End the training where a decision halts it."""
        try:
            yield
        except Halted as halt:
            self.halt = halt.with_traceback(None)
            logger.error("%s", halt)
            trainer.should_stop = True
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = 0  # else it would go on until then

    def _finish(self, status: str) -> None:
        self._wrapping.close()
        for supervisor in self.supervisors:
            supervisor.finish(status)


def take_part(module: nn.Module, held: set[int]) -> nn.Module:
    """The part of a module that an optimizer updates, by the same names: a module of the very same modules.

    Args:
        module: the whole.
        held: the ids of the parameters of the optimizer. A module of which it has all trainable ones is taken with all
            that is in it, buffers too.
    """
    part = nn.Module()
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) in held:
            part.register_parameter(name, parameter)
    for name, child in module.named_children():
        trained = {id(each) for each in child.parameters() if each.requires_grad}
        if trained & held:
            part.add_module(name, child if trained <= held else take_part(child, held))
    return part


def _step_after_closure(step: Callable[..., Any], closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
    """An optimizer's `step`: first its closure, which leaves the gradients, then a step without one."""
    if closure is None:
        return step(**kwargs)
    with torch.enable_grad():
        result = closure()
    step(**kwargs)
    return result


def _find_scaler(trainer: Trainer) -> GradScaler | None:
    return getattr(trainer.precision_plugin, "scaler", None)
