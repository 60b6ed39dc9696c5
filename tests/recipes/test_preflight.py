"""`preflight`: each line of the checklist on a training that breaks it, and what is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.recipes.flights import (
    BROKEN,
    SOUND,
    Jittered,
    Parts,
    compute_loss,
    embed_sparsely,
    make_ladder,
    make_network,
    make_sound,
    warm_up,
)
from tests.recipes.test_lint import is_same
from trimtab import InputError
from trimtab.recipes import preflight
from trimtab.recipes.preflighting import STAGES
from trimtab.recipes.preflighting.data import check_batch
from trimtab.recipes.preflighting.factory import make_flight
from trimtab.recipes.preflighting.flight import Clock
from trimtab.recipes.preflighting.picture import draw_batch
from trimtab.state.rng import capture_rng


@pytest.mark.parametrize("make", [pytest.param(make, id=case) for case, make in SOUND])
def test_sound_training_passes(make: Callable[[], Parts]) -> None:
    """A training with nothing wrong has no line that warns or fails, and every step of the checklist has a line."""
    result = preflight(**make())
    assert {each.status for each in result.lines} == {"pass"}, str(result)
    assert {each.step for each in result.lines} == {1, 2, 3, 4, 5, 6, 7, 8, 10, 11}
    assert [each.step for each in result.lines] == sorted(each.step for each in result.lines)
    assert (result.status, result.exit_status) == ("pass", 0)


@pytest.mark.parametrize(("name", "status", "words", "make"), [pytest.param(*rest, id=case) for case, *rest in BROKEN])
def test_what_is_broken_is_told(name: str, status: str, words: str, make: Callable[[], Parts]) -> None:
    """Each broken training is told by the line that is there for it, with a reason and a fix."""
    result = preflight(**make())
    line = result.find(name)
    assert line.status == status, str(result)
    assert words in line.reason
    assert line.fix


@pytest.mark.parametrize(
    ("case", "skipped"),
    [
        pytest.param("no-batch", {"overfit", "nonfinite", "learning-rate", "resume", "guard"}, id="no-batch"),
        pytest.param("labels-from-one", {"overfit", "nonfinite", "learning-rate", "resume"}, id="labels"),
        pytest.param("nothing-to-learn", {"learning-rate", "regularization", "schedule"}, id="not-by-heart"),
        pytest.param("logarithm-of-zero", {"learning-rate", "mixed-precision", "resume", "guard"}, id="nonfinite"),
    ],
)
def test_checklist_stops_where_it_makes_no_sense(case: str, skipped: set[str]) -> None:
    """What says nothing after a failure is skipped, with the failure as the reason."""
    make = next(each[4] for each in BROKEN if each[0] == case)
    result = preflight(**make())
    for name in skipped:
        assert result.find(name).status == "skipped", str(result)
        assert "fails" in result.find(name).reason


def test_sparse_gradients_are_taken() -> None:
    """Sparse gradients are measured and clipped as dense ones are; no line fails."""
    result = preflight(**embed_sparsely())
    assert result.count("fail") == 0, str(result)
    assert result.find("gradient-flow").status == "pass"


def test_rung_that_breaks_is_named() -> None:
    """The ladder is climbed to the rung that breaks; what is above it is skipped."""
    result = preflight(**make_sound(ladder=make_ladder()))
    rungs = [(each.name, each.status) for each in result.lines if each.step == 9]
    assert rungs == [("rung-minimal", "pass"), ("rung-advanced", "fail"), ("rung-all", "skipped")]
    assert "accuracy" in result.find("rung-minimal").reason


def test_rung_without_accuracy_breaks() -> None:
    """An accuracy of 0 breaks a rung; a user's own function gives it."""
    ladder = {"minimal": lambda: make_sound(accuracy=lambda *_: 0.0)}
    line = preflight(**make_sound(ladder=ladder)).find("rung-minimal")
    assert (line.status, line.number) == ("fail", 0.0)
    assert "nothing is right" in line.reason


def test_known_floor_is_taken_into_account() -> None:
    """A loss that cannot come near 0 passes once its floor is said."""

    def raised(model: nn.Module, batch: Any) -> Any:
        return compute_loss(model, batch) + 2.0

    assert preflight(**make_sound(compute_loss=raised)).find("overfit").status == "fail"
    assert preflight(**make_sound(compute_loss=raised, floor=2.0)).find("overfit").status == "pass"


def test_warm_up_from_zero_is_tried_at_its_rate() -> None:
    """A schedule that begins at a rate of 0 is tried at the rate that it goes to."""
    assert preflight(**warm_up()).find("learning-rate").number == pytest.approx(3e-2)


def test_time_that_is_spent_is_told() -> None:
    """What there is no time for is skipped, and says so."""
    result = preflight(**make_sound(), budget=1e-9)
    assert {(each.status, each.fix) for each in result.lines} == {("skipped", "raise the budget")}
    assert len(result.lines) == len(STAGES)


@pytest.mark.parametrize("stage", ["overfit", "learning-rate", "regularization", "schedule", "guard"])
def test_part_without_time_is_skipped(stage: str) -> None:
    """A part whose time is spent before it has made its steps says so, and judges nothing."""
    flight = make_flight(make_sound(), "the test")
    assert [each.status for each in check_batch(flight)] == ["pass"]
    flight.clock = Clock(1e-9)
    judge = next(each.judge for each in STAGES if each.name == stage)
    assert {(each.status, each.fix) for each in judge(flight)} == {("skipped", "raise the budget")}


