"""Faults: what each does, at which steps, what is left of it, and what it leaves alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trimtab.errors import InputError
from trimtab.faults import Hit, Injection, Injector, Scene, fault, faults, inject

STEP = 3
NUM_STEPS = 16
RATE = 0.1


class Seen(NamedTuple):
    """One step of a loop, as a fault left it."""

    step: int
    batch: Tensor
    loss: float
    gradients: list[Tensor]
    rate: float
    rate_after: float
    weights: list[Tensor]


def make_training() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small model of bytes and its optimizer, the same each time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(256, 4), nn.Linear(4, 256))
    return model, torch.optim.SGD(model.parameters(), lr=RATE)


def run_loop(*injections: Injection) -> tuple[list[Seen], list[Hit]]:
    """Train for a few steps with faults; the loop draws nothing from the global generators."""
    model, optimizer = make_training()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    injector = Injector(injections, model, optimizer)
    seen = []
    for step in range(1, NUM_STEPS + 1):
        injector.start(step)
        batch = injector.batch(step, torch.arange(step, step + 8).view(2, 4))
        logits = model(batch[:, :-1])
        loss = injector.loss(step, nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()))
        optimizer.zero_grad()
        loss.backward()
        injector.gradients(step)
        gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        rate = optimizer.param_groups[0]["lr"]
        if loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients):
            optimizer.step()
        injector.end(step)
        rate_after = optimizer.param_groups[0]["lr"]
        scheduler.step()
        weights = [parameter.detach().clone() for parameter in model.parameters()]
        seen.append(Seen(step, batch, loss.item(), gradients, rate, rate_after, weights))
    return seen, injector.hits


def is_text(seen: Seen) -> bool:
    """True if the batch is the loop's own."""
    return torch.equal(seen.batch, torch.arange(seen.step, seen.step + 8).view(2, 4))


def is_spiked(seen: Seen) -> bool:
    """True if the learning rate in the step was other than after it."""
    assert seen.rate in (seen.rate_after, 1000.0 * seen.rate_after)
    return seen.rate != seen.rate_after


def is_overwritten(seen: Seen) -> bool:
    """True if exactly one weight is huge."""
    num_huge = sum(int((weights.abs() > 1e29).sum()) for weights in seen.weights)
    assert num_huge <= 1
    return num_huge == 1


def has_infinite_gradient(seen: Seen) -> bool:
    """True if all of one gradient tensor is infinite, and nothing else is."""
    num_infinite = [int(gradient.isinf().sum()) for gradient in seen.gradients]
    assert sum(num > 0 for num in num_infinite) <= 1
    return any(num == gradient.numel() for num, gradient in zip(num_infinite, seen.gradients, strict=True))


EFFECTS = [
    pytest.param("nan-loss", lambda seen: math.isnan(seen.loss), range(STEP, STEP + 1), id="loss-is-nan"),
    pytest.param(
        "nan-loss",
        lambda seen: all(gradient.isnan().any() for gradient in seen.gradients),
        range(STEP, STEP + 1),
        id="nan-loss-makes-every-gradient-nan",
    ),
    pytest.param("infinite-gradient", has_infinite_gradient, range(STEP, STEP + 1), id="one-gradient-is-infinite"),
    pytest.param("learning-rate-spike", is_spiked, range(STEP, STEP + 1), id="rate-is-1000-times-itself"),
    pytest.param("random-bytes", lambda seen: not is_text(seen), range(STEP, STEP + 10), id="ten-batches-are-random"),
    pytest.param("huge-weight", is_overwritten, range(STEP, NUM_STEPS + 1), id="one-weight-is-huge-from-then-on"),
]


@pytest.mark.parametrize(("name", "is_hit", "steps"), EFFECTS)
def test_fault_acts_at_its_steps_alone(name: str, is_hit: Callable[[Seen], bool], steps: range) -> None:
    """A fault does what its name says from its step on for its duration, and at no other step."""
    seen, _ = run_loop(inject(name, STEP))
    assert [each.step for each in seen if is_hit(each)] == list(steps)


