"""The supervisor: one picture, one line per arrow."""

from __future__ import annotations

import logging
import math
import os
import traceback
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from trimtab import actions, detectors, probes
from trimtab.actions import Controls
from trimtab.errors import Halted, InputError
from trimtab.history import History
from trimtab.journal import Journal, describe_run, parse_decision, to_fields
from trimtab.policy import LEDGER_CAPACITY, Policy, decide
from trimtab.probes.rerun import ComputeLoss, rerun_loss, tell_rerun
from trimtab.probes.subject import Grouping, Moment, Subject, as_number
from trimtab.state.buffers import BufferCopies
from trimtab.state.rng import capture_rng, restore_rng
from trimtab.state.snapshot import Partner, Snapshots
from trimtab.types import Adjustment, Decision, Measurement, Record

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

WEIGHTS_EVERY = 2
"""Steps from one measurement of the weights to the next, if a snapshot is on probation for as long: reading them costs
as much as reading the gradients."""

RATIO_EVERY = 4
"""Snapshots from one measurement of the update ratio to the next, which costs half as much as a snapshot."""

RESERVED = {"step", "clock"}
"""Names that a line of the journal has for itself."""

logger = logging.getLogger("trimtab")


class Supervisor:
    """Keeps a training loop stable: call `check` once per optimizer step, between backward and the optimizer's step.

    Args:
        model: the model that is trained.
        optimizer: the optimizer that updates it; any that leaves parameters without a gradient alone.
        *partners: whatever else a rollback restores, such as a scheduler or an average of the weights; each needs
            `state_dict` and `load_state_dict`; None is passed over.
        clip_norm: gradients are clipped to this total norm, for float32 gradients bit for bit as
            `torch.nn.utils.clip_grad_norm_` does; None for no clipping.
        groups: the parameter groups to measure by: names of modules or parameters, or group name to such names.
            By default the model's own modules, at most 64.
        scaler: the `GradScaler` of mixed-precision training; `check` unscales, in place of `scaler.unscale_`.
        policy: what to find and how to answer; `Policy.default()` if None.
        run: the run folder to write; None for none.
        compute_loss: `compute_loss(model, batch)`, the loss of a batch. With it, and with `check(loss, batch=batch)`,
            a loss that is not finite is computed once more, from the random numbers as they were at the end of the
            check before and under no autocast but its own, and the record says whether the fault recurred.
        data: the data position (a sampler or loader with `state_dict`), if it can be rewound: then a rollback
            rewinds it together with all random number generators. Without it, neither is rewound.
        resume: go on writing to a run folder that is there already.
        log_every: steps between two log lines.
        strict: raise when Trimtab itself fails, in place of recording it and going on. By default as the environment
            variable `TRIMTAB` says: `strict`, or `off` for a supervisor that only does its routine clipping.

    Raises:
        InputError: if model, optimizer, partners, policy or run folder cannot be used.

    Attributes:
        step: optimizer steps checked so far.
        history: the newest measurements of steps.
        ledger: the newest decisions that had findings.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *partners: Partner | None,
        clip_norm: float | None = None,
        groups: Grouping | None = None,
        scaler: GradScaler | None = None,
        policy: Policy | None = None,
        run: str | Path | None = None,
        compute_loss: ComputeLoss | None = None,
        data: Partner | None = None,
        resume: bool = False,
        log_every: int = 50,
        strict: bool | None = None,
    ) -> None:
        mode = os.environ.get("TRIMTAB", "")
        if mode not in ("", "off", "strict"):
            raise InputError(
                f"supervisor: the environment variable TRIMTAB is {mode!r}; it has to be 'off' or 'strict'"
            )
        self._is_off = mode == "off"
        self._strict = mode == "strict" if strict is None else strict
        self.policy = Policy.default() if policy is None else policy
        _validate(self.policy, clip_norm, log_every, partners)
        self.step = 0
        self._log_every = log_every
        self._compute_loss = compute_loss
        self._subject = Subject(model, optimizer, scaler, groups)
        self.history = History(self._subject.groups)
        self.reviews = History()
        self.ledger: deque[Decision] = deque(maxlen=LEDGER_CAPACITY)
        scales = scaler if scaler is not None and scaler.is_enabled() else None
        restored = [partner for partner in (*partners, scales) if partner is not None]
        buffers = BufferCopies(model)
        snapshots = Snapshots(optimizer, buffers, restored, data, self.policy.probation)
        self._controls = Controls(model, optimizer, scaler, snapshots, buffers, self._survive, clip_norm)
        self._stopwatch = _Stopwatch()
        self._num_faults = self._num_snapshots = self._snapshot_step = 0
        self._is_new = True
        self._unshared: Exception | None = None
        self._begin_anew()
        self._journal: Journal | None = None
        self._hooks: list[RemovableHandle] = []
        if self._is_off:
            return
        if run is not None and is_first_rank():
            settings = {"clip_norm": clip_norm, "policy": self.policy.to_dict()}
            manifest = describe_run(self._subject.groups, probes.list_group_metrics(), self._subject.dtypes, settings)
            self._journal = Journal(run, manifest, resume=resume)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def check(
        self, loss: Tensor | float | None, *, grad_norm: Tensor | float | None = None, batch: Any = None
    ) -> Decision:
        """Judge the update that is about to happen, clip it, and see that it does not happen if it must not.

        Call it after backward and before the optimizer's step. If the update must not happen, every gradient is None
        afterwards, so that the optimizer's step changes nothing.

        Args:
            loss: the loss of the step, 0-d; None where it is not known.
            grad_norm: the total gradient norm, 0-d, where the loop has measured it already; then it is not measured
                again, nor by group.
            batch: the batch of the loss, for `compute_loss`.

        Returns:
            The decision. `decision.proceed` is False if the update is dropped or undone.

        Raises:
            InputError: if the loss or the norm is not one number.
            Halted: if the run has to end.
        """
        moment = Moment(
            self._subject,
            loss=None if loss is None else as_number("check", "loss", loss),
            grad_norm=None if grad_norm is None else as_number("check", "grad_norm", grad_norm),
        )
        if self._is_off:
            self._clip_only()
            return Decision(self.step)
        self._stopwatch.start()
        self.step += 1
        try:
            with torch.no_grad():
                decision = self._check(moment, batch)
        except Exception as fault:
            self._survive(fault)
            self._pass_over()
            decision = Decision(self.step)
        self._stopwatch.stop()
        return self._conclude(decision)

    def review(self, **metrics: Tensor | float) -> Decision:
        """Judge the run by metrics of a validation or an epoch, such as `review(val_loss=0.31)`.

        A policy may let it roll back or halt; after such a rollback a scheduler is one step behind.

        Args:
            **metrics: metric name to one number; in a distributed run the same on every rank, each of which calls it.

        Returns:
            The decision.

        Raises:
            InputError: if a metric is not one number.
            Halted: if the run has to end.
        """
        for name in RESERVED & metrics.keys():
            raise InputError(
                f"review: a metric cannot be called {name!r}, which is the journal's own; choose another name"
            )
        values = {name: float(as_number("review", name, value)) for name, value in metrics.items()}
        if self._is_off:
            return Decision(self.step, clock="review")
        try:
            with torch.no_grad():
                decision = self._judge(Measurement(self.step, values, clock="review"), self.reviews)
        except Exception as fault:
            self._survive(fault)
            decision = Decision(self.step, clock="review")
        return self._conclude(decision)

    def finish(self) -> None:
        """End the supervision: write what is still to be written and let go of the optimizer. May be called twice."""
        self._finish("finished")

    def state_dict(self) -> dict[str, Any]:
        """All that the supervisor remembers but the snapshots, as numbers, text and tensors, for a checkpoint."""
        return {
            "step": self.step,
            "history": _to_tensors(self.history.state_dict()),
            "reviews": _to_tensors(self.reviews.state_dict()),
            "ledger": [to_fields(decision) for decision in self.ledger],
            "adjustments": [to_fields(adjustment) for adjustment in self._controls.adjustments],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what a supervisor remembered; load model and optimizer before.

        Raises:
            InputError: if the state is that of a run with other parameter groups.
        """
        if not {"step", "history", "reviews", "ledger", "adjustments"} <= state_dict.keys():
            raise InputError("supervisor: the state is none of a supervisor's; pass what state_dict() returned")
        groups = state_dict["history"]["groups"]
        if tuple(groups) != self.history.groups:
            raise InputError(
                f"supervisor: the state is of a run with the groups {', '.join(groups)}; "
                f"this one has {', '.join(self.history.groups)}; build it with the same groups="
            )
        self.step = state_dict["step"]
        self.history.load_state_dict(_to_arrays(state_dict["history"]))
        self.reviews.load_state_dict(_to_arrays(state_dict["reviews"]))
        self.ledger = deque(map(parse_decision, state_dict["ledger"]), maxlen=LEDGER_CAPACITY)
        self._controls.adjustments = tuple(Adjustment(**fields) for fields in state_dict["adjustments"])
        self._begin_anew()
        if self._journal is not None:
            self._journal.write_event("resumed", step=self.step)

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._finish("finished" if kind is None else f"failed: {kind.__name__}")

    def _check(self, moment: Moment, batch: Any) -> Decision:
        fault, self._unshared = self._unshared, None
        was_new = self._is_new
        try:
            self._prepare(moment)
        except Exception as error:
            fault = error
        try:
            measurement = probes.measure(self.step, moment, fault)
        except Exception:
            if was_new:
                self._controls.snapshots.forget()
            self._is_new = was_new
            raise
        try:
            decision = self._judge(measurement, self.history, batch)
        except Exception as error:
            self._unshared = error if probes.is_distributed() else None
            raise
        if self._compute_loss is not None:
            self._rng = capture_rng()
        return decision

    def _prepare(self, moment: Moment) -> None:
        """Bring everything into the state that probes measure; first what decides how much they measure."""
        subject, snapshots = self._subject, self._controls.snapshots
        moment.seconds = self._stopwatch.read()
        moment.are_weights_due = (self.step - 1) % min(WEIGHTS_EVERY, self.policy.probation) == 0
        moment.is_ratio_due = self.step == self._snapshot_step + 2 and self._num_snapshots % RATIO_EVERY == 0
        subject.refresh_if_changed()
        self._unscale()
        if self._is_new:
            self._take_first_snapshot()
        snapshots.complete()
        if moment.is_ratio_due and self._is_clean:
            moment.reference = snapshots.find_reference(subject.parameters, self._snapshot_step)

    def _judge(self, measurement: Measurement, history: History, batch: Any = None) -> Decision:
        history.append(measurement)
        findings = detectors.detect(history, self.policy.settings)
        decision = decide(findings, self.ledger, self.policy, step=self.step, clock=measurement.clock)
        note = self._rerun(measurement, batch) if decision.findings and batch is not None else ""
        action = actions.act(decision, self._controls, measurement, note)
        record = Record(measurement, decision, action)
        has_new_level = history.close(record.is_sample)
        if has_new_level and self._journal is not None:
            self._journal.write_event("re-based", step=self.step)
        self._remember(record)
        return decision

    def _rerun(self, measurement: Measurement, batch: Any) -> str:
        """Compute a loss that is not finite once more, from the random numbers it had, and say what that tells."""
        loss = measurement.values.get("loss")
        if self._compute_loss is None or not isinstance(loss, float) or math.isfinite(loss):
            return ""
        now = capture_rng()
        restore_rng(self._rng)
        try:
            with self._controls.buffers.keep_live():
                return tell_rerun(loss, rerun_loss(self._subject.model, self._compute_loss, batch))
        except Exception as fault:
            self._survive(fault)
            return ""
        finally:
            restore_rng(now)

    def _remember(self, record: Record) -> None:
        decision, action = record.decision, record.action
        if decision.findings:
            self.ledger.append(decision)
        if action.restored_step is not None:
            self.history.abandon(action.restored_step)
        if decision.responses:
            self._doubt()
        elif decision.clock == "step":
            self._controls.snapshots.confirm()
        if decision.clock == "step":
            self._is_clean = not decision.responses
            self._controls.buffers.update()
        if self._journal is not None:
            self._journal.write(record)
        self._log(record)

    def _conclude(self, decision: Decision) -> Decision:
        if decision.verdict == "halt":
            self._finish("halted")
            raise Halted(decision)
        return decision

    def _unscale(self) -> None:
        """Divide the gradients by the loss scale, unless the loop has done so itself."""
        scaler = self._controls.scaler
        if scaler is not None and self._subject.scales:
            stage = scaler._per_optimizer_states[id(self._controls.optimizer)]["stage"]
            if stage.name == "READY":
                scaler.unscale_(self._controls.optimizer)

    def _clip_only(self) -> None:
        """The routine clipping the loop has handed over, and nothing else."""
        if self._controls.clip_norm is not None:
            self._unscale()
            torch.nn.utils.clip_grad_norm_(self._subject.parameters, self._controls.clip_norm)

    def _pass_over(self) -> None:
        """Leave a step alone that could not be judged: clip it, and see that the next can be."""
        self._is_clean = False
        self._doubt()
        self._clip_only()
        try:
            self._controls.buffers.update()
        except Exception as fault:
            self._survive(fault)

    def _doubt(self) -> None:
        """Give a candidate on probation up; the next clean step takes another, on every rank alike."""
        self._controls.snapshots.doubt()
        if self.step <= self._snapshot_step + self.policy.probation:
            self._snapshot_step = self.step - self.policy.snapshot_every

    def _begin_anew(self) -> None:
        """Trust the state as it is from here on: it was loaded, or the run begins with it."""
        controls = self._controls
        self._is_new, self._is_clean, self._snapshot_step = True, False, self.step
        self._unshared = None
        controls.snapshots.forget()
        controls.buffers.begin()
        self._rng = capture_rng()
        self._first_data = controls.snapshots.capture_data()
        self._marks = self._subject.mark_parameters()

    def _take_first_snapshot(self) -> None:
        """Snapshot the state before the first update; it needs no probation, for there is nothing older.

        The forward pass has already been through the buffers, so theirs are the copies made at the beginning, unless
        the weights were written to since: then they were loaded, and the copies are not what was loaded.
        """
        self._is_new = False
        snapshots, buffers = self._controls.snapshots, self._controls.buffers
        if self._subject.mark_parameters() != self._marks:
            buffers.begin()
        snapshot = snapshots.take(self.step - 1)
        snapshots.complete()
        snapshot.data = self._first_data
        snapshot.copies.update({("buffer", name): copy.clone() for name, copy in buffers.list_copies().items()})
        snapshots.trust()

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(callable(each) for each in (*args[1:], *kwargs.values())):
            raise InputError(
                "supervisor: optimizer.step was given a closure, which computes gradients that check has not judged; "
                "call backward and check first, then step without a closure"
            )
        if self._controls.adjustments or self._controls.uncooled:
            self._stopwatch.start()
            try:
                actions.cool_before_step(self._controls, self.step)
            except Exception as fault:
                self._survive(fault)
            self._stopwatch.stop()

    def _after_step(self, *_: Any) -> None:
        self._stopwatch.start()
        try:
            if self._controls.uncooled:
                actions.restore_rates(self._controls)
            if self._is_clean and self.step - self._snapshot_step >= self.policy.snapshot_every:
                self._snapshot_step = self.step
                self._num_snapshots += 1
                self._controls.buffers.rescan()
                self._controls.snapshots.take(self.step)
        except Exception as fault:
            self._unshared = fault if probes.is_distributed() else None
            self._survive(fault)
        self._stopwatch.stop()

    def _survive(self, fault: Exception) -> None:
        """Record that Trimtab itself failed, once, and let the training go on; in strict mode raise."""
        if self._strict:
            raise fault
        self._num_faults += 1
        if self._num_faults > 1:
            return
        trace = "".join(traceback.format_exception(fault))
        logger.error(
            "trimtab itself failed at step %d and left the step alone; training goes on. This is a bug: please report "
            "it to the project's issue tracker with this trace. It is reported once.\n%s",
            self.step,
            trace,
        )
        if self._journal is not None:
            self._journal.write_event("failure", step=self.step, trace=trace)

    def _log(self, record: Record) -> None:
        decision, values = record.decision, record.measurement.values
        if decision.findings and is_first_rank():
            level = logging.WARNING if decision.responses else logging.INFO
            logger.log(level, "step %d: %s", self.step, decision.reason)
        if decision.clock == "step" and self.step % self._log_every == 0 and is_first_rank():
            shown = [name for name in ("loss", "grad_norm", "learning_rate", "loss_scale") if name in values]
            logger.info("step %d: %s", self.step, ", ".join(f"{name} {values[name]:.4g}" for name in shown))

    def _finish(self, status: str) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        actions.restore_rates(self._controls)
        if self._journal is not None:
            self._journal.write_event("end", step=self.step, status=status, num_failures=self._num_faults)
            self._journal.close()
            self._journal = None


