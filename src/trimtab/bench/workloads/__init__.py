"""Workloads: small models on real data, which are trained with faults and without; one file each, an open set.

The data come with packages, and nothing is downloaded. Batches are drawn from private generators keyed by seed and
step: every contestant sees the same data, whatever it draws or leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor, nn

from trimtab.registry import Registry

if TYPE_CHECKING:
    from trimtab.bench.training import Training

Kind: TypeAlias = Literal["tuned", "held-out", "hard"]
"""What it is used for: defaults may be set by what is seen on it; they may not; or it is healthy and looks sick."""

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""The dtype of autocast; float16 with a loss scaler; float32 for no autocast."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A model, its data and how it is trained; all that is random depends on a seed alone."""

    build_model: Callable[[int], nn.Module]
    """Seed to model; the global random numbers are left as they are."""

    draw_batch: Callable[[int, int], Any]
    """Seed and number to batch, numbered by steps, or by micro-batches where a step has several."""

    compute_loss: Callable[[nn.Module, Any], Tensor]
    """Model and batch to mean loss; 0-d."""

    cut_held_out: Callable[..., Any]
    """The validation set, or the given number of samples that it begins with."""

    rates: Mapping[str, float]
    """Optimizer to its learning rate; it is trained with the first, unless another is asked for."""

    kind: Kind = "tuned"
    """What it is used for."""

    num_steps: int = 250
    """The optimizer steps of a run."""

    num_micro: int = 1
    """The micro-batches of a step."""

    schedule: str = "one-cycle"
    """How the learning rate runs: a name of `trimtab.bench.training.SCHEDULES`."""

    precision: Precision = "float32"
    """The dtype it is trained in, unless another is asked for."""

    self_updating: Sequence[str] = ()
    """Modules and parameters that change outside the optimizer."""

    before_step: Callable[[Training, int], None] | None = None
    """Called with the training before each step, such as to freeze a layer."""

    after_step: Callable[[Training, int, float], None] | None = None
    """Called with the training after each step, and with its loss, such as to move learning rates."""

    moves_rates: bool = False
    """True if `after_step` moves learning rates on purpose, which a supervisor is told."""


workloads: Registry[Workload] = Registry("workload")

workloads.load(__name__, __path__)
