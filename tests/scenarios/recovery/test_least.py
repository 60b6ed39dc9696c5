"""The least that mends it: what lies in the batch is skipped, and costs neither other updates nor learning rate."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.laws.models import Net
from tests.laws.spoils import spoil_batch, spoil_loss
from tests.laws.training import (
    Event,
    Training,
    capture_buffers,
    capture_optimizer,
    capture_weights,
    list_differences,
    make_training,
)
from tests.scenarios.recovery.runs import Task, count_rejected, get_supervisor, make_run, probed_policy
from trimtab import Supervisor

BAD_STEP = 60


def capture_state(training: Training) -> dict[str, Any]:
    return {**capture_weights(training), **capture_optimizer(training), **capture_buffers(training)}


@pytest.mark.parametrize("fault", [pytest.param(spoil_loss, id="loss"), pytest.param(spoil_batch, id="batch")])
@pytest.mark.parametrize("is_probed", [pytest.param(True, id="probed"), pytest.param(False, id="not-probed")])
def test_one_nan_costs_one_update(fault: Any, is_probed: bool) -> None:
    """One NaN is skipped, not rolled back: one update is lost; statistics, state and learning rate are untouched."""
    training = make_training("adamw", fault(BAD_STEP), model=Net)
    training.supervise(probe=Task().probe if is_probed else None, policy=probed_policy()).run(BAD_STEP - 1)
    before = capture_state(training)
    training.step()
    assert list_differences(before, capture_state(training)) == []
    training.run(BAD_STEP + 40)
    supervisor = get_supervisor(training)
    assert [(each.step, each.verdict) for each in supervisor.ledger if each.responses] == [(BAD_STEP, "skip")]
    assert supervisor._controls.adjustments == ()
    assert supervisor.step == BAD_STEP + 40
    assert [group["lr"] for group in training.optimizer.param_groups] == [0.01, 0.005]


def run_burst(burst: range, *, is_probed: bool, **options: Any) -> Training:
    task = Task()
    task.bad_steps = burst
    training = make_run(task)
    options = {"data": training.batches} if options.pop("is_rewound", False) else options
    return training.supervise(probe=task.probe if is_probed else None, policy=probed_policy(), **options)


def test_position_is_held_through_a_burst() -> None:
    """With a probe, ten bad batches cost exactly their updates: no rollback, and the state is held bit for bit."""
    burst = range(BAD_STEP, BAD_STEP + 10)
    training = run_burst(burst, is_probed=True).run(burst.start - 1)
    before = capture_state(training)
    training.run(burst.stop - 1)
    assert training.verdicts[burst.start - 1 :] == ["skip"] * len(burst)
    assert list_differences(before, capture_state(training)) == []
    training.run(200)
    assert count_rejected(training.decisions) == len(burst)


@pytest.mark.parametrize("first", [57, 60, 64, 66])
def test_burst_without_a_probe_is_rolled_back_once_at_most(first: int) -> None:
    """Without a probe the state is suspect once; after that the position is held."""
    training = run_burst(range(first, first + 10), is_probed=False).run(200)
    assert training.verdicts.count("rollback") <= 1
    assert count_rejected(training.decisions) == 10


def test_ten_isolated_bad_batches_cost_ten_updates() -> None:
    """What comes back now and then is skipped each time, and never escalates."""
    bad = [*range(60, 310, 25)]
    task = Task()
    task.bad_steps = bad
    training = make_run(task).supervise(policy=probed_policy()).run(320)
    assert [each.step for each in training.decisions if not each.proceed] == bad
    assert set(training.verdicts) == {"proceed", "skip"}


# Data and random numbers are rewound together or not at all.


class Drawing:
    """A data position: how many batches were drawn. Which ones, torch's global generator decides."""

    def __init__(self) -> None:
        self.num_drawn = 0

    def state_dict(self) -> dict[str, int]:
        return {"num_drawn": self.num_drawn}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.num_drawn = state["num_drawn"]


def draw_at_random(first: int, num_bad: int, *, is_rewound: bool, asks: bool = False) -> tuple[Supervisor, list[str]]:
    """A loop that draws its batches by `torch.randint`, some of which turn out to be poisoned, until 120 updates."""
    table = torch.randn(4096, 6, generator=torch.Generator().manual_seed(1))
    training = make_run(None)
    drawing = Drawing()
    training.supervise(data=drawing if is_rewound else None)
    supervisor, poisoned, verdicts = get_supervisor(training), list[list[int]](), list[str]()
    while drawing.num_drawn < 120:
        rows = torch.randint(len(table), (48,))
        drawing.num_drawn += 1
        if first <= drawing.num_drawn < first + num_bad and len(poisoned) < num_bad:
            poisoned.append(rows.tolist())
        batch = (table[rows], table[rows].sum(1) + (100.0 if rows.tolist() in poisoned else 0.0))
        if asks and not supervisor.admits(batch):
            continue
        training.optimizer.zero_grad()
        loss = functional.mse_loss(training.model(batch[0]), batch[1])
        loss.backward()
        verdicts.append(supervisor.check(loss, batch=batch).verdict)
        training.optimizer.step()
    return supervisor, verdicts


