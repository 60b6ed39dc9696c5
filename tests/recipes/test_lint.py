"""`lint`: every check on something that is broken in its way, and what lint leaves behind."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.recipes.broken import (
    BROKEN,
    BY_EPOCH,
    BY_STEP,
    CLIPPED,
    NEVER,
    SUMMED,
    TOO_EARLY,
    Case,
    Noisy,
    binary_batch,
    forget_head,
    freeze,
    make_case,
    make_model,
    seed_alike,
)
from tests.recipes.sound import SOUND
from trimtab import InputError
from trimtab.recipes import Flaws, lint
from trimtab.recipes.linting import checks, make_compute_loss
from trimtab.recipes.trial import run_trial
from trimtab.state.rng import capture_rng

ORDER = ["critical", "high", "medium", "low"]


@pytest.mark.parametrize(("name", "make"), BROKEN)
def test_what_is_broken_is_reported(name: str, make: Callable[[], Case]) -> None:
    """Each broken case is reported by its check, with a number and a fix, and by nothing graver."""
    flaws = lint(**make())
    found = [each for each in flaws if each.check == name]
    assert found, str(flaws)
    assert found[0].fix
    assert ORDER.index(flaws[0].severity) == ORDER.index(found[0].severity), str(flaws)


def test_every_check_has_a_broken_case() -> None:
    """There is no check that was never seen to report."""
    assert {each.values[0] for each in BROKEN} == set(checks)


def test_every_check_says_what_it_finds() -> None:
    """The docstring of each check is its manual."""
    assert all(each.manual for each in checks.values())


DIVIDED = SUMMED.replace("loss.backward()", "(loss / 4).backward()")
UNSCALED = CLIPPED.replace("        nn.utils", "        scaler.unscale_(optimizer)\n        nn.utils")
PLAIN = SUMMED.replace(
    "        if (index + 1) % 4 == 0:\n            optimizer.step()", "        optimizer.step()"
).replace("            optimizer.zero_grad()", "        optimizer.zero_grad()")
IN_PLACE = SUMMED.replace("        loss.backward()", "        loss /= 4\n        loss.backward()")
INNER = """
def train(model, steps, optimizer):
    for micro_batches in steps:
        optimizer.zero_grad()
        for x, y in micro_batches:
            loss_fn(model(x), y).backward()
        optimizer.step()
