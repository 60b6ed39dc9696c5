"""The supervisor: one picture, one line per arrow."""

from __future__ import annotations

import copy
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

import torch
from torch import Tensor, nn

from trimtab import actions, probes, ranks
from trimtab.actions import Controls
from trimtab.diagnosis import Diagnosis
from trimtab.diagnosis.live import diagnose_halted
from trimtab.diagnosis.quality import rate_quality
from trimtab.errors import Halted, InputError, RanksError
from trimtab.history import REBASE_AFTER, History
from trimtab.journal import Tracker, describe_run, parse_adjustment, to_fields
from trimtab.journal.recorder import Recorder
from trimtab.policy import Judge, Policy
from trimtab.policy.table import LEDGER_CAPACITY
from trimtab.probes import Watch
from trimtab.probes.embeddings import Sample, read_sample
from trimtab.probes.groups import Grouping
from trimtab.probes.locate import locate_nonfinite
from trimtab.probes.mode_gap import is_compiled
from trimtab.probes.probe_loss import make_evaluate
from trimtab.probes.reasons import Origin
from trimtab.probes.rerun import ComputeLoss
from trimtab.probes.schedule_pace import find_schedule
from trimtab.probes.spectra import Cadence, count_work, is_due
from trimtab.probes.step_seconds import Stopwatch
from trimtab.probes.subject import Moment, Subject, as_number
from trimtab.report.dashboard import write_dashboard
from trimtab.report.health import Health, assess_health
from trimtab.signals import SIGNALS, Inbox
from trimtab.state.archive import Archive
from trimtab.state.buffers import BufferCopies
from trimtab.state.live import Form, LiveState, Partner, Place, Snapshot, restore_options
from trimtab.state.packing import to_arrays, to_tensors
from trimtab.state.rng import capture_rng, restore_rng
from trimtab.state.run import CheckpointForm, RunState
from trimtab.state.schedule import ProbeSchedule, SnapshotSchedule
from trimtab.state.snapshot import Snapshots
from trimtab.supervisor.distribution import refuse_unsupported, require_alike_ranks
from trimtab.supervisor.examination import Examination, find_sickness
from trimtab.supervisor.pace import UNSTEPPED, Pace
from trimtab.supervisor.summary import summarize_steps
from trimtab.supervisor.suspects import Suspects
from trimtab.supervisor.validation import validate, validate_choices, validate_trackers
from trimtab.types import Action, Decision, Measurement, Record, Value

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

logger = logging.getLogger("trimtab")

RESERVED = {"step", "clock"}
"""Names that a line of the journal has for itself."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a run goes on from."""

    step: int
    """The optimizer steps done."""

    extra: Mapping[str, Any]
    """What the loop handed to `checkpoint`."""


