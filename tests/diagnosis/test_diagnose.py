"""The walk: the order of the questions, what is ruled out, what was not measured, and what a diagnosis says."""

from __future__ import annotations

import json
import re
from math import nan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies

from tests.scenarios.diagnosis.faulty import FAULTY
from tests.scenarios.diagnosis.logs import Draft, draw, healthy
from trimtab.diagnosis import QUESTIONS, Diagnosis, Kind, diagnose, diagnose_values, known_causes
from trimtab.errors import InputError, RunFormatError
from trimtab.readers import Log
from trimtab.types import Measurement


def judge(name: str, seed: int = 0) -> Diagnosis:
    """The diagnosis of one of the faulty logs."""
    draft = draw(name, FAULTY[name][0], seed)
    return diagnose_values(draft.measurements(), manifest=draft.manifest)


@pytest.mark.parametrize("kind", known_causes.values(), ids=known_causes.keys())
def test_every_cause_has_a_manual_page(kind: Kind) -> None:
    """A cause says in a sentence what it is, and what it sees; its question is one of the tree's."""
    first, _, rest = kind.manual.partition("\n")
    assert first.endswith(".")
    assert "What it sees:" in rest
    assert kind.question in QUESTIONS
    assert kind.name == kind.name.lower()


def test_walk_stops_at_a_fatal_cause() -> None:
    """After a NaN that ended the run no later question is asked, and it is said which."""
    diagnosis = judge("a loss not a number to the end")
    assert {known_causes[each.name].question for each in diagnosis.causes} == {"nonfinite"}
    assert diagnosis.unasked == tuple(QUESTIONS)[2:]


def test_other_causes_are_ruled_out_with_a_reason() -> None:
    """Beside the cause stands what else it may have been, and what speaks against each."""
    told = dict(line.split(": ", 1) for line in judge("a long-tail batch").causes[0].ruled_out)
    assert told["learning-rate-jump"] == "the rate did not jump in the records before"


def test_what_was_not_measured_is_not_ruled_out() -> None:
    """A cause that only a missing measurement could tell is listed as not judged, not as ruled out."""
    diagnosis = judge("a long-tail batch")
    assert not any(line.startswith("duplicate-batch") for line in diagnosis.causes[0].ruled_out)
    nonfinite = judge("a loss not a number to the end")
    assert not any("batch-not-finite" in line for line in nonfinite.causes[0].ruled_out)
    assert any(line.startswith("the batch once more: ") for line in nonfinite.not_measured)


def test_unmoved_weights_are_told_apart() -> None:
    """Of weights that do not move, gradient, rate and precision tell why: each reason is ruled out or named."""
    told = " ".join(judge("weights that stay").causes[0].ruled_out)
    assert "zero-gradient: the gradient norm is" in told
    assert "zero-learning-rate: the rate is up to" in told
    assert "updates-rounded-away" in told


def test_nothing_found_is_said_with_what_was_not_measured() -> None:
    """A healthy loss alone is healthy, and it is said what would have to be measured."""
    draft = healthy(np.random.default_rng(0))
    diagnosis = diagnose_values(Draft({"loss": draft.columns["loss"]}).measurements())
    assert diagnosis.causes == ()
    assert "nothing was found in what was measured" in str(diagnosis)
    assert any(line.startswith("val_loss: ") for line in diagnosis.not_measured)


def test_log_without_a_loss_asks_for_it() -> None:
    """Without a loss it is said how to name its column."""
    diagnosis = diagnose_values([Measurement(step, {"grad_norm": 1.0}) for step in range(1, 100)])
    assert diagnosis.not_measured[0].startswith("loss: name the column")


def test_dictionary_is_json() -> None:
    """A diagnosis goes into JSON as it is, non-finite numbers included, with the entries that tools read."""
    told = json.loads(json.dumps(judge("a loss not a number to the end").to_dict(), allow_nan=False))
    assert told["verdict"] == "failed"
    assert {"cause", "confidence", "step", "evidence", "ruled_out", "fix"} <= told["causes"][0].keys()
    assert told["findings"][0]["detector"] == "nonfinite"
    assert isinstance(told["not_measured"], list)


