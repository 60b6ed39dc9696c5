"""Loss scalers for float16 by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch.amp.grad_scaler import GradScaler

from trimtab.errors import InputError


@dataclass(frozen=True, slots=True)
class LossScale:
    """How a loss scale begins, grows and falls."""

    init_scale: float
    """The first scale: what the loss is multiplied by."""

    growth_factor: float
    """What the scale is multiplied by after `growth_interval` steps without an overflow."""

    growth_interval: int
    """Steps without an overflow after which the scale grows."""

    backoff_factor: float
    """What the scaler itself multiplies the scale by after an overflow."""

    cut: float
    """What an infinite gradient multiplies the scale by in all, the scaler's own back-off included. It is not the
    scaler that cuts but the policy: set its `rescale_factor` to this, and let a ladder of nonfinite say `rescale`.
    Equal to `backoff_factor` where nothing is cut beyond it."""

    @property
    def keeps_bits(self) -> bool:
        """True if every scale is a power of two, so that gradients come out of the scaling bit for bit as they were.

        A product with a power of two is exact in floating point, as long as nothing leaves the range of the dtype.
        """
        return all(_is_power_of_two(each) for each in (self.init_scale, self.growth_factor, self.backoff_factor))


PRESETS: Mapping[str, LossScale] = MappingProxyType(
    {
        "powers-of-two": LossScale(2.0**10, 2.0, 200, 0.5, cut=0.125),
        "published": LossScale(2.0**10, 1.5, 200, 0.5, cut=0.1),
        "pytorch": LossScale(2.0**16, 2.0, 2000, 0.5, cut=0.5),
    }
)
"""Loss scales by name.

`powers-of-two`, the default, is Trimtab's own: careful as `published`, in factors that keep gradients bit-equal. It
begins low, so that few of the first steps are lost, and grows soon. `published` is a conservative one in use
elsewhere, its cut to a tenth with a floor of 1; its scales are powers of two only until the first growth. `pytorch`
holds PyTorch's own defaults: it begins high and loses the first steps until the scale fits.
"""


def make_scaler(preset: str = "powers-of-two", device: str = "cuda", *, enabled: bool = True) -> GradScaler:
    """Make PyTorch's loss scaler with the numbers of a preset.

    Args:
        preset: a name from `PRESETS`.
        device: the type of device that trains, such as `"cuda"`. On a machine without it PyTorch warns, and the
            scaler is disabled.
        enabled: False for a scaler that does nothing, as for bfloat16 and float32.

    Raises:
        InputError: if there is no such preset.
    """
    if preset not in PRESETS:
        raise InputError(f"make_scaler: preset is {preset!r}; it has to be one of {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    return torch.amp.GradScaler(
        device,
        init_scale=chosen.init_scale,
        growth_factor=chosen.growth_factor,
        backoff_factor=chosen.backoff_factor,
        growth_interval=chosen.growth_interval,
        enabled=enabled,
    )


def _is_power_of_two(number: float) -> bool:
    return number.hex().startswith("0x1.0000000000000p")
