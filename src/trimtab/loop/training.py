"""One run of `fit`: the loop, what it does on signals and failures, and what a checkpoint of it holds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from trimtab.control.publication import Facts
from trimtab.control.workers import end_orphans
from trimtab.errors import Halted, InputError
from trimtab.loop.assembly import Parts
from trimtab.loop.ending import Ended, export, save_rows
from trimtab.loop.objective import Loss
from trimtab.loop.options import Options
from trimtab.loop.progress import ProgressBar
from trimtab.loop.result import FitResult, Status
from trimtab.signals import Inbox
from trimtab.state.rng import restore_rng
from trimtab.types import Decision

LOG_EVERY = 50
"""Steps between two log lines of the parts of the loss, as of the supervisor's."""

logger = logging.getLogger("trimtab")


class Training:
    """A run: what the loop holds, and the loop.

    Args:
        parts: what it is made of.
        options: what it was asked for, validated.
    """

    def __init__(self, parts: Parts, options: Options) -> None:
        self._model, self._optimizer, self._options = parts.model, parts.optimizer, options
        self._objective, self._supervisor, self._stepper = parts.objective, parts.supervisor, parts.stepper
        self._data, self._described, self._workers = parts.data, parts.described, parts.workers
        self._reviews, self._adapting, self._stages = parts.reviews, parts.adapting, parts.stages
        self._folder, self._ending, self._memory = parts.folder, parts.ending, parts.memory
        self._guard = parts.guard
        self._inbox = Inbox(parts.folder)
        self._ended = Ended()
        self._num_steps = self._num_steps_before = 0
        self._finishes = self._publishes = False
        self._is_between_steps = True

    def fit(self) -> FitResult:
        """Go on from the newest checkpoint if there is one, train, and end the run."""
        decision: Decision | None = None
        with self._inbox.listen():
            try:
                self._go_on()
                self._stages.plan(self._optimizer, self._options.schedulers, self._data.num_steps, self._options.epochs)
                with ProgressBar(self._options.progress, self._options.epochs) as bar:
                    status, reason = self._train(bar)
                self._complete(status, reason)
            except Halted as halt:
                status, reason, decision = "halted", halt.decision.reason, halt.decision
            except BaseException as error:
                outcome = self._fail(error)
                if outcome is None:
                    raise
                status, reason = outcome
            if status != "aborted":
                save_rows(self._options.rows, self._folder)
            self._end(f"failed: {status}" if status == "aborted" else status)
        return self._conclude(status, reason, decision)

    def _go_on(self) -> None:
        """Take over the newest checkpoint."""
        if self._folder is not None:
            end_orphans(self._folder)
        resumed = self._supervisor.resume() if self._folder is not None and self._options.goes_on else None
        if not self._model.training:
            self._model.train()
        if resumed is None:
            if self._options.insists:
                raise InputError(
                    f"fit: resume is True, but no checkpoint in {str(self._folder)!r} can be gone on from, and the log "
                    "says why; pass resume='auto' to begin anew"
                )
            return
        if "fit" not in resumed.extra:
            raise InputError(
                f"fit: {str(self._folder)!r} holds a run that another loop has made; go on with that loop, or choose "
                "a new name"
            )
        self._load_state_dict(resumed.extra["fit"])
        logger.info("going on from step %d, in epoch %d", self._num_steps, self._data.epoch + 1)

    def _train(self, bar: ProgressBar) -> tuple[Status, str]:
        """All epochs that are left."""
        while self._data.epoch < self._options.epochs:
            stopped = self._stop_at_boundary() or self._train_epoch(bar)
            if stopped is not None:
                return stopped
            self._end_epoch(bar)
        return "finished", f"all {self._options.epochs} epochs are done"

    def _stop_at_boundary(self) -> tuple[Status, str] | None:
        """Whether the run ends before the next epoch begins."""
        if self._data.num_passed:
            return None
        if self._finishes:
            return "finished", "the epoch is complete, as was signalled"
        self._adapting.adapt()
        reason = self._adapting.explain_stop()
        return None if reason is None else ("stopped-early", reason)

    def _train_epoch(self, bar: ProgressBar) -> tuple[Status, str] | None:
        """The rest of an epoch; returns how the run ends if it is to end in it."""
        bar.begin_epoch(self._data.epoch + 1, self._data.num_steps, self._data.num_steps_done)
        while True:
            stopped = self._obey(self._inbox.read())
            if stopped is not None:
                return stopped
            began = perf_counter()
            batch = self._data.fetch()
            self._supervisor.declare_waiting(perf_counter() - began)
            if batch is None:
                return None
            if self._supervisor.admits(batch):
                self._step(batch)
            else:
                self._data.confirm()
            for told in self._workers.inspect():
                self._warn("workers", told)
            bar.show_step(self._data.num_steps_done, self._newest_loss)

    def _step(self, batch: Any) -> None:
        self._is_between_steps = False
        self._stepper.rate_factor = self._adapting.find_factor(self._num_steps)
        loss = self._stepper.make(batch)
        self._is_between_steps = True
        self._data.confirm()
        self._num_steps += 1
        self._log_parts(loss)
        self._save()

    def _end_epoch(self, bar: ProgressBar) -> None:
        """Validate, and go to the beginning of the next epoch."""
        self._data.close()
        if self._options.rows is not None:
            self._options.rows.end_epoch()
        epoch, factor = self._data.epoch + 1, self._adapting.find_factor(self._num_steps - 1)
        rate = float(self._optimizer.param_groups[0]["lr"]) * factor
        self._stages.end_epoch(epoch, rate, self._data.partition, is_final=self._adapting.is_finalizing)
        review = self._reviews.make(epoch, self._num_steps, rate, self._supervisor)
        self._data.end_epoch()
        if review is None:
            self._save()
            return
        bar.show_review(review.score)
        for each in self._options.schedulers:
            if isinstance(each, ReduceLROnPlateau):
                each.step(review.score)
        bests = (self._reviews.best, self._reviews.find_best("composite"))
        self._save(now=any(review is each for each in bests), score=review.score)

    def _obey(self, names: tuple[str, ...]) -> tuple[Status, str] | None:
        """Act on signals; returns how the run ends if it is to end now."""
        for name in names:
            logger.info("step %d: signal %s", self._num_steps, name)
            self._tell("signal", name=name)
        self._finishes = self._finishes or "finish" in names
        self._adapting.may_stop = self._adapting.may_stop and "no-stop" not in names
        if "publish" in names:
            self._publishes = True
            self._publish("running", "those of the middle of the training")
        if "abort" in names:
            return "aborted", "abort was signalled"
        return ("paused", "pause was signalled") if "pause" in names else None

    def _complete(self, status: Status, reason: str) -> None:
        """Save the end of a run, leave the model at its best, and publish it if that was asked for."""
        if status == "aborted":
            return
        if status == "paused":
            self._save(now=True)
            return
        self._finishes = False  # that was this epoch's; the run may be given more
        is_new = self._num_steps > self._num_steps_before
        self._adapting.complete()
        if self._guard is not None:
            self._guard.complete()
        if is_new:
            self._save(now=True)
            if status == "stopped-early":
                left = self._options.epochs - self._data.epoch
                self._tell("stopped-early", epoch=self._data.epoch, why=reason, num_epochs_left=left)
        self._ended = self._ending.restore(self._options.criterion, is_told=is_new)
        best = self._ended.restored
        if self._publishes or "publish" in self._inbox.read():
            held = "the last step" if best is None else f"the best validation, at step {best.step}"
            self._publish(status, f"those of {held}")

    def _publish(self, status: str, held: str) -> None:
        if self._folder is not None:
            reviews = [each.to_dict() for each in self._reviews.made]
            facts = Facts(status, self._num_steps, self._data.epoch, self._described, held, reviews)
            export(self._model, self._folder, facts, self._supervisor)

    def _fail(self, error: BaseException) -> tuple[Status, str] | None:
        """Write what there is after an exception; returns how the run ends if the exception is no failure."""
        names = self._inbox.read()
        if isinstance(error, KeyboardInterrupt) and self._inbox.is_interrupted:
            return "aborted", "Ctrl-C was pressed twice"
        is_whole = self._folder is not None and self._num_steps > 0 and self._rewind_to_step()
        if is_whole:
            try:
                self._save(now=True)
            except Exception as failure:
                logger.warning("the last whole step cannot be saved: %s", failure)
        if is_whole and "pause" in names and self._is_between_steps and isinstance(error, RuntimeError):
            return "paused", f"pause was signalled, and the loader failed then ({error})"  # it took Ctrl-C as its own
        self._end(f"failed: {type(error).__name__}")
        return None

    def _rewind_to_step(self) -> bool:
        """Set the run back to the end of its last whole step; returns False if that is not possible."""
        if self._stepper.is_updating or self._data.can_save or not self._data.rng:
            return False
        if not self._is_between_steps:
            self._stepper.rewind()
        restore_rng(self._data.rng)
        return True

    def _save(self, *, now: bool = False, score: float | None = None) -> None:
        newest = self._reviews.made[-1] if self._reviews.made else None
        if score is None and newest is not None and newest.step == self._num_steps:
            score = newest.score
        if self._folder is not None and (now or self._supervisor.is_checkpoint_due):
            self._supervisor.checkpoint({"fit": self._state_dict()}, now=now, score=score)

    def _state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of the loop, beside what the supervisor saves."""
        return {
            "data": self._data.state_dict(),
            "reviews": self._reviews.state_dict(),
            "num_steps": self._num_steps,
            "adapting": self._adapting.state_dict(),
            "stages": self._stages.state_dict(),
            "rows": None if self._options.rows is None else self._options.rows.state_dict(),
            "described": self._described,
            "micro_batch": self._objective.micro_batch.size,
            "finishes": self._finishes,
            "publishes": self._publishes,
        }

    def _load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["described"] != self._described:
            raise InputError(
                f"fit: the run was trained on other data, which was: {state['described']} Now it is: {self._described} "
                "Pass the loader of the run, or choose a new name"
            )
        if self._options.rows is not None:
            if state["rows"] is None:
                raise InputError(
                    "fit: the run was begun without rows=, so what its rows did is not known; leave it out"
                )
            self._options.rows.load_state_dict(state["rows"])
        self._data.load_state_dict(state["data"])
        self._reviews.load_state_dict(state["reviews"])
        self._num_steps = self._num_steps_before = state["num_steps"]
        self._adapting.load_state_dict(state["adapting"], self._num_steps)
        self._stages.load_state_dict(state["stages"])
        sizes = [each for each in (state["micro_batch"], self._options.micro_batch) if each is not None]
        self._objective.micro_batch.size = min(sizes, default=None)
        self._finishes, self._publishes = state["finishes"], state["publishes"]

    @property
    def _newest_loss(self) -> float | None:
        history = self._supervisor.history
        loss = history.newest.values.get("loss") if len(history) else None
        return loss if isinstance(loss, float) else None

    def _log_parts(self, loss: Loss) -> None:
        if loss.parts and self._num_steps % LOG_EVERY == 0:
            shown = ", ".join(f"{name} {float(value):.4g}" for name, value in loss.parts.items())
            logger.info("step %d: %s", self._num_steps, shown)

    def _conclude(self, status: Status, reason: str, decision: Decision | None) -> FitResult:
        level = logging.ERROR if status in ("aborted", "halted") else logging.INFO
        logger.log(level, "%s at step %d: %s", status, self._num_steps, reason)
        best = self._reviews.best
        made, outcomes = list(self._adapting.made), list(self._adapting.outcomes)
        if self._guard is not None:
            made, outcomes = made + self._guard.made, outcomes + self._guard.outcomes
        return FitResult(
            status=status,
            reason=reason,
            num_steps=self._num_steps,
            num_epochs=self._data.epoch,
            best_score=None if best is None else best.score,
            best_step=None if best is None else best.step,
            reviews=tuple(self._reviews.made),
            run=self._options.run,
            decision=decision,
            restored=self._ended.restored,
            test_metrics=self._ended.test_metrics or {},
            adaptations=tuple(made),
            outcomes=tuple(outcomes),
            timeline=self._stages.read(made),
            log=None if self._memory is None else self._memory.log,
        )

    def _end(self, status: str) -> None:
        self._data.close()
        self._workers.close()
        self._supervisor.finish(status)

    def _warn(self, event: str, message: str) -> None:
        logger.warning("%s", message)
        self._tell(event, message=message)

    def _tell(self, event: str, **fields: Any) -> None:
        self._supervisor.tell_event(event, **fields)
