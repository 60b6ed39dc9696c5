"""What processes that train together share: which of them is first, and tensors of which each keeps a part.

A sharded tensor is a `DTensor`, as `torch.distributed.fsdp.fully_shard` makes them. Its part on this rank is an
ordinary tensor: whatever is done number by number is done to the part.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

PLAIN = (Tensor, nn.Parameter)
"""The types of nearly all tensors; none of them is sharded."""


def is_distributed() -> bool:
    """True if this process is one of several that train together."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def is_first_rank() -> bool:
    """True on the one process of a distributed run that writes and logs, and without one."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0)


def unwrap(model: nn.Module) -> nn.Module:
    """The model that `DistributedDataParallel` wraps, whose names are those it has on one rank; any other as it is."""
    inner: nn.Module = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return inner


def is_sharded(tensor: Any) -> TypeGuard[DTensor]:
    """True for a `DTensor`, which is told by what it has: its module takes long to import and is seldom needed."""
    return type(tensor) not in PLAIN and isinstance(tensor, Tensor) and hasattr(tensor, "placements")


def take_part(tensor: Any) -> Any:
    """The part of a sharded tensor that this rank keeps, sharing its memory; anything else as it is."""
    if not is_sharded(tensor):  # nearly always, and for every tensor of every step
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def take_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's part of each tensor."""
    return [take_part(each) for each in tensors]


def count_parts(tensor: Tensor) -> int:
    """Into how many parts a tensor is cut, each of them kept by equally many ranks; 1 where it is not."""
    if not is_sharded(tensor):
        return 1
    mesh, num = tensor.device_mesh, 1
    for index, placement in enumerate(tensor.placements):
        num *= 1 if placement.is_replicate() or placement.is_partial() else mesh.size(index)
    return num


def join_part(part: Tensor, like: Any) -> Tensor:
    """A sharded tensor of a part, cut as another one is; nothing is sent between ranks.

    Args:
        part: this rank's part, of the shape that its part of the other one has.
        like: a sharded tensor, or what it was cut by, its `_spec`.
    """
    from torch.distributed.tensor import DTensor

    return DTensor(part, getattr(like, "_spec", like), requires_grad=False)


def cut_like(whole: Tensor, like: DTensor) -> Tensor:
    """A whole tensor, the same on every rank, cut as another one is; nothing is sent between ranks."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(like.shape, like.device_mesh, like.placements)
    place = tuple(slice(begin, begin + length) for begin, length in zip(offset, shape, strict=True))
    return join_part(whole[place].to(take_part(like).device, copy=True).contiguous(), like)
