"""Law 4: the recorded measurements and actions alone reproduce the decisions."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab import Policy, Supervisor
from trimtab.faults import Injection, Injector, inject
from trimtab.journal import read_run
from trimtab.replay import replay_run

BURST = inject("infinite-gradient", 60, duration=4)

RUNS = {
    "healthy": [],
    "one NaN loss": [inject("nan-loss", 30)],
    "a NaN loss in the first step": [inject("nan-loss", 1)],
    "a burst that climbs the ladder": [BURST],
    "a weight overwritten": [inject("huge-weight", 41)],
    "a rate that destroys the weights": [inject("learning-rate-spike", 50, strength=1e6)],
    "everything at once": [inject("nan-loss", 20), inject("huge-weight", 30), BURST],
}


def train(folder: Path, injections: list[Injection], policy: Policy | None = None, num_steps: int = 80) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    injector = Injector(injections, model, optimizer)
    with Supervisor(model, optimizer, clip_norm=1.0, run=folder, policy=policy) as supervisor:
        for step in range(1, num_steps + 1):
            injector.start(step)
            inputs = torch.randn(16, 8)
            loss = injector.loss(step, F.cross_entropy(model(inputs), inputs[:, :3].argmax(1)))
            optimizer.zero_grad()
            loss.backward()
            injector.gradients(step)
            supervisor.check(loss)
            optimizer.step()
            injector.end(step)
            if step % 20 == 0:
                supervisor.review(val_loss=loss)


@pytest.mark.parametrize("injections", RUNS.values(), ids=RUNS.keys())
def test_replay_reproduces_every_decision(tmp_path: Path, injections: list[Injection]) -> None:
    """A run replayed under its own policy decides the same at every step, to the last digit."""
    train(tmp_path / "run", injections)
    compared = replay_run(read_run(tmp_path / "run"))
    assert bool(compared) == bool(injections)
    assert [each for each in compared if not each.is_same] == []


def test_replay_of_a_long_run_reads_the_same_history(tmp_path: Path) -> None:
    """Replay agrees after the history's ring has wrapped, too."""
    train(tmp_path / "run", [inject("nan-loss", 703), inject("huge-weight", 1100)], num_steps=1150)
    compared = replay_run(read_run(tmp_path / "run"))
    assert len(compared) == 2
    assert all(each.is_same for each in compared)


def test_replay_of_a_resumed_run_goes_back_with_it(tmp_path: Path) -> None:
    """A run killed, resumed from an older state and gone on in the same folder replays to the same decisions."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def go_on(supervisor: Supervisor, steps: range) -> None:
        for step in steps:
            loss = model(torch.randn(8, 4)).square().mean() * (float("nan") if step in (12, 13, 25) else 1.0)
            optimizer.zero_grad()
            loss.backward()
            supervisor.check(loss)
            optimizer.step()

    first = Supervisor(model, optimizer, run=tmp_path / "run")
    go_on(first, range(1, 13))
    kept = first.state_dict()
    go_on(first, range(13, 31))
    first.finish()
    second = Supervisor(model, optimizer, run=tmp_path / "run", resume=True)
    second.load_state_dict(kept)
    go_on(second, range(13, 41))
    second.finish()
    compared = replay_run(read_run(tmp_path / "run"))
    assert [each.step for each in compared] == [12, 13, 25]
    assert all(each.is_same for each in compared)


def test_another_policy_says_what_it_would_have_done(tmp_path: Path) -> None:
    """A policy that only watches finds the same and answers nothing."""
    train(tmp_path / "run", RUNS["one NaN loss"])
    (compared,) = replay_run(read_run(tmp_path / "run"), Policy.observe())
    assert compared.recorded is not None
    assert compared.replayed is not None
    assert (compared.recorded.verdict, compared.replayed.verdict) == ("skip", "proceed")
    assert compared.recorded.findings[0].message == compared.replayed.findings[0].message


def test_what_was_only_observed_shows_what_the_default_would_do(tmp_path: Path) -> None:
    """A run recorded under `Policy.observe()` can be judged by the default policy afterwards."""
    train(tmp_path / "run", RUNS["one NaN loss"], Policy.observe())
    first = replay_run(read_run(tmp_path / "run"), Policy.default())[0]
    assert first.replayed is not None
    assert (first.step, first.replayed.verdict) == (30, "skip")
