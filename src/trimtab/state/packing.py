"""States with arrays as states with tensors, which `torch.load` reads with `weights_only=True`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_tensors(state: Any) -> Any:
    """A state with its arrays as tensors, sharing their memory."""
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state)
    return {key: to_tensors(value) for key, value in state.items()} if isinstance(state, dict) else state


def to_arrays(state: Any) -> Any:
    """A state with its tensors as arrays, sharing their memory."""
    if isinstance(state, Tensor):
        return state.numpy()
    return {key: to_arrays(value) for key, value in state.items()} if isinstance(state, Mapping) else state
