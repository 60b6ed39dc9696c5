"""The run folder: exact, readable half-written, never overwritten, and kept through a full disk and a kill."""

from __future__ import annotations

import gc
import json
import math
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

import trimtab
from trimtab import Action, Decision, Finding, InputError, Measurement, Record, Response, RunExistsError, RunFormatError
from trimtab.journal import (
    EVENTS,
    FORMAT_VERSION,
    GROUPS,
    JOURNAL,
    MANIFEST,
    SAMPLED,
    TABLES,
    Journal,
    RunLog,
    describe_run,
    format_event,
    read_manifest,
    read_run,
    read_table,
    redact,
    row_dtypes,
)
from trimtab.policy import Policy
from trimtab.probes import list_group_metrics
from trimtab.types import PER_GROUP, Change, Clock, Value

NAN, INF = math.nan, math.inf

GROUP_NAMES = ("embed", "head")
METRICS = ("group_grad_norm", "weight_norm")
RARE = ("dead_units", "update_ratio")

FINDING = Finding(
    metric="loss", value=NAN, limit=NAN, message="not finite", detector="nonfinite", severity="critical", step=3
)


def describe(
    groups: Sequence[str] = GROUP_NAMES, metrics: Sequence[str] = METRICS, sampled: Sequence[str] = RARE
) -> dict[str, Any]:
    """The manifest of a run of the default policy."""
    settings = {"policy": Policy.default().to_dict()}
    return describe_run(groups, metrics, ["float32"], settings, sampled_metrics=sampled)


WIDTHS = {name: dtype.itemsize for name, dtype in row_dtypes(describe()).items()}
"""Bytes of a row of each table."""


def make_record(step: int, clock: Clock = "step", **more: float) -> Record:
    """A record of a step or review; every second step is sampled, every third has a finding."""
    groups = {"weight_norm": (step + 0.5, INF)}
    groups |= {"group_grad_norm": (NAN, NAN)} if step % 2 else {"dead_units": (step / 8, NAN)}
    measurement = Measurement(step, {"loss": 1 / step, **(groups if clock == "step" else {}), **more}, clock)
    if step % 3:
        return Record(measurement, Decision(step, clock=clock))
    finding = replace(FINDING, step=step)
    decision = Decision(step, "skip", (Response("skip"),), (finding,), "why", clock)
    return Record(measurement, decision, Action(step, "skip"))


def write_run(folder: Path, records: Sequence[Record], *, resume: bool = False) -> RunLog:
    """Write records to a run folder and read it."""
    journal = Journal(folder, describe(), resume=resume)
    for record in records:
        journal.write(record)
    journal.close()
    return read_run(folder)


def as_text(value: object) -> str:
    """A text that is equal for equal values: every digit of a number, NaN equal to NaN, mappings sorted."""
    if isinstance(value, Measurement):
        return f"{value.step} {value.clock} {sorted(value.values.items())}"
    return repr(value)


floats32 = st.floats(width=32)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
scalars = st.dictionaries(
    texts.filter(lambda name: name not in ("step", "clock", *METRICS, *RARE)), st.floats(), max_size=4
)
by_group = st.dictionaries(st.sampled_from([*METRICS, *RARE]), st.tuples(floats32, floats32) | st.just((NAN, NAN)))


@st.composite
def measurement_lists(draw: st.DrawFn) -> list[Measurement]:
    """Steps with any numbers, one number or one per group, and reviews between them."""
    measurements = []
    for step in range(1, draw(st.integers(1, 6))):
        measurements.append(Measurement(step, {**draw(scalars), **draw(by_group)}))
        if draw(st.booleans()):
            measurements.append(Measurement(step, draw(scalars), "review"))
    return measurements


@settings(deadline=None, max_examples=60)
@given(measurements=measurement_lists())
def test_measurements_survive_exactly(measurements: list[Measurement]) -> None:
    """A measurement is read as it was written: every bit of every number, and absent where it was absent."""
    with TemporaryDirectory() as folder:
        log = write_run(Path(folder), [Record(each, Decision(each.step, clock=each.clock)) for each in measurements])
    assert list(map(as_text, log.measurements)) == list(map(as_text, measurements))
    assert log.events == []