@pytest.mark.parametrize("first", [60, 66])
def test_poisoned_batch_is_not_drawn_for_ever(first: int) -> None:
    """Rewound with the position, the generators draw the same bad batches again, and the run goes on all the same."""
    _, verdicts = draw_at_random(first, 2, is_rewound=True)
    assert verdicts.count("rollback") <= 2


@pytest.mark.parametrize("first", [60, 66])
def test_poisoned_batch_that_is_left_out_is_met_twice_at_most(first: int) -> None:
    """A loop that asks `admits` goes on past them."""
    supervisor, verdicts = draw_at_random(first, 2, is_rewound=True, asks=True)
    assert 1 <= verdicts.count("rollback") <= 2
    assert len(verdicts) - verdicts.count("proceed") <= 4
    assert max(supervisor.state_dict()["suspects"].values()) <= 2


def test_without_a_position_the_generators_go_on() -> None:
    """A loop that hands over no position draws other batches after a rollback: the poisoned ones never come again."""
    _, verdicts = draw_at_random(66, 2, is_rewound=False)
    assert [each for each in verdicts if each != "proceed"] == ["skip", "rollback"]


# Batches that were found bad.


def spoil(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch[0], batch[1] + 100.0


def take_step(training: Training, batch: tuple[Tensor, Tensor]) -> str:
    """One step on a batch, as a loop makes it."""
    training.optimizer.zero_grad()
    loss = functional.mse_loss(training.model(batch[0]), batch[1])
    loss.backward()
    decision = get_supervisor(training).check(loss, batch=batch)
    training.optimizer.step()
    return decision.verdict


def test_batch_that_was_bad_twice_is_left_out() -> None:
    """Once may have been chance; from the second time on a batch is not admitted. A good one always is."""
    training = make_run(None).supervise().run(40)
    supervisor = get_supervisor(training)
    good = [training.batches.draw() for _ in range(8)]
    bad = spoil(training.batches.draw())
    admitted: list[bool] = []
    for batch in good:
        assert supervisor.admits(batch)
        assert take_step(training, batch) == "proceed"
        if len(admitted) < 2 and batch is not good[0]:
            admitted.append(supervisor.admits(bad))
            assert take_step(training, bad) != "proceed"
            for _ in range(6):  # a quiet stretch, so that each time is an episode of its own
                training.step()
    assert admitted == [True, True]
    assert not supervisor.admits(bad)
    assert all(map(supervisor.admits, good))
    assert supervisor.admits({"x": bad[0], "y": bad[1] + 1})


def test_state_fault_does_not_blame_the_batch() -> None:
    """A batch at hand when the weights were found ruined is no bad batch."""
    training = make_run(None).supervise().run(40)
    batch = training.batches.draw()
    for _ in range(2):
        with torch.no_grad():
            next(training.model.parameters()).view(-1)[0] = math.nan
        assert take_step(training, batch) == "rollback"
        training.run(training.batches.position + 12)
    assert get_supervisor(training).admits(batch)


@pytest.mark.parametrize("through_json", [pytest.param(False, id="as-it-is"), pytest.param(True, id="as-checkpointed")])
def test_bad_batches_are_remembered(through_json: bool, tmp_path: Any) -> None:
    """What was found bad survives `state_dict` and a checkpoint."""
    training = make_run(None).supervise(run=tmp_path / "run").run(40)
    bad = spoil(training.batches.draw())
    for _ in range(2):
        assert take_step(training, bad) == "skip"
        training.run(training.batches.position + 8)
    supervisor = get_supervisor(training)
    supervisor.checkpoint(now=True)
    supervisor.finish()
    other = make_run(None)
    if through_json:
        other.supervise(run=tmp_path / "run", resume=True)
        assert get_supervisor(other).resume() is not None
    else:
        other.supervise()
        get_supervisor(other).load_state_dict(supervisor.state_dict())
    assert not get_supervisor(other).admits(bad)
    assert get_supervisor(other).admits(training.batches.draw())


def test_batch_left_out_is_recorded(tmp_path: Any) -> None:
    """The journal says that a batch was left out."""
    training = make_run(None).supervise(run=tmp_path / "run").run(40)
    bad = spoil(training.batches.draw())
    for _ in range(2):
        take_step(training, bad)
        training.run(training.batches.position + 8)
    supervisor = get_supervisor(training)
    assert not supervisor.admits(bad)
    supervisor.finish()
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [each["event"] for each in events].count("left-out") == 1


def add_nothing(_: Training) -> None:
    """No fault."""


@pytest.mark.parametrize("part", [pytest.param(add_nothing, id="healthy"), pytest.param(spoil_batch(20), id="one-nan")])
def test_good_batches_are_always_admitted(part: Event) -> None:
    """In a run where a batch is bad once, every batch is admitted."""
    training = make_training("adamw", part).supervise()
    supervisor = get_supervisor(training)
    for _ in range(40):
        training.step()
        assert training.batch is not None
        assert supervisor.admits(training.batch)
