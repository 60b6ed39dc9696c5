"""Contestants: the guards that others use do what is published of them, their known weaknesses included."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from trimtab.bench.contestants import contestant, contestants
from trimtab.bench.contestants.adaptive_clipping import NUM_WARMUP
from trimtab.bench.contestants.apply_if_finite import MAX_CONSECUTIVE_ERRORS
from trimtab.bench.contestants.sigma_rule import NUM_NEEDED, WINDOW
from trimtab.bench.training import Guard, Judgement, Recipe, Training, build_training, train
from trimtab.bench.workloads import Precision
from trimtab.faults import Injection, inject

LIMIT = 1.0
NUM_STEPS = 30
ADDED = ("skip-nonfinite", "sigma-rule", "adaptive-clipping", "spike-callback", "apply-if-finite", "arc")
PUBLISHED = ADDED[:-1]  # those that need no package
NAN, INF = math.nan, math.inf

Value = float | tuple[float, float]
"""The loss and the gradient norm of a step, or one number for both."""


@cache
def run(
    name: str, *injections: Injection, recipe: Recipe | None = None, num_steps: int = NUM_STEPS
) -> tuple[nn.Module, list[Judgement]]:
    """The model after a short run on images, and what was said at each of its steps."""
    recipe = recipe or Recipe(num_steps=num_steps)
    training = build_training("images", 0, recipe, LIMIT, injections)
    judgements: list[Judgement] = []
    train(training, contestants[name].make_guard(training), 0, lambda _, judgement: judgements.append(judgement))
    return training.model, judgements


def has_same_weights(model: nn.Module, other: nn.Module) -> bool:
    """True if two models agree in every bit of parameters and buffers."""
    return all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def is_finite(model: nn.Module) -> bool:
    """True if every parameter is."""
    return all(bool(each.isfinite().all()) for each in model.parameters())


def drive(name: str, values: Sequence[Value], precision: Precision = "float32") -> list[Judgement]:
    """What a guard says of losses and gradient norms, given one after the other without training."""
    training = build_small(precision)
    guard = contestants[name].make_guard(training)
    return [follow(training, guard, *(value if isinstance(value, tuple) else (value, value))) for value in values]


def build_small(precision: Precision = "float32") -> Training:
    """A training of a few parameters, whose gradients are given to it."""
    training = build_training("images", 0, Recipe(precision=precision), LIMIT)
    training.model = nn.Linear(3, 2)
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1)
    return training


def follow(training: Training, guard: Guard, loss: float, norm: float) -> Judgement:
    """A step whose gradients, all of one size, have a norm."""
    parameters = list(training.model.parameters())
    size = norm / math.sqrt(sum(each.numel() for each in parameters))
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, size)
    if training.scaler is not None:
        training.scaler.scale(torch.zeros(()))
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad *= training.scaler.get_scale()
    judgement = guard(torch.tensor(loss))
    if training.scaler is not None:
        training.scaler.update()
    return judgement


def vary(num: int) -> list[Value]:
    """Healthy values, which differ a little from one another."""
    return [0.5 + 0.01 * math.sin(step) for step in range(num)]


def list_acts(judgements: Sequence[Judgement]) -> list[int]:
    """The steps, counted from 1, at which something was done."""
    return [step for step, each in enumerate(judgements, 1) if each.acts]


def skip_unless_installed(name: str) -> None:
    """Leave out what needs a package that is not there."""
    if not contestants[name].is_installed():
        pytest.skip(f"{name} needs a package that is not installed")


@pytest.mark.parametrize("name", ADDED)
def test_healthy_run_is_that_of_plain_clipping(name: str) -> None:
    """Where a contestant has nothing to say, the weights are bit for bit those of routine clipping."""
    skip_unless_installed(name)
    (model, judgements), (plain, _) = run(name), run("clipping")
    assert list_acts(judgements) == []
    assert has_same_weights(model, plain)


@pytest.mark.parametrize(
    ("name", "acts", "names"),
    [
        pytest.param("skip-nonfinite", True, ("nonfinite",), id="skip-nonfinite-leaves-it-out"),
        pytest.param("spike-callback", True, ("loss-spike",), id="spike-callback-calls-it-a-spike"),
        pytest.param("apply-if-finite", True, ("nonfinite",), id="apply-if-finite-leaves-it-out"),
        pytest.param("arc", True, ("nonfinite",), id="arc-rolls-back"),
        pytest.param("sigma-rule", False, (), id="sigma-rule-is-not-awake-yet"),
        pytest.param("adaptive-clipping", False, (), id="adaptive-clipping-never-leaves-out"),
    ],
)
def test_nan_loss(name: str, acts: bool, names: tuple[str, ...]) -> None:
    """An update of a NaN loss is left out, and the weights stay finite; or it is made, and they do not."""
    skip_unless_installed(name)
    model, judgements = run(name, inject("nan-loss", 9), num_steps=12)
    found = judgements[8]
    assert (found.acts, found.proceeds, found.names) == (acts, not acts, names)
    assert bool(found.num_lost) is acts
    assert is_finite(model) is acts


@pytest.mark.parametrize("name", ["skip-nonfinite", "spike-callback", "apply-if-finite"])
def test_left_out_update_is_one_update(name: str) -> None:
    """Only the faulted step is left out, and one update is lost by it."""
    _, judgements = run(name, inject("nan-loss", 9), num_steps=12)
    assert list_acts(judgements) == [9]
    assert sum(each.num_lost for each in judgements) == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_scaler_overflow_is_routine(name: str) -> None:
    """A non-finite gradient under a loss scaler is the scaler's to leave out; nobody acts or remembers it."""
    count = WINDOW + 20
    healthy, overflowed = vary(count), [*vary(count)]
    overflowed[70:70] = [(0.5, INF), (0.5, INF), (0.5, NAN)]
    judgements = drive(name, overflowed, "float16")
    assert judgements[70:73] == [Judgement()] * 3
    assert judgements[:70] + judgements[73:] == drive(name, healthy, "float16")