findings = st.builds(
    Finding,
    metric=texts,
    value=st.floats(),
    limit=st.floats(),
    message=texts,
    expected=st.none() | st.floats(),
    groups=st.lists(texts, max_size=2).map(tuple),
    rows=st.lists(st.integers(0, 2**40), max_size=2).map(tuple),
    in_state=st.booleans(),
    detector=texts,
    severity=st.sampled_from(["critical", "low"]),
    step=st.just(1),
)
limits = st.none() | st.floats() | st.sampled_from([NAN, INF, -INF])
responses = st.builds(Response, texts, st.lists(texts, max_size=2).map(tuple), limits, st.booleans(), limits)
decisions = st.builds(
    Decision,
    st.just(1),
    texts,
    st.lists(responses, max_size=2).map(tuple),
    st.lists(findings, min_size=1, max_size=2).map(tuple),
    texts,
    st.sampled_from(["step", "review"]),
)
changes = st.lists(st.builds(Change, texts, st.floats(), st.floats()), max_size=2).map(tuple)
done = st.builds(Action, st.just(1), texts, st.none() | st.integers(0, 9), st.integers(0, 9), changes, texts)


@given(decision=decisions, action=done)
def test_decisions_and_actions_survive_exactly(decision: Decision, action: Action) -> None:
    """A decision with findings and its action are read as they were written, to the last digit."""
    event = json.loads(format_event(Record(Measurement(1, {}, decision.clock), decision, action)))
    assert repr(RunLog(Path(), {}, [], [event]).records) == repr({(1, decision.clock): (decision, action)})


def test_repeated_steps_of_a_resumed_run_keep_their_own_numbers(tmp_path: Path) -> None:
    """Where a run went back to an earlier step, both measurements of a step have their own numbers by group.

    What is sampled, and what is measured by group at all, may be another the second time.
    """
    taken: list[tuple[int, dict[str, Value]]] = [
        (1, {"weight_norm": (1.0, 1.0), "dead_units": (0.125, 0.0)}),
        (2, {"weight_norm": (2.0, 2.0)}),
        (3, {}),
        (2, {"weight_norm": (4.0, 4.0), "update_ratio": (0.25, 0.25)}),
        (3, {"weight_norm": (5.0, 5.0), "dead_units": (0.5, 0.5)}),
    ]
    made = [Measurement(step, values) for step, values in taken]
    records = [Record(each, Decision(each.step)) for each in made]
    write_run(tmp_path, records[:3])
    log = write_run(tmp_path, records[3:], resume=True)
    assert log.measurements == made


def test_row_is_there_only_where_something_was_measured(tmp_path: Path) -> None:
    """Each table has a row, of the same head and four bytes per metric and group, for the steps it has numbers of."""
    records = [make_record(step) for step in range(1, 8)]
    bare = Record(Measurement(8, {"loss": 0.5}), Decision(8))
    log = write_run(tmp_path, [*records, make_record(7, "review"), bare, make_record(9)])
    tables = {name: read_table(tmp_path, log.manifest, name) for name in TABLES}
    assert {name: rows["step"].tolist() for name, rows in tables.items()} == {
        GROUPS: [1, 2, 3, 4, 5, 6, 7, 9],
        SAMPLED: [2, 4, 6],
    }
    assert {name: rows["line"].tolist() for name, rows in tables.items()} == {
        GROUPS: [0, 1, 2, 3, 4, 5, 6, 9],
        SAMPLED: [1, 3, 5],
    }
    assert WIDTHS == {GROUPS: 12 + 4 * 2 * 2, SAMPLED: 12 + 4 * 2 * 2}
    assert {name: (tmp_path / name).stat().st_size for name in TABLES} == {
        name: len(rows) * WIDTHS[name] for name, rows in tables.items()
    }