class _Stopwatch:
    """Where the time of a step goes: seconds from check to check, and those of them the supervisor took."""

    def __init__(self) -> None:
        self._began = self._check_began = 0.0
        self._seconds = 0.0

    def start(self) -> None:
        self._began = perf_counter()

    def stop(self) -> None:
        self._seconds += perf_counter() - self._began

    def read(self) -> tuple[float, float] | None:
        """Both numbers since the last reading, which is to be at the beginning of a check."""
        last, self._check_began = self._check_began, self._began
        seconds, self._seconds = self._seconds, 0.0
        return (self._began - last, seconds) if last else None


def is_first_rank() -> bool:
    """True on the one process of a distributed run that writes and logs, and without one."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0)


def _validate(policy: Policy, clip_norm: float | None, log_every: int, partners: tuple[Partner | None, ...]) -> None:
    if not isinstance(policy, Policy):
        raise InputError(f"supervisor: policy is {policy!r}; it has to be a Policy, such as Policy.from_toml(path)")
    if clip_norm is not None and (not isinstance(clip_norm, (int, float)) or not clip_norm > 0):
        raise InputError(f"supervisor: clip_norm is {clip_norm!r}; it has to be above 0, or None for no clipping")
    if not isinstance(log_every, int) or log_every < 1:
        raise InputError(f"supervisor: log_every is {log_every!r}; it has to be above 0")
    if any(isinstance(partner, torch.amp.GradScaler) for partner in partners):
        raise InputError("supervisor: a GradScaler was given as a partner; pass it as scaler=")


def _to_tensors(state: Any) -> Any:
    """A state with its arrays as tensors, which `torch.load` reads with `weights_only=True`."""
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state)
    return {key: _to_tensors(value) for key, value in state.items()} if isinstance(state, dict) else state


def _to_arrays(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.numpy()
    return {key: _to_arrays(value) for key, value in state.items()} if isinstance(state, Mapping) else state
