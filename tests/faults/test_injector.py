"""The injector: what it calls when, what it undoes when, and what it refuses."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.faults.runs import RATE, STEP, draw_tokens, make_parts
from trimtab.errors import InputError
from trimtab.faults import FOREVER, Hit, Injection, Injector, Scene, fault, faults, inject


def make_training() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small model of bytes and its optimizer, the same each time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(256, 4), nn.Linear(4, 256))
    return model, torch.optim.SGD(model.parameters(), lr=RATE)


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        pytest.param(
            lambda: inject("nan-los", 1),
            f"there is no fault 'nan-los'; there are {', '.join(sorted(faults))}",
            id="unknown-fault",
        ),
        pytest.param(
            lambda: inject("nan-loss", -1),
            "nan-loss at step -1 with duration 1 never acts; the step has to be at least 0 and the duration at least 1",
            id="negative-step",
        ),
        pytest.param(
            lambda: inject("nan-loss", 5, duration=0),
            "nan-loss at step 5 with duration 0 never acts; the step has to be at least 0 and the duration at least 1",
            id="no-duration",
        ),
    ],
)
def test_impossible_injections_are_refused(cause: Callable[[], Injection], message: str) -> None:
    """An injection that cannot happen is an error that says why, when it is made."""
    with pytest.raises(InputError) as error:
        cause()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "act", "message"),
    [
        pytest.param(
            name,
            lambda injector: injector.gradients(STEP),
            f"{name} found no gradient at step 3; call injector.gradients right after backward",
            id=f"{name}-before-backward",
        )
        for name in sorted(faults)
        if faults[name].place == "gradients" and name not in ("killed-process", "self-update-gone-wild")
    ]
    + [
        pytest.param(
            "random-bytes",
            lambda injector: injector.batch(STEP, ("name", "other")),
            "random-bytes found no tensor of numbers in the batch, a 'tuple', at step 3; "
            "hand injector.batch the data, as a tensor or in a tuple, list or dictionary",
            id="random-bytes-without-a-tensor",
        ),
        pytest.param(
            "constant-inputs",
            lambda injector: injector.batch(STEP, ()),
            "constant-inputs found no tensor of numbers in the batch, a 'tuple', at step 3; "
            "hand injector.batch the data, as a tensor or in a tuple, list or dictionary",
            id="constant-inputs-without-a-tensor",
        ),
        pytest.param(
            "scaled-inputs",
            lambda injector: injector.batch(STEP, draw_tokens(1)),
            "scaled-inputs found no floating-point inputs in the batch, a 'Tensor', at step 3; "
            "hand injector.batch the data, as a tensor or in a tuple, list or dictionary",
            id="scaled-inputs-of-tokens",
        ),
        pytest.param(
            "shuffled-labels",
            lambda injector: injector.batch(STEP, torch.rand(4)),
            "shuffled-labels found no targets in the batch, a 'Tensor', at step 3; "
            "hand injector.batch the data, as a tensor or in a tuple, list or dictionary",
            id="shuffled-labels-without-labels",
        ),
        *(
            pytest.param(
                name,
                act,
                f"{name} found no schedule at step 3; make the injector with scheduler=scheduler",
                id=f"{name}-without-a-schedule",
            )
            for name, act in {
                "schedule-per-epoch": lambda injector: injector.start(STEP),
                "schedule-too-often": lambda injector: injector.end(STEP),
            }.items()
        ),
        *(
            pytest.param(
                name,
                act,
                f"{name} found no loss scaler at step 3; make the injector with scaler=scaler, an enabled GradScaler",
                id=f"{name}-without-a-scaler",
            )
            for name, act in {
                "stuck-loss-scale": lambda injector: injector.start(STEP),
                "collapsed-loss-scale": lambda injector: injector.start(STEP),
                "float16-overflow": lambda injector: injector.loss(STEP, torch.tensor(1.0)),
            }.items()
        ),
        *(
            pytest.param(
                name,
                lambda injector: injector.end(STEP),
                f"{name} found no {found} at step 3; {advice}",
                id=f"{name}-without-what-it-needs",
            )
            for name, found, advice in [
                (
                    "zeroed-moments",
                    "moments in the optimizer",
                    "it acts after the first update of an optimizer that keeps moments",
                ),
                (
                    "huge-moments",
                    "moments in the optimizer",
                    "it acts after the first update of an optimizer that keeps moments",
                ),
                (
                    "poisoned-batchnorm",
                    "BatchNorm layer with running statistics",
                    "give it a model that has one",
                ),
                ("corrupted-checkpoint", "folder of checkpoints", "make the injector with folder=path"),
            ]
        ),
        pytest.param(
            "self-update-gone-wild",
            lambda injector: injector.gradients(STEP),
            "self-update-gone-wild found no self-updating parameter at step 3; "
            "name them in model.self_updating, a tuple",
            id="nothing-updates-itself",
        ),
    ],
)
def test_impossible_faults_are_refused(name: str, act: Callable[[Injector], object], message: str) -> None:
    """A fault that finds nothing to act on is an error that says what to do, never a run that is silently healthy."""
    injector = Injector([inject(name, STEP)], *make_training())
    with pytest.raises(InputError) as error:
        act(injector)
    assert str(error.value) == message
    assert injector.hits == []


@pytest.mark.parametrize("name", ["frozen-parameters", "missing-parameters", "dead-units", "embedding-collapse"])
def test_faults_of_modules_need_modules(name: str) -> None:
    """A fault that leaves out a module, or looks for a layer of a kind, says so where there is none."""
    model = nn.Sequential(nn.Conv1d(1, 1, 1))
    model(torch.ones(1, 1, 1)).sum().backward()
    injector = Injector([inject(name, STEP)], model, torch.optim.SGD(model.parameters(), lr=RATE))
    act = {"start": injector.start, "gradients": injector.gradients, "end": injector.end}[faults[name].place]
    with pytest.raises(InputError, match=rf"^{name} found (no|fewer) .* at step 3; give it a model "):
        act(STEP)


def test_step_without_an_end_is_undone_by_the_next() -> None:
    """A loop that leaves a step early, as by `continue`, gets its learning rate back all the same."""
    model, optimizer = make_training()
    injector = Injector([inject("learning-rate-spike", STEP)], model, optimizer)
    injector.start(STEP)
    injector.start(STEP + 1)
    assert optimizer.param_groups[0]["lr"] == RATE


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


MODULE = """
from trimtab.faults import Scene, fault


