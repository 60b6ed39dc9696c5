"""A callback for the `Trainer` of Hugging Face's Transformers."""

from __future__ import annotations

import base64
import inspect
import io
import logging
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from trimtab.errors import CheckpointError, Halted, InputError
from trimtab.integrations.wrapping import Wrapping
from trimtab.state.frozen import FrozenBase, require_same_frozen
from trimtab.state.live import Partner
from trimtab.supervisor import Supervisor

NO_METRICS = ("epoch", "_model_preparation_time", "_per_second", "_runtime")
"""How the names end of what an evaluation reports beside metrics."""

logger = logging.getLogger("trimtab")


class SupervisorCallback(TrainerCallback, ExportableState):
    """Keeps `Trainer.train` stable.

        trainer = Trainer(model, args, train_dataset=data, callbacks=[SupervisorCallback()])

    A step is judged after backward and before the trainer clips. Its loss is what `training_step` returns, whoever
    computes it, summed over the micro-batches. The metrics of an evaluation are reviewed. What the supervisor remembers
    is in `trainer_state.json`. A halt ends the training cleanly.

    Args:
        *partners: whatever else a rollback restores; the trainer's scheduler and loss scaler need not be given.
        **options: the options of `Supervisor`. `scaler` is the trainer's own, and `clip_norm` needs `max_grad_norm=0`.

    Attributes:
        supervisor: that of the newest training; None before the first.
        halt: what ended the newest training, if something did: its `.decision` and `.diagnosis` say why.
    """

    saved: str | None = None
    """Set where the trainer has made the callback anew from a checkpoint; such a one has lost its options."""

    def __init__(self, *partners: Partner | None, **options: Any) -> None:
        if "scaler" in options:
            raise InputError("SupervisorCallback: scaler is the trainer's own; leave it out")
        self.supervisor: Supervisor | None = None
        self.halt: Halted | None = None
        self._partners, self._options = partners, options
        self._wrapping = Wrapping()
        self._is_active = self._is_cut_off = False
        self._is_unscaled: Callable[[], bool] = bool
        self._losses: list[Tensor] = []
        self._batch: Any = None
        self._base: FrozenBase | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Begin to supervise: everything is built, in its place and loaded."""
        self._finish("failed: begun anew")  # as with `auto_find_batch_size`, when memory has run out
        self._validate(args)
        trainer, optimizer = _find_trainer(self), kwargs["optimizer"]
        while isinstance(optimizer, AcceleratedOptimizer):
            optimizer = optimizer.optimizer
        remembered: Any = state.stateful_callbacks  # by the names of callbacks
        entry = remembered.setdefault(type(self).__name__, self.state())  # there the trainer saves into
        saved = entry["attributes"].get("saved") if state.global_step else None
        scaler = trainer.accelerator.scaler
        self._is_unscaled = partial(_is_unscaled, scaler, optimizer)
        self.supervisor = Supervisor(
            kwargs["model"],
            optimizer,
            kwargs["lr_scheduler"],
            *self._partners,
            scaler=scaler,
            **{"resume": saved is not None or self._is_cut_off, **self._options},
        )
        if saved is not None:
            self._take_over(_decode(saved), kwargs["model"])
        self._base = FrozenBase(kwargs["model"])
        self.halt, self._losses, self._is_active, self._is_cut_off = None, [], True, True
        # Callbacks are told of a step when its gradients are clipped already, and never of its loss
        self._wrapping.wrap(trainer, "training_step", self._note_loss)
        self._wrapping.wrap(trainer.accelerator, "clip_grad_norm_", self._check_and_clip)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        """End the training if the step was halted; judge it, if the trainer has clipped in a way of its own."""
        self._check()
        control.should_training_stop = control.should_training_stop or self.halt is not None
        return control

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        """Review the metrics of an evaluation during training; `eval_loss` is known as `val_loss` from here on."""
        found = kwargs["metrics"].items()
        metrics = {
            "val_loss" if name == "eval_loss" else name: float(each)
            for name, each in found
            if not name.endswith(NO_METRICS) and _is_number(each)
        }
        if self._is_active and self.supervisor is not None and self.halt is None and metrics:
            with self._obeying():
                self.supervisor.review(**metrics)
        control.should_training_stop = control.should_training_stop or self.halt is not None
        return control

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """End the supervision."""
        self._finish("finished" if self.halt is None else "halted")
        self._is_cut_off = False

    def state(self) -> dict[str, Any]:
        """What the supervisor remembers, for `trainer_state.json`."""
        if self.supervisor is None or not self._is_active:
            return {"args": {}, "attributes": {}}
        frozen = {} if self._base is None else self._base.sample_unchanged()
        return {"args": {}, "attributes": {"saved": _encode({**self.supervisor.state_dict(), "frozen": frozen})}}

    def _take_over(self, saved: dict[str, Any], model: nn.Module) -> None:
        """Remember what a supervisor did; of a model with adapters, whose base is in no checkpoint, see to the base."""
        try:
            require_same_frozen(saved.pop("frozen", {}), model)
        except CheckpointError as error:
            raise InputError(f"SupervisorCallback: the checkpoint does not fit: {error}") from error
        if self.supervisor is not None:
            self.supervisor.load_state_dict(saved)

    def _validate(self, args: TrainingArguments) -> None:
        if self.saved is not None:
            raise InputError(
                "SupervisorCallback: restore_callback_states_from_checkpoint makes callbacks anew, without their "
                "options; leave it False: what the supervisor remembers is loaded all the same"
            )
        if args.max_grad_norm > 0 and self._options.get("clip_norm"):
            raise InputError(
                f"SupervisorCallback: clip_norm and the trainer's max_grad_norm={args.max_grad_norm} both clip; leave "
                "clip_norm out, or set max_grad_norm=0"
            )

    def _note_loss(self, step: Callable[..., Tensor], model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """`Trainer.training_step`: forward and backward of a micro-batch."""
        try:
            loss = step(model, inputs, *args, **kwargs)
        except BaseException as error:
            self._finish(f"failed: {type(error).__name__}")
            raise
        self._losses.append(loss.detach().clone())  # CUDA graphs overwrite theirs in the next micro-batch
        self._batch = inputs if len(self._losses) == 1 else None  # that of a step of one
        return loss

    def _check_and_clip(self, clip: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """`Accelerator.clip_grad_norm_`, which the trainer calls once a step even if it does not clip."""
        self._check()
        if self._is_unscaled():  # which the accelerator would do once more
            return torch.nn.utils.clip_grad_norm_(*args, **kwargs)
        return clip(*args, **kwargs)

    def _check(self) -> None:
        """Judge the step at hand, if it is not yet."""
        losses, self._losses = self._losses, []
        if not losses or self.supervisor is None or self.halt is not None:
            return
        with self._obeying():
            self.supervisor.check(torch.stack(losses).sum(), batch=self._batch)
        self._batch = None

    @contextmanager
    def _obeying(self) -> Iterator[None]:
        """Note a decision that halts the training; the trainer stops when the callback is asked next."""
        try:
            yield
        except Halted as halt:
            self.halt = halt.with_traceback(None)
            logger.error("%s", halt)

    def _finish(self, status: str) -> None:
        self._wrapping.close()
        if self._is_active and self.supervisor is not None:
            self.supervisor.finish(status)
        self._is_active = False


def _find_trainer(callback: TrainerCallback) -> Trainer:
    """The trainer that is calling a callback: it hands over neither itself nor its accelerator."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and callback in caller.callback_handler.callbacks:
            return caller
        frame = frame.f_back
    raise InputError(
        "SupervisorCallback: it works in a transformers.Trainer alone; elsewhere call a Supervisor's check"
    )


def _is_unscaled(scaler: GradScaler | None, optimizer: Optimizer) -> bool:
    """True if a loss scaler has unscaled the gradients of this step."""
    return scaler is not None and scaler._per_optimizer_states[id(optimizer)]["stage"].name == "UNSCALED"


def _encode(state: dict[str, Any]) -> str:
    """A state of numbers, text and tensors as one string, which JSON can hold."""
    file = io.BytesIO()
    torch.save(state, file)
    return base64.b85encode(zlib.compress(file.getvalue())).decode()


def _decode(text: str) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(zlib.decompress(base64.b85decode(text))), weights_only=True)
    return state


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.ndim == 0)
