"""`make_scaler`: its presets, the bits of gradients under them, and the cut by a policy."""

from __future__ import annotations

from math import inf

import pytest
import torch

from tests.laws.training import Training, capture_weights, list_differences, make_training
from trimtab import InputError, Policy
from trimtab.recipes import PRESETS, make_scaler


@pytest.mark.parametrize(
    ("preset", "numbers"),
    [
        pytest.param("powers-of-two", (1024.0, 2.0, 0.5, 200), id="ours"),
        pytest.param("published", (1024.0, 1.5, 0.5, 200), id="published"),
        pytest.param("pytorch", (65536.0, 2.0, 0.5, 2000), id="pytorch"),
    ],
)
def test_scaler_has_the_numbers_of_its_preset(preset: str, numbers: tuple[float, float, float, int]) -> None:
    """A scaler is PyTorch's, with the numbers of its preset."""
    scaler = make_scaler(preset, "cpu")
    assert type(scaler) is torch.amp.GradScaler
    factors = scaler.get_scale(), scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()
    assert factors == numbers


def test_pytorch_preset_is_what_pytorch_does() -> None:
    """The preset `pytorch` holds PyTorch's own defaults."""
    assert make_scaler("pytorch", "cpu").state_dict() == torch.amp.GradScaler("cpu").state_dict()


def test_powers_of_two_is_the_default() -> None:
    """Without a name the preset is Trimtab's own; a disabled scaler does nothing."""
    assert make_scaler(device="cpu").state_dict() == make_scaler("powers-of-two", "cpu").state_dict()
    assert not make_scaler(device="cpu", enabled=False).is_enabled()


@pytest.mark.parametrize("preset", ["conservative", "", "PyTorch"])
def test_unknown_preset_is_an_error(preset: str) -> None:
    """A preset that is not there names those that are."""
    message = f"make_scaler: preset is {preset!r}; it has to be one of powers-of-two, published, pytorch"
    with pytest.raises(InputError, match=f"^{message}$"):
        make_scaler(preset)


@pytest.mark.parametrize(
    ("preset", "is_exact"), [("powers-of-two", True), ("published", False), ("pytorch", True)], ids=str
)
def test_presets_say_whether_they_keep_bits(preset: str, is_exact: bool) -> None:
    """Only powers of two leave every gradient as it was."""
    assert PRESETS[preset].keeps_bits == is_exact


NUM_STEPS = 215
"""Past the first growth of the scale, after 200."""


def train(preset: str | None, optimizer: str) -> Training:
    """Train a small network in float32, with a scaler or without."""
    training = make_training(optimizer)
    training.scaler = None if preset is None else make_scaler(preset, "cpu")
    return training.run(NUM_STEPS)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_powers_of_two_keep_every_bit(optimizer: str) -> None:
    """Trained with a scale of powers of two that grows on the way, the weights are those of training unscaled."""
    scaled, bare = train("powers-of-two", optimizer), train(None, optimizer)
    assert scaled.scaler is not None
    assert scaled.scaler.get_scale() == 2048.0
    assert list_differences(capture_weights(scaled), capture_weights(bare)) == []


def test_other_factors_change_bits() -> None:
    """Once the scale has grown by 1.5, dividing by it rounds, and the weights are not those of training unscaled."""
    scaled, bare = train("published", "sgd"), train(None, "sgd")
    assert scaled.scaler is not None
    assert scaled.scaler.get_scale() == 1536.0
    assert list_differences(capture_weights(scaled), capture_weights(bare)) != []


@pytest.mark.parametrize(
    ("preset", "after"), [("powers-of-two", 128.0), ("published", 102.4), ("pytorch", 32768.0)], ids=str
)
def test_policy_cuts_the_scale(preset: str, after: float) -> None:
    """With `cut` as its `rescale_factor`, a policy cuts the scale at the first infinite gradient, back-off included."""

    def spoil(training: Training) -> None:
        if training.batches.position == 5:
            parameter = next(training.model.parameters())
            assert parameter.grad is not None
            parameter.grad.fill_(inf)

    nonfinite = {"overflows": 0, "ladder": ["skip+rescale", "rollback+repair+rescale", "skip", "halt"]}
    policy = Policy.from_dict({"rescale_factor": PRESETS[preset].cut, "detectors": {"nonfinite": nonfinite}})
    training = make_training("sgd", after_backward=spoil, scaler=make_scaler(preset, "cpu")).supervise(policy=policy)
    training.run(6)
    assert training.scaler is not None
    assert training.verdicts == ["proceed"] * 4 + ["skip", "proceed"]
    assert training.scaler.get_scale() == pytest.approx(after, rel=1e-6)
