"""Which dtype to train in on a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.errors import InputError

KEPT = ("losses", "softmax", "normalization", "weights", "optimizer state")
"""What stays float32 in mixed precision: sums over many numbers, exponentials, and whatever small updates add up in.
Autocast sees to the first three where they are single operators; the last two stay so by leaving the model alone."""


@dataclass(frozen=True, slots=True)
class PrecisionAdvice:
    """The dtype for the forward and backward passes, and what goes with it; a sentence when printed."""

    dtype: torch.dtype
    """What to give to `torch.autocast`; with float32 no autocast is needed."""

    uses_scaler: bool
    """True if the loss has to be scaled: see `make_scaler`."""

    keeps_float32: tuple[str, ...]
    """What stays float32 all the same; empty where everything is float32."""

    reason: str
    """Why, in one sentence."""

    def __str__(self) -> str:
        scaler = " with a loss scaler" if self.uses_scaler else ""
        kept = f"; in float32 stay {', '.join(self.keeps_float32)}" if self.keeps_float32 else ""
        return f"{str(self.dtype).removeprefix('torch.')}{scaler}: {self.reason}{kept}"


def precision(device: str | torch.device = "cuda", *, prefer: str | None = None) -> PrecisionAdvice:
    """Advise on the dtype to train in on a device.

    bfloat16 where the hardware computes in it, since it has the range of float32 and needs no loss scaler; otherwise
    float16 with a loss scaler; float32 on request, and where PyTorch has no autocast for the device.

    Args:
        device: the device that trains.
        prefer: `"float32"` for float32 whatever the device; None for the fastest that is safe.

    Raises:
        InputError: if there is no such device here, or the preference is not known.
    """
    if prefer not in (None, "float32"):
        raise InputError(f"precision: prefer is {prefer!r}; it has to be 'float32' or None")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"precision: device is {device!r}; it has to be a device such as 'cuda' or 'cpu'") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"precision: device is {str(device)!r}, but PyTorch sees no GPU; use 'cpu'")
    if prefer == "float32":
        return PrecisionAdvice(torch.float32, False, (), "it was asked for")
    if not torch.amp.is_autocast_available(place.type):
        return PrecisionAdvice(torch.float32, False, (), f"PyTorch has no autocast for {place.type}")
    return choose_dtype(place.type, place.type != "cuda" or _has_bfloat16(place))


def choose_dtype(device_type: str, has_bfloat16: bool) -> PrecisionAdvice:
    """The advice for a type of device that has autocast.

    Args:
        device_type: such as `"cuda"`.
        has_bfloat16: True if a GPU computes in bfloat16 itself, without emulating it.
    """
    if device_type == "mps":
        return PrecisionAdvice(torch.float16, True, KEPT, "it is the dtype that all Apple GPUs compute in")
    if not has_bfloat16:
        reason = "this GPU has no bfloat16 of its own, and emulating it is slow"
        return PrecisionAdvice(torch.float16, True, KEPT, reason)
    reason = "it has the range of float32, so that no gradient overflows or underflows"
    if device_type == "cpu":
        reason += "; it is faster only on a CPU with bfloat16 instructions"
    return PrecisionAdvice(torch.bfloat16, False, KEPT, reason)


def _has_bfloat16(device: torch.device) -> bool:
    """True if the GPU computes in bfloat16 itself: NVIDIA since compute capability 8.0, and AMD."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