@pytest.mark.parametrize("name", sorted(faults))
def test_hits_tell_when_a_fault_acted(name: str) -> None:
    """The injector's hits are the steps of the injection, no more and no fewer."""
    injection = inject(name, STEP)
    _, hits = run_loop(injection)
    assert [(hit.fault, hit.step) for hit in hits] == [(name, STEP + index) for index in range(injection.duration)]


@pytest.mark.parametrize("name", sorted(faults))
def test_nothing_happens_before_a_fault(name: str) -> None:
    """Up to the step of the fault the run is bit by bit the run without it."""
    (with_fault, _), (without, _) = run_loop(inject(name, STEP)), run_loop()
    for faulty, healthy in zip(with_fault[: STEP - 1], without, strict=False):
        assert (faulty.loss, faulty.rate) == (healthy.loss, healthy.rate)
        assert all(map(torch.equal, faulty.weights, healthy.weights))


@pytest.mark.parametrize("name", sorted(faults))
def test_same_seed_same_effect(name: str) -> None:
    """The same injection does the same, whatever the global random numbers are."""
    first, first_hits = run_loop(inject(name, STEP, seed=5))
    torch.rand(7)
    second, second_hits = run_loop(inject(name, STEP, seed=5))
    assert first_hits == second_hits
    for one, other in zip(first, second, strict=True):
        assert all(map(torch.equal, [one.batch, *one.weights], [other.batch, *other.weights]))


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        pytest.param("infinite-gradient", lambda seen: str(seen.gradients), id="which-gradient"),
        pytest.param(
            "huge-weight", lambda seen: str([weights.argmax() for weights in seen.weights]), id="which-weight"
        ),
        pytest.param("random-bytes", lambda seen: str(seen.batch), id="which-bytes"),
    ],
)
def test_other_seeds_other_effects(name: str, draw: Callable[[Seen], str]) -> None:
    """What a fault draws depends on its seed."""
    assert len({draw(run_loop(inject(name, STEP, seed=seed))[0][STEP - 1]) for seed in range(8)}) > 1


def test_each_step_draws_anew() -> None:
    """A fault of several steps does not repeat what it drew in the first."""
    seen, _ = run_loop(inject("random-bytes", STEP))
    assert len({str(each.batch) for each in seen[STEP - 1 : STEP + 9]}) == 10


@pytest.mark.parametrize("name", sorted(faults))
def test_global_random_numbers_are_left_alone(name: str) -> None:
    """A fault draws nothing from the generators of torch, NumPy and Python."""
    generators = [
        lambda: torch.get_rng_state().tolist(),
        lambda: np.random.get_state()[1].tolist(),  # type: ignore[index] # noqa: NPY002
        random.getstate,
    ]
    make_training()
    before = [get_state() for get_state in generators]
    run_loop(inject(name, STEP))
    assert [get_state() for get_state in generators] == before


@pytest.mark.parametrize(
    "rate",
    [pytest.param(0.1, id="number"), pytest.param(torch.tensor(0.1), id="tensor")],
)
def test_spiked_rate_is_restored_exactly(rate: float | Tensor) -> None:
    """After the step every group has the very learning rate it had: 0.1 × 1000 / 1000 would not do for all."""
    model, _ = make_training()
    groups = [{"params": [parameter], "lr": rate * (1 + index)} for index, parameter in enumerate(model.parameters())]
    optimizer = torch.optim.SGD(groups)
    before = [group["lr"] for group in optimizer.param_groups]
    injector = Injector([inject("learning-rate-spike", STEP)], model, optimizer)
    injector.start(STEP)
    assert [float(group["lr"]) for group in optimizer.param_groups] == [float(each * 1000) for each in before]
    injector.end(STEP)
    assert all(group["lr"] is each for group, each in zip(optimizer.param_groups, before, strict=True))


