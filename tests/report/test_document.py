"""The document of a run: everything its page shows, and nothing that was not recorded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.runs import FOUND, LAST, RESTORED, ROLLBACK, SKIP, write_run
from trimtab.diagnosis.evidence import Series
from trimtab.errors import InputError, RunFormatError
from trimtab.journal import Journal
from trimtab.report.document import compare_runs, describe_run, tell_apart
from trimtab.report.panel import Line, Panel, describe_panels
from trimtab.report.reduction import reduce_series


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return describe_run(write_run(tmp_path_factory.mktemp("runs") / "faulty", metrics=["embedding_rank"]))


def test_a_document_is_what_json_can_hold(run: dict[str, Any]) -> None:
    """It goes through strict JSON and comes back the same."""
    assert json.loads(json.dumps(run, allow_nan=False)) == run


def test_a_glance_answers_four_questions(run: dict[str, Any]) -> None:
    """What the verdict is, what happened, what was done, and whether it helped."""
    assert [each["question"] for each in run["glance"]] == [
        "Verdict",
        "What happened",
        "What was done",
        "Did it help",
    ]
    assert run["glance"][2]["answer"] == "rollback, skip"
    assert run["glance"][3]["answer"] == "yes"


def test_what_was_recorded_has_a_panel(run: dict[str, Any]) -> None:
    """Each metric has its panel, a review's by whatever name it has, and no panel is empty."""
    panels = {panel["id"]: panel for panel in run["panels"]}
    assert {"loss", "grad_norm", "learning_rate", "group_grad_norm_by_group", "embedding_rank"} <= panels.keys()
    assert not {"loss_scale", "probe", "parts", "update_ratio", "weight_norm"} & panels.keys()
    lines = [line for panel in panels.values() for line in panel.get("lines", [])]
    assert all(line["steps"] and len(line["steps"]) == len(line["values"]) for line in lines)


def test_numbers_that_belong_together_share_a_panel(tmp_path: Path) -> None:
    """The quality score has its parts beside it, and embeddings lie over their zones; few look for the rest of them."""
    metrics = ["quality_score", "quality_gradients", "quality_possible", "embedding_r", "embedding_rows"]
    panels = {each["id"]: each for each in describe_run(write_run(tmp_path / "run", metrics=metrics))["panels"]}
    assert [line["name"] for line in panels["quality_score"]["lines"]] == ["score", "gradients"]
    zones = panels["embedding_r"]["zones"]
    assert [name for name, _, _ in zones] == ["emergency", "warning", "recovering", "healthy", "as random ones"]
    assert [low for _, low, _ in zones[1:]] == [high for _, _, high in zones[:-1]]
    assert panels["embedding_rows"]["section"] == "More"
    assert "quality_possible" not in panels


@pytest.mark.parametrize("high", [1.0, 139.234567, 139.2349999, 3e-7], ids=str)
def test_only_what_is_above_the_axis_is_marked(high: float) -> None:
    """Numbers and the limit they are held against are rounded alike, so none is above it but the spike."""
    values = np.append(np.linspace(0.5 * high, high, 500), 1000 * high)
    (panel,) = describe_panels([Panel("x", "More", "x", [Line("x", Series(np.arange(501), values))])], 10_000, ())
    assert panel["limit"] is not None
    assert sum(value > panel["limit"] for value in panel["lines"][0]["values"]) == 1


def test_every_decision_has_a_mark_with_its_story(run: dict[str, Any]) -> None:
    """What was done and what was only found are told apart, each with what was found, done and lost."""
    marks = {mark["step"]: mark for mark in run["marks"]}
    assert [(step, marks[step]["lane"], marks[step]["kind"]) for step in (ROLLBACK, SKIP, FOUND, LAST)] == [
        (ROLLBACK, "done", "rollback"),
        (SKIP, "done", "skip"),
        (FOUND, "found", "finding"),
        (LAST, "course", "end"),
    ]
    assert f"back to step {RESTORED}" in marks[ROLLBACK]["story"]
    assert ["updates lost", str(ROLLBACK - RESTORED)] in marks[ROLLBACK]["facts"]


def test_steps_that_a_rollback_gave_up_are_known(run: dict[str, Any]) -> None:
    """They reach from the first measurement of a state that was undone to the step that was judged."""
    assert run["undone"] == [[RESTORED + 2, ROLLBACK]]


