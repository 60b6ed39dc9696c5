"""Run folders that grow while they are looked at: the journal's own writer, a step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.journal import Journal, describe_run
from trimtab.types import Action, Decision, Finding, Measurement, Record, Response, Value

GROUPS = ("embedding", "body", "head")


class LiveRun:
    """A run that makes a step when it is told to."""

    def __init__(self, folder: Path, groups: tuple[str, ...] = GROUPS, *, resume: bool = False) -> None:
        self.folder, self.groups, self.step = folder, groups, 0
        manifest = describe_run(groups, ("group_grad_norm",), ["float32"], {}, sampled_metrics=("update_ratio",))
        self.journal = Journal(folder, manifest, resume=resume)

    def make_steps(self, num: int = 1, **metrics: Value) -> None:
        """Make so many steps, with what is usual where nothing else is said."""
        for _ in range(num):
            self.step += 1
            usual: dict[str, Value] = {"loss": 1 + 1 / self.step, "grad_norm": 1.0, "step_seconds": 0.1}
            usual["group_grad_norm"] = tuple(0.1 * (index + 1) for index in range(len(self.groups)))
            if self.step % 50 == 0:
                usual["update_ratio"] = (1e-3,) * len(self.groups)
            self.write({**usual, **metrics})

    def write(self, values: Mapping[str, Value]) -> None:
        """Write a step as it was measured."""
        self.journal.write(Record(Measurement(self.step, values), Decision(self.step), Action(self.step)))

    def review(self, val_loss: float) -> None:
        """Write a review."""
        seen = Measurement(self.step, {"val_loss": val_loss}, "review")
        self.journal.write(Record(seen, Decision(self.step, clock="review"), Action(self.step)))

    def skip_step(self, message: str = "loss is 30.0, and 1.0 is usual", detector: str = "loss-spike") -> None:
        """Make a step whose update is skipped."""
        self.step += 1
        found = Finding(
            metric="loss", value=30.0, limit=2.0, message=message, detector=detector, severity="high", step=self.step
        )
        reason = f"{detector}: {message} → skip"
        decision = Decision(self.step, "skip", (Response("skip"),), (found,), reason)
        seen = Measurement(self.step, {"loss": 30.0, "grad_norm": 9.0, "step_seconds": 0.1})
        self.journal.write(Record(seen, decision, Action(self.step, "skip", num_lost=1)))

    def tell(self, event: str, **fields: Any) -> None:
        """Write an event."""
        self.journal.write_event(event, step=self.step, **fields)

    def flush(self) -> None:
        """Write all of it now."""
        self.journal.flush()

    def end(self, status: str = "finished") -> None:
        """Say the end and close."""
        self.tell("end", status=status, num_failures=0)
        self.journal.close()
