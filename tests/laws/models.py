"""Small networks, each with something that a supervisor could get wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """A network with what makes bit-equality hard: BatchNorm, dropout, a constant buffer, a reassigned one."""

    mask: Tensor
    num_seen: Tensor

    def __init__(self, *, has_vectors: bool = True) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 16, bias=has_vectors)
        self.norm = nn.BatchNorm1d(16, affine=has_vectors)
        self.outer = nn.Linear(16, 1, bias=has_vectors)
        self.register_buffer("mask", torch.ones(16))
        self.register_buffer("num_seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.num_seen = self.num_seen + 1
        hidden = torch.relu(self.norm(self.inner(x))) * self.mask
        outputs: Tensor = self.outer(functional.dropout(hidden, 0.1, self.training))
        return outputs.squeeze(-1)


class Frozen(Net):
    """A network whose first layer is not trained, though its optimizer holds it, with a BatchNorm in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner.requires_grad_(False)
        self.norm.eval()


class Unused(Net):
    """A network with a layer that never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)


class Double(Net):
    """A network in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class Brain(Net):
    """A network whose weights are bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.bfloat16())


class Recording(Net):
    """A network whose buffers change in every way a buffer can."""

    unseen: Tensor
    newest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unseen", torch.zeros(()), persistent=False)
        self.register_buffer("newest", torch.zeros(2, 6))

    def forward(self, x: Tensor) -> Tensor:
        self.unseen.data.add_(x.detach().mean())  # a write that leaves no mark
        self.newest[0] = x.detach().mean(0)
        return super().forward(x)


class Growing(Net):
    """A network with a table that is made anew, and larger, as a cache of positions is."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        self.table = torch.arange(len(self.table) + 1.0)
        return super().forward(x)


class Late(Net):
    """A network with a buffer that begins to change when the first steps are long over."""

    num_late: Tensor

    def __init__(self, first_step: int) -> None:
        super().__init__()
        self.register_buffer("num_late", torch.zeros(()))
        self.first_step = first_step

    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x)
        if self.num_seen >= self.first_step:
            self.num_late = self.num_late + 1
        return outputs


class Waking(Net):
    """A network with a layer that is not used in the first steps."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x)
        return outputs + self.late(x).squeeze(-1) if self.num_seen > 17 else outputs


class Deep(Net):
    """A network of many layers, with buffers that change and others that do not."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)) for _ in range(depth)))
        for index in range(depth):
            self.register_buffer(f"constant_{index}", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.layers(x))


class Words(nn.Module):
    """An embedding with sparse gradients; a row of numbers is read as words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 4, sparse=True)
        self.outer = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.outer(self.words((10 * x).long() % 50).mean(1))
        return outputs.squeeze(-1)