def test_repairs_of_the_log_come_with_the_verdict() -> None:
    """What was put right in the log is said right after the verdict, before any cause."""
    verdict, note = str(judge("every record twice")).split("\n")[:2]
    assert verdict.startswith("degraded: 400 records")
    assert note.startswith("  log: 400 records repeat a step")


@pytest.mark.parametrize("name", FAULTY)
def test_text_fits_a_terminal(name: str) -> None:
    """The text of every faulty log has at most 80 columns, and code stands in it as one piece."""
    diagnosis = judge(name)
    text = str(diagnosis)
    assert max(len(line) for line in text.split("\n")) <= 80
    for cause in diagnosis.causes:
        assert all(code in text for code in re.findall("`([^`]+)`", cause.fix))


def test_adversarial_losses_are_unsupported() -> None:
    """Losses that oppose each other are not judged, and that is said."""
    swing = np.sin(np.arange(300) / 9)
    draft = Draft({"loss": 1 + 0.5 * swing, "loss_d": 1 + swing, "loss_g": 1 - swing})
    diagnosis = diagnose_values(draft.measurements())
    assert diagnosis.verdict == "healthy"
    assert any("unsupported" in note for note in diagnosis.notes)


@given(strategies.lists(strategies.floats(-1e9, 1e9) | strategies.just(nan), max_size=80))
def test_any_curve_gets_a_diagnosis(losses: list[float]) -> None:
    """Whatever the numbers, there is a diagnosis that goes into JSON."""
    made = [Measurement(step, {"loss": loss}) for step, loss in enumerate(losses, 1)]
    json.dumps(diagnose_values(made).to_dict(), allow_nan=False)


@given(strategies.floats(0.01, 100), strategies.floats(0, 0.02), strategies.integers(12, 120))
def test_smooth_falls_are_healthy(start: float, rate: float, num: int) -> None:
    """A curve that falls without noise has no cause of a spike or a rise."""
    made = [Measurement(step, {"loss": start * float(np.exp(-rate * step))}) for step in range(1, num + 1)]
    named = {known_causes[each.name].question for each in diagnose_values(made).causes}
    assert named <= {"learning"}


def test_log_is_read_from_its_file(tmp_path: Path) -> None:
    """A CSV file is diagnosed by its path, and with a mapping where its columns are called otherwise."""
    draft = draw("a spike that stays", FAULTY["a spike that stays"][0], 0)
    rows = [f"{step},{loss}" for step, loss in enumerate(draft.columns["loss"].tolist(), 1)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["step,badness", *rows]) + "\n")
    assert diagnose(path, mapping={"badness": "loss"}).causes[0].name == "persistent-spike"


