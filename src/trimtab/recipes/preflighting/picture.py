"""A batch in characters: what it holds, and how it looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimtab.probes.inspection import list_tensors

SHADES = " .:-=+*#%@"
"""From dark to light."""

BARS = " ▁▂▃▄▅▆▇█"
"""From none to all."""

NUM_IMAGES, WIDTH, HEIGHT = 4, 18, 9
"""Images side by side, and the characters of each; a character is twice as high as wide."""

NUM_BINS = 40
"""Bars of a histogram."""

MOST_CHANNELS = 4
"""An image has as many channels at most."""

NUM_IDS = 16
"""Whole numbers that are shown of a sample."""


def draw_batch(batch: Any) -> str:
    """Each tensor of a batch: its shape, its range, and images, a row of ids, or how its numbers are distributed."""
    parts = [draw_tensor(name, each) for name, each in list_tensors(batch, "batch")]
    return "\n".join(parts) if parts else f"batch: a {type(batch).__name__} without tensors"


def draw_tensor(name: str, tensor: Tensor) -> str:
    """One tensor in a few lines."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    head = f"{name} {dtype}{list(tensor.shape)}"
    if not tensor.numel() or tensor.is_complex():
        return head
    values = tensor.detach().cpu().double()
    finite = values[torch.isfinite(values)]
    if not finite.numel():
        return f"{head}: no number is finite"
    head += f": {float(finite.min()):.4g} to {float(finite.max()):.4g}, mean {float(finite.mean()):.4g}"
    if is_image(values):
        return f"{head}\n{draw_images(values)}"
    if not tensor.is_floating_point() and values.ndim > 1:
        shown = " ".join(f"{int(each)}" for each in values.reshape(len(values), -1)[0, :NUM_IDS])
        return f"{head}\n  the first: {shown}"
    return f"{head}\n  {draw_histogram(finite.numpy())}"


def is_image(values: Tensor) -> bool:
    """True for samples of height and width, with a few channels or none."""
    has_channels = values.ndim == 4 and values.shape[1] <= MOST_CHANNELS
    is_large = values.ndim >= 3 and min(values.shape[-2:]) >= 8
    return is_large and (has_channels or values.ndim == 3)


def draw_images(values: Tensor) -> str:
    """The first images side by side, light where they are light."""
    images = values.nan_to_num()[:NUM_IMAGES]
    gray = images.mean(1) if images.ndim == 4 else images
    small = torch.nn.functional.interpolate(gray[:, None], (HEIGHT, WIDTH), mode="area")[:, 0].numpy()
    return "\n".join("  " + "  ".join(_shade(image[row], image) for image in small) for row in range(HEIGHT))


def _shade(row: NDArray[np.float64], image: NDArray[np.float64]) -> str:
    lowest, span = image.min(), max(float(np.ptp(image)), 1e-12)
    places = ((row - lowest) / span * (len(SHADES) - 1)).round().astype(int)
    return "".join(SHADES[place] for place in places)


def draw_histogram(values: NDArray[np.float64]) -> str:
    """How numbers are distributed from the lowest to the highest."""
    counts, _ = np.histogram(values, NUM_BINS)
    places = np.ceil(counts / max(1, counts.max()) * (len(BARS) - 1)).astype(int)
    return "".join(BARS[place] for place in places)
