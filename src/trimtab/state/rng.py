"""The state of every random number generator a training run draws from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def capture_rng() -> dict[str, Any]:
    """The states of Python's, NumPy's and PyTorch's global generators, on the CPU and on every CUDA device in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  the global generator is what user code draws from
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Set every global generator back to a state from `capture_rng`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    for index, kept in enumerate(state["cuda"][: torch.cuda.device_count()]):  # elsewhere there may be fewer
        torch.cuda.set_rng_state(kept, index)
