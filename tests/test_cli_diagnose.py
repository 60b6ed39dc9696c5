"""`trimtab diagnose` and `trimtab replay --sweep`, as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.scenarios.diagnosis.faulty import HALF, nan_from, spoil
from tests.scenarios.diagnosis.logs import Make, draw, healthy
from tests.scenarios.diagnosis.test_runs import record
from trimtab.cli import app

PICTURE = bytes.fromhex("89504e470d0a1a0a0000000d49484452") + bytes(64)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "80"})


def write_csv(path: Path, make: Make, loss: str = "loss") -> Path:
    """A log of a run with its steps and losses alone."""
    losses = draw("log", make, 0).columns["loss"]
    path.write_text(f"step,{loss}\n" + "".join(f"{step},{each}\n" for step, each in enumerate(losses, 1)))
    return path


LOGS = {"healthy": (healthy, 0), "degraded": (spoil("loss", HALF, 30.0), 1), "failed": (nan_from(HALF), 2)}


@pytest.mark.parametrize(("verdict", "make", "status"), [(name, *log) for name, log in LOGS.items()], ids=LOGS)
def test_exit_status_says_the_verdict(verdict: str, make: Make, status: int, tmp_path: Path) -> None:
    """The verdict is the first word, and the exit status; no line is longer than 80 columns."""
    result = call("diagnose", write_csv(tmp_path / "log.csv", make))
    assert result.exit_code == status
    assert result.stdout.startswith(f"{verdict}: ")
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_nothing_found_is_said_plainly(tmp_path: Path) -> None:
    """Of a healthy log it is said that nothing was found, in what, and what to measure to know more."""
    result = call("diagnose", write_csv(tmp_path / "log.csv", healthy))
    assert "nothing was found in what was measured: loss" in result.stdout
    assert "not measured, and so not judged:" in result.stdout
    for metric in ("grad_norm: ", "learning_rate: ", "val_loss: "):
        assert f"  - {metric}" in result.stdout


def test_causes_come_with_evidence_and_fix(tmp_path: Path) -> None:
    """A cause has its confidence, its step, numbers, what was ruled out, and code on a line of its own."""
    result = call("diagnose", write_csv(tmp_path / "log.csv", nan_from(HALF)))
    assert f"1. loss-not-finite: confidence 0.75, from step {HALF + 1}, the run did not recover" in result.stdout
    assert "   ruled out:\n     - explosion: " in result.stdout
    assert "\n       print(trimtab.locate_nonfinite(model, batch, compute_loss))\n" in result.stdout


def test_json_is_for_programs(tmp_path: Path) -> None:
    """`--json` prints one object with the keys that programs rely on, and the same exit status."""
    result = call("diagnose", write_csv(tmp_path / "log.csv", nan_from(HALF)), "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 2
    assert {"verdict", "causes", "findings", "not_measured"} <= told.keys()
    assert {"cause", "confidence", "step", "evidence", "ruled_out", "fix"} <= told["causes"][0].keys()


def test_unknown_columns_are_mapped(tmp_path: Path) -> None:
    """A column that is not known by its name is refused with the option that names it, which then helps."""
    path = write_csv(tmp_path / "log.csv", nan_from(HALF), "badness")
    refused = call("diagnose", path)
    assert refused.exit_code == 3
    assert "--map 'their name=loss'" in refused.stderr.replace("\n", " ")
    assert call("diagnose", path, "--map", "badness=loss", "--format", "csv").exit_code == 2


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [
        pytest.param("nothing", None, (), "is not there", id="missing"),
        pytest.param("log.csv", b"", (), "is empty", id="empty"),
        pytest.param("log.csv", b"step,loss\n", (), "no line of numbers", id="header-alone"),
        pytest.param("log.png", PICTURE, (), "is of no known format", id="picture"),
        pytest.param("log.csv", b"a,b\n1,2\n3,4\n", (), "no column that is known by its name", id="unknown-columns"),
        pytest.param("log.csv", b"loss\n1\n", ("--format", "xml"), "there is no format 'xml'", id="no-such-format"),
        pytest.param("log.csv", b"loss\n1\n", ("--map", "loss"), "two names with = between them", id="no-pair"),
        pytest.param(
            "log.csv", b"loss\n1\n", ("--postmortem", "x.pdf"), "has to end in .md or .html", id="no-such-page"
        ),
        pytest.param("log.csv", b"loss\n1\n", ("--sigma", "3"), "No such option", id="no-such-option"),
    ],
)
def test_what_cannot_be_read_ends_with_status_3(
    name: str, content: bytes | None, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    """What cannot be diagnosed ends with status 3 and a sentence on standard error, and prints no verdict."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    result = call("diagnose", path, *arguments)
    assert result.exit_code == 3
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_folder_with_one_log_stands_for_it(tmp_path: Path) -> None:
    """A folder with one log is that log, and it is said which; with several, they are listed."""
    write_csv(tmp_path / "first.csv", healthy)
    alone = call("diagnose", tmp_path)
    assert alone.exit_code == 0
    assert "log: read from first.csv" in alone.stdout
    write_csv(tmp_path / "second.csv", healthy)
    several = call("diagnose", tmp_path)
    assert several.exit_code == 3
    assert "first.csv, second.csv" in " ".join(several.stderr.split())


def test_run_folder_within_a_folder_keeps_what_was_done(tmp_path: Path) -> None:
    """The only run in a folder is diagnosed as by its own path, with what was decided when it took place."""
    record(tmp_path / "runs" / "mine", draw("run", spoil("loss", HALF, float("nan")), 0))
    told = [json.loads(call("diagnose", path, "--json").stdout) for path in (tmp_path / "runs", tmp_path / "runs/mine")]
    assert told[0]["causes"] == told[1]["causes"]
    assert told[0]["causes"][0]["state"] == "mended"