def test_metrics_are_sorted_by_how_often_they_are_measured(tmp_path: Path) -> None:
    """Of a supervised run, what is in `groups.f32` is measured at each step, and what is in `sampled.f32` is not."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1)).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    supervisor = trimtab.Supervisor(model, optimizer, run=tmp_path)
    for _ in range(70):
        loss = model(torch.ones(64, 3, dtype=torch.bfloat16)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        supervisor.check(loss)
        optimizer.step()
    supervisor.finish()
    log = read_run(tmp_path)
    times = Counter(
        metric for each in log.measurements for metric, value in each.values.items() if isinstance(value, tuple)
    )
    usual, sampled = list_group_metrics()
    assert {metric: times[metric] for metric in usual} == dict.fromkeys(usual, 70)
    assert {metric for metric in sampled if times[metric] > 3} == set()
    assert {"update_ratio", "lost_updates", "missing_gradients", "zero_units"} <= times.keys() & set(sampled)
    assert len(read_table(tmp_path, log.manifest, SAMPLED)) == 3


def test_the_judging_half_knows_what_is_measured_by_group() -> None:
    """It has no probes to ask, so the metrics of one number per group are named where it can see them."""
    assert frozenset(chain(*list_group_metrics())) == PER_GROUP


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> RunLog:
    """A run of 6 steps and a review, with 3 findings."""
    records = [make_record(step) for step in range(1, 7)]
    return write_run(tmp_path_factory.mktemp("small"), [*records, make_record(6, "review", val_loss=0.5)])


@pytest.mark.parametrize("name", [JOURNAL, EVENTS, *TABLES])
def test_run_cut_at_any_byte_is_read_up_to_the_last_whole_entry(name: str, small_run: RunLog, tmp_path: Path) -> None:
    """A file that ends anywhere is read up to its last whole line or row, and the others are read whole."""
    run = shutil.copytree(small_run.folder, tmp_path / "run")
    whole = (run / name).read_bytes()
    for end in range(len(whole)):
        (run / name).write_bytes(whole[:end])
        log = read_run(run)
        num_lines = whole[:end].count(b"\n")
        if name == EVENTS:
            assert log.events == small_run.events[:num_lines]
        elif name == JOURNAL:
            assert as_text(log.measurements) == as_text(small_run.measurements[:num_lines])
        else:
            assert as_text(log.measurements) == as_text(list(strip(small_run, name, end // WIDTHS[name])))


def strip(log: RunLog, name: str, num_rows: int) -> Iterator[Measurement]:
    """The measurements of a run without what a table has after so many rows."""
    metrics = log.manifest[TABLES[name]]
    for each in log.measurements:
        is_there = not each.values.keys().isdisjoint(metrics)
        kept = num_rows > 0 or not is_there
        yield each if kept else replace(each, values={k: v for k, v in each.values.items() if k not in metrics})
        num_rows -= is_there


@pytest.mark.parametrize("name", [JOURNAL, EVENTS, *TABLES])
def test_resume_goes_on_after_the_last_whole_entry(name: str, small_run: RunLog, tmp_path: Path) -> None:
    """What is appended to a file that was cut short anywhere in its last entry is read, and so is all before it."""
    whole = (small_run.folder / name).read_bytes()
    entry = WIDTHS[name] if name in WIDTHS else len(whole.splitlines()[-1]) + 1
    for num_cut in range(1, entry + 1, 7):
        run = shutil.copytree(small_run.folder, tmp_path / str(num_cut))
        (run / name).write_bytes(whole[:-num_cut])
        log = write_run(run, [make_record(9), make_record(12)], resume=True)
        assert list(map(as_text, log.measurements[-2:])) == [as_text(make_record(step).measurement) for step in (9, 12)]
        assert len(log.measurements) == len(small_run.measurements) + 2 - (name == JOURNAL)
        assert len(log.events) == len(small_run.events) + 2 - (name == EVENTS)


@pytest.mark.parametrize("num_lines", range(8))
def test_rows_of_lines_that_were_not_written_are_cut(num_lines: int, small_run: RunLog, tmp_path: Path) -> None:
    """A kill between two files leaves rows without a line; they are not read, nor taken for those of later lines."""
    run = shutil.copytree(small_run.folder, tmp_path / "run")
    lines = (run / JOURNAL).read_bytes().splitlines(keepends=True)
    (run / JOURNAL).write_bytes(b"".join(lines[:num_lines]) + b'{"ste')
    assert as_text(read_run(run).measurements) == as_text(small_run.measurements[:num_lines])
    later = [make_record(step) for step in (2, 3, 4)]
    log = write_run(run, later, resume=True)
    expected = [*small_run.measurements[:num_lines], *(each.measurement for each in later)]
    assert list(map(as_text, log.measurements)) == list(map(as_text, expected))
    for name in TABLES:
        metrics = log.manifest[TABLES[name]]
        num_rows = sum(not each.values.keys().isdisjoint(metrics) for each in expected)
        assert (run / name).stat().st_size == num_rows * WIDTHS[name]


def test_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    """A folder that holds a run is refused, and left as it is, unless it is to be resumed."""
    write_run(tmp_path, [make_record(1)])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunExistsError) as caught:
        Journal(tmp_path, describe())
    assert str(caught.value) == (
        f"run: {str(tmp_path)!r} already holds a run, which is never overwritten; "
        "choose a new name, or pass resume=True to go on with it"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert [each.step for each in write_run(tmp_path, [make_record(2)], resume=True).measurements] == [1, 2]


@pytest.mark.parametrize(
    ("groups", "metrics", "sampled"),
    [
        pytest.param(["embed"], METRICS, RARE, id="fewer-groups"),
        pytest.param(["head", "embed"], METRICS, RARE, id="another-order"),
        pytest.param(GROUP_NAMES, ["weight_norm"], RARE, id="fewer-metrics"),
        pytest.param(GROUP_NAMES, METRICS, [*RARE, "more"], id="more-sampled-metrics"),
    ],
)
def test_run_of_other_groups_is_not_resumed(
    groups: Sequence[str], metrics: Sequence[str], sampled: Sequence[str], tmp_path: Path
) -> None:
    """A run whose rows have another layout is refused, and left as it is."""
    write_run(tmp_path, [make_record(2)])
    before = [(tmp_path / name).read_bytes() for name in TABLES]
    with pytest.raises(InputError) as caught:
        Journal(tmp_path, describe(groups, metrics, sampled), resume=True)
    assert str(caught.value) == f"run: {str(tmp_path)!r} has other parameter groups; choose a new name"
    assert [(tmp_path / name).read_bytes() for name in TABLES] == before


@pytest.mark.parametrize(
    ("folder", "cause"),
    [
        pytest.param("file", "File exists", id="file-where-the-folder-should-be"),
        pytest.param("file/run", "Not a directory", id="file-where-the-parent-should-be"),
        pytest.param("taken", "Is a directory", id="folder-where-the-journal-should-be"),
    ],
)
def test_folder_that_cannot_be_written_is_refused(folder: str, cause: str, tmp_path: Path) -> None:
    """A folder that cannot be written is an error when the run begins, which names it and the cause."""
    (tmp_path / "file").touch()
    (tmp_path / "taken" / JOURNAL).mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        Journal(tmp_path / folder, describe())
    assert str(caught.value) == f"run: the folder {str(tmp_path / folder)!r} cannot be written: {cause}"


READS = f"this version of Trimtab reads format {FORMAT_VERSION} alone"


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        pytest.param(None, "is no run folder: it has no readable manifest.json", id="none"),
        pytest.param('{"format": 1', "is no run folder: it has no readable manifest.json", id="cut"),
        pytest.param("[]", "is no run folder: it has no readable manifest.json", id="no-table"),
        pytest.param("{}", "is no run folder: it has no readable manifest.json", id="without-format"),
        pytest.param('{"format": 99}', f"has format 99; {READS}", id="newer"),
        pytest.param('{"format": 1, "groups": [], "group_metrics": []}', f"has format 1; {READS}", id="older"),
        pytest.param('{"format": "two"}', f"has format two; {READS}", id="no-number"),
    ],
)
def test_what_is_no_run_folder_is_refused(manifest: str | None, message: str, tmp_path: Path) -> None:
    """A folder without a readable manifest, or of another format, is an error that says so."""
    if manifest is not None:
        (tmp_path / MANIFEST).write_text(manifest, encoding="utf-8")
    for read in (read_manifest, read_run):
        with pytest.raises(RunFormatError) as caught:
            read(tmp_path)
        assert str(caught.value) == f"run: {str(tmp_path)!r} {message}"


TRAIN = """
import json, resource, sys, time
from pathlib import Path
import torch
from trimtab import Supervisor

