"""A run folder is followed while it is written: everything is told once, whatever was half-written at a look."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.report.live import LiveRun
from trimtab.errors import RunFormatError
from trimtab.journal import (
    EVENTS,
    GROUPS,
    JOURNAL,
    MANIFEST,
    SAMPLED,
    Follower,
    follower,
    read_manifest,
    read_run,
    read_table,
    row_dtypes,
)
from trimtab.types import Measurement


def record(folder: Path, num_steps: int = 120) -> Path:
    run = LiveRun(folder)
    for step in range(num_steps):
        run.make_steps(1, loss=float("nan") if step == 50 else 1.0)
        if step % 40 == 10:
            run.skip_step()
            run.review(1.5)
    run.end()
    return folder


def follow_all(reader: Follower) -> tuple[list[Measurement], list[Mapping[str, Any]]]:
    """All that there is to be read."""
    measurements: list[Measurement] = []
    events: list[Mapping[str, Any]] = []
    while True:
        news = reader.look()
        measurements += news.measurements
        events += news.events
        if not reader.is_behind:
            return measurements, events


def same(first: list[Measurement], second: Any) -> bool:
    """True if both are the same, NaN being the same as NaN."""
    return list(map(repr, first)) == list(map(repr, second))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("seed", range(8))
def test_growing_files_are_told_once(seed: int, whole: Path, tmp_path: Path) -> None:
    """However many bytes of each file are there at a look, each step and event is told once, whole, in order."""
    rng, growing = random.Random(seed), tmp_path / "growing"
    contents = {name: (whole / name).read_bytes() for name in (GROUPS, SAMPLED, JOURNAL, EVENTS)}
    growing.mkdir()
    reader = Follower(growing)
    measurements: list[Measurement] = []
    events: list[Mapping[str, Any]] = []
    ends = dict.fromkeys(contents, 0)
    lines = contents[JOURNAL].split(b"\n")
    while any(ends[name] < len(content) for name, content in contents.items()):
        if rng.random() < 0.3:
            shutil.copy2(whole / MANIFEST, growing / MANIFEST)
        num = min(contents[JOURNAL].count(b"\n", 0, ends[JOURNAL]) + rng.randrange(0, 9), len(lines))
        ends[JOURNAL] = max(
            ends[JOURNAL], min(len(b"\n".join(lines[:num])) + rng.randrange(0, 30), len(contents[JOURNAL]))
        )
        ends[EVENTS] = min(ends[EVENTS] + rng.randrange(0, 900), len(contents[EVENTS]))
        for name in (GROUPS, SAMPLED):  # the rows of a line are there before the line is
            ends[name] = (
                len(contents[name]) if rng.random() < 0.2 else max(ends[name], _find_row_end(whole, name, num + 1))
            )
        for name, content in contents.items():
            (growing / name).write_bytes(content[: ends[name]])
        news = reader.look()
        assert not news.is_anew
        measurements += news.measurements
        events += news.events
    shutil.copy2(whole / MANIFEST, growing / MANIFEST)
    last = follow_all(reader)
    measurements, events = measurements + last[0], events + last[1]
    told = read_run(whole)
    assert same(measurements, told.measurements)
    assert events == told.events


def _find_row_end(folder: Path, name: str, num_lines: int) -> int:
    """Bytes of a table that belong to the first lines."""
    manifest = read_manifest(folder)
    rows = read_table(folder, manifest, name)
    return int((rows["line"] < num_lines).sum()) * row_dtypes(manifest)[name].itemsize


def test_long_run_is_told_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is longer than a chunk takes several looks, and says meanwhile that there is more and how much is read."""
    monkeypatch.setattr(follower, "CHUNK_BYTES", 1000)
    reader = Follower(record(tmp_path / "run"))
    reader.look()
    assert reader.is_behind
    assert 0 < reader.share_read < 0.5
    rest, _ = follow_all(reader)
    assert reader.share_read == 1
    assert len(rest) > 100
    assert same(follow_all(Follower(tmp_path / "run"))[0], read_run(tmp_path / "run").measurements)


def test_line_longer_than_a_chunk_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is too long."""
    monkeypatch.setattr(follower, "CHUNK_BYTES", 10)
    reader = Follower(record(tmp_path / "run", 3))
    assert same(follow_all(reader)[0], read_run(tmp_path / "run").measurements)


def test_run_not_begun_is_waited_for(tmp_path: Path) -> None:
    """A folder that is not there has no news; when the run begins, it is told from its first step."""
    reader = Follower(tmp_path / "run")
    assert (reader.look().measurements, reader.manifest) == ((), None)
    run = LiveRun(tmp_path / "run")
    run.make_steps(3)
    run.flush()
    assert [each.step for each in reader.look().measurements] == [1, 2, 3]
    run.end()


def test_half_written_line_waits(tmp_path: Path) -> None:
    """A line without its end is not told; a run that is resumed cuts it off and goes on, and nothing is missed."""
    run = LiveRun(tmp_path / "run")
    run.make_steps(3)
    run.end("paused")
    with (tmp_path / "run" / JOURNAL).open("a") as file:
        file.write('{"step": 4, "lo')
    reader = Follower(tmp_path / "run")
    assert [each.step for each in reader.look().measurements] == [1, 2, 3]
    assert not reader.is_behind
    run = LiveRun(tmp_path / "run", resume=True)
    run.step = 3
    run.make_steps(2)
    run.end()
    news = reader.look()
    assert not news.is_anew
    assert [each.step for each in news.measurements] == [4, 5]
    assert all("group_grad_norm" in each.values for each in news.measurements)


@pytest.mark.parametrize("is_replaced", [True, False], ids=["another-run", "lines-taken-back"])
def test_what_was_taken_back_is_told_again(is_replaced: bool, tmp_path: Path) -> None:
    """Where another run takes the folder, or the last lines are taken back, all is told anew, and it says so."""
    folder = record(tmp_path / "run")
    reader = Follower(folder)
    follow_all(reader)
    if is_replaced:
        shutil.rmtree(folder)
        record(folder, 5)
    else:
        content = (folder / JOURNAL).read_bytes()
        (folder / JOURNAL).write_bytes(content[: content[:-1].rfind(b"\n") + 1])
    news = reader.look()
    assert news.is_anew
    assert same(list(news.measurements), read_run(folder).measurements)
    assert not reader.look().is_anew


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(JOURNAL, b"{nothing}\n", id="no-json"),
        pytest.param(JOURNAL, b"5\n", id="no-object"),
        pytest.param(JOURNAL, b'{"step": 3}, {"step": 4}\n', id="two-in-a-line"),
        pytest.param(JOURNAL, b'{"loss": 3}\n', id="no-step"),
        pytest.param(JOURNAL, b'{"step": 3, "loss": [1]}\n', id="no-number"),
        pytest.param(JOURNAL, b"[" * 100_000 + b"\n", id="deep"),
        pytest.param(EVENTS, b"\0\0\0\n", id="zeros"),
    ],
)
def test_damage_is_told_in_a_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    """A line that is none is an error of the run, not of the reader."""
    folder = record(tmp_path / "run", 5)
    with (folder / name).open("ab") as file:
        file.write(content)
    with pytest.raises(RunFormatError, match="damaged"):
        follow_all(Follower(folder))


def test_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    """A manifest without what the tables hold is an error of the run."""
    folder = record(tmp_path / "run", 5)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["group_metrics"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RunFormatError, match="does not say what the run measures"):
        Follower(folder).look()
