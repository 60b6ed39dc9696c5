"""`replica-divergence`: the samples it reports, and those on which it stays silent."""

from __future__ import annotations

import pytest
import torch

from trimtab.detectors import detect
from trimtab.history import History
from trimtab.probes.replica_divergence import BITS, take_fingerprint
from trimtab.types import Measurement, Value

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        pytest.param({"replica_divergence": (0.0, 1.0)}, ("b",), id="one-group"),
        pytest.param({"replica_divergence": (1.0, 1.0)}, ("a", "b"), id="both-in-one-finding"),
        pytest.param({"replica_divergence": (0.0, 0.0)}, None, id="all-the-same"),
        pytest.param({"loss": 1.0}, None, id="not-measured"),
    ],
)
def test_divergence(values: dict[str, Value], groups: tuple[str, ...] | None) -> None:
    """Groups that differ are named in one finding, which is of the state."""
    history = History(groups=("a", "b"))
    history.append(Measurement(2, values))
    found = detect(history, {"replica-divergence": {}})
    assert [each.groups for each in found] == ([] if groups is None else [groups])
    assert all(each.in_state for each in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_every_bit_changes_the_fingerprint(dtype: torch.dtype) -> None:
    """Any single flipped bit gives another fingerprint, of the bits it has, and the same bits the same."""
    tensor = torch.linspace(-1, 1, 7).to(dtype)
    seen = {float(take_fingerprint([tensor, tensor], CPU))}
    bytes_of = tensor.view(torch.uint8).clone()
    for index in range(len(bytes_of)):
        for bit in range(8):
            flipped = bytes_of.clone()
            flipped[index] ^= 1 << bit
            seen.add(float(take_fingerprint([tensor, flipped.view(dtype)], CPU)))
    assert float(take_fingerprint([tensor, bytes_of.view(dtype)], CPU)) in seen
    assert max(seen) < 2**BITS
    by_bit = 8 * tensor.element_size() // (2 if dtype.is_complex else 1)
    assert len(seen) >= 1 + by_bit  # the same bit of two numbers may change their sum alike, and never leaves it