@pytest.mark.parametrize("is_run", [True, False], ids=["run", "log"])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param("report.md", ("# Post-mortem", "## Timeline", "loss-not-finite begins"), id="markdown"),
        pytest.param("report.html", ("<!doctype html>", "What happened", "plotly", "Timeline"), id="page"),
    ],
)
def test_postmortem_is_written(is_run: bool, name: str, shown: tuple[str, ...], tmp_path: Path) -> None:
    """`--postmortem` writes Markdown, or one offline page with the loss curve, and how to see it again."""
    if is_run:
        path = record(tmp_path / "run", draw("run", spoil("loss", HALF, float("nan")), 0))
        arguments: list[str] = []
    else:
        path = write_csv(tmp_path / "log.csv", nan_from(HALF), "badness")
        arguments = ["--map", "badness=loss"]
    call("diagnose", path, *arguments, "--postmortem", tmp_path / name)
    text = (tmp_path / name).read_text()
    for each in (*shown, f"trimtab diagnose {path}", *(() if is_run else ("--map=badness=loss",))):
        assert each in text


@pytest.mark.parametrize("name", ["x.html", "x.md"])
def test_postmortem_without_its_folder_loses_no_diagnosis(name: str, tmp_path: Path) -> None:
    """Where the post-mortem cannot be written the diagnosis is printed all the same, then a sentence, and status 3."""
    path = write_csv(tmp_path / "log.csv", nan_from(HALF))
    for options in ((), ("--json",)):
        result = call("diagnose", path, *options, "--postmortem", tmp_path / "nothing" / name)
        assert result.exit_code == 3
        assert result.stdout == call("diagnose", path, *options).stdout
        assert "post-mortem was not written: there is no folder" in result.stderr
        assert "Errno" not in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        pytest.param(
            "log.csv",
            ("a=loss", "b=loss"),
            "two columns are called 'loss', 'a' and 'b'; each metric has one column",
            id="two-onto-one",
        ),
        pytest.param("log.csv", ("a=loss", "a=step"), "'a' is to be both 'loss' and 'step'", id="one-onto-two"),
        pytest.param("log.txt", ("a=loss", "A=step"), "'a', which is to be both 'loss' and 'step'", id="text"),
    ],
)
def test_mapping_that_collides_is_refused(name: str, options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    """Two columns onto one metric, or one onto two, are refused with a sentence that names them."""
    path = tmp_path / name
    rows = [(step, 1 / step, 2 / step) for step in range(1, 30)]
    if name.endswith("csv"):
        path.write_text("step,a,b\n" + "".join(f"{step},{a},{b}\n" for step, a, b in rows))
    else:
        path.write_text("".join(f"step {step} a {a} b {b} loss {b}\n" for step, a, b in rows))
    result = call("diagnose", path, *(part for each in options for part in ("--map", each)))
    assert (result.exit_code, result.stdout) == (3, "")
    assert message in result.stderr


def test_column_that_a_mapping_displaces_is_named(tmp_path: Path) -> None:
    """A column of the metric's own name gives way to the mapped one, and that is said."""
    path = tmp_path / "log.csv"
    path.write_text("step,a,loss\n" + "".join(f"{step},{1 / step},{2 / step}\n" for step in range(1, 30)))
    told = " ".join(call("diagnose", path, "--map", "a=loss").stdout.split())
    assert "log: 'loss' is kept as 'loss_2', since 'a' is taken for 'loss' as the mapping says" in told


def test_sweep_prints_what_each_value_would_have_found(tmp_path: Path) -> None:
    """A lower limit of a spike finds no less than a higher one; the table and the JSON say the same."""
    path = write_csv(tmp_path / "log.csv", spoil("loss", HALF, 2.5))
    arguments = ("replay", path, "--sweep", "loss-spike.sigmas=4,1000")
    told = json.loads(call(*arguments, "--json").stdout)
    low, high = told["rows"]
    assert (told["setting"], low["value"], high["value"]) == ("loss-spike.sigmas", 4, 1000)
    assert low["num_found"] >= high["num_found"]
    shown = call(*arguments)
    assert shown.exit_code == 0
    assert shown.stdout.split("\n")[0].split()[:2] == ["loss-spike.sigmas", "found"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        pytest.param("loss-spike.nothing=1", "loss-spike has no setting 'nothing'", id="no-such-setting"),
        pytest.param("loss-spike.sigmas=4,x", "'x' is no number", id="no-number"),
        pytest.param("loss-spike.sigmas", "two names with = between them", id="no-values"),
    ],
)
def test_bad_sweep_gets_one_sentence(wanted: str, message: str, tmp_path: Path) -> None:
    """A sweep that cannot be made ends with status 2 and says what is wrong."""
    result = call("replay", write_csv(tmp_path / "log.csv", healthy), "--sweep", wanted)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_diagnose_does_not_import_torch(tmp_path: Path) -> None:
    """A diagnosis, its post-mortem included, needs no torch; the text alone needs no Plotly either."""
    path = write_csv(tmp_path / "log.csv", healthy)
    code = (
        "import sys\nfrom trimtab.cli import app\n"
        f"app(['diagnose', {str(path)!r}, '--postmortem', {str(tmp_path / 'report.md')!r}], standalone_mode=False)\n"
        "assert not {'torch', 'plotly', 'pandas'} & sys.modules.keys(), 'more was imported than is needed'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
