"""How what Trimtab does grows: with groups, detectors, tensors, parameters, steps and ranks.

Every quantity is measured at a few sizes and told as a `Growth`, with the exponent of its growth: 1 where twice the
size costs twice as much. The judging half is measured on synthetic measurements of a healthy run with a full history,
in blocks of 8 steps, since some detectors judge every 8th; probes on a model of many small layers, in turns with
`clip_grad_norm_` on the same gradients; the run folder on runs of many steps, each read by a process of its own, whose
largest memory is told; the agreement between ranks as processes on this machine, in turns with an all-reduce of one
number. Times are of the processor, with one thread, so that a busy machine does not add to them; those of ranks, who
wait for each other, are of the clock.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import distributed, nn

from trimtab import probes
from trimtab.bench.overhead import OnProgress
from trimtab.history import CAPACITY
from trimtab.journal import JOURNAL, TABLES, Journal, describe_run, read_run
from trimtab.policy import Judge, Policy
from trimtab.probes.agreement import agree
from trimtab.probes.subject import Moment, StepTimes, Subject
from trimtab.replay import replay_run
from trimtab.report.document import describe_run as describe_page
from trimtab.report.page import write_report
from trimtab.types import Decision, Measurement, Record, Value

Unit: TypeAlias = Literal["µs", "s", "MB", "times"]
"""Microseconds of one step or call, seconds of all, 10⁶ bytes, or a multiple of what it is compared with."""

BLOCK = 8
"""Steps that are timed together: some detectors judge, and update ratios are measured, at every 8th."""

NUM_DRAWN = 64
"""Rows of numbers by group that synthetic measurements take in turns."""

NUM_SUBSETS = 3
"""Sets of detectors of each size, drawn at random; their median is told."""

WIDTH = 8
"""Inputs and outputs of each small layer of the model whose tensors are counted."""

ORDINARY_STEP = 4
"""A step at which nothing is sampled, and no update ratio measured."""

NUM_RANKED = 64
"""Tensors of the model that ranks agree on, each a group."""

NUM_FLUSHED = 1000
"""Records handed to the journal between two flushes, so that no more than these wait in memory."""

TIMING_SECONDS = 8.0
"""After so long a timing ends with the turns it has, if these are three."""

SECONDS = 60
"""How long a rank waits for another before it gives up."""

MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Growth:
    """One quantity at several sizes."""

    quantity: str
    """What is measured."""

    counted: str
    """What the sizes are a number of."""

    unit: Unit
    """What the amounts are in."""

    points: tuple[tuple[int, float], ...]
    """The sizes, rising, each with its amount."""

    @property
    def exponent(self) -> float:
        """The slope of the line of least squares through the logarithms: 1 where it grows in proportion.

        A constant part, which the smallest sizes show, makes it smaller; see `last_exponent`.
        """
        return _fit_exponent(self.points)

    @property
    def last_exponent(self) -> float:
        """The same between the two largest sizes alone: well above 1 where it would become too much some day."""
        return _fit_exponent(self.points[-2:])


def _fit_exponent(points: Sequence[tuple[int, float]]) -> float:
    if len(points) < 2 or any(amount <= 0 for _, amount in points):
        return math.nan
    sizes, amounts = np.log(np.array(points, dtype=np.float64)).T
    sizes -= sizes.mean()
    return float((sizes * amounts).sum() / (sizes * sizes).sum())


@dataclass(frozen=True, slots=True)
class Extent:
    """At which sizes everything is measured."""

    groups: tuple[int, ...]
    """Numbers of groups that are judged."""

    detectors: tuple[int, ...]
    """Numbers of detectors that judge."""

    tensors: tuple[int, ...]
    """Numbers of small tensors that probes measure; even."""

    parameters: tuple[int, ...]
    """Numbers of parameters, in a model of few tensors."""

    steps: tuple[int, ...]
    """Lengths of runs with one group that are written and read."""

    replayed: tuple[int, ...]
    """Lengths of the same that are replayed and drawn."""

    grouped: tuple[int, ...]
    """Lengths of runs with 64 groups that are written and read, if any."""

    ranks: tuple[int, ...]
    """Numbers of ranks that agree."""

    numbers: tuple[int, ...]
    """Numbers that two ranks agree on, if any."""

    num_blocks: int
    """Blocks or turns of each timing."""


FULL = Extent(
    groups=(1, 10, 100, 1000, 10_000),
    detectors=(1, 2, 4, 8, 16, 25),
    tensors=(100, 1000, 10_000, 100_000),
    parameters=(10_000, 100_000, 1_000_000, 10_000_000),
    steps=(10_000, 100_000, 1_000_000),
    replayed=(10_000, 100_000),
    grouped=(1000, 10_000, 30_000),
    ranks=(2, 4, 8),
    numbers=(100, 1000, 10_000, 100_000, 400_000),
    num_blocks=31,
)
"""Everything; some minutes on two cores."""

QUICK = Extent(
    groups=(1, 64),
    detectors=(1, 8),
    tensors=(100, 1000),
    parameters=(10_000, 100_000),
    steps=(500,),
    replayed=(500,),
    grouped=(),
    ranks=(2,),
    numbers=(),
    num_blocks=3,
)
"""Small sizes, in seconds: that it works, not what it costs."""


def measure_scale(extent: Extent = FULL, on_progress: OnProgress = lambda _name, _done, _total: None) -> list[Growth]:
    """Measure everything.

    Args:
        extent: at which sizes.
        on_progress: called before each part is measured: with its name, the number of parts done, and of all.
    """
    rows: list[Growth] = []
    for done, (name, measure) in enumerate(PARTS.items()):
        on_progress(name, done, len(PARTS))
        rows += measure(extent)
    return rows


def make_measurements(num_groups: int, seed: int = 0) -> Iterator[Measurement]:
    """The measurements of a healthy run that never ends: a loss that falls slowly, norms with ordinary noise."""
    generator = np.random.default_rng(seed)
    shape = (NUM_DRAWN, num_groups)
    norms = [tuple(row.tolist()) for row in generator.lognormal(0, 0.1, shape)]
    weights = [tuple(row.tolist()) for row in 10 + generator.normal(0, 1e-3, shape)]
    ratios = [tuple(row.tolist()) for row in generator.lognormal(-7, 0.1, shape)]
    nothing = (0.0,) * num_groups
    step = 0
    while True:
        step += 1
        noise = generator.lognormal(0, 0.05, 2).tolist()
        values: dict[str, Value] = {
            "grad_norm": math.sqrt(num_groups) * noise[0],
            "learning_rate": 1e-3,
            "loss": (1 + 2 / math.sqrt(step)) * noise[1],
            "step_seconds": 0.1,
            "supervisor_seconds": 1e-3,
            "group_grad_norm": norms[step % NUM_DRAWN],
            "group_nonfinite": nothing,
            "weight_norm": weights[step % NUM_DRAWN],
        }
        if step % BLOCK == 2:
            values["update_ratio"] = ratios[step % NUM_DRAWN]
        yield Measurement(step, values)


def measure_groups(extent: Extent) -> Iterator[Growth]:
    """What judging a step costs, and what the history takes in memory, by the number of groups."""
    judged = [(num, *time_judging(Policy.default(), num, extent.num_blocks)) for num in extent.groups]
    yield Growth("judge a step", "groups", "µs", tuple((num, took) for num, took, _ in judged))
    yield Growth("history in memory", "groups", "MB", tuple((num, megabytes) for num, _, megabytes in judged))


def time_judging(policy: Policy, num_groups: int, num_blocks: int) -> tuple[float, float]:
    """Microseconds a step takes to be judged with a full history, and the megabytes that history takes.

    Raises:
        RuntimeError: if a finding was made, so that it is not what an ordinary step costs.
    """
    measurements = make_measurements(num_groups)
    judge = Judge(policy, [f"group-{index}" for index in range(num_groups)])
    for measurement in islice(measurements, CAPACITY):
        judge.remember(Record(measurement, Decision(measurement.step)))

    block: list[Measurement] = []

    def draw_block() -> None:
        block[:] = islice(measurements, BLOCK)

    def judge_block() -> None:
        for measurement in block:
            judge.settle(Record(measurement, judge.judge(measurement)))

    _, took = time_in_turns(num_blocks, draw_block, judge_block)
    if judge.ledger:
        raise RuntimeError(f"scale: a healthy run was found to be ill: {judge.ledger[0].reason}")
    columns = [judge.steps.column(metric).base for metric in judge.steps.state_dict()["columns"]]
    num_bytes = sum(column.nbytes for column in columns if column is not None)
    return took / BLOCK, num_bytes / MEGABYTE


def measure_detectors(extent: Extent) -> Iterator[Growth]:
    """What judging a step of 64 groups costs, by the number of detectors asked."""
    draw = random.Random(0)
    default = Policy.default()
    points = []
    for num in extent.detectors:
        chosen = [draw.sample(sorted(default.plans), min(num, len(default.plans))) for _ in range(NUM_SUBSETS)]
        policies = [replace(default, plans={name: default.plans[name] for name in names}) for names in chosen]
        points.append((num, median(time_judging(policy, 64, extent.num_blocks)[0] for policy in policies)))
    yield Growth("judge a step of 64 groups", "detectors", "µs", tuple(points))


def make_moment(layers: Iterable[nn.Module]) -> Moment:
    """A step of a model of some layers, at which every parameter has a gradient."""
    model = nn.ModuleList(layers)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    return Moment(
        Subject(model, torch.optim.SGD(model.parameters())), torch.tensor(1.0), seconds=StepTimes(0.1, 1e-3, 0.1)
    )


def make_layers(num_tensors: int) -> list[nn.Module]:
    """Small layers with so many tensors, a weight and a bias each."""
    return [nn.Linear(WIDTH, WIDTH) for _ in range(num_tensors // 2)]


def measure_tensors(extent: Extent) -> Iterator[Growth]:
    """What probes cost by the number of small tensors, beside `clip_grad_norm_`, and what sorting them costs once."""
    sizes, timed, built = extent.tensors, [], []
    make_moment(make_layers(2))  # the first optimizer of a process imports much
    for num in sizes:
        layers = make_layers(num)
        began = process_time()
        moment = make_moment(layers)
        built.append(process_time() - began)
        timed.append(time_norms(moment, extent.num_blocks))
    yield from _list_norms("tensors", sizes, timed)
    yield Growth("sort a model into groups, once", "tensors", "s", tuple(zip(sizes, built, strict=True)))


def measure_parameters(extent: Extent) -> Iterator[Growth]:
    """What probes cost by the number of parameters, in 64 tensors, beside `clip_grad_norm_`."""
    timed = []
    for num in extent.parameters:
        layers = [nn.Linear(num // NUM_RANKED, 1, bias=False) for _ in range(NUM_RANKED)]
        timed.append(time_norms(make_moment(layers), extent.num_blocks))
    yield from _list_norms("parameters", extent.parameters, timed)


def _list_norms(counted: str, sizes: Sequence[int], timed: Sequence[tuple[float, float, float]]) -> Iterator[Growth]:
    clip, norms, every = (tuple(zip(sizes, column, strict=True)) for column in zip(*timed, strict=True))
    ratios = tuple((num, took / plain) for (num, took), (_, plain) in zip(norms, clip, strict=True))
    yield Growth("clip_grad_norm_", counted, "µs", clip)
    yield Growth("norms of gradients and weights", counted, "µs", norms)
    yield Growth("the same against clip_grad_norm_", counted, "times", ratios)
    yield Growth("all probes at an ordinary step", counted, "µs", every)


def time_norms(moment: Moment, num_turns: int) -> tuple[float, float, float]:
    """Microseconds of `clip_grad_norm_`, of the probes of norms, and of all probes; the median of turns of each."""
    parameters = moment.subject.parameters

    def measure(only: Sequence[str] | None) -> None:
        moment.norms = None
        probes.measure(ORDINARY_STEP, moment, only=only)

    with torch.no_grad():
        clip, norms, every = time_in_turns(
            num_turns,
            lambda: torch.nn.utils.clip_grad_norm_(parameters, 1e6),
            lambda: measure(("grad_norm", "weight_norm")),
            lambda: measure(None),
        )
    return clip, norms, every


def time_in_turns(num_turns: int, *calls: Callable[[], object]) -> tuple[float, ...]:
    """The median microseconds of each call, made in turns after one turn that is not counted; with one thread."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = perf_counter()
    turns: list[list[float]] = []
    while len(turns) <= num_turns and (len(turns) <= 3 or perf_counter() - began < TIMING_SECONDS):
        turns.append([_time(call, process_time) for call in calls])
    torch.set_num_threads(num_threads)
    return _take_medians(turns[1:])