@pytest.mark.parametrize("name", ADDED)
def test_float16_run(name: str) -> None:
    """In float16 the gradients are unscaled once, and a NaN loss is no overflow: who leaves it out says so."""
    skip_unless_installed(name)
    model, judgements = run(name, inject("nan-loss", 3), recipe=Recipe(precision="float16", num_steps=5))
    assert judgements[2].acts is (name not in ("sigma-rule", "adaptive-clipping"))
    assert is_finite(model)  # the scaler leaves the update out too


@pytest.mark.parametrize(
    ("values", "acts"),
    [
        pytest.param([*vary(NUM_NEEDED - 2), 9.0], [], id="too-few-values"),
        pytest.param([*vary(NUM_NEEDED - 1), 9.0], [NUM_NEEDED], id="from-the-64th-on"),
        pytest.param([*vary(100), (9.0, 0.5)], [101], id="loss-alone"),
        pytest.param([*vary(100), (0.5, 9.0)], [101], id="gradient-norm-alone"),
        pytest.param([*vary(100), 0.0], [], id="low-is-fine"),
        pytest.param([*vary(100), 0.53], [], id="within-six-deviations"),
        pytest.param([*vary(100), 0.55], [101], id="over-six-deviations"),
        pytest.param([*vary(100), 9.0, 0.55], [101], id="a-spike-hides-the-next"),
        pytest.param([0.0] * 100 + [*vary(WINDOW), 0.55], [101, 102, 103, 229], id="what-left-the-window-is-forgotten"),
    ],
)
def test_sigma_rule(values: list[Value], acts: list[int]) -> None:
    """The latest is held against mean and 6 deviations of up to 128 values before it, from the 64th value on."""
    assert list_acts(drive("sigma-rule", values)) == acts


@pytest.mark.parametrize("value", [NAN, INF, (NAN, 0.5), (0.5, NAN)], ids=["both", "infinite", "loss", "gradient-norm"])
def test_sigma_rule_stands_still_after_one_nan(value: Value) -> None:
    """One value that is not finite costs 129 updates: its own and those of the 128 whose window holds it."""
    values = [*vary(100), value, *vary(WINDOW + 50)]
    assert list_acts(drive("sigma-rule", values)) == list(range(101, 101 + 1 + WINDOW))


def test_sigma_rule_sleeps_through_an_early_nan_and_then_stands_still() -> None:
    """Before the 64th value a NaN is accepted; from there on it lies in the window of every update."""
    values = [*vary(10), NAN, *vary(200)]
    assert list_acts(drive("sigma-rule", values)) == list(range(NUM_NEEDED, 11 + WINDOW + 1))


def test_adaptive_clipping_cuts_an_outlier_below_the_routine_limit() -> None:
    """An outlier is clipped at a limit below routine clipping's, and by more the further out it lies."""
    training = build_small()
    guard = contestants["adaptive-clipping"].make_guard(training)
    for value in vary(NUM_WARMUP):
        assert isinstance(value, float)
        assert not follow(training, guard, value, value).acts
    judgement = follow(training, guard, 0.5, 50.0)
    gradients = [each.grad for each in training.model.parameters() if each.grad is not None]
    assert judgement.acts
    assert judgement.proceeds
    assert judgement.names == ("gradient-spike",)
    assert (
        0.49 < float(nn.utils.get_total_norm(gradients)) < 0.51
    )  # the mean, since it lies thousands of deviations out


@pytest.mark.parametrize(
    ("values", "acts"),
    [
        pytest.param([*vary(NUM_WARMUP - 1), 50.0], [], id="warm-up"),
        pytest.param([*vary(40), 50.0, *vary(10), 50.0], [41, 52], id="spikes-do-not-hide-the-next"),
        pytest.param([*vary(40), NAN, *vary(10), 50.0, 500.0], [], id="one-nan-switches-it-off"),
        pytest.param([*vary(5), NAN, *vary(60), 50.0], [], id="one-nan-in-the-warm-up-too"),
        pytest.param([*vary(40), INF, *vary(10), 50.0], [41, 52], id="an-infinity-does-not"),
    ],
)
def test_adaptive_clipping(values: list[Value], acts: list[int]) -> None:
    """Outliers of the moving average are clipped, until a NaN has entered it."""
    assert list_acts(drive("adaptive-clipping", values)) == acts