class Follower(Protocol):
    """Whoever is told of every review."""

    def follow(self, record: Record) -> None:
        """Do what a review asks for."""

    def state_dict(self) -> Mapping[str, Any]:
        """What is remembered, as numbers, text, lists and mappings."""

    def load_state_dict(self, state_dict: Any) -> None:
        """Take over what was remembered."""


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
            a loss that is not finite is computed again, from the random numbers as they were at the end of the check
            before and under no autocast but its own, and the record says whether the fault is transient, persistent,
            structural or one of precision, and where it begins. At every hundredth step the loss is also computed in
            eval mode, without gradients, to see whether both modes agree. Not in a distributed run.
        probe: a second measurement of every state, for the detector `innovation`: a function that takes the model and
            returns one number, lower being better, or a batch that is not trained on, of which `compute_loss` gives
            the loss of the first 16 samples. It is evaluated in eval mode, BatchNorm by the statistics of these
            samples, without gradients; how often is the policy's `probe_every` and `probe_budget`.
        data: the data position (a sampler or loader with `state_dict`), if it can be rewound: then a rollback
            rewinds it together with all random number generators. Without it, neither is rewound.
        resume: go on writing to a run folder that is there already.
        signals: read what `trimtab signal` and the system send, at every check, for `supervisor.signals`.
        checkpoint_every: steps between two checkpoints that `checkpoint` writes into the run folder.
        checkpoint_form: what one keeps: `full`, or `trained`, without the frozen parameters that are as they were when
            the run began, such as the base that adapters are trained on. The model then has to have them when the run
            is resumed, and by a few numbers of each it is seen that it has.
        self_updating: names of modules or parameters that change outside the optimizer, such as an average of the
            weights that is part of the model, a codebook, or Hebbian weights: a skip puts them back too.
        snapshot_form: what a snapshot keeps: `full`, or to save memory `bfloat16-moments`, which rounds the
            optimizer's moments, or `parameters`, after which the optimizer begins anew.
        snapshot_place: where it is kept: `host`, `device` or `disk`.
        log_every: steps between two log lines.
        spectra_every: reviews from one measurement of the weights' spectra to the next (`trimtab.measure_spectra`); 0
            for none; "auto" for as often as they take no more than a hundredth of the time of the steps.
        trackers: who is told of every step, review and event beside the run folder, from threads of their own, such as
            `trimtab.integrations.tensorboard.TensorBoardTracker`; in a distributed run by the first rank.
        strict: raise when Trimtab itself fails, in place of recording it and going on. By default as the environment
            variable `TRIMTAB` says: `strict`, or `off` for a supervisor that only does its routine clipping.

    Raises:
        InputError: if model, optimizer, partners, policy or run folder cannot be used.

    Attributes:
        step: optimizer steps checked so far.
        record: what was measured, decided and done at the newest check or review; None before the first.
        signals: what came in by the newest check, the same on every rank, by the names in `trimtab.signals.SIGNALS`;
            SIGTERM and SIGUSR1, on any rank, are a `pause`. The loop acts on them.
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
        probe: Any = None,
        data: Partner | None = None,
        resume: bool = False,
        signals: bool = False,
        checkpoint_every: int = 200,
        checkpoint_form: CheckpointForm = "full",
        self_updating: Sequence[str] = (),
        snapshot_form: Form = "full",
        snapshot_place: Place = "host",
        log_every: int = 50,
        spectra_every: Cadence = "auto",
        trackers: Sequence[Tracker] = (),
        strict: bool | None = None,
    ) -> None:
        mode = os.environ.get("TRIMTAB", "")
        if mode not in ("", "off", "strict"):
            raise InputError(
                f"supervisor: the environment variable TRIMTAB is {mode!r}; it has to be 'off' or 'strict'"
            )
        self._is_off = mode == "off"
        self.policy = Policy.default() if policy is None else policy
        validate(self.policy, clip_norm, partners, scaler, compute_loss)
        validate_choices(snapshot_form, snapshot_place, checkpoint_form, checkpoint_every, log_every, spectra_every)
        validate_trackers(trackers)
        if isinstance(model, nn.Module):
            refuse_unsupported(model, optimizer, has_probe=probe is not None, updates_itself=bool(self_updating))
        self.step = 0
        self.record: Record | None = None
        self.signals: tuple[str, ...] = ()
        self._recorder = Recorder(
            lambda: self.step,
            ranks.is_first_rank,
            log_every=log_every,
            strict=mode == "strict" if strict is None else strict,
        )
        self._compute_loss = compute_loss
        self._spectra_every: Cadence = spectra_every
        self._settings = {
            "the policy": self.policy.to_dict(),
            "clip_norm": clip_norm,
            "the probe": probe is None,
            "signals": signals,
        }
        self._is_alike = False
        self._norm: float | None = None
        self._subject = Subject(model, optimizer, scaler, groups)
        self._judge = Judge(self.policy, self._subject.groups)
        scales = scaler if scaler is not None and scaler.is_enabled() else None
        restored = [partner for partner in (*partners, scales) if partner is not None]
        self._subject.schedule = find_schedule(partners)
        network = self._subject.network
        buffers = BufferCopies(network, self_updating)
        self._evaluate = make_evaluate(probe, compute_loss)
        if self._evaluate is not None and self_updating:
            self._evaluate = buffers.protect(self._evaluate)
        live = LiveState(optimizer, buffers, restored, data, snapshot_form, snapshot_place)
        snapshots = Snapshots(live, self.policy.probation)
        subject, report = self._subject, self._recorder.survive
        self._controls = Controls(
            network,
            optimizer,
            scaler,
            subject.groups,
            subject.list_members,
            snapshots,
            buffers,
            report,
            self._reload,
            clip_norm,
        )
        self._schedule = SnapshotSchedule(snapshots, buffers, self.policy.snapshot_every, self.policy.probation)
        self._probing = ProbeSchedule(self.policy.probe_every, self.policy.probe_budget, self.policy.memory)
        self._stopwatch = Stopwatch()
        self._unshared: Exception | None = None
        self._pace = Pace()
        self._is_rate_declared = self._is_data_declared = False
        self._level_step: int | None = None
        self._updates_itself = bool(self_updating)
        self._compares_modes = compute_loss is not None and not self_updating and not is_compiled(network)
        self._watches: dict[str, Watch] = {}
        self._followers: list[Follower] = []
        self._suspects = Suspects()
        self._done: deque[tuple[Decision, Action]] = deque(maxlen=LEDGER_CAPACITY)
        self._examination = Examination(subject, self._controls, compute_loss, is_strict=self._recorder.is_strict)
        self._begin_anew()
        self._hooks: list[RemovableHandle] = []
        self._inbox: Inbox | None = None
        self._unsent: set[str] = set()
        self._listening = ExitStack()
        self._archive: Archive | None = None
        if run is not None:
            state = RunState(model, optimizer, restored, data, keeps_frozen=checkpoint_form == "full")
            self._archive = Archive(
                Path(run),
                state,
                every=checkpoint_every,
                probation=self.policy.probation,
                report=lambda sentence: self._recorder.warn("checkpoint", sentence),
                flush=self._recorder.flush,
                writes=ranks.is_first_rank(),
            )
        if self._is_off:
            return
        if ranks.is_first_rank() and (self._archive is not None or trackers):
            given = {"compute_loss": compute_loss, "probe": probe}
            handed = [name for name, value in given.items() if value is not None]
            settings = {"clip_norm": clip_norm, "policy": self.policy.to_dict(), "handed": handed}
            usual, sampled = probes.list_group_metrics()
            manifest = describe_run(
                self._subject.groups, usual, self._subject.dtypes, settings, sampled_metrics=sampled
            )
            if self._archive is not None:
                with self._archive.holding():
                    self._recorder.open(self._archive.folder, manifest, resume=resume)
            self._recorder.begin_tracking(trackers, manifest)
        self._hooks = [
            optimizer.register_step_pre_hook(torch.compiler.disable(self._before_step)),
            optimizer.register_step_post_hook(torch.compiler.disable(self._after_step)),
        ]
        if self._updates_itself:
            self._hooks.append(model.register_forward_pre_hook(self._before_forward))
        if signals:
            self._inbox = Inbox(run if ranks.is_first_rank() else None)
            self._listening.enter_context(self._inbox.listen())

    @property
    def history(self) -> History:
        """The newest measurements of steps."""
        return self._judge.steps

    @property
    def reviews(self) -> History:
        """The newest measurements of reviews."""
        return self._judge.reviews

    @property
    def ledger(self) -> Sequence[Decision]:
        """The newest decisions that had findings."""
        return self._judge.ledger

    def check(
        self,
        loss: Tensor | float | None,
        *,
        grad_norm: Tensor | float | None = None,
        batch: Any = None,
        parts: Mapping[str, Tensor | float] | None = None,
    ) -> Decision:
        """Judge the update that is about to happen, clip it, and see that it does not happen if it must not.

        Call it after backward and before the optimizer's step. If the update must not happen, every gradient is None
        afterwards, so that the optimizer's step changes nothing.

        Args:
            loss: the loss of the step, 0-d; None where it is not known.
            grad_norm: the total gradient norm, 0-d, where the loop has measured it already; then it is not measured
                again, nor by group.
            batch: the batch of the loss, for `compute_loss`, and to be known again.
            parts: losses by name whose sum is the loss, each 0-d: they are recorded, and one that is not finite is
                named. On every rank the same names.

        Returns:
            The decision. `decision.proceed` is False if the update is dropped or undone.

        Raises:
            InputError: if the loss or the norm is not one number, or ranks were set up in different ways.
            RanksError: if another rank is gone, or the ranks are at different steps.
            Halted: if the run has to end.
        """
        moment = Moment(
            self._subject,
            loss=None if loss is None else as_number("check", "loss", loss),
            grad_norm=None if grad_norm is None else as_number("check", "grad_norm", grad_norm),
            batch=batch,
            parts={name: as_number("check", name, part) for name, part in (parts or {}).items()},
        )
        self.step += 1
        if self._is_off:
            self._clip_only()
            return Decision(self.step)
        self._require_alike({"the parts of the loss": (*moment.parts,), "grad_norm": moment.grad_norm is None})
        self._stopwatch.start()
        if self._pace.has_stalled(is_scaled=self._subject.scales):
            self._recorder.warn("unstepped", UNSTEPPED)
        try:
            with torch.no_grad():
                decision = self._check(moment)
        except RanksError:
            raise
        except Exception as error:
            self._recorder.survive(error, is_of_another=isinstance(error, probes.ProbeError))
            self._pass_over(moment)
            decision = Decision(self.step)
        self._pace.is_step_due = decision.proceed
        self._stopwatch.stop()
        return self._conclude(decision)

    def screen(self, loss: Tensor | float) -> bool:
        """Look at a loss before backward, which is spared if the loss is not finite. Optional: `check` looks too.

            if not supervisor.screen(loss):
                continue

        A loss that is not finite is answered at once, as `check` answers it, and counts as the step: gradients that
        micro-batches before it have left are dropped, and `check` is not called for it. A loop that leaves the step
        then leaves the scheduler where it was. In a distributed run every rank calls it, which costs one more
        all-reduce.

        Args:
            loss: the loss of a batch or micro-batch, 0-d.

        Returns:
            True if backward may go ahead: the loss is finite, or the policy does not stop it.

        Raises:
            InputError: if the loss is not one number, or ranks were set up in different ways.
            RanksError: if another rank is gone, or the ranks are at different steps.
            Halted: if the run has to end.
        """
        moment = Moment(self._subject, loss=as_number("screen", "loss", loss))
        if self._is_off:
            return True
        self._require_alike({})
        self._stopwatch.start()
        passes, decision = True, Decision(self.step)
        try:
            with torch.no_grad():
                measurement = probes.measure(self.step + 1, moment, only=["loss"])
                passes = self._judge.would_proceed(measurement)
                if not passes:
                    self.step += 1
                    decision = self._take(measurement, moment)
                    self._look_ahead()
        except RanksError:
            raise
        except Exception as error:
            self._unshared = error if ranks.is_distributed() else None
            self._recorder.survive(error)
        self._stopwatch.stop()
        self._conclude(decision)
        return passes

    def freeze(self, *groups: str, num_steps: int | None = None) -> None:
        """Freeze groups by hand from the next check on: parameters and optimizer state keep every bit.

        In a distributed run every rank calls it, and `thaw` too. Nothing is frozen under `TRIMTAB=off`.

        Args:
            *groups: names of parameter groups.
            num_steps: for how many steps; None until `thaw`.

        Raises:
            InputError: if there is no such group, or the number of steps is not above 0.
        """
        self._require_groups("freeze", groups)
        if num_steps is not None and not num_steps > 0:
            raise InputError(f"freeze: num_steps is {num_steps!r}; it has to be above 0, or None until thaw")
        if self._is_off:
            return
        actions.freeze(self._controls, groups, self.step, num_steps)
        self._recorder.tell_event("freeze", groups=groups, num_steps=num_steps, by="hand")

    def thaw(self, *groups: str) -> None:
        """Let frozen groups be trained again from the next check on, whoever froze them.

        Raises:
            InputError: if there is no such group.
        """
        self._require_groups("thaw", groups)
        actions.thaw(self._controls, groups)
        self._recorder.tell_event("thaw", groups=groups, by="hand")

    def locate_nonfinite(self, batch: Any) -> Origin | None:
        """Where the first number that is not finite begins when a batch is computed now: `trimtab.locate_nonfinite`.

        Raises:
            InputError: if the supervisor was given no `compute_loss`.
        """
        if self._compute_loss is None:
            raise InputError(
                "locate_nonfinite: the supervisor has no compute_loss; pass compute_loss= when it is made, "
                "or call trimtab.locate_nonfinite(model, batch, compute_loss)"
            )
        scaler = self._controls.scaler
        scale = scaler.get_scale() if scaler is not None and scaler.is_enabled() else 1.0
        return locate_nonfinite(self._subject.model, batch, self._compute_loss, scale=scale)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The groups that are frozen now."""
        return tuple(group for each in self._controls.adjustments for group in each.groups)

    def health(self) -> Health:
        """The gradient health of every group, a table when printed."""
        return assess_health(self.history)

    def review(
        self, *, embeddings: Any = None, views: Any = None, columns: Any = None, **metrics: Tensor | float
    ) -> Decision:
        """Judge the run by metrics of a validation or an epoch, such as `review(val_loss=0.31)`.

        A policy may let it roll back or halt; after such a rollback a scheduler is one step behind. Beside what is
        given it records `train_loss` and `train_grad_norm`, the medians of the newest third of the steps since the
        review before, and `quality_score` with its parts.

        With embeddings it measures whether representations are alive, see `trimtab.probes.embeddings`, and whoever
        follows the supervisor may change loss weights.

        Args:
            embeddings: what the model makes of a fixed sample of rows, in eval mode; shape (rows, dimensions).
            views: what it makes of another view of the same rows, of that shape; or by name: `joint`, and kinds of
                columns or single columns alone.
            columns: the columns of the rows by name, each a `Column`, or its values, or a tuple of these and tokens.
            **metrics: metric name to one number; in a distributed run the same on every rank, each of which calls it.

        Returns:
            The decision.

        Raises:
            InputError: if a metric is not one number, or embeddings are no such thing.
            Halted: if the run has to end.
        """
        for name in RESERVED & metrics.keys():
            raise InputError(
                f"review: a metric cannot be called {name!r}, which is the journal's own; choose another name"
            )
        values = {name: float(as_number("review", name, value)) for name, value in metrics.items()}
        sample = None if embeddings is views is columns is None else read_sample(embeddings, views, columns)
        if self._is_off:
            return Decision(self.step, clock="review")
        try:
            with torch.no_grad():
                told = summarize_steps(self.history, self.reviews.newest.step)
                measured = told | self._measure_spectra() | self._measure_sample(sample) | values
                quality = rate_quality(self.history, self.reviews, measured).to_metrics()
                decision = self._take(Measurement(self.step, quality | measured, clock="review"))
                self._tell_followers()
        except Exception as error:
            self._unshared = error if ranks.is_distributed() else None
            self._recorder.survive(error)
            decision = Decision(self.step, clock="review")
        return self._conclude(decision)

    def follow(self, follower: Follower) -> None:
        """Let someone know of every review, after it was judged, such as a `RepresentationGuard`.

        Args:
            follower: what is told; what it remembers becomes part of the supervisor's state.
        """
        self._followers.append(follower)

    def keep_state(self, into: Snapshot | None = None) -> Snapshot:
        """Copy parameters, buffers and optimizer state, for `return_to` much later.

        Args:
            into: an earlier copy, whose memory is used again.
        """
        snapshot = Snapshot() if into is None else into
        snapshot.step = self.step
        self._make_live().copy_into(snapshot)
        return snapshot

    def return_to(self, snapshot: Snapshot) -> None:
        """Set parameters, buffers and optimizer state to what `keep_state` copied, and trust them.

        Learning rates, the schedule, the data position and random numbers stay as they are: the run goes on from here
        with weights of then.

        Raises:
            SnapshotError: if the run has other parameters by now.
        """
        groups = self._controls.optimizer.param_groups
        options = [{name: copy.deepcopy(each) for name, each in group.items() if name != "params"} for group in groups]
        self._make_live().restore(snapshot, self._recorder.survive)
        for group, kept in zip(groups, options, strict=True):
            restore_options(group, kept)
        self.trust_state(snapshot.step)

    def renew(self, module: nn.Module) -> None:
        """Initialize a module anew, and forget what the optimizer keeps of it.

        Every rank draws the same numbers, and the run's own generators go on as if none had been drawn.

        Args:
            module: part of the model; each of its modules with `reset_parameters` draws its parameters again.

        Raises:
            InputError: if it is no part of the model.
        """
        name = next((name for name, each in self._subject.model.named_modules() if each is module), None)
        if name is None:
            raise InputError(f"renew: the {type(module).__name__} is no part of the model")
        drawn = capture_rng()
        try:
            torch.manual_seed(crc32(f"{self.step} {name}".encode()))
            for each in module.modules():
                reset = getattr(each, "reset_parameters", None)
                if callable(reset):
                    reset()
        finally:
            restore_rng(drawn)
        for parameter in module.parameters():
            self._controls.optimizer.state.pop(parameter, None)
        self.trust_state()

    def admits(self, batch: Any) -> bool:
        """False for a batch that was found bad twice, and is better left out; the next time it is tried again.

            if not supervisor.admits(batch):
                continue

        A batch is known again by a fingerprint, if `check` is given the batches; one that passes is forgotten. In a
        distributed run every batch is admitted, since ranks must not part.
        """
        if self._is_off or ranks.is_distributed():
            return True
        try:
            if self._suspects.admits(batch):
                return True
        except Exception as error:
            self._recorder.survive(error)
            return True
        self._recorder.tell_event("left-out", reason="the batch was found bad before, and more than once")
        return False

    @property
    def is_checkpoint_due(self) -> bool:
        """True if `checkpoint` would take one now."""
        return self._archive is not None and self._archive.is_due(self.step)

    def checkpoint(
        self, extra: Mapping[str, Any] | None = None, *, now: bool = False, score: float | None = None
    ) -> bool:
        """Keep the complete state of the run on disk, every `checkpoint_every` steps: call it at the end of each step.

            scheduler.step()
            supervisor.checkpoint()

        That is model, optimizer, partners, scaler, random numbers, data position and what the supervisor remembers.
        The step waits for a copy in memory alone; it is written in the background once the steps after it have shown
        that the state is sound. What the disk or a partner refuses is reported, and the training goes on.

        In a distributed run every rank calls it, and all write together: sharded tensors through
        `torch.distributed.checkpoint`, what all have alike once, and of each rank its random numbers, data position
        and buffers.

        Args:
            extra: what else to keep: mappings, lists, tensors, numbers and text.
            now: take one at once, and wait until it is on disk.
            score: a validation metric, the lower the better: the checkpoint with the lowest is kept too.

        Returns:
            True if one was taken; with `now`, if it is on disk.

        Raises:
            InputError: at the first call, if there is no run folder, or its state holds what a checkpoint cannot.
        """
        if self._archive is None:
            raise InputError("checkpoint: there is no run folder to write to; pass run= to the Supervisor")
        if not (now or self.is_checkpoint_due):
            self._archive.require_encodable(extra or {})
            return False
        try:
            is_taken = self._archive.take(self.step, self.state_dict(), extra or {}, score, wait=now)
        except Exception as error:
            if self._recorder.is_strict or not self._archive.is_encodable:
                raise
            self._recorder.warn("checkpoint", f"checkpoint: step {self.step} is not saved: {error}")
            return False
        if is_taken and (now or self._is_off):  # switched off, no check would judge it
            return self._archive.write(self._find_sickness(), wait=now)
        return is_taken

    def resume(self) -> Resumed | None:
        """Go on from the newest checkpoint of the run folder that is whole, healthy and of this run.

        Call it at the start. One that cannot be used is reported with its reason, and the next older one is tried.
        Random numbers are set back too. In a distributed run every rank calls it, and there may be more or fewer of
        them than those that saved; then each rank's random numbers and data position begin anew.

        Returns:
            What the run goes on from; None if there is no checkpoint to go on from.

        Raises:
            InputError: if there is no run folder, or the folder holds checkpoints of another run alone.
        """
        if self._archive is None:
            raise InputError("resume: there is no run folder to read; pass run= and resume=True to the Supervisor")
        self._archive.hold()
        loaded = self._archive.load(lambda state: self._judge.require_fit(state["supervisor"]))
        if loaded is None and self._archive.mismatch:
            raise InputError(
                f"resume: {str(self._archive.folder)!r} holds another run: {self._archive.mismatch}; choose a new "
                "name, or build model, optimizer and partners as they were"
            )
        if loaded is None:
            self._archive.abandon(-1)
            return None
        self._archive.resume(loaded)
        self.load_state_dict(loaded.state["supervisor"])
        self._recorder.tell_resumed(loaded.folder)
        return Resumed(self.step, loaded.state["extra"])

    def tell_event(self, event: str, **fields: Any) -> None:
        """Write an event of the loop's own into the run folder.

        Args:
            event: its name.
            **fields: what JSON can hold.
        """
        self._recorder.tell_event(event, **fields)

    def declare_rate_change(self) -> None:
        """Say that the learning rate is changed on purpose before the next check: then it is no cause of a spike.

        For loops in which something else than a schedule sets it, such as meta-plasticity.
        """
        self._is_rate_declared = True

    def declare_data_change(self) -> None:
        """Say that other data come from the next check on: for 50 steps only a coarse limit holds for the loss."""
        self._is_data_declared = True

    def declare_waiting(self, seconds: float) -> None:
        """Say how long the loop has waited for the data of the next check; what is said before it adds up.

            began = perf_counter()
            batch = next(batches)
            supervisor.declare_waiting(perf_counter() - began)

        It is recorded as `data_seconds`, by which a run that waits for its data is known. On every rank or on none.
        """
        self._stopwatch.wait(seconds)

    def declare_loss_change(self) -> None:
        """Say that the loss is another one from the next check on, such as one with other weights: levels begin anew.

        Until 16 steps of it were seen, only a coarse limit holds for the loss and the gradient norm.
        """
        self._level_step = -1

    def trust_state(self, step: int | None = None) -> None:
        """Say that weights were set on purpose since the last step, such as to those of an earlier epoch.

        Snapshots begin anew, so that no rollback goes back to before.

        Args:
            step: the step that the weights are of. What was measured after it is no longer a level for what follows:
                the loss was lower then, with weights that are no more.
        """
        if not self._is_off:
            self._begin_anew()
            if step is not None:
                self._level_step = step if self._level_step is None else min(self._level_step, step)

    def finish(self, status: str = "finished") -> None:
        """End the supervision: write what is still to be written and let go of the optimizer. May be called twice.

        Args:
            status: how the run ended, for the run folder.
        """
        is_first = bool(self._hooks)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._listening.close()
        self._close_watches()
        actions.restore_rates(self._controls)
        if self._archive is None:
            self._recorder.close(status)
            return
        ends_alone = status.startswith(("failed", "halted"))  # another rank may have failed to judge the step
        with self._archive.closing(self._find_sickness, is_alone=ends_alone):
            if status.startswith(("halted", "failed")) and is_first and self._archive.writes:
                self._recorder.warn("lost", self._archive.tell_cost(self.step))
            self._recorder.close(status, write_dashboard)

    def state_dict(self) -> dict[str, Any]:
        """All that the supervisor remembers but the snapshots, as numbers, text and tensors, for a checkpoint."""
        return {
            "step": self.step,
            **to_tensors(self._judge.state_dict()),
            "adjustments": [to_fields(adjustment) for adjustment in self._controls.adjustments],
            "suspects": self._suspects.state_dict(),
            "followers": [each.state_dict() for each in self._followers],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what a supervisor remembered; load model and optimizer before.

        Raises:
            InputError: if the state is that of a run with other parameter groups.
        """
        self._judge.require_fit(state_dict)
        self.step = state_dict["step"]
        self._judge.load_state_dict(to_arrays(state_dict))
        self._controls.adjustments = tuple(parse_adjustment(fields) for fields in state_dict["adjustments"])
        self._suspects.load_state_dict(state_dict["suspects"])
        for follower, state in zip(self._followers, state_dict.get("followers", ()), strict=False):
            follower.load_state_dict(state)
        self._begin_anew()
        if self._archive is not None:
            self._archive.begin(self.step)
        self._recorder.tell_event("resumed")

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.finish("finished" if kind is None else f"failed: {kind.__name__}")

    def _check(self, moment: Moment) -> Decision:
        failure, self._unshared = self._unshared, None
        self.signals = ()
        was_new = self._schedule.is_new
        for prepare in (self._read_signals, self._prepare):  # each, for how much is measured follows from the second
            try:
                prepare(moment)
            except Exception as error:
                failure = failure or error
        self._norm = None
        try:
            measurement = probes.measure(self.step, moment, failure)
        except Exception:
            if was_new:
                self._controls.snapshots.forget()
            self._schedule.is_new = was_new
            raise
        norm = measurement.values.get("grad_norm", nan)
        self._norm = norm if isinstance(norm, float) else nan
        if self._archive is not None:
            self._archive.settle()
        self._take_signals(moment.signals)
        if moment.probe_failure is not None:
            self._tell_probe_failure(moment.probe_failure)
        if moment.mode_failure is not None:
            self._tell_mode_failure(moment.mode_failure)
        try:
            decision = self._take(measurement, moment)
        except Exception as error:
            self._unshared = error if ranks.is_distributed() else None
            raise
        self._look_ahead()
        if moment.failure is not None:
            self._unshared = moment.failure
            self._recorder.survive(moment.failure)
        return decision

    def _read_signals(self, moment: Moment) -> None:
        """Note the signals that came in on this rank and that no check has told all ranks of yet."""
        if self._inbox is not None:
            moment.signals = (0.0,) * len(SIGNALS)
            self._unsent |= set(self._inbox.read())
            moment.signals = tuple(float(name in self._unsent) for name in SIGNALS)

    def _take_signals(self, came_in: tuple[float, ...]) -> None:
        """Take what came in on any rank, now that all know of it."""
        if self._inbox is not None:
            self._unsent.clear()
            self.signals = tuple(name for name, num_ranks in zip(SIGNALS, came_in, strict=True) if num_ranks > 0)
            for name in self.signals:
                self._recorder.tell_event("signal", name=name)

    def _tell_probe_failure(self, error: Exception) -> None:
        if self._recorder.is_strict:
            raise error
        self._recorder.warn(
            "probe-failed",
            f"the probe raised {type(error).__name__}: {error}; it is not asked again, and the run goes on without it",
        )

    def _tell_mode_failure(self, error: Exception) -> None:
        self._compares_modes = False
        self._recorder.warn(
            "mode-failed",
            f"compute_loss raised {type(error).__name__} in eval mode: {error}; the modes are not compared again",
        )

    def _look_ahead(self) -> None:
        """Keep what the next check needs to know of before its step; the decision of this one stands whatever fails."""
        try:
            self._examination.look_ahead()
            if probes.is_sampled(self.step + 1):
                self._watches = probes.start_watches(self._subject)
        except Exception as error:
            self._unshared = error if ranks.is_distributed() else None
            self._recorder.survive(error)

    def _prepare(self, moment: Moment) -> None:
        """Bring everything into the state that probes measure; first what decides how much they measure."""
        subject = self._subject
        try:
            moment.seconds = self._stopwatch.read()
            moment.is_sampled = probes.is_sampled(self.step)
            if moment.is_sampled and self._compares_modes and not ranks.is_distributed():
                moment.compute_loss = self._compute_loss
            if self._controls.adjustments:
                moment.frozen = self.frozen
            moment.is_ratio_due = self._schedule.is_ratio_due(self.step)
            moment.is_first_probe = not self.history.has("probe_loss")
            moment.evaluate = self._evaluate if self._probing.is_due(self.step) else None
            moment.is_rate_declared, self._is_rate_declared = self._is_rate_declared, False
            moment.is_data_declared, self._is_data_declared = self._is_data_declared, False
            moment.level_step, self._level_step = self._level_step, None
            moment.state_step = self._schedule.find_state_step(self.step)
            moment.watches = self._close_watches()
            moment.self_change = self._controls.buffers.measure_change() if self._updates_itself else None
            moment.buffers = self._controls.buffers.list_statistics()
            if subject.refresh_if_changed():
                self._controls.snapshots.add_thawed()
            self._hold_frozen()
        finally:
            self._unscale()  # of a sharded model all ranks together, also where something has failed on this one
        self._schedule.take_first(self.step, subject.parameters)
        self._controls.snapshots.complete()
        if moment.is_ratio_due:
            moment.reference = self._schedule.find_reference(subject.parameters)

    def _take(self, measurement: Measurement, moment: Moment | None = None) -> Decision:
        """From a measurement to a record: the second half of the picture, one line per arrow."""
        note = "" if moment is None else moment.note
        decision = self._judge.judge(measurement)
        if decision.clock == "step":
            self._probing.judge(decision, self.history)  # before anything can fail on one rank alone
        if decision.findings:
            is_first = all(self.step - each.step > self.policy.memory for each in self.ledger if each.responses)
            told = self._examination.examine(decision, measurement, self.history, moment, is_first=is_first)
            note = "; ".join(filter(None, [note, *told]))
        action = actions.act(decision, self._controls, measurement, note)
        self._norm = nan
        self._remember(Record(measurement, decision, action))
        return decision

    def _measure_spectra(self) -> dict[str, Value]:
        """The metrics of the weights' spectra at the reviews at which they are due; the matrices are an event."""
        work = count_work(self._subject.network) if self._spectra_every == "auto" else 0.0
        if not is_due(self.reviews, self.history, self._spectra_every, work):
            return {}
        moment = Moment(self._subject, wants_spectra=True)
        try:
            measurement = probes.measure(self.step, moment, only=["spectra"])
        except Exception as error:
            self._recorder.survive(error)
            return {}
        if moment.spectra is not None:
            matrices = [to_fields(each) for each in moment.spectra.matrices]
            self._recorder.tell_event("spectra", matrices=matrices, skipped=dict(moment.spectra.skipped))
        return dict(measurement.values)

    def _measure_sample(self, sample: Sample | None) -> dict[str, Value]:
        """The metrics of the embeddings that a review was handed."""
        if sample is None:
            return {}
        moment = Moment(self._subject, sample=sample)
        try:
            return dict(probes.measure(self.step, moment, only=["embeddings"]).values)
        except Exception as error:
            self._recorder.survive(error)
            return {}

    def _tell_followers(self) -> None:
        """Let the followers do what the newest review asks of them."""
        for each in self._followers:
            assert self.record is not None
            each.follow(self.record)

    def _make_live(self) -> LiveState:
        """What `keep_state` copies: no partners, so that a schedule and an average of the weights go on."""
        return LiveState(self._controls.optimizer, self._controls.buffers)

    def _remember(self, record: Record) -> None:
        self.record, decision = record, record.decision
        if decision.findings:
            self._done.append((decision, record.action))
        if self._judge.settle(record):
            self._recorder.warn(
                "re-based",
                f"{REBASE_AFTER} steps in a row were rejected, and what they measured is taken for the new level: a "
                "change of task or data looks so",
            )
        self._schedule.judge(record)
        if decision.clock == "step":
            self._suspects.judge(record)
            self._controls.buffers.update()
        if self._archive is not None:
            self._archive.judge(decision)
        self._recorder.tell(record)
        if decision.clock == "step" and probes.is_sampled(self.step) and self.step > probes.SAMPLE_EVERY:
            self._recorder.tell_event("health", groups=[to_fields(each) for each in self.health().groups])

    def _find_sickness(self) -> str:
        return find_sickness(self._subject, self.ledger, self.step)

    def _reload(self, before: int | None) -> int | None:
        """Set the run back to the newest healthy checkpoint; the step count, data and random numbers go on."""
        if self._archive is None or ranks.is_distributed():
            return None
        loaded = self._archive.load(lambda _: None, before=before)
        if loaded is None:
            return None
        self._archive.reload(loaded, self.step)
        self._schedule.begin(self.step, self._subject.parameters)
        return loaded.stamp.step

    def _require_alike(self, given: Mapping[str, object]) -> None:
        """See, at the first step, that all ranks were set up alike and are given alike."""
        if not self._is_alike:
            self._is_alike = True
            require_alike_ranks(self._subject, {**self._settings, **given})

    def _before_forward(self, *_: Any) -> None:
        """Copy what changes outside the optimizer, as it is when the first forward pass of a step begins."""
        self._controls.buffers.copy_once()

    def _conclude(self, decision: Decision) -> Decision:
        if decision.verdict == "halt":
            halted = Halted(decision, self._make_diagnose())
            if self._recorder.journal is not None and halted.diagnosis is not None:
                self._recorder.tell_event("diagnosis", **halted.diagnosis.to_dict())
            self.finish("halted")
            raise halted
        return decision

    def _make_diagnose(self) -> Callable[[], Diagnosis | None]:
        """Gives the diagnosis of a run that was halted, and holds on to no more than it needs; None if it fails."""
        judge, done, dtypes, is_strict = self._judge, self._done, self._subject.dtypes, self._recorder.is_strict

        def diagnose() -> Diagnosis | None:
            try:
                return diagnose_halted(judge.steps, judge.reviews, judge.ledger, done, dtypes)
            except Exception:
                if is_strict:
                    raise
                logger.exception("trimtab itself failed to diagnose the halt; this is a bug: please report it")
                return None

        return diagnose

    def _hold_frozen(self) -> None:
        """Take the gradients of frozen groups away, before the scaler looks at them."""
        if self._controls.adjustments:
            thawed = actions.hold_frozen(self._controls, self.step)
            if thawed:
                self._recorder.tell_event("thaw", groups=thawed, by="policy")

    def _close_watches(self) -> dict[str, Watch]:
        """Remove the hooks of a sampled step; what they saw is still in what is returned."""
        watches, self._watches = self._watches, {}
        if watches:
            probes.close_watches(watches)
        return watches

    def _require_groups(self, who: str, groups: tuple[str, ...]) -> None:
        for group in groups:
            if group not in self._subject.groups:
                raise InputError(f"{who}: there is no group {group!r}; there are {', '.join(self._subject.groups)}")

    def _unscale(self) -> None:
        """Divide the gradients by the loss scale, unless the loop has done so itself."""
        scaler = self._controls.scaler
        if scaler is not None and self._subject.scales:
            stage = scaler._per_optimizer_states[id(self._controls.optimizer)]["stage"]
            if stage.name == "READY":
                scaler.unscale_(self._controls.optimizer)
                actions.allow_no_gradient(self._controls)

    def _clip_only(self) -> None:
        """The routine clipping the loop has handed over, and nothing else."""
        if self._controls.clip_norm is not None:
            self._unscale()
            torch.nn.utils.clip_grad_norm_(self._subject.parameters, self._controls.clip_norm)

    def _pass_over(self, moment: Moment) -> None:
        """Leave a step alone that could not be judged: clip it, and see that the next can be."""
        if not ranks.is_distributed():
            self._schedule.pass_over(self.step)
        elif moment.has_agreed:  # other ranks have judged the step, and learn of it at the next
            self._schedule.hold()
        else:
            self._schedule.give_up(self.step)
            self._probing.begin()
            if self._archive is not None:
                self._archive.give_up()
        if self._subject.has_shards and self._norm is not None:  # others may have gone on: none is to be waited for
            actions.clip_gradients(Decision(self.step), self._controls, self._norm)
        else:
            self._clip_only()
        try:
            self._controls.buffers.update()
        except Exception as error:
            self._recorder.survive(error)

    def _begin_anew(self) -> None:
        """Trust the state as it is from here on: it was loaded, or the run begins with it."""
        self._unshared = None
        self._probing.begin()
        self._schedule.begin(self.step, self._subject.parameters)
        self._examination.look_ahead()

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._pace.is_step_due = False
        if any(callable(each) for each in (*args[1:], *kwargs.values())):
            raise InputError(
                "supervisor: optimizer.step was given a closure, which computes gradients that check has not judged; "
                "call backward and check first, then step without a closure"
            )
        if self._controls.adjustments or self._controls.uncooled:
            self._stopwatch.start()
            try:
                actions.cool_before_step(self._controls, self.step)
            except Exception as error:
                self._recorder.survive(error)
            self._stopwatch.stop()

    def _after_step(self, *_: Any) -> None:
        self._stopwatch.start()
        try:
            if self._controls.uncooled:
                actions.restore_rates(self._controls)
            is_probed = self._evaluate is not None and self._probing.is_due(self.step + 1)
            self._schedule.take_if_due(self.step, is_probed=is_probed)
            if self._archive is not None:
                self._archive.note_update(self.step)
        except Exception as error:
            self._unshared = error if ranks.is_distributed() else None
            self._recorder.survive(error)
        self._stopwatch.stop()