folder = Path(sys.argv[1])
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
supervisor = Supervisor(model, optimizer, run=folder)


def train(num_steps):
    for _ in range(num_steps):
        loss = model(torch.ones(3)).square().sum() + 1
        optimizer.zero_grad()
        loss.backward()
        supervisor.check(loss)
        optimizer.step()
"""

FULL_DISK = f"""{TRAIN}
from trimtab import journal

journal.writer.MAX_WAITING = int(sys.argv[2])
train(20)
supervisor._recorder.journal.flush()
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / journal.JOURNAL).stat().st_size, hard))
train(20)
supervisor._recorder.journal.flush()
log = journal.read_run(folder)
tables = [journal.read_table(folder, log.manifest, name) for name in journal.TABLES]
print(json.dumps([len(each) for each in (log.measurements, *tables)]))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
supervisor._recorder.journal.flush()
train(20)
supervisor.finish()
"""
"""For a while no file may grow beyond what the journal has, so that writes fail as on a full disk."""


@pytest.mark.parametrize(
    ("max_waiting", "kept"),
    [
        pytest.param(10_000, [*range(1, 61)], id="everything-kept"),
        pytest.param(10, [*range(1, 21), *range(31, 61)], id="oldest-lost-and-counted"),
    ],
)
def test_full_disk_while_training(max_waiting: int, kept: list[int], tmp_path: Path) -> None:
    """On a full disk the run goes on with one warning; later the journal has what was kept, once, and names the gap."""
    result = run_python(FULL_DISK, str(tmp_path / "run"), str(max_waiting))
    log = read_run(tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [20, 20, 1]
    assert result.stderr.splitlines() == [
        f"the journal in {str(tmp_path / 'run')!r} cannot be written (File too large); "
        "the run goes on, and the journal will name the gap"
    ]
    assert [measurement.step for measurement in log.measurements] == kept
    assert all("weight_norm" in measurement.values for measurement in log.measurements)
    assert log.events == [
        {"event": "gap", "num_lost": 60 - len(kept), "reason": "File too large"},
        {"event": "end", "step": 60, "status": "finished", "num_failures": 0},
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_disk_that_stays_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that stays full is warned about once while the run goes on, and once more for what is lost at its end."""
    (tmp_path / GROUPS).symlink_to("/dev/full")
    journal = Journal(tmp_path, describe())
    for step in range(1, 6):
        journal.write(make_record(step))
        journal.flush()
    journal.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"the journal in {str(tmp_path)!r} cannot be written (No space left on device); "
        "the run goes on, and the journal will name the gap",
        f"the journal in {str(tmp_path)!r} lost its last 5 records",
    ]
    assert (tmp_path / JOURNAL).read_bytes() == b""