def test_rate_set_by_someone_else_stays() -> None:
    """A learning rate that a rollback put back during the spike is not touched when the spike ends."""
    model, optimizer = make_training()
    injector = Injector([inject("learning-rate-spike", STEP)], model, optimizer)
    injector.start(STEP)
    optimizer.param_groups[0]["lr"] = 0.07
    injector.end(STEP)
    assert optimizer.param_groups[0]["lr"] == 0.07


def test_step_without_an_end_is_undone_by_the_next() -> None:
    """A loop that leaves a step early, as by `continue`, gets its learning rate back all the same."""
    model, optimizer = make_training()
    injector = Injector([inject("learning-rate-spike", STEP)], model, optimizer)
    injector.start(STEP)
    injector.start(STEP + 1)
    assert optimizer.param_groups[0]["lr"] == RATE


def test_any_weight_may_be_hit() -> None:
    """The overwritten weight is drawn from all weights alike: each tensor is hit as often as it has weights."""
    model = nn.ParameterDict({"large": torch.zeros(30, 20), "small": torch.zeros(20, 10).T, "single": torch.zeros(())})
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    injector = Injector([inject("huge-weight", 0, duration=800)], model, optimizer)
    for step in range(800):
        injector.end(step)
    hits = [sum(hit.target == name for hit in injector.hits) for name in ("large", "small", "single")]
    assert hits == pytest.approx([600, 200, 1], abs=60)
    for parameter in model.parameters():
        assert set(parameter.detach().unique().tolist()) <= {0.0, float(np.float32(1e30))}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_huge_weight_fits_the_dtype(dtype: torch.dtype) -> None:
    """In a dtype that cannot hold 1e30 the weight becomes the largest number that it can."""
    model = nn.Linear(1, 1, bias=False, dtype=dtype)
    Injector([inject("huge-weight", 0)], model, torch.optim.SGD(model.parameters())).end(0)
    assert float(model.weight.detach()) == pytest.approx(min(1e30, torch.finfo(dtype).max), rel=0.01)


class Pair(NamedTuple):
    """A batch as some loops have it."""

    tokens: Tensor
    weights: Tensor


TOKENS = torch.arange(64)
WEIGHTS = torch.ones(64)


@pytest.mark.parametrize(
    ("batch", "parts"),
    [
        pytest.param(TOKENS, lambda batch: [batch], id="tensor"),
        pytest.param(TOKENS.to(torch.uint8), lambda batch: [batch], id="uint8"),
        pytest.param((TOKENS, WEIGHTS), list, id="tuple"),
        pytest.param([TOKENS, WEIGHTS, "name"], list, id="list-with-text"),
        pytest.param({"tokens": TOKENS, "weights": WEIGHTS}, lambda batch: list(batch.values()), id="dictionary"),
        pytest.param(Pair(TOKENS, WEIGHTS), list, id="named-tuple"),
        pytest.param({"inner": (TOKENS, TOKENS)}, lambda batch: list(batch["inner"]), id="nested"),
    ],
)
def test_random_bytes_in_any_batch(batch: Any, parts: Callable[[Any], list[Any]]) -> None:
    """Integer tensors are replaced wherever they are in a batch; its structure and the rest of it stay."""
    before = [part.clone() if isinstance(part, Tensor) else part for part in parts(batch)]
    injector = Injector([inject("random-bytes", STEP)], *make_training())
    after = injector.batch(STEP, batch)
    assert type(after) is type(batch)
    for old, kept, new in zip(before, parts(batch), parts(after), strict=True):
        if isinstance(old, Tensor):
            assert torch.equal(old, kept)  # the loop's own tensors, perhaps a cached data set, are never written to
            assert (new.shape, new.dtype) == (old.shape, old.dtype)
            assert torch.equal(old, new) == old.is_floating_point()
        else:
            assert new is old