def _take_medians(turns: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The median microseconds of each call, from the seconds of each turn."""
    return tuple(1e6 * median(column) for column in zip(*turns, strict=True))


def _time(call: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    call()
    return clock() - began


def measure_journal(extent: Extent) -> Iterator[Growth]:
    """What the run folder of a long run costs to write, to keep, to read, to replay and to draw."""
    for num_groups, sizes in ((1, extent.steps), (64, extent.grouped)):
        runs = [measure_run(num, num_groups, draws=num in extent.replayed) for num in sizes]
        label = f"a run of {num_groups} group{'s' * (num_groups > 1)}"
        for name, unit in RUN_FIGURES.items():
            found = tuple((num, run[name]) for num, run in zip(sizes, runs, strict=True) if name in run)
            if found:
                yield Growth(f"{name}, {label}", "steps", unit, found)


RUN_FIGURES: Mapping[str, Unit] = {
    "write": "s",
    JOURNAL: "MB",
    **dict.fromkeys(TABLES, "MB"),
    "read": "s",
    "memory of reading": "MB",
    "replay": "s",
    "memory of reading and replay": "MB",
    "draw a page": "s",
    "page": "MB",
}
"""What is measured of a run folder: seconds of the processor, megabytes on disk, the largest memory of a reader."""


def measure_run(num_steps: int, num_groups: int, *, draws: bool) -> dict[str, float]:
    """The figures of one run folder, by their names in `RUN_FIGURES`; it is read by a process of its own."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        figures = {"write": write_run(folder, num_steps, num_groups)}
        figures |= {name: (folder / name).stat().st_size / MEGABYTE for name in (JOURNAL, *TABLES)}
        reader = _start("draw" if draws else "read", str(folder), stdout=subprocess.PIPE)
        told = reader.communicate()[0]
        if reader.returncode != 0:
            raise RuntimeError(f"scale: a run of {num_steps} steps was not read")
    figures.update(json.loads(told))
    return figures


def write_run(folder: Path, num_steps: int, num_groups: int) -> float:
    """Write a healthy run; returns the seconds that all its writing took."""
    groups = [f"group-{index}" for index in range(num_groups)]
    settings = {"policy": Policy.default().to_dict(), "clip_norm": None}
    usual, sampled = probes.list_group_metrics()
    journal = Journal(folder, describe_run(groups, usual, ["float32"], settings, sampled_metrics=sampled))
    seconds = 0.0
    measurements = islice(make_measurements(num_groups), num_steps)
    while batch := [Record(each, Decision(each.step)) for each in islice(measurements, NUM_FLUSHED)]:
        began = process_time()
        for record in batch:
            journal.write(record)
        journal.flush()
        seconds += process_time() - began
    journal.close()
    return seconds


def read_back(folder: Path, *, draws: bool) -> dict[str, float]:
    """Read a run folder in this process; its largest memory is told, so it should have done nothing before.

    Args:
        folder: the run folder.
        draws: replay the run and draw its page too.
    """
    gc.collect()
    gc.freeze()  # what was imported is not to be searched for garbage again while the run is read
    before, began = _peak_bytes(), process_time()
    log = read_run(folder)
    figures = {"read": process_time() - began, "memory of reading": (_peak_bytes() - before) / MEGABYTE}
    if draws:
        figures["replay"] = _time(lambda: replay_run(log), process_time)
        figures["memory of reading and replay"] = (_peak_bytes() - before) / MEGABYTE
        page = folder / "page.html"
        figures["draw a page"] = _time(lambda: write_report(page, describe_page(folder)), process_time)
        figures["page"] = page.stat().st_size / MEGABYTE
    return figures


def _peak_bytes() -> int:
    """The most memory that this process has had so far.

    Linux hands the peak of the process that started this one on to `getrusage`, and not to `VmHWM`.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_agreement(extent: Extent) -> Iterator[Growth]:
    """What the agreement of ranks on a step costs by their number, and by the numbers they agree on."""
    runs = {num: run_ranks(num, (), extent.num_blocks) for num in extent.ranks}
    for name in RANKED:
        yield Growth(name, "ranks", "µs", tuple((num, times[name]) for num, times in runs.items()))
    if not extent.numbers:
        return
    times = run_ranks(2, extent.numbers, extent.num_blocks)
    yield Growth("agreement of 2 ranks", "numbers", "µs", tuple((num, times[str(num)]) for num in extent.numbers))


RANKED = (
    "all-reduce of one number",
    "all-reduce as large as an agreement",
    "agreement, 64 groups",
    "probes and agreement, 64 groups",
)
"""What every rank does in turns: the least an all-reduce costs, one of the same bytes, the agreement on a model of 64
groups with one tensor each, and the same with the probes that yield its numbers."""


def run_ranks(num_ranks: int, sizes: Sequence[int], num_turns: int) -> dict[str, float]:
    """The median microseconds of each all-reduce, as the first of some processes sees them.

    Args:
        num_ranks: the processes.
        sizes: numbers to agree on, beside what 64 groups need.
        num_turns: turns of which the median is taken.

    Raises:
        RuntimeError: if a rank failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(each) for each in (num_ranks, num_turns, *sizes)]
        ranks = [_start("agree", folder, str(rank), *arguments) for rank in range(num_ranks)]
        failed = [rank for rank, process in enumerate(ranks) if process.wait() != 0]
        if failed:
            raise RuntimeError(f"scale: of {num_ranks} ranks, {failed} failed")
        times: dict[str, float] = json.loads((Path(folder) / "times.json").read_text(encoding="utf-8"))
    return times