ENDLESS = f"""{TRAIN}
while True:
    train(1)
    print(supervisor.step, time.time(), flush=True)
    time.sleep(0.002)
"""
"""Training that says when each step was made, until it is killed."""


def test_kill_loses_at_most_the_last_second(tmp_path: Path) -> None:
    """After kill -9 the run folder is read, and every step older than a second is in it."""
    run, said = tmp_path / "run", tmp_path / "said"
    with said.open("w") as output, subprocess.Popen([sys.executable, "-c", ENDLESS, run], stdout=output) as process:
        while process.poll() is None and not said.stat().st_size:
            time.sleep(0.05)
        time.sleep(1.5)
        killed = time.time()
        process.kill()
    made = [line.split() for line in said.read_text(encoding="utf-8").split("\n")[:-1]]
    steps = [measurement.step for measurement in read_run(run).measurements]
    assert steps == [*range(1, len(steps) + 1)]
    assert len(steps) >= max(int(step) for step, when in made if float(when) < killed - 1)


def test_forgotten_journal_writes_what_it_took(tmp_path: Path) -> None:
    """A journal that goes out of scope without being closed loses nothing."""
    journal = Journal(tmp_path, describe())
    journal.write(make_record(1))
    del journal
    gc.collect()
    assert [measurement.step for measurement in read_run(tmp_path).measurements] == [1]


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    """However often a journal is flushed and closed, every record is there once."""
    journal = Journal(tmp_path, describe())
    for step in range(1, 10):
        journal.write(make_record(step))
        journal.write_event("note", step=step)
        journal.flush()
        journal.flush()
    journal.close()
    journal.close()
    log = read_run(tmp_path)
    assert [measurement.step for measurement in log.measurements] == [*range(1, 10)]
    assert [event["step"] for event in log.events if event["event"] == "note"] == [*range(1, 10)]
    assert [step for step, _ in log.records] == [3, 6, 9]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        pytest.param("--token abc --lr 0.1", "--token *** --lr 0.1", id="next-argument"),
        pytest.param("--token=abc --lr=0.1", "--token=*** --lr=0.1", id="same-argument"),
        pytest.param("-hf-token abc", "-hf-token ***", id="one-dash"),
        pytest.param("wandb.api_key=abc", "wandb.api_key=***", id="hydra"),
        pytest.param("+wandb.api_key=abc=def", "+wandb.api_key=***", id="two-equals-signs"),
        pytest.param("HF_TOKEN=abc", "HF_TOKEN=***", id="capitals"),
        pytest.param("--api-key a --apikey b --api_key c", "--api-key *** --apikey *** --api_key ***", id="spellings"),
        pytest.param("--password a --passwd b", "--password *** --passwd ***", id="password"),
        pytest.param("--client-secret a --aws-credentials b", "--client-secret *** --aws-credentials ***", id="others"),
        pytest.param("train.py data.csv", "train.py data.csv", id="nothing-secret"),
        pytest.param("token.py data.csv", "token.py data.csv", id="no-option"),
        pytest.param("--token=a data.csv", "--token=*** data.csv", id="what-follows-is-kept"),
        pytest.param("--tokenizer bpe --max-tokens=9", "--tokenizer bpe --max-tokens=9", id="tokens-are-no-secret"),
        pytest.param("", "", id="none"),
    ],
)
def test_secrets_are_redacted(arguments: str, shown: str) -> None:
    """The value of an option whose name speaks of a secret is not shown; everything else is."""
    assert redact(arguments.split()) == shown.split()


def test_manifest_says_what_the_run_was_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest of a supervised run holds its versions, command line, dtypes, groups, metrics and settings."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--token=abc"])
    model = torch.nn.Linear(3, 1)
    before = datetime.now(UTC).replace(microsecond=0)
    optimizer = torch.optim.SGD(model.parameters())
    trimtab.Supervisor(model, optimizer, run=tmp_path, clip_norm=0.5, probe=lambda _: 0.0).finish()
    manifest = read_manifest(tmp_path)
    assert before <= datetime.fromisoformat(manifest.pop("started")) <= datetime.now(UTC)
    assert Policy.from_dict(manifest.pop("policy")) == Policy.default()
    assert manifest == {
        "format": FORMAT_VERSION,
        "versions": {"python": platform.python_version(), "trimtab": version("trimtab"), "torch": version("torch")},
        "command_line": ["train.py", "--token=***"],
        "dtypes": ["float32"],
        "groups": ["weight", "bias"],
        "group_metrics": list_group_metrics()[0],
        "sampled_metrics": list_group_metrics()[1],
        "clip_norm": 0.5,
        "handed": ["probe"],
    }


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