@pytest.mark.parametrize(
    ("values", "acts"),
    [
        pytest.param([9.0, 1.0, 1.0], [], id="first-batch-is-not-judged"),
        pytest.param([1.0, 3.0], [2], id="three-times-the-mean"),
        pytest.param([1.0, 2.9], [], id="less-is-fine"),
        pytest.param([1.0, 9.0, 1.0, 9.0], [2, 4], id="spikes-do-not-enter-the-mean"),
        pytest.param([*[1.0] * 10, *[2.0] * 10, 5.0], [], id="the-mean-is-of-the-last-10"),
        pytest.param([1.0, NAN, INF, 1.0], [2, 3], id="not-finite"),
        pytest.param([(1.0, 0.5), (1.0, 500.0), (1.0, NAN)], [], id="gradients-are-not-seen"),
        pytest.param([1.0, *[9.0] * 20], [*range(2, 22)], id="a-lasting-rise-is-left-out-for-ever"),
    ],
)
def test_spike_callback(values: list[Value], acts: list[int]) -> None:
    """A loss is a spike if it is not finite, or is worse than the latest and twice the mean away from the mean."""
    assert list_acts(drive("spike-callback", values)) == acts


@pytest.mark.parametrize(
    ("values", "acts"),
    [
        pytest.param([NAN] * 8, [1, 2, 3, 4, 5], id="the-sixth-is-accepted-and-those-after-it"),
        pytest.param([*[INF] * 5, 1.0, INF], [1, 2, 3, 4, 5, 7], id="a-finite-one-starts-again"),
        pytest.param([(NAN, 1.0)], [], id="the-loss-is-not-seen"),
        pytest.param([(1.0, NAN)], [1], id="the-gradient-is"),
    ],
)
def test_apply_if_finite(values: list[Value], acts: list[int]) -> None:
    """Non-finite gradients are ignored five times in a row."""
    judgements = drive("apply-if-finite", values)
    assert list_acts(judgements) == acts
    assert [step for step, each in enumerate(judgements, 1) if not each.proceeds] == acts


def test_apply_if_finite_gives_in() -> None:
    """After the sixth non-finite update in a row the weights are not finite."""
    duration = MAX_CONSECUTIVE_ERRORS
    survives, _ = run("apply-if-finite", inject("nan-loss", 10, duration=duration), num_steps=20)
    dies, _ = run("apply-if-finite", inject("nan-loss", 10, duration=duration + 1), num_steps=20)
    assert (is_finite(survives), is_finite(dies)) == (True, False)


@pytest.fixture
def register() -> Iterator[Callable[[str, Callable[[Training], Guard]], None]]:
    """Registers contestants for one test."""
    before = dict(contestants)
    yield lambda name, make_guard: (contestant(name)(make_guard), None)[1]
    contestants.clear()
    contestants.update(before)


def test_contestant_is_added_by_its_decorator(register: Callable[[str, Callable[[Training], Guard]], None]) -> None:
    """One function of a training and one decorator: a new contestant can be named, trains, and is heard."""

    def rest_on_even_steps(training: Training) -> Guard:
        num_seen = 0

        def guard(_: Tensor) -> Judgement:
            nonlocal num_seen
            num_seen += 1
            training.unscale()
            training.clip()
            rests = num_seen % 2 == 0
            return Judgement(proceeds=not rests, acts=rests, num_lost=int(rests))

        return guard

    register("rest-on-even-steps", rest_on_even_steps)
    model, judgements = run("rest-on-even-steps", num_steps=6)
    assert contestants["rest-on-even-steps"].is_installed()
    assert list_acts(judgements) == [2, 4, 6]
    assert not has_same_weights(model, run("clipping", num_steps=6)[0])


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_contestant_that_raises_ends_its_run(precision: Precision) -> None:
    """A guard that fails has lost the updates that were still to be made, and its run says why; the suite goes on."""

    def guard(_: Tensor) -> Judgement:
        raise ValueError("a toy failure")

    training = build_training("images", 0, Recipe(precision=precision, num_steps=4))
    made = train(training, guard, 0)
    assert (made.halted, made.num_lost) == ("the guard failed: ValueError: a toy failure", 4)


def test_every_contestant_has_its_own_file() -> None:
    """What is added is registered by being there, clips as routine, and says what it finds."""
    assert set(ADDED) <= set(contestants)
    files = {contestants[name].make_guard.__module__ for name in ADDED}
    assert len(files) == len(ADDED)
    assert all(contestants[name].clips and contestants[name].detects for name in ADDED)
