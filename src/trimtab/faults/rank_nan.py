"""A gradient that is not a number on one rank alone."""

from __future__ import annotations

import math

from torch import distributed

from trimtab.faults import Scene, fault


@fault("rank-nan", "gradients", strength=0, signs=("nonfinite",), needs="ranks")
def break_rank(scene: Scene) -> None:
    """The gradient of one parameter tensor, drawn at random, becomes NaN on one rank, after backward has reduced it.

    Without `torch.distributed` there is one rank. All ranks draw the same parameter, and each has a hit.

    As it happens:
        One faulty accelerator among many, a sum over ranks that is corrupted on its way, a broken sample where ranks do
        not reduce their gradients.
    Strength:
        The rank; 0 by default. Numbers beyond the last rank begin again at 0.

    Raises:
        InputError: if no parameter has a gradient.
    """
    named = scene.list_gradients()
    scene.target, gradient = named[scene.draw(len(named))]
    is_one_of_many = distributed.is_available() and distributed.is_initialized()
    rank, num_ranks = (distributed.get_rank(), distributed.get_world_size()) if is_one_of_many else (0, 1)
    if rank == int(scene.strength) % num_ranks:
        gradient.fill_(math.nan)
