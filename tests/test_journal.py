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
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
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
    Journal,
    RunLog,
    describe_run,
    format_event,
    read_manifest,
    read_run,
    redact,
    row_dtype,
)
from trimtab.policy import Policy
from trimtab.probes import list_group_metrics
from trimtab.types import Change, Clock

NAN, INF = math.nan, math.inf

GROUP_NAMES = ("embed", "head")
METRICS = ("group_grad_norm", "weight_norm")

FINDING = Finding(
    metric="loss", value=NAN, limit=NAN, message="not finite", detector="nonfinite", severity="critical", step=3
)


def describe(groups: Sequence[str] = GROUP_NAMES, metrics: Sequence[str] = METRICS) -> dict[str, Any]:
    """The manifest of a run of the default policy."""
    return describe_run(groups, metrics, ["float32"], {"policy": Policy.default().to_dict()})


def make_record(step: int, clock: Clock = "step", **more: float) -> Record:
    """A record of a step or review; every third step has a finding."""
    groups = {"weight_norm": (step + 0.5, INF), **({"group_grad_norm": (NAN, NAN)} if step % 2 else {})}
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
scalars = st.dictionaries(texts.filter(lambda name: name not in ("step", "clock", *METRICS)), st.floats(), max_size=4)
by_group = st.dictionaries(st.sampled_from(METRICS), st.tuples(floats32, floats32) | st.just((NAN, NAN)))


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
    """Where a run went back to an earlier step, both measurements of a step have their own numbers by group."""
    norms = [(1, (1.0, 1.0)), (2, (2.0, 2.0)), (3, (3.0, 3.0)), (2, (4.0, 4.0)), (3, (5.0, 5.0))]
    records = [Record(Measurement(step, {"weight_norm": norm}), Decision(step)) for step, norm in norms]
    write_run(tmp_path, records[:3])
    log = write_run(tmp_path, records[3:], resume=True)
    assert [(measurement.step, measurement.values["weight_norm"]) for measurement in log.measurements] == norms


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> RunLog:
    """A run of 6 steps and a review, with 3 findings."""
    records = [make_record(step) for step in range(1, 7)]
    return write_run(tmp_path_factory.mktemp("small"), [*records, make_record(6, "review", val_loss=0.5)])


@pytest.mark.parametrize("name", [JOURNAL, EVENTS, GROUPS])
def test_run_cut_at_any_byte_is_read_up_to_the_last_whole_entry(name: str, small_run: RunLog, tmp_path: Path) -> None:
    """A file that ends anywhere is read up to its last whole line or row, and the others are read whole."""
    run = shutil.copytree(small_run.folder, tmp_path / "run")
    whole = (run / name).read_bytes()
    width = row_dtype(GROUP_NAMES, METRICS).itemsize
    for end in range(len(whole)):
        (run / name).write_bytes(whole[:end])
        log = read_run(run)
        num_lines, num_rows = whole[:end].count(b"\n"), end // width
        if name == EVENTS:
            assert log.events == small_run.events[:num_lines]
        elif name == JOURNAL:
            assert as_text(log.measurements) == as_text(small_run.measurements[:num_lines])
        else:
            found = [measurement for measurement in log.measurements if "weight_norm" in measurement.values]
            assert as_text(found) == as_text(small_run.measurements[:num_rows])
            assert len(log.measurements) == len(small_run.measurements)


@pytest.mark.parametrize("name", [JOURNAL, EVENTS, GROUPS])
def test_resume_goes_on_after_the_last_whole_entry(name: str, small_run: RunLog, tmp_path: Path) -> None:
    """What is appended to a file that was cut short anywhere in its last entry is read, and so is all before it."""
    whole = (small_run.folder / name).read_bytes()
    entry = row_dtype(GROUP_NAMES, METRICS).itemsize if name == GROUPS else len(whole.splitlines()[-1]) + 1
    for num_cut in range(1, entry + 1, 7):
        run = shutil.copytree(small_run.folder, tmp_path / str(num_cut))
        (run / name).write_bytes(whole[:-num_cut])
        log = write_run(run, [make_record(9)], resume=True)
        assert as_text(log.measurements[-1]) == as_text(make_record(9).measurement)
        assert len(log.measurements) == len(small_run.measurements) + (name != JOURNAL)
        assert len(log.events) == len(small_run.events) + (name != EVENTS)


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
    ("groups", "metrics"),
    [
        pytest.param(["embed"], METRICS, id="fewer-groups"),
        pytest.param(["head", "embed"], METRICS, id="another-order"),
        pytest.param(GROUP_NAMES, ["weight_norm"], id="fewer-metrics"),
    ],
)
def test_run_of_other_groups_is_not_resumed(groups: Sequence[str], metrics: Sequence[str], tmp_path: Path) -> None:
    """A run whose rows have another layout is refused, and left as it is."""
    write_run(tmp_path, [make_record(1)])
    before = (tmp_path / GROUPS).read_bytes()
    with pytest.raises(InputError) as caught:
        Journal(tmp_path, describe(groups, metrics), resume=True)
    assert str(caught.value) == f"run: {str(tmp_path)!r} has other parameter groups; choose a new name"
    assert (tmp_path / GROUPS).read_bytes() == before


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


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        pytest.param(None, "is no run folder: it has no readable manifest.json", id="none"),
        pytest.param('{"format": 1', "is no run folder: it has no readable manifest.json", id="cut"),
        pytest.param("[]", "is no run folder: it has no readable manifest.json", id="no-table"),
        pytest.param("{}", "is no run folder: it has no readable manifest.json", id="without-format"),
        pytest.param('{"format": 99}', f"has format 99; this version reads up to {FORMAT_VERSION}", id="newer"),
    ],
)
def test_what_is_no_run_folder_is_refused(manifest: str | None, message: str, tmp_path: Path) -> None:
    """A folder without a readable manifest, or of a newer format, is an error that says so."""
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
print(json.dumps([len(log.measurements), len(journal.read_groups(folder, log.manifest))]))
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
    assert json.loads(result.stdout) == [20, 20]
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
    trimtab.Supervisor(model, torch.optim.SGD(model.parameters()), run=tmp_path, clip_norm=0.5).finish()
    manifest = read_manifest(tmp_path)
    assert before <= datetime.fromisoformat(manifest.pop("started")) <= datetime.now(UTC)
    assert Policy.from_dict(manifest.pop("policy")) == Policy.default()
    assert manifest == {
        "format": FORMAT_VERSION,
        "versions": {"python": platform.python_version(), "trimtab": version("trimtab"), "torch": version("torch")},
        "command_line": ["train.py", "--token=***"],
        "dtypes": ["float32"],
        "groups": ["weight", "bias"],
        "group_metrics": list_group_metrics(),
        "clip_norm": 0.5,
    }


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