@fault("toy-halved-weights", "end", strength=0.5, signs=("weight-jump",), begins="first", needs="ranks")
def halve(scene: Scene) -> None:
    \"\"\"Every weight is halved.\"\"\"
    for parameter in scene.model.parameters():
        parameter.detach().mul_(scene.strength)
"""


def test_new_fault_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in a folder of faults is all it takes: loading the folder makes its fault known by name."""
    package = tmp_path / "toy_faults"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "halved_weights.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        faults.load("toy_faults", importlib.import_module("toy_faults").__path__)
        found = faults["toy-halved-weights"]
        assert (found.signs, found.begins, found.needs) == (("weight-jump",), "first", "ranks")
        model, optimizer = make_training()
        before = [each.detach().clone() for each in model.parameters()]
        injector = Injector([inject("toy-halved-weights", STEP)], model, optimizer)
        injector.end(STEP)
        assert all(map(torch.equal, model.parameters(), [each / 2 for each in before]))
        assert injector.hits == [Hit("toy-halved-weights", STEP, "")]
    finally:
        faults.pop("toy-halved-weights", None)
        for name in [name for name in sys.modules if name.startswith("toy_faults")]:
            del sys.modules[name]


def test_faults_at_one_place_follow_one_another() -> None:
    """Of two faults at the same step and place, the second gets what the first left."""
    model, optimizer = make_training()
    twice = [inject("nan-loss", STEP, strength=10.0), inject("nan-loss", STEP, strength=3.0)]
    assert float(Injector(twice, model, optimizer).loss(STEP, torch.tensor(2.0))) == 60.0


def test_forever_never_ends() -> None:
    """A fault without an end acts at every later step, and its last step can be computed."""
    injection = inject("stuck-loader", STEP, duration=FOREVER)
    assert [injection.acts_at(step) for step in (STEP - 1, STEP, 10**15)] == [False, True, True]
    assert torch.tensor(injection.step + injection.duration).dtype == torch.int64
    assert len(range(injection.step, injection.step + injection.duration)) == FOREVER


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param(lambda injector: injector.close(), id="at-close"),
        pytest.param(lambda injector: (injector.close(), injector.close()), id="at-close-twice"),
        pytest.param(lambda injector: injector.start(STEP + 2), id="at-the-next-start"),
        pytest.param(lambda injector: injector.loss(STEP + 9, torch.tensor(0.0)), id="at-any-place-of-a-later-step"),
    ],
)
def test_what_lasts_is_undone_at_the_end(ends: Callable[[Injector], object]) -> None:
    """What a fault changes for its duration is in force between its steps, gone at the first after them or at close."""
    parts = make_parts()
    names = ["eval-mode", "frozen-parameters", "missing-parameters", "missing-zero-grad"]
    injector = parts.make_injector(inject(name, STEP, duration=2) for name in names)

    def look() -> tuple[object, ...]:
        modes = [each.training for each in parts.model.modules()]
        trained = [each.requires_grad for each in parts.model.parameters()]
        optimized = [id(each) for each in parts.optimizer.param_groups[0]["params"]]
        methods = [vars(each).get("zero_grad") for each in (parts.optimizer, parts.model)]
        return modes, trained, optimized, methods

    parts.model.norm.eval()
    before = look()
    injector.start(STEP - 1)
    assert look() == before
    for step in (STEP, STEP + 1):
        injector.start(step)
        injector.end(step)
        assert all(one != other for one, other in zip(look(), before, strict=True))
    ends(injector)
    assert look() == before


def test_fault_acts_anew_after_close() -> None:
    """A loop that goes on after `close` within a fault's duration meets the fault again, and can close it again."""
    parts = make_parts()
    injector = parts.make_injector([inject("missing-zero-grad", STEP, duration=5)])
    for step in (STEP, STEP + 1):
        injector.start(step)
        assert "zero_grad" in vars(parts.optimizer)
        injector.close()
        assert "zero_grad" not in vars(parts.optimizer)


def test_raising_fault_is_a_hit() -> None:
    """Running out of memory is what the fault is for: it is a hit, and the second attempt goes through."""
    injector = make_parts().make_injector([inject("out-of-memory", STEP, duration=2)])
    for step in (STEP, STEP + 1):
        with pytest.raises(torch.OutOfMemoryError, match=f"at step {step}"):
            injector.batch(step, "data")
        assert len(injector.hits) == 2 * (step - STEP) + 1
        assert injector.batch(step, "data") == "data"
