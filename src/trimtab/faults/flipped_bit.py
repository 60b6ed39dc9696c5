"""One bit flipped in one weight."""

from __future__ import annotations

import math

import torch

from trimtab.faults import Scene, fault
from trimtab.faults.huge_weight import draw_weight

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes to the integers of that width."""


@fault("flipped-bit", "end", strength=1, signs=("weight-jump", "weight_norm is not finite"))
def flip_bit(scene: Scene) -> None:
    """One bit of the exponent of one weight, drawn from all weights of the model alike, is flipped after the step.

    As it happens:
        Memory without error correction, a faulty chip, a cosmic ray.
    Strength:
        Which bit of the exponent, counted from the highest; 1 by default, which makes a usual float32 weight
        2^128 times as large. Lower bits change it by less, and mostly make it smaller.

    Raises:
        InputError: if the exponent has no such bit.
    """
    weights, position = draw_weight(scene)
    num_bits = 8 * weights.dtype.itemsize
    num_exponent = num_bits - 1 + round(math.log2(torch.finfo(weights.dtype).eps))
    if not 1 <= scene.strength <= num_exponent:
        found = f"found no bit {scene.strength!r} in the exponent of {weights.dtype} weights"
        raise scene.refuse(found, f"its strength has to be from 1 to {num_exponent}")
    bits = weights.view(INTEGERS[weights.dtype.itemsize])
    bits[position] = bits[position] ^ (1 << (num_bits - 1 - int(scene.strength)))
