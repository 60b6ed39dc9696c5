"""Checkpoints without a frozen base: what is left out, what is kept all the same, and what may go on from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab import InputError, Supervisor
from trimtab.state.frozen import FrozenBase, sample_frozen
from trimtab.state.tensors import read_tensors

SIZE = 64


def make_model(seed: int = 0) -> nn.Sequential:
    """A large frozen layer, a frozen teacher and a small head that is trained; the seed is the large layer's."""
    torch.manual_seed(0)
    large = nn.Linear(SIZE, SIZE)
    model = nn.Sequential(large, nn.Linear(SIZE, 4), nn.Linear(4, 1))
    model[:2].requires_grad_(False)
    torch.manual_seed(seed)
    nn.init.normal_(large.weight)
    return model


def keep(_: nn.Sequential) -> None:
    """Leave the frozen layers alone."""


def move_teacher(model: nn.Sequential) -> None:
    """Change a frozen layer, as an average of weights is changed."""
    with torch.no_grad():
        model[1].get_parameter("weight").add_(0.01)


def freeze_head(model: nn.Sequential) -> None:
    """Freeze one of the parameters that were trained so far."""
    model[2].get_parameter("bias").requires_grad_(False)


def train(
    model: nn.Sequential,
    run: Path,
    num_steps: int,
    *,
    form: str = "trained",
    deed: Callable[[nn.Sequential], None] = keep,
    resume: bool = False,
) -> nn.Sequential:
    """Train with a checkpoint after the sixth step, and what is done to the model after the fourth."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with Supervisor(model, optimizer, run=run, checkpoint_form=form, resume=resume) as supervisor:  # type: ignore[arg-type]
        resumed = supervisor.resume() if resume else None
        for step in range(resumed.step + 1 if resumed else 1, num_steps + 1):
            x = torch.randn(8, SIZE, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), x[:, :1])
            loss.backward()
            supervisor.check(loss)
            optimizer.step()
            if step == 4:
                deed(model)
            if step == 6:
                assert supervisor.checkpoint(now=True)
    return model


def list_kept(run: Path) -> set[str]:
    """The names of the model's tensors in the newest checkpoint."""
    path = run / "checkpoints" / "step-000006" / "model.safetensors"
    with path.open("rb") as file:
        return set(read_tensors(file, path.stat().st_size))


@pytest.mark.parametrize(
    ("deed", "kept"),
    [
        pytest.param(keep, set(), id="as-they-were"),
        pytest.param(move_teacher, {"1.weight"}, id="one-has-changed"),
        pytest.param(freeze_head, set(), id="one-was-trained-until-now"),
    ],
)
def test_unchanged_base_is_left_out(tmp_path: Path, deed: Callable[[nn.Sequential], None], kept: set[str]) -> None:
    """What is trained or has changed is in the checkpoint, all else is not, and a run goes on bit for bit."""
    whole = train(make_model(), tmp_path / "whole", 12, deed=deed)
    train(make_model(), tmp_path / "run", 8, deed=deed)
    assert list_kept(tmp_path / "run") == {"2.weight", "2.bias", *kept}
    model = make_model()
    if deed is freeze_head:
        freeze_head(model)
    train(model, tmp_path / "run", 12, resume=True)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.state_dict().items())


def test_another_base_is_refused(tmp_path: Path) -> None:
    """A model with another base does not go on, and hears why."""
    train(make_model(), tmp_path, 8)
    with pytest.raises(InputError, match=r"trained on other frozen parameters.*0\.weight is not what it was"):
        train(make_model(seed=1), tmp_path, 12, resume=True)


@pytest.mark.parametrize("forms", [("full", "trained"), ("trained", "full")], ids=["to-trained", "to-full"])
def test_forms_go_on_from_each_other(tmp_path: Path, forms: tuple[str, str]) -> None:
    """Which form a checkpoint has does not bind the run that goes on from it."""
    whole = train(make_model(), tmp_path / "whole", 12)
    train(make_model(), tmp_path / "run", 8, form=forms[0])
    model = train(make_model(), tmp_path / "run", 12, form=forms[1], resume=True)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.state_dict().items())


def test_whole_checkpoint_brings_its_base(tmp_path: Path) -> None:
    """By default everything is in it: a model with another base has the old one afterwards."""
    whole = train(make_model(), tmp_path / "whole", 12, form="full")
    train(make_model(), tmp_path / "run", 8, form="full")
    model = train(make_model(seed=1), tmp_path / "run", 12, form="full", resume=True)
    assert torch.equal(whole[0].weight, model[0].weight)  # type: ignore[arg-type]


def test_unknown_form_is_refused() -> None:
    """The message names the forms there are."""
    model = make_model()
    with pytest.raises(InputError, match="checkpoint_form is 'adapters'; it has to be one of full, trained"):
        Supervisor(model, torch.optim.SGD(model.parameters(), lr=0.1), checkpoint_form="adapters")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameter", "num_numbers"),
    [
        pytest.param(torch.randn(40, 40), 16, id="matrix"),
        pytest.param(torch.tensor(1.5), 1, id="one-number"),
        pytest.param(torch.randn(3, dtype=torch.complex64), 6, id="complex"),
        pytest.param(torch.randint(255, (40,), dtype=torch.uint8), 16, id="quantized"),
        pytest.param(torch.randn(8, 8).to(torch.float8_e4m3fn), 16, id="float8"),
        pytest.param(torch.full((4,), torch.nan), 4, id="nan"),
        pytest.param(torch.randn(6, 6).T, 16, id="transposed"),
    ],
)
def test_numbers_of_any_dtype_are_taken(parameter: torch.Tensor, num_numbers: int) -> None:
    """Of each kind of parameter a few numbers are taken, the same each time."""
    model = nn.Module()
    model.weight = nn.Parameter(parameter, requires_grad=False)
    base = FrozenBase(model)
    assert len(sample_frozen(model)["weight"]) == num_numbers
    assert list(base.sample_unchanged()) == ["weight"]


@pytest.mark.parametrize("parameter", [torch.empty(0), torch.empty(3, device="meta")], ids=["empty", "meta"])
def test_what_has_no_numbers_is_left_out(parameter: torch.Tensor) -> None:
    """Nothing is taken of a parameter that has nothing."""
    model = nn.Module()
    model.weight = nn.Parameter(parameter, requires_grad=False)
    assert sample_frozen(model) == {}
