"""Bad input: a clear error in one sentence, and model and optimizer as they were."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn, tensor
from torch.optim import LBFGS, SGD, Optimizer

from trimtab import InputError, RunExistsError, Supervisor

OTHER = nn.Parameter(torch.ones(3))
"""A parameter of no model here."""


def make_model() -> nn.Sequential:
    """Two layers, one step trained, with gradients at hand."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model(torch.randn(4, 2)).square().sum().backward()
    return model


def make_optimizer(model: nn.Module) -> SGD:
    """An optimizer with state."""
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.step()
    return optimizer


def equals(before: object, after: object) -> bool:
    """Whether two states are the same to the last bit."""
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return torch.equal(before, after)
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return before.keys() == after.keys() and all(equals(before[key], after[key]) for key in before)
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(equals, before, after))
    return before == after


@contextmanager
def nothing_changes(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Assert that weights, buffers, gradients, optimizer state and optimizer hooks are afterwards what they were."""

    def look() -> list[Any]:
        gradients = [parameter.grad for parameter in model.parameters()]
        hooks = [*optimizer._optimizer_step_pre_hooks, *optimizer._optimizer_step_post_hooks]
        return [model.state_dict(), gradients, optimizer.state_dict(), hooks, model.training]

    before = copy.deepcopy(look())
    yield
    assert equals(before, look())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"policy": {"memory": 5}},
            "supervisor: policy is {'memory': 5}; it has to be a Policy, such as Policy.from_toml(path)",
            id="policy-as-a-table",
        ),
        pytest.param(
            {"policy": "policy.toml"},
            "supervisor: policy is 'policy.toml'; it has to be a Policy, such as Policy.from_toml(path)",
            id="policy-as-a-path",
        ),
        pytest.param(
            {"clip_norm": 0},
            "supervisor: clip_norm is 0; it has to be above 0, or None for no clipping",
            id="clip-norm-0",
        ),
        pytest.param(
            {"clip_norm": float("nan")},
            "supervisor: clip_norm is nan; it has to be above 0, or None for no clipping",
            id="clip-norm-nan",
        ),
        pytest.param(
            {"groups": ["0", "2"]},
            "groups: no parameter is called '2' or begins with it; the model has 0, 1",
            id="unknown-group",
        ),
        pytest.param(
            {"data": [1, 2]},
            "supervisor: a rollback cannot restore a 'list', which has no state_dict and load_state_dict; "
            "leave it out, or give it both",
            id="data-without-a-state",
        ),
        pytest.param({"log_every": 0}, "supervisor: log_every is 0; it has to be above 0", id="log-every-0"),
        pytest.param(
            {"groups": "0"},
            "groups: '0' is text; it has to be a list of names, such as ['0'], or a table of such lists",
            id="groups-as-text",
        ),
        pytest.param(
            {"clip_norm": "1"},
            "supervisor: clip_norm is '1'; it has to be above 0, or None for no clipping",
            id="clip-norm-as-text",
        ),
    ],
)
def test_unusable_option_is_refused(options: dict[str, Any], message: str) -> None:
    """An option that cannot be used is refused when the supervisor is made."""
    model = make_model()
    optimizer = make_optimizer(model)
    with nothing_changes(model, optimizer), pytest.raises(InputError) as caught:
        Supervisor(model, optimizer, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("partner", "message"),
    [
        pytest.param(
            object(),
            "supervisor: a rollback cannot restore a 'object', which has no state_dict and load_state_dict; "
            "leave it out, or give it both",
            id="no-state",
        ),
        pytest.param(
            torch.amp.GradScaler("cpu"),
            "supervisor: a GradScaler was given as a partner; pass it as scaler=",
            id="scaler",
        ),
    ],
)
def test_unusable_partner_is_refused(partner: Any, message: str) -> None:
    """What a rollback could not restore is refused when the supervisor is made."""
    model = make_model()
    optimizer = make_optimizer(model)
    with nothing_changes(model, optimizer), pytest.raises(InputError) as caught:
        Supervisor(model, optimizer, partner)
    assert str(caught.value) == message


Build: TypeAlias = Callable[[nn.Sequential], Optimizer]


def freeze(model: nn.Sequential) -> Optimizer:
    """An optimizer of a model nothing of which is trained any more."""
    optimizer = make_optimizer(model)
    model.requires_grad_(False)
    return optimizer


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(
            freeze,
            "supervisor: the model has no trainable parameter; at least one needs requires_grad=True",
            id="nothing-to-train",
        ),
        pytest.param(
            lambda _: SGD([OTHER]),
            "supervisor: the optimizer holds none of the model's parameters: the model has 0.weight, 0.bias, "
            "1.weight, 1.bias, the optimizer one of shape (3,); build it from this model's parameters()",
            id="optimizer-of-another-model",
        ),
        pytest.param(
            lambda model: make_optimizer(copy.deepcopy(model)),
            "supervisor: the optimizer holds none of the model's parameters: the model has 0.weight, 0.bias, "
            "1.weight, 1.bias, the optimizer one of shape (3, 2), one of shape (3,), one of shape (3,), one of shape "
            "(3,); build it from this model's parameters()",
            id="optimizer-of-a-copy",
        ),
        pytest.param(
            lambda model: LBFGS(model.parameters()),
            "supervisor: LBFGS evaluates the loss several times inside one step, so no step can be judged before it "
            "is made; use an optimizer whose step needs no closure",
            id="lbfgs",
        ),
    ],
)
def test_unusable_optimizer_is_refused(build: Build, message: str) -> None:
    """An optimizer that trains nothing of the model, or cannot be judged, is refused."""
    model = make_model()
    optimizer = build(model)
    with nothing_changes(model, optimizer), pytest.raises(InputError) as caught:
        Supervisor(model, optimizer)
    assert str(caught.value) == message


def test_long_lists_of_parameters_are_shortened() -> None:
    """An error names the first four parameters of either side and counts the rest."""
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(3)))
    with pytest.raises(InputError) as caught:
        Supervisor(model, SGD(nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(5))).parameters()))
    assert str(caught.value) == (
        "supervisor: the optimizer holds none of the model's parameters: the model has 0.weight, 0.bias, 1.weight, "
        "1.bias and 2 more, the optimizer one of shape (1, 1), one of shape (1, 1), one of shape (1, 1), one of "
        "shape (1, 1) and 1 more; build it from this model's parameters()"
    )


def test_optimizer_of_a_part_warns_at_the_users_line() -> None:
    """An optimizer that leaves trainable parameters out is a warning that names them, at the line that made it so."""
    model = make_model()
    optimizer = SGD(model[0].parameters())
    with nothing_changes(model, optimizer), pytest.warns(UserWarning, match="leaves out") as caught:
        Supervisor(model, optimizer).finish()
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message) == (
        "supervisor: the optimizer leaves out 2 of the model's 4 trainable parameters, which are neither "
        "measured nor restored: "
        "1.weight, 1.bias"
    )


def test_frozen_parameters_are_not_missed() -> None:
    """Parameters that need no gradient may be left out of the optimizer without a warning."""
    model = make_model()
    model[1].requires_grad_(False)
    Supervisor(model, SGD(model[0].parameters())).finish()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        pytest.param(torch.ones(4), "check: loss has shape (4,); it has to be 0-d, such as loss.mean()", id="per-row"),
        pytest.param(torch.ones(1), "check: loss has shape (1,); it has to be 0-d, such as loss.mean()", id="one-row"),
        pytest.param(torch.ones(0), "check: loss has shape (0,); it has to be 0-d, such as loss.mean()", id="empty"),
        pytest.param("0.1", "check: loss is a 'str'; it has to be one number, such as a 0-d tensor", id="text"),
        pytest.param([0.1], "check: loss is a 'list'; it has to be one number, such as a 0-d tensor", id="list"),
        pytest.param(
            {"loss": tensor(0.1)}, "check: loss is a 'dict'; it has to be one number, such as a 0-d tensor", id="table"
        ),
        pytest.param(1j, "check: loss is a 'complex'; it has to be one number, such as a 0-d tensor", id="complex"),
    ],
)
def test_loss_that_is_not_one_number_is_refused(loss: Any, message: str) -> None:
    """A loss that is not one number is refused, and the step is not counted."""
    model = make_model()
    optimizer = make_optimizer(model)
    with Supervisor(model, optimizer) as supervisor:
        with nothing_changes(model, optimizer), pytest.raises(InputError) as caught:
            supervisor.check(loss)
        assert str(caught.value) == message
        assert (supervisor.step, len(supervisor.history)) == (0, 0)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(tensor(0.5), id="0-d"),
        pytest.param(tensor(0.5, requires_grad=True), id="with-its-graph"),
        pytest.param(tensor(0.5, dtype=torch.float64), id="float64"),
        pytest.param(tensor(0.5, dtype=torch.bfloat16), id="bfloat16"),
        pytest.param(0.5, id="float"),
        pytest.param(np.float64(0.5), id="numpy-float64"),
        pytest.param(np.float32(0.5), id="numpy-float32"),
    ],
)
def test_any_one_number_is_a_loss(loss: Any) -> None:
    """A 0-d tensor of any dtype is a loss, and so is a plain number."""
    model = make_model()
    with Supervisor(model, make_optimizer(model)) as supervisor:
        assert supervisor.check(loss).proceed
        assert supervisor.history.newest.values["loss"] == 0.5


def test_given_norm_that_is_not_one_number_is_refused() -> None:
    """A gradient norm handed to `check` is held to the same rule as the loss."""
    model = make_model()
    optimizer = make_optimizer(model)
    with Supervisor(model, optimizer) as supervisor, nothing_changes(model, optimizer):
        with pytest.raises(InputError) as caught:
            supervisor.check(tensor(0.1), grad_norm=torch.ones(2))
        assert str(caught.value) == "check: grad_norm has shape (2,); it has to be 0-d, such as grad_norm.mean()"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        pytest.param(
            {"val_loss": torch.ones(2)},
            "review: val_loss has shape (2,); it has to be 0-d, such as val_loss.mean()",
            id="per-row",
        ),
        pytest.param(
            {"val_loss": 0.1, "accuracy": None},
            "review: accuracy is a 'NoneType'; it has to be one number, such as a 0-d tensor",
            id="none",
        ),
        pytest.param(
            {"val_loss": 0.1, "step": 3.0},
            "review: a metric cannot be called 'step', which is the journal's own; choose another name",
            id="the-journals-step",
        ),
        pytest.param(
            {"clock": 3.0},
            "review: a metric cannot be called 'clock', which is the journal's own; choose another name",
            id="the-journals-clock",
        ),
    ],
)
def test_review_that_is_not_of_numbers_is_refused(metrics: dict[str, Any], message: str) -> None:
    """A reviewed metric that is not one number is refused, and nothing is reviewed."""
    model = make_model()
    optimizer = make_optimizer(model)
    with Supervisor(model, optimizer) as supervisor:
        with nothing_changes(model, optimizer), pytest.raises(InputError) as caught:
            supervisor.review(**metrics)
        assert str(caught.value) == message
        assert len(supervisor.reviews) == 0


@pytest.mark.parametrize("by_name", [False, True], ids=["positional", "by-name"])
def test_closure_is_refused(by_name: bool) -> None:
    """A closure would compute gradients that nobody judged; `optimizer.step` refuses it before anything happens."""
    model = make_model()
    optimizer = make_optimizer(model)

    def closure() -> float:
        raise AssertionError("the closure was called")

    with Supervisor(model, optimizer) as supervisor:
        supervisor.check(tensor(0.1))
        with nothing_changes(model, optimizer), pytest.raises(InputError) as caught:
            optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    assert str(caught.value) == (
        "supervisor: optimizer.step was given a closure, which computes gradients that check has not judged; "
        "call backward and check first, then step without a closure"
    )


def test_state_of_other_groups_is_refused() -> None:
    """The state of a run with other groups is refused, and the supervisor remembers what it did."""
    model, other = make_model(), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = make_optimizer(model)
    state = Supervisor(other, SGD(other.parameters())).state_dict()
    with Supervisor(model, optimizer) as supervisor:
        supervisor.check(tensor(0.5))
        with nothing_changes(model, optimizer), pytest.raises(InputError) as caught:
            supervisor.load_state_dict(state)
        assert str(caught.value) == (
            "supervisor: the state is of a run with the groups 0, 1, 2; this one has 0, 1; "
            "build it with the same groups="
        )
        assert (supervisor.step, len(supervisor.history)) == (1, 1)


def test_run_folder_that_exists_is_refused(tmp_path: Path) -> None:
    """A run folder is never overwritten, and the optimizer is left without hooks; `resume=True` goes on with it."""
    model = make_model()
    optimizer = make_optimizer(model)
    Supervisor(model, optimizer, run=tmp_path).finish()
    with nothing_changes(model, optimizer), pytest.raises(RunExistsError) as caught:
        Supervisor(model, optimizer, run=tmp_path)
    assert str(caught.value) == (
        f"run: {str(tmp_path)!r} already holds a run, which is never overwritten; "
        "choose a new name, or pass resume=True to go on with it"
    )
    Supervisor(model, optimizer, run=tmp_path, resume=True).finish()