@pytest.mark.parametrize("strength", [2, 50, 256])
def test_random_values_fill_the_vocabulary(strength: int) -> None:
    """The strength of random bytes is the size of the vocabulary: every value occurs, and none beyond."""
    injector = Injector([inject("random-bytes", STEP, strength=strength)], *make_training())
    batch = injector.batch(STEP, torch.zeros(64, 128, dtype=torch.int64))
    assert torch.equal(batch.unique(), torch.arange(strength))


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        pytest.param(
            lambda _: inject("nan-los", 1),
            "there is no fault 'nan-los'; there are huge-weight, infinite-gradient, learning-rate-spike, nan-loss, "
            "random-bytes, scaled-gradient",
            id="unknown-fault",
        ),
        pytest.param(
            lambda _: inject("nan-loss", -1),
            "nan-loss at step -1 with duration 1 never acts; the step has to be at least 0 and the duration at least 1",
            id="negative-step",
        ),
        pytest.param(
            lambda _: inject("nan-loss", 5, duration=0),
            "nan-loss at step 5 with duration 0 never acts; the step has to be at least 0 and the duration at least 1",
            id="no-duration",
        ),
        pytest.param(
            lambda make: make("infinite-gradient").gradients(STEP),
            "infinite-gradient found no gradient at step 3; call injector.gradients right after backward",
            id="before-backward",
        ),
        pytest.param(
            lambda make: make("random-bytes").batch(STEP, (WEIGHTS, "name")),
            "random-bytes found no integer tensor in the batch of step 3, a 'tuple'; hand injector.batch the tokens, "
            "as a tensor or in a tuple, list or dictionary",
            id="no-integers",
        ),
    ],
)
def test_impossible_faults_are_refused(cause: Callable[[Callable[[str], Injector]], None], message: str) -> None:
    """A fault that cannot happen is an error that says why, never a run that is silently healthy."""
    with pytest.raises(InputError) as error:
        cause(lambda name: Injector([inject(name, STEP)], *make_training()))
    assert str(error.value) == message


@pytest.fixture
def toy_fault() -> Iterator[str]:
    """A fault that is registered during the test alone: the loader sticks, and the model is in the wrong mode."""

    @fault("toy-stuck-loader", "batch", strength=0.0, duration=3)
    def stick(scene: Scene, batch: Tensor) -> Tensor:
        """The first batch is seen again and again, in evaluation mode."""
        scene.model.eval()
        scene.undo.callback(scene.model.train)
        kept: Tensor = scene.memory.setdefault("batch", batch)
        return kept

    yield "toy-stuck-loader"
    del faults["toy-stuck-loader"]


def test_new_fault_is_one_function(toy_fault: str) -> None:
    """A new fault needs nothing but its function: it is known by name, remembers, and is undone after each step."""
    assert faults[toy_fault].manual == "The first batch is seen again and again, in evaluation mode."
    model, optimizer = make_training()
    injector = Injector([inject(toy_fault, 2)], model, optimizer)
    passed, modes = [], []
    for step in range(1, 7):
        passed.append(int(injector.batch(step, torch.tensor(step))))
        modes.append(model.training)
        injector.end(step)
        assert model.training
    assert passed == [1, 2, 2, 2, 5, 6]
    assert modes == [True, False, False, False, True, True]


def test_faults_at_one_place_follow_one_another() -> None:
    """Of two faults at the same step and place, the second gets what the first left."""
    model, optimizer = make_training()
    twice = [inject("nan-loss", STEP, strength=10.0), inject("nan-loss", STEP, strength=3.0)]
    assert float(Injector(twice, model, optimizer).loss(STEP, torch.tensor(2.0))) == 60.0


@pytest.mark.parametrize("name", sorted(faults))
def test_every_fault_has_a_manual_page(name: str) -> None:
    """A fault's docstring tells what it does, how such a thing happens, and what its strength means."""
    manual = faults[name].manual
    assert manual.split("\n")[0].endswith(".")
    assert "As it happens:" in manual
    assert "Strength:" in manual