"""


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(DIVIDED, id="divided"),
        pytest.param(IN_PLACE, id="divided-in-place"),
        pytest.param(UNSCALED, id="unscaled"),
        pytest.param(PLAIN, id="a-step-a-batch"),
        pytest.param("this is no Python", id="no-python"),
        pytest.param(BY_STEP, id="one-cycle-at-each-step"),
        pytest.param(
            BY_EPOCH.replace(
                "OneCycleLR(optimizer, 0.1, epochs=3, steps_per_epoch=len(loader))", "StepLR(optimizer, 2)"
            ),
            id="step-decay-per-epoch",
        ),
        pytest.param(
            BY_EPOCH.replace("epochs=3, steps_per_epoch=len(loader)", "total_steps=3"), id="one-cycle-of-epochs"
        ),
        pytest.param(NEVER + "trimtab.fit(model, optimizer, scheduler=scheduler)", id="schedule-handed-over"),
        pytest.param(
            TOO_EARLY.replace("        scheduler.step()", "        if started:\n            scheduler.step()"),
            id="schedule-from-the-second-step-on",
        ),
        pytest.param(
            TOO_EARLY.replace("        scheduler.step()\n", "") + "        scheduler.step()\n", id="schedule-after-step"
        ),
        pytest.param(INNER.replace("loss_fn(model(x), y)", "(loss_fn(model(x), y) / 4)"), id="inner-loop-divided"),
    ],
)
def test_sound_loops_are_not_reported(loop: str) -> None:
    """A loop that divides, unscales first, or steps at each batch is left alone."""
    assert lint(**make_case(loop=loop)) == ()


def test_inner_loop_that_sums_is_reported() -> None:
    """Micro-batches in a loop of their own are found too."""
    assert [each.check for each in lint(**make_case(loop=INNER))] == ["accumulated-not-divided"]


def test_static_checks_need_no_batch() -> None:
    """Without a batch lint looks at model and optimizer alone."""
    case = forget_head()
    assert [each.check for each in lint(case["model"], case["optimizer"])] == ["missing-from-optimizer"]


def copy_all(model: nn.Module, optimizer: torch.optim.Optimizer, loader: Any) -> list[Any]:
    gradients = [None if each.grad is None else each.grad.clone() for each in model.parameters()]
    flags = [(each.training, list(each._forward_hooks), list(each._forward_pre_hooks)) for each in model.modules()]
    generator = loader.generator.get_state()
    return copy.deepcopy([model.state_dict(), optimizer.state_dict(), gradients, flags, capture_rng(), generator])


def is_same(left: Any, right: Any) -> bool:
    """True if two values are the same, bit for bit."""
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return np.array_equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(is_same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(is_same, left, right))
    return bool(left == right)


def train_a_little(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()


@pytest.mark.parametrize("is_training", [True, False])
def test_nothing_is_changed(is_training: bool) -> None:
    """After lint, model, gradients, optimizer, flags, loader and random numbers are bit for bit as before."""
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    batch = torch.randn(16, 4), torch.arange(16) % 3
    optimizer = torch.optim.AdamW(model.parameters())
    train_a_little(model, optimizer, batch)
    model.train(is_training)
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Noisy(), num_workers=2, worker_init_fn=seed_alike, generator=generator)
    before = copy_all(model, optimizer, loader)
    shown = batch[0].clone()
    lint(model, optimizer, F.cross_entropy, batch, loader=loader)
    assert is_same(copy_all(model, optimizer, loader), before)
    assert torch.equal(batch[0], shown)
    assert random.random() == random.Random(0).random()


def test_flaws_read_as_lines() -> None:
    """Flaws print as a line each, the gravest first; none as a sentence."""
    case = freeze(2)
    text = str(lint(**case))
    assert text.startswith("frozen-head (high): the last layer 2 with 27 numbers is frozen, and 60% of the model")
    assert str(lint(**make_case())) == f"no flaw found by {len(checks)} checks"
    assert isinstance(lint(**case), Flaws)


def rank_pairs(out: Tensor, y: Tensor) -> Tensor:
    """A loss over all pairs of samples, whose targets are subtracted from one another on purpose."""
    signs = (y[:, None] - y[None, :]).sign()
    return F.softplus(-signs * (out - out.T)).mean()


def learn_temperature() -> Case:
    """A loss with a parameter of its own, which the optimizer holds beside the model's."""
    model, temperature = make_model(), nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
    return make_case(model, lambda out, y: F.cross_entropy(out * temperature.exp(), y), optimizer=optimizer)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda: make_case(make_model(outputs=1), rank_pairs, (torch.randn(16, 4), torch.randn(16))), id="all-pairs"
        ),
        pytest.param(learn_temperature, id="parameter-of-the-loss"),
        pytest.param(
            lambda: make_case(loss_fn=lambda out, y: F.nll_loss(out.softmax(1).log(), y)), id="log-of-softmax"
        ),
        pytest.param(
            lambda: make_case(make_model(nn.Sigmoid(), outputs=1), F.binary_cross_entropy, binary_batch()), id="sigmoid"
        ),
    ],
)
def test_unusual_losses_are_left_alone(make: Callable[[], Case]) -> None:
    """What looks like a mistake from afar, and is none, is not reported."""
    assert lint(**make()) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"model": 1}, "model is a 'int'", id="no-model"),
        pytest.param({"optimizer": 1}, "optimizer is a 'int'", id="no-optimizer"),
        pytest.param({"loss_fn": 1}, "loss_fn is 1", id="no-function"),
        pytest.param({"compute_loss": F.mse_loss}, "both loss_fn and compute_loss are given", id="both"),
        pytest.param(
            {"model": nn.LazyLinear(3)}, "'weight' has no numbers: it is made with the first batch", id="lazy"
        ),
        pytest.param({"model": nn.Linear(4, 3, device="meta")}, "is on the meta device", id="meta"),
        pytest.param({"loop": 1}, "loop is 1, whose source cannot be read", id="no-source"),
    ],
)
def test_wrong_arguments_are_refused(change: Case, message: str) -> None:
    """An argument of the wrong kind is one sentence."""
    with pytest.raises(InputError, match=message):
        lint(**(make_case() | change))


@pytest.mark.parametrize("make", SOUND)
def test_what_is_well_made_is_left_alone(make: Callable[[], Case]) -> None:
    """Lint has nothing to say of a model that is well made, and really looked at it."""
    case = make()
    assert lint(**case) == ()
    setup_trial = run_trial(
        case["model"], case.get("compute_loss") or make_compute_loss(case.get("loss_fn")), case["batch"]
    )
    assert setup_trial.error is None
    assert setup_trial.gradients
    assert setup_trial.losses
