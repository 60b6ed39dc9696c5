"""A suite end to end on a few short runs: its file, its page, and going on where it was stopped."""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trimtab.bench.cases import Case
from trimtab.bench.judging import judge_faults
from trimtab.bench.page import draw_map, list_rows, to_markdown, write_suite_page
from trimtab.bench.processes.cases import ProcessCase
from trimtab.bench.processes.outcomes import ProcessOutcome
from trimtab.bench.running import Results, Trace, run_case, run_cases
from trimtab.bench.suites import describe, list_cases, read_suite
from trimtab.cli import app
from trimtab.errors import InputError, RunFormatError
from trimtab.journal import to_json

STEPS = 40
GUARDS = ("nothing", "clipping", "oracle", "trimtab")
CASES = [
    *(Case("images", name, 0, num_steps=STEPS) for name in GUARDS),
    *(Case("images", name, 0, "nan-loss", num_steps=STEPS) for name in GUARDS),
]

OUTCOME = ProcessOutcome(ProcessCase("out-of-memory", "nothing", 0), False, math.inf, math.inf, False, 3, 9, "", 4.5)


@pytest.fixture(scope="module")
def traces() -> dict[Case, Trace]:
    """A fault that every guard meets, and the healthy twins."""
    return {case: run_case(case) for case in CASES}


def test_one_fault_under_every_guard(traces: dict[Case, Trace]) -> None:
    """Without a guard the run is broken for good; the oracle and the supervisor lose one update."""
    final = {case.contestant: trace.final_loss for case, trace in traces.items() if case.fault}
    assert final["nothing"] == final["clipping"] == float("inf")
    assert final["trimtab"] < 1.05 * traces[CASES[1]].final_loss
    assert {case.contestant: traces[case].num_lost for case in CASES if case.fault} == {
        "nothing": 0,
        "clipping": 0,
        "oracle": 2,
        "trimtab": 1,
    }
    (sighting, *_) = traces[CASES[-1]].sightings
    assert (sighting.step, sighting.names[0]) == (CASES[-1].fault_step, "nonfinite")


def test_run_is_the_same_every_time(traces: dict[Case, Trace]) -> None:
    """The same case gives the same losses, bit for bit, whatever ran before it."""
    again = run_case(CASES[-1])
    assert (again.final_loss, again.peak, again.level) == (
        traces[CASES[-1]].final_loss,
        traces[CASES[-1]].peak,
        traces[CASES[-1]].level,
    )


def test_suite_goes_on_where_it_was_stopped(
    traces: dict[Case, Trace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the file is not run again, a line that was cut off is, and what other code wrote is thrown away."""
    path = tmp_path / "some.runs"
    first = Results(path)
    for case in CASES[:2]:
        first.add(case, traces[case])
    with path.open("a") as file:
        file.write('{"case": {"workl')
    assert {**Results(path).traces} == {case: traces[case] for case in CASES[:2]}
    again = Results(path)
    again.add(CASES[2], traces[CASES[2]])
    assert {**Results(path).traces} == {case: traces[case] for case in CASES[:3]}
    done: list[Case] = []
    run_cases(CASES[:2], Results(path), on_done=done.append)
    assert done == CASES[:2]
    monkeypatch.setattr("trimtab.bench.running.digest_code", lambda: "other")
    assert Results(path).traces == {}
    assert (tmp_path / "some.runs.old").exists()


def test_file_is_read_back(traces: dict[Case, Trace], tmp_path: Path) -> None:
    """The runs in the file are those that were made, infinite losses included; anything else is refused."""
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(to_json(describe("smoke", traces, [OUTCOME])), allow_nan=False))
    document, found, outcomes = read_suite(path)
    assert (found, outcomes) == (traces, [OUTCOME])
    assert document["suite"] == "smoke"
    path.write_text("{}")
    with pytest.raises(RunFormatError, match="no file of"):
        read_suite(path)


def test_page_and_tables(traces: dict[Case, Trace], tmp_path: Path) -> None:
    """The page opens offline and has a square for each workload, fault and guard; the tables are in it too."""
    page = tmp_path / "suite.html"
    write_suite_page(page, describe("smoke", traces), traces, [OUTCOME])
    text = page.read_text()
    assert "https://" not in text.split("<body>")[1].split("<script")[0]
    (heatmap,) = draw_map(judge_faults(traces)).data
    assert heatmap.y == ("nan-loss",)
    assert set(heatmap.x) == {"nothing", "clipping", "trimtab"}
    assert dict(zip(heatmap.x, heatmap.text[0], strict=True))["nothing"] == "broken"
    for rows in list_rows(traces, [OUTCOME]):
        assert escape(rows.title) in text
        assert all(len(row) == len(rows.head) for row in rows.body)
        assert to_markdown(rows).count("\n| ") == len(rows.body) + 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--suite", "everything"], "there is no suite 'everything'", id="no-such-suite"),
        pytest.param(["--contestant", "nobody"], "there is no contestant 'nobody'", id="no-such-contestant"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    """The command says what is wrong and what there is, and writes nothing."""
    result = CliRunner().invoke(app, ["bench", *arguments, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("suite", ["smoke", "faults", "healthy"])
def test_every_run_has_its_twin_in_the_suite(suite: str) -> None:
    """Nothing that a run is held against is missing, whoever is chosen."""
    for names in ([], ["trimtab"], ["trimtab-probe", "sigma-rule"]):
        cases = set(list_cases(suite, (0,), names))
        assert all({case.twin, case.unguarded} <= cases for case in cases)


def test_unknown_suite_of_runs_is_refused() -> None:
    """A suite that is not made of runs has no cases."""
    with pytest.raises(InputError, match="no suite of runs"):
        list_cases("overhead")