@pytest.mark.parametrize("num_rows", [3, 4, 99, 1000, 12_345, 100_000])
def test_no_spike_is_lost(num_rows: int) -> None:
    """However long a series, its highest and lowest numbers and every stretch with one that is not finite are kept."""
    generator = np.random.default_rng(num_rows)
    values = generator.normal(size=num_rows)
    places = generator.choice(num_rows, 3, replace=False)
    values[places[0]], values[places[1]], values[places[2]] = 1e6, -1e6, math.nan
    series = Series(np.arange(1, num_rows + 1, dtype=np.int64), values)
    kept = reduce_series(series, 1000, [(num_rows // 2, num_rows // 2 + 40)])
    assert len(kept) <= 1600
    assert np.nanmax(kept.values) == np.nanmax(values)
    assert np.nanmin(kept.values) == np.nanmin(values)
    assert np.isnan(kept.values).any()
    assert (kept.steps[[0, -1]] == series.steps[[0, -1]]).all()
    whole = kept.between(num_rows // 2, num_rows // 2 + 40)
    assert len(whole) == len(series.between(num_rows // 2, num_rows // 2 + 40))
    assert (np.diff(kept.steps) > 0).all()


def test_a_comparison_tells_what_differs(tmp_path: Path) -> None:
    """Results, configuration, causes, findings and actions, a column for each run; what is the same is left out."""
    from trimtab.policy import Policy

    one = write_run(tmp_path / "one")
    two = write_run(tmp_path / "two", faults=[SKIP], policy=Policy.default().change({"memory": 7}))
    document = compare_runs([one, two])
    tables = {table["title"]: table for table in document["differences"]}
    assert tables["Results"]["head"] == ["", "one", "two"]
    assert tables["Configuration, where it differs"]["body"] == [["policy.memory", "5", "7"]]
    assert ["rollback", "1", "–"] in tables["Actions"]["body"]
    assert ["loss-spike", "3", "1"] in tables["Findings"]["body"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        pytest.param(["a/one", "a/two"], ["one", "two"], id="by-their-names"),
        pytest.param(["a/one", "b/one"], ["a/one", "b/one"], id="by-their-parents"),
        pytest.param(["a/one", "a/one"], ["one (1)", "one (2)"], id="the-same-twice"),
    ],
)
def test_runs_are_told_apart_by_the_ends_of_their_paths(paths: list[str], names: list[str]) -> None:
    """As much of a path is shown as it takes."""
    assert tell_apart([Path(each) for each in paths]) == names


def test_a_run_that_has_just_begun_has_a_document(tmp_path: Path) -> None:
    """A run folder without a step is no error, and neither is one that is still written to."""
    manifest = {"format": 2, "groups": ["all"], "group_metrics": [], "sampled_metrics": []}
    journal = Journal(tmp_path / "run", manifest)
    assert describe_run(tmp_path / "run")["panels"] == []
    journal.close()
    assert describe_run(tmp_path / "run")["status"] == "not ended"


def test_a_log_of_another_tool_has_a_document(tmp_path: Path) -> None:
    """What detectors find in it is marked, and nothing is said to have been done."""
    losses = [f"{2 / (1 + step / 50):.4f}" for step in range(300)]
    losses[200] = "nan"
    (tmp_path / "log.csv").write_text(
        "step,loss\n" + "".join(f"{step},{each}\n" for step, each in enumerate(losses, 1))
    )
    document = describe_run(tmp_path / "log.csv")
    assert [panel["id"] for panel in document["panels"]] == ["loss"]
    assert 201 in [mark["step"] for mark in document["marks"]]
    assert {mark["lane"] for mark in document["marks"]} == {"found"}


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        pytest.param(lambda _: None, InputError, "there is no", id="nothing-there"),
        pytest.param(lambda path: path.mkdir(), InputError, "without a log", id="empty-folder"),
        pytest.param(
            lambda path: (path.mkdir(), (path / "manifest.json").write_text("{")),
            RunFormatError,
            "no run",
            id="damaged",
        ),
    ],
)
def test_what_is_no_run_is_one_sentence(tmp_path: Path, write: Any, error: type[Exception], message: str) -> None:
    """A path with no run in it is refused, and the sentence names it."""
    write(tmp_path / "run")
    with pytest.raises(error, match=message) as caught:
        describe_run(tmp_path / "run")
    assert "run" in str(caught.value)
    assert "\n" not in str(caught.value)
