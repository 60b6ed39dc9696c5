"""What `fit` returns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trimtab.control.course import Adaptation
from trimtab.control.outcomes import Outcome
from trimtab.control.review import Review
from trimtab.control.timeline import Timeline
from trimtab.diagnosis.adaptations import tell_adaptation
from trimtab.journal import RunLog, read_run
from trimtab.report.frames import Library
from trimtab.report.notebook import RunView
from trimtab.types import Decision

if TYPE_CHECKING:
    import plotly.graph_objects as go

Status = Literal["finished", "stopped-early", "paused", "aborted", "halted"]


@dataclass(frozen=True, slots=True)
class FitResult:
    """How a run ended."""

    status: Status
    """finished: all epochs, or the epoch in which `finish` was signalled. stopped-early: it had stopped getting better.
    paused: it goes on when it is started again. aborted: by signal. halted: by the supervisor."""

    reason: str
    """Why, in one sentence."""

    num_steps: int
    """Optimizer steps made, in this call and those before it that it went on from."""

    num_epochs: int
    """Epochs completed."""

    best_score: float | None
    """The lowest validation loss; None without one."""

    best_step: int | None
    """The step of that review."""

    reviews: tuple[Review, ...]
    """All validations."""

    run: Path | None
    """The run folder."""

    decision: Decision | None = None
    """Where the supervisor halted the run: its decision, with what it found."""

    restored: Review | None = None
    """The review whose weights the model has; None if it has those of the last step."""

    test_metrics: Mapping[str, float] = field(default_factory=dict)
    """What `test_loader` gave for the model as it is, `test_loss` first; empty without one."""

    adaptations: tuple[Adaptation, ...] = ()
    """What was changed between epochs: fresh data, finalization, changes of the learning rate."""

    outcomes: tuple[Outcome, ...] = ()
    """What was measured of each of them."""

    timeline: Timeline = field(default_factory=lambda: Timeline((), ()))
    """What was planned for each epoch, and what happened."""

    log: RunLog | None = field(default=None, repr=False, compare=False)
    """What was recorded, where there is no run folder: the curves, of a long run not every step of them."""

    @property
    def is_complete(self) -> bool:
        """True if the run ended as it was meant to: finished, or stopped early."""
        return self.status in ("finished", "stopped-early")

    @property
    def view(self) -> RunView:
        """The run as it was recorded, in its folder where there is one."""
        log = read_run(self.run) if self.run is not None else self.log
        caption = f"{self.status} at step {self.num_steps:,}: {self.reason}"
        return RunView(RunLog(Path("run"), {}, (), ()) if log is None else log, caption)

    def plot(self) -> go.Figure:
        """The losses with every decision, and gradient norm, rate and loss scale below, as a Plotly figure."""
        return self.view.plot()

    def to_frame(self, library: Library | None = None, *, groups: bool = False) -> Any:
        """One row for each step and review that was recorded: see `trimtab.report.notebook.RunView.to_frame`."""
        return self.view.to_frame(library, groups=groups)

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, Any]:
        """What a notebook displays: a figure, and how the run ended."""
        return self.view._repr_mimebundle_(include, exclude)

    def __str__(self) -> str:
        """How it ended, its best review, and what was changed on the way with what came of it."""
        lines = [
            f"{self.status} after {self.num_steps} steps and {self.num_epochs} epochs: {self.reason}",
            *([] if self.best_score is None else [f"best val_loss {self.best_score:.4g} at step {self.best_step}"]),
            *(f"the model has the weights of epoch {each.epoch}" for each in (self.restored,) if each is not None),
            *(f"{name} {value:.4g}" for name, value in self.test_metrics.items()),
        ]
        outcomes = {each.of: each.message for each in self.outcomes}
        lines += [tell_adaptation(each.to_event(), outcomes.get(each.name, "")) for each in self.adaptations]
        return "\n".join(lines)