def test_log_as_it_was_read_is_diagnosed() -> None:
    """A log in memory is as good as its file; what its reader knows counts."""
    draft = draw("bfloat16", FAULTY["a loss infinite in bfloat16"][0], 0)
    log = Log(source="x", format="csv", measurements=draft.measurements(), notes=("one odd line",), info=draft.manifest)
    diagnosis = diagnose(log)
    assert diagnosis.causes[0].name == "bfloat16-overflow"
    assert diagnosis.notes == ("one odd line",)


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A path without a log, and a run folder of a newer format, are refused."""
    with pytest.raises(InputError):
        diagnose(tmp_path / "nothing.csv")
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(RunFormatError):
        diagnose(tmp_path)


def test_weights_in_float32_rule_no_autocast_out() -> None:
    """Autocast leaves weights in float32: their precision alone rules no overflow out."""
    draft = draw("log", FAULTY["a loss not a number to the end"][0], 0)
    for manifest in ({"weight_dtype": "float32"}, {"dtypes": ["float32"]}):
        causes = diagnose_values(draft.measurements(), manifest=manifest).causes
        assert not any(line.startswith("bfloat16-overflow") for line in causes[0].ruled_out)


def test_explosion_of_the_first_steps_is_seen() -> None:
    """A run that explodes before it has a level is an explosion, not a fault of the operation that overflows last."""
    losses = [3.2, 3.5, 40.0, 9e4, 1e8, *[nan] * 60]
    diagnosis = diagnose_values([Measurement(step, {"loss": loss}) for step, loss in enumerate(losses, 1)])
    assert diagnosis.causes[0].name == "explosion"
    calm = diagnose_values([Measurement(step, {"loss": loss}) for step, loss in enumerate([3.2, 3.5, nan], 1)])
    assert calm.causes[0].name == "loss-not-finite"


def test_open_trouble_comes_first() -> None:
    """What is there still is told before what is over, and of either the most likely first."""
    rng = np.random.default_rng(0)
    draft = healthy(rng)
    draft.columns["loss"][120] *= 8
    draft.columns["grad_norm"][120] *= 60
    draft.columns["data_seconds"] = draft.columns["step_seconds"] * 0.66
    draft.columns["learning_rate"][40:] = 1e-9
    causes = diagnose_values(draft.measurements()).causes
    assert {each.name for each in causes} == {"schedule-too-fast", "data-bound", "long-tail-batch"}
    assert [(each.state, each.confidence) for each in causes] == [
        ("lasting", 0.85),
        ("lasting", 0.85),
        ("passed", 0.85),
    ]


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        pytest.param("a loss that is flat", "the run learned nothing", id="never-learned"),
        pytest.param("a loss not a number to the end", "the run did not recover", id="not-finite"),
        pytest.param("a spike that stays", "the run did not recover", id="persistent-spike"),
        pytest.param("a long-tail batch", "it passed by itself", id="spike"),
        pytest.param("a loader that is too slow", "nothing put it right", id="slow"),
    ],
)
def test_outcome_is_said_as_it_was(name: str, outcome: str) -> None:
    """What became of the trouble is said in words that hold: nothing ends a run but a supervisor."""
    diagnosis = judge(name)
    assert diagnosis.causes[0].outcome == outcome
    assert "it ended the run" not in str(diagnosis)


@pytest.mark.parametrize("num", [1, 3, 5, 11])
def test_short_log_is_said_to_be_too_short(num: int) -> None:
    """Of a few records the verdict is healthy, but it is said that they are too few to judge, and how many it takes."""
    made = [Measurement(step, {"loss": 2.0 - 0.1 * step}) for step in range(1, num + 1)]
    diagnosis = diagnose_values(made)
    assert (diagnosis.verdict, diagnosis.is_short) == ("healthy", True)
    assert "too short to judge" in str(diagnosis).split("\n")[0]
    assert diagnosis.not_measured[0].startswith(f"a longer log: {num} finite losses are too few")


def test_log_that_is_long_enough_is_not_short() -> None:
    """Twelve losses have a shape; a run that became NaN at once is over, however short it is."""
    enough = [Measurement(step, {"loss": 2.0 - 0.1 * step}) for step in range(1, 13)]
    assert not diagnose_values(enough).is_short
    over = [Measurement(step, {"loss": nan if step > 2 else 1.0}) for step in range(1, 9)]
    assert not diagnose_values(over).is_short


@pytest.mark.parametrize("loss", [1.0, 1e12], ids=["hidden", "shown"])
def test_overwritten_weight_is_told_once_with_its_group(loss: float) -> None:
    """A weight of 1e30 is one cause, by its group; it is not called infinite without saying that it need not be."""
    draft = healthy(np.random.default_rng(0))
    draft.columns["loss"][200:] *= loss
    weights = np.tile([20.0, 30.0], (400, 1))
    weights[200:, 1] = np.inf
    draft.sampled = {"weight_norm": (np.arange(1, 401), weights)}
    causes = diagnose_values(draft.measurements(), manifest={"groups": ["body", "head"]}).causes
    assert [each.name for each in causes] == ["corrupted-weights"]
    assert causes[0].evidence[0].startswith("the weight norm of head was 30 and is infinite at step 201")
    assert "above 1e19" in causes[0].evidence[0]


def test_groups_are_those_of_what_was_damaged() -> None:
    """A weight that is not finite makes gradients so in other groups as well, which are not named beside it."""
    measurements = []
    for step in range(1, 201):
        bad = nan if step == 150 else 1.0
        groups = {"group_grad_norm": (bad, bad), "weight_norm": (3 + step / 100, bad + step)}
        measurements.append(Measurement(step, {"loss": bad / step + 1, "grad_norm": bad, **groups}))
    cause = diagnose_values(measurements, manifest={"groups": ["embedding", "head"]}).causes[0]
    assert cause.name == "weights-not-finite"
    assert cause.evidence[0] == "the weight was the first that was not finite, at step 150 in head"