def test_supervisor_that_is_off_catches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TRIMTAB=off no fault would be caught, and the guard says so."""
    monkeypatch.setenv("TRIMTAB", "off")
    assert preflight(**make_sound()).find("guard").status == "warn"


def test_stages_are_told_in_order() -> None:
    """Whoever shows the progress hears of every part before it begins, and of the end."""
    heard: list[tuple[int, int, str]] = []
    preflight(**make_sound(), on_stage=lambda *told: heard.append(told))
    assert [each[0] for each in heard] == list(range(len(STAGES) + 1))
    assert [each[2] for each in heard] == [*(stage.name for stage in STAGES), "done"]


def read_all(parts: Parts) -> list[Any]:
    """All that a training has, copied."""
    model, optimizer, loader = parts["model"], parts["optimizer"], parts["train_loader"]
    hooks = [[list(value) for name, value in vars(each).items() if name.endswith("_hooks")] for each in model.modules()]
    flags = [each.training for each in model.modules()]
    gradients = [each.grad for each in model.parameters()]
    shown = {name: each for name, each in vars(optimizer).items() if name not in ("state", "param_groups")}
    held = [parts[name].state_dict() for name in ("scheduler", "scaler") if parts.get(name) is not None]
    generators = [loader.generator.get_state(), loader.dataset.generator.bit_generator.state]
    options = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    names = [(name, id(value)) for name, value in shown.items()]
    state = [model.state_dict(), optimizer.state_dict(), options, gradients, held, capture_rng(), generators]
    return [*copy.deepcopy([*state, hooks, flags]), names]


def make_running(is_training: bool) -> Parts:
    """A training under way: a frozen layer, a scheduler, a scaler, and generators of its own."""
    model = make_network()
    model[0].requires_grad_(False)
    parts = make_sound(
        model,
        optimizer=torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-2),
        train_loader=DataLoader(Jittered(), 32, shuffle=True, generator=torch.Generator().manual_seed(3)),
        scaler=torch.amp.GradScaler("cpu", init_scale=8.0),
    )
    parts["scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR(parts["optimizer"], 100)
    for batch in parts["train_loader"]:
        parts["optimizer"].zero_grad()
        compute_loss(parts["model"], batch).backward()
        parts["optimizer"].step()
        parts["scheduler"].step()
    parts["model"].train(is_training)
    return parts


@pytest.mark.parametrize("is_training", [True, False])
def test_everything_is_as_before(is_training: bool) -> None:
    """After a preflight everything is as before: weights, moments, gradients, hooks, scaler, loader, random numbers."""
    parts = make_running(is_training)
    before = read_all(parts)
    result = preflight(**parts)
    assert is_same(read_all(parts), before)
    assert result.count("pass") > 10, str(result)


def test_first_steps_are_as_without_a_preflight() -> None:
    """A run that begins after a preflight is, bit for bit, the run without one: no state is made beforehand."""

    def train(parts: Parts) -> list[Any]:
        for batch in parts["train_loader"]:
            parts["optimizer"].zero_grad()
            compute_loss(parts["model"], batch).backward()
            parts["optimizer"].step()
        return [parts["model"].state_dict(), parts["optimizer"].state_dict()]

    tried, plain = make_sound(), make_sound()
    torch.manual_seed(5)
    preflight(**tried)
    after = train(tried)
    torch.manual_seed(5)
    assert is_same(after, train(plain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"model": 1}, "model is a 'int'", id="no-model"),
        pytest.param({"optimizer": 1}, "optimizer is a 'int'", id="no-optimizer"),
        pytest.param({"compute_loss": 1}, "compute_loss has to be a function", id="no-function"),
        pytest.param({"train_loader": iter([])}, "anew each time", id="iterator"),
        pytest.param({"budget": 0.0}, "budget is 0.0", id="no-time"),
        pytest.param({"ladder": {"minimal": lambda: 1}}, "the rung 'minimal' gave int", id="rung-gives-nothing"),
    ],
)
def test_wrong_arguments_are_refused(change: Parts, message: str) -> None:
    """An argument of the wrong kind is one sentence."""
    with pytest.raises(InputError, match=message):
        preflight(**(make_sound() | change))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        pytest.param(torch.eye(16).expand(2, 1, 16, 16), "@@", id="images"),
        pytest.param({"ids": torch.arange(20).reshape(2, 10)}, "the first: 0 1 2 3", id="ids"),
        pytest.param([torch.randn(8, 3)], "█", id="numbers"),
        pytest.param(torch.full((2, 3), torch.nan), "no number is finite", id="nan"),
        pytest.param(["text"], "a list without tensors", id="nothing"),
    ],
)
def test_batch_is_pictured(batch: Any, words: str) -> None:
    """Images are drawn, ids listed, numbers shown by how they are distributed."""
    assert words in draw_batch(batch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_is_tried_as_it_is() -> None:
    """On a GPU the batches go to the model, and labels that are out of range are found before a kernel sees them."""
    result = preflight(**make_sound(make_network().cuda()))
    assert result.count("fail") == 0, str(result)
    broken = next(make for case, _, _, _, make in BROKEN if case == "labels-from-one")()
    broken["model"].cuda()
    assert preflight(**broken).find("labels-out-of-range").status == "fail"
    assert torch.ones(1, device="cuda").item() == 1.0, "the GPU can still be used"
