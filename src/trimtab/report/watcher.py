"""Following one run: from what is appended to its folder to how it stands, at any moment."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.detectors.stalled_step import is_hung
from trimtab.errors import RunFormatError
from trimtab.history import CAPACITY, History
from trimtab.journal import Follower, News
from trimtab.report.happenings import Happenings
from trimtab.report.health import Health, assess_health
from trimtab.report.standing import Standing, judge_state, read_holder, read_memory
from trimtab.report.trail import Trail
from trimtab.types import Measurement

DRAWN = (
    "loss",
    "val_loss",
    "probe_loss",
    "grad_norm",
    "learning_rate",
    "loss_scale",
    "step_seconds",
    "supervisor_seconds",
)
"""The metrics whose course is kept."""

PACE_STEPS = 500
"""The newest steps whose mean time is how long a step takes: they hold what comes between steps now and then."""

NUM_TOLD = 50
"""Of what happened, how much is kept."""


class Watcher:
    """Follows a run folder; `look` says how the run stands now.

    Args:
        folder: the run folder. It need not be there yet.

    Attributes:
        trails: the course of each of `DRAWN` that was recorded.
        happenings: what happened.
        version: rises whenever a look has seen something new.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._follower = Follower(folder)
        self._failure: RunFormatError | None = None
        self.version = 0
        self._begin()

    @property
    def is_behind(self) -> bool:
        """True if there is more to read at once."""
        return self._failure is None and self._follower.is_behind

    @property
    def share_read(self) -> float:
        """The share of the run that was read, from 0 to 1."""
        return self._follower.share_read

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the parameter groups."""
        manifest = self._follower.manifest
        return () if manifest is None else tuple(map(str, manifest["groups"]))

    def catch_up(self) -> Standing:
        """Read all there is."""
        standing = self.look()
        while self.is_behind:
            standing = self.look()
        return standing

    def look(self) -> Standing:
        """Read what is new, a chunk of it at most, and say how the run stands."""
        self.read()
        return self.assess()

    def read(self) -> None:
        """Read what is new, a chunk of it at most. A damaged run is not read on."""
        if self._failure is not None:
            return
        try:
            news = self._follower.look()
            if news.is_anew:
                self._begin()
            if news.is_anew or news.measurements or news.events:
                self.version += 1
                self._take(news)
        except RunFormatError as error:
            self._failure = error
            self.version += 1

    def assess(self) -> Standing:
        """How the run stands by what was read."""
        name, events = self.folder.resolve().name, self.happenings
        if self._failure is not None:
            return Standing(name, "damaged", str(self._failure), step=self._step)
        if self._follower.manifest is None:
            return Standing(name, "not-begun", f"there is no run in {str(self.folder)!r} yet")
        holder = read_holder(self.folder)
        seconds = self._list_newest("step_seconds")
        supervising = self._list_newest("supervisor_seconds")
        level = float(np.median(seconds[-100:])) if len(seconds) else math.nan
        silent_seconds = self._follower.measure_silence()
        is_between = events.is_between(self._step)
        state, reason = judge_state(
            status=events.find_end(self._step),
            num_seen=self._num_seen,
            silent_seconds=silent_seconds,
            level=level,
            is_between=is_between,
            holder=holder,
        )
        usual = [each for each in seconds.tolist() if not is_hung(each, level)]
        step_seconds = sum(usual) / len(usual) if usual else math.nan
        is_live = state in ("running", "hung")
        process = read_memory(holder)
        return Standing(
            name=name,
            state=state,
            reason=reason or (events.halted_because if state == "halted" else ""),
            step=self._step,
            num_steps=events.num_steps,
            epoch=events.find_epoch(is_live),
            num_epochs=events.num_epochs,
            phase=events.name_phase(self._step) if is_live else "",
            step_seconds=step_seconds,
            silent_seconds=silent_seconds,
            supervisor_share=float(supervising.sum() / seconds.sum())
            if len(supervising) and seconds.sum() > 0
            else math.nan,
            memory=({"process": process} if math.isfinite(process) else {}) | dict(_list_memory(self._values)),
            values=dict(self._values),
            health=self._assess_health(),
            counts=dict(events.counts),
            num_lost=events.num_lost,
            told=tuple(events.told),
        )

    def _begin(self) -> None:
        self.trails: dict[str, Trail] = {}
        self.happenings = Happenings(NUM_TOLD)
        self._newest: deque[Measurement] = deque(maxlen=CAPACITY)
        self._values: dict[str, float] = {}
        self._step = self._num_seen = 0

    def _take(self, news: News) -> None:
        for each in news.measurements:
            if each.clock == "step":
                if each.step <= self._step:
                    self._go_back(each.step)
                self._step = each.step
                self._num_seen += 1
                self._newest.append(each)
            else:
                self.happenings.note_review(each.step)
            for metric, value in each.values.items():
                if isinstance(value, float):
                    self._values[metric] = value
                    if metric in DRAWN:
                        self._trail(metric).append(each.step, value)
        self.happenings.take(news.events)

    def _go_back(self, step: int) -> None:
        """A step comes again, since the run was resumed from before it."""
        for trail in self.trails.values():
            trail.go_back(step)
        while self._newest and self._newest[-1].step >= step:
            self._newest.pop()
        self.happenings.go_back(step - 1)

    def _trail(self, metric: str) -> Trail:
        if metric not in self.trails:
            self.trails[metric] = Trail()
        return self.trails[metric]

    def _list_newest(self, metric: str) -> NDArray[np.float64]:
        """The newest numbers of a metric; none where it was not recorded."""
        return self.trails[metric].values[-PACE_STEPS:] if metric in self.trails else np.empty(0)

    def _assess_health(self) -> Health | None:
        """The health of the groups: of the newest step with a norm for each, by the steps that were accepted."""
        by_group = [each for each in self._newest if "group_grad_norm" in each.values]
        measured = by_group or [each for each in self._newest if "grad_norm" in each.values]
        if not measured:
            return None
        history = History(self.groups)
        for each in measured:
            history.append(each)
            history.close(each.step not in self.happenings.rejected)
        return assess_health(history)


def _list_memory(values: Mapping[str, float]) -> Iterator[tuple[str, Any]]:
    for metric, value in values.items():
        if "memory" in metric and metric.endswith("_bytes") and math.isfinite(value):
            yield metric.removesuffix("_bytes").replace("memory", "").strip("_").replace("_", " ") or "model", value
