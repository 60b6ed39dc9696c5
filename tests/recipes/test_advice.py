"""`precision`: which dtype is advised on which device, and how it reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimtab import InputError
from trimtab.recipes import PrecisionAdvice, precision
from trimtab.recipes.advice import choose_dtype


@pytest.mark.parametrize(
    ("device_type", "has_bfloat16", "dtype", "uses_scaler"),
    [
        pytest.param("cuda", True, torch.bfloat16, False, id="new-gpu"),
        pytest.param("cuda", False, torch.float16, True, id="old-gpu"),
        pytest.param("mps", True, torch.float16, True, id="apple-gpu"),
        pytest.param("cpu", True, torch.bfloat16, False, id="cpu"),
        pytest.param("xpu", True, torch.bfloat16, False, id="intel-gpu"),
    ],
)
def test_dtype_follows_the_hardware(
    device_type: str, has_bfloat16: bool, dtype: torch.dtype, uses_scaler: bool
) -> None:
    """bfloat16 where the hardware has it, float16 with a loss scaler otherwise."""
    advice = choose_dtype(device_type, has_bfloat16)
    assert (advice.dtype, advice.uses_scaler) == (dtype, uses_scaler)
    assert {"losses", "softmax", "optimizer state"} <= set(advice.keeps_float32)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_cpu_trains_in_bfloat16(device: str | torch.device) -> None:
    """On a CPU the advice can be followed as it is."""
    advice = precision(device)
    with torch.autocast("cpu", dtype=advice.dtype):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == advice.dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_is_asked() -> None:
    """On a GPU its compute capability decides."""
    expected = torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 or torch.version.hip else torch.float16
    assert precision("cuda").dtype == precision("cuda:0").dtype == expected


@pytest.mark.parametrize(
    ("advice", "text"),
    [
        pytest.param(precision("cpu", prefer="float32"), "float32: it was asked for", id="asked-for"),
        pytest.param(precision("meta"), "float32: PyTorch has no autocast for meta", id="no-autocast"),
        pytest.param(
            choose_dtype("cuda", True),
            "bfloat16: it has the range of float32, so that no gradient overflows or underflows; "
            "in float32 stay losses, softmax, normalization, weights, optimizer state",
            id="bfloat16",
        ),
        pytest.param(
            choose_dtype("cuda", False),
            "float16 with a loss scaler: this GPU has no bfloat16 of its own, and emulating it is slow; "
            "in float32 stay losses, softmax, normalization, weights, optimizer state",
            id="float16",
        ),
    ],
)
def test_advice_reads_as_a_sentence(advice: PrecisionAdvice, text: str) -> None:
    """An advice says what to use and why; float32 needs no scaler and keeps nothing apart."""
    assert str(advice) == text
    assert advice.dtype != torch.float32 or not (advice.uses_scaler or advice.keeps_float32)


@pytest.mark.parametrize(
    ("device", "prefer", "message"),
    [
        pytest.param("cpu", "float64", r"prefer is 'float64'; it has to be 'float32' or None", id="unknown-preference"),
        pytest.param("gpu", None, r"device is 'gpu'; it has to be a device such as 'cuda' or 'cpu'", id="no-device"),
        pytest.param(
            "cuda",
            None,
            r"device is 'cuda', but PyTorch sees no GPU; use 'cpu'",
            id="no-gpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU"),
        ),
    ],
)
def test_what_cannot_be_advised_is_an_error(device: str, prefer: str | None, message: str) -> None:
    """An unknown device or preference is an error of one sentence."""
    with pytest.raises(InputError, match=f"^precision: {message}$"):
        precision(device, prefer=prefer)