def _agree(folder: Path, rank: int, num_ranks: int, num_turns: int, *sizes: int) -> None:
    """Take part as one rank; the first one writes the times."""
    limit = timedelta(seconds=SECONDS)
    distributed.init_process_group("gloo", f"file://{folder}/store", limit, world_size=num_ranks, rank=rank)
    moment = make_moment([nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(NUM_RANKED)])
    num_numbers = sum(each.size(moment) for each in probes.probes.values())
    num_packed = 2 * (num_numbers + 1) + 2 + 3 * num_ranks  # values and flags, the step, and what each rank has alone
    one, packed = torch.zeros(1), torch.zeros(num_packed, dtype=torch.float64)
    done: tuple[Callable[[], object], ...] = (
        lambda: distributed.all_reduce(one),
        lambda: distributed.all_reduce(packed),
        make_agreement(num_numbers),
        lambda: probes.measure(ORDINARY_STEP, replace(moment, norms=None)),
    )
    calls = dict(zip(RANKED, done, strict=True))
    calls |= {str(size): make_agreement(size) for size in sizes}
    with torch.no_grad():
        turns = [[_time(call, perf_counter) for call in calls.values()] for _ in range(num_turns + 1)]
    if rank == 0:
        times = dict(zip(calls, _take_medians(turns[1:]), strict=True))
        (folder / "times.json").write_text(json.dumps(times), encoding="utf-8")
    (folder / f"{rank}.done").touch()
    deadline = perf_counter() + SECONDS
    while not (is_done := all((folder / f"{each}.done").exists() for each in range(num_ranks))):
        time.sleep(0.01)
        if perf_counter() > deadline:
            break
    os._exit(
        not is_done
    )  # an ordinary exit with a process group open, or just closed, aborts now and then in torch 2.13


def make_agreement(num: int) -> Callable[[], object]:
    """What ranks do to agree on so many numbers."""
    numbers = torch.ones(num)
    return lambda: agree([numbers], torch.device("cpu"), step=ORDINARY_STEP)


def _start(*arguments: str, stdout: int | None = None) -> subprocess.Popen[str]:
    """This module in a process of its own, with one thread."""
    command = [sys.executable, "-m", "trimtab.bench.scale", *arguments]
    return subprocess.Popen(command, stdout=stdout, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


PARTS: Mapping[str, Callable[[Extent], Iterator[Growth]]] = {
    "groups": measure_groups,
    "detectors": measure_detectors,
    "tensors": measure_tensors,
    "parameters": measure_parameters,
    "run folder": measure_journal,
    "ranks": measure_agreement,
}
"""What is measured, in this order."""


if __name__ == "__main__":
    if sys.argv[1] == "agree":
        _agree(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        sys.stdout.write(json.dumps(read_back(Path(sys.argv[2]), draws=sys.argv[1] == "draw")))
